"""The first process's side of the others: what fails half-way leaves none of them behind."""

from __future__ import annotations

import asyncio
import errno
import os
from asyncio.subprocess import Process
from io import BytesIO
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import pytest

from provision import bundled
from provision.errors import ProvisionError
from provision.load import spec
from provision.load.http import Origin
from provision.load.ledger import Ledger
from provision.load.outcomes import classifier
from provision.load.pool import Pool
from provision.load.request import Template
from provision.load.session import Job, Session
from provision.load.share import Share
from provision.load.workers import Workers

TEXT = bundled.find("scenarios", "scanner-burst")[1].split("scenarios:")[0]
BURST = "scenarios: {burst: {executor: constant-vus, vus: 4, duration: 1h}}"


def session(unsendable: object = None) -> Session:
    """A session of four VUs; `unsendable` is a value of its run."""
    scenario = spec.parse(Path("s.yaml"), TEXT + BURST)
    origin = Origin.parse("http://127.0.0.1:9")
    template = Template(scenario.request, origin, {"apikey": "k"}, frozenset({"id"}))
    job = Job(scenario, origin, template, classifier(scenario.outcomes), [{"id": "t"}], {"x": unsendable}, "s")
    return Session(job, Pool(1), Share(0, 3), perf_counter_ns())


def test_a_worker_does_not_hear_the_terminals_interrupt_even_before_it_can_ignore_it() -> None:
    async def run() -> int:
        job = session()
        try:
            async with Workers(job, 1, Ledger(BytesIO())) as workers:
                return os.getpgid(workers._processes[0].pid)
        finally:
            job.close()
            job.pool.close()

    assert asyncio.run(run()) != os.getpgid(0)


@pytest.mark.parametrize("fault", ["no more processes", "an order that cannot be sent"])
def test_a_worker_that_cannot_be_started_takes_the_others_with_it(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Process] = []
    start = asyncio.create_subprocess_exec
    sendable = fault == "no more processes"

    async def limited(*command: Any, **options: Any) -> Process:
        if started and sendable:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        started.append(await start(*command, **options))
        return started[-1]

    async def run() -> None:
        job = session(None if sendable else lambda: None)
        try:
            async with Workers(job, 2, Ledger(BytesIO())):
                pytest.fail("the load began without them")
        finally:
            job.close()
            job.pool.close()

    monkeypatch.setattr(asyncio, "create_subprocess_exec", limited)
    with pytest.raises(ProvisionError if sendable else Exception) as refused:
        asyncio.run(run())
    if isinstance(refused.value, ProvisionError):
        assert "Worker process 2 of 2 could not be started: Resource temporarily" in str(refused.value)
        assert "--processes 1" in refused.value.hint
    assert len(started) == 1
    assert started[0].returncode is not None
