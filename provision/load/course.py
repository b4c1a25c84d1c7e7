"""The course of a load in one process: all scenarios of the file side by side, each from its start time on."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from provision.errors import ProvisionError
from provision.load import race
from provision.load.arrivals import Arrivals
from provision.load.closed import Crew
from provision.load.executors import ClosedModel
from provision.load.pulse import Pulse
from provision.load.session import Session
from provision.load.spec import AnyExecutor, Race

TICK_NS = 250_000_000


@dataclass(slots=True)
class Course:
    """A load under way: what runs now, and the active VUs of each second."""

    session: Session
    running: dict[str, None] = field(default_factory=dict)
    vus: list[int] = field(default_factory=list)
    crews: dict[str, Crew | Arrivals] = field(default_factory=dict)
    pulse: Pulse = field(default_factory=Pulse)

    async def prepare(self) -> None:
        """Make VUs and parts of all scenarios, and connect those that are to be ready before they begin."""
        for name, executor in self.session.job.scenario.scenarios.items():
            if isinstance(executor, Race):
                continue
            if isinstance(executor, ClosedModel):
                self.crews[name] = Crew(self.session, name, executor)
            else:
                self.crews[name] = Arrivals(self.session, name, executor)
        await asyncio.gather(*(crew.prepare() for crew in self.crews.values()))

    async def run(self, at_tick: Callable[[], None]) -> None:
        """Carry the load out from `session.start` on; `at_tick` is called every quarter of a second and at the end."""
        try:
            async with asyncio.TaskGroup() as group, self.pulse.beating(self.session.timer):
                ticker = group.create_task(self._tick(at_tick))
                scenarios = self.session.job.scenario.scenarios.items()
                tasks = [group.create_task(self._scenario(name, executor)) for name, executor in scenarios]
                if tasks:
                    await asyncio.wait(tasks)
                ticker.cancel()
        except* ProvisionError as failed:
            raise failed.exceptions[0] from None
        self._end_window(at_tick)

    async def _scenario(self, name: str, executor: AnyExecutor) -> None:
        if isinstance(executor, Race) and self.session.share.index:
            return  # the VUs of a race are released together, so all of them are in the first process
        if await self.session.stopped_before(self.session.start + int(executor.startTime * 1e9)):
            return
        self.running[name] = None
        try:
            if isinstance(executor, Race):
                await race.run(self.session, name, executor)
            else:
                await self.crews[name].run()
        finally:
            del self.running[name]

    async def _tick(self, at_tick: Callable[[], None]) -> None:
        number = 0
        while True:
            number += 1
            tick = asyncio.Event()
            self.session.timer.at(self.session.start + number * TICK_NS, tick.set)
            await tick.wait()
            if number % 4 == 0:
                self.vus.append(self.session.active)
            self._end_window(at_tick)

    def _end_window(self, at_tick: Callable[[], None]) -> None:
        self.pulse.window(bytes(self.session.fresh))
        at_tick()

    def so_far(self) -> dict[str, Any]:
        """What this process knows by now besides its records, for `merge`; plain values."""
        session = self.session
        return {
            "samples": [(outcome, status, body) for (outcome, status), body in session.samples.items()],
            "connections": sum(connection.connects for connection in session.connections),
            "bytes_sent": sum(connection.bytes_sent for connection in session.connections),
            "exhausted": list(session.exhausted),
            "dropped": dict(session.dropped),
            "vus": self.vus,
            "active": session.active,
        }

    def summary(self) -> dict[str, Any]:
        """The same at the end, with how the process itself fared."""
        return {"generator": self.pulse.summary(), **self.so_far()}


@contextmanager
def frozen_garbage() -> Iterator[None]:
    """Keep the collector away: what is here stays, and requests leave no cycles behind."""
    was = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was:
            gc.enable()
