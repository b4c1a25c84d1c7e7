"""The race: round after round, all VUs are released together on one fresh ticket, between probes of the server."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from provision.errors import ScenarioError, Unreachable
from provision.load import overtaking, spec
from provision.load.channel import Channel, open_channel
from provision.load.dial import ConnectFailed
from provision.load.http import Reply
from provision.load.http2 import Http2, NoHttp2
from provision.load.outcomes import Outcome
from provision.load.overtaking import Calibrated
from provision.load.results import NO_ROUND, Probe, Raced, Round
from provision.load.session import Place, Session
from provision.load.spec import Race

T = TypeVar("T")


async def warm_up(session: Session) -> None:
    """Make sure before the load that the target speaks HTTP/2 where a race insists on it: ScenarioError when it does
    not, Unreachable when no connection can be made."""
    name = next((name for name, race in session.job.scenario.races.items() if race.sync == "single-packet"), None)
    if name is None:
        return
    link = Http2(session.job.race_origin or session.job.origin, timeout=session.job.scenario.request.timeout)
    try:
        await _unless_given_up(session, link.connect())
    except NoHttp2 as error:
        hint = "Use sync: auto, which takes last-byte where there is no HTTP/2."
        raise ScenarioError(f"scenarios.{name}: single-packet needs HTTP/2, but {error}.", hint=hint) from None
    except ConnectFailed as error:
        text = f"scenarios.{name}: no HTTP/2 connection could be made: {error}."
        raise Unreachable(text, hint="Check SUPABASE_URL and its certificate.") from None
    finally:
        link.close()


async def run(session: Session, name: str, executor: Race) -> None:
    """Carry out a race: a probe, its rounds, and unless one of them says it all, probes with more and more reads."""
    control = Place(session.part(f"{name}:control", "control", executor.vus, measured=False), 0)
    part = session.part(name, executor.executor, executor.vus)
    origin = session.job.race_origin or session.job.origin
    timeout = session.job.scenario.request.timeout
    opened = await _unless_given_up(session, open_channel(origin, executor.sync, executor.vus, timeout))
    if opened is None:
        return
    channel = session.joined(opened)
    slow = await _calibrated(session, name, channel, control)
    before = await _probes(session, name, channel, control, slow, [1])
    deadline = time.perf_counter_ns() + int(executor.maxDuration * 1e9)
    last = deadline + int(executor.gracefulStop * 1e9)
    cancel_abort = session.timer.at(last, partial(_abort, channel))
    broken = await _rounds(session, name, executor, channel, [Place(part, vu) for vu in range(executor.vus)], deadline)
    cancel_abort()
    ladder = [] if broken else overtaking.levels(executor.vus)
    after = await _probes(session, name, channel, control, slow, ladder)
    session.races.append(Raced(name, channel.mode, channel.why, before, after, slow.problem))


def _abort(channel: Channel) -> None:
    for link in channel.links:
        link.abort("the graceful stop is over")


async def _unless_given_up(session: Session, work: Coroutine[Any, Any, T]) -> T | None:
    """What comes of work on connections that the session has not joined; None when it is given up before."""
    working, giving_up = asyncio.ensure_future(work), asyncio.ensure_future(session.giving_up.wait())
    try:
        await asyncio.wait((working, giving_up), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        giving_up.cancel()


async def _rounds(
    session: Session, name: str, executor: Race, channel: Channel, places: list[Place], deadline: int
) -> bool:
    """The rounds, in an order of the requests that follows from the run's seed; whether a broken one ended them."""
    shuffle = random.Random(f"{session.job.seed}/{name}").shuffle  # noqa: S311 - an order, not a secret
    scenario = session.job.scenario
    for number in range(executor.rounds):
        if session.stopping.is_set():
            break
        if time.perf_counter_ns() > deadline:
            session.dropped[name] += (executor.rounds - number) * executor.vus
            break
        if (ticket := session.take(name)) is None:
            break
        shuffle(places)
        outcomes = await _round(session, name, channel, places, number, ticket)
        too_many = scenario.promise == "winners" and outcomes.count(Outcome.ADMITTED) > scenario.winners
        if executor.stopOnBroken and too_many:
            return True
        if executor.pause and await session.stopped_within(executor.pause):
            break
    return False


async def _round(
    session: Session, name: str, channel: Channel, places: list[Place], number: int, ticket: int
) -> list[Outcome]:
    for place in places:
        place.iteration = number
    shot = await channel.fire([session.request(ticket, place) for place in places])
    late = tuple(sorted(places[position].vu for position in shot.late))
    session.rounds.append(Round(name, number, ticket, shot.mode, shot.spread_ns, shot.overlap, len(places), late))
    return [
        session.record(place, ticket, min(shot.start, reply.sent or reply.last), reply, number)
        for place, reply in zip(places, shot.replies, strict=True)
    ]


async def _scan(session: Session, name: str, channel: Channel, place: Place, round_: int = NO_ROUND) -> Reply | None:
    """One scan of a fresh ticket over the race's own channel; None when the run stops or no ticket is left."""
    if session.stopping.is_set() or (ticket := session.take(name)) is None:
        return None
    due = time.perf_counter_ns()
    reply = await channel.ask(0, session.request(ticket, place))
    session.record(place, ticket, due, reply, round_)
    place.iteration += 1
    return reply


async def _calibrated(session: Session, name: str, channel: Channel, place: Place) -> Calibrated:
    """A read that is slow beside a few single scans."""
    read = session.job.slow_read
    scans = [await _scan(session, name, channel, place) for _ in range(spec.CONTROL_SCANS)]
    good = [reply for reply in scans if reply is not None and reply.fault is None]
    if read is None or not good or session.stopping.is_set():
        return Calibrated(problem="nothing to read slowly is known" if read is None else "no scan was answered")
    return await overtaking.calibrate(channel.ask, read, overtaking.typical(good))


async def _probes(
    session: Session, name: str, channel: Channel, place: Place, slow: Calibrated, ladder: list[int]
) -> tuple[Probe, ...]:
    """Climb the ladder as far as scans overtake; a few tries for each step, since noise can only hide it."""
    probes: list[Probe] = []
    for blockers in ladder if slow.request else []:
        tried: list[Probe] = []
        while len(tried) < overtaking.TRIES and not (tried and overtaking.shows(tried)):
            if session.stopping.is_set():
                return (*probes, *tried)
            scan = partial(_scan, session, name, channel, place, len(tried))
            tried.append(await overtaking.overtake(channel.ask, slow, blockers, scan))
        probes += tried
        if not overtaking.shows(tried):
            break
    return tuple(probes)
