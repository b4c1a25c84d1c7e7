"""The generator's own pulse: how late its loop is and how much of a core it uses, since its queue must not pass for
the server's latency."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

from provision.load.results import Generator

BEAT = 0.01


class Pulse:
    """Between enter and exit, a beat every 10 ms whose lateness is kept."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._task: asyncio.Task[None] | None = None
        self._wall = self._cpu = 0.0

    async def __aenter__(self) -> Self:
        self._wall, self._cpu = -time.perf_counter(), -time.process_time()
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wall += time.perf_counter()
        self._cpu += time.process_time()
        if self._task:
            self._task.cancel()

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + BEAT
            await asyncio.sleep(BEAT)
            self._late.append(max(0.0, loop.time() - due))

    def summary(self) -> Generator:
        """CPU share (0 to 1 of a core) and lateness in ms; loop time ticks in ms, so less than that is not seen."""
        late = sorted(self._late) or [0.0]
        at = [late[min(len(late) - 1, int(share * len(late)))] * 1000 for share in (0.5, 0.99)]
        return Generator(self._cpu / self._wall if self._wall > 0 else 0.0, at[0], at[1], late[-1] * 1000)
