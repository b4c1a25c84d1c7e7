"""Whether latency changed between two runs, by a stated test: a 95 % interval of the relative change of a percentile.

Each run's percentile gets Woodruff's interval (Woodruff 1952): the interval of the share of samples below it, turned
back into latencies. The share's standard error comes from batch means (Schmeiser 1982) of 20 consecutive batches with
Student's t, because neighbouring latencies depend on each other and a formula for independent ones would be too sure.
The two intervals give that of the difference of logarithms by MOVER (Zou & Donner 2008), hence of the ratio. Nothing is
drawn at random. The test at 5 % is: the interval of the change does not hold zero.

The interval covers what varies within the two runs. What differs between them, such as a busier machine, is in it as a
change: runs that are to be compared belong on the same target, side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from provision.load.outcomes import Outcome
from provision.load.results import Results

BATCHES = 20
T_95 = 2.093
"""Student's t, two-sided 95 %, of 19 degrees of freedom."""
FEWEST = 5
"""Samples of a batch from which its share says something."""
STATISTICS = (50.0, 95.0, 99.0)


@dataclass(frozen=True, slots=True)
class Change:
    """A percentile in ms in both runs, and the relative change from the first to the second (0.1: ten per cent slower)
    with its 95 % interval; the interval is None where the samples are too few for one."""

    scenario: str
    percent: float
    before: float
    after: float
    change: float
    interval: tuple[float, float] | None

    @property
    def proven(self) -> bool:
        """Whether latency changed, at 5 %."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def exceeds(self, limit: float) -> bool | None:
        """Whether latency rose by more than `limit`; None when the interval holds the limit, or there is none."""
        if self.interval is None or self.interval[0] <= limit < self.interval[1]:
            return None
        return self.interval[0] > limit


def compare(before: Results, after: Results) -> list[Change]:
    """The change of each percentile of `STATISTICS` in each scenario that both runs measured."""
    first, second = latencies(before), latencies(after)
    return [
        change(scenario, percent, first[scenario], second[scenario])
        for scenario in first
        if scenario in second
        for percent in STATISTICS
    ]


def latencies(results: Results) -> dict[str, list[float]]:
    """The latencies of each measured scenario in ms, in the order of sending; requests that were not sent or that we
    gave up are left out."""
    found: dict[int, list[tuple[int, float]]] = {}
    for record in results.records():
        if results.parts[record.part].measured and record.sent and record.named is not Outcome.INTERRUPTED:
            found.setdefault(record.part, []).append((record.sent, max(1, record.last - record.sent) / 1e6))
    return {results.parts[part].name: [value for _, value in sorted(sent)] for part, sent in sorted(found.items())}


def change(scenario: str, percent: float, before: Sequence[float], after: Sequence[float]) -> Change:
    """The change of one percentile; latencies in ms in the order of sending, at least one of each."""
    first, second = percentile(sorted(before), percent), percentile(sorted(after), percent)
    one, two = interval(before, percent), interval(after, percent)
    ratio = math.log(second / first)
    bounds = None
    if one is not None and two is not None:
        down = math.hypot(math.log(second / two[0]), math.log(one[1] / first))
        up = math.hypot(math.log(two[1] / second), math.log(first / one[0]))
        bounds = (math.expm1(ratio - down), math.expm1(ratio + up))
    return Change(scenario, percent, first, second, math.expm1(ratio), bounds)


def interval(values: Sequence[float], percent: float) -> tuple[float, float] | None:
    """Woodruff's 95 % interval of a percentile with batch means; None when the samples are too few: the batches must
    hold `FEWEST` each, and the percentile must lie that many samples within the run."""
    count, share = len(values), percent / 100
    if count < BATCHES * FEWEST or count * min(share, 1 - share) < FEWEST:
        return None
    ordered = sorted(values)
    middle = percentile(ordered, percent)
    edges = [count * number // BATCHES for number in range(BATCHES + 1)]
    shares = [sum(value <= middle for value in values[start:stop]) / (stop - start) for start, stop in pairwise(edges)]
    mean = math.fsum(shares) / BATCHES
    variance = math.fsum((one - mean) ** 2 for one in shares) / (BATCHES - 1)
    independent = share * (1 - share) * BATCHES / count
    spread = T_95 * math.sqrt(max(variance, independent) / BATCHES)
    low, high = percentile(ordered, 100 * max(0.0, share - spread)), percentile(ordered, 100 * min(1.0, share + spread))
    return min(low, middle), max(high, middle)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """A percentile of ascending values, at least one, with linear interpolation between neighbours as k6 has it."""
    place = percent / 100 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
