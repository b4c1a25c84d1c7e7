"""Whether the server really ran requests side by side: without that, a race that shows no fault has shown nothing."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

from provision.load.outcomes import Outcome
from provision.load.results import NO_ROUND, Results

OVERLAP_SHARE = 0.5
"""A round is contended when at least this share of its requests was in flight before the first reply."""
SIDE_BY_SIDE = 4.0
"""From this effective concurrency on, the server is taken to run requests side by side. Ten scanners behind a single
connection measured up to 3.0, since not all of a wait is the database's; behind twenty, 4.8 and more."""


@dataclass(frozen=True, slots=True)
class Contention:
    """What is known of a run's races: rounds, those contended at the client, replies that prove two transactions met
    (busy, conflict), and the server's effective concurrency (None: not measured)."""

    rounds: int
    overlapping: int
    collisions: int
    concurrency: float | None
    spread_median: float
    spread_p95: float

    @property
    def at_server(self) -> bool:
        """Whether the server is known to have worked on two requests at once."""
        return self.collisions > 0 or (self.concurrency is not None and self.concurrency >= SIDE_BY_SIDE)


def measure(results: Results) -> Contention:
    """The contention of a run's race rounds; spreads in ms."""
    spreads = sorted(round_.spread / 1e6 for round_ in results.rounds) or [0.0]
    races = {number for number, part in enumerate(results.parts) if part.executor == "race"}
    return Contention(
        rounds=len(results.rounds),
        overlapping=sum(round_.overlap >= OVERLAP_SHARE * round_.requests for round_ in results.rounds),
        collisions=sum(r.part in races and r.named in {Outcome.BUSY, Outcome.CONFLICT} for r in results.records()),
        concurrency=effective_concurrency(results),
        spread_median=statistics.median(spreads),
        spread_p95=spreads[min(len(spreads) - 1, int(0.95 * len(spreads)))],
    )


def effective_concurrency(results: Results) -> float | None:
    """How many of N requests on N different tickets, released together, the server works on at once: N times the wait
    for the first reply over the wait for the last, the lower quartile of the control rounds. None without controls.

    One after the other, the first reply is there after 1/N of the time; side by side, all come late and together. Other
    than a comparison with requests sent alone, this takes neither the pipelining of API and database for concurrency,
    nor a lack of processors for its absence. A machine that stalls delays the first reply too: hence the quartile.
    """
    together = _controls(results)
    if not together:
        return None
    shares = sorted(len(waits) * min(waits) / max(waits) for waits in together)
    return shares[len(shares) // 4]


def _controls(results: Results) -> list[list[int]]:
    """The waits for the replies of each control round, in ns since its first send."""
    controls = {number for number, part in enumerate(results.parts) if part.executor == "control"}
    rounds: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for record in results.records():
        if record.part in controls and record.sent and record.round != NO_ROUND:
            rounds[record.part, record.round].append((record.sent, record.last))
    starts = {key: min(sent for sent, _ in times) for key, times in rounds.items()}
    return [[last - starts[key] for _, last in times] for key, times in rounds.items()]
