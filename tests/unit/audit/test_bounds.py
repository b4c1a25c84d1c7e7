"""Exact bounds on the rate of broken rounds, against published values and against the binomial sum itself."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.audit import bounds
from provision.audit.bounds import at_most, lower, rounds_for, upper


@pytest.mark.parametrize(("rounds", "rate"), [(200, 0.01487), (20, 0.13911), (1, 0.95)])
def test_no_hit_gives_the_rule_of_three_exactly(rounds: int, rate: float) -> None:
    assert upper(0, rounds) == pytest.approx(rate, abs=1e-5)
    assert upper(0, rounds) == pytest.approx(1 - 0.05 ** (1 / rounds))


def test_the_interval_of_one_in_ten_is_the_published_one() -> None:
    assert (lower(1, 10, 0.975), upper(1, 10, 0.975)) == pytest.approx((0.0025286, 0.4450161), abs=1e-6)


def test_all_hits_leave_the_rate_open_above_and_none_below() -> None:
    assert (upper(5, 5), lower(0, 5)) == (1.0, 0.0)


@settings(deadline=None)
@given(st.integers(1, 400), st.data())
def test_at_the_bounds_the_tail_is_exactly_what_is_left(rounds: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, rounds))

    def tail(rate: float) -> float:
        return math.fsum(math.comb(rounds, k) * rate**k * (1 - rate) ** (rounds - k) for k in range(hits + 1))

    if hits < rounds:
        assert tail(upper(hits, rounds)) == pytest.approx(0.05, rel=1e-6)
    assert lower(hits, rounds) <= hits / rounds <= upper(hits, rounds)
    assert at_most(hits, rounds, 0.3) == pytest.approx(tail(0.3), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("bound", [0.5, 0.1, 0.015, 0.01, 0.001])
def test_so_many_rounds_are_enough_and_one_less_is_not(bound: float) -> None:
    rounds = rounds_for(bound)
    assert upper(0, rounds) < bound
    assert rounds == 1 or upper(0, rounds - 1) >= bound


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("samples", [1, 5, 10, 40, 100, 400, 999])
def test_the_ranks_of_a_percentile_are_the_binomials_own(samples: int, share: float) -> None:
    """The percentile lies below the lower rank, or not below the upper one, in at most 2.5 % of all draws each; one
    rank nearer it would be more."""
    low, high = bounds.ranks(samples, share)
    assert low == 0 or bounds.at_most(low - 1, samples, share) <= 0.025
    assert bounds.at_most(low, samples, share) > 0.025
    assert high > samples or 1 - bounds.at_most(high - 1, samples, share) <= 0.025
    assert 1 - bounds.at_most(high - 2, samples, share) > 0.025


@pytest.mark.parametrize(("samples", "share"), [(10_000, 0.5), (1_000_000, 0.95), (10_000_000, 0.999)])
def test_the_ranks_of_very_many_samples_are_those_of_the_normal_distribution(samples: int, share: float) -> None:
    spread = 1.959964 * math.sqrt(samples * share * (1 - share))
    low, high = bounds.ranks(samples, share)
    assert low == pytest.approx(samples * share - spread, abs=2)
    assert high == pytest.approx(samples * share + spread, abs=2)


def test_a_tenth_of_a_percent_takes_three_thousand_rounds() -> None:
    assert rounds_for(0.001) == 2995
