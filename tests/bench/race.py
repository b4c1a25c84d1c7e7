"""How together requests arrive, and how often a race finds a hole, beside the real k6 in one run.

    python tests/bench/race.py spread [--rounds 300] [--netem]    arrival spread at a server, per release mode and k6
    python tests/bench/race.py detection [--runs 20] [--gates …]  broken gates found, correct ones passed
    python tests/bench/race.py pools [--runs 20]                  what a pool of 1, 2, 10 and 20 is taken for
    python tests/bench/race.py pace [--runs 3]                    200 rounds of 10 against the local stack

Each prints a table as it goes and writes `bench-race-<command>.json` into the current folder; `detection --resume`
leaves out the gates that stand there. What an arrival is says arrivals.py. `--netem` needs root and `ip` and `tc`: the
server then stands behind 40 ± 10 ms in a network namespace of its own, removed afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import uvloop
from arrivals import Arrival
from gates import POOLS, Row, Save, detection, pace, pools, run_k6

from provision.load.channel import open_channel
from provision.load.http import Origin, request_bytes, request_head

MODES = ("single-packet", "last-byte", "barrier", "k6")
NAMESPACE, OURS, THEIRS = "provision-bench", "10.77.0.1", "10.77.0.2"
MOMENTS = ("turn", "read", "parsed")


@contextlib.contextmanager
def _server(folder: Path, far: bool) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    host = THEIRS if far else "127.0.0.1"
    prefix = ["ip", "netns", "exec", NAMESPACE] if far else []
    command = [*prefix, sys.executable, str(Path(__file__).with_name("arrivals.py")), str(folder), host]
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
    vus = {"executor": "per-vu-iterations", "vus": size, "iterations": 1}
    scenarios = {f"r{n}": {**vus, "startTime": f"{n * gap_ms}ms", "env": {"R": str(n)}} for n in range(rounds)}
    options = {"scenarios": scenarios, "insecureSkipTLSVerify": True, "noVUConnectionReuse": True}
    run_k6(
        "import http from 'k6/http';\n"
        f"export const options = {json.dumps(options)};\n"
        "export default function () {\n"
        f"  http.post(`{url}/${{__ENV.R}}`, JSON.stringify({{ p_device_id: `gate-${{__VU}}` }}));\n"
        "}\n"
    )


def spread(save: Save, rounds: int, netem: bool, modes: list[str], sizes: list[int]) -> list[Row]:
    """One row for each place, size and release: median and p95 of last minus first arrival, in ms."""
    found: list[Row] = []
    print("| network | requests | release | rounds | median ms | p95 ms | read (p95) | parsed (p95) |")
    print("|---|---|---|---|---|---|---|---|")
    where = "40 ± 10 ms" if netem else "loopback"
    with _namespace() if netem else contextlib.nullcontext():
        for size in sizes:
            for mode in modes:
                arrivals = _arrivals(mode, size, rounds if mode != "k6" else max(10, rounds // 6), netem)
                found.append({"where": where, "requests": size, "release": mode, **_summary(arrivals, size)})
                save(found)
                print(
                    "| {where} | {requests} | {release} | {rounds} | **{turn[0]:.3f}** | **{turn[1]:.3f}** "
                    "| {read[0]:.3f} ({read[1]:.3f}) | {parsed[0]:.3f} ({parsed[1]:.3f}) |".format(**found[-1]),
                    flush=True,
                )
    return found


def _arrivals(mode: str, size: int, rounds: int, far: bool) -> list[Arrival]:
    with tempfile.TemporaryDirectory() as folder, _server(Path(folder), far) as (url, process):
        if mode == "k6":
            _k6_rounds(url, size, rounds, 600 if far else 200)
        else:
            uvloop.run(_volleys(url, Path(folder) / "ca.pem", mode, size, rounds))
        said, _ = process.communicate("")
    return [Arrival(*arrival) for arrival in json.loads(said)]


def _summary(arrivals: list[Arrival], size: int) -> Row:
    """The rounds that arrived in full, and of each moment the median and the p95 of their spreads in ms."""
    grouped = defaultdict(list)
    for arrival in arrivals:
        grouped[arrival.path].append(arrival)
    whole = [group for group in grouped.values() if len(group) == size]

    def figures(moment: str) -> tuple[float, float]:
        times = [[getattr(arrival, moment) for arrival in group] for group in whole]
        spreads = sorted((max(each) - min(each)) / 1e6 for each in times)
        return statistics.median(spreads), spreads[int(0.95 * len(spreads))]

    return {"rounds": len(whole), **{moment: figures(moment) for moment in MOMENTS}}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("spread")
    one.add_argument("--rounds", type=int, default=300)
    one.add_argument("--netem", action="store_true")
    one.add_argument("--modes", nargs="*", default=MODES, choices=MODES)
    one.add_argument("--sizes", nargs="*", type=int, default=[10, 30])
    two = commands.add_parser("detection")
    two.add_argument("--runs", type=int, default=20)
    two.add_argument("--rounds", type=int, default=200)
    two.add_argument("--correct-rounds", type=int, default=75)
    two.add_argument("--gates", nargs="*", default=[])
    two.add_argument("--resume", action="store_true")
    three = commands.add_parser("pools")
    three.add_argument("--runs", type=int, default=20)
    three.add_argument("--rounds", type=int, default=5)
    three.add_argument("--sizes", nargs="*", type=int, default=POOLS)
    four = commands.add_parser("pace")
    four.add_argument("--runs", type=int, default=3)
    return parser


def main() -> None:
    given = vars(_parser().parse_args())
    command = given.pop("command")
    file = Path(f"bench-race-{command}.json")
    if command == "detection":
        given["known"] = json.loads(file.read_text()) if given.pop("resume") and file.exists() else []
    commands = {"spread": spread, "detection": detection, "pools": pools, "pace": pace}
    commands[command](lambda rows: file.write_text(json.dumps(rows, indent=2) + "\n"), **given)


if __name__ == "__main__":
    main()
