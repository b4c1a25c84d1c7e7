"""How sure a count makes us: exact bounds of Clopper and Pearson (Biometrika 26, 1934) on a rate of rounds, and of
order statistics on a percentile (Conover 1999, §3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable

CONFIDENCE = 0.95


def upper(hits: int, rounds: int, confidence: float = CONFIDENCE) -> float:
    """The highest rate (0 to 1) at which `hits` or fewer of `rounds` are no rarer than 1 − `confidence`; one-sided."""
    if hits >= rounds:
        return 1.0
    return _bisect(lambda rate: at_most(hits, rounds, rate) > 1 - confidence)


def lower(hits: int, rounds: int, confidence: float = CONFIDENCE) -> float:
    """The lowest rate at which `hits` or more of `rounds` are no rarer than 1 − `confidence`; one-sided."""
    if hits <= 0:
        return 0.0
    return _bisect(lambda rate: 1 - at_most(hits - 1, rounds, rate) < 1 - confidence)


def at_most(hits: int, rounds: int, rate: float) -> float:
    """The probability of at most `hits` of `rounds` at this rate: the binomial distribution's lower tail."""
    if not 0 < rate < 1:
        return 1.0 if rate <= 0 or hits >= rounds else 0.0
    return min(1.0, math.fsum(math.exp(_log_chance(k, rounds, rate)) for k in range(hits + 1)))


def ranks(samples: int, share: float, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """Between which samples in ascending order (from 1) a percentile lies; two-sided. 0 and `samples` + 1 stand for
    bounds that so few samples do not give. `share` is the percentile's, 0 to 1.

    What lies below a percentile of all is binomial among the samples: its distribution is summed up from where it
    begins to matter, 12 standard deviations below its mean, so that a million samples take no longer than they must.
    """
    if not 0 < share < 1:
        return (samples, samples + 1) if share >= 1 else (0, min(1, samples + 1))
    tail = (1 - confidence) / 2
    spread = 12 * math.sqrt(samples * share * (1 - share)) + 12
    below, low = max(0, math.floor(samples * share - spread)), 0
    chance = math.exp(_log_chance(below, samples, share))
    total = chance
    while total < 1 - tail and below < samples:
        if total <= tail:
            low = below + 1
        chance *= (samples - below) / (below + 1) * share / (1 - share)
        below += 1
        total += chance
    return low, below + 1


def samples_for(share: float, confidence: float = CONFIDENCE) -> int:
    """How many samples give a percentile of this share (0 to 1, both exclusive) an upper bound."""
    return math.ceil(math.log((1 - confidence) / 2) / math.log(share))


def _log_chance(hits: int, rounds: int, rate: float) -> float:
    """The logarithm of the probability of exactly `hits` of `rounds` at a rate between 0 and 1."""
    ways = math.lgamma(rounds + 1) - math.lgamma(hits + 1) - math.lgamma(rounds - hits + 1)
    return ways + hits * math.log(rate) + (rounds - hits) * math.log1p(-rate)


def _bisect(below: Callable[[float], bool]) -> float:
    """Where a condition that holds up to some rate ceases to hold."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return high


def rounds_for(bound: float, confidence: float = CONFIDENCE) -> int:
    """How many rounds without a hit put the rate below `bound` (0 to 1, both exclusive)."""
    return math.floor(math.log(1 - confidence) / math.log1p(-bound)) + 1
