"""The report as one HTML file that opens offline: tables made here, charts drawn from the same values in the page.

The page may load nothing: its content security policy allows its own scripts by their hash, and no address at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from provision.audit.metrics import Trend
from provision.report import machine, words
from provision.report.model import Report
from provision.report.series import series

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("d3.min.js", "plot.umd.min.js", "report.js")
_LICENCES = ("plot.LICENSE", "d3.LICENSE")
LATENCIES = ("med", "p(95)", "p(99)", "max")


def render(report: Report) -> str:
    """The whole page as text."""
    summary = machine.summary(report)
    scripts = [_asset(name) for name in _SCRIPTS]
    return _template().render(
        report=report,
        summary=summary,
        steps=words.next_steps(report),
        latencies=_latencies(report),
        winners=_winners(report),
        tables=_tables(report),
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - files of this package
        licences=[_asset(name) for name in _LICENCES],
        style=Markup(_asset("report.css")),  # noqa: S704
        policy=_policy(scripts),
        summary_json=_embedded(summary),
        series_json=_embedded(series(report)),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters.update(figure=figure, ms=milliseconds, plain=_plain)
    return environment.from_string(_asset("report.html.j2"))


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _policy(scripts: Iterable[str]) -> str:
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    rules = ("default-src 'none'", "style-src 'unsafe-inline'", "img-src data:", f"script-src {allowed}")
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))


def _embedded(value: Any) -> Markup:
    """JSON as it may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - no markup can be in it


def _latencies(report: Report) -> list[dict[str, Any]]:
    """A row for each scenario and outcome: how often, and its latencies in ms."""
    metrics = report.verdict.metrics
    rows = []
    for part in report.results.parts:
        for outcome, count in metrics.outcomes(part.name).items() if part.measured else ():
            trend = metrics.get(f"scan_duration{{scenario:{part.name},outcome:{outcome}}}")
            values = {name: trend.statistic(name) if isinstance(trend, Trend) else math.nan for name in LATENCIES}
            rows.append({"scenario": part.name, "outcome": outcome, "count": count, **values})
    return rows


def _winners(report: Report) -> list[dict[str, Any]]:
    """How many race rounds each gate won, by scenario; the columns are the gates."""
    races = {number: part for number, part in enumerate(report.results.parts) if part.executor == "race"}
    tally = {number: [0] * part.vus for number, part in races.items()}
    for record in report.results.records():
        if record.part in tally and record.named == "admitted":
            tally[record.part][record.vu] += 1
    return [{"scenario": races[number].name, "won": won} for number, won in tally.items()]


def _tables(report: Report) -> list[dict[str, Any]]:
    """The tables of seed and teardown with their rows: parents first, then those that only the app wrote to."""
    seeded = report.accounts.seeded
    removed = {str(account["table"]): account for account in report.accounts.removed or ()}
    return [
        {"table": name, "seeded": seeded.get(name), "gone": removed.get(name)}
        for name in dict.fromkeys([*seeded, *removed])
    ]


def figure(value: float | None, digits: int | None = None) -> str:
    """A number for people: thousands in groups, as many digits as say something; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if digits is not None:
        return f"{value:,.{digits}f}"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.4g}"


def milliseconds(value: float | None) -> str:
    """A latency for people, in ms."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _plain(value: Any) -> str:
    """Any value of a JSON object in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
