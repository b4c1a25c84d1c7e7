"""The verdict in words that a manager understands, and what to do next."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from provision.audit.evidence import Case, Evidence, gather
from provision.audit.finding import Finding, Status
from provision.audit.thresholds import Judged
from provision.load.results import CANARY, Record, Results
from provision.report.model import THRESHOLD, Report

SHORT = 8
"""Characters of a ticket's id in a sentence; the whole id stands in the findings."""


def sentence(report: Report) -> str:
    """The verdict in one sentence."""
    worst = max(report.verdict.findings, key=lambda finding: finding.status)
    if worst.status is Status.PASS:
        return _held(report)
    if worst.promise.startswith(THRESHOLD):
        index = report.thresholds.index(worst)
        return _limit(report.verdict.thresholds[index], worst)
    if worst.status is Status.INCONCLUSIVE:
        return f"The run does not tell: {worst.statement[0].lower()}{worst.statement[1:]}"
    words = _BROKEN.get(worst.promise)
    return words(gather(report.results, report.snapshot)) if words else worst.statement


def _held(report: Report) -> str:
    verdict = report.verdict
    tickets = verdict.metrics.outcomes().get("admitted", 0)
    how = (
        "guests were let in exactly once"
        if report.results.winners == 1
        else "admissions are in the database, none too many"
    )
    text = _HELD.get(report.results.promise, f"All {tickets:,} {how}")
    if verdict.contention.rounds:
        vus = max(part.vus for part in report.results.parts if part.executor == "race")
        text += f", also in the {verdict.contention.rounds:,} races of {vus} gates for one ticket"
    p95 = verdict.metrics.get("scan_duration").statistic("p(95)")
    return f"{text}; 95 of 100 scans took less than {p95:.0f} ms."


_HELD: Mapping[str, str] = {
    "idempotent": "No order took effect twice",
    "first-scan-wins": "Every ticket kept the time of its earliest scan",
}


def _limit(judged: Judged, finding: Finding) -> str:
    threshold = judged.threshold
    if judged.ok is None or finding.status is Status.INCONCLUSIVE:
        return f"The run does not tell: {finding.statement}"
    if threshold.metric.startswith(("scan_duration", "http_req_duration")) and threshold.comparison in {"<", "<="}:
        which = f" ({threshold.metric})" if "{" in threshold.metric else ""
        what = f"{threshold.statistic} was {judged.value:.0f} ms"
        return f"Scanning was too slow{which}: {what}, the limit is {threshold.limit:g} ms."
    if threshold.metric.startswith(("scan_errors", "http_req_failed")):
        return f"{judged.value:.2%} of the scans went wrong; the limit is {threshold.limit:.2%}."
    return f"A limit was broken: {threshold.metric} should be {threshold.expression}, and was {judged.value:.6g}."


def _twice(evidence: Evidence) -> str:
    broken = evidence.having(lambda case: case.twice)
    case, many = broken[0], len(broken) > 1
    times = max(len(case.acknowledged), case.stored)
    much = "more than once" if case.allowed == 1 else f"more than {case.allowed} times"
    often = "twice" if times == 2 else f"{times} times"
    limit = "" if case.allowed == 1 else f" where {case.allowed} are allowed"
    what = f"{len(broken):,} tickets were admitted {much}, the first of them"
    what = what if many else f"One ticket was admitted {often}{limit}:"
    if len(case.acknowledged) < 2:
        return f"{what} {_short(case)}, though only {len(case.acknowledged)} gate was told so."
    first, *_, last = sorted(case.acknowledged, key=lambda record: record.first)
    gates = f"{_gate(evidence.results, first)} and {_gate(evidence.results, last)}"
    return f"{what} {_short(case)}, by {gates}, {(last.first - first.first) / 1e6:.1f} ms apart."


def _lost(evidence: Evidence) -> str:
    broken = evidence.having(lambda case: case.lost)
    return f"{_guests(len(broken))} let in of whom the database knows nothing, first with ticket {_short(broken[0])}."


def _unexpected(evidence: Evidence) -> str:
    broken = evidence.having(lambda case: case.unexpected)
    tickets = "One ticket counts" if len(broken) == 1 else f"{len(broken):,} tickets count"
    return f"{tickets} as used though no gate let anybody in with it, first {_short(broken[0])}."


def _disagrees(evidence: Evidence) -> str:
    broken = evidence.having(lambda case: case.disagrees)
    tickets = "one ticket" if len(broken) == 1 else f"{len(broken):,} tickets"
    return f"The database contradicts itself about {tickets}, first {_short(broken[0])}."


_BROKEN: Mapping[str, Callable[[Evidence], str]] = {
    "one-winner": _twice,
    "none-lost": _lost,
    "none-unexpected": _unexpected,
    "database-agrees": _disagrees,
}


def _short(case: Case) -> str:
    return case.ticket if len(case.ticket) <= SHORT + 4 else f"…{case.ticket[-SHORT:]}"


def _gate(results: Results, record: Record) -> str:
    return "the canary" if results.parts[record.part].name == CANARY else f"gate-{record.vu + 1}"


def _guests(number: int) -> str:
    return "One guest was" if number == 1 else f"{number:,} guests were"


def iterations(report: Report) -> str:
    """How many iterations ended and how many we gave up, as k6 says it; nothing when all of them ended."""
    metrics = report.verdict.metrics
    complete, interrupted = metrics.get("iterations").statistic("count"), metrics.interrupted()
    return f"{complete:,.0f} complete and {interrupted:,} interrupted iterations" if interrupted else ""


_ADVICE: Mapping[str, str] = {
    "one-winner": "Let one statement check and take the ticket: UPDATE … SET is_used = true "
    "WHERE id = … AND NOT is_used RETURNING …, or lock its row first (SELECT … FOR UPDATE); a unique index on the "
    "entries stops the rest.",
    "stock": "Lock the place that is taken (SELECT … FOR UPDATE SKIP LOCKED), instead of counting what is left.",
    "idempotent": "Make the key unique by an index: a look beforehand does not keep the second write out.",
    "first-scan-wins": "Let one statement compare and write: UPDATE … SET scanned_at = … WHERE id = … AND (scanned_at "
    "IS NULL OR scanned_at > …); a look beforehand lets a later scan overwrite an earlier one.",
    "none-lost": "Answer success only after the write: look for an exception handler or a rolled-back block after it.",
    "none-unexpected": "Look for code that uses tickets without answering success, and at the outcome rules.",
    "database-agrees": "Write the ticket and its entry in one transaction, so that both are there or neither.",
    "not-starved": "Allow more open files (ulimit -n), or let connections live: each one that is closed keeps its port "
    "for a minute.",
    "settled": "Let the server come to rest, give it a longer gracefulStop or request.timeout, and rehearse again.",
    "all-classified": "Add an outcome rule for that reply to the scenario file, or mend what sent it.",
    "contended": "Give the API's pool more than one database connection and more than one worker, then run again.",
    "rounds-won": "Look at what the gates were told in those rounds: somebody who holds the ticket must get in.",
    "arrivals": "Raise preAllocatedVUs and maxVUs, add processes, or ask for a lower rate.",
    "released": "Look at this machine and its network: requests missed the release of their round.",
    "generator": "Run it from a machine with a free core, or with fewer VUs.",
    "complete": "Seed more tickets if they ran out (provision seed --for SCENARIO), and let the run end.",
}


def next_steps(report: Report) -> list[str]:
    """What to do about the findings that decided the verdict, and where to go from here."""
    status = report.verdict.status
    troubled = [finding.promise for finding in report.promises if status and finding.status is status]
    if status is Status.FAIL and "rounds-won" in troubled:  # it counts what the other promises name
        troubled.remove("rounds-won")
    advice = [_ADVICE[promise] for promise in troubled if promise in _ADVICE]
    if any(finding.status is Status.FAIL for finding in report.thresholds):
        advice.append("See in the report when latencies rose: a steady rise is a queue, a step a lock or a cold start.")
    if report.accounts.removed is None and report.accounts.seeded:
        advice.append(f"Clean up: provision teardown --run {report.run['id']}")
    return list(dict.fromkeys(advice))
