"""The closed model: each VU sends its next request when its last one is answered."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial

from provision.load.executors import ClosedModel, last_end, next_start
from provision.load.http import Fault, Reply
from provision.load.session import Lane, Session

BACK_OFF = 0.1
"""Seconds before a VU whose request could not be sent tries again."""


async def run(session: Session, name: str, executor: ClosedModel) -> None:
    """Carry out a closed executor to its end, its graceful stop or the user's."""
    part = session.part(name, executor.executor, executor.vus)
    lanes = [session.lane(part, vu) for vu in range(executor.vus)]
    await _Vus(session, name, executor, lanes).finished()


@dataclass(slots=True)
class _Vus:
    """The VUs of one scenario; call-backs all the way, since a future for each request would cost more than it."""

    session: Session
    name: str
    executor: ClosedModel
    lanes: list[Lane]
    active: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    began: int = field(default_factory=time.perf_counter_ns)

    async def finished(self) -> None:
        self.active = len(self.lanes)
        for lane in self.lanes:
            self.next(lane)
        give_up = asyncio.get_running_loop().call_later(last_end(self.executor), self.abort)
        try:
            await self.idle.wait()
        finally:
            give_up.cancel()

    def abort(self) -> None:
        for lane in self.lanes:
            lane.connection.abort("the graceful stop is over")

    def next(self, lane: Lane, not_before: float = 0.0) -> None:
        """Let the VU begin its next iteration when it is due, or end."""
        now = (time.perf_counter_ns() - self.began) / 1e9
        start = None if self.session.stopping.is_set() else next_start(self.executor, lane.iteration, now)
        if start is None:
            self.end()
            return
        start = max(start, now + not_before)
        due = self.began + int(start * 1e9)
        if start <= now:
            self.fire(lane, due)
        else:
            asyncio.get_running_loop().call_later(start - now, self.fire, lane, due)

    def fire(self, lane: Lane, due: int) -> None:
        if self.session.stopping.is_set() or (ticket := self.session.take(self.name)) is None:
            self.end()
            return
        lane.connection.send(self.session.request(ticket, lane), partial(self.done, lane, ticket, due))

    def done(self, lane: Lane, ticket: int, due: int, reply: Reply) -> None:
        self.session.record(lane, ticket, due, reply)
        lane.iteration += 1
        self.next(lane, BACK_OFF if reply.fault is Fault.NOT_SENT else 0.0)

    def end(self) -> None:
        self.active -= 1
        if not self.active:
            self.idle.set()
