"""Fill a database by a plan: batches that adapt, each safe to repeat, each table proven by a count.

Where we choose the ids, several batches are in flight and a batch that is sent again changes nothing. Where the
database makes them, batches go one by one, each announced before and its ids recorded after.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from math import gcd
from typing import Any

from provision.errors import ApiError, TargetError
from provision.fixtures import fakes
from provision.fixtures import manifest as journal_lines
from provision.fixtures.ids import IdRange, NumberRange, Range, Recorded, ranges
from provision.fixtures.manifest import Batch, Manifest, OwnedTable
from provision.fixtures.plan import Plan
from provision.fixtures.tables import TablePlan
from provision.gateway import FEWEST, PARTED, BatchTooLarge, Filter, Gateway, Row, ownership, settling, within
from provision.gateway.pace import Pace

Done = Callable[[str, int, int], None]
"""Told after each batch: table, rows written, rows in all."""
Journal = Callable[[Mapping[str, Any]], None]
Span = tuple[int, int]
ADDED = 500
"""Rows in a batch whose ids the database makes."""
WITNESSES = 8
"""Rows of a batch whose texts are read again, to know them later if a trigger changed them: by a stride that meets
every turn of a recipe's cycles."""
UNIQUE = "23505"
"""What a unique constraint says."""


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
            _add(gateway, plan, table, before, journal, done)
            continue
        missing = [(0, table.rows)] if before is None else _missing(gateway, table, 0, table.rows)
        with _responsive():
            window = _insert(gateway, plan, table, missing, done, window)
        _prove(table, gateway.count(table.table, within(table.key, _ids(table, 0, table.rows))))


def _ids(table: TablePlan, start: int, stop: int) -> IdRange:
    assert isinstance(table.ids, IdRange)  # noqa: S101 - the other kind has a trace
    return table.ids.part(start, stop - start)


def _prove(table: TablePlan, found: int) -> None:
    if found != table.rows:
        raise TargetError(
            f"{table.table}: {table.rows} rows were written, but {found} are there.",
            hint="A trigger or a policy may drop rows; look at the table's triggers.",
        )


# -- ids that we choose


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


# -- ids that the database makes


def _add(
    gateway: Gateway, plan: Plan, table: TablePlan, before: OwnedTable | None, journal: Journal, done: Done
) -> None:
    """Write the rows whose ids are not recorded yet, one batch after the other."""
    adding = _Adding(gateway, plan, table, journal)
    if before is not None:
        adding.recall(before)
    size = ADDED
    for first, stop in _unknown(adding.ids):
        start = first
        while start < stop:
            end = _end(start, stop, size)
            try:
                adding.add((start, end))
            except BatchTooLarge:
                if end - start == 1:
                    raise
                size = _parted(end - start)
                continue
            start = end
            done(table.table, start, table.rows)
    adding.prove()


def _end(start: int, stop: int, size: int) -> int:
    """Where a batch ends: it takes the last rows with it when they are too few to be told by their number."""
    end = min(stop, start + size)
    return stop if stop - end < FEWEST <= size else end


def _parted(rows: int) -> int:
    """The rows in a batch after one that was too large, though it was tried again if it was small."""
    half = (rows + 1) // 2
    return half if half >= FEWEST and rows >= PARTED else min(half, FEWEST - 1)


def _above(plan: Plan, table: TablePlan) -> settling.Above:
    """The columns that hold keys of rows of ours, with those keys."""
    above: dict[str, Sequence[Range]] = {}
    for column, parent in table.parents.items():
        ids = plan.table(parent).ids
        above[column] = [ids] if isinstance(ids, IdRange) else _in_order(ids)
    return above


def _in_order(ids: Recorded) -> tuple[NumberRange, ...]:
    return tuple(sorted(ids.ranges(), key=lambda part: part.first))


def _recorded(table: TablePlan) -> Recorded:
    assert isinstance(table.ids, Recorded)  # noqa: S101 - a table with a trace
    return table.ids


def _unknown(ids: Recorded) -> Iterator[Span]:
    """The spans of rows whose ids are not known."""
    start = None
    for index in range(ids.count + 1):
        missing = index < ids.count and not ids.known(index)
        if missing and start is None:
            start = index
        elif not missing and start is not None:
            yield start, index
            start = None


class _Adding:
    """The batches of one table whose ids the database makes, each announced before and its ids recorded after."""

    def __init__(self, gateway: Gateway, plan: Plan, table: TablePlan, journal: Journal) -> None:
        assert table.trace is not None  # noqa: S101 - the database makes the keys
        self.gateway, self.plan, self.table, self.trace, self.journal = gateway, plan, table, table.trace, journal
        self.ids = _recorded(table)
        self.above = _above(plan, table)
        self.floor: int | None = gateway.last(table.table, table.key, ())
        self.ascending = True
        """Whether a new key is above all others: not where keys are random, or sessions draw them in advance."""
        self.told: list[tuple[int, tuple[NumberRange, ...]]] = []
        self.stored: dict[int, str] = {}
        self.unanswered: list[Batch] = []
        """The attempts whose replies did not come."""

    def recall(self, before: OwnedTable) -> None:
        """Take over the ids that an earlier seed recorded, and those of its batches whose replies never came."""
        self.told, self.stored, self.unanswered = list(before.told), dict(before.stored), list(before.unsettled)
        for start, parts in before.told:
            self.ids.record(start, [number for part in parts for number in range(part.first, part.high + 1)])
        for start in dict.fromkeys(batch.start for batch in before.unsettled):
            if not self.ids.known(start) and (found := self._find(start)):
                self._record(start, found)

    def add(self, span: Span) -> None:
        """Write a batch."""
        batch = Batch(*span, self.floor)
        self._announce(batch)
        found = self._written(list(self.plan.rows(self.table, *span)), batch)
        self._record(span[0], found)
        self.ascending &= found == sorted(found) and (self.floor is None or found[0] > self.floor)
        self.floor = found[-1] if self.ascending else None

    def prove(self) -> None:
        """Raise TargetError when an attempt without a reply was applied beside the one that was answered."""
        if self.unanswered:
            left = settling.traces(self.gateway, self.plan.run, self._owned(), self.unanswered, self.above)
            _prove(self.table, self.table.rows + left.beside(batch.stop - batch.start for batch in self.unanswered))

    def _announce(self, batch: Batch) -> None:
        self.journal(journal_lines.batch(self.table.table, *batch))

    def _record(self, start: int, found: Sequence[int]) -> None:
        """Note the ids of a batch, and how the database keeps its texts."""
        stored = self._stored(start, found) if self.trace.template and (self.stored or not self.told) else {}
        self.journal(journal_lines.made(self.table.table, start, found, stored))
        self.ids.record(start, found)
        self.told.append((start, ranges(found)))
        self.stored |= stored

    def _written(self, rows: Sequence[Row], batch: Batch) -> list[int]:
        """The ids of the rows, in the order in which they were sent."""
        table, trace = self.table, self.trace
        try:
            written = self.gateway.add(
                table.table, rows, columns=[table.key, trace.column], look=lambda: self._look(batch)
            )
        except ApiError as error:  # an attempt without a reply was still waiting when it was looked for
            sent_again = any(one.start == batch.start for one in self.unanswered)
            if error.sqlstate != UNIQUE or not sent_again or not (found := self._find(batch.start)):
                raise
            return found
        if trace.template:
            place = {row[trace.column]: index for index, row in enumerate(rows)}
            written = sorted(written, key=lambda row: place.get(row.get(trace.column), -1))
        if len(written) != len(rows):
            raise TargetError(
                f"{table.table}: {len(rows)} rows were written, but {len(written)} are there.",
                hint="A trigger or a policy may drop or double rows; look at the table's triggers.",
            )
        return [int(row[table.key]) for row in written]

    def _look(self, batch: Batch) -> Sequence[Row]:
        """What an attempt without a reply wrote; the next is announced when that is nothing. Raises TargetError where
        it cannot be known, lest the rows be written twice."""
        self.unanswered.append(batch)
        found = self._find(batch.start)
        if not found:
            self._announce(batch)
        return [{self.table.key: number} for number in found]

    def _find(self, start: int) -> list[int]:
        """The ids of the rows that an attempt without a reply wrote of the batch that starts there."""
        attempts = [batch for batch in self.unanswered if batch.start == start]
        return settling.find(self.gateway, self.plan.run, self._owned(), attempts, self.above)

    def _owned(self) -> OwnedTable:
        """What is known of the table by now."""
        table, known = self.table, _in_order(self.ids)
        return OwnedTable(table.table, table.key, table.rows, known, self.trace, tuple(self.told), (), self.stored)

    def _stored(self, start: int, found: Sequence[int]) -> dict[int, str]:
        """Digests of the texts of some rows that the database keeps otherwise than they were sent, by id: read again,
        for a reply does not show what a trigger did afterwards."""
        text, key, run = self.trace.column, self.table.key, self.plan.run
        every = next(n for n in range(max(1, len(found) // WITNESSES), 0, -1) if gcd(n, 210) == 1)
        sent = {
            found[at]: fakes.trace(self.trace.template or "", run, start + at) for at in range(0, len(found), every)
        }
        kept = self.gateway.select(self.table.table, [text], [Filter(key, "in", list(sent))], key=key)
        read = {int(row[key]): row[text] for row in kept}
        return {n: journal_lines.digest(run, now) for n, now in read.items() if now is not None and now != sent[n]}
