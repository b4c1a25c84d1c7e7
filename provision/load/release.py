"""The release: many requests over warm connections, let go together, and how together they were."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from time import perf_counter_ns
from typing import NamedTuple

from provision.errors import ConfigError
from provision.load.dial import ConnectFailed
from provision.load.http import Done, Fault, Reply, not_sent
from provision.load.http2 import Http2
from provision.load.wire import Connection

SETTLE_S = 0.002  # between the held requests and the release, for the servers to take in what they have


@dataclass(frozen=True, slots=True)
class Volley:
    """One round: the replies in the order of the requests, and the evidence that they were sent together."""

    mode: str
    replies: tuple[Reply, ...]
    spread_ns: int  # last sent − first sent, of those that were released
    overlap: int  # requests in flight when the first reply to a released one began
    late: tuple[int, ...] = ()  # the places of the requests that missed the release


class Load(NamedTuple):
    """A request on its warm connection, and where its reply goes."""

    connection: Connection
    request: bytes
    done: Done


Release = Callable[[Sequence[Load]], Awaitable[int]]  # returns the moment (ns) from which a request counts as released


class Collector:
    """The replies to a number of requests, in their order."""

    def __init__(self, count: int) -> None:
        self._replies: dict[int, Reply] = {}
        self._count = count
        self._complete = asyncio.Event()

    def done(self, place: int) -> Done:
        """The call-back that takes the reply to the request at this place."""

        def record(reply: Reply) -> None:
            self._replies[place] = reply
            if len(self._replies) == self._count:
                self._complete.set()

        return record

    async def volley(self, mode: str, start: int) -> Volley:
        """The whole volley, as soon as every reply is there."""
        if self._count:
            await self._complete.wait()
        replies = tuple(self._replies[place] for place in range(self._count))
        late = tuple(place for place, reply in enumerate(replies) if reply.sent < start)
        return Volley(mode, replies, *evidence(replies, start), late)


async def volley(
    connections: Sequence[Connection], requests: Sequence[bytes], *, mode: str = "last-byte", timeout: float
) -> Volley:
    """Send each request over its own HTTP/1.1 connection, all at once; ends with a reply for each within `timeout` s.

    A connection that cannot be warmed (within another `timeout`) gives a NOT_SENT reply, a laggard a TIMEOUT.
    """
    release = RELEASES.get(mode)
    if release is None:
        raise ConfigError(f"no release mode {mode!r}", hint=f"choose one of {', '.join(RELEASES)}")
    if len(connections) < len(requests):
        raise ValueError(f"{len(requests)} requests need as many connections, not {len(connections)}")
    replies = Collector(len(requests))
    loads = [Load(c, r, replies.done(i)) for i, (c, r) in enumerate(zip(connections, requests, strict=False))]
    warm = [load for load, ready in zip(loads, await _warm(loads, timeout), strict=True) if ready]
    timer = asyncio.get_running_loop().call_later(timeout, _give_up, warm, f"no complete reply in {timeout:g} s")
    try:
        return await replies.volley(mode, await release(warm))
    finally:
        timer.cancel()


async def single_packet(links: Sequence[Http2], requests: Sequence[bytes], *, timeout: float) -> Volley:
    """Send all requests as streams of as few HTTP/2 connections as take them, every last byte in one write each.

    The withheld bytes are let go when the server has acknowledged all that came before; ends within 2 × `timeout` s.
    """
    replies = Collector(len(requests))
    places = iter(range(len(requests)))
    problem = not_sent("the server takes fewer requests at once than when the race began")
    used = []
    for link in links:
        try:
            async with asyncio.timeout(timeout):
                await link.connect()
        except (ConnectFailed, TimeoutError) as error:
            problem = not_sent(str(error) or "connect timed out")
            continue
        used.append((link, list(islice(places, link.limit))))
    for place in places:
        replies.done(place)(problem)
    give_up = partial(_give_up_links, [link for link, _ in used], f"no complete reply in {timeout:g} s")
    timer = asyncio.get_running_loop().call_later(timeout, give_up)
    try:
        await asyncio.gather(*(_hold(link, [(requests[n], replies.done(n)) for n in own]) for link, own in used))
        shots = [(link.release, link.ready()) for link, _ in used if link.alive]
        start = perf_counter_ns()
        for fire, frames in shots:
            fire(frames)
        return await replies.volley("single-packet", start)
    finally:
        timer.cancel()


async def _hold(link: Http2, requests: Sequence[tuple[bytes, Done]]) -> None:
    """Bring all requests but their last bytes to the server, and wait until it has taken them in."""
    for request, done in requests:
        await link.hold(request, done)
    with suppress(ConnectionError):  # whoever was held has its reply by then
        await link.acknowledged()


def _give_up_links(links: Sequence[Http2], detail: str) -> None:
    for link in links:
        link.give_up(detail)


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
