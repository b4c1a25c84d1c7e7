"""What `run-scenario` is asked for, read and checked as far as that goes without the target."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from provision import fitting, rundir, saved
from provision.audit import bounds
from provision.audit.thresholds import Threshold
from provision.errors import ScenarioError, TicketsError
from provision.fixtures import tickets as ticket_file
from provision.fixtures.ids import IdRange, NumberRange, Range
from provision.fixtures.tickets import Tickets
from provision.k6 import options as k6_options
from provision.load import executors, spec
from provision.load.spec import Scenario
from provision.saved import Destination
from provision.yamlfile import Document


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `provision run-scenario` was asked for."""

    scenario: str = "scanner-burst"
    tickets: Path = Path("test-tickets.json")
    vus: int | None = None
    duration: str | None = None
    rounds: int | None = None
    processes: int | None = None
    allow_exhaustion: bool = False
    files: Mapping[str, Path] = field(default_factory=dict)
    """Where the report goes besides the run's folder, by its form: json, html, junit."""
    out: Sequence[str] = ()
    """Where requests and metrics go besides, such as `csv`, `ndjson=requests.ndjson` or `otlp=URL`."""
    config: Path | None = None
    """A k6 JSON configuration whose executors and thresholds take the place of the scenario file's."""
    confidence: str | None = None
    """The rate of broken rounds, such as `0.1%`, that as many rounds as it takes are to put a bound on."""
    ci: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be rehearsed, read and checked as far as that goes without the target."""

    path: Path
    document: Document
    source: str
    scenario: Scenario
    thresholds: tuple[Threshold, ...]
    tickets: Tickets
    ids: Range
    files: Mapping[str, Path]
    out: Sequence[Destination]
    processes: int = 1
    allow_exhaustion: bool = False


def prepare(options: RunOptions) -> Wanted:
    """Read scenario and tickets; ScenarioError, TicketsError or ConfigError for whatever is wrong with them."""
    scenario, document, source = fitting.read(options.scenario)
    path, limits = document.path, document
    if options.config:
        path, text = _k6_configuration(options.config)
        scenario, source = k6_options.apply(scenario, path, text), f"{source}\n# {path.name}\n{text}"
        theirs = k6_options.document(path, text)
        limits = theirs if "thresholds" in theirs.data else document
    duration = None if options.duration is None else _duration(options.duration)
    scenario = spec.override(scenario, vus=options.vus, duration=duration, rounds=_rounds(options), ci=options.ci)
    wanted = tuple(fitting.thresholds(scenario, limits))
    try:
        text = options.tickets.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise TicketsError(f"{options.tickets}: {reason}.", hint="Make one with: provision seed") from None
    tickets = ticket_file.parse(options.tickets, text)
    out = [saved.destination(one) for one in options.out]
    for file in options.files.values():
        rundir.check_writable(file)
    ids = _ids(options.tickets, tickets)
    fitting.check_tickets(scenario, document, options.tickets, tickets.fields, values(tickets))
    processes = options.processes or spec.processes_needed(scenario, os.cpu_count() or 1)
    more = options.allow_exhaustion
    return Wanted(path, document, source, scenario, wanted, tickets, ids, options.files, out, processes, more)


def values(tickets: Tickets) -> dict[str, str]:
    """The tokens that are the same in all requests of a run, with their values."""
    scanner = {"scanner.id": tickets.scanner} if tickets.scanner else {}
    return {"run": tickets.run, "event.id": tickets.event, **scanner}


def _k6_configuration(path: Path) -> tuple[Path, str]:
    try:
        return path, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ScenarioError(f"{path}: {reason}.") from None


def _rounds(options: RunOptions) -> int | None:
    """Rounds by number, or so many that none broken among them puts the rate below a bound such as 0.1%."""
    if options.confidence is None:
        return options.rounds
    if options.rounds is not None:
        raise ScenarioError("--rounds and --confidence exclude each other.")
    number = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", options.confidence.strip())
    rate = float(number[1]) / (100 if number[2] else 1) if number else 0.0
    if not 0 < rate < 1:
        raise ScenarioError(f"--confidence: {options.confidence!r} is no rate; write 1% or 0.1%")
    return bounds.rounds_for(rate)


def _duration(text: str) -> float:
    try:
        return executors.seconds(text)
    except ValueError as error:
        raise ScenarioError(f"--duration: {error}") from None


def _ids(path: Path, tickets: Tickets) -> Range:
    """The range of ids that the file's tickets and its race ticket make up; TicketsError when one is not in it."""
    if not tickets.fields:
        raise TicketsError(f"{path} holds no ticket.", hint="Make one with: provision seed")
    try:
        ids = _range(tickets)
        found = {ids.ordinal(identifier) for identifier in (tickets.race, *(t["id"] for t in tickets.fields))}
    except (KeyError, ValueError):
        raise TicketsError(
            f"{path} holds tickets that are not of run {tickets.run}.", hint="Make a new file with: provision seed"
        ) from None
    if len(found) < ids.count:
        raise TicketsError(f"{path} holds a ticket twice.", hint="Make a new file with: provision seed")
    return ids


def _range(tickets: Tickets) -> Range:
    """The ids of a run's tickets, the race ticket's last: chosen by us, or made by the database one after the other."""
    if tickets.race.isdigit():
        return NumberRange(int(tickets.race) - len(tickets), len(tickets) + 1)
    return IdRange(tickets.run, int(tickets.race[20:23], 16), 0, len(tickets) + 1)
