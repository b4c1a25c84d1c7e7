"""A finished rehearsal's folder, `.provision/<run>/<scenario>-<n>/`: its values judged and written out, and read and
judged again without a database."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision import rundir
from provision.audit import thresholds, verdict
from provision.audit.evidence import Snapshot
from provision.audit.thresholds import Threshold
from provision.errors import ConfigError
from provision.fixtures import manifest
from provision.load.results import Results
from provision.load.spec import Limit
from provision.report import html, junit, machine, rows, telemetry
from provision.report.model import Accounts, Report
from provision.rundir import MANIFEST, RunDir
from provision.yamlfile import unknown

RESULTS = "results.json"
HTML = "report.html"
_RUN = ("id", "scenario", "target", "version")


def parse_thresholds(given: Mapping[str, Any], scenarios: Iterable[str]) -> Iterable[tuple[str, Threshold]]:
    """The thresholds of a scenario file with the metric that each stands under; ValueError for the first bad one."""
    names = list(scenarios)
    for metric, expressions in given.items():
        for expression in [expressions] if isinstance(expressions, str) else expressions:
            written = Limit.model_validate(expression) if isinstance(expression, dict) else expression
            yield metric, thresholds.parse(metric, written, names)


def judge(
    run: Mapping[str, Any],
    scenario: Mapping[str, Any],
    source: str,
    results: Results,
    snapshot: Snapshot,
    folder: RunDir,
) -> Report:
    """The report of a run from its values."""
    wanted = [threshold for _, threshold in parse_thresholds(scenario.get("thresholds", {}), scenario["scenarios"])]
    about = {
        **{name: run[name] for name in _RUN},
        **run,
        "started": results.started,
        "elapsed": round(results.elapsed, 3),
        "folder": str(folder.path),
    }
    judged = verdict.judge(results, snapshot, wanted)
    return Report(judged, results, snapshot, about, scenario, source, _accounts(folder))


def _accounts(folder: RunDir) -> Accounts:
    """What the manifest beside the run's folder says of rows; nothing when the run was seeded elsewhere."""
    seeded = RunDir(folder.path.parent)
    if not (seeded.path / MANIFEST).is_file():
        return Accounts()
    lines = seeded.lines(MANIFEST)
    removed = [line["accounts"] for line in lines if "accounts" in line]
    return Accounts({t.table: t.rows for t in manifest.read(lines).tables}, removed[-1] if removed else None)


def as_json(report: Report) -> str:
    """The summary as text."""
    return json.dumps(machine.summary(report), ensure_ascii=False, indent=2) + "\n"


WRITERS = {"json": as_json, "html": html.render, "junit": junit.render}
KEPT = {"json": "summary.json", "html": HTML}
"""What of the report is always written, and its name in the run's folder."""
OTLP = "otlp"
OUT: Mapping[str, tuple[str, Callable[[Report], Iterable[str]]]] = {
    "csv": ("requests.csv", lambda report: rows.as_csv(report.results)),
    "ndjson": ("requests.ndjson", lambda report: rows.as_ndjson(report.results)),
    "prometheus": ("metrics.prom", telemetry.as_prometheus),
}
"""The files that `--out` writes: the name in the run's folder, and the writer."""


@dataclass(frozen=True, slots=True)
class Destination:
    """One `--out`: its form, and the file or URL that was named, if any."""

    form: str
    place: str = ""


def destination(option: str) -> Destination:
    """The destination that `csv`, `csv=requests.csv` or `otlp=URL` means; ConfigError when it cannot be one."""
    form, _, place = option.partition("=")
    if form not in (forms := [*OUT, OTLP]):
        raise ConfigError(f"--out: {unknown('form', form, forms)}", hint="Write --out csv or --out ndjson=FILE.")
    if form in telemetry.PACKAGES:
        telemetry.require(form)
    if form == OTLP:
        telemetry.check_url(place)
    elif place:
        rundir.check_writable(Path(place))
    return Destination(form, place)


def push(report: Report, out: Sequence[Destination]) -> list[str]:
    """Send the report's metrics to the collectors among the destinations; what went wrong."""
    told = [telemetry.push(report, one.place) for one in out if one.form == OTLP]
    return [warning for warning in told if warning]


def save(
    report: Report,
    folder: RunDir,
    *,
    files: Mapping[str, Path],
    out: Sequence[Destination] = (),
) -> None:
    """Write the report into the run's folder and in each further form to the file named for it; nothing is sent."""
    kept = {form: folder.path / name for form, name in KEPT.items()}
    for form in {**kept, **files}:
        text = WRITERS[form](report)
        for path in filter(None, (kept.get(form), files.get(form))):
            rundir.write_text(path, [text])
    for one in out:
        if one.form in OUT:
            name, write = OUT[one.form]
            rundir.write_text(Path(one.place) if one.place else folder.path / name, write(report))


def load(folder: RunDir) -> Report:
    """The report of a saved run; ConfigError when the folder does not hold a finished one."""
    try:
        journal = (folder.path / "results.bin").read_bytes()
        scenario = folder.read_json("scenario.json")
        return judge(
            folder.read_json("run.json"),
            scenario,
            (folder.path / "scenario.yaml").read_text(encoding="utf-8"),
            Results.from_json(folder.read_json(RESULTS), journal),
            Snapshot.from_json(folder.read_json("snapshot.json")),
            folder,
        )
    except OSError as error:
        raise rundir.disk_error(folder.path, error) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{folder.path} cannot be read: {error!r}.", hint="It was saved by another version of provision."
        ) from None


def rehearsals(root: Path = rundir.ROOT) -> list[RunDir]:
    """The folders of all finished rehearsals, oldest first."""
    found = [path.parent for path in root.glob(f"*/*/{RESULTS}") if (path.parent / "snapshot.json").is_file()]
    return [
        RunDir(path) for path in sorted(found, key=lambda path: (path.parent.name, (path / RESULTS).stat().st_mtime))
    ]


def find(name: str | None, root: Path = rundir.ROOT) -> RunDir:
    """The rehearsal that a user means by a run's id or its beginning, `RUN/scenario-1`, a folder, or nothing (the
    latest); ConfigError names those there are."""
    known = rehearsals(root)
    matching = [one for one in known if name is None or label(one).startswith(name) or _is(one, name)]
    if matching:
        return matching[-1]
    listed = ", ".join(label(one) for one in known[-3:]) or "none"
    asked = "There is no finished rehearsal" + (f" {name!r}" if name else "")
    raise ConfigError(f"{asked} under {root}/ (latest: {listed}).", hint="List them with: provision runs")


def label(folder: RunDir) -> str:
    """A rehearsal's name for people: `RUN/scenario-1`."""
    return f"{folder.path.parent.name}/{folder.path.name}"


def _is(folder: RunDir, name: str) -> bool:
    return folder.path.resolve() == Path(name).resolve()
