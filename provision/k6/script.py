"""A scenario as a k6 script: the same executors, thresholds, tags and outcome counters, reading our ticket file.

What k6 has no word for is said in the script's head: a race becomes `per-vu-iterations` whose VUs are not released
together, and the database is not looked at, so that k6 counts replies and proves nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from provision.audit.metrics import parse_selector
from provision.errors import ScenarioError
from provision.load import spec
from provision.load.executors import seconds
from provision.load.outcomes import BY_CODE, BY_STATUS, FAILURES, OUTCOMES, Outcome
from provision.load.spec import AnyExecutor, Race, Rule, Scenario

COUNTERS: Mapping[str, tuple[Outcome, ...]] = {
    "successful_scans": (Outcome.ADMITTED,),
    "already_scanned": (Outcome.ALREADY_USED,),
    "race_conditions_caught": (Outcome.BUSY, Outcome.CONFLICT),
    "ticket_not_found": (Outcome.NOT_FOUND,),
}
_OF_OUTCOMES = {*COUNTERS, "scan_duration", "scan_errors", "checks"}
"""The metrics to which the script gives an `outcome`; k6's own have their tags before the reply is there."""
_OF_K6 = {
    "http_reqs", "http_req_duration", "http_req_waiting", "http_req_connecting", "http_req_tls_handshaking",
    "http_req_failed", "iterations", "iteration_duration", "dropped_iterations", "data_received", "data_sent", "vus",
    "vus_max",
}  # fmt: skip
_ALWAYS_COUNTED = {Outcome.ERROR, Outcome.NOT_SENT, Outcome.UNKNOWN, Outcome.UNCLASSIFIED}
_OF_A_RACE = {"startTime", "gracefulStop", "maxDuration"}
"""Keys of our race that k6's `per-vu-iterations` has as well."""
_HEAD = """\
// Scenario {name}, written by provision for k6 1.0 and newer. Run it with:
//   source {env} && k6 run {script}
// k6 counts replies. It does not release a race's VUs together and does not ask the database who was let in:
// that one ticket is admitted once is proven by `provision run-scenario`, not by this script.
"""
_RUNTIME = Path(__file__).with_name("runtime.js")


def render(scenario: Scenario, *, script: str, env: str) -> str:
    """The script's text; `script` and `env` are the names of its files. ScenarioError for what k6 cannot carry out."""
    config = json.dumps(_config(scenario), ensure_ascii=False, indent=2)
    head = _HEAD.format(name=scenario.name, script=script, env=env)
    return f"{head}const CONFIG = {config};\n\n{_RUNTIME.read_text(encoding='utf-8')}"


def environment(tickets: Path, variables: Mapping[str, str]) -> str:
    """The variables that the script reads, as lines for `source`; the key is never among them."""
    lines = [f"export TICKETS={_quoted(str(tickets.resolve()))}"]
    lines += [f"export {name}={_quoted(variables[name])}" for name in ("SUPABASE_URL",) if variables.get(name)]
    return "\n".join(["# set SUPABASE_SECRET_KEY (or SUPABASE_SERVICE_ROLE_KEY) yourself", *lines, ""])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _config(scenario: Scenario) -> dict[str, Any]:
    rules = [
        _rule(outcome, rule)
        for outcome, given in scenario.outcomes.items()
        for rule in (given if isinstance(given, list) else [given])
    ]
    return {
        "options": {"scenarios": _scenarios(scenario), "thresholds": _thresholds(scenario)},
        "rpc": scenario.request.rpc,
        "args": scenario.request.args,
        "headers": scenario.request.headers,
        "timeout": f"{scenario.request.timeout:g}s",
        "places": _places(scenario),
        "rules": rules,
        "failures": [str(outcome) for outcome in OUTCOMES if outcome in FAILURES],
        "counters": {name: [str(outcome) for outcome in counted] for name, counted in COUNTERS.items()},
        "byCode": {code: str(outcome) for code, outcome in BY_CODE.items()},
        "byStatus": {str(status): str(outcome) for status, outcome in BY_STATUS.items()},
    }


def _scenarios(scenario: Scenario) -> dict[str, Any]:
    """The executors as k6 spells them."""
    found = {}
    for name, executor in scenario.scenarios.items():
        if isinstance(executor, Race):
            given = executor.model_dump(mode="json", exclude_unset=True, include=_OF_A_RACE)
            found[name] = {"executor": "per-vu-iterations", "vus": executor.vus, "iterations": executor.rounds, **given}
        else:
            found[name] = executor.model_dump(mode="json", exclude_unset=True, exclude={"pause"})
    return found


def _places(scenario: Scenario) -> dict[str, Any]:
    """Which of the tickets each scenario uses, so that no two use the same: races first, and what nothing bounds, or
    what may use tickets again, takes the rest."""
    first, open_ended = 0, []
    places: dict[str, dict[str, Any]] = {}
    for name, executor in sorted(scenario.scenarios.items(), key=lambda item: not isinstance(item[1], Race)):
        race = isinstance(executor, Race)
        reuse = not race and scenario.tickets == "reuse"
        most = None if reuse else spec.most_tickets(executor)
        places[name] = {"race": race, "reuse": reuse, "pause": _pause(executor), "vus": _vus(executor)}
        if most is None:
            open_ended.append(name)
        else:
            places[name] |= {"first": first, "count": most}
            first += most
    if len(open_ended) > 1 and scenario.tickets == "once":
        raise ScenarioError(f"Nothing bounds the tickets of {' and '.join(open_ended)}.", hint="Give them a pause.")
    for name in open_ended:
        places[name] |= {"first": first, "count": None}
    return {name: places[name] for name in scenario.scenarios}


def _pause(executor: AnyExecutor) -> list[float]:
    """The shortest and the longest pause in s."""
    given = executor.model_dump(mode="json").get("pause", 0)
    return [seconds(value) for value in (given if isinstance(given, list) else [given, given])]


def _vus(executor: AnyExecutor) -> int:
    """How many gates an executor has at most."""
    given = executor.model_dump(mode="json")
    stages = [int(stage["target"]) for stage in given.get("stages", ())] if "startVUs" in given else []
    return max(1, *(int(given.get(name) or 0) for name in ("vus", "startVUs", "preAllocatedVUs", "maxVUs")), *stages)


def _thresholds(scenario: Scenario) -> dict[str, list[Any]]:
    """The file's thresholds, and one that always holds for each likely outcome: k6 shows the counts of those only."""
    found: dict[str, list[Any]] = {}
    dumped = scenario.model_dump(mode="json", exclude_unset=True).get("thresholds", {})
    for metric, given in dumped.items():
        name, tags = parse_selector(metric)
        if name not in _OF_OUTCOMES | _OF_K6:
            raise ScenarioError(f"thresholds: k6 has no metric {name}.")
        if "outcome" in tags and name not in _OF_OUTCOMES:
            raise ScenarioError(
                f"thresholds: k6 cannot tell {metric} by outcome.", hint="Use scan_duration, which the script measures."
            )
        found[metric] = [given] if isinstance(given, str) else given
    counted = [outcome for outcome in OUTCOMES if outcome in scenario.outcomes or outcome in _ALWAYS_COUNTED]
    for name in scenario.scenarios:
        for outcome in counted:
            found[f"scan_outcomes{{scenario:{name},outcome:{outcome}}}"] = ["count>=0"]
    return found


def _rule(outcome: str, rule: Rule) -> dict[str, Any]:
    given = rule.model_dump(mode="json", exclude_unset=True)
    if rule.matches is not None:
        given["matches"], given["flags"] = _pattern(rule.matches)
    return {"outcome": outcome, **given}


def _pattern(pattern: str) -> tuple[str, str]:
    """A Python pattern as JavaScript's, and its flags; ScenarioError for what JavaScript does not have."""
    head = re.match(r"\(\?([ims]+)\)", pattern)
    flags, rest = (head[1], pattern[head.end() :]) if head else ("", pattern)
    rest = rest.replace("(?P<", "(?<")
    if odd := next(_not_javascript(rest), None):
        raise ScenarioError(f"outcomes: k6's JavaScript has no {odd!r} in regular expressions ({pattern!r}).")
    return rest, f"{flags}u" if not rest.isascii() else flags


def _not_javascript(pattern: str) -> Iterator[str]:
    return (
        odd for odd in (r"\A", r"\Z", "(?P", "(?#", "(?(", "(?a", "(?L", "(?x", "(?>", "*+", "++") if odd in pattern
    )
