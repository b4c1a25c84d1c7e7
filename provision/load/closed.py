"""The closed model: each VU sends its next request when its last one is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter_ns

from provision.load import schedule
from provision.load.executors import ClosedModel, PerVuIterations, SharedIterations
from provision.load.http import Fault, Reply
from provision.load.schedule import Span
from provision.load.session import Lane, Session, first_of
from provision.load.share import Share

BACK_OFF = 0.1
"""Seconds before a VU whose request could not be sent tries again."""
NOT_OUT = frozenset({Fault.NOT_SENT, Fault.STARVED})
_SECOND = 1_000_000_000


class Crew:
    """The VUs of one scenario, those of this process's share."""

    def __init__(self, session: Session, name: str, executor: ClosedModel) -> None:
        self.session = session
        self.name = name
        self.executor = executor
        self.began = 0
        self.idle = asyncio.Event()
        size = schedule.most_vus(executor)
        part = session.part(name, executor.executor, size)
        share = session.share.at_most(size)
        numbers = share.within(size) if share else range(0)
        self.left = self._iterations(share, len(numbers))
        self.vus = [_Vu(self, session.lane(part, number)) for number in numbers]
        self.working = len(self.vus)

    def _iterations(self, share: Share | None, vus: int) -> int | None:
        """How many iterations this share is to do; None where time alone decides."""
        if isinstance(self.executor, PerVuIterations):
            return vus * self.executor.iterations
        if isinstance(self.executor, SharedIterations):
            return len(share.within(self.executor.iterations)) if share else 0
        return None

    async def prepare(self) -> None:
        """Closed VUs connect with their first request, as k6's do."""

    async def run(self) -> None:
        """Carry the executor out to its end, its graceful stop or the user's."""
        self.began = self.session.start + round(self.executor.startTime * _SECOND)
        for vu in self.vus:
            vu.next()
        if self.vus:
            await first_of(self.idle, self.session.stopping)
        for vu in self.vus:
            vu.dismiss()
        if self.vus:
            await self.idle.wait()
        if self.left and not self.session.stopping.is_set() and self.name not in self.session.exhausted:
            self.session.dropped[self.name] += self.left

    def ended(self) -> None:
        self.working -= 1
        if not self.working:
            self.idle.set()


class _Vu:
    """One virtual user; call-backs all the way, since a future for each request would cost more than it."""

    __slots__ = (
        "active",
        "cancel_wait",
        "crew",
        "deadline",
        "due",
        "lane",
        "left",
        "pause",
        "render",
        "rush_until",
        "spans",
        "ticket",
        "watch",
    )

    def __init__(self, crew: Crew, lane: Lane) -> None:
        self.crew = crew
        self.lane = lane
        self.spans = schedule.spans(crew.executor, lane.vu)
        self.left = crew.executor.iterations if isinstance(crew.executor, PerVuIterations) else None
        self.pause = schedule.pauses(crew.executor, f"{crew.session.job.seed}/{crew.name}/{lane.vu}")
        self.render = crew.session.splicer(lane)
        self.active = False
        self.due = self.ticket = 0
        self.rush_until = 0  # ns until which nothing but a reply is waited for: the short way through `next`
        self.deadline = 0.0
        self.watch: Callable[[], None] | None = None
        self.cancel_wait: Callable[[], None] | None = None

    def next(self, not_before: float = 0.0) -> None:
        """Begin the next iteration when it is due, or end."""
        crew = self.crew
        if crew.session.stopping.is_set() or self.left == 0 or crew.left == 0:
            self.end()
            return
        moment = perf_counter_ns()
        if moment < self.rush_until and not not_before:
            self.due = moment
            self.fire()
            return
        now = (moment - crew.began) / _SECOND
        pause = self.pause() if self.lane.iteration else 0.0
        found = schedule.next_start(self.spans, now + max(pause, not_before))
        if found is None:
            self.end()
            return
        start, span = found
        if start <= now and not self.lane.iteration:
            start = span.start  # all begin together, whatever each of them had to wait for its turn
        self.due = crew.began + round(start * _SECOND)
        self.be_active(span.start <= now)
        if crew.executor.pause[1] == 0:
            self.rush_until = crew.began + round(span.stop * _SECOND)
        if span.give_up != self.deadline:
            self.give_up_at(span)
        if start <= now:
            self.fire()
        else:
            self.cancel_wait = crew.session.timer.at(self.due, self.fire)

    def fire(self) -> None:
        self.cancel_wait = None
        crew = self.crew
        if crew.left == 0 or (ticket := crew.session.take(crew.name)) is None:
            self.end()
            return
        if crew.left is not None:
            crew.left -= 1
        if self.left is not None:
            self.left -= 1
        if not self.active:
            self.be_active(True)
        self.ticket = ticket
        self.lane.connection.send(self.render(ticket, self.lane.iteration), self.done)

    def done(self, reply: Reply) -> None:
        self.crew.session.record(self.lane, self.ticket, self.due, reply)
        self.lane.iteration += 1
        self.next(BACK_OFF if reply.fault in NOT_OUT else 0.0)

    def give_up_at(self, span: Span) -> None:
        """Watch over the span's iterations: what is still in flight when it is given up is aborted."""
        if self.watch is not None:
            self.watch()
        self.deadline = span.give_up
        self.watch = self.crew.session.timer.at(self.crew.began + round(span.give_up * _SECOND), self.abort)

    def abort(self) -> None:
        if self.lane.connection.busy:
            self.lane.connection.abort("the graceful stop is over")

    def dismiss(self) -> None:
        """End now, if between two iterations."""
        if self.cancel_wait is not None:
            self.cancel_wait()
            self.cancel_wait = None
            self.end()

    def be_active(self, active: bool) -> None:
        if active is not self.active:
            self.active = active
            self.crew.session.active += 1 if active else -1

    def end(self) -> None:
        self.be_active(False)
        if self.watch is not None:
            self.watch()
            self.watch = None
        self.crew.ended()
