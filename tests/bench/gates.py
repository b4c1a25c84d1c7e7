"""Races against the local stack: every gate judged again and again beside k6, pools told apart, and the pace."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision import bundled, saved
from provision.local import stack as local
from provision.rundir import ROOT

K6 = shutil.which("k6", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
STACK = f"bench-{os.getpid()}"
FAIL, INCONCLUSIVE = 99, 98
POOLS = (1, 2, 10, 20)
BESIDES = 40
"""Tickets that a race's canary and probes may use besides its rounds."""
Row = dict[str, Any]
Save = Callable[[list[Row]], None]


def run_k6(script: str, **env: str) -> Row:
    """The summary of a k6 script's run."""
    with tempfile.TemporaryDirectory() as name:
        file, summary = Path(name) / "script.js", Path(name) / "summary.json"
        file.write_text(script)
        command = [K6 or "k6", "run", "--quiet", "--no-usage-report", "--summary-export", str(summary), str(file)]
        subprocess.run(command, check=False, capture_output=True, env={**os.environ, **env})
        found: Row = json.loads(summary.read_text())
        return found


@contextlib.contextmanager
def _stack() -> Iterator[None]:
    """One stack for as long as the block lasts, whichever gates and pools it is brought to; nothing of it stays."""
    try:
        with local.lease(STACK):
            yield
    finally:
        local.reset(STACK)


@dataclass(frozen=True, slots=True)
class Night:
    """A folder in which the tool's commands run against a stack, as in CI."""

    folder: Path
    running: local.Stack

    def provision(self, *words: str, codes: tuple[int, ...] = (0,)) -> int:
        """Run a command to its end; its exit code, which must be one of these."""
        target = {"SUPABASE_URL": self.running.tls_url, "SUPABASE_SECRET_KEY": self.running.secret_key}
        env = {**os.environ, **target, "PROVISION_CA_FILE": str(self.running.ca_file), "CI": "true"}
        command = [sys.executable, "-m", "provision", *words]
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        if done.returncode not in codes:
            sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.returncode

    def race(self) -> Row:
        """One run of `race.yaml`: exit code, s of the whole command and of the rounds alone, rounds, estimate."""
        began = time.perf_counter()
        code = self.provision("run-scenario", "-q", "race.yaml", "--json", "s.json", codes=(0, INCONCLUSIVE, FAIL))
        took = time.perf_counter() - began
        race = json.loads((self.folder / "s.json").read_text())["race"]
        results = saved.load(saved.rehearsals(self.folder / ROOT)[0]).results
        raced = [record for record in results.records() if record.round >= 0 and results.parts[record.part].measured]
        rounds_s = (max(r.last for r in raced) - min(r.due for r in raced)) / 1e9
        return {"code": code, "seconds": took, "rounds_s": rounds_s, **race}


@contextlib.contextmanager
def _night(running: local.Stack, scenario: str, *options: str) -> Iterator[Night]:
    """A seeded night; its rows are removed afterwards."""
    with tempfile.TemporaryDirectory() as name:
        night = Night(Path(name), running)
        (night.folder / "race.yaml").write_text(scenario)
        night.provision("seed", "-q", "--for", "race.yaml", *options)
        yield night
        night.provision("teardown", "-q")


def _scenario(gate: local.Gate, rounds: int) -> str:
    """The bundled scenario that this gate is for, its race alone."""
    text = bundled.find("scenarios", gate.scenario or "scanner-burst")[1]
    start = text.index("recipe:") if "recipe:" in text else text.index("request:")
    race = f"scenarios:\n  race: {{ executor: race, vus: 10, rounds: {rounds} }}\n"
    return f"name: race\n{text[start : text.index('scenarios:')]}{race}"


def _k6_found(night: Night) -> bool:
    """Whether k6's race of ten VUs on the race ticket admits more than once; a winner count added for fairness."""
    ticket = json.loads((night.folder / "test-tickets.json").read_text())["raceTestTicket"]["id"]
    script = (
        "import http from 'k6/http'; import { Counter } from 'k6/metrics';\n"
        "const won = new Counter('won');\n"
        "export const options = { scenarios: { race: { executor: 'per-vu-iterations', vus: 10, iterations: 1 } } };\n"
        f"const url = '{night.running.url}/rest/v1/rpc/scan_ticket_atomic';\n"
        "const headers = { 'Content-Type': 'application/json', apikey: __ENV.SUPABASE_SECRET_KEY };\n"
        "export default function () {\n"
        f"  const body = {{ p_ticket_id: '{ticket}', p_scanned_by: null, p_scan_method: 'qr',\n"
        "    p_device_id: `gate-${__VU}` };\n"
        "  const row = http.post(url, JSON.stringify(body), { headers }).json();\n"
        "  if (row[0] && row[0].success) won.add(1);\n"
        "}\n"
    )
    metrics = run_k6(script, SUPABASE_SECRET_KEY=night.running.secret_key)["metrics"]
    return bool(metrics.get("won", {}).get("count", 0) > 1)


def _judged(gate: local.Gate, running: local.Stack, rounds: int) -> Row:
    """One seeded run of a gate, with what k6 says of a broken one."""
    with _night(running, _scenario(gate, rounds)) as night:
        found = night.race()
        asked = K6 and gate.broken and not gate.scenario
        return {**found, "k6": _k6_found(night) if asked else None}


def _detection_row(gate: local.Gate, tried: list[Row]) -> Row:
    codes = Counter(one["code"] for one in tried)
    return {
        "gate": gate.name,
        "broken": gate.broken,
        "runs": len(tried),
        "right": codes[FAIL if gate.broken else 0],
        "codes": dict(codes),
        "rounds": sum(one["rounds"] for one in tried),
        "slowest": max(one["seconds"] for one in tried),
        "median": sorted(one["seconds"] for one in tried)[len(tried) // 2],
        "k6": None if tried[0]["k6"] is None else sum(one["k6"] for one in tried),
    }


def detection(save: Save, known: list[Row], runs: int, rounds: int, correct_rounds: int, gates: list[str]) -> list[Row]:
    """One row a gate: how often we judged it right, the slowest run, and how often k6 found it. Gates that stand in
    `known` with as many runs are not tried again."""
    every = sorted(local.gates().values(), key=lambda gate: (not gate.broken, gate.name))
    wanted = [gate for gate in every if not gates or gate.name in gates]
    if unknown := set(gates) - {gate.name for gate in every}:
        raise SystemExit(f"no such gate: {', '.join(sorted(unknown))}; `provision local gates` lists them")
    kept = {row["gate"]: row for row in known if row["runs"] == runs}
    print("| gate | | judged right | rounds | slowest | found by k6 |\n|---|---|---|---|---|---|")
    with _stack():
        for gate in wanted:
            if gate.name not in kept:
                with local.lease(STACK, gate=gate.name, pool=20) as running:
                    each = rounds if gate.broken else correct_rounds
                    tried = [_judged(gate, running, each) for _ in range(runs)]
                kept[gate.name] = _detection_row(gate, tried)
                save(list(kept.values()))
            print(_detection_line(kept[gate.name]), flush=True)
    correct = [kept[gate.name] for gate in wanted if not gate.broken]
    false = sum(row["codes"].get(FAIL, row["codes"].get(str(FAIL), 0)) for row in correct)
    print(f"\n{false} false FAILs in {sum(row['rounds'] for row in correct):,} rounds over the correct gates")
    return list(kept.values())


def _detection_line(row: Row) -> str:
    kind = "broken" if row["broken"] else "correct"
    k6 = "" if row["k6"] is None else f"{row['k6']} of {row['runs']}"
    right = f"{row['right']} of {row['runs']}"
    return f"| {row['gate']} | {kind} | {right} | {row['rounds']:,} | {row['slowest']:.1f} s | {k6} |"


def pools(save: Save, runs: int, rounds: int, sizes: list[int]) -> list[Row]:
    """One row a pool: what the tool took it for in each run of a correct gate that never answers busy, and its
    verdict."""
    gate = local.gates()["guarded-update"]
    found: list[Row] = []
    print("| pool | requests at once, at least (runs) | exit codes (runs) | release |\n|---|---|---|---|")
    with _stack():
        for pool in sizes:
            with (
                local.lease(STACK, gate=gate.name, pool=pool) as running,
                _night(running, _scenario(gate, rounds), "--tickets", str(runs * (rounds + BESIDES))) as night,
            ):
                tried = [night.race() for _ in range(runs)]
            estimates = [one["concurrency"] or f"unknown: {one['unprobed']}" for one in tried]
            shown = {"estimates": estimates, "codes": [one["code"] for one in tried]}
            found.append({"pool": pool, **shown, "release": tried[0]["release"]})
            save(found)
            cells = [", ".join(f"{value} ({n})" for value, n in Counter(each).items()) for each in shown.values()]
            print(f"| {pool} | {cells[0]} | {cells[1]} | {tried[0]['release']} |", flush=True)
    return found


def pace(save: Save, runs: int) -> list[Row]:
    """The s that 200 rounds of 10 take, from the first request to the last reply, and that the whole command takes."""
    gate = local.gates()["row-lock-nowait"]
    found: list[Row] = []
    with _stack(), local.lease(STACK, gate=gate.name, pool=20) as running:
        for _ in range(runs):
            with _night(running, _scenario(gate, 200)) as night:
                found.append(night.race())
            print("200 rounds of 10: {rounds_s:.1f} s, the whole command {seconds:.1f} s".format(**found[-1]))
            save(found)
    return found
