"""Rows of a lost run that the database numbered and no text of ours marks, told from rows that others attached by hand.

They hang on rows of the run that are known, and a recipe, a run and a number of tickets give the same rows again: what
is in the database is compared with them. What hangs on ours and differs is somebody else's. What looks the same proves
nothing when it is little, not whole, or there twice: it stays, and is named with its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from provision.fixtures import ids
from provision.fixtures.ids import Range, Recorded
from provision.fixtures.plan import Plan
from provision.fixtures.schema import Column, Table
from provision.fixtures.tables import TablePlan
from provision.gateway import Gateway, among

FEWEST = 10
"""So many rows that all look as the run's would are nobody's coincidence."""
UNBROKEN = 100
"""So many from the first on, in the order of their keys, are the run's though its last ones are missing."""
DOUBLE = "there are more that look the same than the run made"
Look = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Unclear:
    """Rows that may be a run's or not, and why nobody can tell; `keys` as far as their table has a single one."""

    table: str
    keys: tuple[int, ...]
    why: str
    rows: int


@dataclass(frozen=True, slots=True)
class Told:
    """The keys of a table's rows that are the run's, by their ordinals, and the keys of those that may be."""

    own: Mapping[int, int]
    unclear: tuple[int, ...] = ()
    why: str = ""

    def ranges(self) -> tuple[Range, ...]:
        return ids.ranges(self.own.values())


def tell(gateway: Gateway, schema: Table, plan: Plan, table: TablePlan, parents: Sequence[Range]) -> Told:
    """Which rows that hang on `parents` are those that `plan` would make; the ids of the parents' rows are recorded in
    the plan."""
    assert table.trace is not None  # noqa: S101 - the database makes the keys
    expected, columns = _expected(plan, table, schema)
    there: dict[Look, list[int]] = {}
    for where in among(table.trace.column, parents):
        for row in gateway.select(table.table, columns, where, key=table.key):
            look = tuple(_PLAIN[schema.columns[name].kind](row[name]) for name in columns)
            there.setdefault(look, []).append(int(row[table.key]))
    return _told(expected, {look: sorted(there[look]) for look in expected if look in there})


def _told(expected: Mapping[Look, list[int]], there: Mapping[Look, list[int]]) -> Told:
    """Match rows that look as expected with the ordinals that are expected to look so."""
    every = tuple(sorted(key for keys in there.values() for key in keys))
    own = {n: key for look, keys in there.items() for n, key in _pairs(expected[look], keys)}
    doubles = tuple(sorted(k for look, keys in there.items() if len(keys) > len(expected[look]) for k in keys))
    planned = sum(map(len, expected.values()))
    if not every:
        return Told({})
    if planned < FEWEST:
        return Told({}, every, f"the run's own look the same, but {planned} are too few to tell them by")
    missing = any(len(there.get(look, ())) < len(ordinals) for look, ordinals in expected.items())
    if missing and not _unbroken(own):
        return Told({}, every, "they look as the run's own would, but some of those are missing")
    return Told(own, doubles, DOUBLE if doubles else "")


def _pairs(ordinals: Sequence[int], keys: Sequence[int]) -> Sequence[tuple[int, int]]:
    return list(zip(ordinals, keys, strict=False)) if len(keys) <= len(ordinals) else []


def _unbroken(own: Mapping[int, int]) -> bool:
    """Whether rows are the first of their table, many, and were made one after the other."""
    keys = [own[ordinal] for ordinal in sorted(own)]
    return len(own) >= UNBROKEN and max(own) + 1 == len(own) and keys == sorted(keys)


def _expected(plan: Plan, table: TablePlan, schema: Table) -> tuple[dict[Look, list[int]], list[str]]:
    """The looks of the rows that the plan makes, with their ordinals, and the columns that make up a look: those that
    can be compared, without what an app changes (flags, states, a text that is the same in every row)."""
    made = [plan_row for n in range(table.rows) if (plan_row := _row(plan, table, n)) is not None]
    columns = []
    for name in table.makers:
        column = schema.columns[name]
        constant = column.is_text and name not in table.parents and len({row[name] for _, row in made}) == 1
        if not column.enum and not constant and all(_comparable(column, row[name]) for _, row in made):
            columns.append(name)
    found: dict[Look, list[int]] = {}
    for ordinal, row in made:
        look = tuple(_PLAIN[schema.columns[name].kind](row[name]) for name in columns)
        found.setdefault(look, []).append(ordinal)
    return found, columns


def _row(plan: Plan, table: TablePlan, ordinal: int) -> tuple[int, dict[str, Any]] | None:
    """A row as the plan makes it; None when its parent is not there."""
    try:
        return ordinal, next(plan.rows(table, ordinal, ordinal + 1))
    except KeyError:
        return None


def _comparable(column: Column, value: Any) -> bool:
    try:
        _PLAIN[column.kind](value)
    except (KeyError, ValueError, InvalidOperation):
        return False
    return True


def _or_none(plain: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else plain(value)


def _moment(value: Any) -> datetime:
    """A time as the database stores it: one without a zone is taken as it stands."""
    return datetime.fromisoformat(str(value)).replace(tzinfo=None)


_PLAIN: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("smallint", "integer", "bigint", "int2", "int4", "int8"), _or_none(int)),
    **dict.fromkeys(("numeric", "real", "double precision"), _or_none(lambda value: Decimal(str(value)))),
    **dict.fromkeys(("text", "character varying", "varchar", "citext", "name", "uuid", "date"), _or_none(str)),
    **dict.fromkeys(("character", "bpchar"), _or_none(lambda value: str(value).rstrip())),
    **dict.fromkeys(("timestamp with time zone", "timestamp without time zone"), _or_none(_moment)),
}


def record(recorded: Recorded, own: Mapping[int, int]) -> None:
    """Note in a plan which ids its rows have."""
    for ordinal in sorted(own):
        recorded.record(ordinal, [own[ordinal]])
