"""Loads of every kind on the embedded stack, as a person types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from commands import Database, Place

from provision import bundled
from provision.local import stack as local
from provision.local.stack import Stack

HEAD = bundled.find("scenarios", "scanner-burst")[1].split("scenarios:")[0]
ALL_KINDS = {
    "steady": {"executor": "constant-vus", "vus": 3, "duration": "1s", "pause": "100ms"},
    "each": {"executor": "per-vu-iterations", "vus": 3, "iterations": 4},
    "together": {"executor": "shared-iterations", "vus": 3, "iterations": 10, "startTime": "1s"},
    "waves": {
        "executor": "ramping-vus",
        "startVUs": 0,
        "stages": [{"duration": "1s", "target": 4}, {"duration": "500ms", "target": 0}],
        "pause": ["100ms", "200ms"],
    },
    "door": {"executor": "constant-arrival-rate", "rate": 20, "duration": "1s", "preAllocatedVUs": 20},
    "rush": {
        "executor": "ramping-arrival-rate",
        "stages": [{"duration": "1s", "target": 30}],
        "preAllocatedVUs": 20,
        "startTime": "1s",
    },
}


def scenario(place: Place, scenarios: dict[str, Any], more: str = "") -> str:
    """A scenario file with these parts; its name."""
    (place.folder / "load.yaml").write_text(f"{HEAD}{more}scenarios: {json.dumps(scenarios)}\n")
    return "load.yaml"


@pytest.mark.parametrize("processes", ["1", "2"])
def test_every_executor_admits_each_ticket_once(processes: str, place: Place, database: Database) -> None:
    file = scenario(place, ALL_KINDS)
    seeded = place.run("seed", "--for", file)
    assert seeded.code == 0, seeded
    assert "door 20 (20 per 1 s for 1 s)" in seeded.out
    ran = place.run("run-scenario", file, "--processes", processes, "--json", "summary.json")
    assert ran.code in {0, 98}, ran  # on a busy machine the tool may have been late, and says so
    summary = place.json("summary.json")
    assert {p["promise"]: p["status"] for p in summary["promises"] if p["status"] == "FAIL"} == {}
    admitted = sum(outcomes.get("admitted", 0) for outcomes in summary["outcomes"].values())
    assert admitted == sum(sum(outcomes.values()) for outcomes in summary["outcomes"].values())
    assert int(database("select count(*) from tickets where is_used and attendee_name <> 'Somebody'")) == admitted + 1
    assert summary["outcomes"]["each"] == {"admitted": 12}
    assert summary["outcomes"]["together"] == {"admitted": 10}
    assert place.run("teardown").code == 0


def test_too_few_tickets_are_refused_unless_running_out_is_allowed(place: Place, database: Database) -> None:
    file = scenario(place, {"steady": {**ALL_KINDS["steady"], "duration": "20s"}})
    assert place.run("seed", "--tickets", "30").code == 0
    refused = place.run("run-scenario", file)
    assert refused.code == 104
    assert "can use 601 tickets; the file has 30" in refused.err
    assert "--allow-exhaustion" in refused.err
    ran = place.run("run-scenario", file, "--allow-exhaustion")
    assert ran.code == 98, ran
    assert "Tickets ran out in steady" in ran.out
    assert place.run("teardown").code == 0


def test_a_threshold_that_aborts_ends_the_run_with_99(place: Place, database: Database) -> None:
    limits = 'thresholds: {scan_duration: [{threshold: "p(95)<0.001", abortOnFail: true}]}\n'
    file = scenario(place, {"steady": {**ALL_KINDS["steady"], "duration": "60s"}}, limits)
    assert place.run("seed", "--for", file).code == 0
    ran = place.run("run-scenario", file)
    assert ran.code == 99, ran
    assert "ended by the threshold scan_duration p(95)<0.001" in ran.out
    assert place.run("teardown").code == 0


SECOND_COMMITS_LATE = """
create function late() returns trigger language plpgsql as $$
begin
  if (select count(*) > 1 from scan_logs where ticket_id = new.ticket_id and scan_success) then
    perform pg_sleep(2);
  end if;
  return new;
end $$;
create constraint trigger late after insert on scan_logs deferrable initially deferred
  for each row execute function late();
"""


def test_a_second_admission_that_commits_after_its_request_was_given_up_is_found(
    gates_stack: Stack, gates_place: Place, sql: Callable[[Stack, str], str]
) -> None:
    file = scenario(gates_place, {"race": {"executor": "race", "vus": 2, "rounds": 1}})
    path = gates_place.folder / file
    path.write_text(path.read_text().replace("request:", "request:\n  timeout: 1s"))
    with local.lease(gates_stack.name, gate="check-then-act-5ms", pool=20):
        assert gates_place.run("seed", "--for", file).code == 0
        sql(gates_stack, SECOND_COMMITS_LATE)
        try:
            ran = gates_place.run("run-scenario", file)
        finally:
            sql(gates_stack, "drop function late() cascade")
        assert gates_place.run("teardown").code == 0
    assert ran.code == 99, ran
    assert "Waiting for the server to end what had no reply, 1 request (" in ran.err
    assert "the database holds 2 admissions, the replies acknowledged 1" in ran.out
