"""What a person reads at the end: verdict first, then promises, thresholds, latencies, races, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from provision.audit.finding import Finding, Status
from provision.audit.metrics import Trend
from provision.load.outcomes import Outcome
from provision.load.results import Results
from provision.report import words
from provision.report.model import Report

COLOURS = {Status.PASS: "green", Status.INCONCLUSIVE: "yellow", Status.FAIL: "red"}
SIGNS = {Status.PASS: "✓", Status.INCONCLUSIVE: "?", Status.FAIL: "✗"}
_EXPECTED = frozenset({Outcome.ALREADY_USED, Outcome.BUSY, Outcome.CONFLICT, Outcome.NOT_FOUND, Outcome.ADMITTED})

BROKEN = 2
"""Broken tickets that are shown here; the report has more."""
REQUESTS = 4


def summary(report: Report) -> RenderableType:
    """The whole summary as one renderable."""
    status = report.verdict.status
    badge = (f" {status.name} ", f"bold reverse {COLOURS[status]}")
    parts: list[RenderableType] = [Text.assemble("\n", badge, " ", (words.sentence(report), "bold"), "\n")]
    parts.append(findings(report.promises))
    if report.thresholds:
        parts.append(thresholds(report))
    parts.append(latencies(report))
    if given_up := words.iterations(report):
        parts.append(Text(f"\n{given_up}", style="dim"))
    if report.verdict.contention.rounds:
        parts.append(_race(report))
    if broken := [f for f in report.promises if f.status is Status.FAIL and f.details]:
        parts.append(_broken(broken))
    if noted := _samples(report.results):
        parts.append(noted)
    parts.append(Text("\nnext", style="dim"))
    look = f"See it: provision report {report.run['id']} --open"
    parts += [Text(f"  {step}") for step in (*words.next_steps(report), look)]
    return Group(*parts)


def findings(found: Sequence[Finding]) -> RenderableType:
    """A line for each promise."""
    table = Table.grid(padding=(0, 1))
    for finding in found:
        table.add_row(Text(SIGNS[finding.status], style=COLOURS[finding.status]), Text(finding.statement))
    return table


def thresholds(report: Report) -> RenderableType:
    """Each threshold with what was measured, from how many samples, and how sure that is."""
    table = _table(("", "threshold"), ("measured", "95 % interval", "samples"))
    for judged, finding in zip(report.verdict.thresholds, report.thresholds, strict=True):
        sign = Text(SIGNS[finding.status], style=COLOURS[finding.status])
        measured = "–" if judged.ok is None else f"{judged.value:.4g}"
        limit = f"{judged.threshold.metric} {judged.threshold.expression}"
        table.add_row(sign, limit, measured, judged.interval(), f"{judged.samples:,}")
    return table


def latencies(report: Report) -> RenderableType:
    """Latency in ms for each scenario and outcome."""
    table = _table(("scenario", "outcome"), ("count", "med ms", "p(95) ms", "p(99) ms", "max ms"))
    metrics = report.verdict.metrics
    for part in report.results.parts:
        for outcome, count in metrics.outcomes(part.name).items() if part.measured else ():
            trend = metrics.get(f"scan_duration{{scenario:{part.name},outcome:{outcome}}}")
            known = isinstance(trend, Trend) and trend.samples
            cells = [f"{trend.statistic(name):.1f}" if known else "–" for name in ("med", "p(95)", "p(99)", "max")]
            table.add_row(part.name, outcome, f"{count:,}", *cells)
    return table


def _table(left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title=" ")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _race(report: Report) -> Text:
    contention = report.verdict.contention
    known = {None: "not measured", 1: "1"}.get(contention.concurrency, f"at least {contention.concurrency}")
    return Text(
        f"\nrace: {contention.overlapping} of {contention.rounds} rounds contended, release spread "
        f"{contention.spread_median:.2f} ms (p95 {contention.spread_p95:.2f}),\n"
        f"      {contention.collisions:,} collisions at the server, effective concurrency {known},\n"
        f"      release: {contention.release or 'unknown'}",
        style="dim",
    )


def _broken(broken: Sequence[Finding]) -> RenderableType:
    """The tickets behind the broken promises, with their requests."""
    lines = Text("\n")
    details = {detail["ticket"]: detail for finding in broken for detail in finding.details if "ticket" in detail}
    for detail in list(details.values())[:BROKEN]:
        lines.append(
            f"ticket {detail['ticket']}: {detail['acknowledged']} acknowledged, {detail['stored']} stored\n", "bold"
        )
        if gaps := detail.get("gaps_us"):
            lines.append(f"  after the first: {', '.join(f'{gap:,.0f}' for gap in gaps[:REQUESTS])} µs\n")
        for request in sorted(detail["requests"], key=lambda one: float(one["first_byte_ms"]))[:REQUESTS]:
            lines.append(f"  {request['outcome']} at {request['first_byte_ms']:.3f} ms by {request['by']}\n")
        for row in detail["rows"][:REQUESTS]:
            lines.append("  row " + ", ".join(f"{k}={v}" for k, v in row.items() if v is not None) + "\n", "dim")
    return lines


def _samples(results: Results) -> Text | None:
    """The first reply of each kind that counts as an error."""
    odd = [sample for sample in results.samples if sample.outcome not in _EXPECTED]
    if not odd:
        return None
    return Text("\n" + "\n".join(f"{s.count:,} × {s.outcome} (HTTP {s.status}): {s.body[:160]}" for s in odd[:5]))


def console(*, stderr: bool, quiet: bool = False) -> Console:
    """A console that knows NO_COLOR and whether it is a terminal."""
    return Console(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=not stderr)
