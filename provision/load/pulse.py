"""The generator's own pulse: how late its loop is, how much of a core it uses and how long it waits for one, since its
queue must not pass for the server's latency."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter_ns

from provision.load.histogram import Histogram
from provision.load.results import SIZE, Generator, Journal, Strain
from provision.load.timer import Timer

BEAT_NS = 7_300_000
"""No divisor of the pauses and ticks of a run, so that beats don't always meet the same work."""
SATURATED = 0.9
"""From this share of a core on, used or waited for, the generator is taken to be at its limit."""
SHORT = 0.1
"""A load that was over within so many s tells nothing of the core that a longer one would need."""
_RUN_QUEUE = Path("/proc/thread-self/schedstat")


@dataclass(slots=True)
class _Part:
    """What adds up over the windows in which requests of a part ended."""

    requests: int = 0
    cpu: float = 0.0
    waited: float = 0.0
    lag: float = 0.0
    saturated: int = 0
    late: Histogram = field(default_factory=Histogram)


class Pulse:
    """While it is beating, the lateness of each beat; `window` ends a stretch of time and weighs it by its requests."""

    def __init__(self) -> None:
        self._parts: dict[int, _Part] = {}
        self._late: list[int] = []
        self._all = Histogram()
        self._began = self._since = (0.0, 0.0, 0.0)

    @asynccontextmanager
    async def beating(self, timer: Timer) -> AsyncIterator[None]:
        """Beat by the timer until the block ends; the beats that a stall swallows count as if each had been awaited."""
        due = perf_counter_ns() + BEAT_NS
        living = True

        def beat() -> None:
            nonlocal due
            now = perf_counter_ns()
            while due <= now:
                self._late.append(now - due)
                due += BEAT_NS
            if living:
                timer.at(due, beat)

        self._began = self._since = _clocks()
        timer.at(due, beat)
        try:
            yield
        finally:
            living = False

    def window(self, records: Journal) -> None:
        """End a window of time, in which these records were written."""
        now = _clocks()
        wall, cpu, waited = (b - a for a, b in zip(self._since, now, strict=True))
        late, self._late, self._since = self._late, [], now
        self._all.update(late)
        if wall <= 0:
            return
        lag = sum(late) / len(late) if late else 0.0
        saturated = wall >= SHORT and (cpu + waited) / wall >= SATURATED
        with memoryview(records).cast("q") as longs:
            words = Counter(longs[0 :: SIZE // 8])
        for word, times in words.items():
            part = self._parts.setdefault(word & 0xFFFF, _Part())
            part.requests += times
            part.cpu += times * cpu / wall
            part.waited += times * waited / wall
            part.lag += times * lag
            part.saturated += times * saturated
        for number in {word & 0xFFFF for word in words}:
            self._parts[number].late.update(late)

    def summary(self) -> Generator:
        """The course as a whole, and what each part's requests met, shares of a core from 0 to 1, lateness in ms."""
        wall, cpu, waited = (b - a for a, b in zip(self._began, self._since, strict=True))
        shares = (cpu / wall, waited / wall) if wall > 0 else (0.0, 0.0)
        strains = tuple(
            Strain(
                part=number,
                requests=part.requests,
                cpu=part.cpu / part.requests,
                waited=part.waited / part.requests,
                lag=part.lag / part.requests / 1e6,
                lag_p95=_at(part.late, 0.95),
                lag_p99=_at(part.late, 0.99),
                lag_max=_at(part.late, 1.0),
                saturated=part.saturated / part.requests,
            )
            for number, part in sorted(self._parts.items())
        )
        cpu_share, waited_share = shares
        p50, p99, most = (_at(self._all, share) for share in (0.5, 0.99, 1.0))
        return Generator(cpu_share, p50, p99, most, waited_share, strains)


def _clocks() -> tuple[float, float, float]:
    """Seconds of wall time, of CPU, and of waiting for a core with work to do; the last stays 0 where no system tells.

    The kernel counts it in the second field of `schedstat`, in ns (Documentation/scheduler/sched-stats.rst).
    """
    try:
        waited = int(_RUN_QUEUE.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        waited = 0.0
    return time.perf_counter(), time.process_time(), waited


def _at(late: Histogram, share: float) -> float:
    """The lateness of this rank, in ms; 0 without beats."""
    rank, reached = share * len(late), 0
    for value, times in late:
        reached = value
        rank -= times
        if rank < 0:
            break
    return reached / 1e6
