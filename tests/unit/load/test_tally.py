import random
from collections import Counter

import pytest
from histories import BURST, RACE, History, good
from hypothesis import given
from hypothesis import strategies as st

from provision.audit.metrics import Metrics, Trend
from provision.load.histogram import EXACT, Histogram
from provision.load.outcomes import Outcome
from provision.load.results import SIZE, Record, pack
from provision.load.tally import TRENDS, Tally

durations = st.integers(0, 10**12)
records = st.builds(
    Record, st.integers(0, 3), st.integers(0, 12), st.integers(0, 599), st.integers(0, 9), st.integers(0, 9),
    st.just(-1), st.integers(0, 99), durations, durations, durations, durations, st.integers(0, 10**6),
    st.floats(0, 1e10, width=32), st.floats(0, 1e10, width=32),
)  # fmt: skip


def by_hand(found: list[Record]) -> dict[str, Counter[int]]:
    sent = [r for r in found if r.sent]
    return {
        "duration": Counter(r.last - r.sent for r in sent),
        "waiting": Counter((r.first or r.last) - r.sent for r in sent),
        "response": Counter(r.last - r.due for r in sent),
        "lateness": Counter(r.sent - r.due - round(r.connecting) - round(r.handshaking) for r in sent),
        "connecting": Counter(round(r.connecting) for r in sent),
        "handshaking": Counter(round(r.handshaking) for r in sent),
    }


@given(st.lists(records, max_size=60), st.integers(1, 60))
def test_columns_add_up_to_what_the_records_say_however_they_are_cut(found: list[Record], cut: int) -> None:
    tally = Tally()
    for start in range(0, len(found), cut):
        tally.add(b"".join(map(pack, found[start : start + cut])))
    assert tally.statuses == Counter((r.part, r.named, r.status) for r in found)
    assert +tally.received == +sum((Counter({(r.part, r.named): r.received}) for r in found), Counter())
    for name, expected in by_hand(found).items():
        whole = Histogram()
        for histogram in tally.trends[name].values():
            whole.merge(histogram)
        assert dict(whole) == dict(expected), name
    assert set(TRENDS) == set(by_hand([]))


def test_parts_and_outcomes_are_kept_apart() -> None:
    tally = Tally(good().results().journal)
    assert tally.statuses[BURST, Outcome.ADMITTED, 200] == 50
    assert len(tally.trends["duration"][RACE, Outcome.ALREADY_USED]) == 100


@given(st.lists(st.integers(0, 10**11), min_size=1))
def test_a_histogram_of_few_values_is_exact(values: list[int]) -> None:
    assert dict(Histogram(values)) == Counter(values)


def test_percentiles_of_very_many_values_are_right_to_a_thousandth() -> None:
    draw = random.Random(4)  # noqa: S311 - samples, not secrets
    values = [int(draw.lognormvariate(16, 1.5)) for _ in range(200_000)]
    histogram = Histogram()
    for start in range(0, len(values), 10_000):
        histogram.update(values[start : start + 10_000])
    found = Trend.of((value / 1e6, times) for value, times in histogram)
    exact = Trend.of((value / 1e6, times) for value, times in Counter(values).items())
    assert found.samples == exact.samples == 200_000
    for percent in (0, 1, 25, 50, 90, 95, 99, 99.9, 99.99, 100):
        assert found.percentile(percent) == pytest.approx(exact.percentile(percent), rel=1e-3), percent


def test_a_histogram_does_not_grow_with_its_samples() -> None:
    histogram = Histogram()
    for start in range(100):
        histogram.update(range(10**6 + start, 10**9, 100_003))
    assert len(list(histogram)) < 2 * EXACT


def test_percentiles_of_a_merged_histogram_are_those_of_all_samples() -> None:
    one, other = [*range(1000)], [*range(5000, 5500)]
    merged = Histogram(one)
    merged.merge(Histogram(other))
    assert dict(merged) == Counter(one + other)


def test_a_journal_of_many_chunks_is_read_to_its_end() -> None:
    history = History()
    history.ask("admitted", 0)
    results = history.results()
    many = results.journal * 40_000
    assert len(many) == 40_000 * SIZE
    assert Tally(many).statuses.total() == 40_000


def test_connecting_and_tls_are_apart_from_the_latency() -> None:
    history = History()
    history.ask("admitted", 0, ms=5)
    history.records[0] = history.records[0]._replace(connecting=2e6, handshaking=3e6)
    metrics = Metrics(history.results())
    shown = {
        n: metrics.get(n).statistic("max") for n in ("http_req_connecting", "http_req_tls_handshaking", "scan_duration")
    }
    assert shown == {"http_req_connecting": 2, "http_req_tls_handshaking": 3, "scan_duration": 5}
