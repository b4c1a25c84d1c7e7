"""What the charts draw: nothing is lost in the sums, and a long run stays small."""

from pathlib import Path

from histories import BURST, MS, History, good
from hypothesis import given
from hypothesis import strategies as st
from reports import report

from provision.audit.metrics import Metrics
from provision.load.results import Sample
from provision.report import html
from provision.report.series import BUCKETS, ROUNDS, SHOWN, broken_rounds, distribution, rounds, series, timeline


def test_each_scenario_is_counted_whole_over_time_and_over_latencies(tmp_path: Path) -> None:
    drawn = series(report(good(), tmp_path))
    for key, rows in (("timeline", drawn["timeline"]), ("distribution", drawn["distribution"])):
        counts = {name: sum(row["count"] for row in rows if row["scenario"] == name) for name in ("burst", "race")}
        assert counts == {"burst": 50, "race": 200}, key


@given(st.lists(st.floats(0.002, 60_000), min_size=1, max_size=60))
def test_every_latency_lies_in_the_bin_that_counts_it(latencies: list[float]) -> None:
    history = History()
    for ticket, ms in enumerate(latencies):
        history.ask("admitted", ticket, ms=ms)
    results = history.results()
    (row,) = distribution(results, Metrics(results))
    assert sum(count for _, _, count in row["bins"]) == len(latencies)
    for low, high, count in row["bins"]:
        inside = [ms for ms in latencies if low * 0.999 <= int(ms * MS) / MS <= high * 1.001]
        assert len(inside) >= count


def test_a_vu_counts_from_its_first_request_to_its_last_reply() -> None:
    history = History(changes={"elapsed": 10.0})
    for second in (0, 4, 9):
        history.ask("admitted", second, vu=0, sent=second * 1000 * MS)
    history.ask("admitted", 1, vu=1, sent=4000 * MS)
    moments = {row["t"]: (row["vus"], row["count"]) for row in timeline(history.results(), 1.0)}
    assert moments == {t: ((2, 2) if t == 4 else (1, int(t in {0, 9}))) for t in map(float, range(10))}


def test_a_moment_has_its_rate_its_errors_and_its_latencies() -> None:
    history = History()
    for number, (outcome, ms) in enumerate([("admitted", 1), ("error", 3), ("not_sent", 0), ("admitted", 2)]):
        history.ask(outcome, number, ms=ms, sent=number * MS)
    (moment,) = timeline(history.results(), 0.5)
    assert (moment["rate"], moment["failed"], moment["med"], moment["max"]) == (8.0, 4.0, 2.0, 3.0)


def test_a_round_says_who_won_in_the_order_of_the_replies() -> None:
    history = good()
    history.race(70, ["admitted", "busy", "admitted"])
    assert [len(one["winners"]) for one in rounds(history.results())] == [1] * 20 + [2]
    (broken,) = broken_rounds(history.results())
    assert (broken["ticket"], broken["round"]) == ("ticket-70", 21)
    assert [(line["gate"], line["outcome"]) for line in broken["requests"]] == [
        (1, "admitted"),
        (2, "busy"),
        (3, "admitted"),
    ]
    assert [line["sent"] for line in broken["requests"]] == [0.0, 10.0, 20.0]


def test_many_rounds_are_thinned_and_a_broken_one_is_kept() -> None:
    history = History()
    for ticket in range(ROUNDS * 3):
        history.race(ticket, ["admitted", "admitted"] if ticket == 1000 else ["admitted", "busy"])
    shown = rounds(history.results())
    assert ROUNDS <= len(shown) <= ROUNDS + 1
    assert [one["round"] for one in shown if len(one["winners"]) > 1] == [1001]


def test_a_round_is_broken_only_beyond_the_winners_that_it_may_have() -> None:
    history = History(changes={"winners": 2})
    for ticket, winners in enumerate((2, 3)):
        history.race(ticket, ["admitted"] * winners + ["busy"])
    results = history.results()
    assert [one["broken"] for one in rounds(results)] == [False, True]
    assert [one["round"] for one in broken_rounds(results)] == [2]


def test_where_one_key_is_sent_by_all_no_round_is_broken_by_its_replies() -> None:
    history = History(changes={"promise": "idempotent"})
    history.race(0, ["admitted"] * 5)
    assert [one["broken"] for one in rounds(history.results())] == [False]


def test_only_the_first_broken_rounds_have_a_time_line() -> None:
    history = History()
    for ticket in range(SHOWN + 5):
        history.race(ticket, ["admitted", "admitted"])
    assert [one["round"] for one in broken_rounds(history.results())] == list(range(1, SHOWN + 1))


def long_run() -> History:
    """An hour with 12,000 scans, 2,500 races of 4 that all broke, and a scenario file of some length."""
    history = History(changes={"elapsed": 3600.0})
    for number in range(12_000):
        outcome = ("admitted", "busy", "error", "already_used")[number % 4]
        history.ask(outcome, number, vu=number % 100, part=BURST, sent=number * 300 * MS, ms=1 + number % 997)
    for ticket in range(12_000, 14_500):
        history.race(ticket, ["admitted"] * 4)
    return history


def test_a_long_run_gives_a_page_below_a_megabyte_and_a_half(tmp_path: Path) -> None:
    made = report(long_run(), tmp_path)
    drawn = series(made)
    assert len({row["t"] for row in drawn["timeline"] if row["scenario"] == "burst"}) <= BUCKETS
    page = html.render(made)
    assert 500_000 < len(page.encode()) < 1_500_000


def test_nothing_in_a_run_can_end_a_script_or_become_markup(tmp_path: Path) -> None:
    history = good()
    nasty = "</script><script>alert(1)</script><!--"
    history.samples.append(Sample("error", 500, nasty, 1))
    page = html.render(report(history, tmp_path))
    assert nasty not in page
    assert "&lt;/script&gt;" in page
    assert page.count("</script>") == 5


def test_the_page_may_load_nothing(tmp_path: Path) -> None:
    page = html.render(report(good(), tmp_path))
    policy = page.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src &#39;none&#39;;")
    assert "http" not in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]
