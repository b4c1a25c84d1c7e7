"""The only door to Supabase for provisioning: a few verbs, each safe to repeat, behind one protocol.

`supabase` is the real one, `memory` the double that ships for tests; one contract suite runs on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

from provision.errors import ApiError
from provision.fixtures.ids import Range
from provision.fixtures.schema import Schema

Row = Mapping[str, Any]
T = TypeVar("T")


class Filter(NamedTuple):
    """One condition, in PostgREST's words; `has` is not null, `lacks` a text without a part, `outside` null, below or
    above a (low, high) range, `among` in one of several such ranges."""

    column: str
    operator: Literal["eq", "gte", "lte", "gt", "is", "in", "has", "match", "lacks", "outside", "among"]
    value: Any


class BatchTooLarge(ApiError):
    """The statement timed out or the body was too large (57014, 413): nothing was written, fewer rows may pass."""


FEWEST = 10
"""So many rows that came together, or look as the run's would, are nobody's coincidence."""
PARTED = 2 * FEWEST
"""Fewer rows whose ids the database makes are not parted before they were tried again: their parts would be too few to
be told when a reply is lost."""
Look = Callable[[], Sequence[Row]]


class Gateway(Protocol):
    """Reads and writes rows as the API's service role, for several threads at once. Every verb raises TargetError in a
    user's words; `retries` counts the requests that were sent again."""

    retries: int

    def schema(self) -> Schema:
        """The live schema."""

    def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
        """Write rows whose `key` we chose; rows that are already there stay as they are."""

    def add(self, table: str, rows: Sequence[Row], *, columns: Sequence[str], look: Look) -> Sequence[Row]:
        """Write rows whose key the database makes and return `columns` of each, in their order; before a repetition
        `look` says which are there already, none if the first attempt was not applied."""

    def count(self, table: str, where: Sequence[Filter]) -> int:
        """The exact number of rows that meet all conditions."""

    def select(self, table: str, columns: Sequence[str], where: Sequence[Filter], *, key: str) -> Iterator[Row]:
        """All rows that meet the conditions, in the order of `key` (unique), however many there are."""

    def last(self, table: str, column: str, where: Sequence[Filter]) -> Any:
        """The largest value of a column among the rows that meet all conditions; None when there is none."""

    def delete(self, table: str, where: Sequence[Filter]) -> int:
        """Remove the rows that meet the conditions, at least one condition being given; how many went."""

    def close(self) -> None:
        """Let go of the connection."""


CHUNK = 100
"""Keys or ranges of keys in a URL, which must stay below 16 kB."""
LONGEST = 8_000
"""Characters that texts may take in a URL."""


def within(column: str, ids: Range) -> tuple[Filter, Filter]:
    """The conditions that hold for exactly the rows of one of our ranges of ids."""
    return Filter(column, "gte", ids.low), Filter(column, "lte", ids.high)


def among(column: str, parts: Iterable[Range]) -> Iterator[tuple[Filter, ...]]:
    """Conditions that fit a URL and together hold for exactly the rows of some ranges of ids, for each row one."""
    for few in chunks(parts):
        yield (
            within(column, few[0])
            if len(few) == 1
            else (Filter(column, "among", [(part.low, part.high) for part in few]),)
        )


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """The values in lists that fit a URL."""
    left = iter(values)
    while chunk := list(islice(left, CHUNK)):
        yield chunk


def text_chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists that fit a URL, in which a letter of another script takes up to twelve characters."""
    chunk: list[str] = []
    length = 0
    for text in texts:
        more = len(quote(f'"{text}",', safe=""))
        if chunk and length + more > LONGEST:
            yield chunk
            chunk, length = [], 0
        chunk.append(text)
        length += more
    if chunk:
        yield chunk
