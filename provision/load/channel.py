"""The channel of a race: the connections of its VUs and the release mode that they are used with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from provision.load.dial import ConnectFailed
from provision.load.http import Origin, Reply
from provision.load.http2 import Http2
from provision.load.release import Volley, single_packet, volley
from provision.load.wire import Connection


class Link(Protocol):
    """What a session needs to know of any connection."""

    connects: int
    bytes_sent: int

    def abort(self, detail: str = ...) -> None:
        """End what is in flight."""

    def close(self) -> None:
        """End what is in flight and close."""


@dataclass(frozen=True, slots=True)
class Channel:
    """How requests reach the target: `fire` sends many together, `ask` one alone by the connection of a VU's place.

    `why` says how the mode was chosen, in words that follow its name.
    """

    mode: str
    why: str
    links: Sequence[Link]
    fire: Callable[[Sequence[bytes]], Awaitable[Volley]]
    ask: Callable[[int, bytes], Awaitable[Reply]]


async def open_channel(origin: Origin, sync: str, size: int, timeout: float) -> Channel:
    """A channel for `size` requests at once, in the mode `sync`, or for `auto` the best one that the target offers."""
    if sync in {"auto", "single-packet"}:
        first = Http2(origin, timeout=timeout)
        why = "as the scenario asks"
        try:
            await first.connect()
        except ConnectFailed as error:
            why = f"no HTTP/2: {error}"
        else:
            why = "the target offers HTTP/2" if sync == "auto" else why
        if first.alive or sync == "single-packet":
            return _http2(origin, first, why, size, timeout)
        sync = "last-byte"
    else:
        why = "as the scenario asks"
    connections = [Connection(origin, timeout=timeout) for _ in range(size)]
    fire = partial(_fire, connections, sync, timeout)
    return Channel(sync, why, connections, fire, partial(_ask, connections))


def _http2(origin: Origin, first: Http2, why: str, size: int, timeout: float) -> Channel:
    """Single-packet over as many connections as the server's limit of concurrent streams makes necessary."""
    share = max(1, min(first.limit, size)) if first.alive else size
    links = [first, *(Http2(origin, timeout=timeout) for _ in range(-(-size // share) - 1))]

    async def fire(requests: Sequence[bytes]) -> Volley:
        return await single_packet(links, requests, timeout=timeout)

    return Channel("single-packet", why, links, fire, partial(_ask_stream, links, share, timeout))


async def _fire(connections: Sequence[Connection], mode: str, timeout: float, requests: Sequence[bytes]) -> Volley:
    return await volley(connections, requests, mode=mode, timeout=timeout)


async def _ask(connections: Sequence[Connection], place: int, request: bytes) -> Reply:
    answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    connections[place].send(request, answer.set_result)
    return await answer


async def _ask_stream(links: Sequence[Http2], share: int, timeout: float, place: int, request: bytes) -> Reply:
    link = links[place // share]
    answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    with_timeout = asyncio.get_running_loop().call_later(timeout, link.give_up, f"no complete reply in {timeout:g} s")
    try:
        await link.connect()
        await link.send(request, answer.set_result)
        return await answer
    except ConnectFailed as error:
        return error.reply()
    finally:
        with_timeout.cancel()
