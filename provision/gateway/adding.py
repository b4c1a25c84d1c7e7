"""Write the rows of a table whose ids the database makes, in batches that are announced before and recorded after.

They go one by one, so that a crash or a lost reply between the two can be settled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import gcd
from typing import Any

from provision.errors import ApiError, TargetError
from provision.fixtures import fakes
from provision.fixtures import manifest as journal_lines
from provision.fixtures.ids import IdRange, NumberRange, Range, Recorded, ranges
from provision.fixtures.manifest import Batch, OwnedTable
from provision.fixtures.plan import Plan
from provision.fixtures.tables import TablePlan
from provision.gateway import FEWEST, PARTED, BatchTooLarge, Filter, Gateway, Row, settling

Done = Callable[[str, int, int], None]
"""Told after each batch: table, rows written, rows in all."""
Journal = Callable[[Mapping[str, Any]], None]
Span = tuple[int, int]
ADDED = 500
"""Rows in a batch."""
WITNESSES = 8
"""Rows of a batch whose texts are read again, to know them later if a trigger changed them: by a stride that meets
every turn of a recipe's cycles."""
UNIQUE = "23505"
"""What a unique constraint says."""


def add(
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


def prove(table: TablePlan, found: int) -> None:
    """Raise TargetError unless as many rows of a table are there as were planned."""
    if found != table.rows:
        raise TargetError(
            f"{table.table}: {table.rows} rows were written, but {found} are there.",
            hint="A trigger or a policy may drop rows; look at the table's triggers.",
        )


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
            prove(self.table, self.table.rows + left.beside(batch.stop - batch.start for batch in self.unanswered))

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
