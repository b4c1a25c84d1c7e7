"""The snapshot: what the database says of a run's tickets after the load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from provision.audit.evidence import Snapshot
from provision.errors import ScenarioError
from provision.fixtures.ids import Range
from provision.fixtures.schema import Schema
from provision.gateway import Filter, Gateway, Row, among
from provision.load.spec import Evidence, Truth
from provision.yamlfile import unknown


def take(gateway: Gateway, schema: Schema, truth: Truth, ids: Sequence[Range]) -> Snapshot:
    """Who was let in, of the tickets in `ids`."""
    consumed = None if truth.consumed is None else frozenset(_tickets(gateway, schema, truth.consumed, ids))
    entries = None if truth.entries is None else Counter(_tickets(gateway, schema, truth.entries, ids))
    return Snapshot(consumed, entries, scanned_at=_scanned_at(gateway, schema, truth.dated, ids))


def count(gateway: Gateway, evidence: Evidence, ids: Sequence[Range]) -> int:
    """How many rows a table has about the tickets in `ids`, whatever they say."""
    return sum(gateway.count(evidence.table, where) for where in among(evidence.ticket, ids))


def _tickets(gateway: Gateway, schema: Schema, evidence: Evidence, ids: Sequence[Range]) -> Iterable[str]:
    """The ticket of each row that counts."""
    return (str(row[evidence.ticket]) for row in _rows(gateway, schema, evidence, [evidence.ticket], ids))


def _scanned_at(
    gateway: Gateway, schema: Schema, evidence: Evidence | None, ids: Sequence[Range]
) -> dict[str, str] | None:
    """When the database says that each ticket was scanned; None when the scenario does not say where that stands."""
    if evidence is None or evidence.scanned_at is None:
        return None
    rows = _rows(gateway, schema, evidence, [evidence.ticket, evidence.scanned_at], ids)
    return {str(row[evidence.ticket]): row[evidence.scanned_at] for row in rows if row[evidence.scanned_at]}


def _rows(
    gateway: Gateway, schema: Schema, evidence: Evidence, columns: Sequence[str], ids: Sequence[Range]
) -> Iterator[Row]:
    """Some columns of the rows that count, of the tickets in `ids`."""
    for some in among(evidence.ticket, ids):
        where = [*some, *conditions(evidence.where)]
        yield from gateway.select(evidence.table, columns, where, key=_key(schema, evidence))


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
