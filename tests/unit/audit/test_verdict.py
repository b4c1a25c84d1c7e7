"""The verdict is true: beside each promise stands the fault that breaks it."""

import dataclasses
import re
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from histories import BURST, CANARY, MS, PARTS, RACE, History, good
from hypothesis import given
from hypothesis import strategies as st
from reports import report

from provision.audit import thresholds
from provision.audit.evidence import Snapshot, gather
from provision.audit.finding import Finding, Status
from provision.audit.verdict import Verdict, judge
from provision.errors import ExitCode
from provision.load.offline import scanned_at
from provision.load.outcomes import Outcome
from provision.load.results import NO_TICKET, Generator, Part, Probe, Raced, Results, Sample, Strain
from provision.report.series import distribution, timeline


def verdict(history: History, *expressions: tuple[str, str]) -> Verdict:
    wanted = [thresholds.parse(metric, expression, ["burst", "race"]) for metric, expression in expressions]
    return judge(history.results(), history.snapshot(), wanted)


def strained(**changes: float) -> Generator:
    """A generator that was at ease but for what is given, while the burst's requests ended."""
    return Generator(0.1, 0.1, 1.0, 2.0, strains=(strain(BURST, **changes),))


def strain(part: int, **changes: float) -> Strain:
    ease = {"cpu": 0.1, "waited": 0.0, "lag": 0.0, "lag_p95": 0.0, "lag_p99": 0.0, "lag_max": 0.0, "saturated": 0.0}
    return Strain(part, 50, **(ease | changes))


def finding(history: History, promise: str) -> Finding:
    return next(f for f in verdict(history).findings if f.promise == promise)


def grown(work: Callable[[], object]) -> float:
    """The bytes that some work takes at most, for each of 5,000 requests."""
    tracemalloc.start()
    kept = work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del kept
    return most / 5_000


def test_a_run_in_which_all_held_passes_with_the_statement_that_it_earns() -> None:
    judged = verdict(good(), ("scan_duration", "p(95)<200"))
    assert (judged.status, judged.exit_code) == (Status.PASS, ExitCode.PASS)
    assert "0 of 20 contended rounds admitted twice: the true rate is below 13.91% (95 %)" in judged.headline


def test_two_winners_in_the_replies_fail_and_are_named() -> None:
    history = good()
    history.race(70, ["admitted", "busy", "admitted"])
    history.store(70)
    judged = verdict(history)
    assert judged.exit_code == ExitCode.FAIL
    assert "Ticket ticket-70 was admitted twice: by gate 1 (race, round 21) and gate 3" in judged.headline
    assert "20.0 ms apart" in judged.headline


def test_of_many_tickets_admitted_twice_those_of_races_are_shown_first() -> None:
    history = good()
    history.ask("admitted", 3)
    history.race(70, ["admitted", "busy", "admitted"])
    history.store(70)
    broken = finding(history, "one-winner")
    assert [detail["ticket"] for detail in broken.details] == ["ticket-70", "ticket-3"]
    assert broken.details[0]["rounds"] == [21]


def test_two_admissions_in_the_database_alone_fail() -> None:
    history = good()
    history.store(3)
    assert verdict(history).status is Status.FAIL
    assert (
        "ticket-3 was admitted twice: the database holds 2 admissions, the replies acknowledged 1"
        in verdict(history).headline
    )


def test_two_winners_in_the_replies_fail_even_when_the_database_holds_one() -> None:
    history = good()
    history.ask("admitted", 3)
    assert finding(history, "one-winner").status is Status.FAIL


def test_an_acknowledged_admission_that_is_not_stored_is_lost() -> None:
    history = good()
    history.ask("admitted", 70)
    lost = finding(history, "none-lost")
    assert lost.status is Status.FAIL
    assert "ticket-70 was let in by gate 1 (burst), but not stored" in lost.statement


def test_an_admission_from_nowhere_is_unexpected() -> None:
    history = good()
    history.ask("already_used", 70)
    history.store(70)
    assert finding(history, "none-unexpected").status is Status.FAIL


def test_an_admission_of_a_ticket_that_nobody_asked_about_is_unexpected() -> None:
    history = good()
    history.consumed.add("untouched")
    history.entries["untouched"] = 1
    assert finding(history, "none-unexpected").status is Status.FAIL


def test_timeout_after_commit_is_recovered_not_lost() -> None:
    history = good()
    history.ask("unknown", 70, status=0)
    history.store(70)
    assert verdict(history).status is Status.PASS
    assert "1 whose reply was lost were found" in finding(history, "none-unexpected").statement


def test_timeout_before_commit_is_no_fault_either() -> None:
    history = good()
    history.ask("unknown", 70, status=0)
    assert verdict(history).status is Status.PASS


def test_an_unknown_reply_does_not_excuse_a_second_admission() -> None:
    history = good()
    history.admit(70)
    history.ask("unknown", 70, status=0)
    history.store(70)
    assert finding(history, "one-winner").status is Status.FAIL


@pytest.mark.parametrize("side", ["consumed", "entries"])
def test_ticket_and_entry_that_disagree_fail(side: str) -> None:
    history = good()
    history.admit(70)
    if side == "consumed":
        history.consumed.discard("ticket-70")
    else:
        del history.entries["ticket-70"]
    assert finding(history, "database-agrees").status is Status.FAIL


def test_a_reply_that_no_rule_names_fails() -> None:
    history = good()
    history.ask("unclassified", 70)
    history.samples.append(Sample("unclassified", 200, '{"odd": 1}', 1))
    judged = finding(history, "all-classified")
    assert judged.status is Status.FAIL
    assert 'HTTP 200: {"odd": 1}' in judged.statement


def test_a_ticket_that_does_not_exist_and_is_let_in_fails() -> None:
    history = good()
    history.ask("admitted", NO_TICKET, part=CANARY)
    assert "does not exist was admitted" in finding(history, "all-classified").statement


def test_the_canary_is_judged_as_any_scan() -> None:
    history = good()
    history.admit(70, part=CANARY)
    history.ask("admitted", 70, part=CANARY)
    assert "by the canary and the canary" in finding(history, "one-winner").statement


def test_rounds_that_did_not_overlap_are_inconclusive() -> None:
    history = good()
    for ticket in range(70, 80):
        history.race(ticket, ["busy"] * 4 + ["admitted"] + ["already_used"] * 5, overlap=2)
        history.store(ticket)
    judged = verdict(history)
    assert judged.exit_code == ExitCode.INCONCLUSIVE
    assert "Only 20 of 30 rounds of race had half of their requests in flight together" in judged.headline


def test_one_race_lends_no_contention_to_another() -> None:
    history = quiet_race(OVERTOOK)
    assert verdict(history).status is Status.PASS
    history.parts = (*history.parts, Part("stock", "race", 10, measured=True))
    history.changes["races"] = (*history.changes["races"], *history.changes["races"])
    assert "No round of stock was run." in verdict(history).headline
    for ticket in range(20, 22):
        history.race(ticket, ["admitted"] + ["already_used"] * 9, overlap=2, part=4, name="stock")
        history.store(ticket)
    judged = verdict(history)
    assert judged.status is Status.INCONCLUSIVE
    assert "Only 0 of 2 rounds of stock" in judged.headline


def test_a_server_that_one_race_found_to_serialise_does_so_for_another_that_did_not_look() -> None:
    history = quiet_race(probe(answered=120, ended=100))
    assert verdict(history).status is Status.INCONCLUSIVE
    history.race(30, ["admitted"] + ["busy"] * 9)
    history.store(30)
    history.changes["races"] = (*history.changes["races"], Raced("again", "barrier", "", (), (), "no room"))
    judged = verdict(history)
    assert judged.status is Status.INCONCLUSIVE
    assert "effective concurrency 1" in judged.headline


def quiet_race(*before: Probe, after: tuple[Probe, ...] = ()) -> History:
    """A correct gate without a busy reply, and what probes showed of its server."""
    history = History(parts=(PARTS[0], replace(PARTS[1], measured=False), *PARTS[2:]))
    for ticket in range(20):
        history.race(ticket, ["admitted"] + ["already_used"] * 9)
        history.store(ticket)
    history.changes = {"races": (Raced("race", "single-packet", "the target offers HTTP/2", before, after),)}
    return history


def probe(blockers: int = 1, *, answered: int, ended: int, asked: int = 50, alone: int = 100) -> Probe:
    """A scan asked 50 ms after reads that take 100; times in ms."""
    return Probe(blockers, alone * MS, asked * MS, answered * MS, (ended * MS,) * blockers)


OVERTOOK = probe(answered=55, ended=102)
WAITED = probe(answered=104, ended=102)
SLOWED = probe(answered=55, ended=400)


def test_a_server_that_runs_one_request_at_a_time_is_inconclusive_whatever_the_client_sees() -> None:
    judged = verdict(quiet_race(WAITED, WAITED, WAITED, WAITED))
    assert judged.exit_code == ExitCode.INCONCLUSIVE
    assert "ran the requests one after the other" in judged.headline
    assert "effective concurrency 1" in judged.headline
    assert not [found for found in judged.findings if "true rate" in found.statement]


def test_a_server_that_runs_requests_side_by_side_can_pass_without_a_busy_reply() -> None:
    history = quiet_race(OVERTOOK)
    assert verdict(history).status is Status.PASS
    assert "single-packet (the target offers HTTP/2)" in finding(history, "contended").statement


def test_a_pool_that_shrank_during_the_race_is_inconclusive() -> None:
    assert verdict(quiet_race(OVERTOOK, after=(WAITED,) * 4)).status is Status.INCONCLUSIVE


def test_busy_replies_do_not_outweigh_a_probe_that_had_to_wait() -> None:
    history = quiet_race(*[WAITED] * 4)
    history.race(20, ["admitted"] + ["busy"] * 9)
    history.store(20)
    assert verdict(history).status is Status.INCONCLUSIVE


def test_one_scan_that_overtakes_a_read_which_may_have_begun_later_is_no_proof_but_three_are() -> None:
    assert verdict(quiet_race(SLOWED, SLOWED, WAITED, WAITED)).status is Status.INCONCLUSIVE
    assert verdict(quiet_race(SLOWED, SLOWED, SLOWED)).status is Status.PASS


def test_a_probe_that_did_not_meet_the_scan_shows_nothing() -> None:
    missed = Probe(1, 100 * MS, 0, 0, ())
    judged = verdict(quiet_race(missed, missed))
    assert judged.contention.concurrency is None
    assert judged.status is Status.INCONCLUSIVE


def test_the_concurrency_is_one_more_than_the_reads_that_were_overtaken() -> None:
    four = probe(4, answered=60, ended=300)
    waited = probe(9, answered=310, ended=300)
    assert verdict(quiet_race(OVERTOOK, after=(OVERTOOK, four, waited))).contention.concurrency == 5


def stock(outcomes: list[str], stored: int) -> History:
    history = quiet_race(OVERTOOK)
    history.changes |= {"winners": 3}
    history.race(20, outcomes)
    history.store(20, stored)
    return history


def test_a_stock_of_three_may_have_three_winners() -> None:
    judged = verdict(stock(["admitted"] * 3 + ["already_used"] * 7, 3))
    assert judged.status is Status.PASS
    assert "0 of 21 contended rounds admitted more than 3" in judged.headline


@pytest.mark.parametrize(("heard", "stored"), [(4, 3), (3, 4), (4, 4)])
def test_a_stock_of_three_that_is_sold_four_times_fails(heard: int, stored: int) -> None:
    history = stock(["admitted"] * heard + ["already_used"] * 6, stored)
    broken = finding(history, "stock")
    assert broken.status is Status.FAIL
    assert "ticket-20 was admitted 4 times, of 3 allowed" in broken.statement


def test_a_place_that_was_sold_to_two_is_lost() -> None:
    assert finding(stock(["admitted"] * 3, 2), "none-lost").status is Status.FAIL


def same_key(heard: int, stored: int) -> History:
    history = quiet_race(OVERTOOK)
    history.changes |= {"promise": "idempotent"}
    history.race(20, ["admitted"] * heard + ["already_used"] * (10 - heard))
    history.store(20, stored)
    return history


def test_the_same_key_may_hear_of_success_ten_times_when_one_effect_is_stored() -> None:
    assert verdict(same_key(10, 1)).status is Status.PASS


@pytest.mark.parametrize(("stored", "promise"), [(2, "idempotent"), (0, "none-lost")])
def test_the_same_key_with_two_effects_or_none_fails(stored: int, promise: str) -> None:
    assert finding(same_key(10, stored), promise).status is Status.FAIL


def synced(outcomes: list[str], keep: int, shift: int = 0) -> History:
    """A round of offline scans; the time of the one that is `keep`th by age is stored, `shift` s later."""
    history = quiet_race(OVERTOOK)
    history.changes |= {"promise": "first-scan-wins"}
    history.scanned_at = {history.ticket(number): _times(history, number)[0].isoformat() for number in range(20)}
    history.race(20, outcomes)
    history.store(20)
    kept = _times(history, 20, [place for place, outcome in enumerate(outcomes) if outcome != "busy"])[keep]
    history.scanned_at[history.ticket(20)] = (kept + timedelta(seconds=shift)).replace(tzinfo=None).isoformat()
    return history


def _times(history: History, number: int, vus: Sequence[int] = ()) -> list[datetime]:
    records = [r for r in history.records if r.ticket == number and r.named is not Outcome.BUSY]
    return sorted(scanned_at(history.results().started, r.vu, r.iteration) for r in records if not vus or r.vu in vus)


SYNCED = ["admitted"] * 4 + ["already_used"] * 4 + ["busy"] * 2


def test_the_earliest_of_ten_offline_scans_may_stay_whoever_heard_of_success() -> None:
    judged = verdict(synced(SYNCED, keep=0))
    assert judged.status is Status.PASS
    assert "0 of 21 contended rounds lost the earliest scan" in judged.headline


@pytest.mark.parametrize(("keep", "shift"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_a_later_scan_or_a_time_that_nobody_gave_fails_where_the_first_scan_wins(keep: int, shift: int) -> None:
    history = synced(SYNCED, keep, shift)
    broken = finding(history, "first-scan-wins")
    assert broken.status is Status.FAIL
    assert re.match(r"Ticket ticket-20 kept the time [0-9:]{8}, but gate \d+ \(race, round 21\)", broken.statement)
    assert len(broken.details[0]["requests"]) == 8
    assert min(one["scanned_at"] for one in broken.details[0]["requests"]) == _times(history, 20)[0].isoformat()
    assert finding(history, "rounds-won").status is Status.FAIL


def test_a_ticket_that_is_used_without_a_time_fails_where_the_first_scan_wins() -> None:
    history = synced(SYNCED, keep=0)
    assert history.scanned_at is not None
    del history.scanned_at["ticket-20"]
    assert "kept no time" in finding(history, "first-scan-wins").statement


def test_a_flag_does_not_tell_how_often_an_offline_scan_took_effect() -> None:
    history = synced(SYNCED, keep=0)
    flags = replace(history.snapshot(), entries=None)
    told = {found.promise for found in judge(history.results(), flags, []).findings}
    assert "first-scan-wins" in told
    assert "idempotent" not in told
    assert "idempotent" in {found.promise for found in verdict(history).findings}


def test_an_offline_scan_without_a_reply_may_be_the_one_that_stayed_or_not() -> None:
    outcomes = ["unknown"] * 9 + ["admitted"]
    allowed = [finding(synced(outcomes, keep), "first-scan-wins").status is Status.PASS for keep in range(10)]
    known = _times(synced(outcomes, 0), 20).index(_times(synced(outcomes, 0), 20, [9])[0])
    assert 0 < known < 9
    assert allowed == [place <= known for place in range(10)]


def test_laggards_are_named_and_many_of_them_are_inconclusive() -> None:
    history = good()
    history.rounds[3] = dataclasses.replace(history.rounds[3], late=(6,))
    named = finding(history, "released")
    assert named.statement == "1 requests missed the release, first gate 7 in round 4 (race)."
    assert named.status is Status.PASS
    history.rounds[:3] = [dataclasses.replace(round_, late=(1,)) for round_ in history.rounds[:3]]
    assert finding(history, "released").status is Status.INCONCLUSIVE


def test_broken_rounds_are_counted_with_their_bounds_and_shown_with_gaps() -> None:
    history = good()
    history.race(70, ["admitted", "busy", "admitted"])
    history.store(70, 2)
    broken = finding(history, "rounds-won")
    assert broken.statement == "1 of 21 rounds broke: a rate of 0.12% to 23.82% (95 %)."
    (detail,) = broken.details
    assert (detail["ticket"], detail["rounds"], detail["gaps_us"]) == ("ticket-70", [21], [20_000.0])


def test_a_round_is_held_broken_or_without_contention() -> None:
    history = good()
    history.race(70, ["admitted", "busy", "admitted"])
    history.store(70)
    history.race(71, ["admitted"] + ["busy"] * 9, overlap=1)
    history.store(71)
    states = [trial.state for trial in gather(history.results(), history.snapshot()).trials()]
    assert states == ["held"] * 20 + ["broken", "no contention"]


def test_a_race_without_a_round_is_inconclusive() -> None:
    history = History()
    history.admit(0)
    assert finding(history, "contended").status is Status.INCONCLUSIVE


def test_a_round_without_a_winner_is_inconclusive() -> None:
    history = good()
    history.race(70, ["busy"] * 10)
    assert "In 1 of 21 rounds nobody was let in" in finding(history, "rounds-won").statement
    assert verdict(history).status is Status.INCONCLUSIVE


def test_a_round_whose_winner_is_unknown_is_no_round_without_a_winner() -> None:
    history = good()
    history.race(70, ["unknown"] + ["busy"] * 9)
    assert verdict(history).status is Status.PASS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"generator": strained(saturated=0.06, cpu=0.6, waited=0.35)}, "at its limit for 6% of the requests of burst"),
        ({"generator": strained(lag=0.6)}, "late by 0.6 ms on average, of latencies of 5.0 ms (med)"),
        ({"generator": strained(lag_p95=1.2)}, "late by 1.2 ms at p(95), of latencies of 5.0 ms (p(95))"),
        ({"exhausted": ("burst",)}, "Tickets ran out in burst"),
        ({"interrupted": True}, "interrupted"),
    ],
)
def test_what_the_load_did_not_deliver_is_inconclusive(change: dict, words: str) -> None:
    history = good()
    history.changes = change
    judged = verdict(history)
    assert judged.status is Status.INCONCLUSIVE
    assert words in judged.headline


def test_an_interrupted_run_exits_105_unless_a_promise_broke() -> None:
    history = good()
    history.changes = {"interrupted": True}
    assert verdict(history).exit_code == ExitCode.INTERRUPTED
    history.store(3)
    assert verdict(history).exit_code == ExitCode.FAIL


def test_a_run_that_measured_nothing_does_not_pass() -> None:
    history = History(parts=PARTS[:2])
    history.admit(0, part=CANARY)
    assert verdict(history).status is Status.INCONCLUSIVE


def test_a_broken_threshold_fails_and_one_without_samples_does_not_pass() -> None:
    assert verdict(good(), ("scan_duration", "p(95)<1")).exit_code == ExitCode.FAIL
    assert verdict(good(), ("scan_duration{outcome:error}", "p(95)<200")).exit_code == ExitCode.INCONCLUSIVE


def test_a_latency_that_the_tools_own_lateness_could_explain_proves_nothing() -> None:
    history = good()
    history.changes = {"generator": strained(lag_p99=2.0, lag_max=3.0)}
    of_burst = "scan_duration{scenario:burst}"
    judged = verdict(history, (of_burst, "p(95)<4"))
    assert judged.status is Status.INCONCLUSIVE
    assert "late by up to 2.0 ms" in judged.headline
    assert verdict(history, (of_burst, "p(95)<2.9")).status is Status.FAIL
    assert verdict(history, (of_burst, "p(99.9)<2.9")).status is Status.INCONCLUSIVE
    assert verdict(history, (of_burst, "max<2.9")).status is Status.INCONCLUSIVE
    assert verdict(history, (of_burst, "max<1.9")).status is Status.FAIL
    assert verdict(history, (of_burst, "med<4")).status is Status.FAIL  # the mean lateness explains no ms
    assert verdict(history, ("scan_duration{scenario:race}", "p(95)<4")).status is Status.FAIL
    assert verdict(history, ("scan_errors", "rate<0")).status is Status.FAIL


def test_what_the_tool_was_late_by_in_one_scenario_excuses_no_other() -> None:
    history = good()
    assert verdict(history, ("scan_duration", "p(95)<4")).status is Status.FAIL
    for part in (BURST, RACE):
        history.changes = {"generator": Generator(0.1, 0.1, 1.0, 2.0, strains=(strain(part, lag_p99=2.0),))}
        assert verdict(history, ("scan_duration", "p(95)<4")).status is Status.FAIL
    both = (strain(BURST, lag_p99=2.0), strain(RACE, lag_p99=2.0))
    history.changes = {"generator": Generator(0.1, 0.1, 1.0, 2.0, strains=both)}
    assert verdict(history, ("scan_duration", "p(95)<4")).status is Status.INCONCLUSIVE


@pytest.mark.parametrize(
    ("metric", "limit", "status"),
    [
        ("http_req_response_time", "p(95)<6", "INCONCLUSIVE"),
        ("http_req_response_time", "p(95)<4", "FAIL"),
        ("scan_duration", "p(95)<4", "FAIL"),
    ],
)
def test_a_time_from_due_that_late_sends_could_explain_proves_nothing(metric: str, limit: str, status: str) -> None:
    history = History(parts=(PARTS[0], Part("burst", "constant-arrival-rate", 10, measured=True)))
    for number in range(40):
        history.admit(number)
        history.records[-1] = history.records[-1]._replace(due=history.records[-1].due - 300 * MS)
    judged = verdict(history, (metric, limit))
    assert next(found for found in judged.findings if found.promise.startswith("threshold")).status.name == status
    assert "sends were late by 300.00 ms (p99)" in next(f for f in judged.findings if f.promise == "arrivals").statement


def test_lateness_that_is_small_beside_the_latencies_is_no_reason_to_doubt_them() -> None:
    history = History()
    for number in range(40):
        history.admit(number, ms=20)
    history.changes = {"generator": strained(lag=1.5, lag_p95=1.5)}
    assert finding(history, "generator").status is Status.PASS
    for late in {"lag": 2.5}, {"lag_p95": 2.5}:
        history.changes = {"generator": strained(**late)}
        assert finding(history, "generator").status is Status.INCONCLUSIVE


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        (["not_sent"] * 3, "burst: not one scan was served (3 not_sent): connection refused"),
        (["overload"] * 3 + ["unknown"], "burst: not one scan was served (3 overload, 1 unknown)"),
        (["refused"] * 3, "burst: not one scan was served (3 refused)"),
        (["not_found"] * 3, "burst: not one scan was served (3 not_found)"),
        ([], "burst: nothing was measured"),
    ],
)
def test_a_scenario_that_put_nothing_to_the_test_does_not_pass_beside_one_that_did(
    outcomes: list[str], words: str
) -> None:
    history = quiet_race(OVERTOOK)
    assert verdict(history).status is Status.PASS
    history.parts = PARTS
    for outcome in outcomes:
        history.ask(outcome, 30)
    history.samples.append(Sample("not_sent", 0, "connection refused", 3))
    judged = verdict(history)
    assert judged.status is Status.INCONCLUSIVE
    assert words in judged.headline


def test_arrivals_of_which_none_was_sent_are_no_load() -> None:
    history = History(parts=(PARTS[0], Part("burst", "constant-arrival-rate", 10, measured=True)))
    history.ask("not_sent", 0)
    assert finding(history, "arrivals").statement == "burst: not one request could be sent."
    assert finding(history, "arrivals").status is Status.INCONCLUSIVE


def test_the_worst_finding_is_the_verdict() -> None:
    history = good()
    history.changes = {"exhausted": ("burst",)}
    history.store(3)
    assert verdict(history).status is Status.FAIL


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=20))
def test_each_ticket_is_exactly_one_of_fine_twice_lost_unexpected_or_recovered(
    counts: list[tuple[int, int, int]],
) -> None:
    history = History()
    for ticket, (acknowledged, unknown, stored) in enumerate(counts):
        for _ in range(acknowledged):
            history.ask("admitted", ticket)
        for _ in range(unknown):
            history.ask("unknown", ticket)
        history.ask("already_used", ticket)
        history.store(ticket, stored)
    for case, (a, u, s) in zip(gather(history.results(), history.snapshot()).cases.values(), counts, strict=True):
        names = [case.twice, case.lost, case.unexpected, case.recovered]
        assert sum(names) == int(case.twice or a != s)
        assert case.twice == (a > 1 or s > 1)
        assert case.lost == (not case.twice and s < a)
        assert case.unexpected == (not case.twice and s > a + u)


def test_judging_keeps_no_record_for_each_request(tmp_path: Path) -> None:
    """A record in memory takes 840 bytes; what judging keeps is a fraction of it, and little of that for the page."""
    history = History()
    for ticket in range(5_000):
        history.admit(ticket)
    run = report(history, tmp_path)

    assert grown(lambda: gather(run.results, run.snapshot)) < 420
    assert grown(lambda: timeline(run.results, 1.0)) < 100
    assert grown(lambda: distribution(run.results, run.verdict.metrics)) < 20


@pytest.mark.parametrize("outcome", ["admitted", "unknown"])
@pytest.mark.parametrize("promise", ["winners", "first-scan-wins"])
def test_a_ticket_that_is_used_again_and_again_takes_little_memory_a_request(outcome: str, promise: str) -> None:
    history = History(changes={"promise": promise})
    for _ in range(5_000):
        history.ask(outcome, 0)
    results = history.results()
    assert grown(lambda: gather(results, history.snapshot())) < 30
    case = gather(results, history.snapshot()).cases["ticket-0"]
    assert len(case.heard) + len(case.unheard) == 5_000
    assert [record.last for record in (*case.acknowledged, *case.unknown)] == [r.last for r in history.records]


def test_a_saved_run_is_judged_the_same_again() -> None:
    history = good()
    history.store(3)
    history.changes = {"races": quiet_race(OVERTOOK, after=(WAITED,)).changes["races"], "winners": 2}
    results, snapshot = history.results(), history.snapshot()
    again = Results.from_json(results.to_json(), results.journal)
    assert again == results
    assert Snapshot.from_json(snapshot.to_json()) == snapshot
    first, second = judge(results, snapshot, ()), judge(again, Snapshot.from_json(snapshot.to_json()), ())
    assert dataclasses.replace(first, metrics=second.metrics) == second


def test_a_run_that_an_earlier_version_saved_can_still_be_read() -> None:
    results = good().results()
    kept = results.to_json()
    del kept["load"]
    assert Results.from_json(kept, results.journal) == results


def test_a_record_that_a_crash_cut_short_is_left_out() -> None:
    results = good().results()
    again = Results.from_json(results.to_json(), results.journal[:-1])
    assert list(again.records()) == list(results.records())[:-1]


def test_a_consumed_flag_alone_still_finds_two_winners() -> None:
    history = good()
    history.race(70, ["admitted", "admitted"])
    history.store(70)
    snapshot = Snapshot(frozenset(history.consumed), None)
    judged = judge(history.results(), snapshot, ())
    assert judged.status is Status.FAIL
    assert not any(f.promise == "database-agrees" for f in judged.findings)


def test_race_is_not_part_of_the_burst() -> None:
    metrics = verdict(good()).metrics
    assert metrics.outcomes("burst") == {"admitted": 50}
    assert sum(metrics.outcomes("race").values()) == 200
    assert RACE == 3


def arrivals(late_ms: float, **changes: Any) -> History:
    """Fifty arrivals, the last of which were sent late."""
    history = History(parts=(PARTS[0], Part("door", "constant-arrival-rate", 20, measured=True)), changes=changes)
    for ticket in range(50):
        history.admit(ticket, part=1)
    history.records = [r._replace(due=r.sent - int(late_ms * MS)) if r.ticket > 45 else r for r in history.records]
    return history


def test_sends_that_were_late_are_the_tools_fault_not_the_servers() -> None:
    judged = verdict(arrivals(late_ms=25))
    assert judged.exit_code == ExitCode.INCONCLUSIVE
    assert "late by 25.00 ms (p99), more than 10 ms: the tool was slow, not the server" in judged.headline


def test_sends_in_time_pass() -> None:
    assert verdict(arrivals(late_ms=1)).status is Status.PASS


def test_waiting_for_a_connection_is_no_lateness_of_ours() -> None:
    history = arrivals(late_ms=25)
    history.records = [r._replace(connecting=20e6, handshaking=4e6) if r.ticket > 45 else r for r in history.records]
    assert verdict(history).status is Status.PASS


def test_dropped_arrivals_are_inconclusive() -> None:
    judged = verdict(arrivals(late_ms=1, dropped={"door": 12}))
    assert judged.status is Status.INCONCLUSIVE
    assert "12 iterations found no free VU" in judged.headline


def test_iterations_without_time_are_inconclusive() -> None:
    parts = (PARTS[0], Part("once", "per-vu-iterations", 2, measured=True))
    history = History(parts=parts, changes={"dropped": {"once": 3}})
    history.admit(0, part=1)
    assert "3 iterations found no time" in verdict(history).headline


def test_a_run_that_a_threshold_ended_is_judged_as_the_threshold() -> None:
    history = good()
    history.changes = {"aborted": "scan_duration{scenario:burst} p(95)<4"}
    limit = ("scan_duration{scenario:burst}", "p(95)<4")
    assert verdict(history, limit).exit_code == ExitCode.FAIL
    history.changes |= {"generator": strained(lag_p99=2.0)}
    assert verdict(history, limit).exit_code == ExitCode.INCONCLUSIVE
    assert "ended by the threshold" in finding(history, "complete").statement


def test_a_limit_inside_the_interval_is_said() -> None:
    history = History()
    for ticket in range(40):
        history.admit(ticket, ms=ticket)
    found = [
        f.statement for f in verdict(history, ("scan_duration", "p(50)<21")).findings if f.promise.startswith("thr")
    ]
    assert "95 % interval" in found[0]
    assert "another run could go the other way" in found[0]


def test_requests_that_this_machine_had_no_connection_for_are_no_errors_of_the_servers() -> None:
    history = good()
    for number in range(3):
        history.ask("starved", 70 + number, status=0)
    history.samples = [Sample("starved", 0, "Too many open files", 3)]
    judged = verdict(history, ("scan_errors", "rate<0.001"), ("http_req_failed", "rate<0.001"))
    assert judged.status is Status.INCONCLUSIVE
    assert "3 requests were not sent, since this machine had no connection for them: Too many open files." in (
        judged.headline
    )
