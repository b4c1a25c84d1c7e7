"""A gate on loopback in a thread of its own: scans tickets in memory as `scan_ticket_atomic`, with planted faults."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

READ_S = 0.12  # what any read takes
Scan = Callable[["Gate", str], Awaitable[dict[str, Any]]]
ROW = {"success": False, "already_scanned": False, "scanned_at": None, "scanned_by": None, "error_message": None}


@dataclass
class Gate:
    """What the gate holds: how often each ticket was admitted, the requests it saw, and how it behaves."""

    scan: Scan
    tickets: frozenset[str]
    admitted: Counter[str] = field(default_factory=Counter)
    seen: list[dict[str, Any]] = field(default_factory=list)
    port: int = 0
    lose: Callable[[int], bool] = lambda _: False
    """Whether to close the connection after the n-th scan was carried out, without a reply."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    never: asyncio.Event = field(default_factory=asyncio.Event)
    """What nobody sets: it keeps whoever waits for it from being collected as garbage."""
    places: int = 100
    """How many requests it works on at once."""
    workers: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.workers = asyncio.Semaphore(self.places)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


async def correct(gate: Gate, ticket: str) -> dict[str, Any]:
    """One winner; the others hear busy while it works, and already used afterwards."""
    if gate.lock.locked():
        return {"error_message": "Ticket being processed by another scanner"}
    async with gate.lock:
        await asyncio.sleep(0)
        return await racy(gate, ticket)


async def racy(gate: Gate, ticket: str) -> dict[str, Any]:
    """Check, then act: whoever checked before the first one acted is let in as well."""
    used = gate.admitted[ticket] > 0
    await asyncio.sleep(0.002)
    if used:
        return {"already_scanned": True}
    gate.admitted[ticket] += 1
    return {"success": True}


async def instant(gate: Gate, ticket: str) -> dict[str, Any]:
    """Answers at once and says truly who was there before; its record of requests is kept short."""
    gate.seen.clear()
    gate.admitted[ticket] += 1
    return {"success": True} if gate.admitted[ticket] == 1 else {"already_scanned": True}


async def waiting(gate: Gate, ticket: str) -> dict[str, Any]:
    """One winner; the others wait for it and are told that the ticket is used."""
    async with gate.lock:
        return await racy(gate, ticket)


async def silent(gate: Gate, ticket: str) -> dict[str, Any]:
    """Never answers."""
    del ticket
    await gate.never.wait()
    return {}


@contextmanager
def serving(scan: Scan, tickets: Iterator[str] | list[str], **behaviour: Any) -> Iterator[Gate]:
    """A gate that runs while the block does."""
    ready, done = threading.Event(), asyncio.Event()
    gate = Gate(scan, frozenset(tickets), **behaviour)
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        server = await asyncio.start_server(lambda r, w: _connection(gate, r, w), "127.0.0.1", 0)
        gate.port = server.sockets[0].getsockname()[1]
        ready.set()
        await done.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield gate
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()


async def _connection(gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                if head.startswith("GET "):
                    async with gate.workers:
                        await asyncio.sleep(READ_S)
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
                    continue
                length = int(head.lower().split("content-length:")[1].split("\r\n")[0])
                asked = json.loads(await reader.readexactly(length))
                gate.seen.append(asked)
                async with gate.workers:
                    answer = await _answer(gate, asked["p_ticket_id"])
                if gate.lose(len(gate.seen)):
                    return
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(answer), answer))
                await writer.drain()
    finally:
        writer.close()


async def _answer(gate: Gate, ticket: str) -> bytes:
    if ticket not in gate.tickets:
        return json.dumps([ROW | {"error_message": "Ticket not found"}]).encode()
    return json.dumps([ROW | await gate.scan(gate, ticket)]).encode()
