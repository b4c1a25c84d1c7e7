"""What a person reads at the end: verdict first, then promises, thresholds, latencies, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from provision.audit.metrics import Trend
from provision.audit.promises import Finding, Status
from provision.audit.verdict import Verdict
from provision.load.results import Results

_COLOURS = {Status.PASS: "green", Status.INCONCLUSIVE: "yellow", Status.FAIL: "red"}
_SIGNS = {Status.PASS: "✓", Status.INCONCLUSIVE: "?", Status.FAIL: "✗"}


def summary(verdict: Verdict, results: Results) -> RenderableType:
    """The whole summary as one renderable."""
    colour = _COLOURS[verdict.status]
    parts: list[RenderableType] = [
        Text.assemble("\n", (f" {verdict.status.name} ", f"bold reverse {colour}"), " ", verdict.headline, "\n"),
        findings(verdict.findings),
        Text(),
        latencies(verdict, results),
    ]
    if verdict.contention.rounds:
        parts.append(_race(verdict))
    if broken := [f for f in verdict.findings if f.status is Status.FAIL and f.details]:
        parts.append(_broken(broken))
    if noted := _samples(results):
        parts.append(noted)
    return Group(*parts)


def findings(found: Sequence[Finding]) -> RenderableType:
    """A line for each promise and threshold, the broken ones first."""
    table = Table.grid(padding=(0, 1))
    for finding in sorted(found, key=lambda f: -f.status):
        table.add_row(Text(_SIGNS[finding.status], style=_COLOURS[finding.status]), Text(finding.statement))
    return table


def latencies(verdict: Verdict, results: Results) -> RenderableType:
    """Latency in ms for each scenario and outcome."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("scenario", "outcome"):
        table.add_column(name)
    for name in ("count", "med", "p(95)", "p(99)", "max"):
        table.add_column(name if name == "count" else f"{name} ms", justify="right")
    for part in results.parts:
        if part.measured:
            for outcome, count in verdict.metrics.outcomes(part.name).items():
                trend = verdict.metrics.get(f"scan_duration{{scenario:{part.name},outcome:{outcome}}}")
                cells = [f"{trend.statistic(name):.1f}" for name in ("med", "p(95)", "p(99)", "max")]
                shown = cells if isinstance(trend, Trend) and trend.samples else ["–"] * 4
                table.add_row(part.name, outcome, f"{count:,}", *shown)
    return table


def _race(verdict: Verdict) -> Text:
    contention = verdict.contention
    known = "not measured" if contention.concurrency is None else f"at least {contention.concurrency}"
    return Text(
        f"\nrace: {contention.rounds} rounds, release spread {contention.spread_median:.2f} ms "
        f"(p95 {contention.spread_p95:.2f}), collisions at the server {contention.collisions:,}, "
        f"effective concurrency {known}",
        style="dim",
    )


def _broken(broken: Sequence[Finding]) -> RenderableType:
    """The tickets behind the broken promises, with their requests."""
    lines = Text("\n")
    seen: set[str] = set()
    for detail in (detail for finding in broken for detail in finding.details):
        if "ticket" not in detail or detail["ticket"] in seen:
            continue
        seen.add(detail["ticket"])
        lines.append(
            f"ticket {detail['ticket']}: {detail['acknowledged']} acknowledged, {detail['stored']} stored\n", "bold"
        )
        for request in detail["requests"][:4]:
            lines.append(f"  {request['outcome']} at {request['first_byte_ms']:.3f} ms by {request['by']}\n")
        for row in detail["rows"][:4]:
            lines.append("  row " + ", ".join(f"{k}={v}" for k, v in row.items() if v is not None) + "\n", "dim")
    return lines


def _samples(results: Results) -> Text | None:
    """The first reply of each kind that counts as an error."""
    quiet = {"already_used", "busy", "conflict", "not_found", "admitted"}
    odd = [sample for sample in results.samples if sample.outcome not in quiet]
    if not odd:
        return None
    return Text("\n" + "\n".join(f"{s.count:,} × {s.outcome} (HTTP {s.status}): {s.body[:160]}" for s in odd[:5]))


def console(*, stderr: bool, quiet: bool = False) -> Console:
    """A console that knows NO_COLOR and whether it is a terminal."""
    return Console(stderr=stderr, quiet=quiet, highlight=False, soft_wrap=not stderr)
