"""The release: many requests over warm connections, let go together, and how together they were."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns
from typing import NamedTuple

from provision.errors import ConfigError
from provision.load.http import Fault, Reply
from provision.load.wire import ConnectFailed, Connection

SETTLE_S = 0.002  # between the held requests and the release, for the servers to take in what they have


class Shot(NamedTuple):
    """One request's place in the volley and what came of it."""

    place: int
    reply: Reply


@dataclass(frozen=True, slots=True)
class Volley:
    """One round: the replies in the order of the requests, and the evidence that they were sent together."""

    mode: str
    replies: tuple[Reply, ...]
    spread_ns: int  # last sent − first sent, of those that were released
    overlap: int  # requests in flight when the first reply to a released one began


class Load(NamedTuple):
    """A request on its warm connection, and where its reply goes."""

    connection: Connection
    request: bytes
    done: Callable[[Reply], None]


Release = Callable[[Sequence[Load]], Awaitable[int]]  # returns the moment (ns) from which a request counts as released


async def volley(
    connections: Sequence[Connection], requests: Sequence[bytes], *, mode: str = "last-byte", timeout: float
) -> Volley:
    """Send each request over its own connection, all at once; ends with a reply for each within `timeout` s.

    A connection that cannot be warmed (within another `timeout`) gives a NOT_SENT reply, a laggard a TIMEOUT.
    """
    release = RELEASES.get(mode)
    if release is None:
        raise ConfigError(f"no release mode {mode!r}", hint=f"choose one of {', '.join(RELEASES)}")
    if len(connections) < len(requests):
        raise ValueError(f"{len(requests)} requests need as many connections, not {len(connections)}")
    loop = asyncio.get_running_loop()
    shots: list[Shot] = []
    complete = asyncio.Event()

    def record(place: int, reply: Reply) -> None:
        shots.append(Shot(place, reply))
        if len(shots) == len(requests):
            complete.set()

    loads = [Load(c, r, partial(record, i)) for i, (c, r) in enumerate(zip(connections, requests, strict=False))]
    warm = [load for load, ready in zip(loads, await _warm(loads, timeout), strict=True) if ready]
    timer = loop.call_later(timeout, _give_up, warm, f"no complete reply in {timeout:g} s")
    try:
        start = await release(warm)
        if requests:
            await complete.wait()
    finally:
        timer.cancel()
    replies = tuple(shot.reply for shot in sorted(shots))
    return Volley(mode, replies, *evidence(replies, start))


def evidence(replies: Sequence[Reply], start: int) -> tuple[int, int]:
    """Return spread (ns) and overlap of the requests that were sent at `start` or later."""
    released = [reply for reply in replies if reply.sent >= start]
    sent = [reply.sent for reply in released]
    first = min((reply.first for reply in released if reply.first), default=None)
    spread = max(sent) - min(sent) if sent else 0
    return spread, sum(1 for at in sent if first is None or at <= first)


async def _warm(loads: Sequence[Load], timeout: float) -> list[bool]:
    """Connect all; a connection that cannot be made is reported as its request's reply."""

    async def warm(load: Load) -> bool:
        try:
            async with asyncio.timeout(timeout):
                await load.connection.connect()
        except ConnectFailed as error:
            detail = str(error)
        except TimeoutError:
            detail = "connect timed out"
        else:
            return True
        load.done(Reply(0, b"", 0, 0, perf_counter_ns(), Fault.NOT_SENT, detail))
        return False

    return await asyncio.gather(*map(warm, loads))


def _give_up(loads: Sequence[Load], detail: str) -> None:
    for load in loads:
        if load.connection.busy:
            load.connection.abort(detail, fault=Fault.TIMEOUT)


async def last_byte(loads: Sequence[Load]) -> int:
    """Send all but the last byte of each, let the kernel take it, then every last byte in one turn of the loop."""
    for load in loads:
        load.connection.hold(load.request)
    while not all(load.connection.flushed for load in loads):
        await asyncio.sleep(SETTLE_S)
    await asyncio.sleep(SETTLE_S)
    shots = [(load.connection.release, load.done) for load in loads]
    start = perf_counter_ns()
    for fire, done in shots:
        fire(done)
    return start


async def barrier(loads: Sequence[Load]) -> int:
    """Send whole requests in one turn of the loop."""
    shots = [(load.connection.send, load.request, load.done) for load in loads]
    start = perf_counter_ns()
    for fire, request, done in shots:
        fire(request, done)
    return start


RELEASES: dict[str, Release] = {"last-byte": last_byte, "barrier": barrier}
