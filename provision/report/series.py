"""What the charts draw: a run's records summed into buckets of time, bins of latency and rounds of races.

However long the run was, the result is bounded: at most `BUCKETS` moments, `ROUNDS` rounds and `SHOWN` time lines.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provision.audit.comparison import percentile
from provision.audit.metrics import Metrics
from provision.load.outcomes import FAILURES, Outcome
from provision.load.results import Record, Results, Round
from provision.report.model import Report

BUCKETS = 240
ROUNDS = 1000
SHOWN = 24
REQUESTS = 64
_STEPS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
PER_DECADE = 25
"""Bins of the latency distribution for each power of ten."""
_IN_A_MOMENT = {"med": 50.0, "p(95)": 95.0, "max": 100.0}
MARKS = ("med", "p(95)", "p(99)")


def series(report: Report) -> dict[str, Any]:
    """Times in s since the beginning, latencies in ms."""
    results = report.results
    step = next((step for step in _STEPS if results.elapsed / step <= BUCKETS), results.elapsed / BUCKETS)
    return {
        "step": step,
        "timeline": timeline(results, step),
        "distribution": distribution(results, report.verdict.metrics),
        "rounds": rounds(results),
        "broken": broken_rounds(results),
    }


def _broken(results: Results, winners: Sequence[int]) -> bool:
    """Whether a round let in more than it may; where any number may hear of success, replies do not tell."""
    return results.promise == "winners" and len(winners) > results.winners


def _measured(results: Results) -> Iterable[Record]:
    wanted = {number for number, part in enumerate(results.parts) if part.measured}
    return (record for record in results.records() if record.part in wanted)


@dataclass(slots=True)
class Moment:
    """The requests that began within one step of the time line, those left out that we gave up."""

    count: int = 0
    failed: int = 0
    latencies: array[float] = field(default_factory=lambda: array("d"))

    def add(self, record: Record) -> None:
        if record.named is Outcome.INTERRUPTED:
            return
        self.count += 1
        self.failed += record.named in FAILURES
        if record.sent:
            self.latencies.append((record.last - record.sent) / 1e6)

    def figures(self, step: float) -> dict[str, Any]:
        values = sorted(self.latencies)
        at = {name: round(percentile(values, percent), 3) if values else None for name, percent in _IN_A_MOMENT.items()}
        return {"count": self.count, "rate": self.count / step, "failed": self.failed / step, **at}


def timeline(results: Results, step: float) -> list[dict[str, Any]]:
    """For each scenario and each moment of its life: requests and failures per second, VUs at work, latencies."""
    found: dict[tuple[int, int], Moment] = defaultdict(Moment)
    lives: dict[tuple[int, int], tuple[int, int]] = {}
    for record in _measured(results):
        found[record.part, _bucket(record.sent or record.due, step)].add(record)
        begun, ended = lives.get((record.part, record.vu), (record.due, record.last))
        lives[record.part, record.vu] = min(begun, record.due), max(ended, record.last)
    alive = Counter(
        (part, bucket)
        for (part, _), (begun, ended) in lives.items()
        for bucket in range(_bucket(begun, step), _bucket(ended, step) + 1)
    )
    return [
        {"t": round(bucket * step, 3), "scenario": results.parts[part].name, "vus": alive[part, bucket]}
        | found[part, bucket].figures(step)
        for part, bucket in sorted({*found, *alive})
    ]


def _bucket(nanoseconds: int, step: float) -> int:
    return int(nanoseconds / 1e9 / step)


def distribution(results: Results, metrics: Metrics) -> list[dict[str, Any]]:
    """For each scenario and outcome the latencies in logarithmic bins `[from, to, count]`, and the marks."""
    found: dict[tuple[int, str], Counter[int]] = defaultdict(Counter)
    for record in _measured(results):
        if record.sent and record.named is not Outcome.INTERRUPTED:
            found[record.part, str(record.named)][_bin((record.last - record.sent) / 1e6)] += 1
    return [
        _row(results.parts[part].name, outcome, counts, metrics)
        for (part, outcome), counts in sorted(found.items(), key=lambda item: (item[0][0], -item[1].total()))
    ]


def _row(scenario: str, outcome: str, counts: Counter[int], metrics: Metrics) -> dict[str, Any]:
    trend = metrics.get(f"scan_duration{{scenario:{scenario},outcome:{outcome}}}")
    marks = {name: round(trend.statistic(name), 3) for name in MARKS}
    return {"scenario": scenario, "outcome": outcome, "count": counts.total(), "marks": marks, "bins": _bins(counts)}


def _bin(value: float) -> int:
    return math.floor(math.log10(max(value, 1e-3)) * PER_DECADE)


def _bins(counts: Mapping[int, int]) -> list[list[float]]:
    return [[_edge(place), _edge(place + 1), count] for place, count in sorted(counts.items())]


def _edge(place: int) -> float:
    return float(f"{10 ** (place / PER_DECADE):.5g}")


def _by_round(results: Results) -> dict[tuple[str, int], list[Record]]:
    """The requests of each race round, by scenario and number."""
    races = {number: part.name for number, part in enumerate(results.parts) if part.executor == "race"}
    found: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in results.records():
        if record.part in races:
            found[races[record.part], record.round].append(record)
    return found


def _winners(records: Iterable[Record]) -> list[int]:
    """The gates that were let in, in the order of their replies."""
    won = sorted((record for record in records if record.named is Outcome.ADMITTED), key=lambda record: record.first)
    return [record.vu + 1 for record in won]


def rounds(results: Results) -> list[dict[str, Any]]:
    """The race rounds, evenly thinned when they are too many; of those that let in too many, none is
    left out as long as the result stays bounded."""
    replies = _by_round(results)
    keep = max(1, math.ceil(len(results.rounds) / ROUNDS))
    shown: list[dict[str, Any]] = []
    for number, one in enumerate(results.rounds):
        winners = _winners(replies[one.part, one.number])
        broken = _broken(results, winners)
        if number % keep == 0 or (broken and len(shown) < 2 * ROUNDS):
            shown.append({**_round(one, winners), "broken": broken})
    return shown


def _round(one: Round, winners: list[int]) -> dict[str, Any]:
    return {
        "scenario": one.part,
        "round": one.number + 1,
        "mode": one.mode,
        "spread": round(one.spread / 1e6, 4),
        "overlap": one.overlap,
        "requests": one.requests,
        "winners": winners,
    }


def broken_rounds(results: Results) -> list[dict[str, Any]]:
    """The first few rounds that let in too many, each request's times in ms since the first send."""
    replies = _by_round(results)
    shown: list[dict[str, Any]] = []
    for one in results.rounds:
        records = sorted((r for r in replies[one.part, one.number] if r.sent), key=lambda record: record.sent)
        if _broken(results, _winners(records)) and len(shown) < SHOWN:
            lines = [_line(record, records[0].sent) for record in records[:REQUESTS]]
            where = {"scenario": one.part, "round": one.number + 1, "ticket": results.tickets[one.ticket]}
            shown.append({**where, "requests": lines})
    return shown


def _line(record: Record, began: int) -> dict[str, Any]:
    times = {"sent": record.sent, "first": record.first or record.last, "last": record.last}
    return {
        "gate": record.vu + 1,
        "outcome": str(record.named),
        **{name: round((at - began) / 1e6, 4) for name, at in times.items()},
    }
