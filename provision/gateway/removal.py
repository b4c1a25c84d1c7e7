"""Teardown: remove the rows that a manifest announced and those that the app wrote about them, and prove it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from provision.errors import ApiError
from provision.fixtures.ids import IdRange
from provision.fixtures.manifest import Manifest
from provision.gateway import BatchTooLarge, Gateway, within

CHUNK = 5_000


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of ours in one table: those whose `column` lies in `ids`."""

    table: str
    column: str
    ids: IdRange


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the rows of one table: how many were found, how many went, how many are left, and why."""

    table: str
    found: int
    removed: int
    left: int
    why: str = ""


def slices(manifest: Manifest) -> list[Slice]:
    """Where rows of the run can be, in the order in which they can be removed: the app's rows, then children first."""
    app = [
        Slice(table, column, owned.ids)
        for table, column in manifest.written_by_app.items()
        for owned in reversed(manifest.tables)
    ]
    return app + [Slice(owned.table, owned.key, owned.ids) for owned in reversed(manifest.tables)]


def survey(gateway: Gateway, manifest: Manifest) -> list[Account]:
    """How many rows of the run there are, without touching one."""
    found = [(part.table, gateway.count(part.table, within(part.column, part.ids))) for part in slices(manifest)]
    return _by_table([Account(table, count, 0, count) for table, count in found])


def remove(gateway: Gateway, manifest: Manifest, done: Callable[[str, int, int], None]) -> list[Account]:
    """Remove the run's rows and count what is left; `done` is told table, rows removed and rows found."""
    parts = slices(manifest)
    before = [gateway.count(part.table, within(part.column, part.ids)) for part in parts]
    reasons = [
        _empty(gateway, part, partial(_tell, done, part.table, found))
        for part, found in zip(parts, before, strict=True)
    ]
    after = [gateway.count(part.table, within(part.column, part.ids)) for part in parts]
    return _by_table(
        Account(part.table, found, found - left, left, reason if left else "")
        for part, found, left, reason in zip(parts, before, after, reasons, strict=True)
    )


def _tell(done: Callable[[str, int, int], None], table: str, found: int, gone: int) -> None:
    done(table, gone, found)


def _empty(gateway: Gateway, part: Slice, done: Callable[[int], None]) -> str:
    """Delete one slice in chunks; the API's words when it refuses."""
    gone, size = 0, CHUNK
    pending = part.ids.split(size)
    while pending:
        chunk = pending.pop(0)
        try:
            gone += gateway.delete(part.table, within(part.column, chunk))
        except BatchTooLarge as error:
            if chunk.count == 1:
                return str(error)
            pending = [*chunk.split(-(-chunk.count // 2)), *pending]
        except ApiError as error:
            return f"{error} {error.hint}".strip()
        else:
            done(gone)
    return ""


def _by_table(accounts: Iterator[Account] | Sequence[Account]) -> list[Account]:
    """The accounts summed for each table, in their order."""
    total: dict[str, Account] = {}
    for one in accounts:
        sofar = total.get(one.table, Account(one.table, 0, 0, 0))
        why = sofar.why or one.why
        total[one.table] = Account(
            one.table, sofar.found + one.found, sofar.removed + one.removed, sofar.left + one.left, why
        )
    return list(total.values())
