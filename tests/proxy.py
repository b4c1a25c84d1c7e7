"""A proxy on loopback between the tool and the API that does to requests what networks and hosts do to them."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import urlsplit

Upstream = Callable[[], bytes]
HTML = b"<html><body><h1>520 Web server is returning an unknown error</h1></body></html>"
TIMEOUT = b'{"code":"57014","details":null,"hint":null,"message":"canceling statement due to statement timeout"}'


def reply(status: int, body: bytes = b"", kind: str = "application/json", *more: str) -> bytes:
    """A whole HTTP response."""
    head = [f"HTTP/1.1 {status} -", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *more]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


FAULTS: dict[str, Callable[[Upstream], bytes | None]] = {
    "reset before": lambda upstream: None,
    "reset after": lambda upstream: upstream() and None,
    "reply lost after the commit": lambda upstream: upstream() and b"",
    "truncated": lambda upstream: _half(upstream()),
    "429": lambda upstream: reply(429, b'{"message":"slow down"}', "application/json", "Retry-After: 0"),
    "503": lambda upstream: reply(503, b'{"code":"PGRST003","message":"pool"}', "application/json", "Retry-After: 0"),
    "520": lambda upstream: reply(520, HTML, "text/html"),
    "520 after": lambda upstream: upstream() and reply(520, HTML, "text/html"),
    "57014": lambda upstream: reply(500, TIMEOUT),
    "delay": lambda upstream: threading.Event().wait(0.05) or upstream(),
}
"""What comes back in place of the API's reply: bytes, of which the last may be missing; none for a reset."""


def _half(whole: bytes) -> bytes:
    """A reply that breaks off in its body, or in its head when it has none."""
    head, _, body = whole.partition(b"\r\n\r\n")
    return head + b"\r\n\r\n" + body[: len(body) // 2] if body else head[: len(head) // 2]


@dataclass
class Proxy:
    """Forwards to `url`; `choose` is asked for each request's fault, by its number from 0, and may act itself."""

    url: str
    choose: Callable[[int], str | None]
    faults: Counter[str] = field(default_factory=Counter)
    requests: int = 0

    def __enter__(self) -> Proxy:
        self._lock, self._idle, self._open = threading.Lock(), threading.Condition(), 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def quiet(self) -> None:
        """Return when the last request of clients that have ended was answered: also one that still lay in a buffer."""
        with socket.create_connection(self._listener.getsockname()) as last:
            last.shutdown(socket.SHUT_WR)
            assert last.recv(1) == b""  # accepted after all those before it, and closed
        with self._idle:
            assert self._idle.wait_for(lambda: self._open == 0, timeout=60)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._idle:
                self._open += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            upstream = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
            with closing(upstream), connection, suppress(OSError), connection.makefile("rb") as stream:
                while (request := _read(stream)) and self._answer(connection, upstream, request):
                    pass
        finally:
            with self._idle:
                self._open -= 1
                self._idle.notify_all()

    def _answer(self, connection: socket.socket, upstream: http.client.HTTPConnection, request: Request) -> bool:
        """Answer one request; False when the connection ends with it."""
        with self._lock:
            number, self.requests = self.requests, self.requests + 1
            fault = self.choose(number)
            if fault:
                self.faults[fault] += 1
        forward = lambda: request.forward(upstream)  # noqa: E731
        answer = forward() if fault is None else FAULTS[fault](forward)
        if not answer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        connection.sendall(answer)
        return fault != "truncated"


@dataclass(frozen=True)
class Request:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def forward(self, upstream: http.client.HTTPConnection) -> bytes:
        """The API's reply."""
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in {"host", "accept-encoding"}
        }
        upstream.request(self.method, self.path, self.body or None, headers)
        got = upstream.getresponse()
        body = got.read()
        more = [f"{name}: {got.headers[name]}" for name in ("Content-Range", "Retry-After") if got.headers[name]]
        if got.status == 204:
            return "\r\n".join([f"HTTP/1.1 {got.status} -", *more]).encode() + b"\r\n\r\n"
        return reply(got.status, body, got.headers["Content-Type"] or "application/json", *more)


def _read(stream: BinaryIO) -> Request | None:
    """The next request of a connection; None at its end, be it in the middle of a request."""
    head = []
    while (line := stream.readline()) != b"\r\n":
        if not line.endswith(b"\n"):
            return None
        head.append(line.decode("latin-1"))
    method, path, _ = head[0].split(" ", 2)
    headers = {name: value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    length = int(next((value for name, value in headers.items() if name.lower() == "content-length"), "0"))
    body = stream.read(length)
    return Request(method, path, headers, body) if len(body) == length else None
