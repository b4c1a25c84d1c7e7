"""The only door to Supabase for provisioning: five verbs, each safe to repeat, behind one protocol.

`supabase` is the real one, `memory` the double that ships for tests; one contract suite runs on both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from provision.errors import ApiError
from provision.fixtures.ids import IdRange
from provision.fixtures.schema import Schema

Row = Mapping[str, Any]


class Filter(NamedTuple):
    """One condition, in PostgREST's words."""

    column: str
    operator: Literal["eq", "gte", "lte", "gt", "is", "in"]
    value: Any


class BatchTooLarge(ApiError):
    """The statement timed out or the body was too large (57014, 413): nothing was written, fewer rows may pass."""


class Gateway(Protocol):
    """Reads and writes rows as the API's service role. Every verb raises TargetError in a user's words."""

    def schema(self) -> Schema:
        """The live schema."""

    def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
        """Write rows whose `key` we chose; rows that are already there stay as they are."""

    def count(self, table: str, where: Sequence[Filter]) -> int:
        """The exact number of rows that meet all conditions."""

    def select(self, table: str, columns: Sequence[str], where: Sequence[Filter], *, key: str) -> Iterator[Row]:
        """All rows that meet the conditions, in the order of `key` (unique), however many there are."""

    def delete(self, table: str, where: Sequence[Filter]) -> int:
        """Remove the rows that meet the conditions, at least one condition being given; how many went."""

    def close(self) -> None:
        """Let go of the connection."""


def within(column: str, ids: IdRange) -> tuple[Filter, Filter]:
    """The conditions that hold for exactly the rows of one of our ranges of ids."""
    return Filter(column, "gte", ids.low), Filter(column, "lte", ids.high)
