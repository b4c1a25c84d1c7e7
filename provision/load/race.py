"""The race: round after round, all VUs are released together on one fresh ticket, between controls."""

from __future__ import annotations

import random
import time

from provision.load import spec
from provision.load.release import Volley, volley
from provision.load.results import Round
from provision.load.session import Lane, Session
from provision.load.spec import Race


async def run(session: Session, name: str, executor: Race) -> None:
    """Carry out a race: the controls, then its rounds."""
    control = session.part(f"{name}:control", "control", executor.vus, measured=False)
    part = session.part(name, executor.executor, executor.vus)
    lanes = [session.lane(part, vu) for vu in range(executor.vus)]
    shuffle = random.Random(f"{session.job.seed}/{name}").shuffle  # noqa: S311 - an order, not a secret
    await _controls(session, name, control, lanes)
    deadline = time.perf_counter_ns() + int(executor.maxDuration * 1e9)
    for number in range(executor.rounds):
        if session.stopping.is_set() or time.perf_counter_ns() > deadline:
            break
        if (ticket := session.take(name)) is None:
            break
        shuffle(lanes)
        await _round(session, name, executor, lanes, number, ticket)
        if executor.pause and await session.stopped_within(executor.pause):
            break


async def _round(session: Session, name: str, executor: Race, lanes: list[Lane], number: int, ticket: int) -> None:
    for lane in lanes:
        lane.iteration = number
    due = time.perf_counter_ns()
    shot = await _volley(session, executor.sync, lanes, [ticket] * len(lanes))
    session.rounds.append(Round(name, number, ticket, shot.mode, shot.spread_ns, shot.overlap, len(lanes)))
    for lane, reply in zip(lanes, shot.replies, strict=True):
        session.record(lane, ticket, due, reply, number)


async def _volley(session: Session, sync: str, lanes: list[Lane], tickets: list[int]) -> Volley:
    requests = [session.request(ticket, lane) for lane, ticket in zip(lanes, tickets, strict=True)]
    mode = "last-byte" if sync == "auto" else sync
    connections = [lane.connection for lane in lanes]
    return await volley(connections, requests, mode=mode, timeout=session.job.scenario.request.timeout)


async def _controls(session: Session, name: str, part: int, lanes: list[Lane]) -> None:
    """Scans of different tickets, alone and together, that show whether the server runs them side by side."""
    single = Lane(part, 0, lanes[0].connection)
    for _ in range(spec.CONTROL_SOLO):
        if session.stopping.is_set() or (ticket := session.take(name)) is None:
            return
        await session.ask(single, ticket)
    for number in range(spec.CONTROL_ROUNDS):
        tickets = [ticket for _ in lanes if (ticket := session.take(name)) is not None]
        if session.stopping.is_set() or len(tickets) < len(lanes):
            return
        due = time.perf_counter_ns()
        shot = await _volley(session, "auto", lanes, tickets)
        for lane, ticket, reply in zip(lanes, tickets, shot.replies, strict=True):
            session.record(Lane(part, lane.vu, lane.connection), ticket, due, reply, number)
