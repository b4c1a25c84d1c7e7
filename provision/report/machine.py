"""The summary for machines: k6's `handleSummary` data, and beside them verdict, promises, race and run.

`metrics`, `root_group`, `options` and `state` have the shape of k6 1.x, so that what reads a k6 summary reads this one.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from provision.audit.finding import Finding
from provision.audit.metrics import KINDS, Counter, Metric, Rate, Trend
from provision.load.results import Results
from provision.report import words
from provision.report.model import Report

FORMAT = 1
_TREND = ("avg", "min", "med", "max", "p(90)", "p(95)", "p(99)", "count")
_ROOT = {"name": "", "path": "", "id": "d41d8cd98f00b204e9800998ecf8427e", "groups": [], "checks": []}


def summary(report: Report) -> dict[str, Any]:
    """One JSON object, as `schemas/summary.schema.json` describes it; numbers without samples are null."""
    verdict, results = report.verdict, report.results
    return {
        "format": FORMAT,
        "verdict": {
            "status": verdict.status.name,
            "sentence": words.sentence(report),
            "headline": verdict.headline,
            "exit_code": int(verdict.exit_code),
        },
        "promises": [
            {"promise": f.promise, "status": f.status.name, "statement": f.statement, "details": list(f.details)}
            for f in report.promises
        ],
        "metrics": _metrics(report),
        "iterations": {
            "complete": int(verdict.metrics.get("iterations").statistic("count")),
            "interrupted": verdict.metrics.interrupted(),
        },
        "outcomes": {part.name: verdict.metrics.outcomes(part.name) for part in results.parts if part.measured},
        "race": asdict(verdict.contention) if verdict.contention.rounds else None,
        "generator": _generator(results),
        "samples": [asdict(sample) for sample in results.samples],
        "run": dict(report.run),
        "root_group": _ROOT,
        "options": {"summaryTrendStats": list(_TREND), "summaryTimeUnit": "", "noColor": False},
        "state": {"isStdOutTTY": False, "isStdErrTTY": False, "testRunDurationMs": round(results.elapsed * 1000, 3)},
    }


def _generator(results: Results) -> dict[str, Any]:
    """How the tool itself fared, and what each scenario's requests met of it."""
    strains = {
        part.name: {name: value for name, value in asdict(results.generator.strain(number)).items() if name != "part"}
        for number, part in enumerate(results.parts)
        if part.measured
    }
    return {**asdict(results.generator), "strains": strains}


def _metrics(report: Report) -> dict[str, Any]:
    """Every metric of the tool and every sub-metric that a threshold names, each with its thresholds."""
    verdict = report.verdict
    names = dict.fromkeys([*KINDS, *(judged.threshold.metric for judged in verdict.thresholds)])
    metrics = {name: _metric(name, verdict.metrics.get(name)) for name in names}
    for judged, finding in zip(verdict.thresholds, report.thresholds, strict=True):
        metrics[judged.threshold.metric].setdefault("thresholds", {})[judged.threshold.expression] = {
            "ok": judged.ok is True,
            "status": finding.status.name,
            "value": _number(judged.value),
            "limit": judged.threshold.limit,
            "samples": judged.samples,
            "interval": [_number(bound) for bound in (judged.low, judged.high) if bound is not None] or None,
        }
    return metrics


def _metric(name: str, metric: Metric) -> dict[str, Any]:
    contains = "time" if isinstance(metric, Trend) else "data" if name.startswith("data_") else "default"
    return {"type": type(metric).__name__.lower(), "contains": contains, "values": _values(metric)}


def _values(metric: Metric) -> dict[str, float | None]:
    if isinstance(metric, Trend):
        return {name: _number(metric.statistic(name)) for name in _TREND}
    if isinstance(metric, Counter):
        return {"count": metric.count, "rate": _number(metric.per_second)}
    if isinstance(metric, Rate):
        return {"rate": _number(metric.statistic("rate")), "passes": metric.hits, "fails": metric.total - metric.hits}
    return {"value": metric.value}


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def details_text(finding: Finding) -> str:
    """The tickets and requests behind a finding, a line each, for places that know no tables."""
    lines = []
    for detail in finding.details:
        requests = detail.get("requests", ())
        shown = {name: value for name, value in detail.items() if name not in {"requests", "rows"}}
        lines.append(", ".join(f"{name} {value}" for name, value in shown.items()))
        lines += [f"  {r['outcome']} at {r['first_byte_ms']:.3f} ms by {r['by']}" for r in requests]
    return "\n".join(lines)
