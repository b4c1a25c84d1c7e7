"""How a load goes right now: bars for its scenarios, VUs, rate, p95 beside its limit, outcomes, errors."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from provision.audit.comparison import percentile
from provision.load.outcomes import FAILURES, Outcome
from provision.load.spec import Race

if TYPE_CHECKING:
    from provision.load.progress import Progress
    from provision.load.spec import AnyExecutor, Scenario

WINDOW = 2.0
"""Seconds over which the rate is taken."""
_ERRORS = FAILURES | {Outcome.STARVED}
_COLOURS: Mapping[Outcome, str] = {Outcome.ADMITTED: "green", **dict.fromkeys(_ERRORS, "red")}
_REPLY = 100
_P95 = re.compile(r"p\(95\)\s*<=?\s*([0-9.]+)")


class Pace:
    """The last progress that was told, and what it takes to say how fast things go."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: Progress | None = None
        self._past: deque[tuple[float, int]] = deque()
        self._errors: dict[str, str] = {}

    def take(self, progress: Progress) -> list[str]:
        """Take in what is told; a line for each kind of error that is new."""
        now = self._clock()
        self._last = progress
        self._past.append((now, progress.requests))
        while now - self._past[0][0] > WINDOW:
            self._past.popleft()
        new = {o: body for o, body in progress.replies.items() if is_error(o, progress) and o not in self._errors}
        self._errors |= {outcome: " ".join(body.split())[:_REPLY] for outcome, body in new.items()}
        return [f"{outcome}: {self._errors[outcome]}" for outcome in new]

    @property
    def rate(self) -> float:
        """Requests per second over the last seconds."""
        (began, before), (now, after) = self._past[0], self._past[-1]
        return (after - before) / (now - began) if now > began else 0.0

    def line(self) -> str:
        """All of it in one line."""
        if (last := self._last) is None:
            return ""
        running = ", ".join(f"{name} {how_far(last, name)[1]}" for name in last.running) or "waiting"
        facts = f"{active(last)} VUs, {self.rate:,.0f} scans/s, {latency(last)}"
        return f"{last.elapsed:.0f} s {running}: {facts}; {outcomes(last)}".rstrip("; ")

    def picture(self) -> Iterable[RenderableType]:
        """A bar for each scenario, and beneath them the figures."""
        if (last := self._last) is None:
            return
        bars = Table.grid(padding=(0, 1))
        bars.add_column(justify="right", max_width=24, no_wrap=True)
        for name in last.scenario.scenarios:
            share, words = how_far(last, name)
            style = "bold" if name in last.running else "dim"
            bars.add_row(Text(name, style=style), ProgressBar(total=1.0, completed=share, width=24), Text(words, style))
        yield bars
        yield Text.assemble(f"  {active(last)} VUs · {self.rate:,.0f} scans/s · ", latency(last))
        yield Text.assemble("  ", outcomes(last))
        for outcome, body in self._errors.items():
            yield Text(f"  ✗ {outcome}: {body}", style="red", no_wrap=True, overflow="ellipsis")


def is_error(outcome: str, progress: Progress) -> bool:
    """Whether an outcome is one to be worried about; the canary asks once for a ticket that does not exist."""
    return outcome in _ERRORS and (outcome != Outcome.NOT_FOUND or progress.outcomes.get(outcome, 0) > 1)


def active(progress: Progress) -> int:
    """The VUs at work, those of a race under way among them."""
    executors = [progress.scenario.scenarios[name] for name in progress.running]
    return progress.vus + sum(executor.vus for executor in executors if isinstance(executor, Race))


def latency(progress: Progress) -> Text:
    """The p95 of the last requests beside its limit."""
    if not progress.recent:
        return Text("p95 –")
    p95, limit = percentile(sorted(progress.recent), 95), limit_of(progress.scenario)
    text = f"p95 {p95:.1f} ms" + ("" if limit is None else f" of {limit:g}")
    return Text(text, style="" if limit is None else "red" if p95 > limit else "green")


def outcomes(progress: Progress) -> Text:
    """How often each outcome was heard, the frequent ones first."""
    counts = sorted(progress.outcomes.items(), key=lambda item: -item[1])
    return Text(", ").join(Text(f"{n:,} {name}", style=_COLOURS.get(Outcome(name), "cyan")) for name, n in counts)


def how_far(progress: Progress, name: str) -> tuple[float, str]:
    """The share of a scenario that is done, and the same in words."""
    executor = progress.scenario.scenarios[name]
    gone, done = progress.elapsed - executor.startTime, progress.parts.get(name, 0)
    if gone < 0:
        return 0.0, f"in {-gone:.0f} s"
    of, unit = _amount(executor)
    if of is None:
        shown = min(gone, executor.length)
        return shown / executor.length, f"{shown:.0f} of {executor.length:.0f} s"
    done = done // executor.vus if isinstance(executor, Race) else done
    return min(1.0, done / of), f"{done:,} of {of:,} {unit}"


def _amount(executor: AnyExecutor) -> tuple[int | None, str]:
    """How many rounds or iterations a part has; None when it is as long as the clock says."""
    given: Any = executor
    if isinstance(executor, Race):
        return executor.rounds, "rounds"
    if executor.executor == "per-vu-iterations":
        return given.vus * given.iterations, "scans"
    return (given.iterations, "scans") if executor.executor == "shared-iterations" else (None, "")


def limit_of(scenario: Scenario) -> float | None:
    """The limit for p(95) of all scans in the thresholds of a scenario, in ms; the strictest."""
    limits = [
        float(found[1])
        for metric in ("scan_duration", "http_req_duration")
        for given in _listed(scenario.thresholds.get(metric, []))
        if (found := _P95.fullmatch(getattr(given, "threshold", given)))
    ]
    return min(limits, default=None)


def _listed(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]
