"""The verdict's sentence: what a manager reads, beside it the fault that it is about."""

from pathlib import Path

import pytest
from histories import RACE, History, good
from reports import report

from provision.load.offline import scanned_at
from provision.load.outcomes import Outcome
from provision.report import words


def sentence(history: History, root: Path, thresholds: dict[str, list[str]] | None = None) -> str:
    return words.sentence(report(history, root, {} if thresholds is None else thresholds))


def test_a_good_run_says_how_many_got_in_and_how_fast(tmp_path: Path) -> None:
    told = "All 70 guests were let in exactly once, also in the 20 races of 10 gates for one ticket; "
    assert sentence(good(), tmp_path) == told + "95 of 100 scans took less than 5 ms."


def test_where_a_stock_is_raced_for_nobody_is_said_to_be_let_in_once(tmp_path: Path) -> None:
    history = good()
    history.changes["winners"] = 5
    made = report(history, tmp_path, {})
    assert words.sentence(made).startswith("All 70 admissions are in the database, none too many, also in the 20 races")


@pytest.mark.parametrize(
    ("promise", "told"),
    [
        ("idempotent", "No order took effect twice, also in the 20 races"),
        ("first-scan-wins", "Every ticket kept the time of its earliest scan, also in the 20 races"),
    ],
)
def test_where_all_may_hear_of_success_the_sentence_says_what_was_kept(promise: str, told: str, tmp_path: Path) -> None:
    history = good()
    history.changes["promise"] = promise
    results = history.results()
    history.scanned_at = {}
    for record in results.records():
        if record.named in {Outcome.ADMITTED, Outcome.ALREADY_USED}:
            at, ticket = scanned_at(results.started, record.vu, record.iteration), history.ticket(record.ticket)
            history.scanned_at[ticket] = min(at.isoformat(), history.scanned_at.get(ticket, "9"))
    assert words.sentence(report(history, tmp_path, {})).startswith(told)


def test_a_ticket_admitted_twice_is_named_with_its_gates_and_the_time_between(tmp_path: Path) -> None:
    history = good()
    history.race(70, ["admitted", "busy", "admitted"])
    history.store(70)
    assert sentence(history, tmp_path) == (
        "One ticket was admitted twice: ticket-70, by gate-1 and gate-3, 20.0 ms apart."
    )


def test_several_are_counted(tmp_path: Path) -> None:
    history = good()
    for ticket in (70, 71):
        history.race(ticket, ["admitted", "admitted"])
        history.store(ticket)
    assert sentence(history, tmp_path).startswith(
        "2 tickets were admitted more than once, the first of them ticket-70, by"
    )


def test_a_second_admission_that_only_the_database_knows(tmp_path: Path) -> None:
    history = good()
    history.race(70, ["admitted", "busy"])
    history.store(70, times=2)
    assert sentence(history, tmp_path) == ("One ticket was admitted twice: ticket-70, though only 1 gate was told so.")


def test_a_lost_admission(tmp_path: Path) -> None:
    history = good()
    history.ask("admitted", 70)
    assert sentence(history, tmp_path) == (
        "One guest was let in of whom the database knows nothing, first with ticket ticket-70."
    )


def test_an_admission_from_nowhere(tmp_path: Path) -> None:
    history = good()
    history.ask("busy", 70)
    history.store(70)
    assert sentence(history, tmp_path) == (
        "One ticket counts as used though no gate let anybody in with it, first ticket-70."
    )


def test_a_database_that_contradicts_itself(tmp_path: Path) -> None:
    history = good()
    history.ask("admitted", 70)
    history.entries["ticket-70"] = 1
    assert sentence(history, tmp_path) == "The database contradicts itself about one ticket, first ticket-70."


@pytest.mark.parametrize(
    ("metric", "expression", "told"),
    [
        ("scan_duration", "p(95)<2", "Scanning was too slow: p(95) was 5 ms, the limit is 2 ms."),
        (
            "scan_duration{scenario:race}",
            "med<2",
            "Scanning was too slow (scan_duration{scenario:race}): med was 5 ms, the limit is 2 ms.",
        ),
        ("successful_scans", "count>70", "A limit was broken: successful_scans should be count>70, and was 70."),
    ],
)
def test_a_broken_threshold(metric: str, expression: str, told: str, tmp_path: Path) -> None:
    assert sentence(good(), tmp_path, {metric: [expression]}) == told


def test_errors_above_their_limit_are_a_share(tmp_path: Path) -> None:
    history = good()
    for _ in range(3):
        history.ask("error", 70, status=500)
    assert sentence(history, tmp_path, {"scan_errors": ["rate<0.001"]}) == (
        "1.19% of the scans went wrong; the limit is 0.10%."
    )


def test_a_run_that_does_not_tell_says_so_and_why(tmp_path: Path) -> None:
    history = History()
    for ticket in range(3):
        history.admit(ticket)
    history.race(3, ["admitted", "already_used"], overlap=0)
    history.store(3)
    assert sentence(history, tmp_path).startswith("The run does not tell: only 0 of 1 rounds")


def test_advice_is_about_what_decided_the_verdict(tmp_path: Path) -> None:
    history = good()
    history.race(70, ["admitted", "admitted"])
    history.store(70)
    steps = words.next_steps(report(history, tmp_path))
    assert ["RETURNING" in steps[0], len(steps), steps[1][:9]] == [True, 2, "Clean up:"]
    assert words.next_steps(report(good(), tmp_path)) == ["Clean up: provision teardown --run 20260601-200000-abcde"]


def test_a_gate_of_the_race_is_counted_from_one(tmp_path: Path) -> None:
    history = good()
    history.ask("admitted", 70, part=RACE, vu=6)
    history.ask("admitted", 70, part=RACE, vu=2)
    history.store(70)
    assert "by gate-7 and gate-3, 10.0 ms apart" in sentence(history, tmp_path)
