"""Whether the rows that stand under recorded numbers are still the run's, and not those of others.

Numbers that the database made mean nothing once it was reset or restored: it gives them out again. A row is proven to
be ours by what nobody else's has: the text that the run gave it (or that a trigger made of that text, as a digest in
the manifest); or it hangs on a row of ours; or a row of ours hangs on it by a foreign key. A batch is written as a
whole, so that one proven row stands for the others of its batch, whatever the app changed in them. A table with a
batch of which rows are there and none is proven is not touched.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from provision.errors import ConfigError, TicketsError
from provision.fixtures import fakes, ids
from provision.fixtures.ids import Range
from provision.fixtures.manifest import Manifest, OwnedTable, digest
from provision.fixtures.schema import Schema
from provision.fixtures.tables import Trace
from provision.gateway import Filter, Gateway, Row, among, settling, within

RESET = "(was the database reset or restored?)"
FORGET = (
    "if it was, forget the run: delete .provision/{run} (then `provision teardown --find --run {run}` removes what is"
    " still there of it)"
)
LOOK = (
    "delete by hand those that you know for the run's; if there are none, and nothing else is left, delete"
    " .provision/{run}"
)
WITHOUT_KEY = "give it its old name for the time of the teardown, or delete by hand the run's rows and .provision/{run}"
OTHERS = "they have numbers of the run, but neither a text of it nor a place among its rows: {keys}"


class Doubt(NamedTuple):
    """So many rows of a table may be a run's and are not known to be, why, and what to do about it."""

    table: str
    rows: int
    why: str
    way_on: str


@dataclass(slots=True)
class Standing:
    """What a run owns now: the ids of each table as far as they are proven, the tables in doubt, and how many recorded
    rows are no longer there, by table."""

    known: dict[str, tuple[Range, ...]] = field(default_factory=dict)
    doubts: list[Doubt] = field(default_factory=list)
    missing: Counter[str] = field(default_factory=Counter)


def stand(gateway: Gateway, schema: Schema, manifest: Manifest) -> Standing:
    """What a run owns now, its batches without a reply settled; tables are parents first."""
    standing = Standing()
    for owned in manifest.tables:
        table, rows = schema.tables.get(owned.table), sum(part.count for part in owned.ranges)
        if table is not None and owned.key not in table.columns:
            standing.known[owned.table] = ()
            way_on = WITHOUT_KEY.format(run=manifest.run)
            standing.doubts.append(Doubt(owned.table, rows, f"its key column {owned.key} is gone", way_on))
        elif owned.trace is None:
            standing.known[owned.table] = owned.ranges
        elif table is None:
            standing.known[owned.table] = ()
            standing.missing[owned.table] = rows
        else:
            _stand(gateway, schema, manifest, owned, standing)
    standing.doubts += _hanging(gateway, schema, manifest, standing.known)
    return standing


def _stand(gateway: Gateway, schema: Schema, manifest: Manifest, owned: OwnedTable, standing: Standing) -> None:
    """Note what a run owns in a table whose keys the database makes."""
    look, forget = LOOK.format(run=manifest.run), FORGET.format(run=manifest.run)
    proof = _Proof(gateway, schema, manifest, _as_it_is(schema, manifest, owned), standing.known)
    found, unclear, lost = settling.settle(gateway, manifest.run, proof.owned, proof.above())
    if unclear:
        standing.doubts.append(Doubt(owned.table, len(unclear), lost, look))
    there = sum(gateway.count(owned.table, where) for where in among(owned.key, found))
    standing.missing[owned.table] = sum(part.count for part in found) - there
    why, others = proof.doubt(found, there) if there else ("", [])
    if why:
        standing.doubts.append(Doubt(owned.table, there, f"{why} {RESET}", forget))
    elif others:
        standing.doubts.append(Doubt(owned.table, len(others), OTHERS.format(keys=settling.span(others)), look))
        found = tuple(rest for part in found for rest in ids.without(part, others))
    standing.known[owned.table] = found if there and not why else ()


def _as_it_is(schema: Schema, manifest: Manifest, owned: OwnedTable) -> OwnedTable:
    """A table whose traced column is gone is known by its parents, as far as it has any."""
    columns = schema.tables[owned.table].columns
    if owned.trace is None or owned.trace.column in columns:
        return owned
    above = ((c, p) for (table, c), p in manifest.parents.items() if table == owned.table and c in columns)
    column, parent = next(above, (owned.key, None))
    return replace(owned, trace=Trace(column, None, parent), stored={})


def _hanging(
    gateway: Gateway, schema: Schema, manifest: Manifest, known: Mapping[str, Sequence[Range]]
) -> Iterator[Doubt]:
    """What the app wrote about numbers that are not, or no longer, those of rows of ours."""
    recorded = {owned.table: owned.ranges for owned in manifest.tables if not known[owned.table]}
    for entry in manifest.written_by_app:
        if entry.table not in schema.tables:
            continue
        rows = sum(gateway.count(entry.table, where) for where in among(entry.column, recorded.get(entry.parent, ())))
        if rows:
            why = f"they name rows of {entry.parent} that are gone or not known to be the run's {RESET}"
            yield Doubt(entry.table, rows, why, FORGET.format(run=manifest.run))


def refuse(standing: Standing, manifest: Manifest) -> None:
    """Raise ConfigError when a seed cannot go on from what is recorded: rows of others have the numbers, or none do."""
    for doubt in standing.doubts:
        raise ConfigError(f"{doubt.table}: {doubt.why}.", hint=f"Or seed a new run; of this one: {doubt.way_on}.")
    for table, rows in standing.missing.items():
        if rows:
            words = f"{table}: {rows} of the rows that run {manifest.run} made are gone {RESET}."
            raise ConfigError(words, hint="Nothing can go on from there: remove what is left and seed a new run.")


def refuse_tickets(standing: Standing, manifest: Manifest, tickets: Sequence[Range]) -> None:
    """Raise TicketsError when the numbers of a ticket file, or others of its run, are not those of the run's rows."""
    hint = "Seed new tickets with: provision seed"
    for doubt in standing.doubts:
        raise TicketsError(f"The tickets may be other people's by now: {doubt.table}: {doubt.why}.", hint=hint)
    owners = [o.table for o in manifest.tables if o.trace is not None and ids.cover(o.ranges, tickets)]
    if not any(standing.known[owner] for owner in owners):
        raise TicketsError(f"No ticket of run {manifest.run} is in the database {RESET}.", hint=hint)


@dataclass(frozen=True, slots=True)
class _Proof:
    """What can prove the rows of one table: the rows of ours in other tables are `known`."""

    gateway: Gateway
    schema: Schema
    manifest: Manifest
    owned: OwnedTable
    known: Mapping[str, tuple[Range, ...]]

    def doubt(self, found: Sequence[Range], there: int) -> tuple[str, list[int]]:
        """Why the rows under some numbers, of which so many are there, are not known to be ours, or nothing when they
        are, and the numbers of those that hang on rows of others: the others of a batch do not stand for them. The
        usual case takes a count."""
        if self._marked(found) == there:
            return "", []
        batches, above = self._batches(found), self.above()
        present, proven, others = Counter[int](), set[int](), list[int]()
        for row in self._rows(found):
            number = int(row[self.owned.key])
            present[batches[number]] += 1
            hangs = settling.hangs_on(row, above)
            if self._has_our_text(row) or hangs:
                proven.add(batches[number])
            elif hangs is False:
                others.append(number)
        if set(present) - proven:
            proven |= {batches[number] for number in self._held() if number in batches}
        rows = sum(count for batch, count in present.items() if batch not in proven)
        said = f"{rows} of {there} rows have numbers of run {self.manifest.run}, but nothing else of it"
        return (said if rows else ""), others

    def _marked(self, found: Sequence[Range]) -> int:
        """How many rows have a text of the run, or where there is none hang on a row of ours."""
        column, template, parent = self._trace()
        if template is not None:
            own: tuple[Filter, ...] = (Filter(column, "match", fakes.pattern(template, self.manifest.run)),)
        elif len(above := self.known.get(parent or "", ())) == 1:
            own = within(column, above[0])
        else:
            return 0
        return sum(self.gateway.count(self.owned.table, (*where, *own)) for where in among(self.owned.key, found))

    def _trace(self) -> Trace:
        assert self.owned.trace is not None  # noqa: S101 - the database makes the keys
        return self.owned.trace

    def _batches(self, found: Sequence[Range]) -> dict[int, int]:
        """The batch of each number; one that is in no recorded batch stands for itself alone."""
        batches = {n: n for part in found for n in range(int(part.low), int(part.high) + 1)}
        for at, (_, parts) in enumerate(self.owned.told, 1):
            batches |= {n: -at for part in parts for n in range(part.low, part.high + 1)}
        return batches

    def _rows(self, found: Sequence[Range]) -> Iterator[Row]:
        columns = [name for name, _ in self.parents()]
        columns += [self.owned.trace.column] if self.owned.trace and self.owned.trace.template else []
        for where in among(self.owned.key, found):
            yield from self.gateway.select(self.owned.table, columns, where, key=self.owned.key)

    def _has_our_text(self, row: Row) -> bool:
        column, template, _ = self._trace()
        text = row[column] if template is not None else None
        if text is None or template is None:
            return False
        if re.search(fakes.loose(template, self.manifest.run), text):
            return True
        return self.owned.stored.get(int(row[self.owned.key])) == digest(self.manifest.run, text)

    def above(self) -> settling.Above:
        """The columns that hold keys of rows of ours, with those keys."""
        return {column: self.known[parent] for column, parent in self.parents()}

    def parents(self) -> list[tuple[str, str]]:
        """The columns that hold keys of rows of ours, each with their table."""
        return [
            (column, parent)
            for (table, column), parent in self.manifest.parents.items()
            if table == self.owned.table and self.known.get(parent) and self._points_at_key(table, column, parent)
        ]

    def _points_at_key(self, table: str, column: str, parent: str, *, by_foreign_key: bool = False) -> bool:
        there = self.schema.tables[table].columns if table in self.schema.tables else {}
        if column not in there:  # the schema has changed since
            return False
        reference, key = there[column].references, self.manifest.table(parent).key
        return reference == (parent, key) if reference and reference[0] == parent else not by_foreign_key

    def _held(self) -> Iterator[int]:
        """The keys that rows which are certainly ours hold by a foreign key."""
        for (table, column), parent in self.manifest.parents.items():
            below = next((owned for owned in self.manifest.tables if owned.table == table), None)
            if parent != self.owned.table or below is None:
                continue
            if not self._points_at_key(table, column, parent, by_foreign_key=True):
                continue
            own: tuple[Filter, ...] = ()
            if below.trace is not None:
                column_is_there = below.trace.column in self.schema.tables[table].columns
                if below.trace.template is None or not column_is_there:
                    continue
                own = (Filter(below.trace.column, "match", fakes.pattern(below.trace.template, self.manifest.run)),)
            for where in among(below.key, below.ranges):
                for row in self.gateway.select(table, [column], (*where, *own), key=below.key):
                    if row[column] is not None:
                        yield int(row[column])
