"""Reports for tests, made of the histories beside this, and the folders that a finished run would have left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from histories import History

from provision import rundir, saved
from provision.fixtures import manifest
from provision.report.model import Report
from provision.rundir import MANIFEST, RunDir

RUN = "20260601-200000-abcde"
ABOUT = {
    "id": RUN, "scenario": "night", "file": "night.yaml", "target": "http://127.0.0.1:1", "version": "0.0.0",
    "versions": {"python": "3.11.0"}, "system": "Linux", "cpus": 2,
}  # fmt: skip
THRESHOLDS = {
    "scan_duration": ["p(95)<200"],
    "scan_errors": ["rate<0.001"],
    "scan_duration{scenario:race,outcome:admitted}": ["p(99)<=300"],
}
SOURCE = "name: night # the file's own words\n"


def scenario(thresholds: dict[str, list[str]] | None = None) -> dict[str, Any]:
    """A scenario as a run's folder keeps it."""
    parts = {"burst": {"executor": "constant-vus"}, "race": {"executor": "race"}}
    return {"name": "night", "scenarios": parts, "thresholds": THRESHOLDS if thresholds is None else thresholds}


def leave(history: History, root: Path, thresholds: dict[str, list[str]] | None = None, run: str = RUN) -> RunDir:
    """The folder that a finished rehearsal of this history leaves under `root`, all but the report; its manifest says
    what was seeded."""
    seeded = RunDir(root / run) if (root / run).is_dir() else _seeded(run, root)
    folder = seeded.subfolder("night")
    folder.write_json("run.json", {**ABOUT, "id": run})
    folder.write_json("scenario.json", scenario(thresholds))
    rundir.write_text(folder.path / "scenario.yaml", [SOURCE])
    results = history.results()
    (folder.path / "results.bin").write_bytes(results.journal)
    folder.write_json("results.json", results.to_json())
    folder.write_json("snapshot.json", history.snapshot().to_json())
    return folder


def _seeded(run: str, root: Path) -> RunDir:
    seeded = RunDir.create(run, root)
    tables = [{"table": "tickets", "key": "id", "number": 4, "rows": 71, "trace": None}]
    head = {
        "event": "plan",
        "format": manifest.FORMAT,
        "run": run,
        "created": "2026-06-01T20:00:00+00:00",
        "target": "t",
    }
    more = {"schema": "public", "recipe": "event-night", "seed": 1, "tickets": 70}
    owned = {"parents": [], "written_by_app": [["scan_logs", "ticket_id", "tickets"]], "files": {}}
    seeded.append(MANIFEST, {**head, **more, **owned, "tables": tables, "versions": {}})
    seeded.append(MANIFEST, {"event": "seeded", "tickets": "test-tickets.json"})
    return seeded


def report(history: History, root: Path, thresholds: dict[str, list[str]] | None = None) -> Report:
    """The report of a history, read back from its folder."""
    return saved.load(leave(history, root, thresholds))


def schema(name: str) -> Any:
    """A published JSON schema."""
    path = Path(saved.__file__).parent / "schemas" / f"{name}.schema.json"
    return json.loads(path.read_text(encoding="utf-8"))
