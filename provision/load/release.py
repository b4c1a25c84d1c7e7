"""The release: many requests over warm connections, let go together, and how together they were."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
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
    start: int  # the moment (ns) from which a request counts as released
    late: tuple[int, ...] = ()  # the places of the requests that missed the release


class Load(NamedTuple):
    """A request on its warm connection, and where its reply goes."""

    connection: Connection
    request: bytes
    done: Done


Release = Callable[[Sequence[Load]], Awaitable[int]]  # returns the volley's start


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

    def withdrawn(self, places: Sequence[int]) -> list[int]:
        """Those of the places whose request was not sent, to be sent after all: their replies are forgotten."""
        unsent = [place for place in places if self._replies[place].fault is Fault.NOT_SENT]
        for place in unsent:
            del self._replies[place]
            self._complete.clear()
        return unsent

    def fill(self, reply: Reply) -> None:
        """Let this be the reply wherever there is none."""
        for place in range(self._count):
            if place not in self._replies:
                self.done(place)(reply)

    async def volley(self, mode: str, start: int) -> Volley:
        """The whole volley, as soon as every reply is there."""
        if self._count:
            await self._complete.wait()
        replies = tuple(self._replies[place] for place in range(self._count))
        late = tuple(place for place, reply in enumerate(replies) if reply.sent < start)
        return Volley(mode, replies, *evidence(replies, start), start, late)


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
    warm = []
    for load, failure in zip(loads, await _connected([load.connection for load in loads], timeout), strict=True):
        if failure is None:
            warm.append(load)
        else:
            load.done(failure.reply())
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
    failures = await _connected(links, timeout)
    fewer = not_sent("the server takes fewer requests at once than when the race began")
    problem = next((failure.reply() for failure in failures if failure), fewer)
    places = iter(range(len(requests)))
    ready = [link for link, failure in zip(links, failures, strict=True) if failure is None]
    loads = [(link, list(islice(places, link.limit))) for link in ready]
    for place in places:
        replies.done(place)(problem)
    loop = asyncio.get_running_loop()
    deadline, too_late = loop.time() + timeout, f"no complete reply in {timeout:g} s"
    try:
        async with asyncio.timeout_at(deadline):
            await _hold_all(loads, requests, replies)
    except TimeoutError:
        _give_up_links(ready, too_late)
        replies.fill(not_sent(too_late))
    timer = loop.call_at(deadline, _give_up_links, ready, too_late)
    try:
        shots = [(link.release, link.ready()) for link in ready if link.alive]
        start = perf_counter_ns()
        for fire, frames in shots:
            fire(frames)
        return await replies.volley("single-packet", start)
    finally:
        timer.cancel()


async def _hold_all(loads: Sequence[tuple[Http2, list[int]]], requests: Sequence[bytes], replies: Collector) -> None:
    """Bring the requests of each link to its server; once more to one that left meanwhile, as it had nothing whole."""

    async def hold(link: Http2, places: list[int]) -> None:
        await _hold(link, [(requests[place], replies.done(place)) for place in places])

    await asyncio.gather(*(hold(link, places) for link, places in loads))
    await asyncio.gather(*(hold(link, replies.withdrawn(places)) for link, places in loads if link.left))


async def _hold(link: Http2, requests: Sequence[tuple[bytes, Done]]) -> None:
    """Bring all requests but their last bytes to the server, and wait until it has taken them in."""
    try:
        await link.connect()
        for request, done in requests:
            await link.hold(request, done)
        await link.acknowledged()
    except ConnectFailed as error:
        for _, done in requests:
            done(error.reply())
    except ConnectionError:
        pass  # whoever was held has its reply by then


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


async def _connected(links: Sequence[Connection | Http2], timeout: float) -> list[ConnectFailed | None]:
    """Connect all, within `timeout` s; for each why it failed. When one is given up, all are."""

    async def connect(link: Connection | Http2) -> ConnectFailed | None:
        try:
            async with asyncio.timeout(timeout):
                await link.connect()
        except ConnectFailed as error:
            return error
        except TimeoutError as error:
            return ConnectFailed.of(error)
        return None

    failures = await asyncio.gather(*map(connect, links))
    given_up = next((failure for failure in failures if failure and failure.fault is Fault.ABORTED), None)
    return [given_up] * len(links) if given_up else failures


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
