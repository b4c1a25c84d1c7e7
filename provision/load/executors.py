"""The executors of a scenario file, in k6's words; what they mean in time stands in `schedule.py`."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from provision.yamlfile import StrictModel

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")


def seconds(value: Any) -> float:
    """Seconds of a duration in k6's words: `1m30s`, `100ms`, or a number of milliseconds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return value / 1000
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    raise ValueError(f"{value!r} is no duration; write 1m30s, 10s or 100ms")


def text(value: float) -> str:
    """A duration in k6's words, to the nanosecond: 70.0 is `1m10s`."""
    minutes, rest = divmod(round(value, 9), 60)
    digits = f"{rest:.9f}".rstrip("0").rstrip(".")
    return (f"{minutes:.0f}m" if minutes else "") + (f"{digits}s" if digits != "0" or not minutes else "")


def _range(value: Any) -> tuple[float, float]:
    """The shortest and the longest of a pause, given as one duration or as `[shortest, longest]`."""
    low, high = value if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
    found = seconds(low), seconds(high)
    if found[0] > found[1]:
        raise ValueError(f"a pause goes from the shorter to the longer, not {low} to {high}")
    return found


def _range_text(value: tuple[float, float]) -> str | list[str]:
    return text(value[0]) if value[0] == value[1] else [text(value[0]), text(value[1])]


Duration = Annotated[float, BeforeValidator(seconds), PlainSerializer(text, return_type=str)]
Length = Annotated[Duration, Field(gt=0)]
Pause = Annotated[tuple[float, float], BeforeValidator(_range), PlainSerializer(_range_text)]
Count = Annotated[int, Field(ge=1, strict=True)]
Target = Annotated[int, Field(ge=0, strict=True)]
NO_PAUSE = (0.0, 0.0)


class Executor(StrictModel):
    """What all executors have; times are in seconds."""

    startTime: Duration = 0.0
    gracefulStop: Duration = 30.0


class ConstantVus(Executor):
    """`vus` scan one ticket after the other until `duration` is over."""

    executor: Literal["constant-vus"]
    vus: Count = 1
    duration: Length
    pause: Pause = NO_PAUSE

    @property
    def length(self) -> float:
        return self.duration


class PerVuIterations(Executor):
    """Each of `vus` scans `iterations` tickets, within `maxDuration`."""

    executor: Literal["per-vu-iterations"]
    vus: Count = 1
    iterations: Count = 1
    maxDuration: Length = 600.0
    pause: Pause = NO_PAUSE

    @property
    def length(self) -> float:
        return self.maxDuration


class SharedIterations(Executor):
    """`vus` together scan `iterations` tickets, within `maxDuration`; who is free takes the next."""

    executor: Literal["shared-iterations"]
    vus: Count = 1
    iterations: Count = 1
    maxDuration: Length = 600.0
    pause: Pause = NO_PAUSE

    @model_validator(mode="after")
    def _enough(self) -> SharedIterations:
        if self.iterations < self.vus:
            raise ValueError(f"{self.vus} VUs cannot share {self.iterations} iterations; ask for as many or more")
        return self

    @property
    def length(self) -> float:
        return self.maxDuration


class Stage(StrictModel):
    """`target` VUs, or iterations per `timeUnit`, are reached in a straight line at the end of `duration`."""

    duration: Duration
    target: Target


Stages = Annotated[list[Stage], Field(min_length=1)]


class _Staged(Executor):
    stages: Stages
    pause: Pause = NO_PAUSE

    @model_validator(mode="after")
    def _some_length(self) -> _Staged:
        if self.length <= 0:
            raise ValueError("stages: they take no time at all")
        return self

    def _some_load(self, first: int) -> None:
        if not any((first, *(stage.target for stage in self.stages))):
            raise ValueError("stages: every target is 0, so nothing would run; give one of them a target above 0")

    @property
    def length(self) -> float:
        return sum(stage.duration for stage in self.stages)


class RampingVus(_Staged):
    """From `startVUs` on, as many VUs as the stages say; who is too many ends within `gracefulRampDown`."""

    executor: Literal["ramping-vus"]
    startVUs: Target = 1
    gracefulRampDown: Duration = 30.0

    @model_validator(mode="after")
    def _starts(self) -> Self:
        self._some_load(self.startVUs)
        return self


class _Arrivals(Executor):
    timeUnit: Length = 1.0
    preAllocatedVUs: Count
    maxVUs: Count | None = None

    @model_validator(mode="after")
    def _room(self) -> _Arrivals:
        if self.maxVUs is not None and self.maxVUs < self.preAllocatedVUs:
            raise ValueError(f"maxVUs: {self.maxVUs} is less than preAllocatedVUs ({self.preAllocatedVUs})")
        return self

    @property
    def most_vus(self) -> int:
        return self.maxVUs or self.preAllocatedVUs


class ConstantArrivalRate(_Arrivals):
    """`rate` iterations per `timeUnit` begin whether or not earlier ones have ended."""

    executor: Literal["constant-arrival-rate"]
    rate: Count
    duration: Length
    pause: Pause = NO_PAUSE

    @property
    def length(self) -> float:
        return self.duration


class RampingArrivalRate(_Staged, _Arrivals):
    """From `startRate` iterations per `timeUnit` on, as many as the stages say."""

    executor: Literal["ramping-arrival-rate"]
    startRate: Target = 0

    @model_validator(mode="after")
    def _starts(self) -> Self:
        self._some_load(self.startRate)
        return self


ClosedModel = ConstantVus | RampingVus | PerVuIterations | SharedIterations
OpenModel = ConstantArrivalRate | RampingArrivalRate
