import math
import statistics
from collections import Counter

import pytest
from histories import CANARY, CONTROL, MS, History, good
from hypothesis import given
from hypothesis import strategies as st

from provision.audit import bounds, thresholds
from provision.audit.metrics import KINDS, Gauge, Metrics, Trend
from provision.load.spec import Limit


def trend_of(values: list[float]) -> Trend:
    return Trend.of(Counter(values).items())


numbers = st.lists(st.floats(0, 1e6), min_size=2, max_size=300)


@given(numbers, st.floats(0, 100))
def test_percentiles_are_k6s_linear_interpolation(values: list[float], percent: float) -> None:
    found = trend_of(values).percentile(percent)
    assert min(values) <= found <= max(values)
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    assert trend_of(values).percentile(95) == pytest.approx(cuts[94], rel=1e-9, abs=1e-9)


@given(numbers)
def test_the_interval_holds_the_percentile(values: list[float]) -> None:
    trend = trend_of(values)
    low, high = trend.interval(95)
    assert low <= trend.percentile(95) <= high


@pytest.mark.parametrize(
    ("percent", "count", "limit"), [(95, 10, 200), (95, 71, 200), (99, 367, 200), (50, 5, 200), (100, 1000, 2000)]
)
def test_too_few_samples_have_no_upper_bound_and_straddle_any_limit(percent: int, count: int, limit: int) -> None:
    history = History()
    for ticket in range(count):
        history.ask("admitted", ticket, ms=ticket % 100)
    judged = thresholds.judge(
        thresholds.parse("scan_duration", f"p({percent})<{limit}", []), Metrics(history.results())
    )
    assert (judged.ok, judged.high, judged.straddles) == (True, math.inf, True)
    assert judged.interval().endswith(" – ?")


@pytest.mark.parametrize(("percent", "count"), [(95, 72), (99, 368), (50, 6)])
def test_as_many_samples_as_are_said_to_be_needed_have_an_upper_bound(percent: int, count: int) -> None:
    assert bounds.samples_for(percent / 100) == count
    assert trend_of([*map(float, range(count))]).interval(percent)[1] == count - 1


def test_a_trend_without_samples_has_no_value() -> None:
    assert all(math.isnan(Trend.of([]).statistic(name)) for name in ("avg", "min", "med", "max", "p(95)"))


def test_the_scan_metrics_count_what_the_replies_were() -> None:
    metrics = Metrics(good().results())
    counts = {
        n: metrics.get(n).statistic("count") for n in ("successful_scans", "already_scanned", "race_conditions_caught")
    }
    assert counts == {"successful_scans": 70, "already_scanned": 100, "race_conditions_caught": 80}
    assert metrics.get("scan_errors").statistic("rate") == 0


def test_always_not_found_is_no_clean_run() -> None:
    history = History()
    for ticket in range(10):
        history.ask("not_found", ticket)
    metrics = Metrics(history.results())
    assert metrics.get("scan_errors").statistic("rate") == 1
    assert metrics.get("ticket_not_found").statistic("count") == 10


def test_canary_and_controls_are_not_measured() -> None:
    history = History()
    history.admit(0, part=CANARY)
    history.admit(1, part=CONTROL)
    assert Metrics(history.results()).get("http_reqs").statistic("count") == 0


def test_latency_runs_from_send_to_last_byte_and_a_request_never_sent_has_none() -> None:
    history = History()
    history.ask("admitted", 0, ms=7)
    history.ask("not_sent", 1, ms=99)
    trend = Metrics(history.results()).get("scan_duration")
    assert isinstance(trend, Trend)
    assert trend.values == (7.0,)


def test_a_request_that_could_not_be_sent_is_counted_as_k6_counts_it_but_has_no_duration() -> None:
    history = History()
    history.ask("admitted", 0)
    history.ask("not_sent", 1, status=0)
    metrics = Metrics(history.results())
    assert {metrics.get(name).statistic("count") for name in ("http_reqs", "iterations")} == {2}
    assert metrics.get("http_req_failed").statistic("rate") == 0.5
    assert metrics.get("http_req_duration").samples == 1


def test_a_timeout_counts_in_the_latency() -> None:
    history = History()
    history.ask("unknown", 0, ms=30_000)
    assert Metrics(history.results()).get("scan_duration").statistic("max") == 30_000


def test_selectors_pick_scenario_and_outcome() -> None:
    metrics = Metrics(good().results())
    assert metrics.get("http_reqs{scenario:race}").statistic("count") == 200
    assert metrics.get("scan_duration{scenario:race,outcome:admitted}").samples == 20


@pytest.mark.parametrize("name", KINDS)
def test_every_metric_can_be_had_from_a_run_and_from_an_empty_one(name: str) -> None:
    assert type(Metrics(good().results()).get(name)) is KINDS[name]
    assert type(Metrics(History().results()).get(name)) is KINDS[name]


@pytest.mark.parametrize(
    "expression",
    ["p(95)<200", "p(99.9) <= 1.5e3", "avg<1", "med<1", "min>=0", "max<10000", "p(0)>0", "p(100)<9", "count>0"],
)
def test_k6s_expressions_are_understood(expression: str) -> None:
    assert thresholds.parse("scan_duration", expression, ["burst"]).expression == expression


@pytest.mark.parametrize(
    ("metric", "expression", "words"),
    [
        ("scan_duraton", "p(95)<200", "did you mean 'scan_duration'"),
        ("scan_duration", "p95<200", "no threshold; write"),
        ("scan_duration", "p(95)<", "no threshold; write"),
        ("scan_duration", "p(195)<200", "between 0 and 100"),
        ("scan_duration", "rate<0.1", "scan_duration is a trend: it has avg"),
        ("scan_errors", "p(95)<1", "scan_errors is a rate: it has rate"),
        ("successful_scans", "value>1", "successful_scans is a counter: it has count, rate"),
        ("scan_duration", "p(N)<1", "no threshold"),
        ("scan_duration{scenario:brust}", "avg<1", "did you mean 'burst'"),
        ("scan_duration{outcome:won}", "avg<1", "unknown outcome 'won'"),
        ("scan_duration{gate:1}", "avg<1", "unknown tag 'gate'"),
        ("scan duration!", "avg<1", "is no metric"),
    ],
)
def test_what_is_no_threshold_is_refused_before_the_run(metric: str, expression: str, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        thresholds.parse(metric, expression, ["burst", "race"])


@pytest.mark.parametrize(
    ("expression", "ok"),
    [
        ("count==70", True),
        ("count===70", True),
        ("count!=70", False),
        ("count>70", False),
        ("count>=70", True),
        ("count<=69", False),
    ],
)
def test_comparisons_are_k6s(expression: str, *, ok: bool) -> None:
    judged = thresholds.judge(thresholds.parse("successful_scans", expression, []), Metrics(good().results()))
    assert judged.ok is ok


def test_a_limit_inside_the_interval_straddles() -> None:
    history = History()
    for ticket in range(40):
        history.ask("admitted", ticket, ms=ticket)
    metrics = Metrics(history.results())
    assert thresholds.judge(thresholds.parse("scan_duration", "p(50)<21", []), metrics).straddles
    assert not thresholds.judge(thresholds.parse("scan_duration", "p(50)<39.5", []), metrics).straddles


def test_ks_long_form_is_understood() -> None:
    limit = Limit(threshold="p(95)<200", abortOnFail=True, delayAbortEval="10s")
    wanted = thresholds.parse("scan_duration", limit, [])
    assert (wanted.expression, wanted.abort_on_fail, wanted.delay) == ("p(95)<200", True, 10)


@pytest.mark.parametrize(("elapsed", "reason"), [(9.9, ""), (10, "successful_scans count<10")])
def test_a_failed_threshold_ends_the_run_after_its_delay(elapsed: float, reason: str) -> None:
    limit = Limit(threshold="count<10", abortOnFail=True, delayAbortEval="10s")
    wanted = [thresholds.parse("successful_scans", limit, [])]
    assert thresholds.reason_to_stop(wanted, Metrics(good().results()), elapsed) == reason


@pytest.mark.parametrize(
    ("metric", "limit"),
    [
        ("successful_scans", Limit(threshold="count<10")),
        ("successful_scans", Limit(threshold="count>10", abortOnFail=True)),
        ("scan_duration{outcome:error}", Limit(threshold="p(95)<1", abortOnFail=True)),
        ("ticket_not_found", Limit(threshold="count>0", abortOnFail=True)),  # empty so far, so not judged, as in k6
    ],
)
def test_what_has_not_failed_or_was_not_told_to_ends_nothing(metric: str, limit: Limit) -> None:
    assert thresholds.reason_to_stop([thresholds.parse(metric, limit, [])], Metrics(good().results()), 99) == ""


def test_the_median_has_an_interval_too() -> None:
    history = History()
    for ticket in range(40):
        history.ask("admitted", ticket, ms=ticket)
    judged = thresholds.judge(thresholds.parse("scan_duration", "med<21", []), Metrics(history.results()))
    assert judged.straddles


def test_latency_from_due_is_kept_beside_latency_from_send() -> None:
    history = History()
    history.ask("admitted", 0, ms=5)
    late = history.records[0]
    history.records[0] = late._replace(due=late.sent - 7 * MS)
    metrics = Metrics(history.results())
    assert metrics.get("http_req_duration").statistic("max") == 5
    assert metrics.get("http_req_response_time").statistic("max") == 12


def test_dropped_iterations_have_no_outcome() -> None:
    with pytest.raises(ValueError, match="have no outcome"):
        thresholds.parse("dropped_iterations{outcome:admitted}", "count<1", [])


def test_dropped_iterations_are_counted_for_each_scenario() -> None:
    history = good()
    history.changes = {"dropped": {"burst": 3, "race": 1}}
    metrics = Metrics(history.results())
    assert metrics.get("dropped_iterations").statistic("count") == 4
    assert metrics.get("dropped_iterations{scenario:burst}").statistic("count") == 3


def test_active_vus_are_the_last_that_were_seen() -> None:
    history = good()
    history.changes = {"vus": (3, 10, 7)}
    assert Metrics(history.results()).get("vus") == Gauge(7, 3, 10)


@pytest.mark.parametrize("metric", ["data_sent{scenario:burst}", "vus{outcome:admitted}", "vus_max{scenario:race}"])
def test_what_is_known_of_the_whole_run_only_has_no_tags(metric: str) -> None:
    with pytest.raises(ValueError, match="whole run only"):
        thresholds.parse(metric, "count>0" if "data" in metric else "value>0", ["burst", "race"])
