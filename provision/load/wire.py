"""The wire: one keep-alive HTTP/1.1 connection that sends encoded requests and calls back with timed replies."""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable
from functools import partial
from time import perf_counter_ns
from typing import Any, cast

import httptools

from provision.load.dial import ConnectFailed, Dialler, made
from provision.load.http import Done, Fault, Origin, Reply, is_framed, not_sent
from provision.load.tls import Tls

MAX_HEAD = 64 * 1024  # bytes of a reply's head, interim replies included
MAX_BODY = 16 * 1024 * 1024
HEADS = 256
"""How many heads of replies are remembered; those of one server differ by their date and length, once a second."""
IDLE_CHECK_NS = 50_000  # a connection that was quiet for longer is asked whether the server has left
NEVER = 1 << 63
NO_WAIT = (0, 0)

_GONE = getattr(select, "POLLRDHUP", select.POLLHUP) | select.POLLHUP | select.POLLERR
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_reply = tuple.__new__  # makes a Reply in half the time that its own constructor takes
_DEAF = asyncio.Protocol()  # takes over a dropped transport, so that its last words reach nobody
_heads: dict[bytes, tuple[int, int]] = {}
"""The status and the body's length that a head tells, of keep-alive replies; a head tells them always alike."""


class Connection(asyncio.Protocol):
    """One keep-alive connection; at most one request in flight; every `done` is called exactly once."""

    __slots__ = (
        "_arrived", "_body", "_closing", "_complete", "_deadline", "_dialler", "_done", "_early", "_first", "_head",
        "_in_body", "_last", "_oversize", "_parser", "_poll", "_seal", "_sent", "_sock",
        "_status", "_task", "_timeout_ns", "_timer", "_transport", "_trust", "_waited", "_wake", "_withheld",
        "bytes_sent", "connecting_ns", "connects", "origin", "timeout", "tls_ns",
    )  # fmt: skip

    def __init__(self, origin: Origin, *, timeout: float = 30.0) -> None:
        self.origin = origin
        self.timeout = timeout  # seconds, for a connect and for a request each
        self.connects = self.connecting_ns = self.tls_ns = self.bytes_sent = 0
        self._timeout_ns = int(timeout * 1e9)
        self._dialler = Dialler(origin, timeout)
        self._transport: asyncio.Transport | None = None
        self._sock: socket.socket | None = None  # written to directly, as long as it takes all
        self._seal: Callable[[bytes], bytes] | None = None  # TLS only
        self._poll = select.poll()
        self._parser: Any = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._wake = NEVER
        self._deadline = 0
        self._last = 0
        self._trust = IDLE_CHECK_NS
        self._waited = NO_WAIT
        self._withheld = b""
        self._early: Reply | None = None
        self._done: Done | None = None
        self._forget()

    def _forget(self) -> None:
        """Be ready for the next reply."""
        self._sent = self._first = self._status = self._arrived = 0
        self._head = b""
        self._body: bytes | bytearray = b""
        self._in_body = self._complete = self._closing = self._oversize = False

    # -- connecting

    @property
    def busy(self) -> bool:
        """Whether a request waits for its reply."""
        return self._done is not None

    @property
    def flushed(self) -> bool:
        """Whether the kernel has taken everything that was written."""
        return self._transport is None or self._transport.get_write_buffer_size() == 0

    async def connect(self) -> None:
        """Connect unless a live connection is there, or a request that sees to it; raises ConnectFailed."""
        if self._done is None and (self._transport is None or self._stale()):
            self._drop()
            self._task = asyncio.get_running_loop().create_task(self._open())
            await made(self._task)
            self._waited = NO_WAIT  # a warm connection kept no request waiting

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                sock, connecting = await self._dialler.dial()
                handshaking = await self._attach(sock)
        except (OSError, ValueError) as error:
            self._dialler.forget()
            raise ConnectFailed.of(error) from None
        self._waited = (connecting, handshaking)
        self.connects += 1
        self.connecting_ns += connecting
        self.tls_ns += handshaking

    async def _attach(self, sock: socket.socket) -> int:
        """Make the transport, through the TLS handshake where there is one; return the handshake's ns."""
        loop = asyncio.get_running_loop()
        began = perf_counter_ns()
        tls: Tls | None = None
        transport: asyncio.Transport | None = None
        try:
            if self.origin.tls:
                tls = Tls(self.origin.tls, self.origin.host, self)
            transport, _ = await loop.create_connection(lambda: tls or self, sock=sock)
            if tls:
                await tls.established
        except BaseException:
            if tls:
                tls.established.cancel()
            if transport is not None:
                transport.abort()
            sock.close()
            raise
        if tls:
            self.connection_made(transport)
        self._sock = sock
        self._seal = tls.seal if tls else None
        self._poll = select.poll()
        self._poll.register(sock.fileno(), _GONE if tls else _GONE | select.POLLIN)
        self._last = perf_counter_ns()
        return self._last - began if tls else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)

    def _stale(self) -> bool:
        """Whether an idle connection was closed by the server, or has bytes that nobody asked for."""
        transport = self._transport
        return transport is None or transport.is_closing() or bool(self._poll.poll(0))

    # -- sending

    def send(self, request: bytes, done: Done) -> None:
        """Send a whole request, connecting first where needed; never raises, `done` gets the reply later."""
        if self._done is not None:
            self._later(done, not_sent("the connection is busy"))
            return
        self._done = done
        idle = self._transport is None or (perf_counter_ns() - self._last > self._trust and self._stale())
        if idle or not self._start(request):
            self._drop()
            self._sent = 0
            self._task = asyncio.get_running_loop().create_task(self._connect_and_start(request))

    async def _connect_and_start(self, request: bytes) -> None:
        try:
            await self._open()
        except ConnectFailed as error:
            self._task = None
            self._fail(error.fault, str(error))
            return
        self._task = None
        if self._transport is None or not self._start(request):
            self._sent = 0
            self._fail(Fault.NOT_SENT, "closed before the request was sent")

    def _start(self, data: bytes) -> bool:
        """Hand bytes to the kernel, or to the transport what it does not take, at the time that counts as `sent`; False
        when the connection is dead."""
        self._sent = sent = perf_counter_ns()
        self._deadline = deadline = sent + self._timeout_ns
        if deadline < self._wake:
            self._set_timer(sent)
        if self._transport is None:
            return False
        size = len(data)
        try:
            if self._seal is not None:
                data = self._seal(data)
            if self._sock is not None:  # now, where a transport would wait for the loop's next turn
                data = data[self._sock.send(data, _NO_SIGNAL) :]
        except (BlockingIOError, InterruptedError):
            pass  # nothing was taken
        except (OSError, ssl.SSLError):
            return False
        if data:
            self._sock = None  # from here on the transport keeps the order
            self._transport.write(data)
        self.bytes_sent += size
        return True

    def hold(self, request: bytes) -> None:
        """Write all but the last byte of a request over a warm connection."""
        if self._done is not None:
            return
        self._early = None
        self._withheld = request[-1:]
        self._done = self._keep_early
        if self._transport is None or self._stale() or not self._start(request[:-1]):
            self._sent = 0
            self._fail(Fault.NOT_SENT, "the connection was closed before the release")

    def _keep_early(self, reply: Reply) -> None:
        self._early = reply
        self._drop()  # the server still waits for a byte that is not sent any more

    def release(self, done: Done) -> None:
        """Write the withheld byte; whatever ended the request before is handed on as its reply."""
        if self._done != self._keep_early:
            early, self._early = self._early, None
            self._later(done, early or not_sent("nothing was held"))
            return
        self._done = done
        self._first = 0
        if not self._start(self._withheld):
            self._done = partial(self._later, done)
            self._fail(Fault.RESET, "closed before any reply")

    @staticmethod
    def _later(done: Done, reply: Reply) -> None:
        """Hand on a reply from outside the caller's stack, so that sending in call-backs never recurses."""
        asyncio.get_running_loop().call_soon(done, reply)

    # -- receiving

    def data_received(self, data: bytes) -> None:
        now = perf_counter_ns()
        if not self._sent:  # nobody asked
            self._drop()
            return
        size = len(data)
        if not self._first:
            end = data.find(b"\r\n\r\n") + 4
            known = _heads.get(data[:end])
            if known is not None and known[1] == size - end and not self._head:
                self._answer(known[0], data[end:], now, now, size)  # nearly always: the parser is not even asked
                return
            self._first = now
        self._arrived += size
        try:
            if self._in_body:
                self._parser.feed_data(data)
            else:
                self._feed_head(data)
        except httptools.HttpParserUpgrade:
            self._closing = True
        except httptools.HttpParserError:
            self._closing = True
            if not (self._complete or self._oversize):
                self._fail(Fault.MALFORMED, "the answer is not HTTP")
                return
        if self._oversize:
            self._fail(Fault.OVERSIZE, "the reply's head or body is above the limit")
        elif self._complete:
            self._learn(data)
            self._finish(now)

    def _learn(self, data: bytes) -> None:
        """Remember the head of a reply that came in one piece and whose length it told, as the parser understood it."""
        if self._head is not data or self._closing:
            return
        end = data.find(b"\r\n\r\n") + 4
        if data[end:] == self._body:
            if len(_heads) >= HEADS:
                _heads.clear()
            _heads[data[:end]] = self._status, len(data) - end

    def _feed_head(self, data: bytes) -> None:
        if not self._head and len(data) <= MAX_HEAD:  # nearly always
            self._head = data
            self._parser.feed_data(data)
            return
        room = MAX_HEAD - len(self._head)
        self._head += data[:room]
        if len(data) <= room:
            self._parser.feed_data(data)
            return
        self._parser.feed_data(data[:room])  # exactly the limit, so that the result does not hang on how bytes arrive
        if self._in_body:
            self._parser.feed_data(data[room:])
        else:
            self._oversize = True

    def on_message_begin(self) -> None:
        if self._complete:  # a second reply to one request
            self._closing = True

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        self._in_body = True
        self._status = self._parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        if self._complete:
            return
        if not self._body:
            self._body = part
        elif isinstance(self._body, bytearray):
            self._body += part
        else:
            self._body = bytearray(self._body) + part
        if len(self._body) > MAX_BODY:
            self._oversize = True

    def on_message_complete(self) -> None:
        if self._complete:
            return
        if self._status < 200 and self._status != 101:
            self._in_body = False
            return
        self._complete = True
        if self._status == 101 or not self._parser.should_keep_alive():
            self._closing = True

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is None:
            return
        now = perf_counter_ns()
        until_close = self._in_body and exc is None and not is_framed(self._head)
        self._drop()
        self._trust = 0  # a server that leaves unannounced is looked at before every send from now on
        if not self._sent:
            return
        if until_close and not self._oversize:
            self._complete = True
            self._finish(now)
        elif self._first:
            self._fail(Fault.RESET, "closed in the middle of the reply")
        else:
            self._fail(Fault.RESET, "closed before any reply")

    # -- finishing

    def _finish(self, now: int) -> None:
        """Hand on the reply that the parser has read."""
        if self._closing:
            self._drop()
        status, body, sent, first, arrived = self._status, bytes(self._body), self._sent, self._first, self._arrived
        self._forget()
        self._sent = sent
        self._answer(status, body, first, now, arrived)

    def _answer(self, status: int, body: bytes, first: int, now: int, arrived: int) -> None:
        """Be ready for the next request, then hand on the reply to this one."""
        done, self._done = self._done, None
        sent, self._sent = self._sent, 0
        waited, self._waited = self._waited, NO_WAIT
        self._last = now
        if done is not None:
            done(_reply(Reply, (status, body, sent, first, now, None, "", waited[0], waited[1], arrived)))

    def _fail(self, fault: Fault, detail: str) -> None:
        """End the request in flight without a reply; the connection is of no more use."""
        self._drop()
        done = self._done
        reply = Reply(0, b"", self._sent, self._first, perf_counter_ns(), fault, detail, *self._waited, self._arrived)
        self._waited = NO_WAIT
        self._done = None
        self._forget()
        if done is not None:
            done(reply)

    def abort(self, detail: str = "given up", *, fault: Fault = Fault.ABORTED) -> None:
        """Give up the request in flight, even if it still waits for its connection; closes."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._done is not None:
            self._fail(fault if self._sent or fault is Fault.ABORTED else Fault.NOT_SENT, detail)
        self._drop()

    def close(self) -> None:
        """Close the connection and its timer, ending what is in flight."""
        self.abort("the connection was closed")
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._wake = None, NEVER

    def _drop(self) -> None:
        transport, self._transport, self._sock = self._transport, None, None
        if transport is not None:
            transport.set_protocol(_DEAF)
            transport.abort()

    # -- time

    def _set_timer(self, now: int) -> None:
        """One timer for a connection, moved on when it fires: cheaper than one for each request."""
        if self._timer is not None:
            self._timer.cancel()
        self._wake = self._deadline
        delay = max(0, self._deadline - now) / 1e9
        self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer, self._wake = None, NEVER
        if not self._sent:
            return
        now = perf_counter_ns()
        if now >= self._deadline:
            self._fail(Fault.TIMEOUT, f"no complete reply in {self.timeout:g} s")
        else:
            self._set_timer(now)
