"""The open model: iterations begin when they are due, whether or not earlier ones have ended."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from time import perf_counter_ns

from provision.load import schedule
from provision.load.dial import ConnectFailed
from provision.load.executors import OpenModel
from provision.load.http import Reply
from provision.load.session import Lane, Session, first_of
from provision.load.share import Share

AT_ONCE = 32
"""Late iterations that begin in one turn of the loop, so that replies are read in between."""
LATE = 10_000_000
"""How many ns after the executor's end an arrival that was due before it may still begin."""
_SECOND = 1_000_000_000


class Arrivals:
    """The arrivals of one scenario and the VUs that serve them, those of this process's share."""

    def __init__(self, session: Session, name: str, executor: OpenModel) -> None:
        self.session = session
        self.name = name
        self.executor = executor
        self.part = session.part(name, executor.executor, executor.most_vus)
        share = session.share.at_most(executor.preAllocatedVUs)
        self.spare = deque(share.within(executor.most_vus) if share else ())
        self.free = deque(self._new() for _ in (share or Share()).within(executor.preAllocatedVUs if share else 0))
        self.lanes = list(self.free)
        self.began = self.ends = 0
        self.times = schedule.arrivals(executor, share.index, share.of) if share else iter(())
        self.pause = schedule.pauses(executor, f"{session.job.seed}/{name}/{session.share.index}")
        self.in_flight = 0
        self.due: int | None = None
        self.idle = asyncio.Event()

    def _new(self) -> Lane:
        return self.session.lane(self.part, self.spare.popleft())

    async def prepare(self) -> None:
        """Connect the VUs that are allocated before, unless a stop comes first; one that cannot connect now says so
        with its first request."""

        async def connect(lane: Lane) -> None:
            with suppress(ConnectFailed):
                await lane.connection.connect()

        connecting = asyncio.gather(*map(connect, self.lanes))
        stop = asyncio.ensure_future(self.session.stopping.wait())
        await asyncio.wait((connecting, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not connecting.done():
            for lane in self.lanes:
                lane.connection.abort()
        await connecting

    async def run(self) -> None:
        """Carry the executor out to its end, its graceful stop or the user's."""
        self.began = self.session.start + round(self.executor.startTime * _SECOND)
        self.session.active += len(self.lanes)
        end = self.began + round(self.executor.length * _SECOND)
        self.ends = end + LATE
        cancel_abort = self.session.timer.at(end + round(self.executor.gracefulStop * _SECOND), self.abort)
        self.advance()
        self.tick()
        await first_of(self.idle, self.session.stopping)
        self.due = None
        self.check_idle()
        await self.idle.wait()
        cancel_abort()
        self.session.active -= len(self.lanes)

    def advance(self) -> None:
        at = next(self.times, None)
        self.due = None if at is None else self.began + round(at * _SECOND)

    def tick(self) -> None:
        """Begin what is due, and come back when the next one is."""
        now = perf_counter_ns()
        if now > self.ends or self.session.stopping.is_set():
            self.forgo()
        for _ in range(AT_ONCE):
            if self.due is None or self.due > now:
                break
            due = self.due
            self.advance()
            self.begin(due)
        if self.due is not None:
            self.session.timer.at(self.due, self.tick)
        else:
            self.check_idle()

    def forgo(self) -> None:
        """Begin no more; arrivals for which it is too late are dropped."""
        while self.due is not None and not self.session.stopping.is_set():
            self.session.dropped[self.name] += 1
            self.advance()
        self.due = None

    def begin(self, due: int) -> None:
        if not self.free and self.spare:
            self.lanes.append(self._new())
            self.free.append(self.lanes[-1])
            self.session.active += 1
        if not self.free:
            self.session.dropped[self.name] += 1
            return
        ticket = self.session.take(self.name)
        if ticket is None:
            self.due = None
            return
        lane = self.free.popleft()
        self.in_flight += 1
        lane.connection.send(self.session.request(ticket, lane), partial(self.done, lane, ticket, due))

    def done(self, lane: Lane, ticket: int, due: int, reply: Reply) -> None:
        self.session.record(lane, ticket, due, reply)
        lane.iteration += 1
        self.in_flight -= 1
        pause = self.pause()
        if pause:
            self.session.timer.at(perf_counter_ns() + round(pause * _SECOND), partial(self.free.append, lane))
        else:
            self.free.append(lane)
        self.check_idle()

    def check_idle(self) -> None:
        if self.due is None and not self.in_flight:
            self.idle.set()

    def abort(self) -> None:
        self.ends = 0
        for lane in self.lanes:
            if lane.connection.busy:
                lane.connection.abort("the graceful stop is over")
