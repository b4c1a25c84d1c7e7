"""One HTTP/2 connection over TLS on which whole requests are withheld by their last byte and let go in one write."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, cast

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, H2Connection, H2ConnectionStateMachine
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from provision.load.dial import ConnectFailed, made
from provision.load.http import Done, Fault, Origin, Reply, not_sent
from provision.load.wire import MAX_BODY

LEFT = "closed by the server (GOAWAY)"
TOO_EARLY = "the connection was closed before the release"
_DROPPED = {"host", "connection"}  # HTTP/1.1's; `:authority` takes the place of the first


@dataclass(slots=True)
class Stream:
    """A request on its way: `sent` is 0 until the server could have begun to work on it."""

    done: Done
    last: bytes
    sent: int = 0
    first: int = 0
    status: int = 0
    body: bytearray = field(default_factory=bytearray)


class _Lasting(H2ConnectionStateMachine):
    """h2's state of a connection, but for GOAWAY: what was asked before it is still answered (RFC 9113, 6.8)."""

    left = False

    def process_input(self, input_: ConnectionInputs) -> list[Event]:
        if input_ is not ConnectionInputs.RECV_GOAWAY:
            return super().process_input(input_)
        self.left = True
        return []


class NoHttp2(ConnectFailed):
    """The target can be reached, but it does not speak HTTP/2."""


class Http2(asyncio.Protocol):
    """A connection with any number of requests in flight; every `done` is called exactly once."""

    def __init__(self, origin: Origin, *, timeout: float = 30.0) -> None:
        self.origin = origin
        self.timeout = timeout
        self.connects = self.bytes_sent = 0
        self.protocol = ""  # what the server chose by ALPN
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None
        self._renew()
        self._streams: dict[int, Stream] = {}
        self._changed = asyncio.Event()  # settings, windows, acknowledgements: whoever waits looks again

    def _renew(self) -> None:
        """Be ready for another connection."""
        self._h2 = H2Connection(H2Configuration())
        self._h2.state_machine = self._state = _Lasting()
        self._settled = False
        self._pings = self._acknowledged = 0

    # -- connecting

    @property
    def alive(self) -> bool:
        """Whether requests can be sent."""
        return self._transport is not None and not self._transport.is_closing() and not self.left

    @property
    def left(self) -> bool:
        """Whether the server takes no more requests by the last connection (GOAWAY)."""
        return self._state.left

    @property
    def limit(self) -> int:
        """How many requests the server takes at once (its SETTINGS_MAX_CONCURRENT_STREAMS)."""
        return self._h2.remote_settings.max_concurrent_streams

    async def connect(self) -> None:
        """Connect unless a live connection is there, and wait for the server's settings; raises ConnectFailed.

        When the server has left, what it still has to answer comes first.
        """
        while self.left and self._streams:
            self._changed.clear()
            await self._changed.wait()
        if self._opening is None or self._opening.done():
            if self.alive:
                return
            self._opening = asyncio.get_running_loop().create_task(self._open())
        await made(self._opening)

    async def _open(self) -> None:
        if self.origin.tls2 is None:
            raise NoHttp2("the target speaks plain HTTP")
        loop = asyncio.get_running_loop()
        origin = self.origin
        self._renew()
        try:
            async with asyncio.timeout(self.timeout):
                connecting = loop.create_connection(
                    lambda: self, origin.host, origin.port, ssl=origin.tls2, server_hostname=origin.host
                )
                await connecting
                if self.protocol == "h2":
                    await self._until(lambda: self._settled)
        except BaseException as error:
            self._drop()
            if isinstance(error, OSError | ValueError):
                raise ConnectFailed.of(error) from None
            raise
        if self.protocol != "h2":
            self._drop()
            raise NoHttp2("the server does not offer HTTP/2")
        self.connects += 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.protocol = transport.get_extra_info("ssl_object").selected_alpn_protocol() or "http/1.1"
        if self.protocol == "h2":
            self._h2.initiate_connection()
            self._flush()

    async def _until(self, met: Any) -> None:
        """Wait until a condition of the connection's state holds; ConnectionError when the connection ends before."""
        while not met():
            if not self.alive:
                raise ConnectionError("closed")
            self._changed.clear()
            await self._changed.wait()

    # -- sending

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self._transport is not None:
            self.bytes_sent += len(data)
            self._transport.write(data)

    async def hold(self, request: bytes, done: Done) -> int:
        """Write all of an HTTP/1.1 request but its last byte as a new stream; its number, or 0 when it failed."""
        headers, body = translated(request, self.origin)
        if not self.alive:
            asyncio.get_running_loop().call_soon(done, not_sent(self._why(TOO_EARLY)))
            return 0
        number = self._h2.get_next_available_stream_id()
        self._streams[number] = Stream(done, body[-1:])
        try:
            self._h2.send_headers(number, headers)
            await self._write(number, body[:-1])
        except (ProtocolError, ConnectionError):
            if number in self._streams:
                self._fail(number, Fault.NOT_SENT, self._why(TOO_EARLY))
        return number if number in self._streams else 0

    async def _write(self, number: int, body: bytes) -> None:
        """Send part of a body as the server's flow control allows."""
        while body and number in self._streams:
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if room > 1:  # the last byte must find room as well
                self._h2.send_data(number, body[: room - 1])
                body = body[room - 1 :]
                continue
            self._flush()
            await self._until(lambda: self._h2.local_flow_control_window(number) > 1 or number not in self._streams)
        self._flush()

    async def acknowledged(self) -> None:
        """Wait until the server has taken in everything that was written; ConnectionError when it never will.

        A PING is answered in order with what the server read before it (RFC 9113, 6.7).
        """
        self._pings += 1
        wanted = self._pings
        self._h2.ping(wanted.to_bytes(8, "big"))
        self._flush()
        await self._until(lambda: self._acknowledged >= wanted and self._has_room())

    def _has_room(self) -> bool:
        """Whether flow control lets every withheld byte go (only bodies of tens of kilobytes could use it up)."""
        held = [number for number, stream in self._streams.items() if not stream.sent]
        return all(self._h2.local_flow_control_window(number) >= len(held) for number in held)

    def ready(self) -> bytes:
        """The final frames of all held requests, to be written by `release` in one piece."""
        for number, stream in self._streams.items():
            if not stream.sent:
                self._h2.send_data(number, stream.last, end_stream=True)
        return self._h2.data_to_send()

    def release(self, frames: bytes) -> None:
        """Write the final frames."""
        now = perf_counter_ns()
        for stream in self._streams.values():
            stream.sent = stream.sent or now
        if self._transport is not None:
            self.bytes_sent += len(frames)
            self._transport.write(frames)

    async def send(self, request: bytes, done: Done) -> None:
        """Send a whole request; its time of sending is that of its last byte."""
        if number := await self.hold(request, done):
            stream = self._streams[number]
            self._h2.send_data(number, stream.last, end_stream=True)
            stream.sent = perf_counter_ns()
            self._flush()

    # -- receiving

    def data_received(self, data: bytes) -> None:
        now = perf_counter_ns()
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._end(Fault.RESET if self.left else Fault.MALFORMED, self._why("the answer is not HTTP/2"))
            return
        for event in events:
            self._on_event(event, now)
        if self.left and not self._streams:
            self._drop()
        self._flush()
        self._changed.set()

    def _on_event(self, event: Any, now: int) -> None:
        match event:
            case ResponseReceived(stream_id=number, headers=headers) if stream := self._streams.get(number or 0):
                stream.first = stream.first or now
                stream.status = int(dict(headers or ())[b":status"])
            case DataReceived(stream_id=int(number)):
                self._h2.acknowledge_received_data(event.flow_controlled_length or 0, number)
                self._on_data(number, event.data or b"")
            case StreamEnded(stream_id=number) if stream := self._streams.pop(number or 0, None):
                sent = stream.sent or stream.first  # answered early: the server did not wait for the last byte
                body = bytes(stream.body)
                stream.done(Reply(stream.status, body, sent, stream.first, now, None, "", received=len(body)))
            case StreamReset(stream_id=int(number)) if number in self._streams:
                refused = event.error_code == ErrorCodes.REFUSED_STREAM  # not processed at all (RFC 9113, 8.7)
                self._fail(number, Fault.NOT_SENT if refused else Fault.RESET, f"stream reset ({event.error_code})")
            case ConnectionTerminated():
                self._on_goaway(event.last_stream_id or 0)
            case RemoteSettingsChanged():
                self._settled = True
            case PingAckReceived():
                self._acknowledged = int.from_bytes(event.ping_data or b"", "big")
            case WindowUpdated():
                pass  # whoever waits for room is woken after every event

    def _on_data(self, number: int, data: bytes) -> None:
        stream = self._streams.get(number)
        if stream is None:
            return
        stream.body += data
        if len(stream.body) > MAX_BODY:
            self._h2.reset_stream(number, ErrorCodes.CANCEL)
            self._fail(number, Fault.OVERSIZE, "the reply's body is above the limit")

    def _on_goaway(self, last: int) -> None:
        """The server leaves: streams above `last` were not processed (RFC 9113, 6.8), what is held never will be."""
        for number in [number for number, stream in self._streams.items() if number > last or not stream.sent]:
            self._fail(number, Fault.NOT_SENT, LEFT)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._end(Fault.RESET, self._why("closed before the reply was complete"))

    # -- ending

    def _why(self, detail: str) -> str:
        return LEFT if self.left else detail

    def _fail(self, number: int, fault: Fault, detail: str) -> None:
        stream = self._streams.pop(number)
        fault = fault if stream.sent or fault is Fault.ABORTED else Fault.NOT_SENT
        stream.done(Reply(0, b"", stream.sent, stream.first if stream.sent else 0, perf_counter_ns(), fault, detail))

    def _end(self, fault: Fault, detail: str) -> None:
        self._drop()
        for number in list(self._streams):
            self._fail(number, fault, detail)
        self._changed.set()

    def give_up(self, detail: str) -> None:
        """End what is in flight as timed out; the connection goes with it, so that nothing comes late."""
        if self._streams:
            self._end(Fault.TIMEOUT, detail)

    def abort(self, detail: str = "given up") -> None:
        """End what is in flight, a connect too, and close."""
        if self._opening is not None:
            self._opening.cancel()
        self._end(Fault.ABORTED, detail)

    def close(self) -> None:
        self.abort("the connection was closed")

    def _drop(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.set_protocol(asyncio.Protocol())  # its last words reach nobody
            transport.abort()


def translated(request: bytes, origin: Origin) -> tuple[list[tuple[str, str]], bytes]:
    """The headers and body of an encoded HTTP/1.1 request, as HTTP/2 carries them (RFC 9113, 8.3)."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *rest = head.decode("ascii").split("\r\n")
    method, path, _ = line.split(" ")
    fields = [(name.lower(), value) for name, _, value in (header.partition(": ") for header in rest)]
    pseudo = [(":method", method), (":scheme", origin.scheme), (":authority", origin.authority), (":path", path)]
    return pseudo + [pair for pair in fields if pair[0] not in _DROPPED], body
