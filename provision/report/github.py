"""What GitHub Actions shows of a run: annotations as workflow commands, and the job's step summary as Markdown.

GitHub keeps ten annotations of a kind for each step and 1 MiB of summary for each step; what is above is lost there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from provision import rundir
from provision.audit.finding import Finding, Status
from provision.report import words
from provision.report.model import Report

ANNOTATIONS = 10
MESSAGE = 4000
"""Characters of one annotation, well within the 64 KiB of a command."""
SUMMARY_BYTES = 1024 * 1024
_SIGNS = {Status.PASS: "✅", Status.INCONCLUSIVE: "⚠️", Status.FAIL: "❌"}


def is_github(environ: Mapping[str, str]) -> bool:
    """Whether this is a step of a GitHub workflow."""
    return environ.get("GITHUB_ACTIONS") == "true"


def commands(report: Report) -> list[str]:
    """A command for each finding that is no PASS: errors for what broke, warnings for what the run does not tell."""
    lines = []
    for kind, status in (("error", Status.FAIL), ("warning", Status.INCONCLUSIVE)):
        found = [finding for finding in (*report.promises, *report.thresholds) if finding.status is status]
        shown = found[: ANNOTATIONS if len(found) <= ANNOTATIONS else ANNOTATIONS - 1]
        lines += [_command(kind, f"provision: {one.promise}", one.statement) for one in shown]
        if len(found) > len(shown):
            rest = ", ".join(one.promise for one in found[len(shown) :])
            lines.append(_command(kind, "provision", f"{len(found) - len(shown)} more: {rest}"))
    return lines


def _command(kind: str, title: str, message: str) -> str:
    """A workflow command; its text is escaped as the runner unescapes it."""
    text = message[:MESSAGE].replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    title = title.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace(":", "%3A").replace(",", "%2C")
    return f"::{kind} title={title}::{text}"


def step_summary(report: Report) -> str:
    """The run as Markdown."""
    verdict = report.verdict
    lines = [f"## {_SIGNS[verdict.status]} {verdict.status.name}: {_cell(words.sentence(report))}", ""]
    lines += _table(("", "promise"), [_finding(finding) for finding in report.promises])
    if report.thresholds:
        lines += _table(("", "threshold"), [_finding(finding) for finding in report.thresholds])
    rows = []
    for part in report.results.parts:
        for outcome, count in verdict.metrics.outcomes(part.name).items() if part.measured else ():
            trend = verdict.metrics.get(f"scan_duration{{scenario:{part.name},outcome:{outcome}}}")
            rows.append(
                (part.name, outcome, f"{count:,}", f"{trend.statistic('med'):.1f}", f"{trend.statistic('p(95)'):.1f}")
            )
    lines += _table(("scenario", "outcome", "count", "median ms", "p(95) ms"), rows)
    if given_up := words.iterations(report):
        lines.append(f"{given_up}.\n")
    lines.append(f"Run `{report.run['id']}` on {report.run['target']}, {report.results.elapsed:.1f} s.\n")
    return "\n".join(lines)


def _finding(finding: Finding) -> tuple[str, str]:
    return _SIGNS[finding.status], finding.statement


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line = [f"| {' | '.join(map(_cell, cells))} |" for cells in (head, *rows)]
    return [line[0], "|" + " --- |" * len(head), *line[1:], ""]


def _cell(text: str) -> str:
    """Text that a Markdown table takes as it is."""
    for sign in "\\`*_<>|[]":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ").replace("\r", " ")


def append_summary(path: Path, text: str) -> None:
    """Add to the step's summary as much as GitHub takes: all of it, or its beginning and a word about the rest."""
    try:
        room = SUMMARY_BYTES - (path.stat().st_size if path.exists() else 0)
        note = "\n\n… cut: a step summary holds 1 MiB.\n"
        raw = text.encode()
        if len(raw) > room:
            raw = raw[: max(0, room - len(note.encode()))].decode(errors="ignore").encode() + note.encode()
        if len(raw) <= room:
            with path.open("ab") as file:
                file.write(raw)
    except OSError as error:
        raise rundir.disk_error(path, error) from None
