"""A server that takes a known time for each request and keeps its own log of it; run as `slow_server.py PORT_FILE`.

`--delays` is `share:milliseconds,…`. GET /log gives what the server measured since the last GET /log; GET /stall/2/6
stops the whole server for two seconds, six seconds from now.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from functools import partial
from pathlib import Path
from time import perf_counter_ns

import uvloop

from provision.audit.metrics import Trend
from provision.load.histogram import Histogram
from provision.load.timer import Timer

BODY = json.dumps(
    [{"success": True, "already_scanned": False, "scanned_at": "2026-06-01T20:00:00+00:00", "error_message": None}]
).encode()


def reply(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


REPLY = reply(BODY)


class Server:
    """The delays to come, and those that were."""

    def __init__(self, delays: list[tuple[float, int]]) -> None:
        self.timer = Timer()
        self.took = Histogram()
        self.pending: list[int] = []
        shares, values = zip(*delays, strict=True)
        self.draw = partial(random.Random(1).choices, values, shares, k=4096)  # noqa: S311
        self.delays: list[int] = []

    def delay(self) -> int:
        if not self.delays:
            self.delays = self.draw()
        return self.delays.pop()

    def log(self) -> bytes:
        self.took.update(self.pending)
        self.pending.clear()
        trend = Trend.of((value / 1e6, times) for value, times in self.took)
        self.took = Histogram()
        shown = {f"p({p})": trend.percentile(p) for p in (50, 95, 99)} if trend.samples else {}
        return json.dumps({"count": trend.samples, **shown}).encode()


class Client(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        began = perf_counter_ns()
        self.buffer += data
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return
        _, there, length = head.lower().partition(b"content-length:")
        if there and len(rest) < int(length.split(b"\r\n", 1)[0]):
            return
        self.buffer = b""
        if head.startswith(b"GET /log"):
            self.transport.write(reply(self.server.log()))
        elif head.startswith(b"GET /stall/"):
            _, _, seconds, later = head.split(b" ")[1].split(b"/")
            asyncio.get_running_loop().call_later(float(later), time.sleep, float(seconds))
            self.transport.write(reply(b"{}"))
        else:
            self.server.timer.at(began + self.server.delay(), partial(self.answer, began))

    def answer(self, began: int) -> None:
        self.transport.write(REPLY)
        pending = self.server.pending
        pending.append(perf_counter_ns() - began)
        if len(pending) > 10_000:
            self.server.took.update(pending)
            pending.clear()


async def serve(port_file: Path, delays: list[tuple[float, int]]) -> None:
    state = Server(delays)
    server = await asyncio.get_running_loop().create_server(lambda: Client(state), "127.0.0.1", 0, backlog=4096)
    temporary = port_file.with_suffix(".tmp")
    temporary.write_text(str(server.sockets[0].getsockname()[1]))
    temporary.rename(port_file)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port_file", type=Path)
    parser.add_argument("--delays", default="0.90:5,0.09:20,0.01:150")
    given = parser.parse_args()
    pairs = [part.split(":") for part in given.delays.split(",")]
    uvloop.run(serve(given.port_file, [(float(share), int(float(ms) * 1e6)) for share, ms in pairs]))
