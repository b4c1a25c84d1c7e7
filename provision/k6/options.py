"""The options of a k6 JSON configuration in place of a scenario file's own: `scenarios` and `thresholds`.

k6's shortcuts at the top are taken as k6 takes them, as a scenario named `default`: `vus` with `duration`, or with
`iterations`, or with `stages`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from provision import yamlfile
from provision.errors import ScenarioError
from provision.load.spec import Parts, Scenario, Thresholds
from provision.yamlfile import Document, StrictModel

IGNORED = frozenset({"cloud", "ext", "summaryTrendStats", "summaryTimeUnit", "noUsageReport"})
"""Options that concern k6's own output only."""
IGNORED_IN_SCENARIO = frozenset({"exec", "tags"})
"""A scenario's keys that change no request: one thing is done here, and its tags are fixed."""
_SHORTCUTS = {"duration": "constant-vus", "stages": "ramping-vus", "iterations": "shared-iterations"}


class _Options(StrictModel):
    scenarios: Parts
    thresholds: Thresholds | None = None


def apply(scenario: Scenario, path: Path, text: str) -> Scenario:
    """The scenario with the executors and, where there are any, the thresholds of a k6 configuration; ScenarioError
    names what cannot be taken over, and its line."""
    parsed = document(path, text)
    data = parsed.data
    if isinstance(data, dict):
        data = _scenarios({key: value for key, value in data.items() if key not in IGNORED})
    options = yamlfile.validate(Document(path, data, parsed.lines), _Options, ScenarioError)
    thresholds = scenario.thresholds if options.thresholds is None else options.thresholds
    return scenario.model_copy(update={"scenarios": options.scenarios, "thresholds": thresholds})


def document(path: Path, text: str) -> Document:
    """A k6 configuration with the lines of its keys."""
    return yamlfile.parse(path, text.replace("\t", " "), ScenarioError)


def _scenarios(data: dict[str, Any]) -> dict[str, Any]:
    """The options with a shortcut written out, and without the keys of scenarios that change nothing here."""
    if "scenarios" not in data and (named := next((key for key in _SHORTCUTS if key in data), None)):
        taken = {key: data[key] for key in ("vus", *_SHORTCUTS) if key in data}
        rest = {key: value for key, value in data.items() if key not in taken}
        start = {"startVUs": taken.pop("vus")} if named == "stages" and "vus" in taken else {}
        return {**rest, "scenarios": {"default": {"executor": _SHORTCUTS[named], **start, **taken}}}
    given = data.get("scenarios")
    if not isinstance(given, dict):
        return data
    return {**data, "scenarios": {name: _plain(one) for name, one in given.items()}}


def _plain(executor: Any) -> Any:
    if not isinstance(executor, dict):
        return executor
    return {key: value for key, value in executor.items() if key not in IGNORED_IN_SCENARIO}
