"""What became of a batch whose ids the database makes and whose reply never came: its rows are found by their trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from provision.fixtures import fakes, ids
from provision.fixtures.ids import Range
from provision.fixtures.manifest import Batch, OwnedTable
from provision.gateway import Filter, Gateway, Row, among, chunks


def find(gateway: Gateway, run: str, owned: OwnedTable, batch: Batch, parents: Sequence[Range]) -> list[Row]:
    """The rows of a batch, none if it was not applied. Rows without a text of their own are those that hang on a parent
    of ours and are newer than the batch, when they are exactly as many: a batch is written as a whole or not at all."""
    trace = owned.trace
    if trace is None:
        return []
    columns = [owned.key, trace.column]
    if trace.template is not None:
        texts = [fakes.trace(trace.template, run, n) for n in range(batch.start, batch.stop)]
        where = [(Filter(trace.column, "in", some),) for some in chunks(texts)]
    else:
        newer = () if batch.floor is None else (Filter(owned.key, "gt", batch.floor),)
        where = [(*some, *newer) for some in among(trace.column, parents)]
    found = [row for part in where for row in gateway.select(owned.table, columns, part, key=owned.key)]
    if trace.template is None and len(found) != batch.stop - batch.start:
        return []
    return found


def numbers(rows: Sequence[Row], key: str) -> list[int]:
    """The keys of rows."""
    return [int(row[key]) for row in rows]


def settle(gateway: Gateway, run: str, owned: OwnedTable, known: Mapping[str, Sequence[Range]]) -> tuple[Range, ...]:
    """The ids of a table of a run, those of batches without a reply included; `known` are those of its parents."""
    parents = known.get(owned.trace.parent, ()) if owned.trace and owned.trace.parent else ()
    more = [row for batch in owned.unsettled for row in find(gateway, run, owned, batch, parents)]
    return tuple(_all(owned.ranges, numbers(more, owned.key))) if more else owned.ranges


def _all(known: Sequence[Range], more: Sequence[int]) -> Sequence[Range]:
    return ids.ranges([*_each(known), *more])


def _each(known: Sequence[Range]) -> Iterator[int]:
    for part in known:
        if isinstance(part, ids.NumberRange):
            yield from range(part.first, part.high + 1)
