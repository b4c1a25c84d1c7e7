"""Runs whose manifest is lost, found in the database itself: by their id in texts, and by the shape of their keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from provision.errors import RecipeError
from provision.fixtures import fakes, ids, plan
from provision.fixtures.ids import MAX_TABLES, IdRange, Range, row_id
from provision.fixtures.manifest import AppTable, Manifest, OwnedTable
from provision.fixtures.recipe import Recipe
from provision.fixtures.schema import Schema, Table
from provision.fixtures.tables import Trace
from provision.gateway import BatchTooLarge, Filter, Gateway
from provision.yamlfile import Document

RUN = re.compile(r"[0-9]{8}-[0-9]{6}-[a-z0-9]{5}")
"""The shape of a run's id."""
_LAST = (1 << 48) - 1


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
            text = gateway.last(table.name, column, [Filter(column, "match", RUN.pattern), *known])
        except BatchTooLarge:  # a table too large to read through: a run is named in smaller ones as well
            return
        found = RUN.search(str(text)) if text is not None else None
        if found is None:
            return
        yield found[0]
        known.append(Filter(column, "lacks", found[0]))


def manifest(
    gateway: Gateway,
    schema: Schema,
    run: str,
    *,
    target: str,
    profile: str,
    traces: Mapping[str, Trace],
    app: Sequence[AppTable],
) -> Manifest:
    """What can be known of a run without its manifest: the tables that hold keys of its own and, where the database
    makes the keys, the rows with the texts that a recipe gives them (`traces`); `app` names what the app writes."""
    tables = [o for table in schema.tables.values() if (o := _owned(gateway, table, run, traces)) is not None]
    names = {owned.table for owned in tables}
    known = tuple(entry for entry in app if entry.table in schema.tables and entry.parent in names)
    return Manifest(
        run=run,
        created="",
        target=target,
        schema=profile,
        recipe="",
        seed=0,
        tickets=0,
        tables=tuple(tables),
        written_by_app=known,
        parents={},
        versions={},
        files={},
        state="lost",
    )


def traces(recipe: Recipe, document: Document, schema: Schema, run: str) -> dict[str, Trace]:
    """The texts by which a recipe's rows are found; none when the recipe does not fit the schema."""
    try:
        planned = plan.build(recipe, document, schema, run, date(2000, 1, 1), 1)
    except RecipeError:
        return {}
    return {table.table: table.trace for table in planned.tables if table.trace}


def app_tables(recipe: Recipe, schema: Schema) -> list[AppTable]:
    """The tables that a recipe says the app writes into, as far as they are in the schema."""
    found = []
    for name, column in recipe.written_by_app.items():
        columns = schema.tables[name].columns if name in schema.tables else {}
        if column in columns:
            reference = columns[column].references
            found.append(AppTable(name, column, reference[0] if reference else recipe.tickets.table))
    return found


def _owned(gateway: Gateway, table: Table, run: str, traces: Mapping[str, Trace]) -> OwnedTable | None:
    """The rows of a run in a table; None when it has none there."""
    key, trace = table.key, traces.get(table.name)
    if key is None:
        return None
    found: tuple[Range, ...] = ()
    if key.kind == "uuid" or key.is_text:
        found = _chosen(gateway, table.name, key.name, run)
    elif key.is_number and trace is not None and trace.template is not None:
        found = _made(gateway, table.name, key.name, run, trace.column, trace.template)
    return OwnedTable(table.name, key.name, sum(part.count for part in found), found) if found else None


def _chosen(gateway: Gateway, table: str, key: str, run: str) -> tuple[Range, ...]:
    """The range of a run's own keys in a table: which of its tables it was, and how far it goes, say the keys."""
    low, high = row_id(run, 0, 0), row_id(run, MAX_TABLES - 1, _LAST)
    last = gateway.last(table, key, [Filter(key, "gte", low), Filter(key, "lte", high)])
    if last is None:
        return ()
    number, ordinal = int(str(last)[20:23], 16), int(str(last)[-12:], 16)
    return (IdRange(run, number, 0, ordinal + 1),)


def _made(gateway: Gateway, table: str, key: str, run: str, column: str, template: str) -> tuple[Range, ...]:
    """The keys that the database made for rows that have the very text which a recipe gives them."""
    text = re.escape(template.replace("{run}", run).replace("{short}", fakes.short(run)))
    pattern = "^" + re.sub(r"\\\{n(:\w+)?\\\}", "[0-9]+", text).replace("\\-", "-").replace("\\ ", " ") + "$"
    rows = gateway.select(table, [key], [Filter(column, "match", pattern)], key=key)
    return ids.ranges(int(row[key]) for row in rows)
