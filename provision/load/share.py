"""Which part of a load one of several processes carries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """The share number `index` of `of`: every `of`-th VU and arrival, counted over all processes."""

    index: int = 0
    of: int = 1

    def within(self, size: int) -> range:
        """The numbers below `size` that are this share's."""
        return range(self.index, size, self.of)

    def at_most(self, most: int) -> Share | None:
        """This share when no more than `most` can take part; None when it is left out."""
        return Share(self.index, min(self.of, most)) if self.index < most else None
