from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import bundled
from provision.errors import ScenarioError
from provision.fixtures import recipe
from provision.load import executors, spec

SOURCE = bundled.find("scenarios", "scanner-burst")[1]


def parse(text: str = SOURCE) -> spec.Scenario:
    return spec.parse(Path("s.yaml"), text)


@pytest.mark.parametrize("name", bundled.names("scenarios"))
def test_every_bundled_scenario_is_valid(name: str) -> None:
    assert spec.parse(*bundled.find("scenarios", name)).name == name


def test_the_seeds_test_is_the_bundled_one() -> None:
    scenario = parse()
    burst, race = scenario.scenarios["scanner_burst"], scenario.scenarios["race_condition"]
    assert isinstance(burst, executors.ConstantVus)
    assert (burst.vus, burst.duration, burst.pause) == (10, 60, (0.1, 0.1))
    assert isinstance(race, spec.Race)
    assert (race.vus, race.rounds, race.startTime) == (10, 200, 70)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("1m30s", 90), ("100ms", 0.1), ("1.5s", 1.5), (250, 0.25), ("2h", 7200), ("1d", 86400), (0, 0), ("0s", 0)],
)
def test_durations_are_read_as_k6_reads_them(written: object, expected: float) -> None:
    assert executors.seconds(written) == pytest.approx(expected)


@pytest.mark.parametrize("written", ["", "1", "1 s", "-1s", "s", "1x", -1, True, None, [1]])
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="no duration"):
        executors.seconds(written)


@given(st.integers(0, 10**13))
def test_a_duration_written_out_reads_back_the_same(microseconds: int) -> None:
    assert executors.seconds(executors.text(microseconds / 1e6)) == pytest.approx(microseconds / 1e6, rel=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("vus: 10, duration", "vuss: 10, duration"), r"s.yaml:\d+: .*vuss: unknown key 'vuss'; did you mean 'vus'"),
        (("constant-vus", "constant-vu"), r"scanner_burst.*constant-vus"),
        (("duration: 1m, pause", "duration: 1 minute, pause"), r"scanner_burst.duration: '1 minute' is no duration"),
        (("duration: 1m, pause", "duration: 0s, pause"), r"scanner_burst.duration: .*greater than 0"),
        (("vus: 10, rounds", "vus: 1, rounds"), r"race_condition.vus: .*greater than or equal to 2"),
        (("vus: 10, duration", "vus: 1.5, duration"), r"scanner_burst.vus: "),
        (("rounds: 200", "rounds: 0"), r"race_condition.rounds: "),
        (("admitted:     {", "admited:     {"), r"unknown outcome 'admited'; did you mean 'admitted'"),
        (("admitted:     {", "unknown:     {"), r"unknown outcome 'unknown'"),
        (("equals: true }\n  already", "equal: true }\n  already"), r"admitted.* unknown key 'equal'; .*'equals'"),
        (('"another scanner|Concurrent"', '"another (scanner"'), r"busy.*no regular expression"),
        (("truth:", "truht:"), r"unknown key 'truht'; did you mean 'truth'"),
        (("rpc: scan_ticket_atomic", "rpc: scan/../../x"), r"request.rpc: "),
        (("name: scanner-burst", "name: ../escape"), r"s.yaml:\d+: name: "),
        (("scan_errors:", "scan_duration:"), r"s.yaml:\d+: key 'scan_duration' stands here twice"),
        (("request:", "request: ["), r"s.yaml:\d+: "),
        (
            ('["p(95)<200"]', '[{threshold: "p(95)<200", abortOnFail: "yes"}]'),
            r"s.yaml:\d+: thresholds.scan_duration.0.abortOnFail: Input should be a valid boolean",
        ),
        (
            ('["p(95)<200"]', '[{threshold: "p(95)<200", abortOnfail: true}]'),
            r"s.yaml:\d+: thresholds.scan_duration.0.abortOnfail: unknown key .*; did you mean 'abortOnFail'",
        ),
        (('["p(95)<200"]', "[{abortOnFail: true}]"), r"thresholds.scan_duration.0: the key 'threshold' is missing"),
        (('["p(95)<200"]', "[95]"), r"s.yaml:\d+: thresholds.scan_duration.0: .*(text|string|tag)"),
        (("  scanner_burst:", "  'my burst':"), r"s.yaml:\d+: scenarios.my burst: 'my burst' is no name; use letters"),
        (("  scanner_burst:", "  canary:"), r"s.yaml:\d+: scenarios.canary: 'canary' is what the first scans are"),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_key(change: tuple[str, str], words: str) -> None:
    assert change[0] in SOURCE
    with pytest.raises(ScenarioError, match=words):
        parse(SOURCE.replace(*change, 1))


@pytest.mark.parametrize("text", ["", "[]", "just text", "a: b: c", "\tx: 1", "!!python/object:os.system x"])
def test_what_is_no_scenario_at_all_is_an_error(text: str) -> None:
    with pytest.raises(ScenarioError, match=r"s\.yaml"):
        parse(text)


def test_without_truth_there_is_no_scenario() -> None:
    with pytest.raises(ScenarioError, match="replies alone prove nothing"):
        parse(SOURCE.split("truth:")[0] + "truth: {}\nscenarios:" + SOURCE.split("scenarios:")[1])


def test_the_tickets_needed_follow_from_the_load() -> None:
    total, words = spec.tickets_needed(parse())
    burst, race = 10 * 600, 200
    controls = spec.CONTROL_SCANS + 4 * (3 + 1)
    assert total == 1 + burst + race + controls
    assert "scanner_burst 6000 (10 VUs × 60 s, one in 0.1 s each)" in " ".join(words)


def test_without_a_pause_nothing_bounds_the_tickets() -> None:
    with pytest.raises(ScenarioError, match="without a pause nothing bounds"):
        spec.tickets_needed(parse(SOURCE.replace(", pause: 100ms", "")))


OFFLINE = bundled.find("scenarios", "offline-sync")[1]


@pytest.mark.parametrize("name", ["idempotent", "stock"])
def test_effects_are_counted_in_rows_not_by_a_flag(name: str) -> None:
    text = bundled.find("scenarios", name)[1]
    entries = next(line for line in text.splitlines(keepends=True) if line.strip().startswith("entries:"))
    flag = "  consumed: {table: tickets, where: {is_used: true}}\n"
    with pytest.raises(ScenarioError, match="needs entries, the table with a row for each effect"):
        spec.parse(Path("s.yaml"), text.replace(entries, flag if "consumed:" not in text else ""))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((", scanned_at: scanned_at", ""), "first-scan-wins needs scanned_at, the column"),
        (("{scanned_at}", "2026-06-01T20:00:00Z"), r"first-scan-wins needs the token \{scanned_at\}"),
        (("promise:", "winners: '<=2'\npromise:"), "first-scan-wins leaves room for one"),
    ],
)
def test_first_scan_wins_needs_the_times_that_were_sent_and_the_one_that_is_stored(
    change: tuple[str, str], words: str
) -> None:
    with pytest.raises(ScenarioError, match=words):
        parse(OFFLINE.replace(*change))


def test_overrides_keep_the_distance_between_parts() -> None:
    scenario = spec.override(parse(), vus=4, duration=5, rounds=7)
    burst, race = scenario.scenarios["scanner_burst"], scenario.scenarios["race_condition"]
    assert isinstance(burst, executors.ConstantVus)
    assert isinstance(race, spec.Race)
    assert (burst.vus, burst.duration) == (4, 5)
    assert (race.vus, race.rounds, race.startTime) == (4, 7, 15)


def parts(written: str) -> spec.Scenario:
    return parse(SOURCE.split("scenarios:")[0] + f"scenarios: {written}")


STAGED = "executor: ramping-vus, startVUs: 0, stages: [{ duration: 1s, target: 3 }]"


@pytest.mark.parametrize(
    ("written", "option", "words"),
    [
        ("{ r: { executor: race } }", {"vus": 1}, "--vus: r: .*greater than or equal to 2"),
        ("{ s: { executor: shared-iterations, iterations: 5 } }", {"vus": 9}, "--vus: s: 9 VUs cannot share 5 iter"),
        ("{ b: { executor: constant-vus, duration: 1s } }", {"vus": 0}, "--vus: b: .*greater than or equal to 1"),
        ("{ b: { executor: constant-vus, duration: 1s } }", {"duration": 0}, "--duration: b: .*greater than 0"),
        ("{ b: { executor: constant-vus, duration: 1s } }", {"rounds": 5}, "--rounds: nothing .* has rounds"),
        ("{ r: { executor: race } }", {"rounds": 0}, "--rounds: r: .*greater than or equal to 1"),
        (f"{{ s: {{ {STAGED} }} }}", {"duration": 5}, "--duration: nothing of this scenario has duration"),
        (f"{{ s: {{ {STAGED} }} }}", {"vus": 5}, "--vus: nothing of this scenario has vus"),
    ],
)
def test_the_command_lines_values_are_checked_as_the_files(written: str, option: dict[str, int], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        spec.override(parts(written), **{"vus": None, "duration": None, "rounds": None, **option})


def test_an_override_leaves_everything_else_as_it_was_written() -> None:
    scenario = parts(
        "{ b: { executor: constant-vus, vus: 3, duration: 1m, pause: [0.25ms, 1.5ms], startTime: 61.5s } }"
    )
    changed = spec.override(scenario, vus=4, duration=0.0005, rounds=None).scenarios["b"]
    assert changed == scenario.scenarios["b"].model_copy(update={"vus": 4, "duration": 0.0005})
    assert changed.model_fields_set == scenario.scenarios["b"].model_fields_set


@pytest.mark.parametrize(
    "written",
    [
        "{ executor: ramping-vus, startVUs: 0, stages: [{ duration: 1s, target: 0 }] }",
        "{ executor: ramping-arrival-rate, preAllocatedVUs: 1, stages: [{ duration: 1s, target: 0 }] }",
    ],
)
def test_stages_that_ask_for_nothing_are_refused(written: str) -> None:
    with pytest.raises(ScenarioError, match=r"e: stages: every target is 0, so nothing would run"):
        parts(f"{{ e: {written} }}")


def test_stages_that_only_go_down_are_a_load() -> None:
    stages = "stages: [{ duration: 1s, target: 0 }]"
    arrivals = f"executor: ramping-arrival-rate, startRate: 5, preAllocatedVUs: 1, {stages}"
    assert len(parts(f"{{ a: {{ executor: ramping-vus, {stages} }}, b: {{ {arrivals} }} }}").scenarios) == 2


def test_the_bundled_recipe_makes_enough_tickets_for_the_bundled_scenarios() -> None:
    made, _ = recipe.parse(*bundled.find("seeds", "event-night"))
    for name in bundled.names("scenarios"):
        assert spec.tickets_needed(spec.parse(*bundled.find("scenarios", name)))[0] <= made.count
