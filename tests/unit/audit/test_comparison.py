"""Whether latency changed: a planted change is found, none is found where there is none, and neighbours that depend on
each other make the interval wider."""

import math
import random

import pytest
from histories import BURST, RACE, History, good

from provision.audit.comparison import Change, change, compare, interval, latencies
from provision.audit.metrics import Trend


def seeded(number: int) -> random.Random:
    return random.Random(number)  # noqa: S311 - the same numbers every time


def independent(random_: random.Random, count: int, factor: float = 1.0) -> list[float]:
    return [factor * math.exp(random_.gauss(2, 0.5)) for _ in range(count)]


def drifting(random_: random.Random, count: int) -> list[float]:
    """Latencies of which each resembles the one before (an autoregressive series), as queues make them."""
    values, state = [], 0.0
    for _ in range(count):
        state = 0.95 * state + random_.gauss(0, 0.5 * math.sqrt(1 - 0.95**2))
        values.append(math.exp(2 + state))
    return values


def false_alarms(series: object, percent: float, runs: int = 200) -> float:
    random_ = seeded(6)
    assert callable(series)
    pairs = [(series(random_, 1000), series(random_, 1000)) for _ in range(runs)]
    return sum(change("s", percent, *pair).proven for pair in pairs) / runs


@pytest.mark.parametrize("percent", [50.0, 95.0, 99.0])
def test_two_runs_of_the_same_latencies_differ_by_the_test_in_about_one_of_twenty(percent: float) -> None:
    assert false_alarms(independent, percent) <= 0.08


def test_neighbours_that_depend_on_each_other_widen_the_interval_until_it_covers() -> None:
    random_ = seeded(7)
    runs = [drifting(random_, 3000) for _ in range(100)]
    truth = math.exp(2)
    ours = [interval(run, 50) for run in runs]
    naive = [Trend.of((value, 1) for value in run).interval(50) for run in runs]
    assert sum(one is not None and one[0] <= truth <= one[1] for one in ours) >= 89
    assert sum(low <= truth <= high for low, high in naive) <= 50


def test_a_planted_slowdown_is_found_with_its_size() -> None:
    random_ = seeded(1)
    found = [change("s", 95, independent(random_, 2000), independent(random_, 2000, 1.3)) for _ in range(50)]
    assert sum(one.proven for one in found) >= 49
    covered = [one.interval is not None and one.interval[0] <= 0.3 <= one.interval[1] for one in found]
    assert sum(covered) >= 44


def test_a_speedup_is_a_change_and_no_regression() -> None:
    random_ = seeded(2)
    found = change("s", 95, independent(random_, 2000), independent(random_, 2000, 0.5))
    assert (found.proven, found.exceeds(0.1)) == (True, False)
    assert found.change == pytest.approx(-0.5, abs=0.1)


def test_the_interval_covers_a_known_percentile_as_often_as_it_says() -> None:
    random_ = seeded(3)
    truth = math.exp(2 + 0.5 * 1.6448536)
    bounds = [interval(independent(random_, 1000), 95) for _ in range(300)]
    covered = sum(one is not None and one[0] <= truth <= one[1] for one in bounds) / 300
    assert 0.92 <= covered <= 1.0


@pytest.mark.parametrize(("count", "percent"), [(99, 50), (400, 99), (0, 50)])
def test_too_few_samples_give_no_interval(count: int, percent: float) -> None:
    assert interval([1.0] * count, percent) is None


def test_latencies_that_are_all_the_same_have_changed_by_nothing() -> None:
    found = change("s", 95, [5.0] * 500, [5.0] * 500)
    assert (found.change, found.interval, found.proven) == (0.0, (0.0, 0.0), False)


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [((0.12, 0.3), True), ((0.05, 0.3), None), ((-0.1, 0.05), False), ((-0.1, 0.1), False), (None, None)],
)
def test_a_limit_is_exceeded_only_when_the_whole_interval_lies_above_it(
    bounds: tuple[float, float] | None, verdict: bool | None
) -> None:
    assert Change("s", 95, 10, 12, 0.2, bounds).exceeds(0.1) is verdict


def test_latencies_are_those_of_measured_scenarios_in_the_order_of_sending() -> None:
    history = History()
    history.ask("admitted", 0, sent=30_000_000, ms=3)
    history.ask("admitted", 1, sent=10_000_000, ms=1)
    history.ask("not_sent", 2)
    history.ask("admitted", 3, part=0)
    history.ask("busy", 4, part=RACE, ms=7)
    assert latencies(history.results()) == {"burst": [1.0, 3.0], "race": [7.0]}


def test_only_scenarios_of_both_runs_are_compared() -> None:
    alone = History()
    alone.ask("admitted", 0, part=BURST)
    assert {one.scenario for one in compare(good().results(), alone.results())} == {"burst"}
