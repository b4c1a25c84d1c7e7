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
from provision.fixtures import ids, manifest
from provision.fixtures import tickets as ticket_file
from provision.fixtures.ids import NUMBER, IdRange, Range
from provision.fixtures.tickets import Tickets
from provision.k6 import options as k6_options
from provision.load import executors, spec
from provision.load.spec import Scenario
from provision.rundir import MANIFEST, RunDir
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
    ids: tuple[Range, ...]
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
    own = _ids(options.tickets, tickets)
    fitting.check_tickets(scenario, document, options.tickets, tickets.fields, values(tickets))
    processes = options.processes or spec.processes_needed(scenario, os.cpu_count() or 1)
    more = options.allow_exhaustion
    return Wanted(path, document, source, scenario, wanted, tickets, own, options.files, out, processes, more)


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


def _ids(path: Path, tickets: Tickets) -> tuple[Range, ...]:
    """The ids of the file's tickets and its race ticket, as ranges; TicketsError when one is not of the file's run."""
    if not tickets.fields:
        raise TicketsError(f"{path} holds no ticket.", hint="Make one with: provision seed")
    hint = "Make a new file with: provision seed"
    try:
        every = [tickets.race, *(ticket["id"] for ticket in tickets.fields)]
        found = _numbered(tickets.run, every) if NUMBER.fullmatch(tickets.race) else _chosen(tickets, every)
    except (KeyError, ValueError):
        raise TicketsError(f"{path} holds tickets that are not of run {tickets.run}.", hint=hint) from None
    if len(set(every)) < len(every):
        raise TicketsError(f"{path} holds a ticket twice.", hint=hint)
    return found


def _chosen(tickets: Tickets, every: Sequence[str]) -> tuple[Range, ...]:
    """Ids that we chose: one range, the race ticket's last; KeyError or ValueError for any other."""
    found = IdRange(tickets.run, int(tickets.race[20:23], 16), 0, len(tickets) + 1)
    for identifier in every:
        found.ordinal(identifier)
    return (found,)


def _numbered(run: str, every: Sequence[str]) -> tuple[Range, ...]:
    """Ids that the database made, with the gaps that it left; KeyError for any that a run which was seeded here does
    not own. ValueError for what is no number."""
    found = ids.ranges(int(identifier) for identifier in every)
    if (seeded := RunDir(rundir.ROOT / run)).has(MANIFEST):
        owned = manifest.read(seeded.lines(MANIFEST)).tables
        if not any(ids.cover(table.ranges, found) for table in owned):
            raise KeyError(run)
    return found
