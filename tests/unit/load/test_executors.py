"""The closed executors as k6 documents them, driven by a fake clock."""

from hypothesis import given
from hypothesis import strategies as st

from provision.load.executors import last_end, next_start
from provision.load.spec import ConstantVus, PerVuIterations


def starts(executor: ConstantVus | PerVuIterations, took: float) -> list[float]:
    """When one VU starts its iterations if each of them takes `took` seconds."""
    now, found = 0.0, []
    while (start := next_start(executor, len(found), now)) is not None:
        found.append(start)
        now = start + took
    return found


def constant(duration: float, pause: float = 0.0) -> ConstantVus:
    return ConstantVus(executor="constant-vus", duration=duration * 1000, pause=pause * 1000)


def per_vu(iterations: int, longest: float = 600.0) -> PerVuIterations:
    return PerVuIterations(executor="per-vu-iterations", iterations=iterations, maxDuration=longest * 1000)


def test_constant_vus_iterate_until_the_duration_is_over() -> None:
    assert starts(constant(10), took=3) == [0, 3, 6, 9]


def test_an_iteration_that_would_begin_at_the_end_does_not_begin() -> None:
    assert starts(constant(9), took=3) == [0, 3, 6]


def test_the_pause_comes_between_iterations_not_before_the_first() -> None:
    assert starts(constant(1, pause=0.3), took=0.1) == [0, 0.4, 0.8]


def test_an_iteration_longer_than_the_duration_is_the_only_one() -> None:
    assert starts(constant(1), took=50) == [0]


def test_per_vu_iterations_are_as_many_as_asked_for() -> None:
    assert len(starts(per_vu(5), took=2)) == 5


def test_per_vu_iterations_stop_at_the_longest_duration() -> None:
    assert starts(per_vu(5, longest=5), took=2) == [0, 2, 4]


def test_iterations_in_flight_may_end_within_the_graceful_stop() -> None:
    assert last_end(constant(10)) == 40
    assert last_end(ConstantVus(executor="constant-vus", duration="10s", gracefulStop="0s")) == 10


@given(st.floats(0.05, 5), st.floats(0, 2), st.floats(0.01, 3))
def test_no_iteration_ever_begins_after_the_end_or_before_the_last_one_ended(
    duration: float, pause: float, took: float
) -> None:
    found = starts(constant(duration, pause), took)
    assert all(0 <= start < duration for start in found)
    assert all(later - earlier >= took - 1e-9 for earlier, later in zip(found, found[1:], strict=False))
