"""What became of a batch whose ids the database makes and whose reply never came: its rows are found by their trace.

A batch is written as a whole or not at all, in one transaction, and its rows are newer than its floor. They are known
by the text that the run gave them, as it was sent or changed in case or surroundings. Where the table has no text, or a
trigger put another in its place, their number tells them: one transaction wrote as many rows that hang on rows of ours
as were sent. What is neither certainly ours nor certainly another's is unclear.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import chain
from operator import or_
from typing import NamedTuple

from provision.counted import counted
from provision.errors import ApiError, Refused, TargetError
from provision.fixtures import fakes, ids
from provision.fixtures.ids import Range
from provision.fixtures.manifest import Batch, OwnedTable
from provision.gateway import FEWEST, BatchTooLarge, Filter, Gateway, Row, among, text_chunks

Above = Mapping[str, Sequence[Range]]
"""The columns of a table that hold keys of rows of ours, each with those keys."""
TRANSACTION = "xmin"
"""PostgreSQL's own column of every row in a table (not of a view): the transaction that wrote the row as it is."""


class Settled(NamedTuple):
    """The ids of a table of a run, those of batches without a reply included, and the rows that may be such a batch's
    or not: their keys, and what is to be said of them."""

    ids: tuple[Range, ...]
    unclear: tuple[int, ...]
    why: str


class Traces(NamedTuple):
    """What some batches left beside the rows that are recorded: the keys of rows with a text of the run, by their
    ordinals; those of new rows without one that hang on rows of ours, by the transaction that wrote them (`None` where
    that cannot be seen), and that hang on nothing; and of the batches those that the texts do not settle."""

    marked: Mapping[int, Sequence[int]]
    hanging: Mapping[str | None, Sequence[int]]
    bare: Sequence[int]
    unsettled: Sequence[Batch]

    def texts(self) -> list[int]:
        """The keys of the rows with a text of the run, in the order of their ordinals."""
        return [key for n in sorted(self.marked) for key in self.marked[n]]

    def rest(self) -> list[int]:
        """The keys of the new rows without such a text, in order."""
        return sorted([*chain.from_iterable(self.hanging.values()), *self.bare])

    def whole(self, batches: Collection[Collection[int]]) -> list[list[int]]:
        """The keys of the new rows that are, by their number, nobody's but those of batches of which each sent one of
        so many rows, batch by batch; none where more rows came so than batches were sent."""
        alike, wanted, sums = Counter(map(len, self.hanging.values())), Counter(chain.from_iterable(batches)), 1
        for sizes in batches:
            sums = reduce(or_, (sums << rows for rows in sizes), sums)
        found = [
            sorted(keys)
            for transaction, keys in self.hanging.items()
            if (alike[len(keys)] <= wanted[len(keys)] if transaction is not None else sums >> len(keys) & 1)
        ]
        return found if len(found) <= len(batches) else []

    def beside(self, attempts: Iterable[int]) -> int:
        """How many new rows, with a text of the run or without one, attempts that sent so many rows may have written;
        a trigger may have hidden that one transaction did."""
        hanging = sum(map(len, self.hanging.values()))
        return len(self.texts()) + (hanging if hanging >= min(attempts) else 0)


Sizes = Mapping[int, Collection[int]]
"""By their first rows batches of which some attempt may have been applied: how many rows their attempts sent."""


def settle(gateway: Gateway, run: str, owned: OwnedTable, above: Above) -> Settled:
    """What a run has in a table whose keys the database makes."""
    if not owned.unsettled:
        return Settled(owned.ranges, (), "")
    left = traces(gateway, run, owned, owned.unsettled, above)
    lost, again = _sizes(owned, left)
    whole = _told(owned, left, lost, again)
    found, unclear = [*left.texts(), *chain.from_iterable(whole)], left.rest()
    doubles = _has_text(owned) and again and len(unclear) >= min(chain.from_iterable(again.values()))
    if whole or not (lost or doubles):
        unclear = []  # nothing is missing, and rows that hang on ours are seen by the teardown
    known = ids.ranges([*_each(owned.ranges), *found]) if found else owned.ranges
    return Settled(known, tuple(unclear), said(left.unsettled, unclear) if unclear else "")


def find(gateway: Gateway, run: str, owned: OwnedTable, attempts: Sequence[Batch], above: Above) -> list[int]:
    """The keys of the rows that one of some attempts at a batch wrote, in the order in which they were sent; none if
    none was applied. Raises TargetError where it cannot be known, or where it was not one of them as a whole."""
    left = traces(gateway, run, owned, attempts, above)
    found, first, sizes = left.texts(), attempts[0].start, {batch.stop - batch.start for batch in attempts}
    if not found and (whole := _told(owned, left, {first: sizes}, {})):
        return whole[0]
    ordinals = [n for n in sorted(left.marked) for _ in left.marked[n]]
    if found and (len(found) not in sizes or ordinals != list(range(first, first + len(found)))):
        raise TargetError(
            f"{owned.table}: {max(sizes)} rows were written, but {len(found)} are there.",
            hint="A statement was repeated, or a trigger changes or drops rows. A teardown removes those of the run.",
        )
    if not found and (rest := left.rest()):
        raise TargetError(f"{owned.table}: {said(attempts, rest)}.", hint=_hint(owned))
    return found


def _told(owned: OwnedTable, left: Traces, lost: Sizes, again: Sizes) -> list[list[int]]:
    """The keys of the rows that their number tells; where nothing else could tell a missing batch, it may be small if
    nothing else came."""
    many = [[rows for rows in sizes if rows >= FEWEST] for sizes in (*lost.values(), *again.values())]
    whole = left.whole(list(filter(None, many)))
    if not whole and not _has_text(owned) and len(left.hanging) == 1:
        [keys] = left.hanging.values()
        return [sorted(keys)] if len(keys) in chain.from_iterable(lost.values()) else []
    return whole


def _hint(owned: OwnedTable) -> str:
    """What a user may do where nothing tells the rows of a table."""
    assert owned.trace is not None  # noqa: S101 - the database makes the keys
    if owned.trace.template is None:
        return f"Do others, or a trigger, write into {owned.table} about rows of the run? A teardown names such rows."
    return (
        f"Does a trigger rewrite {owned.table}.{owned.trace.column}? Another text before it in the recipe, or a column"
        " that refers to a row of the run, would tell the rows. A teardown names them and leaves them."
    )


def said(attempts: Iterable[Batch], unclear: Sequence[int]) -> str:
    """What is to be said of batches whose rows may be among `unclear`."""
    rows = sum({batch.start: batch.stop - batch.start for batch in attempts}.values())
    some = counted(len(unclear), "row")
    return f"the reply to {rows} new rows was lost, and {some} came since that have no mark of a run: {span(unclear)}"


def span(keys: Sequence[int]) -> str:
    """Keys in a few words: where they lie, not which they are."""
    return f"{keys[0]}" if len(keys) == 1 else f"between {keys[0]} and {keys[-1]}"


def traces(gateway: Gateway, run: str, owned: OwnedTable, batches: Sequence[Batch], above: Above) -> Traces:
    """What some batches left beside the rows that are recorded. The newer rows of the table are read once, and only
    where the texts leave a batch open and the table is not known to keep its texts."""
    unsettled, marked = list(batches), dict[int, list[int]]()
    if _has_text(owned):
        seen = _with_exact_texts(gateway, run, owned, batches)
        if _unsettled(batches, seen):
            for n, keys in _with_changed_texts(gateway, run, owned, batches).items():
                seen.setdefault(n, set()).update(keys)
        unsettled = _unsettled(batches, seen)
        fresh = {n: sorted(key for key in keys if ids.place(owned.ranges, key) is None) for n, keys in seen.items()}
        marked = {n: keys for n, keys in fresh.items() if keys}
        if owned.told and not owned.stored:  # the table keeps its texts: what has none of it was not applied
            unsettled = [batch for batch in unsettled if _found(batch, marked)]
    hanging: dict[str | None, list[int]] = {}
    bare: list[int] = []
    known = {key for keys in marked.values() for key in keys}
    for key, hangs, transaction in _without_text(gateway, owned, unsettled, above) if unsettled else ():
        if key not in known:
            (hanging.setdefault(transaction, []) if hangs else bare).append(key)
    return Traces(marked, hanging, bare, unsettled)


def _has_text(owned: OwnedTable) -> bool:
    return owned.trace is not None and owned.trace.template is not None


def _unsettled(batches: Sequence[Batch], seen: Mapping[int, object]) -> list[Batch]:
    """The batches of whose attempts none is there with every text."""
    whole = {batch.start for batch in batches if _found(batch, seen) == batch.stop - batch.start}
    return [batch for batch in batches if batch.start not in whole]


def _found(batch: Batch, seen: Mapping[int, object]) -> int:
    """How many of a batch's rows are among some ordinals."""
    return sum(n in seen for n in range(batch.start, batch.stop))


def _sizes(owned: OwnedTable, left: Traces) -> tuple[Sizes, Sizes]:
    """How many rows the attempts at the batches that are not settled may have left: at batches without ids, and at
    those whose ids another attempt told."""
    told = {start: sum(part.count for part in parts) for start, parts in owned.told}
    lost: dict[int, set[int]] = {}
    again: dict[int, set[int]] = {}
    answered = set[int]()
    for batch in left.unsettled:
        rows = batch.stop - batch.start
        if told.get(batch.start) == rows and batch.start not in answered:
            answered.add(batch.start)
        else:
            sizes = again if batch.start in told else lost
            sizes.setdefault(batch.start, set()).add(rows - _found(batch, left.marked))
    return lost, again


def _with_exact_texts(gateway: Gateway, run: str, owned: OwnedTable, batches: Sequence[Batch]) -> dict[int, set[int]]:
    """The keys of the rows that have a batch's texts as they were sent, by ordinal."""
    column, template = _text(owned)
    sent = {fakes.trace(template, run, n): n for batch in batches for n in range(batch.start, batch.stop)}
    found: dict[int, set[int]] = {}
    for some in text_chunks(sent):
        for row in gateway.select(owned.table, [column], (Filter(column, "in", some),), key=owned.key):
            if row[column] in sent:
                found.setdefault(sent[row[column]], set()).add(int(row[owned.key]))
    return found


def _with_changed_texts(gateway: Gateway, run: str, owned: OwnedTable, batches: Sequence[Batch]) -> dict[int, set[int]]:
    """The keys of the newer rows whose texts are the run's in another case or with something about them."""
    column, template = _text(owned)
    found: dict[int, set[int]] = {}
    changed = Filter(column, "match", fakes.loose(template, run))
    for row in gateway.select(owned.table, [column], (changed, *_newer(owned, batches)), key=owned.key):
        if match := re.search(changed.value, row[column]):
            found.setdefault(int(match[1]) - 1, set()).add(int(row[owned.key]))
    return found


def _without_text(
    gateway: Gateway, owned: OwnedTable, batches: Sequence[Batch], above: Above
) -> Iterator[tuple[int, bool, str | None]]:
    """The keys of the newer rows that are neither recorded nor another run's nor hang on rows of others, whether they
    hang on ours, and the transaction that wrote them."""
    column = owned.trace.column if owned.trace is not None else ""
    where = iter([()]) if _has_text(owned) else among(column, above.get(column, ()))
    for some in where:
        for row in _read(gateway, owned, [column, *above], (*some, *_newer(owned, batches))):
            hangs = hangs_on(row, above)
            if (
                hangs is not False
                and not _of_another_run(owned, row)
                and ids.place(owned.ranges, row[owned.key]) is None
            ):
                yield int(row[owned.key]), bool(hangs), row.get(TRANSACTION)


def _read(gateway: Gateway, owned: OwnedTable, columns: Sequence[str], where: Sequence[Filter]) -> Iterator[Row]:
    """Rows with the transaction that wrote them, where it can be seen: a view has none, a grant may leave it out."""
    try:
        rows = gateway.select(owned.table, [*columns, TRANSACTION], where, key=owned.key)
        first = next(rows, None)
    except BatchTooLarge:
        raise
    except (ApiError, Refused):
        yield from gateway.select(owned.table, columns, where, key=owned.key)
        return
    if first is not None:
        yield first
        yield from rows


def hangs_on(row: Row, above: Above) -> bool | None:
    """Whether all that a row refers to in some columns is ours; None when it refers to nothing."""
    held = [ids.place(parts, row[column]) is not None for column, parts in above.items() if row[column] is not None]
    return all(held) if held else None


def _of_another_run(owned: OwnedTable, row: Row) -> bool:
    """Whether a text names a run, whole and exactly as a recipe does: five letters alone may be anything."""
    if owned.trace is None or owned.trace.template is None or "{run" not in owned.trace.template:
        return False
    return re.fullmatch(fakes.pattern(owned.trace.template, None), row[owned.trace.column] or "") is not None


def _newer(owned: OwnedTable, batches: Sequence[Batch]) -> tuple[Filter, ...]:
    """The condition for rows that are newer than any of some batches."""
    floors = [batch.floor for batch in batches if batch.floor is not None]
    return (Filter(owned.key, "gt", min(floors)),) if len(floors) == len(batches) else ()


def _text(owned: OwnedTable) -> tuple[str, str]:
    assert owned.trace is not None  # noqa: S101 - the database makes the keys
    assert owned.trace.template is not None  # noqa: S101 - asked before
    return owned.trace.column, owned.trace.template


def _each(known: Sequence[Range]) -> Iterator[int]:
    for part in known:
        if isinstance(part, ids.NumberRange):
            yield from range(part.first, part.high + 1)
