"""How sure a count of rounds makes us: exact bounds of Clopper and Pearson (Biometrika 26, 1934) on a rate."""

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
    logs = (
        math.lgamma(rounds + 1)
        - math.lgamma(k + 1)
        - math.lgamma(rounds - k + 1)
        + k * math.log(rate)
        + (rounds - k) * math.log1p(-rate)
        for k in range(hits + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))


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
