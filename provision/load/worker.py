"""A further process of a run: carries its share of the load and sends its records home; started by `workers.py`."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import traceback
from typing import Any

import uvloop

from provision.load.course import Course, frozen_garbage
from provision.load.guard import guarded
from provision.load.outcomes import classifier
from provision.load.pool import Pool
from provision.load.results import CANARY
from provision.load.session import Job, Session
from provision.load.workers import ABORT, END, ERROR, READY, RECORDS, SO_FAR, START, STOP, Order, frame, read_frame


def main() -> None:
    """Work until the load is over; the terminal's signals go to the first process, which passes them on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    uvloop.run(_main())


class _Home(asyncio.Protocol):
    """The pipe to the first process; writing never waits for it."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    def send(self, kind: bytes, content: bytes = b"") -> None:
        self.transport.write(frame(kind, content))


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    _, home = await loop.connect_write_pipe(_Home, sys.stdout.buffer)
    try:
        await _work(reader, home)
    except Exception:  # noqa: BLE001 - the first process decides what its user sees of it
        home.send(ERROR, traceback.format_exc().encode())
    home.transport.close()
    await home.lost.wait()


async def _work(reader: asyncio.StreamReader, home: _Home) -> None:
    order = Order(*pickle.loads((await read_frame(reader))[1]))  # noqa: S301 - the process that started us wrote it
    classify = classifier(order.scenario.outcomes)
    job = Job(
        order.scenario,
        order.origin,
        order.template,
        classify,
        order.tickets,
        order.values,
        order.seed,
        started=order.started,
    )
    pool = Pool(len(order.tickets), reuse=order.scenario.tickets == "reuse", shared=order.pool)
    session = Session(job, pool, order.share, order.began)
    session.part(CANARY, CANARY, 1, measured=False)  # so that parts have the same numbers everywhere

    def flush() -> None:
        home.send(RECORDS, bytes(session.fresh))
        session.fresh.clear()
        home.send(SO_FAR, pickle.dumps(course.so_far()))

    course = Course(session)
    begin: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    listener = asyncio.create_task(_listen(reader, session, begin))
    try:
        await course.prepare()
        with frozen_garbage(), guarded(session):
            home.send(READY)
            session.start = await begin
            await course.run(flush)
        home.send(END, pickle.dumps(course.summary()))
    finally:
        listener.cancel()
        session.close()


async def _listen(reader: asyncio.StreamReader, session: Session, begin: asyncio.Future[int]) -> None:
    """Begin and stop when told to; vanish when there is nobody left to tell."""
    while True:
        try:
            kind, content = await read_frame(reader)
        except asyncio.IncompleteReadError:
            os._exit(1)
        if kind == START:
            begin.set_result(int.from_bytes(content, "little"))
        elif kind == STOP:
            session.stopping.set()
        elif kind == ABORT:
            session.give_up()


if __name__ == "__main__":
    main()
