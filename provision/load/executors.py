"""When an executor's virtual users start their iterations. Pure: time is a parameter, in seconds since the start.

The semantics are k6's: none begins after the duration, one that has begun may end within `gracefulStop`.
"""

from __future__ import annotations

from provision.load.spec import ConstantVus, PerVuIterations

ClosedModel = ConstantVus | PerVuIterations


def next_start(executor: ClosedModel, iteration: int, now: float) -> float | None:
    """When a VU that is free at `now` begins its iteration number `iteration` (from 0); None when it has no more."""
    start = now + executor.pause if iteration else now
    if isinstance(executor, ConstantVus):
        return start if start < executor.duration else None
    return start if iteration < executor.iterations and start < executor.maxDuration else None


def last_end(executor: ClosedModel) -> float:
    """When iterations that still run are given up."""
    length = executor.duration if isinstance(executor, ConstantVus) else executor.maxDuration
    return length + executor.gracefulStop
