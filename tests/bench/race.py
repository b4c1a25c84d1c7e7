"""How together requests arrive, and how often a race finds a hole, beside the real k6 in one run.

    python tests/bench/race.py spread [--rounds 300] [--netem]      arrival spread at a server, per release mode and k6
    python tests/bench/race.py detection [--runs 20] [--gates …]    broken gates found, correct ones passed
    python tests/bench/race.py pace                                 200 rounds of 10 against the local stack

Each prints a table and writes `bench-race-<command>.json` into the current folder. `--netem` needs root and `ip` and
`tc`: the server then stands behind 40 ± 10 ms in a network namespace of its own, removed afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from servers import Authority

from provision import bundled
from provision.load.channel import open_channel
from provision.load.http import Origin, request_bytes, request_head
from provision.local import stack as local

MODES = ("single-packet", "last-byte", "barrier")
NAMESPACE, OURS, THEIRS = "provision-bench", "10.77.0.1", "10.77.0.2"
K6 = shutil.which("k6", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


# -- the server of `spread`: notes when the last byte of each request was read


class Server(asyncio.Protocol):
    """HTTP/2 or HTTP/1.1, as ALPN has it; the path is the round."""

    arrivals: list[tuple[str, int]] = []  # noqa: RUF012 - one server a process

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.h2 = None
        self.buffer = b""
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
            self.paths: dict[int, str] = {}
            self.h2.initiate_connection()
            transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        now = perf_counter_ns()
        if self.h2 is not None:
            self._http2(data)
            return
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if separator and len(body) >= int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
            self.arrivals.append((head.split()[1].decode(), now))
            self.buffer = b""
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def _http2(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, RequestReceived):
                self.paths[event.stream_id] = dict(event.headers)[":path"]
            elif isinstance(event, DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                self.arrivals.append((self.paths[event.stream_id], perf_counter_ns()))
                self.h2.send_headers(event.stream_id, [(":status", "200")])
                self.h2.send_data(event.stream_id, b"ok", end_stream=True)
        self.transport.write(self.h2.data_to_send())


async def _serve(folder: Path, host: str) -> None:
    """Serve until stdin ends, then print what arrived when."""
    context = Authority.create(folder).server("127.0.0.1", THEIRS)
    context.set_alpn_protocols(["h2", "http/1.1"])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, host, 0, ssl=context, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    print(json.dumps(Server.arrivals))
    sys.stdout.flush()
    os._exit(0)  # open connections are of no more interest


@contextlib.contextmanager
def _server(folder: Path, netem: bool) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    host = THEIRS if netem else "127.0.0.1"
    prefix = ["ip", "netns", "exec", NAMESPACE] if netem else []
    command = [*prefix, sys.executable, __file__, "serve", str(folder), host]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"https://{host}:{int(process.stdout.readline())}", process
        finally:
            process.kill()


@contextlib.contextmanager
def _namespace() -> Iterator[None]:
    """A namespace behind 40 ± 10 ms on the way there; the way back is as fast as loopback."""

    def run(*words: str) -> None:
        if subprocess.run(words, check=False).returncode:
            sys.exit(f"no network to delay on this machine: {' '.join(words)}")

    run("ip", "netns", "add", NAMESPACE)
    try:
        run("ip", "link", "add", "pb0", "type", "veth", "peer", "name", "pb1", "netns", NAMESPACE)
        run("ip", "addr", "add", f"{OURS}/24", "dev", "pb0")
        run("ip", "link", "set", "pb0", "up")
        run("ip", "-n", NAMESPACE, "addr", "add", f"{THEIRS}/24", "dev", "pb1")
        run("ip", "-n", NAMESPACE, "link", "set", "pb1", "up")
        run("ip", "-n", NAMESPACE, "link", "set", "lo", "up")
        run("tc", "qdisc", "add", "dev", "pb0", "root", "netem", "delay", "40ms", "10ms", "limit", "10000")
        yield
    finally:
        run("ip", "netns", "del", NAMESPACE)


def spreads(arrivals: list[list[Any]], size: int) -> list[float]:
    """Last minus first arrival of each round that arrived in full, in ms."""
    rounds = defaultdict(list)
    for path, at in arrivals:
        rounds[path].append(at)
    return [(max(times) - min(times)) / 1e6 for path, times in rounds.items() if len(times) == size and path != "/warm"]


async def _volleys(url: str, ca: Path, mode: str, size: int, rounds: int) -> None:
    origin = Origin.parse(url, ca)
    channel = await open_channel(origin, mode, size, 10)
    for number in range(rounds):
        head = request_head("POST", f"/{number}", {"apikey": "k", "Content-Type": "application/json"}, origin.authority)
        volley = await channel.fire(
            [request_bytes(head, json.dumps({"p_device_id": f"gate-{vu}"}).encode()) for vu in range(size)]
        )
        assert all(reply.status == 200 for reply in volley.replies), volley.replies
    for link in channel.links:
        link.close()


def _k6_rounds(url: str, size: int, rounds: int, gap_ms: int) -> None:
    """k6's own way: `per-vu-iterations`, one iteration a VU, on connections of its own; rounds one after the other."""
    scenarios = {
        f"r{n}": {
            "executor": "per-vu-iterations",
            "vus": size,
            "iterations": 1,
            "startTime": f"{n * gap_ms}ms",
            "env": {"R": str(n)},
        }
        for n in range(rounds)
    }
    options = {"scenarios": scenarios, "insecureSkipTLSVerify": True, "noVUConnectionReuse": True}
    script = (
        "import http from 'k6/http';\n"
        f"export const options = {json.dumps(options)};\n"
        "export default function () {\n"
        f"  http.post(`{url}/${{__ENV.R}}`, JSON.stringify({{ p_device_id: `gate-${{__VU}}` }}));\n"
        "}\n"
    )
    _k6(script)


def _k6(script: str, **env: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".js") as file:
        file.write(script)
        file.flush()
        command = [
            K6 or "k6",
            "run",
            "--quiet",
            "--no-usage-report",
            "--summary-export",
            f"{file.name}.json",
            file.name,
        ]
        try:
            subprocess.run(command, check=False, capture_output=True, env={**os.environ, **env})
            return Path(f"{file.name}.json").read_text()
        finally:
            Path(f"{file.name}.json").unlink(missing_ok=True)


def spread(rounds: int, netem: bool) -> list[dict[str, Any]]:
    """One row for each place, size and release."""
    found = []
    for where in ("loopback", "40 ± 10 ms") if netem else ("loopback",):
        far = where != "loopback"
        with _namespace() if far else contextlib.nullcontext():
            for size in (10,) if far else (10, 30):
                for mode in (*MODES, "k6"):
                    count = rounds if mode != "k6" else max(10, rounds // 6)
                    values = _one_spread(mode, size, count, far)
                    found.append(
                        {"where": where, "requests": size, "release": mode, "rounds": len(values)} | _summary(values)
                    )
                    print(
                        "{where:>12} {requests:>4} {release:<14} {rounds:>5} {median:>8.3f} {p95:>8.3f} ms".format(
                            **found[-1]
                        )
                    )
    return found


def _one_spread(mode: str, size: int, rounds: int, far: bool) -> list[float]:
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder), far) as (url, process):
        if mode == "k6":
            _k6_rounds(url, size, rounds, 600 if far else 200)
        else:
            uvloop.run(_volleys(url, Path(folder) / "ca.pem", mode, size, rounds))
        said, _ = process.communicate("")
    return spreads(json.loads(said), size)


def _summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"median": statistics.median(ordered), "p95": ordered[int(0.95 * len(ordered))]}


# -- detection


def _scenario(gate: local.Gate, rounds: int) -> str:
    """The bundled scenario that this gate is for, its race alone."""
    text = bundled.find("scenarios", gate.scenario or "scanner-burst")[1]
    start = text.index("recipe:") if "recipe:" in text else text.index("request:")
    race = f"scenarios:\n  race: {{ executor: race, vus: 10, rounds: {rounds}, stopOnBroken: true }}\n"
    return f"name: race\n{text[start : text.index('scenarios:')]}{race}"


def _provision(folder: Path, *words: str, env: dict[str, str]) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "provision", *words], cwd=folder, env=env, capture_output=True, check=False
    )
    return done.returncode


def _ours(gate: local.Gate, running: local.Stack, rounds: int) -> dict[str, Any]:
    """One seeded run: its exit code and how long the scenario took, in s."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "race.yaml").write_text(_scenario(gate, rounds))
        target = {"SUPABASE_URL": running.tls_url, "SUPABASE_SECRET_KEY": running.secret_key}
        env = {**os.environ, **target, "PROVISION_CA_FILE": str(running.ca_file)}
        assert _provision(folder, "seed", "-q", "--for", "race.yaml", env=env) == 0
        began = time.perf_counter()
        code = _provision(folder, "run-scenario", "-q", "race.yaml", "--json", "s.json", env=env)
        took = time.perf_counter() - began
        race = json.loads((folder / "s.json").read_text())["race"]
        k6 = _k6_found(folder, running) if K6 and not gate.scenario else None
        assert _provision(folder, "teardown", "-q", env=env) == 0
    return {"code": code, "seconds": took, "k6": k6, "rounds": race["rounds"]}


def _k6_found(folder: Path, running: local.Stack) -> bool:
    """Whether k6's race of ten VUs on the race ticket admits more than once; a winner count added for fairness."""
    ticket = json.loads((folder / "test-tickets.json").read_text())["raceTestTicket"]["id"]
    script = (
        "import http from 'k6/http'; import { Counter } from 'k6/metrics';\n"
        "const won = new Counter('won');\n"
        "export const options = { scenarios: { race: { executor: 'per-vu-iterations', vus: 10, iterations: 1 } } };\n"
        f"const url = '{running.url}/rest/v1/rpc/scan_ticket_atomic';\n"
        "const headers = { 'Content-Type': 'application/json', apikey: __ENV.SUPABASE_SECRET_KEY };\n"
        "export default function () {\n"
        f"  const body = {{ p_ticket_id: '{ticket}', p_scanned_by: null, p_scan_method: 'qr',\n"
        "    p_device_id: `gate-${__VU}` };\n"
        "  const row = http.post(url, JSON.stringify(body), { headers }).json();\n"
        "  if (row[0] && row[0].success) won.add(1);\n"
        "}\n"
    )
    metrics = json.loads(_k6(script, SUPABASE_SECRET_KEY=running.secret_key))["metrics"]
    return metrics.get("won", {}).get("count", 0) > 1


def detection(runs: int, only: list[str], rounds: int) -> list[dict[str, Any]]:
    """One row a gate: how often we judged it right, the slowest run, and how often k6 found it."""
    found = []
    gates = {name: gate for name, gate in local.gates().items() if not only or name in only}
    for name, gate in sorted(gates.items(), key=lambda item: (not item[1].broken, item[0])):
        with local.lease(f"bench-{os.getpid()}", gate=name, pool=20) as running:
            tried = [_ours(gate, running, rounds) for _ in range(runs)]
        row = {
            "gate": name,
            "broken": gate.broken,
            "right": sum(one["code"] == (99 if gate.broken else 0) for one in tried),
            "false_fail": sum(one["code"] == 99 and not gate.broken for one in tried),
            "runs": runs,
            "rounds": sum(one["rounds"] for one in tried),
            "slowest": max(one["seconds"] for one in tried),
            "k6": None if tried[0]["k6"] is None else sum(one["k6"] for one in tried),
        }
        found.append(row)
        print(
            "{gate:<26} right {right:>3} of {runs}  slowest {slowest:>5.1f} s  {rounds:>6} rounds  k6 {k6}".format(
                **row
            )
        )
    local.reset(f"bench-{os.getpid()}")
    return found


def pace() -> list[dict[str, Any]]:
    """Wall time of 200 rounds of 10 with everything around them but the start of the tool."""
    gate = local.gates()["row-lock-nowait"]
    with local.lease(f"bench-{os.getpid()}", gate=gate.name, pool=20) as running:
        seconds = [_ours(gate, running, 200)["seconds"] for _ in range(3)]
    local.reset(f"bench-{os.getpid()}")
    print(f"200 rounds of 10: {min(seconds):.1f} to {max(seconds):.1f} s, the command's start included")
    return [{"seconds": seconds}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("spread")
    one.add_argument("--rounds", type=int, default=300)
    one.add_argument("--netem", action="store_true")
    two = commands.add_parser("detection")
    two.add_argument("--runs", type=int, default=20)
    two.add_argument("--rounds", type=int, default=200)
    two.add_argument("--gates", nargs="*", default=[])
    commands.add_parser("pace")
    served = commands.add_parser("serve")
    served.add_argument("folder", type=Path)
    served.add_argument("host")
    given = vars(parser.parse_args())
    command = given.pop("command")
    if command == "serve":
        uvloop.run(_serve(given["folder"], given["host"]))
        return
    rows = {"spread": spread, "detection": lambda runs, rounds, gates: detection(runs, gates, rounds), "pace": pace}[
        command
    ](**given)
    Path(f"bench-race-{command}.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
