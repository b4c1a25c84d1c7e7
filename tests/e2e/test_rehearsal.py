"""Seed, run a scenario, tear down, as a person types it."""

from __future__ import annotations

import json
import re
import subprocess

from commands import Database, Place

SHORT = ("quick", "--duration", "1s", "--rounds", "20")
FACTS_KEYS = {"description", "tickets", "raceTestTicket", "setup_instructions", "environment_variables", "notes"}


def test_seed_run_and_teardown_leave_the_database_as_it_was(place: Place, database: Database) -> None:
    before = database.rows()
    seeded = place.run("seed", "--for", "quick")
    assert seeded.code == 0, seeded
    ids = {ticket["id"] for ticket in place.json()["tickets"]} | {place.json()["raceTestTicket"]["id"]}
    ours = [row for row in database.rows()["tickets"] if json.loads(row)["id"] in ids]
    assert len(ours) == len(ids) > 500

    ran = place.run("run-scenario", *SHORT, "--json", "summary.json")
    assert ran.code == 0, ran
    assert "PASS" in ran.out
    assert "Traceback" not in ran.err
    assert place.json("summary.json")["verdict"]["status"] == "PASS"
    assert int(database("select count(*) from tickets where is_used")) > 100

    torn = place.run("teardown")
    assert torn.code == 0, torn
    assert "nothing is left" in torn.out
    assert database.rows() == before


def test_a_row_whose_id_follows_directly_on_ours_is_not_ours(place: Place, database: Database) -> None:
    assert place.run("seed", "--tickets", "5").code == 0
    last = place.json()["raceTestTicket"]["id"]
    neighbour = f"{last[:-2]}{int(last[-2:], 16) + 1:02x}"
    database(f"insert into staff (id, display_name) values ('{neighbour}', 'next door')")
    parent = "from events where name = 'Somebody else''s night'"
    database(
        "insert into tickets (id, event_id, ticket_type_id, order_id, attendee_name, qr_token)"
        f" select '{neighbour}', id, id, id, 'next door', 'next door' {parent}"
    )
    torn = place.run("teardown")
    assert torn.code == 0, torn
    assert database("delete from tickets where attendee_name = 'next door' returning id") == neighbour
    assert database("delete from staff where display_name = 'next door' returning id") == neighbour


def test_progress_and_notes_go_to_stderr_and_quiet_silences_them(place: Place, database: Database) -> None:
    loud = place.run("seed", "--tickets", "3")
    assert "tickets: 4 rows" in loud.err
    assert "tickets: 4 rows" not in loud.out
    assert place.run("teardown", "--quiet").err == ""


def test_a_dry_run_says_what_would_be_made_and_makes_nothing(place: Place, database: Database) -> None:
    before = database.rows()
    done = place.run("seed", "--tickets", "7", "--dry-run")
    assert done.code == 0, done
    assert re.search(r"tickets +8 rows", done.out)
    assert place.files() == []
    assert database.rows() == before


def test_check_finds_a_good_target_ready_and_leaves_nothing(place: Place, database: Database) -> None:
    before = database.rows()
    done = place.run("check", "quick")
    assert done.code == 0, done
    assert "canary: admitted" in done.out
    assert database.rows() == before
    assert place.run("teardown").out == "nothing to remove: every run of this folder is clean\n"


def test_the_ticket_file_has_the_keys_that_k6_scripts_read(place: Place, database: Database) -> None:
    assert place.run("seed", "--tickets", "4").code == 0
    file = place.json()
    assert file.keys() >= FACTS_KEYS
    assert [ticket.keys() >= {"id", "event_id", "type"} for ticket in file["tickets"]] == [True] * 4
    assert file["environment_variables"]["RACE_TEST_TICKET_ID"] == file["raceTestTicket"]["id"]
    assert file["environment_variables"]["TEST_EVENT_ID"] == file["tickets"][0]["event_id"]
    assert file["run"] == place.runs()[0]
    assert database.holds(
        f"(select count(*) = 4 from tickets where event_id = '{file['tickets'][0]['event_id']}') is false"
    )
    assert place.run("teardown").code == 0


def test_the_environment_file_can_be_sourced(place: Place, database: Database) -> None:
    assert place.run("seed", "--tickets", "2", "--env", "night.env").code == 0
    script = 'source night.env && echo "$SUPABASE_URL $TEST_EVENT_ID $TEST_SCANNER_ID $RACE_TEST_TICKET_ID"'
    shell = subprocess.run(["bash", "-euc", script], cwd=place.folder, capture_output=True, text=True, check=True)
    variables = place.json()["environment_variables"]
    wanted = [variables[n] for n in ("SUPABASE_URL", "TEST_EVENT_ID", "TEST_SCANNER_ID", "RACE_TEST_TICKET_ID")]
    assert shell.stdout.split() == wanted
    assert database.holds(f"exists (select from staff where id = '{wanted[2]}')")
    assert place.run("teardown").code == 0
