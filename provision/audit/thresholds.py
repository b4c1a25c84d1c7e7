"""Thresholds in k6's grammar, parsed and checked against the metric's type before the run, judged after it."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from provision.audit.metrics import KINDS, STATISTICS, TAGS, WHOLE_RUN, Counter, Metrics, Trend, parse_selector
from provision.load.outcomes import COMPLETE
from provision.load.spec import Limit
from provision.yamlfile import unknown

_NUMBER = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_EXPRESSION = re.compile(rf"([a-z]+(?:\((?:{_NUMBER})\))?)\s*(<=|>=|===|==|!=|<|>)\s*((?:{_NUMBER})(?:e[+-]?[0-9]+)?)")
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "===": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """One expression on one metric, such as `p(95)<200` on `scan_duration`."""

    metric: str
    expression: str
    statistic: str
    comparison: str
    limit: float
    abort_on_fail: bool = False
    delay: float = 0.0
    """Seconds of load before which it does not end the run."""

    @property
    def text(self) -> str:
        return f"{self.metric} {self.expression}"

    @property
    def percent(self) -> float | None:
        """The percentile that is asked for; None for other statistics."""
        if self.statistic == "med":
            return 50.0
        return float(self.statistic[2:-1]) if self.statistic.startswith("p(") else None

    def holds(self, value: float) -> bool:
        return _OPERATORS[self.comparison](value, self.limit)


@dataclass(frozen=True, slots=True)
class Judged:
    """A threshold with what was measured: `ok` is None when there were no samples. `low` and `high` bound the value
    with 95 % confidence where a percentile was asked for; `high` is infinite when the samples are too few for that."""

    threshold: Threshold
    value: float
    samples: int
    ok: bool | None
    low: float | None = None
    high: float | None = None

    @property
    def straddles(self) -> bool:
        """Whether the limit lies inside the interval, so that another run could have gone the other way."""
        return self.low is not None and self.high is not None and self.low < self.threshold.limit < self.high

    def interval(self, between: str = " – ") -> str:
        """The interval in figures, an unknown bound as a question mark; nothing where there is none."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:.4g}{between}" + (f"{self.high:.4g}" if math.isfinite(self.high) else "?")


def parse(metric: str, written: str | Limit, scenarios: Iterable[str]) -> Threshold:
    """A threshold; ValueError in a user's words when metric, tag, statistic or grammar are wrong."""
    given = written if isinstance(written, Limit) else Limit(threshold=written)
    expression = given.threshold
    name, tags = parse_selector(metric)
    if name not in KINDS:
        raise ValueError(unknown("metric", name, KINDS))
    _check_tags(tags, scenarios)
    if tags and name in WHOLE_RUN:
        raise ValueError(f"{name} is known of the whole run only; leave {{{', '.join(tags)}}} out")
    if "outcome" in tags and name == "dropped_iterations":
        raise ValueError("dropped_iterations have no outcome; leave it out")
    match = _EXPRESSION.fullmatch(expression.strip())
    if not match:
        raise ValueError(f"{expression!r} is no threshold; write p(95)<200, rate<0.01 or count>0")
    statistic, allowed = match[1], STATISTICS[KINDS[name]]
    percentile = re.fullmatch(r"p\(([0-9]+(?:\.[0-9]+)?)\)", statistic)
    if (statistic not in allowed or statistic == "p(N)") and not (percentile and "p(N)" in allowed):
        kind = KINDS[name].__name__.lower()
        raise ValueError(f"{name} is a {kind}: it has {', '.join(allowed)}, not {statistic}")
    if percentile and not 0 <= float(percentile[1]) <= 100:
        raise ValueError(f"{statistic}: a percentile lies between 0 and 100")
    limit = float(match[3])
    return Threshold(metric, expression, statistic, match[2], limit, given.abortOnFail, given.delayAbortEval)


def _check_tags(tags: Mapping[str, str], scenarios: Iterable[str]) -> None:
    valid = {"scenario": list(scenarios), "outcome": [str(outcome) for outcome in COMPLETE]}
    for tag, value in tags.items():
        if tag not in TAGS:
            raise ValueError(unknown("tag", tag, TAGS))
        if value not in valid[tag]:
            raise ValueError(unknown(tag, value, valid[tag]))


def judge(threshold: Threshold, metrics: Metrics) -> Judged:
    """What a run says of a threshold."""
    metric = metrics.get(threshold.metric)
    value = metric.statistic(threshold.statistic)
    ok = None if not metric.samples or math.isnan(value) else threshold.holds(value)
    low = high = None
    if isinstance(metric, Trend) and metric.samples and threshold.percent is not None:
        low, high = metric.interval(threshold.percent)
    return Judged(threshold, value, metric.samples, ok, low, high)


def reason_to_stop(thresholds: Iterable[Threshold], metrics: Metrics, elapsed: float) -> str:
    """The first threshold with `abortOnFail` that has failed after `elapsed` seconds of load, or nothing."""
    for threshold in thresholds:
        if not threshold.abort_on_fail or elapsed < threshold.delay:
            continue
        metric = metrics.get(threshold.metric)
        begun = not isinstance(metric, Counter) or metric.count > 0  # as in k6, an empty one is not judged yet
        if begun and judge(threshold, metrics).ok is False:
            return threshold.text
    return ""
