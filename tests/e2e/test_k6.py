"""The real k6 runs a script on our ticket file unchanged."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest
from commands import Database, Place

K6 = Path(sysconfig.get_path("scripts")) / "k6"
SCRIPT = Path(__file__).parent / "scan.js"


@pytest.mark.k6
def test_a_k6_script_scans_the_tickets_of_our_file(place: Place, database: Database) -> None:
    assert place.run("seed", "--tickets", "20", "--env", "night.env").code == 0
    command = f'source night.env && exec "{K6}" run --no-usage-report --no-color --summary-export k6.json "{SCRIPT}"'
    variables = {**place.env, "TICKETS": str(place.folder / "test-tickets.json"), "HOME": str(place.folder)}
    ran = subprocess.run(
        ["bash", "-euc", command],
        cwd=place.folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    place.said += [ran.stdout, ran.stderr]
    assert ran.returncode == 0, ran.stderr + ran.stdout
    metrics = place.json("k6.json")["metrics"]
    assert (metrics["admitted"]["count"], metrics["race_won"]["count"]) == (20, 1)

    ids = [ticket["id"] for ticket in place.json()["tickets"]]
    race = place.json()["raceTestTicket"]["id"]
    logs = [json.loads(row) for row in database.rows()["scan_logs"]]
    entered = [log["ticket_id"] for log in logs if log["scan_success"] and log["device_id"] == "k6"]
    assert sorted(entered) == sorted([*ids, race])
    scanner = place.json()["environment_variables"]["TEST_SCANNER_ID"]
    assert {log["scanned_by"] for log in logs if log["device_id"] == "k6"} == {scanner}
    assert place.run("teardown").code == 0
