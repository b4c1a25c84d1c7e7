"""The summary for machines: k6's `handleSummary` shape for metrics, and beside it verdict, promises, race and run."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from provision.audit.metrics import KINDS, Counter, Metric, Rate, Trend
from provision.audit.verdict import Verdict
from provision.load.results import Results

_TREND = ("avg", "min", "med", "max", "p(90)", "p(95)", "p(99)", "count")


def summary(verdict: Verdict, results: Results, run: dict[str, Any]) -> dict[str, Any]:
    """One JSON object; numbers without samples are null."""
    names = dict.fromkeys([*KINDS, *(judged.threshold.metric for judged in verdict.thresholds)])
    metrics = {name: _metric(verdict.metrics.get(name)) for name in names}
    for judged in verdict.thresholds:
        thresholds = metrics[judged.threshold.metric].setdefault("thresholds", {})
        thresholds[judged.threshold.expression] = {
            "ok": judged.ok is True,
            "value": _number(judged.value),
            "samples": judged.samples,
            "interval": None if judged.low is None else [judged.low, judged.high],
        }
    return {
        "verdict": {"status": verdict.status.name, "headline": verdict.headline, "exit_code": int(verdict.exit_code)},
        "promises": [
            {"promise": f.promise, "status": f.status.name, "statement": f.statement, "details": list(f.details)}
            for f in verdict.findings
            if not f.promise.startswith("threshold ")
        ],
        "metrics": metrics,
        "outcomes": {part.name: verdict.metrics.outcomes(part.name) for part in results.parts if part.measured},
        "race": asdict(verdict.contention) if verdict.contention.rounds else None,
        "generator": asdict(results.generator),
        "samples": [asdict(sample) for sample in results.samples],
        "run": run,
    }


def _metric(metric: Metric) -> dict[str, Any]:
    time = {"contains": "time"} if isinstance(metric, Trend) else {"contains": "default"}
    return {"type": type(metric).__name__.lower(), **time, "values": _values(metric)}


def _values(metric: Metric) -> dict[str, float | None]:
    if isinstance(metric, Trend):
        return {name: _number(metric.statistic(name)) for name in _TREND}
    if isinstance(metric, Counter):
        return {"count": metric.count, "rate": _number(metric.per_second)}
    if isinstance(metric, Rate):
        return {"rate": _number(metric.statistic("rate")), "passes": metric.hits, "fails": metric.total - metric.hits}
    return {"value": metric.value}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
