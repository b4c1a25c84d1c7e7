"""The real executors on a clock that stands still until nobody has anything left to do: minutes of load in no time."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter

from provision.load import arrivals, closed, spec
from provision.load.executors import ClosedModel
from provision.load.http import Fault, Reply
from provision.load.pool import Pool
from provision.load.share import Share

S = 1_000_000_000
Took = Callable[[int], float]


class Clock:
    """Time in ns and the moments ahead; the executors' timer."""

    def __init__(self) -> None:
        self.now = 0
        self._heap: list[tuple[int, int, list[Callable[[], None]]]] = []
        self._number = 0

    def at(self, when: int, callback: Callable[[], None]) -> Callable[[], None]:
        cell = [callback]
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, cell))
        return cell.clear

    def stand_still(self, ns: int) -> None:
        self.now += ns

    def advance(self) -> None:
        """Go on to the next moment and do what is to be done then."""
        while self._heap and not self._heap[0][2]:  # cancelled
            heapq.heappop(self._heap)
        when, _, cell = heapq.heappop(self._heap)
        self.now = max(self.now, when)
        cell[0]()


@dataclass
class Seen:
    """What an executor did: iterations as (VU, begun, ended, given up) in seconds, and the session's own counts."""

    iterations: list[tuple[int, float, float, bool]] = field(default_factory=list)
    due: list[float] = field(default_factory=list)
    dropped: int = 0
    exhausted: bool = False
    ended: float = 0.0
    active: list[tuple[float, int]] = field(default_factory=list)

    def begun(self, vu: int | None = None) -> list[float]:
        return [
            round(start, 6)
            for number, start, _, _ in sorted(self.iterations, key=lambda i: i[1])
            if vu in {None, number}
        ]

    def by_vu(self) -> dict[int, int]:
        return dict(sorted(Counter(vu for vu, *_ in self.iterations).items()))

    def given_up(self) -> list[tuple[int, float]]:
        return sorted((vu, round(end, 6)) for vu, _, end, gone in self.iterations if gone)


class _Connection:
    """A server that answers after `took(n)` seconds."""

    def __init__(self, clock: Clock, session: Any, vu: int, took: Took) -> None:
        self.clock, self.session, self.vu, self.took = clock, session, vu, took
        self.busy = False

    async def connect(self) -> None:
        pass

    def send(self, ticket: int, done: Callable[[Reply], None]) -> None:
        self.busy, self.done, self.begun = True, done, self.clock.now
        self.session.seen.active.append((self.clock.now / S, self.session.active))
        self.cancel = self.clock.at(self.clock.now + int(self.took(ticket) * S), self.answer)

    def answer(self, fault: Fault | None = None) -> None:
        self.busy = False
        end = self.clock.now
        self.session.seen.iterations.append((self.vu, self.begun / S, end / S, fault is not None))
        self.done(Reply(200, b"", self.begun, end, end, fault, ""))

    def abort(self, detail: str) -> None:
        del detail
        self.cancel()
        self.answer(Fault.ABORTED)


def play(
    written: dict[str, Any],
    took: float | Took = 0.0,
    *,
    tickets: int = 1_000_000,
    share: Share = Share(),
    stop_at: float | None = None,
    stall: tuple[float, float] | None = None,
) -> Seen:
    """Carry out an executor as a scenario file would have it, every reply taking `took` seconds; a `stall` is a moment
    at which the tool stands still, and for how long."""
    executor = TypeAdapter(spec.Executor).validate_python(written)
    answer = took if callable(took) else lambda _: took
    with pytest.MonkeyPatch.context() as patch:
        return asyncio.run(_play(executor, answer, tickets, share, (stop_at, stall), patch))


async def _play(
    executor: Any,
    took: Took,
    tickets: int,
    share: Share,
    events: tuple[float | None, tuple[float, float] | None],
    patch: pytest.MonkeyPatch,
) -> Seen:
    clock = Clock()
    stop_at, stall = events
    for module in (closed, arrivals):
        patch.setattr(module, "perf_counter_ns", lambda: clock.now)
    session = SimpleNamespace(
        share=share, start=0, timer=clock, active=0, stopping=asyncio.Event(), exhausted={}, dropped=Counter(),
        job=SimpleNamespace(seed="s"), seen=Seen(),
    )  # fmt: skip
    pool = Pool(tickets)

    def take(name: str) -> int | None:
        ticket = pool.take(name)
        if ticket is None:
            session.exhausted[name] = None
        return ticket

    session.take = take
    session.part = lambda *_: 0
    session.lane = lambda part, vu: SimpleNamespace(
        part=part, vu=vu, iteration=0, connection=_Connection(clock, session, vu, took)
    )
    session.splicer = lambda lane: lambda ticket, iteration: ticket
    session.request = lambda ticket, lane: ticket
    session.record = lambda lane, ticket, due, reply: session.seen.due.append(due / S)
    if stop_at is not None:
        clock.at(int(stop_at * S), session.stopping.set)
    if stall is not None:
        clock.at(int(stall[0] * S), lambda: clock.stand_still(int(stall[1] * S)))
    made = closed.Crew if isinstance(executor, ClosedModel) else arrivals.Arrivals
    running = asyncio.create_task(made(session, "e", executor).run())
    while not running.done():
        for _ in range(5):
            await asyncio.sleep(0)
        if not running.done():
            clock.advance()
    await running
    session.seen.dropped, session.seen.exhausted = session.dropped["e"], bool(session.exhausted)
    session.seen.ended = clock.now / S
    assert session.active == 0
    return session.seen
