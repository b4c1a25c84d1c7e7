"""A k6 JSON configuration takes the place of a scenario's executors and thresholds, or is refused with its line."""

import json
from pathlib import Path
from typing import Any

import pytest

from provision import bundled
from provision.errors import ScenarioError
from provision.k6 import options
from provision.load import spec
from provision.load.executors import ConstantVus, PerVuIterations
from provision.load.spec import Limit, Race, Scenario

QUICK = spec.parse(*bundled.find("scenarios", "quick"))
PATH = Path("k6.json")
LONG = {"threshold": "p(95)<300", "abortOnFail": True, "delayAbortEval": "10s"}


def applied(given: Any) -> Scenario:
    return options.apply(QUICK, PATH, given if isinstance(given, str) else json.dumps(given, indent=1))


def test_scenarios_and_thresholds_are_those_of_the_configuration() -> None:
    found = applied({
        "scenarios": {
            "doors": {"executor": "constant-vus", "vus": 3, "duration": "20s", "exec": "scan", "tags": {"a": "b"}},
            "vip": {"executor": "per-vu-iterations", "vus": 2, "iterations": 5, "startTime": "1m"},
        },
        "thresholds": {"http_req_duration": [LONG, "p(99)<900"], "scan_errors": "rate<0.01"},
        "summaryTrendStats": ["avg"],
    })  # fmt: skip
    assert found.scenarios == {
        "doors": ConstantVus(executor="constant-vus", vus=3, duration="20s"),
        "vip": PerVuIterations(executor="per-vu-iterations", vus=2, iterations=5, startTime="1m"),
    }
    assert found.thresholds == {"http_req_duration": [Limit(**LONG), "p(99)<900"], "scan_errors": "rate<0.01"}
    assert (found.request, found.outcomes, found.truth) == (QUICK.request, QUICK.outcomes, QUICK.truth)


def test_without_thresholds_the_files_own_stay() -> None:
    assert applied({"vus": 4, "duration": "10s"}).thresholds == QUICK.thresholds


def test_vus_and_duration_at_the_top_are_a_scenario_named_default() -> None:
    assert applied({"vus": 4, "duration": "10s"}).scenarios == {
        "default": ConstantVus(executor="constant-vus", vus=4, duration="10s")
    }


def test_our_race_may_stand_there_too() -> None:
    assert isinstance(applied({"scenarios": {"r": {"executor": "race", "vus": 5}}}).scenarios["r"], Race)


def test_a_file_with_tabs_is_json_all_the_same() -> None:
    assert "default" in applied('{\n\t"vus":\t4,\n\t"duration": "10s"\n}').scenarios


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ('{"scenarios": {"a": {\n "executor": "constant-vus",\n "duratoin": "10s"}}}', "k6.json:3: .*did you mean"),
        ({"vus": 1, "duration": "10s", "userAgent": "x"}, "unknown key 'userAgent'"),
        ({"scenarios": {"a": {"executor": "externally-controlled"}}}, "k6.json:3: scenarios.a"),
        ({"scenarios": {"a": {"executor": "constant-vus", "duration": "10s", "env": {}}}}, "unknown key 'env'"),
        ({"scenarios": {}}, "k6.json:2: scenarios"),
        ({"thresholds": {}}, "'scenarios' is missing"),
        ("[]", "k6.json: expected keys and values"),
        ("{", "k6.json:1"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_over_is_refused(given: Any, told: str) -> None:
    with pytest.raises(ScenarioError, match=told):
        applied(given)
