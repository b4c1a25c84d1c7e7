"""The promises about the run itself, each a pure function to a finding: what a verdict needs before it counts."""

from __future__ import annotations

from provision.audit.contention import Contention
from provision.audit.evidence import Evidence
from provision.audit.finding import Finding, Status
from provision.audit.metrics import Metrics
from provision.load.outcomes import Outcome
from provision.load.results import Results

CONTENDED_SHARE = 0.9
"""A race passes only when at least this share of its rounds was contended."""
CPU_LIMIT = 0.9
"""From this share of a core on, the generator is taken to be at its limit."""
LAG_LIMIT_MS = 5.0
"""The median lateness of the event loop up to which latencies are taken to be the server's, not our own queue's."""
LATE_LIMIT_MS = 10.0
"""In the open model the p99 of send − due up to which the load is taken to be the one that was asked for."""


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
    if generator.lag_p50 > LAG_LIMIT_MS:
        text = f"its event loop was late by {generator.lag_p50:.1f} ms in the median, and so is every latency"
        return Finding("generator", Status.INCONCLUSIVE, f"The generator did not keep up: {text}.")
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
        results.dropped.get(part.name, 0) for part in results.parts if part.executor.endswith(("-iterations", "race"))
    ):
        text = f"{dropped:,} iterations found no time within maxDuration and were dropped."
        return Finding("complete", Status.INCONCLUSIVE, text)
    if not any(record.part in measured for record in results.records()):
        return Finding("complete", Status.INCONCLUSIVE, "Nothing was measured.")
    return Finding("complete", Status.PASS, f"The load ran to its end in {results.elapsed:.1f} s.")
