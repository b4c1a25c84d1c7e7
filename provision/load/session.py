"""A session: what the executors of one run share while it is under way. Tickets, connections, the journal, the stop."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from provision.load.http import Origin, Reply
from provision.load.outcomes import NUMBER, Classifier, Outcome
from provision.load.results import NO_ROUND, NO_TICKET, Part, Raced, Record, Round, Sample, pack
from provision.load.wire import Connection

if TYPE_CHECKING:
    from provision.load.channel import Channel, Link
    from provision.load.overtaking import SlowRead
    from provision.load.request import Template
    from provision.load.spec import Scenario

SAMPLE_BYTES = 300
ABSENT_TICKET = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class Job:
    """All that a run needs; `tickets` are used in order, `values` fill the tokens that are the same for all.

    Races go to `race_origin`, where it differs, and use `slow_read` to find out what the server does at once.
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
    """The state of one run; every request goes out through `request` and comes back through `record`."""

    def __init__(self, job: Job, journal: IO[bytes]) -> None:
        self.job = job
        self.journal = journal
        self.kept = bytearray()
        self.parts: list[Part] = []
        self.rounds: list[Round] = []
        self.races: list[Raced] = []
        self.connections: list[Link] = []
        self.outcomes: Counter[str] = Counter()
        self.samples: dict[tuple[str, int], Sample] = {}
        self.exhausted: dict[str, None] = {}
        self.stopping = asyncio.Event()
        self.refused: OSError | None = None
        self.taken = 0
        self.began = time.perf_counter_ns()

    def part(self, name: str, executor: str, vus: int, *, measured: bool = True) -> int:
        """Open a part of the run; its number."""
        self.parts.append(Part(name, executor, vus, measured))
        return len(self.parts) - 1

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
        if self.taken == len(self.job.tickets):
            self.exhausted[name] = None
            return None
        self.taken += 1
        return self.taken - 1

    def request(self, ticket: int, lane: Place) -> bytes:
        """The bytes that ask about a ticket."""
        known = _absent(self.job.tickets[0]) if ticket == NO_TICKET else self.job.tickets[ticket]
        fields = {f"ticket.{name}": value for name, value in known.items()}
        return self.job.template.render({**self.job.values, **fields, "vu": lane.vu + 1, "iter": lane.iteration + 1})

    def record(self, lane: Place, ticket: int, due: int, reply: Reply, round_: int = NO_ROUND) -> Outcome:
        """Name a reply and write it down."""
        outcome = self.job.classify(reply)
        since = self.began
        record = Record(
            lane.part, NUMBER[outcome], reply.status, lane.vu, lane.iteration, round_, ticket, due - since,
            reply.sent - since if reply.sent else 0, reply.first - since if reply.first else 0, reply.last - since,
            len(reply.body),
        )  # fmt: skip
        self._write(pack(record))
        self.outcomes[outcome] += 1
        if outcome is not Outcome.ADMITTED:
            self._sample(outcome, reply)
        return outcome

    def _write(self, packed: bytes) -> None:
        """Keep a record; a disk that refuses it ends the run in order, since no call-back may raise."""
        self.kept += packed
        try:
            self.journal.write(packed)
        except OSError as error:
            self.refused = error
            self.stopping.set()

    def _sample(self, outcome: Outcome, reply: Reply) -> None:
        """Keep the first reply of each kind, and count the others."""
        kind = (str(outcome), reply.status)
        seen = self.samples.get(kind)
        body = seen.body if seen else (reply.detail or reply.body[:SAMPLE_BYTES].decode(errors="replace"))
        self.samples[kind] = Sample(str(outcome), reply.status, body, (seen.count if seen else 0) + 1)

    async def ask(self, lane: Lane, ticket: int) -> tuple[Outcome, Reply]:
        """One request on its own."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        due = time.perf_counter_ns()
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

    def stop(self) -> None:
        """The first time: begin nothing new. The second: give up what is in flight."""
        if self.stopping.is_set():
            for connection in self.connections:
                connection.abort("interrupted")
        self.stopping.set()

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


def _absent(ticket: Mapping[str, str]) -> dict[str, str]:
    """A ticket like this one that does not exist."""
    kept = {name: ticket[name] for name in ("event_id", "type") if name in ticket}
    return {**{name: f"absent-{name}" for name in ticket}, **kept, "id": ABSENT_TICKET}
