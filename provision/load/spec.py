"""A scenario file as values: what is asked, how replies are named, what the database must say, and the load."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    ValidationError,
    model_validator,
)

from provision import yamlfile
from provision.errors import ScenarioError
from provision.load import executors, overtaking, schedule
from provision.load.executors import ClosedModel, ConstantArrivalRate, ConstantVus, Count, Duration, OpenModel
from provision.load.outcomes import NAMEABLE
from provision.load.results import CANARY
from provision.yamlfile import StrictModel, unknown


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
    holds the ticket's id, `scanned_at` the one that says when it was scanned."""

    table: str
    ticket: str = "id"
    where: dict[str, Any] = Field(default_factory=dict)
    scanned_at: str | None = None


class Truth(StrictModel):
    """Where the database says who was let in: the ticket itself, the rows written about it, or both."""

    consumed: Evidence | None = None
    entries: Evidence | None = None

    @model_validator(mode="after")
    def _some(self) -> Truth:
        if self.consumed is None and self.entries is None:
            raise ValueError("truth needs consumed, entries or both; replies alone prove nothing")
        return self

    @property
    def dated(self) -> Evidence | None:
        """The rows that say when a ticket was scanned."""
        return next((rows for rows in (self.consumed, self.entries) if rows and rows.scanned_at), None)


class Limit(StrictModel):
    """A threshold in k6's long form: `abortOnFail` ends the run as soon as it fails, from `delayAbortEval` on."""

    threshold: str
    abortOnFail: Annotated[bool, Field(strict=True)] = False
    delayAbortEval: Duration = 0.0


class Race(executors.Executor):
    """`rounds` times, `vus` scanners are released together on one fresh ticket.

    With `stopOnBroken` the first round with too many winners is the last one; left open, that is so in CI.
    """

    executor: Literal["race"]
    vus: Annotated[int, Field(ge=2, strict=True)] = 10
    rounds: Count = 200
    sync: Literal["auto", "single-packet", "last-byte", "barrier"] = "auto"
    stopOnBroken: bool | None = None
    pause: Duration = 0.01  # for the server's pool to be free again
    maxDuration: Annotated[Duration, Field(gt=0)] = 600.0

    @property
    def length(self) -> float:
        return self.maxDuration


AnyExecutor = ClosedModel | OpenModel | Race
Executor = Annotated[AnyExecutor, Field(discriminator="executor")]


def _form(value: Any) -> str:
    """Which form a threshold, or a metric's thresholds, are written in, so that an error speaks of that form."""
    return "text" if isinstance(value, str) else "long" if isinstance(value, dict | Limit) else "list"


Written = Annotated[Annotated[str, Tag("text")] | Annotated[Limit, Tag("long")], Discriminator(_form)]
_Several = Annotated[list[Written], Tag("list")]
_One = Annotated[str, Tag("text")]
Thresholds = dict[str, Annotated[_Several | _One, Discriminator(_form)]]
"""Of each metric, in k6's short or long form."""


def _part_name(value: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z_-]+", value):
        raise ValueError(f"{value!r} is no name; use letters, digits, _ and -, as in k6")
    if value == CANARY:
        raise ValueError(f"{value!r} is what the first scans are called; choose another name")
    return value


Parts = Annotated[dict[Annotated[str, AfterValidator(_part_name)], Executor], Field(min_length=1)]
"""What a file's `scenarios` are: executors by name."""


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
    `winners` effects are stored. With `first-scan-wins` they are offline scans that are synchronised late, each with a
    time of its own (`{scanned_at}`): any number may hear of success, and the earliest time is the one that is stored.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    description: str = ""
    recipe: str = "event-night"
    request: Request
    outcomes: dict[str, Rule | list[Rule]]
    truth: Truth
    winners: Annotated[int, BeforeValidator(_winners), PlainSerializer(_winners_text)] = 1
    promise: Literal["winners", "idempotent", "first-scan-wins"] = "winners"
    scenarios: Parts
    tickets: Literal["once", "reuse"] = "once"
    thresholds: Thresholds = Field(default_factory=dict)

    @model_validator(mode="after")
    def _outcomes(self) -> Scenario:
        for name in self.outcomes:
            if name not in NAMEABLE:
                raise ValueError(f"outcomes: {unknown('outcome', name, NAMEABLE)}")
        if "admitted" not in self.outcomes:
            raise ValueError("outcomes: a rule for 'admitted' is needed")
        return self

    @model_validator(mode="after")
    def _counted(self) -> Scenario:
        if self.promise == "first-scan-wins":
            return self
        if self.truth.entries is None and (self.promise == "idempotent" or self.winners != 1):
            what = "idempotent" if self.promise == "idempotent" else f"winners: {_winners_text(self.winners)}"
            raise ValueError(f"truth: {what} needs entries, the table with a row for each effect; a flag counts to one")
        return self

    @model_validator(mode="after")
    def _dated(self) -> Scenario:
        if self.promise != "first-scan-wins":
            return self
        if self.truth.dated is None:
            raise ValueError("truth: first-scan-wins needs scanned_at, the column that holds the time of the scan")
        if "{scanned_at}" not in json.dumps(self.request.args):
            raise ValueError("request.args: first-scan-wins needs the token {scanned_at}")
        if self.winners != 1:
            raise ValueError("winners: first-scan-wins leaves room for one")
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
    parts = dict(scenario.scenarios)
    for part in scenario.scenarios.values():
        if duration is not None and isinstance(part, ConstantVus | ConstantArrivalRate):
            end, shift = part.startTime + part.duration, duration - part.duration
            parts |= {
                other: late.model_copy(update={"startTime": late.startTime + shift})
                for other, late in parts.items()
                if scenario.scenarios[other].startTime >= end
            }
    if duration is not None:
        parts = _changed(parts, "duration", executors.text(duration))
    if vus is not None:
        parts = _changed(parts, "vus", vus)
    if rounds is not None:
        parts = _changed(parts, "rounds", rounds)
    for name, part in parts.items():
        if isinstance(part, Race) and part.stopOnBroken is None:
            parts[name] = part.model_copy(update={"stopOnBroken": ci})
    return scenario.model_copy(update={"scenarios": parts})


def _changed(parts: Mapping[str, AnyExecutor], key: str, value: Any) -> dict[str, AnyExecutor]:
    """The parts, with this value where they have such a key; ScenarioError where it cannot be, or none has it."""
    if not any(key in type(part).model_fields for part in parts.values()):
        raise ScenarioError(f"--{key}: nothing of this scenario has {key}.")
    changed = dict(parts)
    for name, part in parts.items():
        if key in type(part).model_fields:
            try:
                changed[name] = type(part).model_validate({**part.model_dump(exclude_unset=True), key: value})
            except ValidationError as failure:
                raise ScenarioError(f"--{key}: {name}: {yamlfile.message(failure)}") from None
    return changed


def most_tickets(executor: AnyExecutor) -> int | None:
    """The largest number of tickets that an executor can use; None when nothing bounds it (no pause, no count)."""
    return executor.rounds if isinstance(executor, Race) else schedule.most_iterations(executor)


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
        if isinstance(executor, Race):
            words.append(f"{name} {most} + {control_tickets(executor)}")
        else:
            words.append(f"{name} {most} ({schedule.why(executor)})")
    return total, words


def race_tickets(scenario: Scenario) -> int:
    """The tickets that all races of a scenario need together; these are never used twice."""
    return sum(race.rounds + control_tickets(race) for race in scenario.races.values())


def processes_needed(scenario: Scenario, cores: int) -> int:
    """How many processes a scenario's load is worth, at most one for each core."""
    rate = sum(schedule.peak_rate(part) for part in scenario.scenarios.values() if not isinstance(part, Race))
    return max(1, min(cores, math.ceil(rate / schedule.PER_PROCESS)))


CANARY_TICKETS = 1
CONTROL_SCANS = 10


def control_tickets(executor: AnyExecutor) -> int:
    """Tickets that a race uses at most to find out how many requests the server works on at once."""
    if not isinstance(executor, Race):
        return 0
    return CONTROL_SCANS + overtaking.TRIES * (len(overtaking.levels(executor.vus)) + 1)
