"""Durations counted instead of kept, in memory that does not grow with their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

EXACT = 20_000
"""Up to so many different values they are counted as they are."""
_BITS = 11


class Histogram:
    """Durations in ns with how often each came; when they become many, rounded to 0.05 %."""

    __slots__ = ("_counts", "_room")

    def __init__(self, values: Iterable[int] = ()) -> None:
        self._counts: Counter[int] = Counter()
        self._room = EXACT
        self.update(values)

    def update(self, values: Iterable[int]) -> None:
        """Count more durations, some ten thousand at a time."""
        self._counts.update(values)
        self._fit()

    def merge(self, other: Histogram) -> None:
        """Count another histogram's durations as well."""
        self._counts.update(other._counts)
        self._fit()

    def _fit(self) -> None:
        if len(self._counts) <= self._room:
            return
        rounded: Counter[int] = Counter()
        for value, times in self._counts.items():
            rounded[_rounded(value)] += times
        self._counts = rounded
        self._room = max(EXACT, 2 * len(rounded))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each value and how often it came, ascending."""
        return iter(sorted(self._counts.items()))

    def __len__(self) -> int:
        return self._counts.total()


def _rounded(value: int) -> int:
    """The middle of the bucket of a value; a bucket is less than 0.1 % wide."""
    drop = value.bit_length() - _BITS
    return value if drop <= 0 else (value >> drop << drop) + (1 << drop - 1)
