"""The engine: carries out a scenario over the wire and writes down one record per request."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import IO, TYPE_CHECKING

import uvloop

from provision.load import spec
from provision.load.executors import ClosedModel, last_end, next_start
from provision.load.outcomes import NUMBER, Classifier, Outcome
from provision.load.pulse import Pulse
from provision.load.release import Volley, volley
from provision.load.results import CANARY, NO_ROUND, NO_TICKET, Part, Record, Results, Round, Sample, pack
from provision.load.spec import Race
from provision.load.wire import Connection, Origin, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.load.request import Template

SAMPLE_BYTES = 300
ABSENT_TICKET = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class Job:
    """All that a run needs; `tickets` are used in order, `values` fill the tokens that are the same for all."""

    scenario: spec.Scenario
    origin: Origin
    template: Template
    classify: Classifier
    tickets: Sequence[Mapping[str, str]]
    values: Mapping[str, str]
    seed: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: what is running, seconds gone and in all, requests, outcomes so far, race rounds done."""

    running: tuple[str, ...]
    elapsed: float
    total: float
    requests: int
    outcomes: Mapping[str, int]
    rounds: int


Watch = Callable[[Progress], None]
CanaryCheck = Callable[[list[tuple[Outcome, Reply]]], None]


def run(job: Job, journal: IO[bytes], *, watch: Watch, check_canary: CanaryCheck) -> Results:
    """Carry out the job; `journal` receives the records as they come, `check_canary` may raise to stop before the load.

    The first SIGINT or SIGTERM ends it in order (in-flight requests are awaited), the second at once.
    """
    return uvloop.run(_Run(job, journal, watch).go(check_canary))


@dataclass(slots=True)
class _Pool:
    """The tickets, each handed out once."""

    size: int
    taken: int = 0

    def take(self) -> int | None:
        if self.taken == self.size:
            return None
        self.taken += 1
        return self.taken - 1


@dataclass(slots=True)
class _Lane:
    """One VU's place: its part of the run, its number and its connection."""

    part: int
    vu: int
    connection: Connection
    iteration: int = 0


class _Run:
    def __init__(self, job: Job, journal: IO[bytes], watch: Watch) -> None:
        self.job = job
        self.journal = journal
        self.watch = watch
        self.pool = _Pool(len(job.tickets))
        self.parts: list[Part] = []
        self.rounds: list[Round] = []
        self.connections: list[Connection] = []
        self.outcomes: Counter[str] = Counter()
        self.samples: dict[tuple[str, int], Sample] = {}
        self.exhausted: dict[str, None] = {}
        self.running: dict[str, None] = {}
        self.stopping = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self.kept = bytearray()
        self.began = 0

    # -- the whole run

    async def go(self, check_canary: CanaryCheck) -> Results:
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.began = time.perf_counter_ns()
        with self._signals():
            check_canary(await self._canary())
            async with Pulse() as pulse:
                ticker = asyncio.create_task(self._tick())
                origin = time.perf_counter_ns()
                self.tasks = [
                    asyncio.create_task(self._scenario(name, part, origin))
                    for name, part in self.job.scenario.scenarios.items()
                ]
                try:
                    await asyncio.gather(*self.tasks, return_exceptions=False)
                except asyncio.CancelledError:
                    if not self.stopping.is_set():
                        raise
                finally:
                    ticker.cancel()
                    self._close()
        return self._results(started, pulse)

    def _results(self, started: str, pulse: Pulse) -> Results:
        self.journal.flush()
        return Results(
            started=started,
            elapsed=(time.perf_counter_ns() - self.began) / 1e9,
            parts=tuple(self.parts),
            tickets=tuple(ticket["id"] for ticket in self.job.tickets[: self.pool.taken]),
            rounds=tuple(self.rounds),
            generator=pulse.summary(),
            samples=tuple(self.samples.values()),
            connections=sum(connection.connects for connection in self.connections),
            bytes_sent=sum(connection.bytes_sent for connection in self.connections),
            exhausted=tuple(self.exhausted),
            interrupted=self.stopping.is_set(),
            journal=bytes(self.kept),
        )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _interrupt(self) -> None:
        """The first time: begin nothing new. The second: give up what is in flight."""
        if self.stopping.is_set():
            for connection in self.connections:
                connection.abort("interrupted")
            for task in self.tasks:
                task.cancel()
        self.stopping.set()

    def _close(self) -> None:
        for connection in self.connections:
            connection.close()

    async def _tick(self) -> None:
        total = max((p.startTime + _planned(p) for p in self.job.scenario.scenarios.values()), default=0.0)
        while True:
            await asyncio.sleep(0.25)
            elapsed = (time.perf_counter_ns() - self.began) / 1e9
            self.watch(
                Progress(tuple(self.running), elapsed, total, self.outcomes.total(), self.outcomes, len(self.rounds))
            )

    async def _scenario(self, name: str, part: spec.ConstantVus | spec.PerVuIterations | Race, origin: int) -> None:
        delay = part.startTime - (time.perf_counter_ns() - origin) / 1e9
        if delay > 0 and await self._stopped_within(delay):
            return
        self.running[name] = None
        try:
            await (self._race(name, part) if isinstance(part, Race) else self._closed(name, part))
        finally:
            self.running.pop(name, None)

    async def _stopped_within(self, seconds: float) -> bool:
        """Wait; True as soon as the run is asked to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopping.wait(), seconds)
        return self.stopping.is_set()

    # -- one request

    def _part(self, name: str, executor: str, vus: int, *, measured: bool = True) -> int:
        self.parts.append(Part(name, executor, vus, measured))
        return len(self.parts) - 1

    def _connection(self) -> Connection:
        connection = Connection(self.job.origin, timeout=self.job.scenario.request.timeout)
        self.connections.append(connection)
        return connection

    def _request(self, ticket: Mapping[str, str], vu: int, iteration: int) -> bytes:
        fields = {f"ticket.{name}": value for name, value in ticket.items()}
        return self.job.template.render({**self.job.values, **fields, "vu": vu + 1, "iter": iteration + 1})

    def _record(self, lane: _Lane, ticket: int, due: int, reply: Reply, round_: int = NO_ROUND) -> Outcome:
        outcome = self.job.classify(reply)
        since = self.began
        record = Record(
            lane.part,
            NUMBER[outcome],
            reply.status,
            lane.vu,
            lane.iteration,
            round_,
            ticket,
            due - since,
            reply.sent - since if reply.sent else 0,
            reply.first - since if reply.first else 0,
            reply.last - since,
            len(reply.body),
        )
        packed = pack(record)
        self.kept += packed
        self.journal.write(packed)
        self.outcomes[outcome] += 1
        if outcome is not Outcome.ADMITTED:
            self._sample(outcome, reply)
        return outcome

    def _sample(self, outcome: Outcome, reply: Reply) -> None:
        """Keep the first reply of each kind, and count the others."""
        kind = (str(outcome), reply.status)
        seen = self.samples.get(kind)
        body = seen.body if seen else (reply.detail or reply.body[:SAMPLE_BYTES].decode(errors="replace"))
        self.samples[kind] = Sample(str(outcome), reply.status, body, (seen.count if seen else 0) + 1)

    async def _ask(self, lane: _Lane, ticket: int) -> tuple[Outcome, Reply]:
        """One request on its own."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        fields = _absent(self.job.tickets[0]) if ticket == NO_TICKET else self.job.tickets[ticket]
        due = time.perf_counter_ns()
        lane.connection.send(self._request(fields, lane.vu, lane.iteration), answer.set_result)
        reply = await answer
        outcome = self._record(lane, ticket, due, reply)
        lane.iteration += 1
        return outcome, reply

    async def _canary(self) -> list[tuple[Outcome, Reply]]:
        """One scan, the same again, and one of a ticket that does not exist."""
        lane = _Lane(self._part(CANARY, CANARY, 1, measured=False), 0, self._connection())
        ticket = self.pool.take()
        if ticket is None:
            return []
        return [await self._ask(lane, which) for which in (ticket, ticket, NO_TICKET)]

    # -- closed model

    async def _closed(self, name: str, part: ClosedModel) -> None:
        number = self._part(name, part.executor, part.vus)
        lanes = [_Lane(number, vu, self._connection()) for vu in range(part.vus)]
        await _ClosedModel(self, name, part, lanes).finished()

    # -- race

    async def _race(self, name: str, part: Race) -> None:
        control = self._part(f"{name}:control", "control", part.vus, measured=False)
        race = self._part(name, part.executor, part.vus)
        lanes = [_Lane(race, vu, self._connection()) for vu in range(part.vus)]
        shuffle = random.Random(f"{self.job.seed}/{name}").shuffle  # noqa: S311 - an order, not a secret
        await self._controls(control, lanes)
        deadline = time.perf_counter_ns() + int(part.maxDuration * 1e9)
        for number in range(part.rounds):
            if self.stopping.is_set() or time.perf_counter_ns() > deadline:
                break
            if (ticket := self.pool.take()) is None:
                self.exhausted[name] = None
                break
            shuffle(lanes)
            await self._round(name, part, lanes, number, ticket)
            if part.pause and await self._stopped_within(part.pause):
                break

    async def _round(self, name: str, part: Race, lanes: list[_Lane], number: int, ticket: int) -> None:
        due = time.perf_counter_ns()
        shot = await self._volley(part.sync, lanes, [ticket] * len(lanes))
        self.rounds.append(Round(name, number, ticket, shot.mode, shot.spread_ns, shot.overlap, len(lanes)))
        for lane, reply in zip(lanes, shot.replies, strict=True):
            lane.iteration = number
            self._record(lane, ticket, due, reply, number)

    async def _volley(self, sync: str, lanes: list[_Lane], tickets: list[int]) -> Volley:
        requests = [
            self._request(self.job.tickets[ticket], lane.vu, lane.iteration)
            for lane, ticket in zip(lanes, tickets, strict=True)
        ]
        mode = "last-byte" if sync == "auto" else sync
        connections = [lane.connection for lane in lanes]
        return await volley(connections, requests, mode=mode, timeout=self.job.scenario.request.timeout)

    async def _controls(self, part: int, lanes: list[_Lane]) -> None:
        """Scans of different tickets, alone and together, that show whether the server runs them side by side."""
        single = _Lane(part, 0, lanes[0].connection)
        for _ in range(spec.CONTROL_SOLO):
            if self.stopping.is_set() or (ticket := self.pool.take()) is None:
                return
            await self._ask(single, ticket)
        for number in range(spec.CONTROL_ROUNDS):
            tickets = [ticket for _ in lanes if (ticket := self.pool.take()) is not None]
            if self.stopping.is_set() or len(tickets) < len(lanes):
                return
            due = time.perf_counter_ns()
            shot = await self._volley("auto", lanes, tickets)
            for lane, ticket, reply in zip(lanes, tickets, shot.replies, strict=True):
                self._record(_Lane(part, lane.vu, lane.connection), ticket, due, reply, number)


@dataclass(slots=True)
class _ClosedModel:
    """The VUs of one scenario, each sending its next request when its last one is answered."""

    run: _Run
    name: str
    part: ClosedModel
    lanes: list[_Lane]
    active: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    began: int = 0

    async def finished(self) -> None:
        """Start all VUs and wait for their end, for the graceful stop, or for the user's."""
        loop = asyncio.get_running_loop()
        self.began = time.perf_counter_ns()
        self.active = len(self.lanes)
        for lane in self.lanes:
            self.next(lane)
        give_up = loop.call_later(last_end(self.part), self.abort)
        try:
            await self.idle.wait()
        finally:
            give_up.cancel()

    def abort(self) -> None:
        for lane in self.lanes:
            lane.connection.abort("graceful stop is over")

    def next(self, lane: _Lane) -> None:
        """Let the VU begin its next iteration when it is due, or end."""
        now = (time.perf_counter_ns() - self.began) / 1e9
        start = None if self.run.stopping.is_set() else next_start(self.part, lane.iteration, now)
        if start is None:
            self.end()
        elif start <= now:
            self.fire(lane, time.perf_counter_ns())
        else:
            due = self.began + int(start * 1e9)
            asyncio.get_running_loop().call_later(start - now, self.fire, lane, due)

    def fire(self, lane: _Lane, due: int) -> None:
        if self.run.stopping.is_set():
            self.end()
            return
        if (ticket := self.run.pool.take()) is None:
            self.run.exhausted[self.name] = None
            self.end()
            return
        request = self.run._request(self.run.job.tickets[ticket], lane.vu, lane.iteration)
        lane.connection.send(request, partial(self.done, lane, ticket, due))

    def done(self, lane: _Lane, ticket: int, due: int, reply: Reply) -> None:
        self.run._record(lane, ticket, due, reply)
        lane.iteration += 1
        self.next(lane)

    def end(self) -> None:
        self.active -= 1
        if not self.active:
            self.idle.set()


def _planned(part: spec.ConstantVus | spec.PerVuIterations | Race) -> float:
    """Seconds that a part is expected to take; what has no set length counts little."""
    return part.duration if isinstance(part, spec.ConstantVus) else 5.0


def _absent(ticket: Mapping[str, str]) -> dict[str, str]:
    """A ticket like this one that does not exist."""
    kept = {name: ticket[name] for name in ("event_id", "type") if name in ticket}
    return {**{name: f"absent-{name}" for name in ticket}, **kept, "id": ABSENT_TICKET}
