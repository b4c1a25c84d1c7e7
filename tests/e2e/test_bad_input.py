"""Whatever is wrong is said in one message before anything is written, with the right exit code."""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from commands import Database, Place, plain_environment, target_environment

from provision import bundled
from provision.local.stack import Stack

RECIPE = bundled.find("seeds", "event-night")[1]
SCENARIO = bundled.find("scenarios", "quick")[1]
HOSTED = "https://abcdefghijklmnopqrst.supabase.co"
SEED_RECIPE = ("seed", "recipe.yaml")
RUN_SCENARIO = ("run-scenario", "scenario.yaml", "--tickets", "tickets.json")


@dataclass(frozen=True)
class Case:
    """A command line with one thing wrong: what the message must say and the exit code. `edit` changes one place of
    the recipe or of the scenario."""

    name: str
    command: tuple[str, ...]
    code: int
    says: str
    env: dict[str, str | None] = field(default_factory=dict)
    edit: tuple[str, str] = ("", "")


def _env(name: str, code: int, says: str, **env: str | None) -> Case:
    return Case(name, ("seed",), code, says, env)


def _recipe(name: str, says: str, old: str, new: str, code: int = 104) -> Case:
    return Case(name, SEED_RECIPE, code, says, edit=(old, new))


def _scenario(name: str, says: str, old: str, new: str) -> Case:
    return Case(name, RUN_SCENARIO, 104, says, edit=(old, new))


CASES = [
    Case("no such command", ("sed",), 104, "No such command 'sed'"),
    Case("no such option", ("seed", "--ticket-count", "3"), 104, "No such option: --ticket-count"),
    Case("no tickets at all", ("seed", "--tickets", "0"), 104, "Invalid value for '--tickets'"),
    Case("no such recipe", ("seed", "weding"), 104, r"There is no file 'weding'.\n +Bundled seeds: event-night"),
    Case(
        "no such scenario", ("run-scenario", "fast"), 104, r"There is no file 'fast'.\n +Bundled scenarios: idempotent"
    ),
    Case("seed for no such scenario", ("seed", "--for", "fast"), 104, "no file 'fast'"),
    Case("a folder as ticket file", ("seed", "--out", "."), 104, "is a folder; a file name is needed"),
    Case("a file in no folder", ("seed", "--out", "no/where.json"), 104, "no/where.json: No such file or directory"),
    Case("a file below a file", ("seed", "--out", "recipe.yaml/x.json"), 104, "recipe.yaml/x.json: Not a directory"),
    Case("a summary below a file", (*RUN_SCENARIO, "--json", "recipe.yaml/x"), 104, "recipe.yaml/x: Not a directory"),
    Case(
        "a run that is not there", ("teardown", "--run", "20200101-000000-aaaaa"), 104, "no run '20200101-000000-aaaaa'"
    ),
    Case("one run and all", ("teardown", "--run", "x", "--all"), 104, "--run and --all exclude each other"),
    Case(
        "a faulty gate that is not there", ("demo", "--broken", "chek-then-act"), 104, "did you mean 'check-then-act'"
    ),
    Case("a correct gate as a faulty one", ("demo", "--broken", "row-lock-nowait"), 104, "--broken: unknown gate"),
    _env("a URL without a key", 104, "SUPABASE_SECRET_KEY is not set", SUPABASE_SECRET_KEY=None),
    _env("a key without a URL", 104, "SUPABASE_URL is not set", SUPABASE_URL=None),
    _env("nobody there", 106, "http://127.0.0.1:9 does not answer", SUPABASE_URL="http://127.0.0.1:9"),
    _env("a wrong key", 106, "does not accept the key", SUPABASE_SECRET_KEY="sb_secret_wrong0000000000000000_00000000"),
    _env("a key that is none", 104, "characters that no key has", SUPABASE_SECRET_KEY="a key\nof two lines"),
    _env("a URL with a path", 104, "has a path (/rest/v1)", SUPABASE_URL="http://127.0.0.1:9/rest/v1"),
    _env("plain http to another host", 104, "plain http", SUPABASE_URL="http://staging.example.com"),
    _env("a project that is not known as staging", 106, "PROVISION_STAGING_REFS=abcdefghij", SUPABASE_URL=HOSTED),
    _env(
        "a production project that stands in both lists",
        106,
        "stands in PROVISION_PRODUCTION_REFS",
        SUPABASE_URL=HOSTED,
        PROVISION_STAGING_REFS="abcdefghijklmnopqrst",
        PROVISION_PRODUCTION_REFS="abcdefghijklmnopqrst",
    ),
    _recipe("a recipe with a key twice", "recipe.yaml:11: key 'seed' stands here twice", "locale: en_US", "seed: 3"),
    _recipe("a recipe with an unknown table", "unknown table 'orderz'; did you mean 'orders'", "orders:", "orderz:"),
    _recipe(
        "a recipe with an unknown column", "unknown column 'totl'; did you mean 'total'", "total: 55.00", "totl: 5"
    ),
    _recipe("a recipe with an unknown locale", "recipe.yaml:11: locale: unknown locale 'xx_YY'", "en_US", "xx_YY"),
    _recipe("a recipe with a word for a number", "'cheap' does not fit column 'subtotal'", "50.00", "cheap"),
    _recipe("a recipe with a word for a date", "'soon' does not fit column 'event_date'", '"{day+14}"', "soon"),
    _recipe(
        "a recipe with a value that is too long", "longer than the 20 characters", "[GA, VIP]", f"[{'G' * 21}, VIP]"
    ),
    _recipe("a recipe with a too long later value", "longer than the 20 characters", "[GA, VIP]", f"[GA, {'V' * 21}]"),
    _scenario("a scenario with an odd threshold", r"thresholds.*'p\(95\)<<200' is no threshold", "<200", "<<200"),
    _scenario("a threshold on the wrong type", "scan_errors is a rate: it has rate, not p", "rate<0.001", "p(95)<1"),
    _scenario("a scenario with an unknown outcome", "unknown outcome 'admited'; did", "admitted:", "admited:"),
    _scenario(
        "a scenario with an unknown token",
        r"yaml:8: request\.args\.p_ticket_id: unknown token 'ticket\.idd'",
        "{ticket.id}",
        "{ticket.idd}",
    ),
    _scenario("a scenario with an unknown function", "unknown function 'scan'; ", "scan_ticket_atomic", "scan"),
    _scenario("a scenario with an unknown argument", "unknown argument 'p_ticket'; did", "p_ticket_id:", "p_ticket:"),
    _scenario("a scenario with too few arguments", "needs p_scan_method as well", "    p_scan_method: qr\n", ""),
    _scenario(
        "a truth in no table",
        r"yaml:21: truth\.entries: unknown table 'scan_log'",
        "table: scan_logs",
        "table: scan_log",
    ),
    _scenario("a truth in no column", "unknown column 'used'; ", "is_used: true", "used: true"),
    _scenario(
        "a time in no column",
        "truth.consumed: unknown column 'at'",
        "is_used: true }",
        "is_used: true }, scanned_at: at",
    ),
    _scenario(
        "a time in a text", "'qr_token' holds no timestamp", "is_used: true }", "is_used: true }, scanned_at: qr_token"
    ),
    Case("an odd --duration", (*RUN_SCENARIO, "--duration", "soon"), 104, "--duration: 'soon' is no duration"),
    Case("no scanners", (*RUN_SCENARIO, "--vus", "0"), 104, "Invalid value for '--vus'"),
    Case("one scanner in a race", (*RUN_SCENARIO, "--vus", "1"), 104, "race"),
    Case("too few tickets", (*RUN_SCENARIO, "--rounds", "9000"), 104, r"can use 9\d{3} tickets; the file has \d{3}"),
]


@pytest.fixture(scope="module")
def seeded_files(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run for the bundled scenario, and the files that cases change."""
    place = Place(tmp_path_factory.mktemp("seeded"), {**plain_environment(), **target_environment(stack)})
    assert place.run("seed", "--for", "quick", "--out", "tickets.json").code == 0
    yield place.folder
    assert place.run("teardown").code == 0


@pytest.fixture
def ready(place: Place, seeded_files: Path) -> Place:
    """A folder with a good recipe, a good scenario and good tickets."""
    (place.folder / "recipe.yaml").write_text(RECIPE)
    (place.folder / "scenario.yaml").write_text(SCENARIO)
    (place.folder / "tickets.json").write_bytes((seeded_files / "tickets.json").read_bytes())
    return place


def _refused(place: Place, code: int, says: str, *command: str, env: dict[str, str | None] | None = None) -> None:
    """Assert that a command is refused with one message, and that it wrote no file."""
    before = place.files()
    done = place.run(*command, env=env)
    assert done.code == code, done
    assert done.err.count("error:") == 1, done
    assert re.search(says, done.err) or says in done.err, done
    assert place.files() == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused(case: Case, ready: Place, database: Database) -> None:
    before = database.rows()
    for name in ("recipe.yaml", "scenario.yaml"):
        if name in case.command and case.edit[0]:
            text = (ready.folder / name).read_text()
            assert case.edit[0] in text
            (ready.folder / name).write_text(text.replace(case.edit[0], case.edit[1], 1))
    _refused(ready, case.code, case.says, *case.command, env=case.env)
    assert database.rows() == before


@pytest.mark.parametrize("kind", ["publishable_key", "anon_key"])
def test_a_key_that_may_not_write_is_refused(kind: str, stack: Stack, ready: Place) -> None:
    says = "publishable key" if kind == "publishable_key" else "role 'anon'"
    _refused(ready, 104, says, "seed", env={"SUPABASE_SECRET_KEY": getattr(stack, kind)})


def _edit(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:  # type: ignore[type-arg]
    def edited(text: bytes) -> bytes:
        data = json.loads(text)
        change(data)
        return json.dumps(data).encode()

    return edited


def _foreign_ticket(data: dict) -> None:  # type: ignore[type-arg]
    data["tickets"][3]["id"] = "00000000-0000-4000-8000-0000000000e1"


EDITS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "no JSON": ("is not JSON", lambda text: text[:-50]),
    "a ticket of somebody else": ("holds tickets that are not of run", _edit(_foreign_ticket)),
    "a ticket without an id": ("was not written by|not of run", _edit(lambda data: data["tickets"][0].pop("id"))),
    "a ticket taken out": ("not of run", _edit(lambda data: data["tickets"].pop(3))),
    "the race ticket among the tickets": (
        "holds a ticket twice",
        _edit(lambda data: data["tickets"].append({"id": data["raceTestTicket"]["id"]})),
    ),
    "a ticket twice": ("holds a ticket twice", _edit(lambda data: data["tickets"].append(data["tickets"][0]))),
    "another run's id": ("not of run", _edit(lambda data: data.update(run="20200101-000000-aaaaa"))),
    "no tickets": ("holds no ticket", _edit(lambda data: data.update(tickets=[]))),
    "another target": ("https://other.example", _edit(lambda data: data.update(target="https://other.example"))),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_ticket_file_that_was_changed_is_refused(edit: str, ready: Place, database: Database) -> None:
    says, change = EDITS[edit]
    before = database.rows()
    path = ready.folder / "tickets.json"
    path.write_bytes(change(path.read_bytes()))
    _refused(ready, 104, says, *RUN_SCENARIO)
    assert database.rows() == before


def test_a_missing_ticket_file_says_how_to_make_one(ready: Place) -> None:
    (ready.folder / "tickets.json").unlink()
    _refused(ready, 104, r"tickets.json: No such file or directory.\n +Make one with: provision seed", *RUN_SCENARIO)


def test_tickets_that_were_used_are_not_used_again(place: Place, database: Database) -> None:
    assert place.run("seed", "--for", "quick").code == 0
    run = ("run-scenario", "quick", "--duration", "300ms", "--rounds", "500")
    assert place.run("run-scenario", "quick", "--duration", "300ms", "--rounds", "20").code == 0
    _refused(place, 104, r"the file has \d+, \d+ of them used already", *run)
    assert place.run("teardown").code == 0


def test_tickets_that_were_torn_down_are_refused(place: Place, database: Database) -> None:
    assert place.run("seed", "--tickets", "100").code == 0
    assert place.run("teardown").code == 0
    _refused(place, 104, "0 of the file's 100 tickets are in the database", "run-scenario", "quick", "--rounds", "1")


def test_the_target_is_read_from_a_dotenv_file_that_the_environment_overrides(place: Place, database: Database) -> None:
    (place.folder / ".env").write_text("SUPABASE_URL=http://127.0.0.1:9\nSUPABASE_SECRET_KEY=sb_secret_none\n")
    assert place.run("seed", "--tickets", "1", "--dry-run").code == 0
    variables = "".join(f"{name}={place.env.pop(name)}\n" for name in ("SUPABASE_URL", "SUPABASE_SECRET_KEY"))
    (place.folder / ".env").write_text(variables)
    assert place.run("seed", "--tickets", "1", "--dry-run").code == 0
    (place.folder / ".env").unlink()


# -- the disk


def _bow_to_permissions() -> None:
    """Root too: without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH the mode of a folder binds its owner."""
    prctl = ctypes.CDLL(None).prctl
    for capability in (1, 2):
        prctl(24, capability, 0, 0, 0)


@pytest.mark.skipif(os.geteuid() == 0 and sys.platform != "linux", reason="root may write everywhere")
def test_a_folder_where_one_may_not_write_is_refused(place: Place, database: Database) -> None:
    before = database.rows()
    place.folder.chmod(0o555)
    done = place.run("seed", preexec=_bow_to_permissions)
    place.folder.chmod(0o755)
    assert done.code == 104, done
    assert "test-tickets.json: Permission denied" in done.err
    assert place.files() == []
    assert database.rows() == before


@pytest.mark.skipif(os.geteuid() == 0 and sys.platform != "linux", reason="root may write everywhere")
def test_a_run_folder_where_one_may_not_write_is_refused(place: Place, database: Database) -> None:
    before = database.rows()
    (place.folder / ".provision").mkdir(mode=0o555)
    done = place.run("seed", preexec=_bow_to_permissions)
    assert done.code == 104, done
    assert re.search(r"\.provision/\S+: Permission denied", done.err), done
    assert place.files() == []
    assert database.rows() == before


def test_a_run_folder_that_cannot_be_made_is_refused_before_the_first_row(place: Place, database: Database) -> None:
    before = database.rows()
    (place.folder / ".provision").write_text("a file where the folder should be")
    _refused(place, 104, r"\.provision", "seed", "--tickets", "2")
    assert database.rows() == before


def _files_up_to(size: int) -> Callable[[], None]:
    return partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))


def test_a_disk_that_is_full_at_the_run_folder_stops_before_the_first_row(place: Place, database: Database) -> None:
    before = database.rows()
    done = place.run("seed", "--tickets", "2", preexec=_files_up_to(100))
    assert done.code == 104, done
    assert re.search(r"\.provision/\S+: File too large", done.err), done
    assert database.rows() == before
    assert not (place.folder / "test-tickets.json").exists()
    again = place.run("teardown", "--all")
    assert again.code == 0, again


def test_a_disk_that_is_full_at_the_ticket_file_says_that_rows_are_there(place: Place, database: Database) -> None:
    before = database.rows()
    done = place.run("seed", "--tickets", "100", preexec=_files_up_to(4_000))
    assert done.code == 104, done
    assert "test-tickets.json: File too large" in done.err
    assert f"provision teardown --run {place.runs()[0]}" in done.err
    assert not list(place.folder.glob("*test-tickets*"))
    assert place.run("teardown").code == 0
    assert database.rows() == before


def test_a_disk_that_is_full_during_the_load_is_said(place: Place, database: Database) -> None:
    before = database.rows()
    assert place.run("seed", "--for", "quick").code == 0
    limited = ("run-scenario", "quick", "--duration", "500ms", "--rounds", "20")
    done = place.run(*limited, preexec=_files_up_to(4_000))
    assert done.code == 104, done
    assert "File too large" in done.err
    assert place.run("teardown").code == 0
    assert database.rows() == before


# -- keys


def test_a_fault_of_ours_is_logged_without_the_key(place: Place, tmp_path: Path) -> None:
    """A schema document that PostgREST would never send makes a fault; its log must not hold the key."""
    (place.folder / "sitecustomize.py").write_text(
        "import provision.seeding as p\n"
        "def broken(options, watcher):\n"
        "    import os\n"
        "    raise RuntimeError(os.environ['SUPABASE_SECRET_KEY'])\n"
        "p.seed = broken\n"
    )
    done = place.run("seed", env={"PYTHONPATH": str(place.folder)})
    assert done.code == 70, done
    log = Path(re.search(r"details: (\S+)", done.err)[1])  # type: ignore[index]
    text = log.read_text()
    log.unlink()
    assert "RuntimeError: ***" in text
    assert place.env["SUPABASE_SECRET_KEY"] not in text
