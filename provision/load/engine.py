"""The engine: carries out a scenario over the wire and writes down one record per request."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO

import uvloop

from provision.load import closed, race
from provision.load.http import Reply
from provision.load.outcomes import Outcome
from provision.load.pulse import Pulse
from provision.load.results import CANARY, NO_TICKET, Results
from provision.load.session import Job, Session
from provision.load.spec import ConstantVus, PerVuIterations, Race

TICK = 0.25


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

    The first SIGINT or SIGTERM ends it in order (in-flight requests are awaited), the second at once. OSError when the
    journal cannot be written.
    """
    return uvloop.run(_run(job, journal, watch, check_canary))


async def _run(job: Job, journal: IO[bytes], watch: Watch, check_canary: CanaryCheck) -> Results:
    started = datetime.now(UTC).isoformat(timespec="milliseconds")
    session = Session(job, journal)
    with _signals(session):
        try:
            check_canary(await _canary(session))
            async with Pulse() as pulse:
                await _load(session, watch)
        finally:
            session.close()
    if session.refused:
        raise session.refused
    journal.flush()
    return Results(
        started=started,
        elapsed=(time.perf_counter_ns() - session.began) / 1e9,
        parts=tuple(session.parts),
        tickets=tuple(ticket["id"] for ticket in job.tickets[: session.taken]),
        rounds=tuple(session.rounds),
        races=tuple(session.races),
        winners=job.scenario.winners,
        promise=job.scenario.promise,
        generator=pulse.summary(),
        samples=tuple(session.samples.values()),
        connections=sum(connection.connects for connection in session.connections),
        bytes_sent=sum(connection.bytes_sent for connection in session.connections),
        exhausted=tuple(session.exhausted),
        interrupted=session.stopping.is_set(),
        journal=bytes(session.kept),
    )


@contextmanager
def _signals(session: Session) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, session.stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


async def _canary(session: Session) -> list[tuple[Outcome, Reply]]:
    """One scan, the same again, and one of a ticket that does not exist."""
    lane = session.lane(session.part(CANARY, CANARY, 1, measured=False), 0)
    ticket = session.take(CANARY)
    return [] if ticket is None else [await session.ask(lane, which) for which in (ticket, ticket, NO_TICKET)]


async def _load(session: Session, watch: Watch) -> None:
    """Run all scenarios of the file, each from its start time on."""
    scenarios = session.job.scenario.scenarios
    running: dict[str, None] = {}
    total = max((executor.startTime + _planned(executor) for executor in scenarios.values()), default=0.0)
    ticker = asyncio.create_task(_tick(session, watch, running, total))
    try:
        async with asyncio.TaskGroup() as group:
            for name, executor in scenarios.items():
                group.create_task(_scenario(session, name, executor, running))
    finally:
        ticker.cancel()


async def _scenario(
    session: Session, name: str, executor: ConstantVus | PerVuIterations | Race, running: dict[str, None]
) -> None:
    if executor.startTime and await session.stopped_within(executor.startTime):
        return
    running[name] = None
    try:
        if isinstance(executor, Race):
            await race.run(session, name, executor)
        else:
            await closed.run(session, name, executor)
    finally:
        del running[name]


async def _tick(session: Session, watch: Watch, running: Mapping[str, None], total: float) -> None:
    while True:
        await asyncio.sleep(TICK)
        elapsed = (time.perf_counter_ns() - session.began) / 1e9
        requests = session.outcomes.total()
        watch(Progress(tuple(running), elapsed, total, requests, session.outcomes, len(session.rounds)))


def _planned(executor: ConstantVus | PerVuIterations | Race) -> float:
    """Seconds that a part is expected to take; what has no set length counts little."""
    return executor.duration if isinstance(executor, ConstantVus) else 5.0
