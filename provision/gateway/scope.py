"""What is ours in a database, and what else hangs on it.

Ours are the rows whose keys a manifest announced, and those that the app wrote about them in tables which the recipe
names. Every other row that references one of them is somebody else's: it is reported, and what it references is kept,
for a delete of that might take it along (ON DELETE CASCADE, which the API does not show).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, NamedTuple

from provision.errors import TargetError
from provision.fixtures import ids
from provision.fixtures.ids import Id, Range
from provision.fixtures.manifest import Manifest
from provision.fixtures.schema import Schema, Table
from provision.gateway import Filter, Gateway, Row, among, chunks, ownership
from provision.gateway.ownership import Doubt

Where = tuple[Filter, ...]
FEW = 8
"""Ranges that a request can leave out beside its other conditions."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of ours in one table: those whose `column` lies in `ranges`, or is the key of a row of the slices `of`."""

    table: str
    column: str
    ranges: tuple[Range, ...]
    of: tuple[Slice, ...] = ()


class Foreign(NamedTuple):
    """A row that is not ours and references one that is; `key` as far as its table has a single one."""

    table: str
    key: Id | None
    column: str
    parent: str
    value: Any

    def __str__(self) -> str:
        row = f"{self.table} {self.key}" if self.key is not None else f"a row of {self.table}"
        return f"{row} references {self.parent} {self.value} by {self.column}"


@dataclass(slots=True)
class Scope:
    """The slices of a run by table, children first, the keys of ours that must stay, by table, and the tables of which
    nobody can tell what in them is ours: those have no slices. A table that the app writes into need not have a single
    key (`keys`), unless some of its rows must be told from others of them."""

    gateway: Gateway
    schema: Schema
    slices: Mapping[str, tuple[Slice, ...]]
    keys: Mapping[str, str]
    parents: Mapping[tuple[str, str], str]
    doubts: Sequence[Doubt] = ()
    kept: dict[str, set[Id]] = field(default_factory=dict)

    def count(self, table: str) -> int:
        """How many rows of ours a table holds, each counted once though several slices may hold it."""
        parts = self.slices[table]
        if len(parts) > 1 and table in self.keys:
            return len({key for part in parts for key in self.values(part, self.keys[table])})
        return sum(
            self.gateway.count(table, (*where, *self._besides(table, parts[:before])))
            for before, part in enumerate(parts)
            for where in self.where(part)
        )

    def key(self, table: str) -> str:
        """The column by which the rows of a table are told apart; TargetError where there is none."""
        if table not in self.keys:
            raise TargetError(
                f"{table} has no key of one column by which its rows could be told apart, and some may have to stay.",
                hint=f"Give {table} such a key, or delete its rows that are the run's by hand, and run this again.",
            )
        return self.keys[table]

    def _besides(self, table: str, parts: Sequence[Slice]) -> list[Filter]:
        """The conditions under which a row is in none of some slices; TargetError where they would not fit a URL."""
        outside = _outside(parts)
        if len(outside) > FEW or any(part.of for part in parts):
            self.key(table)
        return outside

    def where(self, part: Slice) -> Iterator[Where]:
        """The conditions under which rows belong to a slice, each row meeting one of them."""
        yield from among(part.column, part.ranges)
        for above in part.of:
            for keys in chunks(self.values(above, self.key(above.table))):
                yield (Filter(part.column, "in", keys),)

    def values(self, part: Slice, column: str) -> Iterator[Any]:
        """A column's values in the rows of a slice; where its table has no single key, the column must be unique."""
        key = self.keys.get(part.table)
        there = () if key else (Filter(column, "has", True),)
        for where in self.where(part):
            for row in self.gateway.select(part.table, [column], (*where, *there), key=key or column):
                yield row[column]

    def foreign(self, table: str) -> list[Foreign]:
        """The rows of others that reference rows of ours in `table`; those of ours are kept from now on."""
        found: list[Foreign] = []
        for child, column, referenced in self._references(table):
            for part in self.slices[table]:
                found += self._strangers(child, column, part, referenced)
        blocked = {row.value: row for row in found}
        if blocked:
            self._keep(table, blocked.values())
        self._keep_parents(table)
        return found

    def unnamed(self) -> list[Foreign]:
        """The first row of each (table, column) that references ours and is not ours."""
        found = []
        for table, parts in self.slices.items():
            for child, column, referenced in self._references(table):
                strangers = (row for part in parts for row in self._strangers(child, column, part, referenced))
                found += [row for row in [next(strangers, None)] if row]
        return found

    def _references(self, table: str) -> list[tuple[str, str, str]]:
        """Every (table, column, referenced column) that points at a table, by the live schema or by the recipe."""
        seen = {(child, column): referenced for child, column, referenced in self.schema.referencing(table)}
        for (child, column), parent in self.parents.items():
            if parent == table and child in self.schema.tables:
                seen.setdefault((child, column), self.keys[table])
        return [(child, column, referenced) for (child, column), referenced in seen.items()]

    def _strangers(self, child: str, column: str, part: Slice, referenced: str) -> Iterator[Foreign]:
        """The rows of a table that point into a slice and are in none of ours."""
        ours = self.slices.get(child) or self._repeated(child, part.table)
        outside = _outside(ours)
        few = len(outside) <= FEW  # more would not fit a URL: then rows are told apart here
        if any(own.column != column and (own.of or not few) for own in ours):
            self.key(child)  # those with the same value may be ours and others'
        single = self.schema.tables[child].key
        key = single.name if single else self.keys.get(child, column)
        wanted = sorted({column, key, *(own.column for own in ours)})
        for where in self._pointing(child, column, part, referenced):
            for rows in chunks(self.gateway.select(child, wanted, [*where, *(outside if few else ())], key=key)):
                held = [(own.column, self._held(own, rows)) for own in ours]
                for row in rows:
                    if not any(row[name] in values for name, values in held):
                        yield Foreign(child, row[key] if key != column else None, column, part.table, row[column])

    def _repeated(self, child: str, parent: str) -> tuple[Slice, ...]:
        """The rows of a view that are, while they are there, rows of ours in a table which has the same parent."""
        view = self.schema.tables[child]
        if view.key is None or not is_view(view):
            return ()
        found = []
        for table in dict.fromkeys(child for child, _, _ in self._references(parent) if child in self.slices):
            [part, *_], key = self.slices[table], self.schema.tables[table].key
            if key and part.column == key.name and key.kind == view.key.kind and self.count(table):
                found.append(Slice(child, view.key.name, part.ranges))
        return tuple(found)

    def _pointing(self, child: str, column: str, part: Slice, referenced: str) -> Iterator[Where]:
        """The conditions under which a row points into a slice."""
        if referenced == part.column and part.ranges:
            yield from among(column, part.ranges)
            return
        if not self.gateway.count(child, [Filter(column, "has", True)]):
            return
        for values in chunks(self.values(part, referenced)):
            yield (Filter(column, "in", values),)

    def _held(self, part: Slice, rows: Iterable[Row]) -> set[Any]:
        """The values of a slice's column that some rows of its table have and by which they belong to it."""
        values = {row[part.column] for row in rows} - {None}
        held = {value for value in values if ids.place(part.ranges, value) is not None}
        for above in part.of:
            key = self.key(above.table)
            for some in chunks(values - held):
                there = list(self.gateway.select(above.table, [above.column], [Filter(key, "in", some)], key=key))
                known = self._held(above, there)
                held |= {row[key] for row in there if row[above.column] in known}
        return held

    def _keep(self, table: str, blockers: Iterable[Foreign]) -> None:
        """Keep what blockers reference, by its key."""
        values: dict[tuple[str, str], set[Any]] = {}
        for row in blockers:
            values.setdefault((row.table, row.column), set()).add(row.value)
        pointed = {(child, column): referenced for child, column, referenced in self._references(table)}
        key = self.key(table)
        for reference, some in values.items():
            if pointed[reference] == key:
                self.kept.setdefault(table, set()).update(some)
                continue
            for chunk in chunks(some):
                rows = self.gateway.select(table, [key], [Filter(pointed[reference], "in", chunk)], key=key)
                self.kept.setdefault(table, set()).update(row[key] for row in rows)

    def _keep_parents(self, table: str) -> None:
        """Keep the rows of ours that kept ones hang on."""
        if not self.kept.get(table):
            return
        columns = {
            column.name: (column.references[0], column.references[1])
            for column in self.schema.tables[table].columns.values()
            if column.references
        }
        named = {c: p for (t, c), p in self.parents.items() if t == table and c not in columns and p in self.slices}
        columns |= {c: (p, self.keys[p]) for c, p in named.items()}
        above = {c: ref for c, ref in columns.items() if ref[0] in self.slices and ref[0] != table}
        key = self.keys[table]
        for chunk in chunks(self.kept[table] if above else ()):
            for row in self.gateway.select(table, list(above), [Filter(key, "in", chunk)], key=key):
                for column, (parent, _) in above.items():
                    if row[column] is not None:
                        self._keep(parent, [Foreign(table, row[key], column, parent, row[column])])


def is_view(table: Table) -> bool:
    """Whether something with a key is a view, of whose columns the API says that none is required."""
    return table.key is not None and not table.key.required


def _outside(parts: Sequence[Slice]) -> list[Filter]:
    """The conditions under which a row is in none of some slices' ranges."""
    return [Filter(part.column, "outside", (some.low, some.high)) for part in parts for some in part.ranges]


def open_scope(gateway: Gateway, manifest: Manifest) -> Scope:
    """What a run owns now, its batches without a reply settled."""
    schema = gateway.schema()
    standing = ownership.stand(gateway, schema, manifest)
    keys = {name: table.key.name for name, table in schema.tables.items() if table.key}
    there = [o for o in manifest.tables if o.table in schema.tables and o.key in schema.tables[o.table].columns]
    keys |= {owned.table: owned.key for owned in there}
    slices: dict[str, tuple[Slice, ...]] = {
        owned.table: (Slice(owned.table, owned.key, standing.known[owned.table]),) for owned in there
    }
    entries = list(manifest.written_by_app)
    while entries:
        waiting = {entry.table for entry in entries}
        ready = [e for e in entries if e.parent not in waiting or e.parent == e.table] or entries
        for entry in ready:
            own = slices.get(entry.parent, ())
            part = _app_slice(entry.table, entry.column, own, keys)
            slices[entry.table] = (*slices.get(entry.table, ()), part)
            entries.remove(entry)
    order = _children_first(schema, slices, manifest)
    return Scope(gateway, schema, {n: slices[n] for n in order}, keys, manifest.parents, standing.doubts)


def _app_slice(table: str, column: str, own: Sequence[Slice], keys: Mapping[str, str]) -> Slice:
    """The rows of a table that point at rows of ours."""
    direct = tuple(some for part in own for some in part.ranges if part.column == keys.get(part.table))
    return Slice(table, column, direct, tuple(part for part in own if part.column != keys.get(part.table)))


def _children_first(schema: Schema, slices: Mapping[str, Any], manifest: Manifest) -> list[str]:
    """The tables in an order in which rows can be removed, from the live schema's foreign keys."""
    graph: dict[str, set[str]] = {name: set() for name in slices if name in schema.tables}
    edges = [(child, parent) for (child, _), parent in manifest.parents.items()]
    edges += [(entry.table, entry.parent) for entry in manifest.written_by_app]
    required = [
        (child, column.references[0])
        for child in graph
        for column in schema.tables[child].columns.values()
        if column.references
    ]
    for child, parent in (*edges, *required):
        if child != parent and child in graph and parent in graph:
            graph[parent].add(child)
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError:  # by columns that the app fills later: the order of the plan is as good as any
        app = [entry.table for entry in manifest.written_by_app]
        last = dict.fromkeys([*reversed(app), *(owned.table for owned in reversed(manifest.tables))])
        return [table for table in last if table in graph]
