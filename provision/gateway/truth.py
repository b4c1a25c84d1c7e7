"""The snapshot: what the database says of a run's tickets after the load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from provision.audit.evidence import Snapshot
from provision.errors import ScenarioError
from provision.fixtures.ids import Range
from provision.fixtures.schema import Schema
from provision.gateway import Filter, Gateway, Row, among, chunks
from provision.load.spec import Evidence, Truth
from provision.yamlfile import unknown

FEW = 1000
"""Up to so many tickets are asked for by name."""


def take(
    gateway: Gateway, schema: Schema, truth: Truth, ids: Sequence[Range], only: Collection[str] | None = None
) -> Snapshot:
    """Who was let in, of the tickets in `ids`, or of those that are named `only`."""

    def rows(evidence: Evidence, *columns: str) -> Iterator[Row]:
        """The rows that count."""
        for some in _selections(evidence.ticket, ids, only):
            where = [*some, *conditions(evidence.where)]
            yield from gateway.select(evidence.table, [evidence.ticket, *columns], where, key=_key(schema, evidence))

    def tickets(evidence: Evidence) -> Iterator[str]:
        return (str(row[evidence.ticket]) for row in rows(evidence))

    def scanned_at(evidence: Evidence, column: str) -> dict[str, str]:
        return {str(row[evidence.ticket]): row[column] for row in rows(evidence, column) if row[column]}

    consumed = None if truth.consumed is None else frozenset(tickets(truth.consumed))
    entries = None if truth.entries is None else Counter(tickets(truth.entries))
    dated = truth.dated and truth.dated.scanned_at
    return Snapshot(consumed, entries, scanned_at=scanned_at(truth.dated, dated) if truth.dated and dated else None)


def count(gateway: Gateway, evidence: Evidence, ids: Sequence[Range]) -> int:
    """How many rows a table has about the tickets in `ids`, whatever they say."""
    return sum(gateway.count(evidence.table, where) for where in among(evidence.ticket, ids))


def _selections(column: str, ids: Sequence[Range], only: Collection[str] | None) -> Iterator[Sequence[Filter]]:
    """The conditions whose rows together are those of all tickets, or of a few."""
    if only is None or len(only) > FEW:
        yield from among(column, ids)
        return
    for few in chunks(only):
        yield (Filter(column, "in", few),)


def rows_of(gateway: Gateway, schema: Schema, truth: Truth, tickets: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """All rows about a few tickets, for the eyes of whoever must find the fault."""
    found: dict[str, list[dict[str, Any]]] = {ticket: [] for ticket in tickets}
    for evidence in filter(None, (truth.consumed, truth.entries)):
        columns = sorted(
            {evidence.ticket, *evidence.where, *filter(None, [evidence.scanned_at]), *_telling(schema, evidence.table)}
        )
        for ticket, rows in found.items():
            where = [Filter(evidence.ticket, "eq", ticket)]
            for row in gateway.select(evidence.table, columns, where, key=_key(schema, evidence)):
                rows.append({"table": evidence.table, **row})
    return found


def _telling(schema: Schema, table: str) -> list[str]:
    """The columns that say when and by whom."""
    words = ("_at", "device", "gate", "scanned_by")
    return [name for name in schema.tables[table].columns if any(word in name for word in words)]


def check(schema: Schema, truth: Truth) -> None:
    """Raise ScenarioError when the scenario's truth names a table or column that is not there."""
    for role, evidence in (("consumed", truth.consumed), ("entries", truth.entries)):
        if evidence is None:
            continue
        if evidence.table not in schema.tables:
            raise ScenarioError(f"truth.{role}: {unknown('table', evidence.table, schema.tables)}")
        columns = schema.tables[evidence.table].columns
        for name in filter(None, (evidence.ticket, *evidence.where, evidence.scanned_at)):
            if name not in columns:
                raise ScenarioError(f"truth.{role}: {unknown('column', name, columns)}")
        if evidence.scanned_at and not columns[evidence.scanned_at].format.startswith("timestamp"):
            raise ScenarioError(f"truth.{role}: the column {evidence.scanned_at!r} holds no timestamp")
        _key(schema, evidence)


def _key(schema: Schema, evidence: Evidence) -> str:
    key = schema.tables[evidence.table].key
    if key is None:
        raise ScenarioError(f"truth: table {evidence.table!r} has no single primary key to page by")
    return key.name


def conditions(where: dict[str, Any]) -> list[Filter]:
    """A scenario's `where` as filters: true, false and null by `is`, lists by `in`, the rest by `eq`."""
    return [_condition(name, value) for name, value in where.items()]


def _condition(name: str, value: Any) -> Filter:
    if value is None or isinstance(value, bool):
        return Filter(name, "is", value)
    return Filter(name, "in" if isinstance(value, list) else "eq", value)
