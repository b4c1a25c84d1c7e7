"""Runs whose manifest is lost, found in the database itself: by their id in texts, and by the shape of their keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from provision.errors import RecipeError
from provision.fixtures import fakes, plan
from provision.fixtures.ids import MAX_TABLES, IdRange, Range, Recorded, row_id
from provision.fixtures.manifest import AppTable, Manifest, OwnedTable, rebuilt
from provision.fixtures.plan import Plan
from provision.fixtures.recipe import Recipe
from provision.fixtures.schema import Schema, Table
from provision.fixtures.tables import TablePlan
from provision.gateway import BatchTooLarge, Filter, Gateway, among, unmarked
from provision.gateway.scope import is_view
from provision.gateway.unmarked import Told, Unclear
from provision.target import Target
from provision.yamlfile import Document

_LAST = (1 << 48) - 1
_RUN = re.compile(f"(?i){fakes.RUN.pattern}")
"""A run's id, in small letters or not: a trigger may keep texts in capitals."""
_NO_RECIPE = "they name the run, but not as this recipe does: give the one that it was seeded with, --recipe FILE"


@dataclass(frozen=True, slots=True)
class Orphan:
    """A run that stands in the database, and the tables in which its id was read."""

    run: str
    tables: tuple[str, ...]


def runs(gateway: Gateway, schema: Schema) -> list[Orphan]:
    """The runs whose id stands in a text of some table, oldest first."""
    seen: dict[str, list[str]] = {}
    for table in schema.tables.values():
        for column in table.columns.values():
            if column.is_text and table.key is not None:
                for run in _named(gateway, table, column.name):
                    seen.setdefault(run, []).append(table.name)
    return [Orphan(run, tuple(dict.fromkeys(tables))) for run, tables in sorted(seen.items())]


def _named(gateway: Gateway, table: Table, column: str) -> Iterator[str]:
    """The runs that stand in one column; each is left out of the next question, so that there are few."""
    known: list[Filter] = []
    while True:
        try:
            text = gateway.last(table.name, column, [Filter(column, "match", _RUN.pattern), *known])
        except BatchTooLarge:  # a table too large to read through: a run is named in smaller ones as well
            return
        found = _RUN.search(str(text)) if text is not None else None
        if found is None:
            return
        yield found[0].lower()
        known.append(Filter(column, "lacks", found[0]))


@dataclass(frozen=True, slots=True)
class Lost:
    """What can be known of a run without its manifest: what it owns, and rows that may be its own or not."""

    manifest: Manifest
    unclear: tuple[Unclear, ...]


def lost(gateway: Gateway, schema: Schema, orphan: Orphan, recipe: Recipe, document: Document, target: Target) -> Lost:
    """What is left of a run: the tables that hold keys of its own and, as far as the recipe is the run's, the rows
    whose keys the database made: those with the texts that the recipe gives them, and those that hang on rows of the
    run and are as the recipe makes them."""
    chosen = [o for table in schema.tables.values() if (o := _chosen(gateway, table, orphan.run)) is not None]
    planned = _plan(gateway, recipe, document, schema, orphan.run, chosen)
    told = {} if planned is None else _numbered(gateway, schema, planned, chosen)
    tables = planned.tables if planned else ()
    numbered = [
        OwnedTable(t.table, t.key, len(told[t.table].own), told[t.table].ranges(), t.trace)
        for t in tables
        if t.table in told and told[t.table].own
    ]
    owned = (*(one for one in chosen if not _repeats(schema, one, chosen)), *numbered)
    names = {one.table for one in owned}
    unclear = [Unclear(name, t.unclear, t.why, len(t.unclear)) for name, t in told.items() if t.unclear]
    nameless = [
        name
        for name in orphan.tables
        if (key := schema.tables[name].key) and key.is_number and name not in names and (not planned or name in told)
    ]
    unclear += [Unclear(n, (), _NO_RECIPE, rows) for n in nameless if (rows := _naming(gateway, schema, n, orphan.run))]
    parents = {(t.table, c): p for t in tables for c, p in t.parents.items() if p in names}
    app = tuple(entry for entry in app_tables(recipe, schema) if entry.parent in names)
    return Lost(rebuilt(orphan.run, target.url, target.schema, owned, app, parents), tuple(unclear))


def _plan(
    gateway: Gateway, recipe: Recipe, document: Document, schema: Schema, run: str, chosen: list[OwnedTable]
) -> Plan | None:
    """The plan that the run had, its number of tickets taken from the rows that are there: a table is begun when those
    before it are whole. None when the recipe does not fit the schema."""
    day = date(int(run[:4]), int(run[4:6]), int(run[6:8]))
    try:
        small = plan.build(recipe, document, schema, run, day, 1)
        rows, known = {o.table: o.rows for o in chosen}, {o.table: o.ranges for o in chosen}
        for table in small.tables:
            if table.trace and table.trace.template:
                known[table.table] = (told := _marked(gateway, run, table)).ranges()
                rows[table.table] = len(told.own)
        tickets = max(_tickets(recipe, name, count) for name, count in rows.items()) if rows else 0
        for table in small.tables if not tickets else ():
            if table.trace and not table.trace.template:
                where = among(table.trace.column, known.get(table.trace.parent or "", ()))
                hanging = sum(gateway.count(table.table, some) for some in where)
                tickets = max(tickets, _tickets(recipe, table.table, hanging))
        return plan.build(recipe, document, schema, run, day, max(1, tickets - 1))
    except (RecipeError, ValueError):
        return None


def _tickets(recipe: Recipe, table: str, rows: int) -> int:
    """The tickets, the race's included, of a run with so many rows in a table; 0 where that does not tell."""
    words = recipe.tables[table].rows if table in recipe.tables else 1
    return 0 if isinstance(words, int) or "/" in words else rows // recipe.tables[table].count(1)


def _numbered(gateway: Gateway, schema: Schema, planned: Plan, chosen: list[OwnedTable]) -> dict[str, Told]:
    """The run's rows in the tables whose keys the database makes, parents first."""
    known: dict[str, tuple[Range, ...]] = {owned.table: owned.ranges for owned in chosen}
    found: dict[str, Told] = {}
    for table in planned.tables:
        if table.trace is None or not isinstance(table.ids, Recorded):
            continue
        if table.trace.template is not None:
            told = _marked(gateway, planned.run, table)
        else:
            above = known.get(table.trace.parent or "", ())
            told = unmarked.tell(gateway, schema.tables[table.table], planned, table, above)
        unmarked.record(table.ids, told.own)
        known[table.table], found[table.table] = told.ranges(), told
    return found


def _naming(gateway: Gateway, schema: Schema, table: str, run: str) -> int:
    """How many rows of a table name a run in some text."""
    texts = [column.name for column in schema.tables[table].columns.values() if column.is_text]
    return max(gateway.count(table, [Filter(column, "match", f"(?i){run}")]) for column in texts)


def app_tables(recipe: Recipe, schema: Schema) -> list[AppTable]:
    """The tables that a recipe says the app writes into, as far as they are in the schema."""
    found = []
    for name, column in recipe.written_by_app.items():
        columns = schema.tables[name].columns if name in schema.tables else {}
        if column in columns:
            reference = columns[column].references
            found.append(AppTable(name, column, reference[0] if reference else recipe.tickets.table))
    return found


def _chosen(gateway: Gateway, table: Table, run: str) -> OwnedTable | None:
    """The range of a run's own keys in a table: which of its tables it was, and how far it goes, say the keys. None
    when it has none there."""
    key = table.key
    if key is None or not (key.kind == "uuid" or key.is_text):
        return None
    low, high = row_id(run, 0, 0), row_id(run, MAX_TABLES - 1, _LAST)
    last = gateway.last(table.name, key.name, [Filter(key.name, "gte", low), Filter(key.name, "lte", high)])
    if last is None:
        return None
    number, rows = int(str(last)[20:23], 16), int(str(last)[-12:], 16) + 1
    return OwnedTable(table.name, key.name, rows, (IdRange(run, number, 0, rows),))


def _repeats(schema: Schema, one: OwnedTable, chosen: list[OwnedTable]) -> bool:
    """Whether what looks owned is a view of a table that is owned: its keys are those of the same rows."""
    bases = [other.ranges[0].low for other in chosen if not is_view(schema.tables[other.table])]
    return is_view(schema.tables[one.table]) and one.ranges[0].low in bases


def _marked(gateway: Gateway, run: str, table: TablePlan) -> Told:
    """The rows whose keys the database made and that have the very text which the recipe gives them, in any case."""
    assert table.trace is not None  # noqa: S101 - the database makes the keys
    column, template = table.trace.column, table.trace.template or ""
    pattern = f"(?i){fakes.pattern(template, run)}"
    found: dict[int, list[int]] = {}
    for row in gateway.select(table.table, [table.key, column], [Filter(column, "match", pattern)], key=table.key):
        if number := re.fullmatch(pattern, row[column]):
            found.setdefault(int(number[1]) - 1, []).append(int(row[table.key]))
    doubles = tuple(sorted(key for keys in found.values() for key in keys if len(keys) > 1))
    return Told(
        {n: keys[0] for n, keys in found.items() if len(keys) == 1}, doubles, unmarked.DOUBLE if doubles else ""
    )
