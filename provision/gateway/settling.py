"""What became of a batch whose ids the database makes and whose reply never came: its rows are found by their trace.

A batch is written as a whole or not at all, and its rows are newer than its floor. They are known by the text that the
run gave them, as it was sent or changed in case or surroundings, or by a parent of ours on which exactly as many new
rows hang. Where a trigger put another text in place of ours, nothing tells a new row from other people's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from provision.fixtures import fakes, ids
from provision.fixtures.ids import Range
from provision.fixtures.manifest import Batch, OwnedTable
from provision.gateway import Filter, Gateway, Row, among, chunks

Above = Mapping[str, Sequence[Range]]
"""The columns of a table that hold keys of rows of ours, each with those keys."""
SHOWN = 10
"""Keys of rows in a line."""


class Settled(NamedTuple):
    """The ids of a table of a run, those of batches without a reply included, and the rows that may be such a batch's
    and have nothing of it: their keys, and what is to be said of them."""

    ids: tuple[Range, ...]
    unclear: tuple[int, ...]
    why: str


def settle(gateway: Gateway, run: str, owned: OwnedTable, above: Above) -> Settled:
    """What a run has in a table whose keys the database makes."""
    found: list[int] = []
    unclear: dict[int, str] = {}
    keeps = bool(owned.told) and not owned.stored
    told = {start for start, _ in owned.told}
    for batch in owned.unsettled:
        rows = find(gateway, run, owned, batch, above)
        found += numbers(rows, owned.key)
        some = [] if rows or keeps or batch.start in told else unknowable(gateway, owned, batch)
        unclear |= dict.fromkeys(some, lost(batch, some))
    known = tuple(_all(owned.ranges, found)) if found else owned.ranges
    doubtful = [key for key in unclear if ids.place(known, key) is None]
    return Settled(known, tuple(doubtful), unclear[doubtful[0]] if doubtful else "")


def find(gateway: Gateway, run: str, owned: OwnedTable, batch: Batch, above: Above) -> list[Row]:
    """The rows of a batch, none if it was not applied or cannot be told from other people's."""
    trace = owned.trace
    if trace is None:
        return []
    if trace.template is not None:
        texts = [fakes.trace(trace.template, run, n) for n in range(batch.start, batch.stop)]
        exact = [(Filter(trace.column, "in", some),) for some in chunks(texts)]
        if found := [row for some in exact for row in _rows(gateway, owned, some)]:
            return found
        marked = Filter(trace.column, "match", fakes.loose(trace.template, run))
        if found := list(_new(gateway, owned, batch, [(marked,)])):
            return found
    columns = [trace.column] if trace.template is None else above
    for column in columns:
        hanging = list(_new(gateway, owned, batch, among(column, above.get(column, ()))))
        if len(hanging) == batch.stop - batch.start:
            return hanging
    return []


def unknowable(gateway: Gateway, owned: OwnedTable, batch: Batch) -> list[int]:
    """The keys of new rows that may be a batch's although nothing says so, where the table may not keep the texts that
    it is sent. None is certain when the batch is not found: it was not applied."""
    if owned.trace is None or owned.trace.template is None:
        return []
    text, marked = owned.trace.column, re.compile(fakes.loose(owned.trace.template, None))
    new = (row for row in _new(gateway, owned, batch, [()]) if not marked.search(row[text] or ""))
    some = numbers(list(islice(new, batch.stop - batch.start)), owned.key)
    return some if len(some) == batch.stop - batch.start else []


def lost(batch: Batch, some: Sequence[int]) -> str:
    """What is to be said of a batch whose rows may be `some`."""
    rows, shown = batch.stop - batch.start, ", ".join(map(str, some[:SHOWN])) + (", …" if len(some) > SHOWN else "")
    return f"the reply to {rows} new rows was lost, and {len(some)} rows came since that have no mark of a run: {shown}"


def _new(gateway: Gateway, owned: OwnedTable, batch: Batch, where: Iterable[Sequence[Filter]]) -> Iterator[Row]:
    """The rows that are newer than a batch and not recorded as another's."""
    newer = () if batch.floor is None else (Filter(owned.key, "gt", batch.floor),)
    for some in where:
        for row in _rows(gateway, owned, (*some, *newer)):
            if ids.place(owned.ranges, row[owned.key]) is None:
                yield row


def _rows(gateway: Gateway, owned: OwnedTable, where: Sequence[Filter]) -> Iterator[Row]:
    assert owned.trace is not None  # noqa: S101 - the database makes the keys
    return gateway.select(owned.table, [owned.key, owned.trace.column], where, key=owned.key)


def numbers(rows: Sequence[Row], key: str) -> list[int]:
    """The keys of rows."""
    return [int(row[key]) for row in rows]


def _all(known: Sequence[Range], more: Sequence[int]) -> Sequence[Range]:
    return ids.ranges([*_each(known), *more])


def _each(known: Sequence[Range]) -> Iterator[int]:
    for part in known:
        if isinstance(part, ids.NumberRange):
            yield from range(part.first, part.high + 1)
