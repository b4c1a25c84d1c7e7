"""Fill a database by a plan: batches that adapt, each safe to repeat, each table proven by a count.

Where we choose the ids, several batches are in flight and a batch that is sent again changes nothing; where the
database makes them, see `adding`.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

from provision.errors import ApiError
from provision.fixtures.ids import IdRange
from provision.fixtures.manifest import Manifest
from provision.fixtures.plan import Plan
from provision.fixtures.tables import TablePlan
from provision.gateway import BatchTooLarge, Gateway, Row, ownership, within
from provision.gateway.adding import Done, Journal, Span, add, prove
from provision.gateway.pace import Pace


def fill(gateway: Gateway, plan: Plan, journal: Journal, done: Done, resumed: Manifest | None = None) -> None:
    """Write every row of the plan that is not there yet, parents first; `journal` forces a line to the disk, before
    the request that it announces. `resumed` is the manifest of a run that was seeded in part."""
    window = 1
    if resumed is not None:
        ownership.refuse(ownership.stand(gateway, gateway.schema(), resumed), resumed)
    for table in plan.tables:
        before = resumed.table(table.table) if resumed else None
        journal({"event": "insert", "table": table.table})
        if table.trace is not None:
            add(gateway, plan, table, before, journal, done)
            continue
        missing = [(0, table.rows)] if before is None else _missing(gateway, table, 0, table.rows)
        with _responsive():
            window = _insert(gateway, plan, table, missing, done, window)
        prove(table, gateway.count(table.table, within(table.key, _ids(table, 0, table.rows))))


def _ids(table: TablePlan, start: int, stop: int) -> IdRange:
    assert isinstance(table.ids, IdRange)  # noqa: S101 - the other kind has a trace
    return table.ids.part(start, stop - start)


def _missing(gateway: Gateway, table: TablePlan, start: int, stop: int) -> list[Span]:
    """The rows that are not there, found by counting halves."""
    found = gateway.count(table.table, within(table.key, _ids(table, start, stop)))
    if found == stop - start:
        return []
    if found == 0:
        return [(start, stop)]
    middle = (start + stop) // 2
    return _missing(gateway, table, start, middle) + _missing(gateway, table, middle, stop)


@contextmanager
def _responsive() -> Iterator[None]:
    """Threads that heard from the network need not wait long for the one that makes rows."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 10)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def _insert(gateway: Gateway, plan: Plan, table: TablePlan, missing: Sequence[Span], done: Done, window: int) -> int:
    """Write spans of rows, at first as many requests at once as the table before took (`window`); as many as this one
    took. A batch that takes too long is halved, and so are all that follow. The next is made while others fly."""
    work = _Work(plan, table, deque(missing), Pace(window=window))
    written = table.rows - work.left
    flying: dict[Future[tuple[float, bool]], tuple[Span, int]] = {}
    with ThreadPoolExecutor(work.pace.flights, thread_name_prefix="seed") as pool:
        while work.left or flying:
            while work.left and len(flying) < work.pace.window:
                span, rows = work.take()
                flying[pool.submit(_send, gateway, table, span[0], rows)] = span, len(flying)
            work.prepare()
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                (start, stop), beside = flying.pop(future)
                try:
                    seconds, calm = future.result()
                except BatchTooLarge:
                    if stop - start == 1:
                        raise
                    work.put_back((start, stop))
                    continue
                work.pace.took(stop - start, seconds, calm=calm, beside=beside)
                written += stop - start
                done(table.table, written, table.rows)
    return work.pace.window


class _Work:
    """The rows that are still to be sent: `left` of them in spans, the next batch made beforehand."""

    def __init__(self, plan: Plan, table: TablePlan, spans: deque[Span], pace: Pace) -> None:
        self.plan, self.table, self.spans, self.pace = plan, table, spans, pace
        self.left = sum(stop - start for start, stop in spans)
        self._next: tuple[Span, list[Row]] | None = None

    def prepare(self) -> None:
        """Make the next batch, if there is one and it is not made yet."""
        if self._next is None and self.spans:
            span = _take(self.spans, self.pace.next(self.left))
            self._next = span, list(self.plan.rows(self.table, *span))

    def take(self) -> tuple[Span, list[Row]]:
        """The next batch: its span and its rows."""
        self.prepare()
        assert self._next is not None  # noqa: S101 - some are left
        taken, self._next = self._next, None
        self.left -= len(taken[1])
        return taken

    def put_back(self, span: Span) -> None:
        """A batch was too large: smaller ones of the same rows follow, and of those that are made already."""
        self.pace.too_large(span[1] - span[0])
        self.left += span[1] - span[0]
        self.spans.extendleft([*([self._next[0]] if self._next else []), span])
        self._next = None


def _take(todo: deque[Span], size: int) -> Span:
    """The next at most `size` rows, taken off."""
    start, stop = todo.popleft()
    if stop - start > size:
        todo.appendleft((start + size, stop))
    return start, min(stop, start + size)


def _send(gateway: Gateway, table: TablePlan, start: int, rows: Sequence[Row]) -> tuple[float, bool]:
    """Write one batch; the seconds it took and whether it went at the first attempt."""
    began, retries = time.perf_counter(), gateway.retries
    try:
        gateway.insert(table.table, rows, key=table.key)
    except BatchTooLarge:
        raise
    except ApiError:
        if not _is_in(gateway, table, start, start + len(rows)):
            raise
    return time.perf_counter() - began, gateway.retries == retries


def _is_in(gateway: Gateway, table: TablePlan, start: int, stop: int) -> bool:
    """Whether a batch that was refused is there all the same: an earlier attempt, whose reply was lost, wrote it and
    a BEFORE INSERT trigger then refused the repetition."""
    return gateway.count(table.table, within(table.key, _ids(table, start, stop))) == stop - start
