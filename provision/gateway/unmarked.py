"""Rows of a lost run that the database numbered and no text of ours marks, told from rows that others attached by hand.

They hang on rows of the run that are known, and a recipe, a run and a number of tickets give the same rows again: what
is in the database is compared with them. What hangs on ours and differs is somebody else's. What looks the same proves
nothing when it is little, not whole, or there twice: it stays, and is named with its keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from provision.fixtures import ids
from provision.fixtures.ids import Range, Recorded
from provision.fixtures.plan import Plan
from provision.fixtures.schema import Column, Table
from provision.fixtures.tables import TablePlan
from provision.gateway import FEWEST, Gateway, Row, among

UNBROKEN = 100
"""So many from the first on, in the order of their keys, are the run's though its last ones are missing."""
DOUBLE = "there are more that look the same than the run made"
Look = tuple[Any, ...]
Plain = Callable[[Any], Any]


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
    expected, plain = _expected(plan, table, schema)
    there: dict[Look, list[int]] = {}
    for where in among(table.trace.column, parents) if expected else ():
        for row in gateway.select(table.table, list(plain), where, key=table.key):
            there.setdefault(_look(row, plain), []).append(int(row[table.key]))
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


def _expected(plan: Plan, table: TablePlan, schema: Table) -> tuple[dict[Look, list[int]], dict[str, Plain]]:
    """The looks of the rows that the plan makes, with their ordinals, and the columns that make up a look, each with
    the form in which it is compared: without what an app changes (flags, states, a text that is the same in every
    row)."""
    made = [plan_row for n in range(table.rows) if (plan_row := _row(plan, table, n)) is not None]
    plain: dict[str, Plain] = {}
    for name in table.makers:
        column, values = schema.columns[name], [row[name] for _, row in made]
        constant = column.is_text and name not in table.parents and len(set(values)) == 1
        form = None if column.enum or constant else _form(column, values)
        if form is not None:
            plain[name] = form
    found: dict[Look, list[int]] = {}
    for ordinal, row in made:
        found.setdefault(_look(row, plain), []).append(ordinal)
    return found, plain


def _look(row: Row, plain: Mapping[str, Plain]) -> Look:
    return tuple(None if row[name] is None else form(row[name]) for name, form in plain.items())


def _row(plan: Plan, table: TablePlan, ordinal: int) -> tuple[int, dict[str, Any]] | None:
    """A row as the plan makes it; None when its parent is not there."""
    try:
        return ordinal, next(plan.rows(table, ordinal, ordinal + 1))
    except KeyError:
        return None


def _form(column: Column, values: Sequence[Any]) -> Plain | None:
    """The form in which a column's values are the same whoever writes them; None when not all of them can be read."""
    given = [value for value in values if value is not None]
    try:
        if column.kind not in _TIMES:
            form = _PLAIN[column.kind]
            for value in given:
                form(value)
            return form
        times = [datetime.fromisoformat(str(value)) for value in given]
    except (KeyError, ValueError, InvalidOperation):
        return None
    zoned = column.kind == "timestamp with time zone" and any(time.tzinfo for time in times)
    return _instant if zoned else _clock


def _instant(value: Any) -> datetime | str:
    """A time that says its zone, as one of UTC; one that Python does not know (infinity, BC) as its text."""
    try:
        time = datetime.fromisoformat(str(value))
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (OverflowError, ValueError):
        return str(value)


def _clock(value: Any) -> datetime | str:
    """A time as a clock in its zone shows it: that is how a database takes one that says none."""
    try:
        return datetime.fromisoformat(str(value)).replace(tzinfo=None)
    except ValueError:
        return str(value)


_TIMES = ("timestamp with time zone", "timestamp without time zone")
_PLAIN: Mapping[str, Plain] = {
    **dict.fromkeys(("smallint", "integer", "bigint", "int2", "int4", "int8"), int),
    **dict.fromkeys(("numeric", "real", "double precision"), lambda value: Decimal(str(value))),
    **dict.fromkeys(("text", "character varying", "varchar", "citext", "name", "uuid", "date"), str),
    **dict.fromkeys(("character", "bpchar"), lambda value: str(value).rstrip()),
}


def record(recorded: Recorded, own: Mapping[int, int]) -> None:
    """Note in a plan which ids its rows have."""
    for ordinal in sorted(own):
        recorded.record(ordinal, [own[ordinal]])
