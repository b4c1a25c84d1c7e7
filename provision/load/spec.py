"""A scenario file as values: what is asked, how replies are named, what the database must say, and the load."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from provision import yamlfile
from provision.errors import ScenarioError
from provision.load import overtaking
from provision.load.outcomes import NAMEABLE
from provision.yamlfile import StrictModel, unknown

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
    """A duration in k6's words: 70.0 is `1m10s`."""
    minutes, rest = divmod(round(value, 3), 60)
    return (f"{minutes:g}m" if minutes else "") + (f"{rest:g}s" if rest or not minutes else "")


Duration = Annotated[float, BeforeValidator(seconds), PlainSerializer(text, return_type=str)]
Count = Annotated[int, Field(ge=1, strict=True)]


class Request(StrictModel):
    """One call of a database function; `{tokens}` in `args` are filled for each request."""

    rpc: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_$]*$")]
    args: dict[str, Any] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    timeout: Annotated[Duration, Field(gt=0)] = 30.0


class Rule(StrictModel):
    """When a reply has an outcome: the HTTP status, and what stands at a dotted `path` of its JSON (`.`: all of it).
    Of an array of one row, the row is looked at."""

    path: str | None = None
    equals: Any = None
    one_of: list[Any] | None = None
    matches: str | None = None
    status: int | None = None

    @model_validator(mode="after")
    def _complete(self) -> Rule:
        if self.path is None and self.status is None:
            raise ValueError("a rule needs a path or a status")
        tests = self.model_fields_set & {"equals", "one_of", "matches"}
        if (self.path is None) != (not tests) or len(tests) > 1:
            raise ValueError("a path needs exactly one of equals, one_of, matches")
        if self.matches is not None:
            try:
                re.compile(self.matches)
            except re.error as error:
                raise ValueError(f"matches is no regular expression: {error}") from None
        return self


class Evidence(StrictModel):
    """Rows that say that a ticket was let in: those of `table` where all of `where` holds; `ticket` is the column that
    holds the ticket's id."""

    table: str
    ticket: str = "id"
    where: dict[str, Any] = Field(default_factory=dict)


class Truth(StrictModel):
    """Where the database says who was let in: the ticket itself, the rows written about it, or both."""

    consumed: Evidence | None = None
    entries: Evidence | None = None

    @model_validator(mode="after")
    def _some(self) -> Truth:
        if self.consumed is None and self.entries is None:
            raise ValueError("truth needs consumed, entries or both; replies alone prove nothing")
        return self


class _Executor(StrictModel):
    startTime: Duration = 0.0  # noqa: N815 - k6's word
    gracefulStop: Duration = 30.0  # noqa: N815
    pause: Duration = 0.0


class ConstantVus(_Executor):
    """`vus` scan one ticket after the other until `duration` is over."""

    executor: Literal["constant-vus"]
    vus: Count = 1
    duration: Annotated[Duration, Field(gt=0)]

    @property
    def end(self) -> float:
        return self.startTime + self.duration


class PerVuIterations(_Executor):
    """Each of `vus` scans `iterations` tickets, within `maxDuration`."""

    executor: Literal["per-vu-iterations"]
    vus: Count = 1
    iterations: Count = 1
    maxDuration: Annotated[Duration, Field(gt=0)] = 600.0  # noqa: N815

    @property
    def end(self) -> float:
        return self.startTime + self.maxDuration


class Race(_Executor):
    """`rounds` times, `vus` scanners are released together on one fresh ticket.

    With `stopOnBroken` the first round with too many winners is the last one; left open, that is so in CI.
    """

    executor: Literal["race"]
    vus: Annotated[int, Field(ge=2, strict=True)] = 10
    rounds: Count = 200
    sync: Literal["auto", "single-packet", "last-byte", "barrier"] = "auto"
    stopOnBroken: bool | None = None  # noqa: N815
    pause: Duration = 0.01  # for the server's pool to be free again
    maxDuration: Annotated[Duration, Field(gt=0)] = 600.0  # noqa: N815

    @property
    def end(self) -> float:
        return self.startTime + self.maxDuration


Executor = Annotated[ConstantVus | PerVuIterations | Race, Field(discriminator="executor")]


def _winners(value: Any) -> Any:
    """1, or N of `<=N`."""
    match = re.fullmatch(r"<=\s*([1-9]\d*)", value) if isinstance(value, str) else None
    if match:
        return int(match[1])
    if value == 1 and not isinstance(value, bool):
        return 1
    raise ValueError(f"{value!r} is no number of winners; write 1, or '<=5' for a stock of five")


def _winners_text(value: int) -> str | int:
    return 1 if value == 1 else f"<={value}"


class Scenario(StrictModel):
    """A whole scenario file.

    `recipe` makes its tickets, unless another is asked for. `winners` is how many requests for one ticket may succeed.
    With the promise `idempotent` they all carry the same key, and any number may hear of success, but no more than
    `winners` effects are stored.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    description: str = ""
    recipe: str = "event-night"
    request: Request
    outcomes: dict[str, Rule | list[Rule]]
    truth: Truth
    winners: Annotated[int, BeforeValidator(_winners), PlainSerializer(_winners_text)] = 1
    promise: Literal["winners", "idempotent"] = "winners"
    scenarios: Annotated[dict[str, Executor], Field(min_length=1)]
    thresholds: dict[str, list[str] | str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _outcomes(self) -> Scenario:
        for name in self.outcomes:
            if name not in NAMEABLE:
                raise ValueError(f"outcomes: {unknown('outcome', name, NAMEABLE)}")
        if "admitted" not in self.outcomes:
            raise ValueError("outcomes: a rule for 'admitted' is needed")
        return self

    @property
    def races(self) -> dict[str, Race]:
        return {name: executor for name, executor in self.scenarios.items() if isinstance(executor, Race)}


def parse(path: Path, source: str) -> Scenario:
    """The scenario in a YAML text; ScenarioError names the line of what is wrong."""
    return yamlfile.validate(yamlfile.parse(path, source, ScenarioError), Scenario, ScenarioError)


def override(
    scenario: Scenario, *, vus: int | None, duration: float | None, rounds: int | None, ci: bool = False
) -> Scenario:
    """The scenario with `--vus`, `--duration` and `--rounds` in place of the file's; what started after a shortened
    or lengthened part still starts as long after it. In CI a race that leaves it open stops when a round broke."""
    if vus == 1 and scenario.races:
        raise ScenarioError("--vus: a race needs at least 2 VUs.")
    parts = dict(scenario.scenarios)
    for part in scenario.scenarios.values():
        if duration is not None and isinstance(part, ConstantVus):
            shift = duration - part.duration
            parts |= {
                other: late.model_copy(update={"startTime": late.startTime + shift})
                for other, late in parts.items()
                if scenario.scenarios[other].startTime >= part.end
            }
    for name, part in parts.items():
        changes: dict[str, Any] = {} if vus is None else {"vus": vus}
        if duration is not None and isinstance(part, ConstantVus):
            changes["duration"] = duration
        if rounds is not None and isinstance(part, Race):
            changes["rounds"] = rounds
        if isinstance(part, Race) and part.stopOnBroken is None:
            changes["stopOnBroken"] = ci
        parts[name] = part.model_copy(update=changes)
    return scenario.model_copy(update={"scenarios": parts})


def most_tickets(executor: ConstantVus | PerVuIterations | Race) -> int | None:
    """The largest number of tickets that an executor can use; None when nothing bounds it (no pause, no count)."""
    if isinstance(executor, Race):
        return executor.rounds
    if isinstance(executor, PerVuIterations):
        return executor.vus * executor.iterations
    if executor.pause <= 0:
        return None
    return executor.vus * (int(executor.duration / executor.pause + 1e-9) + 1)


def tickets_needed(scenario: Scenario) -> tuple[int, list[str]]:
    """How many tickets a scenario can need, and the sum in words; ScenarioError when nothing bounds it."""
    total, words = CANARY_TICKETS, [f"canary {CANARY_TICKETS}"]
    for name, executor in scenario.scenarios.items():
        most = most_tickets(executor)
        if most is None:
            raise ScenarioError(
                f"scenarios.{name}: without a pause nothing bounds the number of tickets.",
                hint="Give it a pause, or say how many tickets with --tickets.",
            )
        total += most + control_tickets(executor)
        words.append(f"{name} {most}" + (f" + {control_tickets(executor)}" if control_tickets(executor) else ""))
    return total, words


CANARY_TICKETS = 1
CONTROL_SCANS = 10


def control_tickets(executor: ConstantVus | PerVuIterations | Race) -> int:
    """Tickets that a race uses at most to find out how many requests the server works on at once."""
    if not isinstance(executor, Race):
        return 0
    return CONTROL_SCANS + overtaking.TRIES * (len(overtaking.levels(executor.vus)) + 1)
