"""An HTTP/2 server over TLS on loopback, in the test's own event loop, that notes when each request is whole."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, PingReceived, RequestReceived, StreamEnded
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame
from servers import Authority


@dataclass
class Seen:
    """What the server saw: requests as (path, body) with the moment (ns) of their end, and how it is to behave."""

    answer: Callable[[Peer, int, str], None]
    limit: int = 250
    port: int = 0
    connections: int = 0
    begun: int = 0
    arrivals: list[int] = field(default_factory=list)
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    before_ping: list[int] = field(default_factory=list)
    on_headers: Callable[[Peer, int, str], None] | None = None
    settles: Callable[[int], bool] = lambda _: True
    """Whether the n-th connection gets the server's settings, for which a client waits."""
    peers: list[Peer] = field(default_factory=list)
    server: Any = None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def die(self) -> None:
        """End all connections, and refuse new ones."""
        self.server.close()
        for peer in self.peers:
            if peer.transport is not None:
                peer.transport.abort()


class Peer(asyncio.Protocol):
    """The server's side of one connection."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.paths: dict[int, str] = {}
        self.bodies: dict[int, bytearray] = {}
        self.transport: Any = None
        self.last = 2**31 - 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.seen.connections += 1
        if not self.seen.settles(self.seen.connections):
            return
        limit = {SettingCodes.MAX_CONCURRENT_STREAMS: self.seen.limit}
        self.h2.local_settings = Settings(client=False, initial_values=limit)
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        now = perf_counter_ns()
        for event in self.h2.receive_data(data):
            match event:
                case RequestReceived() if event.stream_id > self.last:
                    pass
                case DataReceived() | StreamEnded() if event.stream_id > self.last:
                    pass
                case RequestReceived():
                    self.seen.begun += 1
                    self.paths[event.stream_id] = dict(event.headers)[":path"]
                    self.bodies[event.stream_id] = bytearray()
                    if self.seen.on_headers:
                        self.seen.on_headers(self, event.stream_id, self.paths[event.stream_id])
                case DataReceived():
                    self.bodies[event.stream_id] += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded():
                    self.seen.arrivals.append(now)
                    path = self.paths[event.stream_id]
                    self.seen.requests.append((path, bytes(self.bodies[event.stream_id])))
                    self.seen.answer(self, event.stream_id, path)
                case PingReceived():
                    self.seen.before_ping.append(self.seen.begun)
                case ConnectionTerminated():
                    self.transport.close()
        self.flush()

    def reply(self, stream: int, body: bytes = b"ok") -> None:
        self.h2.send_headers(stream, [(":status", "200"), ("content-length", str(len(body)))])
        self.h2.send_data(stream, body, end_stream=True)
        self.flush()

    def leave(self, last: int) -> None:
        """Take no streams above `last` any more, and say so (h2's own way would end the others, too)."""
        self.last = last
        self.flush()
        self.transport.write(GoAwayFrame(0, last_stream_id=last).serialize())

    def refuse(self, stream: int, code: ErrorCodes = ErrorCodes.REFUSED_STREAM) -> None:
        self.h2.reset_stream(stream, code)
        self.flush()


def at_once(peer: Peer, stream: int, path: str) -> None:
    """Answer each request as soon as it is whole, with its path."""
    peer.reply(stream, path.encode())


def together(count: int) -> Callable[[Peer, int, str], None]:
    """Answer nobody before `count` whole requests have arrived."""
    waiting: list[tuple[Peer, int]] = []

    def answer(peer: Peer, stream: int, path: str) -> None:
        del path
        waiting.append((peer, stream))
        if len(waiting) % count == 0:
            for other, number in waiting[-count:]:
                other.reply(number)

    return answer


@contextlib.asynccontextmanager
async def serve(
    authority: Authority, answer: Callable[[Peer, int, str], None], **behaviour: Any
) -> AsyncIterator[Seen]:
    """Run such a server until the block ends."""
    seen = Seen(answer, **behaviour)
    context = authority.server("127.0.0.1")
    context.set_alpn_protocols(["h2"])

    def connected() -> Peer:
        seen.peers.append(Peer(seen))
        return seen.peers[-1]

    seen.server = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0, ssl=context)
    seen.port = seen.server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        seen.die()
        await asyncio.sleep(0)
        await seen.server.wait_closed()
