"""Teardown of the runs of a folder, on the double: each for itself, none while it is written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import schemas

from provision import bundled, cli, opening, removing, rundir, seeding
from provision.errors import ConfigError, Interrupted
from provision.fixtures import manifest, plan, recipe
from provision.gateway import Filter, Row
from provision.gateway import seeding as writing
from provision.gateway.memory import MemoryGateway
from provision.removing import Teardown
from provision.report.live import Live
from provision.report.terminal import console
from provision.rundir import MANIFEST, RunDir
from provision.seeding import SeedOptions
from provision.target import Secret, Target

RUNS = ("20260601-200000-aaaaa", "20260602-200000-bbbbb", "20260603-200000-ccccc")
HERE = Target("http://127.0.0.1:1", Secret("x"))
WATCHER = Live(console(stderr=True, quiet=True))


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryGateway:
    """The database of the one target that there is, in a folder of its own."""
    opened = MemoryGateway(schemas.ticketing(), schemas.CASCADES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(removing, "open_target", _always(HERE))
    for module in (opening, removing, seeding):
        monkeypatch.setattr(module, "open_gateway", _always(opened))
    return opened


def _always(value: Any) -> Callable[..., Any]:
    @contextmanager
    def opened(*_: object) -> Iterator[Any]:
        yield value

    return opened


def seed(gateway: MemoryGateway, *runs: str) -> None:
    for run in runs:
        parsed, document = recipe.parse(*bundled.find("seeds", "event-night"))
        planned = plan.build(parsed, document, schemas.ticketing(), run, date(2026, 6, 1), 5)
        folder = RunDir.create(run)
        folder.append(MANIFEST, manifest.announce(planned, created="", target=HERE.url, schema="public", versions={}))
        writing.fill(gateway, planned, lambda line, f=folder: f.append(MANIFEST, dict(line)), lambda *_: None)


def teardown(run: str | None = None, *, every: bool = False, dry_run: bool = False) -> tuple[Teardown, list[str]]:
    """What a teardown came to, and the runs that were shown."""
    shown: list[str] = []
    done = removing.teardown(
        run, every=every, dry_run=dry_run, watcher=WATCHER, show=lambda torn: shown.append(torn.run)
    )
    return done, shown


def rewrite(run: str, change: Callable[[str], str]) -> None:
    path = rundir.ROOT / run / MANIFEST
    path.write_text(change(path.read_text()))


DAMAGE: Mapping[str, tuple[Callable[[str], str], str]] = {
    "damaged": (lambda text: "{" + text, f"{RUNS[1]}/{MANIFEST} is damaged"),
    "no lines of a manifest": (lambda text: text + "[]\n{}\n", f"{RUNS[1]}/{MANIFEST} is damaged"),
    "of another format": (lambda text: text.replace('"format":2', '"format":1'), f"{RUNS[1]}/{MANIFEST}: .*another"),
    "on another target": (lambda text: text.replace("127.0.0.1", "127.0.0.2"), f"Run {RUNS[1]} was seeded on"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_run_that_cannot_be_removed_does_not_keep_the_others(kind: str, gateway: MemoryGateway) -> None:
    seed(gateway, *RUNS)
    change, says = DAMAGE[kind]
    rewrite(RUNS[1], change)
    done, shown = teardown(every=True)
    assert shown == [RUNS[0], RUNS[2]]
    assert len(gateway.rows["tickets"]) == 6
    with pytest.raises(ConfigError, match=says):
        done.check()


def test_a_damaged_manifest_does_not_keep_the_latest_run(gateway: MemoryGateway) -> None:
    seed(gateway, *RUNS)
    for run in RUNS[:2]:
        rewrite(run, lambda text: "{" + text)
    done, shown = teardown()
    assert shown == [RUNS[2]]
    with pytest.raises(ConfigError, match=RUNS[0]) as caught:
        done.check()
    assert RUNS[1] in caught.value.hint


def test_what_was_removed_before_an_interruption_is_shown(
    gateway: MemoryGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(gateway, *RUNS)
    shown: list[str] = []

    def delete(table: str, where: Sequence[Filter]) -> int:
        if shown:
            raise KeyboardInterrupt
        return MemoryGateway.delete(gateway, table, where)

    monkeypatch.setattr(gateway, "delete", delete)
    with pytest.raises(Interrupted):
        removing.teardown(None, every=True, dry_run=False, watcher=WATCHER, show=lambda torn: shown.append(torn.run))
    assert shown == [RUNS[0]]


@pytest.mark.parametrize("find", [(), ("--find",)])
def test_one_run_and_all_of_them_exclude_each_other(
    find: tuple[str, ...], gateway: MemoryGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    seed(gateway, *RUNS)
    assert cli.run(["teardown", *find, "--run", RUNS[1], "--all", "--quiet"]) == 104
    assert "--run and --all exclude each other" in capsys.readouterr().err
    assert len(gateway.rows["tickets"]) == 18


def test_a_run_is_not_removed_while_it_is_seeded(gateway: MemoryGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []

    def insert(table: str, rows: Sequence[Row], *, key: str) -> None:
        [run] = rundir.runs()
        done, _ = teardown(every=True)
        refused.extend(str(error) for error in done.failed)
        assert teardown(run, dry_run=True)[1] == [run]
        MemoryGateway.insert(gateway, table, rows, key=key)

    monkeypatch.setattr(gateway, "insert", insert)
    seeded = seeding.seed_target(SeedOptions(tickets=5, out=Path("tickets.json")), HERE, WATCHER)
    assert len(refused) >= 5
    assert set(refused) == {f"Run {seeded.run} is being seeded or removed by another process."}
    assert len(gateway.rows["tickets"]) == 6
    assert teardown()[1] == [seeded.run]
    assert gateway.rows["tickets"] == {}


@pytest.mark.parametrize(
    "more",
    [
        ["quick"],
        ["--for", "quick"],
        ["--tickets", "3"],
        ["--out", "test-tickets.json"],
        ["--env", "x.env", "--dry-run"],
    ],
    ids=lambda more: more[0],
)
def test_a_seed_that_goes_on_is_not_asked_for_anything_else(
    more: list[str], gateway: MemoryGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    seed(gateway, RUNS[0])
    assert cli.run(["seed", "--run", RUNS[0], "--quiet", *more]) == 104
    name = "RECIPE" if more[0] == "quick" else more[0]
    assert f"it excludes {name}.\n" in capsys.readouterr().err


def test_a_dotenv_file_that_cannot_be_read_is_named(
    gateway: MemoryGateway, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(gateway, RUNS[0])
    monkeypatch.setattr(removing, "open_target", opening.open_target)
    Path(".env").write_bytes(b"SUPABASE_URL=http://caf\xe9.example\n")
    assert cli.run(["teardown", "--quiet"]) == 104
    assert ".env is not UTF-8 text." in capsys.readouterr().err


def test_a_seed_does_not_go_on_while_its_run_is_removed(gateway: MemoryGateway) -> None:
    seed(gateway, RUNS[0])
    with RunDir.open(RUNS[0]).held(), pytest.raises(ConfigError, match="being seeded or removed"):
        seeding.seed(SeedOptions(run=RUNS[0]), WATCHER)
