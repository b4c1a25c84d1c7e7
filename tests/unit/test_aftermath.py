"""The truth is read when the server is done: what commits late is found, and is not taken for a contradiction."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import cycle

import pytest
from histories import History, good

from provision.aftermath import AT_WORK_S, STILL_S, take
from provision.audit.evidence import Snapshot
from provision.audit.finding import Status
from provision.audit.verdict import Verdict, judge

LATE = 70
"""The ticket about which nobody knows."""


class Database:
    """What the database holds at a moment of the test's own time, which only `sleep` moves on."""

    def __init__(self, history: History, at: Callable[[float, Snapshot], Snapshot]) -> None:
        self.history, self.at = history, at
        self.now = 0.0
        self.reads: list[Collection[str] | None] = []
        self.said: list[str] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def read(self, only: Collection[str] | None) -> Snapshot:
        self.reads.append(only)
        return self.at(self.now, self.history.snapshot())

    def verdict(self) -> Verdict:
        results = self.history.results()
        return judge(results, take(self.read, results, say=self.said.append, sleep=self.sleep), ())


def given_up(*, admitted: bool = False, elapsed: float = 1.0) -> History:
    """A run at whose end, after `elapsed` s, the last request about a ticket had just been given up."""
    history = good()
    if admitted:
        history.admit(LATE)
    history.ask("unknown", LATE, sent=int(elapsed * 1e9) - 2)
    history.changes["elapsed"] = elapsed
    return history


def stored(snapshot: Snapshot, *, used: bool, entries: int) -> Snapshot:
    ticket = f"ticket-{LATE}"
    assert snapshot.consumed is not None
    assert snapshot.entries is not None
    consumed = snapshot.consumed | {ticket} if used else snapshot.consumed - {ticket}
    others = {name: times for name, times in snapshot.entries.items() if name != ticket}
    return replace(snapshot, consumed=consumed, entries={**others, ticket: entries} if entries else others)


def statuses(verdict: Verdict) -> dict[str, Status]:
    return {finding.promise: finding.status for finding in verdict.findings}


def test_a_commit_between_the_reads_of_two_tables_is_no_contradiction() -> None:
    torn = Database(given_up(), lambda now, s: stored(s, used=now > 0, entries=1))
    assert judge(torn.history.results(), torn.read(None), ()).status is Status.FAIL  # what a single look says
    verdict = torn.verdict()
    assert statuses(verdict)["database-agrees"] is Status.PASS
    assert verdict.status is Status.PASS
    assert "1 whose reply was lost were found" in str(verdict.findings)
    assert torn.now < 1


@pytest.mark.parametrize("commit", [0.05, 1.7, 7.9, 9.9])
def test_a_second_admission_that_commits_late_is_found(commit: float) -> None:
    gate = Database(given_up(admitted=True), lambda now, s: stored(s, used=True, entries=1 + (now >= commit)))
    assert judge(gate.history.results(), gate.read(None), ()).status is Status.PASS  # too early
    verdict = gate.verdict()
    assert statuses(verdict)["one-winner"] is Status.FAIL
    assert f"Ticket ticket-{LATE} was admitted twice" in verdict.headline
    assert gate.said == ["Waiting for the server to end what had no reply, 1 request (10 s at most)."]


def test_a_request_that_never_took_effect_is_settled_when_the_server_must_have_ended_it() -> None:
    gate = Database(given_up(), lambda _, s: s)
    assert gate.verdict().status is Status.PASS
    assert AT_WORK_S <= gate.now < AT_WORK_S + 1
    assert gate.reads[0] is None
    assert {tuple(only or ()) for only in gate.reads[1:]} == {(f"ticket-{LATE}",)}


def test_a_request_that_was_sent_long_ago_is_not_waited_for() -> None:
    history = given_up()
    history.changes["elapsed"] = 1.0 + AT_WORK_S
    gate = Database(history, lambda _, s: s)
    assert gate.verdict().status is Status.PASS
    assert gate.now < 1
    assert gate.said == []


def test_a_database_that_goes_on_changing_is_inconclusive_not_failed() -> None:
    entries = cycle([0, 1])
    restless = Database(given_up(), lambda _, s: stored(s, used=True, entries=next(entries)))
    verdict = restless.verdict()
    assert statuses(verdict)["database-agrees"] is Status.PASS
    assert verdict.status is Status.INCONCLUSIVE
    assert f"cannot tell what became of 1 ticket, first ticket-{LATE}." in verdict.headline
    assert restless.now < AT_WORK_S + STILL_S + 2


def test_an_interrupted_run_is_not_held_up_and_says_what_is_open() -> None:
    history = given_up()
    history.changes["interrupted"] = True
    gate = Database(history, lambda _, s: s)
    verdict = gate.verdict()
    assert gate.now < 1
    assert statuses(verdict)["settled"] is Status.INCONCLUSIVE


def test_a_contradiction_is_looked_at_once_more_before_it_is_one() -> None:
    history = good()
    history.admit(LATE)
    passing = Database(history, lambda now, s: stored(s, used=now > 0, entries=1))
    assert statuses(passing.verdict())["database-agrees"] is Status.PASS
    lasting = Database(history, lambda _, s: stored(s, used=False, entries=1))
    assert statuses(lasting.verdict())["database-agrees"] is Status.FAIL
    assert len(lasting.reads) == 2


def test_a_run_whose_every_reply_is_known_is_read_once() -> None:
    calm = Database(good(), lambda _, s: s)
    assert calm.verdict().status is Status.PASS
    assert calm.reads == [None]


def test_what_is_open_is_kept_with_the_snapshot() -> None:
    kept = replace(good().snapshot(), unsettled=frozenset({"ticket-1"}))
    assert Snapshot.from_json(kept.to_json()) == kept
