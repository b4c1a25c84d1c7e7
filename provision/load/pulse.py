"""The generator's own pulse: how late its loop is and how much of a core it uses, since its queue must not pass for
the server's latency."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter_ns

from provision.load.histogram import Histogram
from provision.load.results import Generator
from provision.load.timer import Timer

BEAT_NS = 10_000_000


class Pulse:
    """While it is beating, a beat every 10 ms whose lateness is kept."""

    def __init__(self) -> None:
        self._late = Histogram()
        self._wall = self._cpu = 0.0

    @asynccontextmanager
    async def beating(self, timer: Timer) -> AsyncIterator[None]:
        """Beat by the timer until the block ends."""
        due = 0
        living = True

        def beat() -> None:
            nonlocal due
            now = perf_counter_ns()
            if due:
                self._late.update([now - due])
            if living:
                due = now + BEAT_NS
                timer.at(due, beat)

        self._wall, self._cpu = -time.perf_counter(), -time.process_time()
        beat()
        try:
            yield
        finally:
            living = False
            self._wall += time.perf_counter()
            self._cpu += time.process_time()

    def summary(self) -> Generator:
        """CPU share (0 to 1 of a core) and lateness in ms."""
        late = list(self._late) or [(0, 1)]
        total = sum(times for _, times in late)
        cpu = self._cpu / self._wall if self._wall > 0 else 0.0
        return Generator(cpu, _at(late, 0.5 * total), _at(late, 0.99 * total), late[-1][0] / 1e6)


def _at(late: list[tuple[int, int]], rank: float) -> float:
    """The lateness of this rank, in ms."""
    for value, times in late:
        rank -= times
        if rank < 0:
            return value / 1e6
    return late[-1][0] / 1e6
