"""The gateway's double: tables in memory with primary and foreign keys, for tests and dry runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from provision.errors import ApiError
from provision.fixtures.schema import Schema
from provision.gateway import Filter, Look, Row

_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": lambda cell, value: cell == value,
    "gte": lambda cell, value: cell is not None and cell >= value,
    "lte": lambda cell, value: cell is not None and cell <= value,
    "gt": lambda cell, value: cell is not None and cell > value,
    "is": lambda cell, value: cell is value,
    "in": lambda cell, value: cell in value,
    "has": lambda cell, value: cell is not None,
    "match": lambda cell, value: cell is not None and re.search(value, cell) is not None,
    "lacks": lambda cell, value: cell is not None and value not in cell,
    "among": lambda cell, value: cell is not None and any(low <= cell <= high for low, high in value),
    "outside": lambda cell, value: cell is None or cell < value[0] or cell > value[1],
}


class MemoryGateway:
    """A database of dictionaries; `cascades` names the (table, column) whose foreign key deletes with its parent."""

    def __init__(self, schema: Schema, cascades: frozenset[tuple[str, str]] = frozenset()) -> None:
        self._schema = schema
        self._cascades = cascades
        self.rows: dict[str, dict[Any, dict[str, Any]]] = {name: {} for name in schema.tables}
        self.retries = 0
        self._made = self._transactions = 0
        self._written: dict[tuple[str, Any], str] = {}
        """The transaction that wrote each row."""

    def schema(self) -> Schema:
        return self._schema

    def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
        for row in rows:
            self._check(table, row)
        self._transactions += 1
        for row in rows:
            if row[key] not in self._table(table):
                self._table(table)[row[key]] = dict(row)
                self._written[table, row[key]] = str(self._transactions)

    def add(self, table: str, rows: Sequence[Row], *, columns: Sequence[str], look: Look) -> Sequence[Row]:
        key = next(name for name in columns if self._schema.tables[table].columns[name].primary)
        written = []
        for row in rows:
            self._made += 1
            written.append({**row, key: self._made})
        self.insert(table, written, key=key)
        return [{name: row.get(name) for name in columns} for row in written]

    def count(self, table: str, where: Sequence[Filter]) -> int:
        return sum(1 for _ in self._matching(table, where))

    def select(self, table: str, columns: Sequence[str], where: Sequence[Filter], *, key: str) -> Iterator[Row]:
        rows = sorted(self._matching(table, where), key=lambda row: row[key])
        for row in rows:
            shown = {**row, "xmin": self._written.get((table, row[key]))}
            yield {name: shown.get(name) for name in dict.fromkeys([key, *columns])}

    def last(self, table: str, column: str, where: Sequence[Filter]) -> Any:
        return max((row[column] for row in self._matching(table, where) if row.get(column) is not None), default=None)

    def delete(self, table: str, where: Sequence[Filter]) -> int:
        if not where:
            raise ValueError("a delete without a condition")
        doomed = list(self._matching(table, where))
        for row in doomed:
            self._release(table, row)
        rows = self._table(table)
        for key in [key for key, row in rows.items() if row in doomed]:
            del rows[key]
        return len(doomed)

    def close(self) -> None:
        """Nothing is open."""

    def _table(self, name: str) -> dict[Any, dict[str, Any]]:
        if name not in self.rows:
            raise ApiError(f"Could not find the table '{name}' (PGRST205)", sqlstate="PGRST205", status=404)
        return self.rows[name]

    def _matching(self, table: str, where: Sequence[Filter]) -> Iterator[dict[str, Any]]:
        for row in self._table(table).values():
            if all(_OPERATORS[f.operator](row.get(f.column), f.value) for f in where):
                yield row

    def _check(self, table: str, row: Row) -> None:
        """Raise what PostgREST would for a missing value, an unknown column or a missing parent."""
        self._table(table)
        columns = self._schema.tables[table].columns
        for name in row:
            if name not in columns:
                raise ApiError(f"no column '{name}' in '{table}' (PGRST204)", sqlstate="PGRST204", status=400)
        for column in columns.values():
            value = row.get(column.name)
            if value is None and column.must_be_given:
                raise ApiError(f'null value in column "{column.name}" (23502)', sqlstate="23502", status=400)
            if value is not None and column.references and not self._exists(column.references, value):
                raise ApiError(f'foreign key of "{column.name}" (23503)', sqlstate="23503", status=409)

    def _exists(self, reference: tuple[str, str], value: Any) -> bool:
        table, column = reference
        return any(row.get(column) == value for row in self._table(table).values())

    def _release(self, table: str, row: Row) -> None:
        """Delete what hangs on the row, or refuse as a foreign key does."""
        for child, column, referenced in self._schema.referencing(table):
            where = (Filter(column, "eq", row.get(referenced)),)
            if (child, column) in self._cascades:
                self.delete(child, where)
            elif self.count(child, where):
                raise ApiError(f"row is still referenced from table '{child}' (23503)", sqlstate="23503", status=409)
