"""Metrics under k6's names and the scan metrics, computed from a run's records; times in milliseconds.

A metric may be asked for as `name{scenario:burst,outcome:admitted}`. Canary and control requests are never in it.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from provision.load.outcomes import FAILURES, Outcome
from provision.load.results import Record, Results

TAGS = ("scenario", "outcome")
_SELECTOR = re.compile(r"([a-z_][a-z0-9_]*)(?:\{([^{}]*)\})?")


@dataclass(frozen=True, slots=True)
class Trend:
    """Durations in ms, sorted."""

    values: tuple[float, ...]

    @property
    def samples(self) -> int:
        return len(self.values)

    def percentile(self, percent: float) -> float:
        """The percentile with linear interpolation between neighbours, as k6 computes it; NaN without samples."""
        if not self.values:
            return math.nan
        place = percent / 100 * (len(self.values) - 1)
        low = int(place)
        high = min(low + 1, len(self.values) - 1)
        return self.values[low] + (self.values[high] - self.values[low]) * (place - low)

    def interval(self, percent: float) -> tuple[float, float]:
        """A 95 % confidence interval of a percentile by order statistics (Conover 1999, §3.2, normal approximation)."""
        count, share = len(self.values), percent / 100
        if not count:
            return math.nan, math.nan
        spread = 1.96 * math.sqrt(count * share * (1 - share))
        low = max(0, math.floor(count * share - spread) - 1)
        high = min(count - 1, math.ceil(count * share + spread))
        return self.values[low], self.values[high]

    def statistic(self, name: str) -> float:
        """`avg`, `min`, `med`, `max` or `p(95)`; NaN without samples."""
        if not self.values:
            return math.nan
        simple: Mapping[str, Callable[[], float]] = {
            "avg": lambda: math.fsum(self.values) / len(self.values),
            "min": lambda: self.values[0],
            "max": lambda: self.values[-1],
            "med": lambda: self.percentile(50),
            "count": lambda: float(len(self.values)),
        }
        return simple[name]() if name in simple else self.percentile(float(name[2:-1]))

    def share_below(self, limit: float) -> float:
        """The share of samples below a limit."""
        return bisect_left(self.values, limit) / len(self.values) if self.values else math.nan


@dataclass(frozen=True, slots=True)
class Counter:
    """How often, and how often per second of the run."""

    count: int
    per_second: float

    @property
    def samples(self) -> int:
        return 1

    def statistic(self, name: str) -> float:
        return float(self.count) if name == "count" else self.per_second


@dataclass(frozen=True, slots=True)
class Rate:
    """How many of how many."""

    hits: int
    total: int

    @property
    def samples(self) -> int:
        return self.total

    def statistic(self, name: str) -> float:
        del name
        return self.hits / self.total if self.total else math.nan


@dataclass(frozen=True, slots=True)
class Gauge:
    """A value that was set."""

    value: float

    @property
    def samples(self) -> int:
        return 1

    def statistic(self, name: str) -> float:
        del name
        return self.value


Metric = Trend | Counter | Rate | Gauge
STATISTICS: Mapping[type[Metric], tuple[str, ...]] = {
    Trend: ("avg", "min", "med", "max", "count", "p(N)"),
    Counter: ("count", "rate"),
    Rate: ("rate",),
    Gauge: ("value",),
}


@dataclass(frozen=True, slots=True)
class Selection:
    """The records that a selector picks, and the run that they are from."""

    records: Sequence[Record]
    results: Results

    def trend(self, milliseconds: Callable[[Record], float]) -> Trend:
        return Trend(tuple(sorted(milliseconds(record) for record in self.records if record.sent)))

    def count(self, number: int) -> Counter:
        return Counter(number, number / self.results.elapsed if self.results.elapsed else 0.0)

    def outcomes(self, wanted: Iterable[Outcome]) -> Counter:
        names = frozenset(wanted)
        return self.count(sum(record.named in names for record in self.records))

    def rate(self, hit: Callable[[Record], bool]) -> Rate:
        return Rate(sum(map(hit, self.records)), len(self.records))


def _duration(record: Record) -> float:
    return (record.last - record.sent) / 1e6


_METRICS: Mapping[str, tuple[type[Metric], Callable[[Selection], Metric]]] = {
    "http_reqs": (Counter, lambda s: s.count(sum(r.sent > 0 for r in s.records))),
    "http_req_duration": (Trend, lambda s: s.trend(_duration)),
    "http_req_waiting": (Trend, lambda s: s.trend(lambda r: ((r.first or r.last) - r.sent) / 1e6)),
    "http_req_failed": (Rate, lambda s: s.rate(lambda r: not 200 <= r.status < 400)),
    "iterations": (Counter, lambda s: s.count(len(s.records))),
    "iteration_duration": (Trend, lambda s: s.trend(lambda r: (r.last - r.due) / 1e6)),
    "dropped_iterations": (Counter, lambda s: s.count(0)),
    "checks": (Rate, lambda s: s.rate(lambda r: r.named is not Outcome.UNCLASSIFIED)),
    "data_received": (Counter, lambda s: s.count(sum(r.received for r in s.records))),
    "data_sent": (Counter, lambda s: s.count(s.results.bytes_sent)),
    "vus_max": (Gauge, lambda s: Gauge(sum(p.vus for p in s.results.parts if p.measured))),
    "scan_duration": (Trend, lambda s: s.trend(_duration)),
    "scan_errors": (Rate, lambda s: s.rate(lambda r: r.named in FAILURES)),
    "successful_scans": (Counter, lambda s: s.outcomes([Outcome.ADMITTED])),
    "already_scanned": (Counter, lambda s: s.outcomes([Outcome.ALREADY_USED])),
    "race_conditions_caught": (Counter, lambda s: s.outcomes([Outcome.BUSY, Outcome.CONFLICT])),
    "ticket_not_found": (Counter, lambda s: s.outcomes([Outcome.NOT_FOUND])),
}
KINDS: Mapping[str, type[Metric]] = {name: kind for name, (kind, _) in _METRICS.items()}


def parse_selector(text: str) -> tuple[str, dict[str, str]]:
    """`name{tag:value,…}` as name and tags; ValueError when it is none."""
    match = _SELECTOR.fullmatch(text.replace(" ", ""))
    if not match:
        raise ValueError(f"{text!r} is no metric; write scan_duration or scan_duration{{outcome:admitted}}")
    pairs = [part.partition(":") for part in (match[2] or "").split(",") if part]
    if bare := next((tag for tag, colon, _ in pairs if not colon), None):
        raise ValueError(f"{bare!r} is no tag; write outcome:{bare} or scenario:{bare}")
    return match[1], {tag: value for tag, _, value in pairs}


class Metrics:
    """The metrics of one run, computed when they are asked for."""

    def __init__(self, results: Results) -> None:
        self._results = results
        measured = {number for number, part in enumerate(results.parts) if part.measured}
        self._records = [record for record in results.records() if record.part in measured]
        self.get = cache(self._get)

    def _get(self, selector: str) -> Metric:
        """The metric of a selector that `parse_selector` and `KINDS` know."""
        name, tags = parse_selector(selector)
        return _METRICS[name][1](Selection(self._select(tags), self._results))

    def _select(self, tags: Mapping[str, str]) -> list[Record]:
        parts = [part.name for part in self._results.parts]
        return [
            record
            for record in self._records
            if tags.get("scenario", parts[record.part]) == parts[record.part]
            and tags.get("outcome", record.named) == record.named
        ]

    def outcomes(self, scenario: str | None = None) -> dict[str, int]:
        """How often each outcome was heard, the frequent ones first."""
        counts: dict[str, int] = {}
        for record in self._select({"scenario": scenario} if scenario else {}):
            counts[record.named] = counts.get(record.named, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: -item[1]))
