"""The promises, each a pure function of the evidence to one finding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from provision.audit import bounds
from provision.audit.contention import Contention
from provision.audit.evidence import Case, Evidence, who
from provision.audit.metrics import Metrics
from provision.load.outcomes import Outcome
from provision.load.results import Record, Results

CONTENDED_SHARE = 0.9
"""A race passes only when at least this share of its rounds was contended."""
CPU_LIMIT = 0.9
"""From this share of a core on, the generator is taken to be at its limit."""
LATE_LIMIT_MS = 10.0
"""In the open model the p99 of send − due up to which the load is taken to be the one that was asked for."""
SHOWN = 5
GOALS = (0.1, 0.05, 0.01, 0.005, 0.001, 0.0005, 0.0001)
"""Rates of broken rounds that a statement may name as the next one to aim at."""


class Status(IntEnum):
    """Ordered: the worst finding is the verdict."""

    PASS = 0
    INCONCLUSIVE = 1
    FAIL = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one promise: a sentence, and the tickets and requests behind it."""

    promise: str
    status: Status
    statement: str
    details: tuple[dict[str, Any], ...] = ()


def winners(evidence: Evidence) -> Finding:
    """No ticket was let in more often than the scenario allows, in the replies or in the database.

    The promise is `one-winner`, `stock` when N may win, or `idempotent`, when only what is stored counts.
    """
    allowed, idempotent = evidence.results.winners, evidence.results.promise == "idempotent"
    name = "idempotent" if idempotent else "one-winner" if allowed == 1 else "stock"
    broken = [case for case in evidence.cases.values() if case.twice]
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
    stored = f"the database holds {case.stored} admission{'s' * (case.stored != 1)}"
    if len(case.acknowledged) < 2:
        return f": {stored}, the replies acknowledged {len(case.acknowledged)}"
    first, *_, last = sorted(case.acknowledged, key=lambda record: record.first)
    gap = (last.first - first.first) / 1e6
    names = f"{who(evidence.results, first)} and {who(evidence.results, last)}"
    return f": by {names}, {gap:.1f} ms apart; {stored}"


def _times(number: int) -> str:
    return "twice" if number == 2 else f"{number} times"


def none_lost(evidence: Evidence) -> Finding:
    """Every admission that a scanner heard of is in the database."""
    lost = [case for case in evidence.cases.values() if case.lost]
    if not lost:
        total = sum(len(case.acknowledged) for case in evidence.cases.values())
        return Finding("none-lost", Status.PASS, f"Each of {total:,} acknowledged admissions is in the database.")
    text = f"Ticket {lost[0].ticket} was let in by {who(evidence.results, lost[0].acknowledged[0])}, but not stored"
    return Finding("none-lost", Status.FAIL, _also(text, lost), _details(evidence, lost))


def none_unexpected(evidence: Evidence) -> Finding:
    """Every admission in the database was acknowledged to somebody, or its reply was lost on the way."""
    odd = [case for case in evidence.cases.values() if case.unexpected]
    recovered = [case for case in evidence.cases.values() if case.recovered]
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
    odd = [case for case in evidence.cases.values() if case.disagrees]
    if not odd:
        return Finding("database-agrees", Status.PASS, "Tickets and entries in the database say the same.")
    used = odd[0].ticket in evidence.snapshot.consumed
    text = f"Ticket {odd[0].ticket} is " + ("used, but has no entry" if used else "not used, but has an entry")
    return Finding("database-agrees", Status.FAIL, _also(text, odd), _details(evidence, odd))


def all_classified(evidence: Evidence) -> Finding:
    """Every reply fits an outcome rule, and a ticket that does not exist is not let in."""
    ghosts = [record for record in evidence.ghosts if record.named is Outcome.ADMITTED]
    if ghosts:
        return Finding("all-classified", Status.FAIL, "A ticket that does not exist was admitted (canary).")
    odd = [sample for sample in evidence.results.samples if sample.outcome == Outcome.UNCLASSIFIED]
    if not odd:
        return Finding("all-classified", Status.PASS, f"Each of {len(evidence.results):,} replies has a known meaning.")
    count = sum(sample.count for sample in odd)
    text = f"{count} {_replies(count)} no outcome rule, such as HTTP {odd[0].status}: {odd[0].body[:120]}"
    return Finding("all-classified", Status.FAIL, text, tuple({"status": s.status, "body": s.body} for s in odd))


def _replies(count: int) -> str:
    return "reply fits" if count == 1 else "replies fit"


def contended(evidence: Evidence, contention: Contention) -> Finding | None:
    """The race rounds were races, at the client and at the server; None when the scenario has no race."""
    if not any(part.executor == "race" for part in evidence.results.parts):
        return None
    name, rounds = "contended", contention.rounds
    if not rounds:
        return Finding(name, Status.INCONCLUSIVE, "No race round was run.")
    if contention.overlapping < CONTENDED_SHARE * rounds:
        text = f"Only {contention.overlapping} of {rounds} rounds had half of their requests in flight together."
        return Finding(name, Status.INCONCLUSIVE, text)
    if not contention.at_server:
        return Finding(name, Status.INCONCLUSIVE, f"{_no_concurrency(contention)} (release: {contention.release}).")
    proof = f"{contention.collisions:,} requests met another transaction" if contention.collisions else ""
    if contention.concurrency is not None:
        measured = f"the server works on at least {contention.concurrency} requests at once"
        proof = f"{measured}, {proof}" if proof else measured
    text = f"{contention.overlapping} of {rounds} rounds were contended; {proof}."
    return Finding(name, Status.PASS, f"{text} Release: {contention.release}." if contention.release else text)


def _no_concurrency(contention: Contention) -> str:
    if contention.concurrency is None:
        why = f": {contention.unprobed}" if contention.unprobed else ""
        return f"Nothing shows that the server worked on two requests at once, so maybe no race took place there{why}"
    return "The server ran the requests one after the other, effective concurrency 1, so no race took place there"


def rounds_won(evidence: Evidence, contention: Contention) -> Finding | None:
    """Each race round had a winner, and how rare a broken round must be after so many; None without rounds."""
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
    rate = bounds.upper(0, contention.overlapping)
    text = f"0 of {contention.overlapping} contended rounds {_done(evidence)}: the true rate is below {rate:.2%} (95 %)"
    smaller = next((goal for goal in GOALS if goal < rate / 2), GOALS[-1])
    further = f"below {smaller:.2%} would take {bounds.rounds_for(smaller):,} rounds"
    return Finding("rounds-won", Status.PASS, f"{text}; {further}.")


def _done(evidence: Evidence) -> str:
    if evidence.results.promise == "idempotent":
        return "took effect twice"
    return "admitted twice" if evidence.results.winners == 1 else f"admitted more than {evidence.results.winners}"


def released(evidence: Evidence) -> Finding | None:
    """Every request of the race took part in its release; None without rounds, otherwise the laggards by name."""
    rounds = evidence.results.rounds
    missed = [(round_, vu) for round_ in rounds for vu in round_.late]
    if not rounds:
        return None
    if not missed:
        return Finding("released", Status.PASS, f"Every request of {len(rounds):,} rounds took part in its release.")
    round_, vu = missed[0]
    text = (
        f"{len(missed)} requests missed the release, first gate {vu + 1} in round {round_.number + 1} ({round_.part})"
    )
    share = len({id(round_) for round_, _ in missed}) / len(rounds)
    status = Status.INCONCLUSIVE if share > 1 - CONTENDED_SHARE else Status.PASS
    return Finding("released", status, f"{text}.")


def generator_kept_up(evidence: Evidence) -> Finding:
    """The tool had CPU to spare, so that the load was the one asked for."""
    generator = evidence.results.generator
    text = f"CPU {generator.cpu:.0%} of a core, event loop late by {generator.lag_p99:.1f} ms (p99)"
    if generator.cpu >= CPU_LIMIT:
        return Finding("generator", Status.INCONCLUSIVE, f"The generator was at its limit: {text}.")
    return Finding("generator", Status.PASS, f"The generator kept up: {text}.")


def sends_in_time(results: Results, metrics: Metrics) -> tuple[Finding, ...]:
    """For each scenario of the open model: its requests were sent when they were due, and none was dropped."""
    return tuple(
        _arrivals(part.name, results, metrics)
        for part in results.parts
        if part.measured and part.executor.endswith("-arrival-rate")
    )


def _arrivals(name: str, results: Results, metrics: Metrics) -> Finding:
    late = metrics.lateness(name).percentile(99)
    text = f"{name}: sends were late by {late:.2f} ms (p99)"
    if late > LATE_LIMIT_MS:
        text = f"{text}, more than {LATE_LIMIT_MS:g} ms: the tool was slow, not the server."
        return Finding("arrivals", Status.INCONCLUSIVE, text)
    if dropped := results.dropped.get(name):
        text = f"{name}: {dropped:,} iterations found no free VU and were dropped; the rate was not the one asked for."
        return Finding("arrivals", Status.INCONCLUSIVE, text)
    return Finding("arrivals", Status.PASS, f"{text}, none was dropped.")


def run_complete(evidence: Evidence) -> Finding:
    """The load was carried out to its end."""
    results = evidence.results
    measured = {number for number, part in enumerate(results.parts) if part.measured}
    if results.aborted:
        return Finding("complete", Status.FAIL, f"The run was ended by the threshold {results.aborted}.")
    if results.interrupted:
        return Finding("complete", Status.INCONCLUSIVE, "The run was interrupted before its end.")
    if results.exhausted:
        text = f"Tickets ran out in {', '.join(results.exhausted)}; seed more of them."
        return Finding("complete", Status.INCONCLUSIVE, text)
    if dropped := sum(
        results.dropped.get(part.name, 0) for part in results.parts if part.executor.endswith("-iterations")
    ):
        text = f"{dropped:,} iterations found no time within maxDuration and were dropped."
        return Finding("complete", Status.INCONCLUSIVE, text)
    if not any(record.part in measured for record in results.records()):
        return Finding("complete", Status.INCONCLUSIVE, "Nothing was measured.")
    return Finding("complete", Status.PASS, f"The load ran to its end in {results.elapsed:.1f} s.")


def judge_all(evidence: Evidence, contention: Contention) -> tuple[Finding, ...]:
    """Every promise that applies to the run."""
    found: tuple[Finding | None, ...] = (
        winners(evidence),
        none_lost(evidence),
        none_unexpected(evidence),
        database_agrees(evidence),
        all_classified(evidence),
        contended(evidence, contention),
        released(evidence),
        rounds_won(evidence, contention),
        generator_kept_up(evidence),
        run_complete(evidence),
    )
    return tuple(finding for finding in found if finding is not None)


def _also(text: str, cases: list[Case]) -> str:
    return text + (f" (and {len(cases) - 1} more)." if len(cases) > 1 else ".")


def _details(evidence: Evidence, cases: Iterable[Case]) -> tuple[dict[str, Any], ...]:
    """The first few cases with their requests and database rows."""

    def request(record: Record) -> dict[str, Any]:
        keep = {"vu": record.vu + 1, "outcome": str(record.named), "status": record.status}
        times = {"sent_ms": record.sent / 1e6, "first_byte_ms": record.first / 1e6}
        return {"by": who(evidence.results, record), **keep, **times}

    return tuple(
        {
            "ticket": case.ticket,
            "acknowledged": len(case.acknowledged),
            "unknown": len(case.unknown),
            "stored": case.stored,
            "rounds": sorted({record.round + 1 for record in case.acknowledged if record.round >= 0}),
            "gaps_us": _gaps(case),
            "requests": [request(record) for record in case.acknowledged + case.unknown],
            "rows": evidence.snapshot.rows.get(case.ticket, []),
        }
        for case, _ in zip(cases, range(SHOWN), strict=False)
    )


def _gaps(case: Case) -> list[float]:
    """How long after the first winner's reply each further one's began, in µs."""
    first, *others = sorted(record.first for record in case.acknowledged) or [0]
    return [(at - first) / 1000 for at in others]
