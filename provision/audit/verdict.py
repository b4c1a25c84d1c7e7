"""The verdict: promises and thresholds judged, the worst wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from provision.audit import bounds, conduct, promises, thresholds
from provision.audit.contention import Contention, measure
from provision.audit.evidence import Evidence, Snapshot, gather
from provision.audit.finding import Finding, Status
from provision.audit.metrics import Metrics
from provision.audit.thresholds import Judged, Threshold
from provision.counted import counted
from provision.errors import ExitCode
from provision.load.results import Results

EXIT_CODES = {Status.PASS: ExitCode.PASS, Status.INCONCLUSIVE: ExitCode.INCONCLUSIVE, Status.FAIL: ExitCode.FAIL}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The status of a run, one sentence that carries it, and all findings and thresholds behind it."""

    status: Status
    headline: str
    findings: tuple[Finding, ...]
    thresholds: tuple[Judged, ...]
    contention: Contention
    metrics: Metrics
    interrupted: bool

    @property
    def exit_code(self) -> ExitCode:
        """99 for a broken promise even when interrupted; otherwise an interrupted run says 105."""
        if self.interrupted and self.status is not Status.FAIL:
            return ExitCode.INTERRUPTED
        return EXIT_CODES[self.status]


def judge(results: Results, snapshot: Snapshot, wanted: Sequence[Threshold]) -> Verdict:
    """The verdict of a run; a pure function, so that a saved run can be judged again without a database."""
    metrics = Metrics(results)
    contention = measure(results)
    judged = tuple(thresholds.judge(threshold, metrics) for threshold in wanted)
    limits = tuple(_finding(one, conduct.own_delay(one.threshold, results, metrics)) for one in judged)
    ended_by = [f.status for f, one in zip(limits, judged, strict=True) if one.threshold.text == results.aborted]
    findings = (
        *_promises(gather(results, snapshot), contention, metrics, max(ended_by, default=Status.INCONCLUSIVE)),
        *conduct.sends_in_time(results, metrics),
        *limits,
    )
    worst = max(findings, key=lambda finding: finding.status)
    headline = worst.statement if worst.status else _all_held(findings, judged)
    return Verdict(worst.status, headline, findings, judged, contention, metrics, results.interrupted)


def _promises(evidence: Evidence, contention: Contention, metrics: Metrics, ended_by: Status) -> tuple[Finding, ...]:
    """Every promise that applies to the run; of those that came out equally bad, the first one is the headline."""
    found = (
        promises.winners(evidence),
        promises.first_scan_wins(evidence),
        promises.none_lost(evidence),
        promises.none_unexpected(evidence),
        promises.database_agrees(evidence),
        promises.settled(evidence),
        conduct.not_starved(evidence),
        conduct.all_classified(evidence),
        conduct.contended(evidence, contention),
        conduct.released(evidence),
        promises.rounds_won(evidence, contention),
        conduct.generator_kept_up(evidence.results, metrics),
        *conduct.run_complete(evidence.results, metrics, ended_by),
    )
    return tuple(finding for finding in found if finding is not None)


def _all_held(findings: Sequence[Finding], judged: Sequence[Judged]) -> str:
    races = next((f.statement for f in findings if f.promise == "rounds-won"), "")
    limits = f"{counted(len(judged), 'threshold')} met. " if judged else ""
    return f"Every promise held. {limits}{races}".strip()


def _finding(judged: Judged, own: float) -> Finding:
    """A threshold as a finding. A time above its limit by no more than what may be the tool's `own` proves nothing."""
    name, threshold = f"threshold {judged.threshold.metric}", judged.threshold
    if judged.ok is None:
        return Finding(name, Status.INCONCLUSIVE, f"{threshold.metric} {threshold.expression}: there were no samples.")
    interval = judged.interval(" to ")
    within = f" (95 % interval {interval})" if interval else ""
    text = f"{threshold.metric} {threshold.expression}: {judged.value:.6g}{within} of {judged.samples:,} samples."
    if judged.high == math.inf and threshold.percent is not None and threshold.percent < 100:
        text += f" An upper bound takes {bounds.samples_for(threshold.percent / 100):,} samples."
    if judged.straddles:
        text += " The limit lies inside the interval: another run could go the other way."
    if judged.ok:
        return Finding(name, Status.PASS, text)
    if own and threshold.comparison in {"<", "<="} and threshold.holds(judged.value - own):
        text += f" The tool itself was late by up to {own:.1f} ms, which could be all of the excess."
        return Finding(name, Status.INCONCLUSIVE, text)
    return Finding(name, Status.FAIL, text)
