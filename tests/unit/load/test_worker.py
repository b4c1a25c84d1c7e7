"""A further process on its own, its parent played by the test."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import IO

import gate as gates
import pytest
import servers
from gate import Gate
from servers import Authority

from provision import bundled
from provision.fixtures.ids import row_id
from provision.load import spec
from provision.load.http import Origin
from provision.load.pool import Pool
from provision.load.request import Template
from provision.load.results import SIZE
from provision.load.share import Share
from provision.load.workers import END, ERROR, READY, RECORDS, SO_FAR, START, STOP, Order, frame

TICKETS = [row_id("r", 1, n) for n in range(400)]
HEAD = bundled.find("scenarios", "scanner-burst")[1].split("scenarios:")[0]
FOREVER = "scenarios: {burst: {executor: constant-vus, vus: 4, duration: 1h, pause: 10ms}}"


@contextmanager
def worker(gate: Gate, text: str = FOREVER, began: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A worker with the second of two shares, told what to do but not when to begin."""
    scenario = spec.parse(Path("s.yaml"), HEAD + text)
    origin = Origin.parse(gate.url)
    template = Template(scenario.request, origin, {"apikey": "k"}, frozenset({"id"}))
    pool = Pool(len(TICKETS))
    file = pool.share()
    order = Order(
        scenario,
        origin,
        template,
        [{"id": t} for t in TICKETS],
        {},
        "s",
        Share(1, 2),
        perf_counter_ns() if began is None else began,
        file,
        "2026-06-01T20:00:00Z",
    )
    command = [sys.executable, "-P", "-m", "provision.load.worker"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(file,)) as process:
        try:
            tell(process, frame(START, pickle.dumps(order)))
            yield process
        finally:
            process.kill()
            pool.close()


def tell(process: subprocess.Popen[bytes], message: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(message)
    process.stdin.flush()


def heard(stream: IO[bytes] | None) -> tuple[bytes, bytes]:
    """The next message of a worker."""
    assert stream is not None
    head = stream.read(5)
    return head[:1], stream.read(int.from_bytes(head[1:], "little"))


def begin(process: subprocess.Popen[bytes]) -> None:
    assert heard(process.stdout) == (READY, b"")
    tell(process, frame(START, perf_counter_ns().to_bytes(8, "little")))


def test_a_worker_sends_its_records_home_and_stops_when_told() -> None:
    with gates.serving(gates.racy, TICKETS) as gate, worker(gate) as process:
        begin(process)
        kind, records = heard(process.stdout)
        assert kind == RECORDS
        assert len(records) % SIZE == 0
        assert records
        tell(process, frame(STOP))
        while kind != END:
            kind, content = heard(process.stdout)
            records += content if kind == RECORDS else b""
        assert process.wait(10) == 0
        assert len(records) // SIZE == len(gate.seen)
        assert {a["p_device_id"] for a in gate.seen} == {"gate-2", "gate-4"}


def test_a_worker_whose_parent_is_gone_vanishes_at_once() -> None:
    with gates.serving(gates.racy, TICKETS) as gate, worker(gate) as process:
        begin(process)
        assert heard(process.stdout)[0] == RECORDS
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 1


def test_a_worker_that_never_hears_when_to_begin_vanishes_too() -> None:
    with gates.serving(gates.racy, TICKETS) as gate, worker(gate) as process:
        assert heard(process.stdout) == (READY, b"")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 1
        assert gate.seen == []


ARRIVALS = (
    "scenarios: {door: {executor: constant-arrival-rate, rate: 200, duration: 1h, preAllocatedVUs: 20, maxVUs: 20}}"
)


@pytest.mark.parametrize("text", [FOREVER, ARRIVALS])
def test_a_stop_before_the_beginning_is_no_beginning(text: str) -> None:
    with gates.serving(gates.racy, TICKETS) as gate, worker(gate, text) as process:
        assert heard(process.stdout) == (READY, b"")
        tell(process, frame(STOP))
        tell(process, frame(START, (perf_counter_ns() - 1_000_000_000).to_bytes(8, "little")))
        kinds = [heard(process.stdout)[0]]
        while kinds[-1] != END:
            kinds.append(heard(process.stdout)[0])
        assert process.wait(10) == 0
        assert gate.seen == []


def test_a_stop_ends_the_connects_of_a_worker() -> None:
    with servers.full_backlog() as never, worker(Gate(gates.racy, frozenset(), port=never), ARRIVALS) as process:
        tell(process, frame(STOP))
        began = perf_counter_ns()
        begin(process)
        while heard(process.stdout)[0] != END:
            pass
        assert process.wait(10) == 0
        assert perf_counter_ns() - began < 15e9, "a connect may take 30 s"


def test_the_terminals_interrupt_is_left_to_the_parent() -> None:
    with gates.serving(gates.racy, TICKETS) as gate, worker(gate) as process:
        begin(process)
        os.kill(process.pid, 2)
        os.kill(process.pid, 15)
        assert [heard(process.stdout)[0] for _ in range(6)] == [RECORDS, SO_FAR] * 3
        tell(process, frame(STOP))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_origin_goes_to_another_process_and_trusts_the_same_file(scheme: str, authority: Authority) -> None:
    origin = Origin.parse(f"{scheme}://[::1]:8443", authority.file)
    again = pickle.loads(pickle.dumps(origin))  # noqa: S301 - our own
    assert again == origin
    assert (again.tls is not None) == (scheme == "https")
    if again.tls:
        assert again.tls.get_ca_certs() == origin.tls.get_ca_certs()


def test_an_error_in_a_workers_call_back_is_sent_home_and_ends_it() -> None:
    with gates.serving(gates.racy, TICKETS) as gate, worker(gate, began=1 << 80) as process:  # no record can hold that
        begin(process)
        kind, content = heard(process.stdout)
        while kind == RECORDS:
            kind, content = heard(process.stdout)
        assert kind == ERROR
        assert b"struct.error" in content
        assert process.wait(10) == 0
