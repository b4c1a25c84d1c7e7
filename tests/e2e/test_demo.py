"""`provision demo` shows all of it, catches a faulty gate, and leaves neither rows nor processes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Database, Place, plain_environment, until

from provision.local import stack as local
from provision.local.paths import layout

Sql = Callable[[local.Stack, str], str]


@pytest.fixture
def demo_place(local_cache: Path, tmp_path: Path) -> Iterator[Place]:
    """A folder without a target."""
    folder, temporary = tmp_path / "here", tmp_path / "tmp"
    for made in (folder, temporary):
        made.mkdir()
    yield Place(folder, plain_environment(TMPDIR=str(temporary)))
    assert list(temporary.iterdir()) == []
    local.reset("demo")


def _processes(cache: Path) -> list[str]:
    """The command lines of the processes that belong to the demo's stack."""
    home = str(layout("demo", cache).home)
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        ours = "demo" in words and any(str(cache) in word for word in words)
        if ours or any(word.startswith(home) for word in words):
            lines.append(" ".join(words))
    return lines


def _nothing_left(place: Place, cache: Path, sql: Sql) -> None:
    assert local.status("demo") is None
    until(lambda: _processes(cache) == [], "the end of the stack's processes")
    with local.lease("demo") as running:
        rows = Database(running, sql).rows()
    assert {name: len(found) for name, found in rows.items() if found} == {}
    assert place.run("teardown").out == "nothing to remove: every run of this folder is clean\n"


def test_a_demo_in_a_hurry_passes_and_leaves_nothing(demo_place: Place, local_cache: Path, sql: Sql) -> None:
    done = demo_place.run("demo", "--fast")
    assert done.code == 0, done
    assert "PASS" in done.out
    report = re.search(r"report: (\S+)", done.out)
    assert report, done
    assert (demo_place.folder / report[1]).is_file()
    assert "nothing is left" in done.out
    _nothing_left(demo_place, local_cache, sql)


def test_a_demo_with_a_faulty_gate_shows_both_admissions(demo_place: Place, local_cache: Path, sql: Sql) -> None:
    done = demo_place.run("demo", "--fast", "--broken", "check-then-act")
    assert done.code == 99, done
    named = re.search(r"Ticket (\S+) was admitted (?:twice|\d+ times): by (gate \d+) .* and (gate \d+) ", done.out)
    assert named, done
    assert named[2] != named[3]
    assert f"ticket {named[1]}: " in done.out
    assert len(re.findall(r"admitted at [\d.]+ ms by gate", done.out)) >= 2
    _nothing_left(demo_place, local_cache, sql)


def test_rows_of_a_demo_that_was_killed_are_found_by_teardown(demo_place: Place, local_cache: Path, sql: Sql) -> None:
    with local.lease("demo", gate="row-lock-nowait") as running:
        database = Database(running, sql)
        with demo_place.start("demo", "--fast") as process:
            until(lambda: database.holds("(select count(*) > 5 from scan_logs)"), "the first scans")
            process.kill()
            demo_place.end(process)
        assert database.rows()["tickets"] != []
        assert len(_processes(local_cache)) >= 3  # supervisor, database, API
        torn = demo_place.run("teardown")
        assert torn.code == 0, torn
        assert {name: len(found) for name, found in database.rows().items() if found} == {}
    for leftover in (demo_place.folder.parent / "tmp").glob("provision-*/*"):
        leftover.unlink()
        leftover.parent.rmdir()
