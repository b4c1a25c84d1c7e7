"""Each executor as k6 documents it, the real thing driven by a fake clock."""

from itertools import pairwise
from typing import Any

import pytest
from clock import play
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from provision.load import schedule, spec
from provision.load.share import Share


def constant(**more: Any) -> dict[str, Any]:
    return {"executor": "constant-vus", "vus": 1, "duration": "10s", **more}


def per_vu(**more: Any) -> dict[str, Any]:
    return {"executor": "per-vu-iterations", "vus": 2, "iterations": 3, **more}


def shared(**more: Any) -> dict[str, Any]:
    return {"executor": "shared-iterations", "vus": 2, "iterations": 5, **more}


def ramping(*stages: tuple[str, int], **more: Any) -> dict[str, Any]:
    return {"executor": "ramping-vus", "stages": [{"duration": d, "target": t} for d, t in stages], **more}


def arriving(**more: Any) -> dict[str, Any]:
    return {"executor": "constant-arrival-rate", "rate": 10, "duration": "2s", "preAllocatedVUs": 5, **more}


def ramping_arrivals(*stages: tuple[str, int], **more: Any) -> dict[str, Any]:
    given = [{"duration": d, "target": t} for d, t in stages]
    return {"executor": "ramping-arrival-rate", "stages": given, "preAllocatedVUs": 50, **more}


# -- constant-vus


def test_constant_vus_iterate_until_the_duration_is_over() -> None:
    assert play(constant(), took=3).begun() == [0, 3, 6, 9]


def test_an_iteration_that_would_begin_at_the_end_does_not_begin() -> None:
    assert play(constant(duration="9s"), took=3).begun() == [0, 3, 6]


def test_the_pause_comes_between_iterations_not_before_the_first() -> None:
    assert play(constant(duration="1s", pause="300ms"), took=0.1).begun() == [0, 0.4, 0.8]


def test_a_pause_may_be_a_range_and_is_drawn_anew_each_time() -> None:
    begun = play(constant(duration="100s", pause=["100ms", "300ms"])).begun()
    gaps = [later - earlier for earlier, later in pairwise(begun)]
    assert min(gaps) >= 0.1
    assert max(gaps) <= 0.3
    assert len(set(gaps)) > 100
    assert begun == play(constant(duration="100s", pause=["100ms", "300ms"])).begun()


def test_an_iteration_in_flight_at_the_end_may_finish_within_the_graceful_stop() -> None:
    seen = play(constant(), took=25)
    assert (seen.begun(), seen.given_up(), seen.ended) == ([0], [], 25)


def test_an_iteration_that_outlives_the_graceful_stop_is_given_up() -> None:
    seen = play(constant(gracefulStop="2s"), took=25)
    assert (seen.given_up(), seen.ended) == ([(0, 12)], 12)


def test_without_a_graceful_stop_the_end_is_the_end() -> None:
    assert play(constant(gracefulStop="0s"), took=3).given_up() == [(0, 10)]


def test_all_vus_run_side_by_side() -> None:
    assert play(constant(vus=4), took=5).by_vu() == {0: 2, 1: 2, 2: 2, 3: 2}


def test_start_time_shifts_everything() -> None:
    assert play(constant(startTime="5s"), took=4).begun() == [5, 9, 13]


# -- per-vu-iterations


def test_each_vu_does_its_iterations_however_slow_the_others_are() -> None:
    assert play(per_vu(), took=lambda ticket: 1 + ticket).by_vu() == {0: 3, 1: 3}


def test_max_duration_ends_them_and_the_rest_is_dropped() -> None:
    seen = play(per_vu(iterations=10, maxDuration="5s"), took=2)
    assert (seen.by_vu(), seen.dropped) == ({0: 3, 1: 3}, 14)


def test_nothing_is_dropped_when_all_were_done() -> None:
    assert play(per_vu(), took=2).dropped == 0


# -- shared-iterations


def test_shared_iterations_go_to_whoever_is_free() -> None:
    seen = play(shared(iterations=10), took=lambda ticket: 100 if ticket == 0 else 1)
    assert seen.by_vu() == {0: 1, 1: 9}


def test_shared_iterations_are_no_more_than_asked_for() -> None:
    assert len(play(shared(vus=4, iterations=7, pause="1s"), took=1).begun()) == 7


def test_shared_iterations_without_time_are_dropped() -> None:
    seen = play(shared(iterations=100, maxDuration="10s"), took=3)
    assert (len(seen.begun()), seen.dropped) == (8, 92)


def test_more_vus_than_shared_iterations_are_refused_as_in_k6() -> None:
    with pytest.raises(ValidationError, match="cannot share"):
        play(shared(vus=6))


# -- ramping-vus


def test_vus_are_called_one_after_the_other_along_the_ramp() -> None:
    seen = play(ramping(("10s", 5), startVUs=0), took=100)
    assert seen.begun() == [2, 4, 6, 8]  # the fifth would come at the very end


def test_start_vus_are_there_from_the_start() -> None:
    assert play(ramping(("10s", 3), startVUs=3), took=100).begun() == [0, 0, 0]


def test_one_vu_is_there_from_the_start_unless_said_otherwise() -> None:
    assert play(ramping(("10s", 1)), took=100).begun() == [0]


def test_on_the_way_down_the_last_vus_go_first() -> None:
    seen = play(ramping(("10s", 0), startVUs=2), took=1)
    assert seen.by_vu() == {0: 10, 1: 5}


def test_a_vu_sent_away_may_finish_within_the_graceful_ramp_down() -> None:
    seen = play(ramping(("10s", 0), startVUs=2, gracefulRampDown="3s"), took=7)
    assert seen.given_up() == [(0, 13)]  # begun at 0 and 7; the other VU's ended at 7, before 5 + 3


def test_a_vu_sent_away_that_takes_longer_is_given_up() -> None:
    assert play(ramping(("10s", 0), startVUs=2, gracefulRampDown="1s"), took=7).given_up() == [(0, 11), (1, 6)]


def test_a_vu_called_back_in_time_simply_goes_on() -> None:
    stages = ("10s", 0), ("0s", 1), ("10s", 1)
    seen = play(ramping(*stages, startVUs=1, gracefulRampDown="5s"), took=17)
    assert (seen.begun(), seen.given_up()) == ([0, 17], [])


def test_a_stage_without_a_duration_is_a_jump() -> None:
    assert play(ramping(("0s", 4), ("5s", 4), startVUs=0), took=100).begun() == [0, 0, 0, 0]


def test_vus_still_wanted_at_the_end_have_the_graceful_stop() -> None:
    assert play(ramping(("10s", 1), gracefulStop="4s", gracefulRampDown="1s"), took=100).given_up() == [(0, 14)]


def test_ramp_down_ends_with_the_graceful_stop_at_the_latest() -> None:
    seen = play(ramping(("10s", 0), startVUs=1, gracefulStop="1s", gracefulRampDown="30s"), took=100)
    assert seen.given_up() == [(0, 11)]


def test_vus_that_wait_for_their_turn_are_not_active() -> None:
    seen = play(ramping(("10s", 5), ("10s", 0), startVUs=0, pause="1s"), took=0.5)
    assert max(count for _, count in seen.active) == 5
    assert seen.active[0] == (2, 1)


# -- constant-arrival-rate


def test_arrivals_come_at_their_rate_whatever_the_server_does() -> None:
    assert play(arriving(), took=0.45).begun() == [round(n / 10, 6) for n in range(20)]


def test_the_time_unit_makes_slow_rates() -> None:
    assert play(arriving(rate=2, timeUnit="10s", duration="20s")).begun() == [0, 5, 10, 15]


def test_an_arrival_that_finds_no_free_vu_is_dropped() -> None:
    seen = play(arriving(preAllocatedVUs=2), took=1)
    assert seen.begun() == [0, 0.1, 1, 1.1]
    assert seen.dropped == 16


def test_further_vus_are_made_up_to_the_maximum() -> None:
    seen = play(arriving(preAllocatedVUs=2, maxVUs=6), took=1)
    assert (len(seen.by_vu()), seen.dropped) == (6, 8)


def test_arrivals_in_flight_at_the_end_may_finish_or_are_given_up() -> None:
    assert play(arriving(preAllocatedVUs=20), took=5).given_up() == []
    seen = play(arriving(preAllocatedVUs=20, gracefulStop="1s"), took=2.05)
    assert len(seen.given_up()) == 10  # those begun from 1.0 on
    assert seen.ended == 3


def test_a_vu_that_pauses_is_not_free() -> None:
    assert play(arriving(preAllocatedVUs=1, pause="250ms")).begun() == [0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8]


@pytest.mark.parametrize("graceful", ["0s", "10s"])
def test_what_a_tool_that_stood_still_did_not_send_in_time_is_dropped(graceful: str) -> None:
    seen = play(arriving(gracefulStop=graceful), took=0.3, stall=(1.05, 3.0))
    assert max(seen.begun()) <= 1.05
    assert (len(seen.begun()), seen.dropped) == (11, 9)


def test_lateness_is_kept_since_the_due_time_is_what_is_recorded() -> None:
    assert play(arriving(startTime="1s")).due == pytest.approx([1 + n / 10 for n in range(20)])


# -- ramping-arrival-rate


def test_the_area_under_the_rate_is_the_number_of_arrivals() -> None:
    seen = play(ramping_arrivals(("10s", 20), ("10s", 20), ("10s", 0)))
    assert len(seen.begun()) == 100 + 200 + 100


def test_arrivals_follow_the_rate() -> None:
    begun = play(ramping_arrivals(("10s", 20))).begun()
    assert sum(start <= 5 for start in begun) == 25  # a quarter of the area in half of the time
    assert begun[0] == pytest.approx(1)


def test_a_flat_stage_is_a_constant_rate() -> None:
    assert play(ramping_arrivals(("1s", 4), startRate=4)).begun() == [0.25, 0.5, 0.75, 1]


def test_a_stage_without_arrivals_is_silent() -> None:
    begun = play(ramping_arrivals(("5s", 0), ("0s", 2), ("5s", 2))).begun()
    assert begun == [5.5 + n / 2 for n in range(10)]


# -- tickets, the user's stop, shares


@pytest.mark.parametrize("written", [constant(vus=3), shared(iterations=50), arriving(), ramping(("10s", 3))])
def test_running_out_of_tickets_ends_the_executor(written: dict[str, Any]) -> None:
    seen = play(written, took=0.1, tickets=7)
    assert (len(seen.begun()), seen.exhausted, seen.dropped) == (7, True, 0)
    assert seen.ended < 10


@pytest.mark.parametrize(
    "written", [constant(pause="5s"), per_vu(pause="1m"), arriving(), ramping(("10s", 3), pause="9s")]
)
def test_a_stop_begins_nothing_new_and_waits_for_no_pause(written: dict[str, Any]) -> None:
    seen = play(written, took=0.3, stop_at=0.95)
    assert max(seen.begun()) < 0.95
    assert seen.ended <= 1.25
    assert (seen.given_up(), seen.dropped) == ([], 0)


@pytest.mark.parametrize("of", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "written",
    [
        constant(vus=5, pause="100ms"),
        per_vu(vus=5),
        shared(vus=5, iterations=23),
        ramping(("3s", 5), ("3s", 0), pause="100ms"),
        arriving(),
        arriving(rate=300, preAllocatedVUs=6, maxVUs=9),
        ramping_arrivals(("2s", 30)),
    ],
)
def test_the_shares_of_several_processes_are_the_whole(written: dict[str, Any], of: int) -> None:
    whole = play(written, took=0.0095)
    shares = [play(written, took=0.0095, share=Share(index, of)) for index in range(of)]
    begun = sorted(start for share in shares for start in share.begun())
    assert len(begun) == len(whole.begun())
    if written["executor"] != "shared-iterations":  # there a share keeps its iterations, though another be faster
        assert begun == pytest.approx(whole.begun())


# -- how many tickets

written_executors = st.one_of(
    st.builds(
        lambda vus, d, p: constant(vus=vus, duration=d, pause=p),
        st.integers(1, 4),
        st.integers(1, 3000),
        st.integers(1, 900),
    ),
    st.builds(lambda v, n, m, p: per_vu(vus=v, iterations=n, maxDuration=m, pause=p), st.integers(1, 4),
              st.integers(1, 9), st.integers(1, 3000), st.integers(0, 900)),
    st.builds(lambda v, n, m, p: shared(vus=v, iterations=v + n, maxDuration=m, pause=p), st.integers(1, 4),
              st.integers(0, 20), st.integers(1, 3000), st.integers(1, 900)),
    st.builds(lambda a, b, c, p: ramping(("1s", a), ("500ms", b), ("1s", c), startVUs=1, pause=p), st.integers(0, 5),
              st.integers(0, 5), st.integers(0, 5), st.integers(20, 900)),
    st.builds(lambda r, d: arriving(rate=r, duration=d, preAllocatedVUs=1, maxVUs=500), st.integers(1, 90),
              st.integers(1, 3000)),
    st.builds(lambda a, b, c: ramping_arrivals(("1s", a), ("500ms", b), ("1s", c), maxVUs=500), st.integers(0, 50),
              st.integers(1, 50), st.integers(0, 50)),
)  # fmt: skip


@settings(deadline=None)
@given(written_executors)
def test_the_tickets_needed_are_exactly_what_an_instant_server_uses(written: dict[str, Any]) -> None:
    executor = TypeAdapter(spec.Executor).validate_python(written)
    assert spec.most_tickets(executor) == len(play(written).begun())


@settings(deadline=None)
@given(written_executors, st.floats(0.001, 2))
def test_no_server_makes_an_executor_use_more_tickets_than_computed(written: dict[str, Any], took: float) -> None:
    executor = TypeAdapter(spec.Executor).validate_python(written)
    most = spec.most_tickets(executor)
    assert most is not None
    assert len(play(written, took=took).begun()) <= most


def test_the_most_vus_are_those_of_the_highest_stage() -> None:
    executor = TypeAdapter(spec.Executor).validate_python(ramping(("1s", 3), ("1s", 9), ("1s", 2)))
    assert schedule.most_vus(executor) == 9
