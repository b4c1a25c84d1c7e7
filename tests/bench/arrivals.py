"""A server over TLS that notes when requests arrive: one and the same for HTTP/1.1 and HTTP/2, whoever sends.

An arrival is the moment from which the server's process can act on a request: it holds the request's last byte,
decrypted, and has had its turn at it. Requests whose last bytes came in one read are in the process together, but an
honest server takes them up one after the other, in the order of the bytes. So each request is stamped three times:

- `read`: the `recv` that brought its last byte has returned. Of a single packet this says 0: it flatters.
- `turn`: everything before it has been gone through and its end is found: by HTTP/1.1's Content-Length, or by the flag
  END_STREAM of its frame (RFC 9113, 4.1 and 5.1). This is the one that is reported.
- `parsed`: the library h2 has also parsed each frame before it, one by one. That is what a server adds that is written
  in Python throughout, some 15 µs a request; those of C (nghttp2) need less than one.

Replies are written when nothing more is there to be read, so that nobody's arrival waits for another one's reply. The
server is one thread that does nothing else, without the layers of an event loop: what it costs itself, it adds to the
spread of whoever sends over many connections.
"""

from __future__ import annotations

import json
import selectors
import socket
import ssl
import sys
from contextlib import suppress
from itertools import chain
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from servers import Authority

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD, END_STREAM = 9, 0x1
ENDING = {0x0, 0x1}  # the types of frames that can end a stream: DATA, HEADERS


class Arrival(NamedTuple):
    """The path of a request, and the moments (ns) told above."""

    path: str
    read: int
    turn: int
    parsed: int


class Peer:
    """One connection; `take` returns whether it goes on."""

    def __init__(self, sock: ssl.SSLSocket, arrivals: list[Arrival]) -> None:
        self.sock = sock
        self.arrivals = arrivals
        self.h2: H2Connection | None = None
        self.open = False
        self.buffer = b""
        self.paths: dict[int, str] = {}
        self.whole: list[int] = []

    def take(self) -> bool:
        """Shake hands, or read and stamp what there is."""
        try:
            if not self.open:
                self._shake_hands()
            while data := self.sock.recv(65536):
                read = perf_counter_ns()
                self._http2(data, read) if self.h2 else self._http1(data, read)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        return False

    def _shake_hands(self) -> None:
        self.sock.do_handshake()
        self.open = True
        if self.sock.selected_alpn_protocol() == "h2":
            self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
            self.h2.initiate_connection()

    def _http1(self, data: bytes, read: int) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if separator and len(body) >= int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            now = perf_counter_ns()
            self.arrivals.append(Arrival(head.split(b" ", 2)[1].decode(), read, now, now))
            self.whole.append(0)
            self.buffer = b""

    def _http2(self, data: bytes, read: int) -> None:
        assert self.h2 is not None
        self.buffer += data
        frames, turns = [], {}
        while frame := self._frame():
            frames.append(frame)
            if frame[3] in ENDING and frame[4] & END_STREAM and frame[:3] != PREFACE[:3]:
                turns[int.from_bytes(frame[5:9])] = perf_counter_ns()
        for event in chain.from_iterable(map(self.h2.receive_data, frames)):
            if isinstance(event, RequestReceived):
                self.paths[event.stream_id] = dict(event.headers)[":path"]
            elif isinstance(event, DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                number = event.stream_id
                self.arrivals.append(Arrival(self.paths.pop(number), read, turns[number], perf_counter_ns()))
                self.whole.append(number)

    def _frame(self) -> bytes:
        """The next whole frame or the connection's preface; nothing while its end is still to come."""
        size = len(PREFACE) if self.buffer[:3] == PREFACE[:3] else FRAME_HEAD + int.from_bytes(self.buffer[:3])
        if len(self.buffer) < max(size, FRAME_HEAD):
            return b""
        frame, self.buffer = self.buffer[:size], self.buffer[size:]
        return frame

    def answer(self) -> None:
        """Write a reply to each whole request, and what else HTTP/2 has to say."""
        for stream in self.whole:
            if self.h2:
                self.h2.send_headers(stream, [(":status", "200")])
                self.h2.send_data(stream, b"ok", end_stream=True)
        data = self.h2.data_to_send() if self.h2 else ANSWER * len(self.whole)
        self.whole.clear()
        if data:
            self.sock.send(data)


def serve(folder: Path, *hosts: str) -> list[Arrival]:
    """Serve on the first host, with a certificate for all, until stdin ends; what arrived when."""
    context = Authority.create(folder).server(*hosts)
    context.set_alpn_protocols(["h2", "http/1.1"])
    arrivals: list[Arrival] = []
    asked: dict[Peer, None] = {}
    with selectors.DefaultSelector() as selector, socket.create_server((hosts[0], 0), backlog=1024) as listener:
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print(listener.getsockname()[1], flush=True)
        while True:
            for key, _ in selector.select(0 if asked else None) or _answer(asked):
                if key.fileobj is sys.stdin:
                    return arrivals
                if key.data is None:
                    sock = _accept(listener, context)
                    selector.register(sock, selectors.EVENT_READ, Peer(sock, arrivals))
                elif key.data.take():
                    asked[key.data] = None
                else:
                    asked.pop(key.data, None)
                    selector.unregister(key.fileobj)
                    key.data.sock.close()


def _answer(asked: dict[Peer, None]) -> list[Any]:
    """Nothing is there to be read: write what is to be said."""
    for peer in asked:
        with suppress(OSError):  # whoever has left is noticed when it is read from
            peer.answer()
    asked.clear()
    return []


def _accept(listener: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


if __name__ == "__main__":
    print(json.dumps(serve(Path(sys.argv[1]), *sys.argv[2:])))
