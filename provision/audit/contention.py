"""Whether the server really ran requests side by side: without that, a race that shows no fault has shown nothing."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import groupby

from provision.audit.evidence import overlapped
from provision.load.outcomes import Outcome
from provision.load.overtaking import shows
from provision.load.results import Probe, Raced, Results


@dataclass(frozen=True, slots=True)
class Contention:
    """What is known of a run's races: rounds, those contended at the client, replies that say that two transactions
    met (busy, conflict), how many requests the server works on at once (at least; None: not measured), what kept that
    from being measured, release spreads in ms, and the release modes with their reasons."""

    rounds: int
    overlapping: int
    collisions: int
    concurrency: int | None
    unprobed: str
    spread_median: float
    spread_p95: float
    release: str

    @property
    def at_server(self) -> bool:
        """Whether the server is known to have worked on two requests at once. A probe outweighs replies: a gate can
        answer busy out of a flag that it keeps, without another transaction being there."""
        return self.collisions > 0 if self.concurrency is None else self.concurrency > 1


def measure(results: Results) -> Contention:
    """The contention of a run's race rounds."""
    spreads = sorted(round_.spread / 1e6 for round_ in results.rounds) or [0.0]
    races = {number for number, part in enumerate(results.parts) if part.executor == "race"}
    known = [found for race in results.races if (found := concurrency(race)) is not None]
    return Contention(
        rounds=len(results.rounds),
        overlapping=sum(map(overlapped, results.rounds)),
        collisions=sum(r.part in races and r.named in {Outcome.BUSY, Outcome.CONFLICT} for r in results.records()),
        concurrency=min(known) if known and (1 in known or len(known) == len(results.races)) else None,
        unprobed=next((race.unprobed for race in results.races if race.unprobed), ""),
        spread_median=statistics.median(spreads),
        spread_p95=spreads[min(len(spreads) - 1, int(0.95 * len(spreads)))],
        release="; ".join(dict.fromkeys(map(_release, results.races))),
    )


def _release(race: Raced) -> str:
    return f"{race.mode} ({race.why})"


def concurrency(race: Raced) -> int | None:
    """How many requests the server works on at once, at least: one more than the most slow reads that a scan overtook.

    1 when no scan overtook a single read before the race, or none after it; None without a valid probe.
    """
    found = [_climbed(probes) for probes in (race.before, race.after) if any(probe.ended for probe in probes)]
    return None if not found else 1 if 1 in found else max(found)


def _climbed(probes: tuple[Probe, ...]) -> int:
    valid = [probe for probe in probes if probe.ended]
    steps = [list(step) for _, step in groupby(valid, key=lambda probe: probe.blockers)]
    return 1 + max((step[0].blockers for step in steps if shows(step)), default=0)
