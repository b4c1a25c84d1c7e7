"""Metrics under k6's names and the scan metrics, computed from a run's records; times in milliseconds.

A metric may be asked for as `name{scenario:burst,outcome:admitted}`. Canary and control requests are never in it, nor
are iterations that we gave up ourselves.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise

from provision.audit import bounds
from provision.load.histogram import Histogram
from provision.load.outcomes import COMPLETE, FAILURES, Outcome
from provision.load.results import Results
from provision.load.tally import Kind, Tally

TAGS = ("scenario", "outcome")
_SELECTOR = re.compile(r"([a-z_][a-z0-9_]*)(?:\{([^{}]*)\})?")


@dataclass(frozen=True, slots=True)
class Trend:
    """Durations in ms: the different `values`, ascending, and how many samples are not above each of them."""

    values: tuple[float, ...]
    ranks: tuple[int, ...]

    @classmethod
    def of(cls, counted: Iterable[tuple[float, int]]) -> Trend:
        """The trend of durations in ms with how often each came, in any order."""
        pairs = sorted(counted)
        return cls(tuple(value for value, _ in pairs), tuple(accumulate(times for _, times in pairs)))

    @property
    def samples(self) -> int:
        return self.ranks[-1] if self.ranks else 0

    def at(self, rank: int) -> float:
        """The sample number `rank` (from 0) in ascending order."""
        return self.values[bisect_right(self.ranks, rank)]

    def percentile(self, percent: float) -> float:
        """The percentile with linear interpolation between neighbours, as k6 computes it; NaN without samples."""
        if not self.values:
            return math.nan
        place = percent / 100 * (self.samples - 1)
        low = int(place)
        below, above = self.at(low), self.at(min(low + 1, self.samples - 1))
        return below + (above - below) * (place - low)

    def interval(self, percent: float) -> tuple[float, float]:
        """A 95 % confidence interval of a percentile by order statistics; where the samples are too few for a bound it
        is 0 and infinity."""
        count = self.samples
        if not count:
            return math.nan, math.nan
        low, high = bounds.ranks(count, percent / 100)
        return self.at(low - 1) if low else 0.0, self.at(high - 1) if high <= count else math.inf

    def statistic(self, name: str) -> float:
        """`avg`, `min`, `med`, `max` or `p(95)`; NaN without samples."""
        if not self.values:
            return math.nan
        simple: Mapping[str, Callable[[], float]] = {
            "avg": self._mean,
            "min": lambda: self.values[0],
            "max": lambda: self.values[-1],
            "med": lambda: self.percentile(50),
            "count": lambda: float(self.samples),
        }
        return simple[name]() if name in simple else self.percentile(float(name[2:-1]))

    def _mean(self) -> float:
        times = (high - low for low, high in pairwise((0, *self.ranks)))
        return math.fsum(value * n for value, n in zip(self.values, times, strict=True)) / self.samples

    def share_below(self, limit: float) -> float:
        """The share of samples below a limit."""
        place = bisect_left(self.values, limit)
        return (self.ranks[place - 1] if place else 0) / self.samples if self.values else math.nan


@dataclass(frozen=True, slots=True)
class Counter:
    """How often, and how often per second of the load."""

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
    """A value that was set: the last one, the least and the largest."""

    value: float
    least: float = 0.0
    largest: float = 0.0

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
    """What a selector picks of a run: parts and outcomes, out of all that the tally knows."""

    tally: Tally
    results: Results
    kinds: frozenset[Kind]
    parts: frozenset[str]

    def trend(self, name: str) -> Trend:
        whole = Histogram()
        for kind, histogram in self.tally.trends[name].items():
            if kind in self.kinds:
                whole.merge(histogram)
        return Trend.of((value / 1e6, times) for value, times in whole)

    def count(self, number: int) -> Counter:
        return Counter(number, number / self.results.load if self.results.load else 0.0)

    def requests(self, hit: Callable[[Outcome, int], bool] = lambda *_: True) -> int:
        """How many requests have an outcome and status that `hit` says yes to."""
        statuses = self.tally.statuses.items()
        return sum(n for (part, o, status), n in statuses if (part, o) in self.kinds and hit(o, status))

    def outcomes(self, *wanted: Outcome) -> Counter:
        return self.count(self.requests(lambda outcome, _: outcome in wanted))

    def rate(self, hit: Callable[[Outcome, int], bool]) -> Rate:
        return Rate(self.requests(hit), self.requests())

    def dropped(self) -> Counter:
        return self.count(sum(n for part, n in self.results.dropped.items() if part in self.parts))

    def received(self) -> Counter:
        return self.count(sum(n for kind, n in self.tally.received.items() if kind in self.kinds))

    def vus(self) -> Gauge:
        active = self.results.vus or (0,)
        return Gauge(active[-1], min(active), max(active))


_METRICS: Mapping[str, tuple[type[Metric], Callable[[Selection], Metric]]] = {
    "http_reqs": (Counter, lambda s: s.count(s.requests())),
    "http_req_duration": (Trend, lambda s: s.trend("duration")),
    "http_req_response_time": (Trend, lambda s: s.trend("response")),
    "http_req_waiting": (Trend, lambda s: s.trend("waiting")),
    "http_req_connecting": (Trend, lambda s: s.trend("connecting")),
    "http_req_tls_handshaking": (Trend, lambda s: s.trend("handshaking")),
    "http_req_failed": (Rate, lambda s: s.rate(lambda _, status: not 200 <= status < 400)),
    "iterations": (Counter, lambda s: s.count(s.requests())),
    "iteration_duration": (Trend, lambda s: s.trend("response")),
    "dropped_iterations": (Counter, lambda s: s.dropped()),
    "checks": (Rate, lambda s: s.rate(lambda outcome, _: outcome is not Outcome.UNCLASSIFIED)),
    "data_received": (Counter, lambda s: s.received()),
    "data_sent": (Counter, lambda s: s.count(s.results.bytes_sent)),
    "vus": (Gauge, lambda s: s.vus()),
    "vus_max": (Gauge, lambda s: Gauge(n := sum(p.vus for p in s.results.parts if p.measured), n, n)),
    "scan_duration": (Trend, lambda s: s.trend("duration")),
    "scan_errors": (Rate, lambda s: s.rate(lambda outcome, _: outcome in FAILURES)),
    "successful_scans": (Counter, lambda s: s.outcomes(Outcome.ADMITTED)),
    "already_scanned": (Counter, lambda s: s.outcomes(Outcome.ALREADY_USED)),
    "race_conditions_caught": (Counter, lambda s: s.outcomes(Outcome.BUSY, Outcome.CONFLICT)),
    "ticket_not_found": (Counter, lambda s: s.outcomes(Outcome.NOT_FOUND)),
}
KINDS: Mapping[str, type[Metric]] = {name: kind for name, (kind, _) in _METRICS.items()}
WHOLE_RUN = frozenset({"data_sent", "vus", "vus_max"})
"""The metrics that are known of the run as a whole only."""


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

    def __init__(self, results: Results, tally: Tally | None = None) -> None:
        """`tally` is what the journal adds up to, where that is known already."""
        self._results = results
        self._tally = Tally(results.journal) if tally is None else tally
        self.get = cache(self._get)

    def _get(self, selector: str) -> Metric:
        """The metric of a selector that `parse_selector` and `KINDS` know."""
        name, tags = parse_selector(selector)
        return _METRICS[name][1](self._select(tags))

    def _select(self, tags: Mapping[str, str]) -> Selection:
        wanted = tags.get("scenario")
        parts = {
            number: part.name
            for number, part in enumerate(self._results.parts)
            if part.measured and wanted in {None, part.name}
        }
        outcomes = [o for o in COMPLETE if tags.get("outcome") in {None, str(o)}]
        kinds = frozenset((part, outcome) for part in parts for outcome in outcomes)
        return Selection(self._tally, self._results, kinds, frozenset(parts.values()))

    def outcomes(self, scenario: str | None = None) -> dict[str, int]:
        """How often each outcome was heard, the frequent ones first."""
        chosen = self._select({"scenario": scenario} if scenario else {})
        counts = {str(outcome): chosen.outcomes(outcome).count for outcome in COMPLETE}
        counts = {outcome: count for outcome, count in counts.items() if count}
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def interrupted(self) -> int:
        """How many iterations of the load we gave up ourselves."""
        measured = {number for number, part in enumerate(self._results.parts) if part.measured}
        found = self._tally.statuses.items()
        return sum(n for (part, o, _), n in found if part in measured and o is Outcome.INTERRUPTED)

    def lateness(self, scenario: str) -> Trend:
        """How much later than due requests of a scenario were sent, in ms, without the time for a connection."""
        return self._select({"scenario": scenario}).trend("lateness")
