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
from dataclasses import dataclass, field
from typing import NamedTuple

from provision.errors import ConfigError, TicketsError
from provision.fixtures import fakes, ids
from provision.fixtures.ids import Range
from provision.fixtures.manifest import Manifest, OwnedTable, digest
from provision.fixtures.schema import Schema
from provision.gateway import Filter, Gateway, Row, among, settling, within

RESET = "(was the database reset or restored?)"
FORGET = (
    "if it was, forget the run: delete .provision/{run} (then `provision teardown --find --run {run}` removes what is"
    " still there of it)"
)
LOOK = "if you know them for the run's, delete them by hand; if not, and nothing else is left, delete .provision/{run}"


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
        if owned.trace is None:
            standing.known[owned.table] = owned.ranges
            continue
        proof = _Proof(gateway, schema, manifest, owned, standing.known)
        above = {column: standing.known[parent] for column, parent in proof.parents()}
        found, unclear, lost = settling.settle(gateway, manifest.run, owned, above)
        if unclear:
            standing.doubts.append(Doubt(owned.table, len(unclear), lost, LOOK.format(run=manifest.run)))
        there = sum(gateway.count(owned.table, where) for where in among(owned.key, found))
        standing.missing[owned.table] = sum(part.count for part in found) - there
        why = proof.doubt(found, there) if there else ""
        if why:
            standing.doubts.append(Doubt(owned.table, there, f"{why} {RESET}", FORGET.format(run=manifest.run)))
        standing.known[owned.table] = found if there and not why else ()
    standing.doubts += _hanging(gateway, manifest, standing.known)
    return standing


def _hanging(gateway: Gateway, manifest: Manifest, known: Mapping[str, Sequence[Range]]) -> Iterator[Doubt]:
    """What the app wrote about numbers that are not, or no longer, those of rows of ours."""
    recorded = {owned.table: owned.ranges for owned in manifest.tables if not known[owned.table]}
    for entry in manifest.written_by_app:
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

    def doubt(self, found: Sequence[Range], there: int) -> str:
        """Why the rows under some numbers, of which so many are there, are not known to be ours; nothing when they
        are. The usual case takes a count."""
        if self._marked(found) == there:
            return ""
        batches = self._batches(found)
        present, proven = Counter[int](), set[int]()
        for row in self._rows(found):
            batch = batches[int(row[self.owned.key])]
            present[batch] += 1
            if batch not in proven and self._is_ours(row):
                proven.add(batch)
        if set(present) - proven:
            proven |= {batches[number] for number in self._held() if number in batches}
        rows = sum(count for batch, count in present.items() if batch not in proven)
        return f"{rows} of {there} rows have numbers of run {self.manifest.run}, but nothing else of it" if rows else ""

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

    def _trace(self) -> tuple[str, str | None, str | None]:
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

    def _is_ours(self, row: Row) -> bool:
        column, template, _ = self._trace()
        text = row[column] if template is not None else None
        if text is not None and template is not None:
            if re.search(fakes.loose(template, self.manifest.run), text):
                return True
            if self.owned.stored.get(int(row[self.owned.key])) == digest(self.manifest.run, text):
                return True
        return any(
            row[name] is not None and ids.place(self.known[parent], row[name]) is not None
            for name, parent in self.parents()
        )

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
                if below.trace.template is None:
                    continue
                own = (Filter(below.trace.column, "match", fakes.pattern(below.trace.template, self.manifest.run)),)
            for where in among(below.key, below.ranges):
                for row in self.gateway.select(table, [column], (*where, *own), key=below.key):
                    if row[column] is not None:
                        yield int(row[column])
