"""The promises about the run itself, each a pure function to a finding: what a verdict needs before it counts."""

from __future__ import annotations

import math
from collections import Counter

from provision.audit.contention import Contention
from provision.audit.evidence import Evidence, overlapped
from provision.audit.finding import Finding, Status
from provision.audit.metrics import KINDS, Metrics, Trend, parse_selector
from provision.audit.thresholds import Threshold
from provision.load.outcomes import Outcome
from provision.load.results import Results, Strain

CONTENDED_SHARE = 0.9
"""A race passes only when at least this share of its rounds was contended."""
SATURATED_LIMIT = 0.05
"""Up to this share of a part's requests may have ended while the generator was at its limit."""
LAG_LIMITS = (("lag", "on average", 0.5, "med", 0.1), ("lag_p95", "at p(95)", 1.0, "p(95)", 0.1))
"""What the event loop may be late, which latencies have in them: so many ms, or that share of the latency of the same
rank, whichever is more."""
LATE_LIMIT_MS = 10.0
"""In the open model the p99 of send − due up to which the load is taken to be the one that was asked for."""

FROM_DUE = frozenset({"http_req_response_time", "iteration_duration"})
"""The times that count from when a request was due."""
SERVED = frozenset({"admitted", "already_used", "busy", "conflict", "unclassified"})
"""The outcomes of a scan that the function worked on: our tickets exist, so that to be told otherwise, or to be refused
by what stands before it, puts nothing to the test."""


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


def not_starved(evidence: Evidence) -> Finding | None:
    """This machine had a connection for every request; None when it had, since that is usual."""
    starved = [sample for sample in evidence.results.samples if sample.outcome == Outcome.STARVED]
    if not starved:
        return None
    number = sum(sample.count for sample in starved)
    text = f"{number:,} request{'s were' if number > 1 else ' was'} not sent, since this machine had no connection for"
    return Finding("not-starved", Status.INCONCLUSIVE, f"{text} {'them' if number > 1 else 'it'}: {starved[0].body}.")


def contended(evidence: Evidence, contention: Contention) -> Finding | None:
    """The race rounds were races, at the client and at the server; None when the scenario has no race."""
    if not any(part.executor == "race" for part in evidence.results.parts):
        return None
    name, rounds = "contended", contention.rounds
    for race in (part.name for part in evidence.results.parts if part.executor == "race"):
        run = [round_ for round_ in evidence.results.rounds if round_.part == race]
        together = sum(map(overlapped, run))
        if not run:
            return Finding(name, Status.INCONCLUSIVE, f"No round of {race} was run.")
        if together < CONTENDED_SHARE * len(run):
            text = f"Only {together} of {len(run)} rounds of {race} had half of their requests in flight together."
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
    late = Counter(part for part, _ in {(round_.part, round_.number) for round_, _ in missed})
    ran = Counter(round_.part for round_ in rounds)
    many = any(times > (1 - CONTENDED_SHARE) * ran[part] for part, times in late.items())
    status = Status.INCONCLUSIVE if many else Status.PASS
    return Finding("released", status, f"{text}.")


def generator_kept_up(results: Results, metrics: Metrics) -> Finding:
    """Latencies are the server's: the tool had a core when it wanted one, and its own queue was short. A race is not
    about latencies; whether its requests collided is judged by themselves."""
    parts = [(part, results.generator.strain(n)) for n, part in enumerate(results.parts) if part.measured]
    for part, strain in ((part, strain) for part, strain in parts if part.executor != "race"):
        shares = f"it used {strain.cpu:.0%} of a core and waited for one {strain.waited:.0%} of the time"
        if strain.saturated > SATURATED_LIMIT:
            text = (
                f"The generator was at its limit for {strain.saturated:.0%} of the requests of {part.name}: {shares}."
            )
            return Finding("generator", Status.INCONCLUSIVE, text)
        latency = metrics.get(f"http_req_duration{{scenario:{part.name}}}")
        for field, where, limit, statistic, share in LAG_LIMITS:
            late, whole = getattr(strain, field), latency.statistic(statistic)
            if late > limit and late > share * whole:
                own = f"its event loop was late by {late:.1f} ms {where}, of latencies of {whole:.1f} ms ({statistic})"
                text = f"The generator did not keep up in {part.name}: {own}; {shares}."
                return Finding("generator", Status.INCONCLUSIVE, text)
    cpu, lag, p99 = (max((getattr(s, field) for _, s in parts), default=0.0) for field in ("cpu", "lag", "lag_p99"))
    text = f"CPU {cpu:.0%} of a core, event loop late by {lag:.2f} ms on average, {p99:.1f} ms (p99)"
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
    if math.isnan(late):
        return Finding("arrivals", Status.INCONCLUSIVE, f"{name}: not one request could be sent.")
    text = f"{name}: sends were late by {late:.2f} ms (p99)"
    if late > LATE_LIMIT_MS:
        text = f"{text}, more than {LATE_LIMIT_MS:g} ms: the tool was slow, not the server."
        return Finding("arrivals", Status.INCONCLUSIVE, text)
    if dropped := results.dropped.get(name):
        text = f"{name}: {dropped:,} iterations found no free VU and were dropped; the rate was not the one asked for."
        return Finding("arrivals", Status.INCONCLUSIVE, text)
    return Finding("arrivals", Status.PASS, f"{text}, none was dropped.")


def own_delay(threshold: Threshold, results: Results, metrics: Metrics) -> float:
    """How many ms of what a threshold looks at may be the tool's own: its loop's lateness and, in times that count from
    when a request was due, the send's. Nothing where one scenario is above the limit by more than its own part."""
    name, tags = parse_selector(threshold.metric)
    if KINDS[name] is not Trend:
        return 0.0
    parts = [(n, p.name) for n, p in enumerate(results.parts) if p.measured and tags.get("scenario") in {None, p.name}]
    delays = {part: _own_delay(threshold, name, results.generator.strain(n), part, metrics) for n, part in parts}
    for part, own in delays.items():
        selector = ",".join(f"{tag}:{value}" for tag, value in {**tags, "scenario": part}.items())
        value = metrics.get(f"{name}{{{selector}}}").statistic(threshold.statistic)
        if not math.isnan(value) and not threshold.holds(value - own):
            return 0.0
    return max(delays.values(), default=0.0)


def _own_delay(threshold: Threshold, name: str, strain: Strain, part: str, metrics: Metrics) -> float:
    percent = 100.0 if threshold.statistic == "max" else threshold.percent or 0.0
    own = strain.lag_max if percent > 99 else strain.lag_p99 if percent >= 90 else strain.lag
    late = metrics.lateness(part).statistic(threshold.statistic) if name in FROM_DUE else 0.0
    return own + (0.0 if math.isnan(late) else late)


def run_complete(results: Results, metrics: Metrics, ended_by: Status) -> tuple[Finding, ...]:
    """The load was carried out to its end and each scenario's scans were served; `ended_by` is what came of the
    threshold that ended the run early."""
    if results.aborted:
        status = max(ended_by, Status.INCONCLUSIVE)
        return (Finding("complete", status, f"The run was ended by the threshold {results.aborted}."),)
    if results.interrupted:
        return (Finding("complete", Status.INCONCLUSIVE, "The run was interrupted before its end."),)
    if results.exhausted:
        text = f"Tickets ran out in {', '.join(results.exhausted)}; seed more of them."
        return (Finding("complete", Status.INCONCLUSIVE, text),)
    if dropped := sum(
        results.dropped.get(part.name, 0) for part in results.parts if part.executor.endswith(("-iterations", "race"))
    ):
        text = f"{dropped:,} iterations found no time within maxDuration and were dropped."
        return (Finding("complete", Status.INCONCLUSIVE, text),)
    silent = [_silence(part.name, results, metrics) for part in results.parts if part.measured]
    if found := [Finding("complete", Status.INCONCLUSIVE, text) for text in silent if text]:
        return tuple(found)
    if not silent:
        return (Finding("complete", Status.INCONCLUSIVE, "Nothing was measured."),)
    return (Finding("complete", Status.PASS, f"The load ran to its end in {results.elapsed:.1f} s."),)


def _silence(name: str, results: Results, metrics: Metrics) -> str:
    """Why a scenario has put nothing to the test, in a sentence; empty when a scan was served."""
    counts = metrics.outcomes(name)
    if SERVED & counts.keys():
        return ""
    if not counts:
        return f"{name}: nothing was measured."
    most = next(iter(counts))
    reason = next((f": {sample.body[:120]}" for sample in results.samples if sample.outcome == most), "")
    told = ", ".join(f"{times:,} {outcome}" for outcome, times in counts.items())
    return f"{name}: not one scan was served ({told}){reason}"
