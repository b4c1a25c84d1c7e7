"""Our script in the real k6: the same counts as our engine, the same names for the same replies."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from commands import Database, Place

from provision import bundled
from provision.k6 import script
from provision.load import spec
from provision.load.http import Reply
from provision.load.outcomes import classifier

pytestmark = pytest.mark.k6
K6 = Path(sysconfig.get_path("scripts")) / "k6"
NIGHT = (
    bundled.find("scenarios", "quick")[1]
    .replace("name: quick", "name: night")
    .replace("{ executor: constant-vus, vus: 10, duration: 5s, pause: 100ms }",
             "{ executor: per-vu-iterations, vus: 4, iterations: 50, pause: 20ms }")
    .replace("vus: 10, rounds: 60, startTime: 6s", "vus: 6, rounds: 15, startTime: 4s")
    .replace("p(95)<200", "p(95)<2000")
)  # fmt: skip
PARTS = ("scanner_burst", "race_condition")


def _k6(folder: Path, env: dict[str, str], name: str, said: list[str]) -> dict[str, Any]:
    """What k6 says at the end of a script that passes."""
    command = (
        f'source {name}.k6.env && exec "{K6}" run --no-usage-report --no-color --summary-export k6.json {name}.k6.js'
    )
    ran = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=90
    )
    said += [ran.stdout, ran.stderr]
    assert ran.returncode == 0, ran.stderr + ran.stdout
    metrics = json.loads((folder / "k6.json").read_text())["metrics"]
    assert isinstance(metrics, dict)
    return metrics


def _outcomes(metrics: dict[str, Any], part: str) -> dict[str, int]:
    prefix = f"scan_outcomes{{scenario:{part},outcome:"
    counts = {name.removeprefix(prefix)[:-1]: one["count"] for name, one in metrics.items() if name.startswith(prefix)}
    return {outcome: count for outcome, count in counts.items() if count}


def _losers_together(outcomes: dict[str, int]) -> dict[str, int]:
    """Whether a loser of a race hears busy or already used is chance; how many lose is not."""
    found: Counter[str] = Counter()
    for outcome, count in outcomes.items():
        found["lost" if outcome in {"busy", "already_used"} else outcome] += count
    return dict(found)


def test_k6_and_our_engine_count_the_same_and_measure_alike(place: Place, database: Database) -> None:
    (place.folder / "night.yaml").write_text(NIGHT)
    ours, theirs = [], []
    for _ in range(2):
        assert place.run("seed", "--for", "night.yaml").code == 0
        exported = place.run("export", "k6", "night.yaml")
        assert exported.code == 0, exported
        k6 = _k6(place.folder, {**place.env, "HOME": str(place.folder)}, "night", place.said)
        assert place.run("seed", "--for", "night.yaml").code == 0
        ran = place.run("run-scenario", "night.yaml", "--json", "ours.json")
        assert ran.code == 0, ran
        summary = place.json("ours.json")
        assert place.run("teardown", "--all").code == 0

        counts = {part: _losers_together(_outcomes(k6, part)) for part in PARTS}
        assert counts == {"scanner_burst": {"admitted": 200}, "race_condition": {"admitted": 15, "lost": 75}}
        assert counts == {part: _losers_together(summary["outcomes"][part]) for part in PARTS}
        for counter in ("successful_scans", "ticket_not_found", "iterations", "http_reqs"):
            assert k6.get(counter, {"count": 0})["count"] == summary["metrics"][counter]["values"]["count"], counter
        assert k6["scan_errors"]["value"] == summary["metrics"]["scan_errors"]["values"]["rate"] == 0
        theirs.append(k6["scan_duration"]["p(95)"])
        ours.append(summary["metrics"]["scan_duration"]["values"]["p(95)"])
    assert 1 / 3 < min(ours) / min(theirs) < 3, (ours, theirs)


def _row(**fields: Any) -> bytes:
    return json.dumps([{"success": False, "already_scanned": False, "error_message": None, **fields}]).encode()


REPLIES: list[tuple[int, bytes]] = [
    (200, _row(success=True)),
    (200, _row(success=1)),
    (200, _row(success="true")),
    (200, _row(already_scanned=True)),
    (200, _row(error_message="being processed by ANOTHER scanner")),
    (200, _row(error_message="Ticket being processed by another scanner")),
    (200, _row(error_message="Ticket not found")),
    (200, b'{"success": true}'),
    (200, b'[{"success": true}, {"success": true}]'),
    (200, b"true"),
    (200, b"null"),
    (200, b"not JSON"),
    (200, b'{"code": "42883"}'),
    (204, b""),
    (400, b'{"code": "P0001", "message": "no"}'),
    (400, b'{"code": "22P02"}'),
    (401, b"{}"),
    (404, b'{"code": "PGRST202"}'),
    (404, b'{"message": "nowhere"}'),
    (409, b'{"code": "23505"}'),
    (429, b""),
    (500, b'{"code": "55P03"}'),
    (500, b'{"code": "40P01"}'),
    (500, b'{"code": "08006"}'),
    (500, b'{"code": "XX000"}'),
    (500, b"oops"),
    (502, b"<html>"),
    (503, b'{"code": "PGRST003"}'),
    (520, b""),
]


@contextmanager
def _answering(replies: list[tuple[int, bytes]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that gives these replies one after the other, and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            status, body = replies[len(asked)]
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_k6_names_every_reply_as_our_engine_does(tmp_path: Path) -> None:
    source = NIGHT.replace("vus: 4, iterations: 50, pause: 20ms", f"vus: 1, iterations: {len(REPLIES)}")
    source = source.replace(
        "p_scan_method: qr", 'p_scan_method: "{run} {ticket.type} {iter} {vu} {{nothing}} {scanned_at}"'
    )
    source = source[: source.index("  race_condition:")]
    scenario = spec.parse(tmp_path / "night.yaml", source)
    tickets = [{"id": f"t{number}", "event_id": "e", "type": 'V"IP'} for number in range(len(REPLIES))]
    variables = {"TEST_EVENT_ID": "e", "TEST_SCANNER_ID": "s", "SUPABASE_URL": "unused"}
    file = {"run": "the-run", "tickets": tickets, "environment_variables": variables}
    (tmp_path / "tickets.json").write_text(json.dumps(file))
    (tmp_path / "night.k6.js").write_text(script.render(scenario, script="night.k6.js", env="night.k6.env"))
    with _answering(REPLIES) as (url, asked):
        env = script.environment(tmp_path / "tickets.json", {**variables, "SUPABASE_URL": url})
        (tmp_path / "night.k6.env").write_text(env)
        variables = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "SUPABASE_SECRET_KEY": "sb_secret_test"}
        command = f'source night.k6.env && "{K6}" run -q --no-usage-report --out json=points.json night.k6.js'
        subprocess.run(
            ["bash", "-uc", command], cwd=tmp_path, env=variables, capture_output=True, check=False, timeout=60
        )
    points = [json.loads(line) for line in (tmp_path / "points.json").read_text().splitlines()]
    named = [p["data"]["tags"]["outcome"] for p in points if p["type"] == "Point" and p["metric"] == "scan_outcomes"]
    classify = classifier(scenario.outcomes)
    expected = [str(classify(Reply(status, body, 1, 2, 3, None, ""))) for status, body in REPLIES]
    assert dict(enumerate(zip(REPLIES, named, strict=True))) == dict(enumerate(zip(REPLIES, expected, strict=True)))
    assert len({*expected}) >= 9
    asked[1]["p_scan_method"], _, moment = asked[1]["p_scan_method"].rpartition(" ")
    assert 0 < (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds() < 3700
    assert asked[1] == {
        "p_ticket_id": "t1",
        "p_scanned_by": None,
        "p_device_id": "gate-1",
        "p_scan_method": 'the-run V"IP 2 1 {nothing}',
    }


def test_a_script_without_a_key_says_so_and_sends_nothing(tmp_path: Path) -> None:
    scenario = spec.parse(tmp_path / "night.yaml", NIGHT)
    (tmp_path / "test-tickets.json").write_text(json.dumps({"run": "r", "tickets": [], "environment_variables": {}}))
    (tmp_path / "night.k6.js").write_text(script.render(scenario, script="night.k6.js", env="night.k6.env"))
    ran = subprocess.run(
        [K6, "run", "--no-usage-report", "night.k6.js"], cwd=tmp_path, env={"HOME": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode != 0
    assert "Set SUPABASE_SECRET_KEY" in ran.stderr
