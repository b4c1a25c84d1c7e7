"""The other processes of a run: started, told when to begin and when to stop, their records taken in as they come."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import AsyncExitStack, suppress
from time import perf_counter_ns
from types import TracebackType
from typing import Any, NamedTuple, Self

from provision.errors import ProvisionError
from provision.load.http import Origin
from provision.load.ledger import Ledger
from provision.load.request import Template
from provision.load.session import Session
from provision.load.share import Share
from provision.load.spec import Scenario

HEAD_START_NS = 50_000_000
"""Between the word to begin and the beginning, so that it has reached every process."""
READY, RECORDS, SO_FAR, END, ERROR = b"R", b"D", b"F", b"E", b"X"
START, STOP, ABORT = b"S", b"T", b"A"


class Order(NamedTuple):
    """What a worker is told at first; the request's bytes in the template hold the key, so it goes through a pipe."""

    scenario: Scenario
    origin: Origin
    template: Template
    tickets: Any
    values: Any
    seed: str
    share: Share
    began: int
    pool: int
    started: str


def frame(kind: bytes, content: bytes = b"") -> bytes:
    """A message on the pipes between the processes."""
    return kind + len(content).to_bytes(4, "little") + content


async def read_frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next message; IncompleteReadError when the other side is gone."""
    head = await reader.readexactly(5)
    return head[:1], await reader.readexactly(int.from_bytes(head[1:], "little"))


class Workers:
    """`count` further processes that carry a session's shares 1, 2, …; they end with the block."""

    def __init__(self, session: Session, count: int, ledger: Ledger) -> None:
        self._session = session
        self._count = count
        self._ledger = ledger
        self._processes: list[Process] = []
        self._ready: list[asyncio.Event] = []
        self._tasks: list[asyncio.Task[dict[str, Any]]] = []
        self._messenger: asyncio.Task[None] | None = None
        self.so_far: dict[int, dict[str, Any]] = {}
        """What each worker knew when it last told."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self._end)
            if self._count:
                pool = self._session.pool.share()
                for index in range(1, self._count + 1):
                    await self._spawn(index, pool)
                self._messenger = asyncio.create_task(self._pass_on_the_stop())
            self._undo = undo.pop_all()
        return self

    async def _spawn(self, index: int, pool: int) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "provision.load.worker", stdin=PIPE, stdout=PIPE, stderr=DEVNULL,
                start_new_session=True,  # the terminal's Ctrl-C is for the first process alone
                pass_fds=(pool,), env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
        except OSError as error:
            raise ProvisionError(
                f"Worker process {index} of {self._count} could not be started: {error.strerror}.",
                hint="Raise the limit on processes (ulimit -u), or use fewer: --processes 1",
            ) from error
        self._processes.append(process)
        job, session = self._session.job, self._session
        share = Share(index, self._count + 1)
        order = Order(
            job.scenario,
            job.origin,
            job.template,
            job.tickets,
            job.values,
            job.seed,
            share,
            session.began,
            pool,
            job.started,
        )
        self._ready.append(asyncio.Event())
        self._tell(process, frame(START, pickle.dumps(order)))
        self._tasks.append(asyncio.create_task(self._listen(process, index, self._ready[-1])))
        self._tasks[-1].add_done_callback(self._stop_if_lost)

    async def _listen(self, process: Process, index: int, ready: asyncio.Event) -> dict[str, Any]:
        """Take in what a worker sends; its summary. ProvisionError when it ends before its time."""
        assert process.stdout is not None  # noqa: S101 - it was asked for
        try:
            while True:
                kind, content = await read_frame(process.stdout)
                if kind == READY:
                    ready.set()
                elif kind == RECORDS:
                    self._ledger.add(content)
                elif kind in {SO_FAR, END}:
                    self.so_far[index] = pickle.loads(content)  # noqa: S301 - our own process wrote it
                    if kind == END:
                        return self.so_far[index]
                else:
                    raise RuntimeError(f"a worker process failed:\n{content.decode()}")
        except asyncio.IncompleteReadError:
            raise ProvisionError(
                f"A worker process ended early (exit code {await process.wait()}); the run cannot be judged.",
                hint="Was it killed, for want of memory perhaps? Try again with: --processes 1",
            ) from None
        finally:
            ready.set()

    def _stop_if_lost(self, task: asyncio.Task[dict[str, Any]]) -> None:
        """Without one of them the others' load means nothing."""
        if task.cancelled() or task.exception() is not None:
            self._session.stopping.set()

    async def start(self) -> int:
        """Wait until all are ready and tell them when to begin; that moment (ns)."""
        for ready in self._ready:
            await ready.wait()
        moment = perf_counter_ns() + (HEAD_START_NS if self._count else 0)
        for process in self._processes:
            self._tell(process, frame(START, moment.to_bytes(8, "little")))
        return moment

    async def finish(self) -> list[dict[str, Any]]:
        """Wait until all have ended; what each of them knows."""
        return list(await asyncio.gather(*self._tasks))

    async def _pass_on_the_stop(self) -> None:
        await self._session.stopping.wait()
        self._tell_all(frame(STOP))
        await self._session.giving_up.wait()
        self._tell_all(frame(ABORT))

    def _tell_all(self, message: bytes) -> None:
        for process in self._processes:
            self._tell(process, message)

    @staticmethod
    def _tell(process: Process, message: bytes) -> None:
        if process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(message)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._undo.aclose()

    async def _end(self) -> None:
        if self._messenger is not None:
            self._messenger.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for process in self._processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
