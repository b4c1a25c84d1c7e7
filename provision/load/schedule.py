"""What the executors mean in time. Pure: all times are seconds since the executor's start; the semantics are k6's.

Closed model: a VU begins iterations inside its spans, and an iteration in flight may end until the span gives it up.
Open model: the n-th iteration is due at a time of its own, whatever became of the others.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from itertools import count
from typing import NamedTuple

from provision.load.executors import (
    ClosedModel,
    ConstantArrivalRate,
    ConstantVus,
    OpenModel,
    PerVuIterations,
    RampingArrivalRate,
    RampingVus,
    SharedIterations,
    Stage,
)

_EPS = 1e-9
"""Relative room for the rounding of decimal durations, so that 60 s of 0.1 s are 600 pauses."""


class Span(NamedTuple):
    """A VU begins iterations from `start` until before `stop`; what it has in flight is given up at `give_up`."""

    start: float
    stop: float
    give_up: float


# -- the closed model


def most_vus(executor: ClosedModel | OpenModel) -> int:
    """The largest number of VUs that an executor uses."""
    if isinstance(executor, RampingVus):
        return max(executor.startVUs, *(stage.target for stage in executor.stages))
    return executor.vus if isinstance(executor, ClosedModel) else executor.most_vus


def spans(executor: ClosedModel, vu: int) -> list[Span]:
    """When the VU number `vu` (from 0) is active, in order and apart."""
    if not isinstance(executor, RampingVus):
        return [Span(0.0, executor.length, executor.length + executor.gracefulStop)]
    last = executor.length + executor.gracefulStop
    found: list[Span] = []
    for start, stop, ramped_down in _active(executor, vu):
        found.append(Span(start, stop, min(stop + executor.gracefulRampDown, last) if ramped_down else last))
    for number in range(len(found) - 2, -1, -1):  # called back before it was given up: it simply goes on
        if found[number].give_up >= found[number + 1].start:
            found[number] = found[number]._replace(give_up=found[number + 1].give_up)
    return found


def _active(executor: RampingVus, vu: int) -> Iterator[tuple[float, float, bool]]:
    """The times between which a ramping VU is wanted, and whether a ramp ends it: on a ramp from a to b VUs in time d,
    VU number v is called at (v + 1 - a) / (b - a) of d, and sent away at (a - v) / (a - b) of d."""
    since = 0.0 if vu < executor.startVUs else None
    for begin, before, stage in _stages(executor.startVUs, executor.stages):
        if since is None and stage.target > vu:
            since = begin + stage.duration * (vu + 1 - before) / (stage.target - before)
        elif since is not None and stage.target <= vu:
            until = begin + stage.duration * (before - vu) / (before - stage.target)
            if until > since:
                yield since, until, True
            since = None
    if since is not None and since < executor.length:
        yield since, executor.length, False


def _stages(first: int, stages: list[Stage]) -> Iterator[tuple[float, int, Stage]]:
    """Each stage with the time at which it begins and the value from which it goes."""
    begin, before = 0.0, first
    for stage in stages:
        yield begin, before, stage
        begin, before = begin + stage.duration, stage.target


def next_start(active: list[Span], earliest: float) -> tuple[float, Span] | None:
    """The first moment from `earliest` on in which a VU with these spans may begin; None when there is none."""
    for span in active:
        if earliest < span.stop * (1 - _EPS):
            return max(earliest, span.start), span
    return None


def pauses(executor: ClosedModel | OpenModel, seed: str) -> Callable[[], float]:
    """How long to pause, each time anew where a range is given; the same seed gives the same pauses."""
    low, high = executor.pause
    if low == high:
        return lambda: low
    draw = random.Random(seed).uniform  # noqa: S311 - a spread, not a secret
    return lambda: draw(low, high)


def iterations_in_all(executor: ClosedModel) -> int | None:
    """How many iterations an executor is to do; None where time alone decides."""
    if isinstance(executor, PerVuIterations):
        return executor.vus * executor.iterations
    return executor.iterations if isinstance(executor, SharedIterations) else None


# -- the open model


def due(executor: OpenModel, number: int) -> float | None:
    """When the iteration `number` (from 0) is to begin; None when the executor ends before."""
    if isinstance(executor, ConstantArrivalRate):
        at = number * executor.timeUnit / executor.rate
        return at if at < executor.duration * (1 - _EPS) else None
    return _ramp_reaches(executor, number + 1)


def arrivals(executor: OpenModel, first: int = 0, step: int = 1) -> Iterator[float]:
    """The times at which the iterations `first`, `first + step`, … are due, in order."""
    for number in count(first, step):
        at = due(executor, number)
        if at is None:
            return
        yield at


def _ramp_reaches(executor: RampingArrivalRate, wanted: int) -> float | None:
    """When a ramp has let in so many: the inverse of the area under the rate."""
    area = float(wanted)
    for begin, before, stage in _stages(executor.startRate, executor.stages):
        low, high = before / executor.timeUnit, stage.target / executor.timeUnit
        whole = (low + high) / 2 * stage.duration
        if area <= whole * (1 + _EPS):
            slope = (high - low) / stage.duration
            root = math.sqrt(max(0.0, low * low + 2 * slope * area))
            return begin + min(stage.duration, 2 * area / (low + root))
        area -= whole
    return None


# -- how much of it


def most_iterations(executor: ClosedModel | OpenModel) -> int | None:
    """The largest number of iterations that can begin; None when nothing bounds it (no pause, no count)."""
    if isinstance(executor, ConstantArrivalRate):
        return math.ceil(executor.duration * executor.rate / executor.timeUnit * (1 - _EPS))
    if isinstance(executor, RampingArrivalRate):
        areas = ((a + s.target) / 2 * s.duration for _, a, s in _stages(executor.startRate, executor.stages))
        return math.floor(sum(areas) / executor.timeUnit * (1 + _EPS))
    wanted = iterations_in_all(executor)
    if executor.pause[0] <= 0:
        return wanted
    most = [_most_begun(spans(executor, vu), executor.pause[0]) for vu in range(most_vus(executor))]
    if isinstance(executor, PerVuIterations):
        return sum(min(begun, executor.iterations) for begun in most)
    return sum(most) if wanted is None else min(sum(most), wanted)


def _most_begun(active: list[Span], pause: float) -> int:
    """How often a VU begins when every reply comes at once."""
    begun, earliest = 0, 0.0
    for span in active:
        start = max(span.start, earliest)
        if start < span.stop:
            times = max(1, math.ceil((span.stop - start) / pause * (1 - _EPS)))
            begun, earliest = begun + times, start + times * pause
    return begun


def why(executor: ClosedModel | OpenModel) -> str:
    """The sum behind `most_iterations`, in words."""
    if isinstance(executor, ConstantArrivalRate):
        return f"{executor.rate} per {executor.timeUnit:g} s for {executor.duration:g} s"
    if isinstance(executor, RampingArrivalRate):
        return f"the area under the rate over {executor.length:g} s"
    if isinstance(executor, PerVuIterations):
        return f"{executor.vus} VUs × {executor.iterations}"
    if isinstance(executor, SharedIterations):
        return "its iterations"
    every = f"one in {executor.pause[0]:g} s"
    if isinstance(executor, ConstantVus):
        return f"{executor.vus} VUs × {executor.duration:g} s, {every} each"
    return f"the stages' VUs over {executor.length:g} s, {every} each"


EXPECTED_PER_VU = 1000
"""Requests per second that a VU without a pause is taken to do at most."""
PER_PROCESS = 20_000
"""Requests per second up to which one process is taken to have CPU to spare."""


def peak_rate(executor: ClosedModel | OpenModel) -> float:
    """Requests per second that an executor can be expected to reach at most."""
    if isinstance(executor, ConstantArrivalRate):
        return executor.rate / executor.timeUnit
    if isinstance(executor, RampingArrivalRate):
        return max(executor.startRate, *(stage.target for stage in executor.stages)) / executor.timeUnit
    per_vu = EXPECTED_PER_VU if executor.pause[0] <= 0 else min(EXPECTED_PER_VU, 1 / executor.pause[0])
    return most_vus(executor) * per_vu
