"""A session: what the executors of a run share while it is under way: tickets, connections, records, the stop."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING

from provision.fixtures import ids
from provision.load import offline
from provision.load.http import Origin, Reply
from provision.load.outcomes import NUMBER, Classifier, Outcome
from provision.load.pool import Pool
from provision.load.request import escaped
from provision.load.results import NO_ROUND, NO_TICKET, Part, Raced, Round, pack_fields
from provision.load.share import Share
from provision.load.timer import Timer
from provision.load.wire import Connection

if TYPE_CHECKING:
    from provision.load.channel import Channel, Link
    from provision.load.overtaking import SlowRead
    from provision.load.request import Template
    from provision.load.spec import Scenario

SAMPLE_BYTES = 300
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
ABSENT_TICKET = "00000000-0000-4000-8000-000000000000"
ABSENT_NUMBER = "-32768"
"""Fits every type of integer; no identity gives it, and nobody gives it to a row that means something, as 0 or -1."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class Job:
    """All that a run needs; `tickets` are used in order, `values` fill the tokens that are the same for all.

    Races go to `race_origin`, where it differs, and use `slow_read` to find out what the server does at once. Offline
    scans are dated before `started`.
    """

    scenario: Scenario
    origin: Origin
    template: Template
    classify: Classifier
    tickets: Sequence[Mapping[str, str]]
    values: Mapping[str, str]
    seed: str
    race_origin: Origin | None = None
    slow_read: SlowRead | None = None
    started: str = field(default_factory=_now)


@dataclass(slots=True)
class Place:
    """One VU: its part of the run, its number and how far it is."""

    part: int
    vu: int
    iteration: int = field(default=0, kw_only=True)


@dataclass(slots=True)
class Lane(Place):
    """A VU with a connection of its own."""

    connection: Connection


class Session:
    """The state of one run in one process; every request goes out through `request` and comes back to `record`."""

    def __init__(self, job: Job, pool: Pool, share: Share = Share(), began: int | None = None) -> None:
        self.job = job
        self.pool = pool
        self.share = share
        self.timer = Timer()
        self.fresh = bytearray()
        self.parts: list[Part] = []
        self.rounds: list[Round] = []
        self.races: list[Raced] = []
        self.connections: list[Link] = []
        self.samples: dict[tuple[Outcome, int], str] = {}
        self.exhausted: dict[str, None] = {}
        self.dropped: Counter[str] = Counter()
        self.stopping = asyncio.Event()
        self.giving_up = asyncio.Event()
        self.interrupted = False
        self.active = 0
        self.began = self.start = perf_counter_ns() if began is None else began
        self._classify = job.classify
        self._splicers: dict[int, Callable[[int, int], bytes]] = {}
        self._columns = self._spliced()

    def _spliced(self) -> dict[str, list[bytes]]:
        """The values of the tickets' tokens as they stand in requests, by token and ticket."""
        wanted = {token: token.removeprefix("ticket.") for token in self.job.template.tokens if token[:7] == "ticket."}
        return {token: [escaped(ticket[name]) for ticket in self.job.tickets] for token, name in wanted.items()}

    def part(self, name: str, executor: str, vus: int, *, measured: bool = True) -> int:
        """Open a part of the run, or find it; its number."""
        part = Part(name, executor, vus, measured)
        if part not in self.parts:
            self.parts.append(part)
        return self.parts.index(part)

    def lane(self, part: int, vu: int) -> Lane:
        """A VU with a connection of its own."""
        connection = Connection(self.job.origin, timeout=self.job.scenario.request.timeout)
        self.connections.append(connection)
        return Lane(part, vu, connection)

    def joined(self, channel: Channel) -> Channel:
        """The same channel, its connections to be closed with the session."""
        self.connections += channel.links
        return channel

    def take(self, name: str) -> int | None:
        """The number of the next unused ticket; None, and noted for the part `name`, when there is none left."""
        ticket = self.pool.take(name)
        if ticket is None:
            self.exhausted[name] = None
        return ticket

    def request(self, ticket: int, lane: Place) -> bytes:
        """The bytes that ask about a ticket."""
        if ticket == NO_TICKET:
            fields = {f"ticket.{name}": value for name, value in _absent(self.job.tickets[0]).items()}
            own = {"vu": lane.vu + 1, "iter": lane.iteration + 1}
            dated = {"scanned_at": self._scanned_at(lane.vu, lane.iteration).decode()}
            return self.job.template.render({**self.job.values, **fields, **own, **dated})
        return self.splicer(lane)(ticket, lane.iteration)

    def splicer(self, lane: Place) -> Callable[[int, int], bytes]:
        """What makes a VU's requests, from ticket and iteration."""
        if lane.vu not in self._splicers:
            form = self.job.template.form({**self.job.values, "vu": lane.vu + 1})
            self._splicers[lane.vu] = form.splicer(self._columns, partial(self._scanned_at, lane.vu))
        return self._splicers[lane.vu]

    def _scanned_at(self, vu: int, iteration: int) -> bytes:
        return offline.scanned_at(self.job.started, vu, iteration).isoformat().encode()

    def record(self, lane: Place, ticket: int, due: int, reply: Reply, round_: int = NO_ROUND) -> Outcome:
        """Name a reply and write it down."""
        outcome = self._classify(reply)
        status, body, sent, first, last, _, detail, connecting, handshaking, received = reply
        since = self.began
        self.fresh += pack_fields(
            lane.part, NUMBER[outcome], status, lane.vu, lane.iteration, round_,
            ticket if ticket != NO_TICKET else -1, due - since, sent - since if sent else 0,
            first - since if first else 0, last - since, received, connecting, handshaking,
        )  # fmt: skip
        if outcome is not Outcome.ADMITTED and (outcome, status) not in self.samples:  # the first of each kind
            self.samples[outcome, status] = detail or body[:SAMPLE_BYTES].decode(errors="replace")
        return outcome

    async def ask(self, lane: Lane, ticket: int) -> tuple[Outcome, Reply]:
        """One request on its own."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        due = perf_counter_ns()
        lane.connection.send(self.request(ticket, lane), answer.set_result)
        reply = await answer
        outcome = self.record(lane, ticket, due, reply)
        lane.iteration += 1
        return outcome, reply

    async def stopped_within(self, seconds: float) -> bool:
        """Wait; True as soon as the run is asked to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
        return self.stopping.is_set()

    async def stopped_before(self, moment: int) -> bool:
        """Wait for a moment (ns); True as soon as the run is asked to stop."""
        reached = asyncio.Event()
        cancel = self.timer.at(moment, reached.set)
        await first_of(reached, self.stopping)
        cancel()
        return self.stopping.is_set()

    def interrupt(self) -> None:
        """The user's stop. The first time: begin nothing new. The second: give up what is in flight."""
        if self.interrupted:
            self.give_up()
        self.interrupted = True
        self.stopping.set()

    def give_up(self) -> None:
        """Abort whatever is in flight."""
        self.giving_up.set()
        for connection in self.connections:
            connection.abort("interrupted")

    def close(self) -> None:
        """Close everything, also when the end of a request in flight makes a call-back raise."""
        with ExitStack() as open_ones:
            open_ones.callback(self.timer.close)
            for connection in self.connections:
                open_ones.callback(connection.close)


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


def _absent(ticket: Mapping[str, str]) -> dict[str, str]:
    """A ticket like this one that does not exist."""
    kept = {name: ticket[name] for name in ("event_id", "type") if name in ticket}
    absent = {**{name: f"absent-{name}" for name in ticket}, **kept}
    if ids.NUMBER.fullmatch(ticket["id"]):
        return {**absent, "id": ABSENT_NUMBER}
    return {**absent, "id": ABSENT_TICKET} if _UUID.fullmatch(ticket["id"]) else absent
