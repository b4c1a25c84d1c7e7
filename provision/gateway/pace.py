"""How many rows go into a request and how many requests are in flight: more while it pays, fewer when it hurts."""

from __future__ import annotations

from dataclasses import dataclass, field

SMALLEST_GAIN = 1.1
LEAST = 1_000
LONGEST = 2.0
"""Seconds that a request may take and batches still grow; the API ends a statement after 8."""


@dataclass(slots=True)
class Pace:
    """`size` rows a request, `window` requests at once; told of each request that ended. The first goes alone, and
    after any that had to be sent again they become more one by one."""

    size: int = 1_000
    most: int = 2_000
    flights: int = 4
    window: int = 1
    _rates: dict[int, float] = field(default_factory=dict)
    _careful: bool = False

    def took(self, rows: int, seconds: float, *, calm: bool, beside: int = 0) -> None:
        """A request went well with so many others in flight; `calm` when none had to be sent again. Doubles the size
        if the last doubling paid: by Little's law what is in flight over the time of one is what all get done."""
        self._careful = self._careful or not calm
        self.window = 1 if not calm else min(self.flights, self.window + 1) if self._careful else self.flights
        if rows != self.size or not calm:
            return
        rate = rows * (1 + beside) / max(seconds, 1e-6)
        if rate < SMALLEST_GAIN * self._rates.get(rows // 2, 0) or seconds > LONGEST:
            self.most = self.size
            return
        self._rates[rows] = rate
        self.size = min(self.most, self.size * 2)

    def next(self, left: int) -> int:
        """Rows of the next request when so many are left: at the end fewer, so that all flights end together."""
        return min(self.size, max(LEAST, -(-left // self.flights)))

    def too_large(self, rows: int) -> None:
        """A request of so many rows was refused: half of it is the most from now on, and one request at a time."""
        self.most = self.size = max(1, min(self.most, rows // 2))
        self.window = self.flights = 1
