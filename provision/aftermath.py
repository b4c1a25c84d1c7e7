"""The snapshot of a run, taken when the server is done with the requests that nobody waited for any more."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

from provision.audit import evidence
from provision.audit.evidence import Case, Snapshot
from provision.counted import counted
from provision.load.results import Results

AT_WORK_S = 10.0
"""How long after it was sent a request may still change the database: Supabase ends a statement of the API's roles
after 8 s (`statement_timeout` of `authenticator`), and it may have waited for its turn."""
STILL_S = 3.0
"""For how much longer a database that goes on changing is looked at."""

Read = Callable[[Collection[str] | None], Snapshot]
"""What the database says now: of these tickets, or of all."""


def take(
    read: Read, results: Results, *, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> Snapshot:
    """What the database says when no request of the run can change it any more.

    A request that was given up may commit later, and between the reads of two tables. So where a reply is unknown, or
    the tables contradict each other, the tickets concerned are read until two snapshots in a row agree and either all
    unknown replies are accounted for or the last of those requests was sent `AT_WORK_S` ago. After an interrupt that is
    not waited for. Tickets that were not settled stand in the snapshot's `unsettled`.
    """
    whole = read(None)
    cases = {case.ticket: case for case in evidence.gather(results, whole).cases.values() if _is_open(case, whole)}
    if not cases:
        return whole
    patience = AT_WORK_S - _age(results, cases)
    enough = 0.0 if results.interrupted else max(patience, 0.0)
    if enough:
        unknown = sum(len(case.unknown) for case in cases.values())
        say(f"Waiting for the server to end what had no reply, {counted(unknown, 'request')} ({enough:.0f} s at most).")
    now, waited = _of(whole, cases), 0.0
    for pause in _pauses():
        sleep(pause)
        waited += pause
        before, now = now, _of(read(cases.keys()), cases)
        late = {ticket for ticket, case in cases.items() if not _accounted(case, now)}
        if now == before and (waited >= enough or not late):
            unsettled = late if waited < patience else set()
            break
        if waited >= enough + STILL_S:
            unsettled = late | {ticket for ticket in cases if _of(now, {ticket}) != _of(before, {ticket})}
            break
    return _merged(whole, now, cases, unsettled)


def _pauses() -> Iterator[float]:
    """Seconds between two looks."""
    return chain((0.1, 0.2, 0.4, 0.8), repeat(1.0))


def _age(results: Results, cases: Mapping[str, Case]) -> float:
    """For how many seconds, when the run ended, the last request without a reply had been sent; for ever when there
    is none."""
    sent = [record.sent for case in cases.values() for record in case.unknown]
    return results.elapsed - max(sent) / 1e9 if sent else AT_WORK_S


def _is_open(case: Case, snapshot: Snapshot) -> bool:
    return case.disagrees or not _accounted(case, snapshot)


def _accounted(case: Case, snapshot: Snapshot) -> bool:
    """Whether nothing is left that a request without a reply could still do to a ticket."""
    if not case.unheard:
        return True
    if case.repeatable:
        return False
    most = 1 if snapshot.entries is None else len(case.acknowledged) + len(case.unknown)
    return snapshot.stored(case.ticket) >= most


def _of(snapshot: Snapshot, tickets: Collection[str]) -> Snapshot:
    """The part of a snapshot that is about these tickets."""

    def some(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return None if values is None else {ticket: values[ticket] for ticket in tickets if ticket in values}

    consumed = None if snapshot.consumed is None else snapshot.consumed & set(tickets)
    return Snapshot(consumed, some(snapshot.entries), scanned_at=some(snapshot.scanned_at))


def _merged(whole: Snapshot, later: Snapshot, tickets: Collection[str], unsettled: Collection[str]) -> Snapshot:
    """The snapshot with what was read of some tickets later."""

    def newer(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if old is None or new is None:
            return None
        return {**{ticket: value for ticket, value in old.items() if ticket not in tickets}, **new}

    consumed = None
    if whole.consumed is not None and later.consumed is not None:
        consumed = whole.consumed - set(tickets) | later.consumed
    entries, scanned_at = newer(whole.entries, later.entries), newer(whole.scanned_at, later.scanned_at)
    return replace(whole, consumed=consumed, entries=entries, scanned_at=scanned_at, unsettled=frozenset(unsettled))
