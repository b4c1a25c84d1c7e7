"""Teardown removes exactly what a run made, says what it cannot remove, and does no harm when it is run again."""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime

from commands import Database, Place, target_environment, until

from provision import bundled
from provision.local.stack import Stack


def _seed_two(place: Place) -> tuple[str, str]:
    """Two runs; the second is the latest, so it begins in a later second than the first."""
    assert place.run("seed", "--tickets", "3").code == 0
    first = place.runs()[0]
    until(lambda: f"{datetime.now(UTC):%Y%m%d-%H%M%S}" > first[:15], "the next second")
    assert place.run("seed", "--tickets", "3").code == 0
    return first, place.runs()[1]


def test_teardown_twice_does_no_harm(place: Place, database: Database) -> None:
    before = database.rows()
    assert place.run("seed", "--tickets", "3").code == 0
    run = place.runs()[0]
    assert place.run("teardown").code == 0
    by_default, by_name = place.run("teardown"), place.run("teardown", "--run", run)
    assert (by_default.code, by_default.out) == (0, "nothing to remove: every run of this folder is clean\n")
    assert by_name.code == 0, by_name
    assert re.search(r"tickets +0 found +0 removed +0 left", by_name.out)
    assert database.rows() == before


def test_a_dry_run_counts_and_removes_nothing(place: Place, database: Database) -> None:
    assert place.run("seed", "--tickets", "3").code == 0
    seeded, manifest = database.rows(), place.manifest()
    done = place.run("teardown", "--dry-run")
    assert done.code == 0, done
    assert "would remove" in done.out
    assert re.search(r"tickets +4 found", done.out)
    assert re.search(r"event_checklist +8 found", done.out)
    assert (database.rows(), place.manifest()) == (seeded, manifest)
    assert place.run("teardown").code == 0


def test_all_removes_every_run_of_the_folder_and_no_other(place: Place, database: Database) -> None:
    before = database.rows()
    first, second = _seed_two(place)
    latest = place.run("teardown", "--dry-run")
    assert second in latest.out
    assert first not in latest.out
    done = place.run("teardown", "--all")
    assert done.code == 0, done
    assert done.out.count("nothing is left") == 2
    assert database.rows() == before


def test_teardown_of_one_run_leaves_the_other(place: Place, database: Database) -> None:
    first, second = _seed_two(place)
    both = database.rows()
    assert place.run("teardown", "--run", second).code == 0
    one = database.rows()
    assert {name: len(rows) for name, rows in one.items() if len(rows) < len(both[name])} != {}
    assert [row for row in both["events"] if first in row] == [row for row in one["events"] if "Rehearsal" in row]
    assert place.run("teardown", "--run", first).code == 0


def _no_reader() -> None:
    """As in `provision teardown | head -1`, once head has its line."""
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(reading)


def test_a_strangers_row_that_hangs_on_ours_is_named_and_kept(place: Place, database: Database) -> None:
    assert place.run("seed", "--tickets", "3").code == 0
    event = place.json()["environment_variables"]["TEST_EVENT_ID"]
    order = "00000000-0000-4000-8000-00000000a77a"
    values = f"'{order}', '{event}', 'by@hand.example', 1, 1"
    database(f"insert into orders (id, event_id, purchaser_email, subtotal, total) values ({values})")

    torn = place.run("teardown")
    assert torn.code == 107, torn
    assert "1 row is left" in torn.err
    assert re.search(r"events +1 found +0 removed +1 left", torn.out)
    assert f"not ours, kept: orders {order} references events {event} by event_id" in torn.out
    unread = place.run("teardown", preexec=_no_reader)
    assert unread.code == 107, unread
    assert "1 row is left" in unread.err
    assert event in torn.out
    assert database.holds(f"exists (select from orders where id = '{order}')")

    assert place.run("teardown", "--dry-run").code == 0
    database(f"delete from orders where id = '{order}'")
    again = place.run("teardown")
    assert again.code == 0, again
    assert place.run("teardown").out.startswith("nothing to remove")


def test_teardown_refuses_another_target_than_the_run_was_seeded_on(
    place: Place, database: Database, gates_stack: Stack
) -> None:
    assert place.run("seed", "--tickets", "3").code == 0
    seeded = database.rows()
    torn = place.run("teardown", env=target_environment(gates_stack))
    assert torn.code == 104, torn
    assert place.env["SUPABASE_URL"] in torn.err
    assert database.rows() == seeded
    assert place.run("teardown").code == 0


def test_a_manifest_that_a_crash_cut_short_still_serves(place: Place, database: Database) -> None:
    before = database.rows()
    assert place.run("seed", "--tickets", "3").code == 0
    path = place.folder / ".provision" / place.runs()[0] / "manifest.ndjson"
    plan, *_ = path.read_text().splitlines()
    path.write_text(f'{plan}\n{{"event":"ins')
    assert json.loads(plan)["event"] == "plan"
    torn = place.run("teardown")
    assert torn.code == 0, torn
    assert database.rows() == before


def _seed_forgetfully(place: Place) -> int:
    """Seed by a recipe that does not name scan_logs; how many lines the manifest has then."""
    text = bundled.find("seeds", "event-night")[1]
    assert "  scan_logs: ticket_id\n" in text
    (place.folder / "forgetful.yaml").write_text(text.replace("  scan_logs: ticket_id\n", ""))
    assert place.run("seed", "forgetful.yaml", "--tickets", "60").code == 0
    return len(place.manifest())


def _teardown_takes_the_logs(place: Place) -> None:
    torn = place.run("teardown")
    assert torn.code == 0, torn
    assert re.search(r"scan_logs +[1-9]\d* found", torn.out), torn


def test_what_the_app_wrote_where_only_the_scenario_looks_is_removed_as_well(place: Place, database: Database) -> None:
    before = database.rows()
    seeded = _seed_forgetfully(place)
    short = ("--duration", "200ms", "--rounds", "3", "--vus", "2", "--allow-exhaustion")
    for _ in range(2):
        ran = place.run("run-scenario", "quick", *short)
        assert ran.code in {0, 98, 99}, ran
    assert len(database.rows()["scan_logs"]) > len(before["scan_logs"])
    assert [json.loads(line) for line in place.manifest()[seeded:]] == [
        {"event": "written_by_app", "table": "scan_logs", "column": "ticket_id", "parent": "tickets"}
    ]
    _teardown_takes_the_logs(place)
    assert database.rows() == before


def test_a_canary_that_fails_has_announced_its_rows_before_it_made_them(place: Place, database: Database) -> None:
    before = database.rows()
    _seed_forgetfully(place)
    text = bundled.find("scenarios", "quick")[1].replace(
        "{ path: success, equals: true }", "{ path: success, equals: 1 }"
    )
    (place.folder / "wrong.yaml").write_text(text)
    ran = place.run("run-scenario", "wrong.yaml", "--allow-exhaustion")
    assert ran.code == 104, ran
    assert len(database.rows()["scan_logs"]) > len(before["scan_logs"])
    _teardown_takes_the_logs(place)
    assert database.rows() == before
