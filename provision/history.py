"""Finished rehearsals of this folder: listed, reported again, compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provision import saved
from provision.audit import comparison
from provision.audit.comparison import Change
from provision.audit.finding import Status
from provision.audit.verdict import EXIT_CODES
from provision.errors import ConfigError, ExitCode, ProvisionError
from provision.fixtures import manifest
from provision.report.model import Report
from provision.rundir import MANIFEST, RunDir

GATED = 95.0
"""The percentile that `--max-regression` is about."""


@dataclass(frozen=True, slots=True)
class Line:
    """One rehearsal in the list: its name, when, what came of it, p(95) of its scans in ms, its rows' state."""

    name: str
    started: str
    status: str
    p95: float | None
    state: str


def lines() -> list[Line]:
    """A line for each finished rehearsal, oldest first."""
    return [_line(folder) for folder in saved.rehearsals() if (folder.path / saved.KEPT["json"]).is_file()]


def _line(folder: RunDir) -> Line:
    summary = folder.read_json(saved.KEPT["json"])
    try:
        p95 = summary["metrics"]["scan_duration"]["values"]["p(95)"]
        started, status = summary["run"]["started"][:19].replace("T", " "), summary["verdict"]["status"]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{folder.path}/summary.json cannot be read: {error!r} is missing.") from None
    return Line(saved.label(folder), started, status, p95, _state(folder))


def _state(folder: RunDir) -> str:
    """Whether rows of the run may still be in a database."""
    seeded = RunDir(folder.path.parent)
    if not (seeded.path / MANIFEST).is_file():
        return "seeded elsewhere"
    return "clean" if manifest.read(seeded.lines(MANIFEST)).state == "clean" else "rows remain"


def report(name: str | None, files: Mapping[str, Path], out: Sequence[saved.Destination] = ()) -> tuple[Report, Path]:
    """Judge a saved run again and write its report again; the report and the page in the run's folder."""
    folder = saved.find(name)
    again = saved.load(folder)
    saved.save(again, folder, files=files, out=out)
    return again, folder.path / saved.HTML


def refresh(run: RunDir, say: Callable[[str], None]) -> None:
    """Write the pages of a run's rehearsals again, for what its manifest says by now; what hinders that is said, since
    the work that it is told about is done."""
    for folder in saved.rehearsals(run.path.parent):
        if folder.path.parent == run.path and (folder.path / saved.HTML).is_file():
            try:
                saved.save(saved.load(folder), folder, files={})
            except ProvisionError as error:
                say(f"{folder.path / saved.HTML} was not brought up to date: {error}")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two rehearsals side by side: names and verdicts, the changes of latency, and the limit for them (0.1: 10 %)."""

    names: tuple[str, str]
    verdicts: tuple[str, str]
    changes: Sequence[Change]
    limit: float | None

    @property
    def status(self) -> Status:
        """FAIL when a p(95) rose by more than the limit, INCONCLUSIVE when one may have."""
        if self.limit is None:
            return Status.PASS
        beyond = [change.exceeds(self.limit) for change in self.changes if change.percent == GATED]
        if any(beyond):
            return Status.FAIL
        return Status.INCONCLUSIVE if None in beyond or not beyond else Status.PASS

    @property
    def exit_code(self) -> ExitCode:
        return EXIT_CODES[self.status]


def compare(before: str, after: str, limit: float | None) -> Comparison:
    """Compare two saved rehearsals; ConfigError when they have no scenario in common."""
    folders = [saved.find(name) for name in (before, after)]
    first, second = (saved.load(folder) for folder in folders)
    changes = comparison.compare(first.results, second.results)
    if not changes:
        raise ConfigError(f"{before} and {after} measured no scenario of the same name.", hint="See: provision runs")
    names = (saved.label(folders[0]), saved.label(folders[1]))
    return Comparison(names, (first.verdict.status.name, second.verdict.status.name), changes, limit)
