"""The promises about tickets, each a pure function of the evidence to one finding."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC
from typing import Any

from provision.audit import bounds
from provision.audit.contention import Contention
from provision.audit.evidence import Case, Evidence, who
from provision.audit.finding import Finding, Status
from provision.counted import counted
from provision.load.results import Record

SHOWN = 5
GOALS = (0.1, 0.05, 0.01, 0.005, 0.001, 0.0005, 0.0001)
"""Rates of broken rounds that a statement may name as the next one to aim at."""


def winners(evidence: Evidence) -> Finding | None:
    """No ticket was let in more often than the scenario allows, in the replies or in the database.

    The promise is `one-winner`, `stock` when N may win, or `idempotent`, when only what is stored counts; None where
    only that counts and nothing tells how often, as a flag beside the time of a `first-scan-wins`.
    """
    if evidence.results.promise == "first-scan-wins" and evidence.snapshot.entries is None:
        return None
    allowed, idempotent = evidence.results.winners, evidence.results.promise != "winners"
    name = "idempotent" if idempotent else "one-winner" if allowed == 1 else "stock"
    broken = evidence.having(lambda case: case.twice)
    if not broken:
        used = sum(case.requests > 0 for case in evidence.cases.values())
        often = "twice" if allowed == 1 else f"more than {allowed} times"
        done = f"took effect {often}" if idempotent else f"was admitted {often}"
        return Finding(name, Status.PASS, f"None of {used:,} tickets {done}.")
    case = broken[0]
    often = _times(case.stored if idempotent else max(len(case.acknowledged), case.stored))
    what = f"Ticket {case.ticket} " + (f"took effect {often}" if idempotent else f"was admitted {often}")
    limit = f", of {allowed} allowed" if allowed > 1 else ""
    text = _also(f"{what}{limit}{_winners(evidence, case)}", broken)
    return Finding(name, Status.FAIL, text, _details(evidence, broken))


def _winners(evidence: Evidence, case: Case) -> str:
    stored = f"the database holds {counted(case.stored, 'admission')}"
    if len(case.acknowledged) < 2:
        return f": {stored}, the replies acknowledged {len(case.acknowledged)}"
    first, *_, last = sorted(case.acknowledged, key=lambda record: record.first)
    gap = (last.first - first.first) / 1e6
    names = f"{who(evidence.results, first)} and {who(evidence.results, last)}"
    return f": by {names}, {gap:.1f} ms apart; {stored}"


def _times(number: int) -> str:
    return "twice" if number == 2 else f"{number} times"


def first_scan_wins(evidence: Evidence) -> Finding | None:
    """Of the offline scans of a ticket that were synchronised, the earliest one's time is stored; None where the
    scenario does not promise that."""
    if evidence.results.promise != "first-scan-wins":
        return None
    broken = evidence.having(lambda case: case.misdated)
    if not broken:
        dated = sum(bool(case.synced) for case in evidence.cases.values())
        return Finding("first-scan-wins", Status.PASS, f"Each of {dated:,} tickets kept the time of its earliest scan.")
    case = broken[0]
    at, record = min(case.synced or case.unsettled)
    kept = "no time" if case.stored_at is None else f"the time {case.stored_at.astimezone(UTC):%H:%M:%S}"
    text = (
        f"Ticket {case.ticket} kept {kept}, but {who(evidence.results, record)} had scanned it at {at:%H:%M:%S} (UTC)"
    )
    return Finding("first-scan-wins", Status.FAIL, _also(text, broken), _details(evidence, broken))


def none_lost(evidence: Evidence) -> Finding:
    """Every admission that a scanner heard of is in the database."""
    lost = evidence.having(lambda case: case.lost)
    if not lost:
        total = sum(len(case.acknowledged) for case in evidence.cases.values())
        return Finding("none-lost", Status.PASS, f"Each of {total:,} acknowledged admissions is in the database.")
    text = f"Ticket {lost[0].ticket} was let in by {who(evidence.results, lost[0].acknowledged[0])}, but not stored"
    return Finding("none-lost", Status.FAIL, _also(text, lost), _details(evidence, lost))


def none_unexpected(evidence: Evidence) -> Finding:
    """Every admission in the database was acknowledged to somebody, or its reply was lost on the way."""
    odd = evidence.having(lambda case: case.unexpected)
    recovered = evidence.having(lambda case: case.recovered)
    if odd:
        text = f"Ticket {odd[0].ticket} is admitted in the database, but nobody was told so"
        return Finding("none-unexpected", Status.FAIL, _also(text, odd), _details(evidence, odd))
    text = "No admission appeared from nowhere."
    if recovered:
        text += f" {len(recovered)} whose reply was lost were found in the database."
    return Finding("none-unexpected", Status.PASS, text, _details(evidence, recovered))


def database_agrees(evidence: Evidence) -> Finding | None:
    """The ticket and the entries about it say the same; None when the scenario names only one of them."""
    if evidence.snapshot.consumed is None or evidence.snapshot.entries is None:
        return None
    odd = evidence.having(lambda case: case.disagrees)
    if not odd:
        return Finding("database-agrees", Status.PASS, "Tickets and entries in the database say the same.")
    used = odd[0].ticket in evidence.snapshot.consumed
    text = f"Ticket {odd[0].ticket} is " + ("used, but has no entry" if used else "not used, but has an entry")
    return Finding("database-agrees", Status.FAIL, _also(text, odd), _details(evidence, odd))


def settled(evidence: Evidence) -> Finding | None:
    """The server was done with the requests without a reply when the database was read; None when it was."""
    tickets = sorted(evidence.snapshot.unsettled)
    if not tickets:
        return None
    text = "Requests that were given up may still be at work on the server, so the database cannot tell what became of"
    number = counted(len(tickets), "ticket")
    return Finding("settled", Status.INCONCLUSIVE, f"{text} {number}, first {tickets[0]}.")


def rounds_won(evidence: Evidence, contention: Contention) -> Finding | None:
    """Each race round had a winner, and how rare a broken round must be after so many; None without rounds, or when
    none broke but the server took the requests one by one: that says nothing of a rate."""
    trials = evidence.trials()
    if not trials:
        return None
    broken = [trial.case for trial in trials if trial.state == "broken"]
    if broken:
        low, high = (bound(len(broken), len(trials), 0.975) for bound in (bounds.lower, bounds.upper))
        text = f"{len(broken)} of {len(trials)} rounds broke: a rate of {low:.2%} to {high:.2%} (95 %)."
        return Finding("rounds-won", Status.FAIL, text, _details(evidence, broken))
    without = [trial.case for trial in trials if not trial.won]
    if without:
        text = f"In {len(without)} of {len(trials)} rounds nobody was let in, first for ticket {without[0].ticket}."
        return Finding("rounds-won", Status.INCONCLUSIVE, text, _details(evidence, without))
    if not contention.at_server:
        return None
    rate = bounds.upper(0, contention.overlapping)
    text = f"0 of {contention.overlapping} contended rounds {_done(evidence)}: the true rate is below {rate:.2%} (95 %)"
    smaller = next((goal for goal in GOALS if goal < rate / 2), GOALS[-1])
    further = f"below {smaller:.2%} would take {bounds.rounds_for(smaller):,} rounds"
    return Finding("rounds-won", Status.PASS, f"{text}; {further}.")


def _done(evidence: Evidence) -> str:
    if evidence.results.promise != "winners":
        return "took effect twice" if evidence.results.promise == "idempotent" else "lost the earliest scan"
    return "admitted twice" if evidence.results.winners == 1 else f"admitted more than {evidence.results.winners}"


def _also(text: str, cases: list[Case]) -> str:
    return text + (f" (and {len(cases) - 1} more)." if len(cases) > 1 else ".")


def _details(evidence: Evidence, cases: Iterable[Case]) -> tuple[dict[str, Any], ...]:
    """The first few cases with their requests and database rows."""

    def request(record: Record) -> dict[str, Any]:
        keep = {"vu": record.vu + 1, "outcome": str(record.named), "status": record.status}
        times = {"sent_ms": record.sent / 1e6, "first_byte_ms": record.first / 1e6}
        return {"by": who(evidence.results, record), **keep, **times}

    def requests(case: Case) -> list[dict[str, Any]]:
        dated = [{**request(record), "scanned_at": at.isoformat()} for at, record in case.synced + case.unsettled]
        return dated or [request(record) for record in case.acknowledged + case.unknown]

    return tuple(
        {
            "ticket": case.ticket,
            "acknowledged": len(case.acknowledged),
            "unknown": len(case.unknown),
            "stored": case.stored,
            "rounds": sorted({record.round + 1 for record in case.acknowledged if record.round >= 0}),
            "gaps_us": _gaps(case),
            "requests": requests(case),
            "rows": evidence.snapshot.rows.get(case.ticket, []),
        }
        for case, _ in zip(cases, range(SHOWN), strict=False)
    )


def _gaps(case: Case) -> list[float]:
    """How long after the first winner's reply each further one's began, in µs."""
    first, *others = sorted(record.first for record in case.acknowledged) or [0]
    return [(at - first) / 1000 for at in others]
