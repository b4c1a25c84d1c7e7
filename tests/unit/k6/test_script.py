"""The k6 script says what the scenario file says, or the export says why it cannot."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision import bundled
from provision.errors import ScenarioError
from provision.k6 import script
from provision.load import spec
from provision.load.spec import Scenario

SOURCE = bundled.find("scenarios", "quick")[1]


def scenario(*changes: tuple[str, str]) -> Scenario:
    text = SOURCE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return spec.parse(Path("night.yaml"), text)


def config(*changes: tuple[str, str]) -> dict[str, Any]:
    text = script.render(scenario(*changes), script="night.k6.js", env="night.k6.env")
    found, _ = json.JSONDecoder().raw_decode(text.split("const CONFIG = ", 1)[1])
    assert isinstance(found, dict)
    return found


BURST = "{ executor: constant-vus, vus: 10, duration: 5s, pause: 100ms }"


def test_executors_are_spelled_as_k6_spells_them_and_a_race_becomes_iterations() -> None:
    assert config()["options"]["scenarios"] == {
        "scanner_burst": {"executor": "constant-vus", "vus": 10, "duration": "5s"},
        "race_condition": {"executor": "per-vu-iterations", "vus": 10, "iterations": 60, "startTime": "6s"},
    }


def test_scenarios_share_out_the_tickets_without_overlap() -> None:
    places = config()["places"]
    assert (places["race_condition"]["first"], places["race_condition"]["count"]) == (0, 60)
    assert (places["scanner_burst"]["first"], places["scanner_burst"]["count"]) == (60, 500)
    assert places["scanner_burst"]["pause"] == [0.1, 0.1]
    assert [places[name]["race"] for name in places] == [False, True]


def test_what_nothing_bounds_takes_the_rest_of_the_tickets() -> None:
    places = config((", pause: 100ms", ""))["places"]
    assert (places["scanner_burst"]["first"], places["scanner_burst"]["count"]) == (60, None)
    assert places["race_condition"]["first"] == 0


def test_every_executor_of_k6_is_passed_on_as_it_is_written() -> None:
    stages = "stages: [{ duration: 1s, target: 5 }, { duration: 2s, target: 0 }]"
    written = {
        "a": f"{{ executor: ramping-vus, startVUs: 2, {stages}, gracefulRampDown: 3s, pause: [100ms, 1s] }}",
        "b": "{ executor: shared-iterations, vus: 3, iterations: 30, maxDuration: 20s }",
        "c": "{ executor: constant-arrival-rate, rate: 20, timeUnit: 1s, duration: 5s, preAllocatedVUs: 4, maxVUs: 9 }",
        "d": f"{{ executor: ramping-arrival-rate, startRate: 1, preAllocatedVUs: 7, {stages} }}",
    }
    found = config((BURST, BURST + "".join(f"\n  {name}: {one}" for name, one in written.items())))
    scenarios = found["options"]["scenarios"]
    wanted = {name: yaml.safe_load(one) for name, one in written.items()}
    wanted["a"].pop("pause")
    assert {name: scenarios[name] for name in wanted} == wanted
    assert {name: found["places"][name]["vus"] for name in wanted} == {"a": 5, "b": 3, "c": 9, "d": 7}
    assert found["places"]["a"]["pause"] == [0.1, 1.0]


def test_a_scenario_that_uses_tickets_again_leaves_the_races_theirs() -> None:
    places = config(("scenarios:\n", "tickets: reuse\nscenarios:\n"))["places"]
    assert [(one["first"], one["count"], one["reuse"]) for one in places.values()] == [(60, None, True), (0, 60, False)]


def test_a_threshold_in_k6s_long_form_is_passed_on() -> None:
    long = {"threshold": "p(95)<200", "abortOnFail": True, "delayAbortEval": "5s"}
    assert config(('["p(95)<200"]', f"[{json.dumps(long)}]"))["options"]["thresholds"]["scan_duration"] == [long]


def test_two_that_nothing_bounds_are_refused() -> None:
    with pytest.raises(ScenarioError, match="scanner_burst and second"):
        config((BURST, "{ executor: constant-vus, duration: 5s }\n  second: { executor: constant-vus, duration: 5s }"))


def test_thresholds_are_kept_and_every_likely_outcome_is_counted() -> None:
    thresholds = config()["options"]["thresholds"]
    assert thresholds["scan_duration"] == ["p(95)<200"]
    counted = {name.split("outcome:")[1] for name in thresholds if name.startswith("scan_outcomes{scenario:race_cond")}
    wanted = {"admitted", "already_used", "busy", "not_found", "error", "not_sent", "unknown", "unclassified"}
    assert counted == {f"{outcome}}}" for outcome in wanted}


def test_a_threshold_that_k6_cannot_tell_by_outcome_is_refused() -> None:
    with pytest.raises(ScenarioError, match="cannot tell http_req_duration"):
        config(('scan_duration: ["p(95)<200"]', '"http_req_duration{outcome:admitted}": ["p(95)<200"]'))


@pytest.mark.parametrize(
    ("python", "javascript", "flags"),
    [
        ("(?i)another", "another", "i"),
        ("(?P<who>x)", "(?<who>x)", ""),
        ("größer", "größer", "u"),
        (r"\d+ left", r"\d+ left", ""),
    ],
)
def test_patterns_become_those_of_javascript(python: str, javascript: str, flags: str) -> None:
    rules = config(("another scanner|Concurrent", python.replace("\\", "\\\\")))["rules"]
    busy = next(rule for rule in rules if rule["outcome"] == "busy")
    assert (busy["matches"], busy["flags"]) == (javascript, flags)


def test_a_pattern_that_javascript_does_not_have_is_refused() -> None:
    with pytest.raises(ScenarioError, match="no '\\(\\?P'"):
        config(("another scanner|Concurrent", "(?P<a>x)(?P=a)"))


def test_the_environment_file_holds_no_key(tmp_path: Path) -> None:
    known = {"SUPABASE_URL": "http://127.0.0.1:1", "SUPABASE_SERVICE_ROLE_KEY": "never"}
    text = script.environment(tmp_path / "it's.json", known)
    assert "never" not in text
    assert f"export TICKETS='{tmp_path}/it'\\''s.json'\n" in text
    assert "export SUPABASE_URL='http://127.0.0.1:1'\n" in text
