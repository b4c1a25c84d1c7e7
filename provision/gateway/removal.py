"""Teardown: remove the rows that a manifest announced and those that the app wrote about them, and prove it."""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from provision.errors import ApiError
from provision.fixtures import ids
from provision.fixtures.ids import Id, NumberRange, Range
from provision.fixtures.manifest import Manifest
from provision.gateway import BatchTooLarge, Filter, Gateway, among, chunks
from provision.gateway.pace import Pace
from provision.gateway.scope import Foreign, Scope, open_scope

FIRST = 2_000
"""Rows of the first delete; as many more as pay follow."""
MOST_REFUSED = 64
"""Rows that are found one by one when the database refuses to delete them; a table with more is given up."""
ROUNDS = 2
"""A statement of a killed seed may still be running when the first round begins."""
_STAYS = ("23", "P0", "55000")
"""What a foreign key, a check, a trigger or a view says: the row stays, others may go."""


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the rows of one table: how many were found, how many went, how many are left, and why."""

    table: str
    found: int
    removed: int
    left: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class Removal:
    """The accounts of all tables, children first, and the rows of others that keep some of ours where they are."""

    accounts: Sequence[Account]
    foreign: Sequence[Foreign]


Done = Callable[[str, int, int], None]
"""Told after each delete: table, rows removed, rows found."""


def survey(gateway: Gateway, manifest: Manifest) -> Removal:
    """How many rows of the run there are and what would stay, without touching one."""
    scope = open_scope(gateway, manifest)
    foreign = [row for table in scope.slices for row in scope.foreign(table)]
    accounts = [Account(t, n := scope.count(t), 0, n, _kept(scope, t)) for t in scope.slices]
    return Removal(_with_doubts(accounts, scope), foreign)


def remove(gateway: Gateway, manifest: Manifest, done: Done) -> Removal:
    """Remove the run's rows, children first, and count what is left."""
    found: dict[str, int] = {}
    for number in range(ROUNDS):
        scope = open_scope(gateway, manifest)
        for table in scope.slices:
            found[table] = max(found.get(table, 0), scope.count(table))
        foreign, reasons = _round(scope, found, done)
        left = {table: scope.count(table) for table in scope.slices}
        unexplained = [t for t, rows in left.items() if rows > len(scope.kept.get(t, ()))]
        if not unexplained or number + 1 == ROUNDS:
            break
    accounts = [
        Account(
            t, max(found[t], left[t]), max(found[t] - left[t], 0), left[t], _why(scope, t, reasons) if left[t] else ""
        )
        for t in scope.slices
    ]
    return Removal(_with_doubts(accounts, scope), foreign)


def _with_doubts(accounts: Sequence[Account], scope: Scope) -> list[Account]:
    """The accounts, with the tables of which nothing was touched because it may be others'."""
    doubted = {doubt.table for doubt in scope.doubts}
    found = [Account(d.table, d.rows, 0, d.rows, f"not touched: {d.why}; {d.way_on}") for d in scope.doubts]
    return [*found, *(account for account in accounts if account.found or account.table not in doubted)]


def _round(scope: Scope, found: dict[str, int], done: Done) -> tuple[list[Foreign], dict[str, str]]:
    """Empty every table once. What hangs on a table's rows is looked up just before they go, not long before."""
    foreign: list[Foreign] = []
    reasons: dict[str, str] = {}
    for table in scope.slices:
        foreign += scope.foreign(table)
        if found[table]:
            reasons[table] = _Emptying(scope, table, found[table], done).run()
    return foreign, reasons


def _without(parts: Iterable[Range], kept: Iterable[Id]) -> Iterator[Range]:
    """Ranges of ids but for those that are kept; as there may be many of both, numbers are sorted and looked up."""
    numbers = sorted(int(some) for some in kept if ids.NUMBER.fullmatch(str(some)))
    for part in parts:
        some: Iterable[Id] = kept
        if isinstance(part, NumberRange):
            some = numbers[bisect_left(numbers, part.low) : bisect_right(numbers, part.high)]
        yield from ids.without(part, some)


def _kept(scope: Scope, table: str) -> str:
    kept = len(scope.kept.get(table, ()))
    rows = "row of ours stays" if kept == 1 else "rows of ours stay"
    return f"{kept} {rows}: rows that are not ours hang on it" if kept else ""


def _why(scope: Scope, table: str, reasons: dict[str, str]) -> str:
    return reasons.get(table) or _kept(scope, table) or "they came while we were removing: run the teardown again"


class _Emptying:
    """The deletes of one table; goes on around rows that the database refuses to delete."""

    def __init__(self, scope: Scope, table: str, found: int, done: Done) -> None:
        self.scope, self.table, self.found, self.done = scope, table, found, done
        self.pace = Pace(size=FIRST, most=32_000)
        self.gone, self.refused, self.why = 0, 0, ""

    def run(self) -> str:
        """Delete; the API's words when it refused."""
        key, kept = self.scope.keys.get(self.table), self.scope.kept.get(self.table, set())
        for part in self.scope.slices[self.table]:
            if part.column == key and part.ranges:
                self._spans(part.column, _without(part.ranges, kept))
            elif key is not None and (kept or part.of):
                self._by_values(key, (value for value in self.scope.values(part, key) if value not in kept))
            else:
                self._spans(part.column, part.ranges)
                for above in part.of:
                    self._by_values(part.column, self.scope.values(above, self.scope.key(above.table)))
        return self.why

    def _spans(self, column: str, spans: Iterable[Range]) -> None:
        """Delete the rows whose column lies in some ranges, in pieces as large as pays."""
        pending: list[list[Range]] = list(chunks(spans))[::-1]
        while pending and self.refused < MOST_REFUSED:
            now, rest = ids.take(pending.pop(), self.pace.size)
            pending += [rest] if rest else []
            rows = sum(part.count for part in now)
            if not self._delete(next(among(column, now)), rows) and rows > 1:
                pending += ids.take(now, rows // 2)[::-1]

    def _by_values(self, column: str, values: Iterable[Id]) -> None:
        """Delete the rows whose column holds one of some values."""
        pending = list(chunks(list(values)))
        while pending and self.refused < MOST_REFUSED:
            now = pending.pop()
            if not self._delete((Filter(column, "in", now),), len(now)) and len(now) > 1:
                half = len(now) // 2
                pending += [now[half:], now[:half]]

    def _delete(self, where: Sequence[Filter], rows: int) -> bool:
        """One delete; False when it was refused, and then nothing went."""
        began = time.perf_counter()
        try:
            self.gone += self.scope.gateway.delete(self.table, where)
        except BatchTooLarge as error:
            self.pace.too_large(rows)
            self._refused(error, rows)
            return False
        except ApiError as error:
            if not error.sqlstate.startswith(_STAYS):
                raise
            self._refused(error, rows)
            return False
        self.pace.took(rows, time.perf_counter() - began, calm=True)
        self.done(self.table, min(self.gone, self.found), self.found)
        return True

    def _refused(self, error: ApiError, rows: int) -> None:
        if rows == 1:
            self.refused += 1
            self.why = f"{error} {error.hint}".strip()
