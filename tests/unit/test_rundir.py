import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from provision import rundir
from provision.errors import ConfigError
from provision.rundir import MANIFEST, RunDir


def test_run_ids_sort_by_time_and_never_repeat() -> None:
    early, late = datetime(2026, 1, 31, 20, 45), datetime(2026, 2, 1, 8, 0)  # noqa: DTZ001 - only printed
    assert rundir.new_run_id(early) < rundir.new_run_id(late)
    assert len({rundir.new_run_id(early) for _ in range(500)}) == 500


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    folder = RunDir.create("r1", tmp_path)
    folder.append(MANIFEST, {"event": "plan"})
    with (folder.path / MANIFEST).open("ab") as file:
        file.write(b'{"event":"ins')
    assert folder.lines(MANIFEST) == [{"event": "plan"}]


def test_a_line_after_one_that_was_cut_short_takes_its_place(tmp_path: Path) -> None:
    folder = RunDir.create("r1", tmp_path)
    for torn in (b'{"event":"pl', b'{"event":"ins', b'{"event":"\xc3'):
        with (folder.path / MANIFEST).open("ab") as file:
            file.write(torn)
        folder.append(MANIFEST, {"event": "next"})
    assert folder.lines(MANIFEST) == [{"event": "next"}] * 3


def test_a_damaged_line_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = RunDir.create("r1", tmp_path)
    (folder.path / MANIFEST).write_text("no json\n{}\n")
    with pytest.raises(ConfigError, match=MANIFEST):
        folder.lines(MANIFEST)


def test_appending_forces_the_line_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[int] = []
    monkeypatch.setattr(os, "fsync", forced.append)
    folder = RunDir.create("r1", tmp_path)
    folder.append(MANIFEST, {})
    assert len(forced) == 3  # the file, its folder and the folder of that
    folder.append(MANIFEST, {})
    assert len(forced) == 4


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = rundir.write_text(tmp_path / "file", ["old"])

    def chunks() -> object:
        yield "new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rundir.write_text(path, chunks())  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_found_before_anything_happens(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Not a directory"):
        rundir.check_writable(tmp_path / "file" / "below")
    with pytest.raises(ConfigError, match="folder"):
        rundir.check_writable(tmp_path)
    rundir.check_writable(tmp_path / "fine")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unknown_run_is_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    RunDir.create("r1", tmp_path).append(MANIFEST, {})
    with pytest.raises(ConfigError, match="r1"):
        RunDir.open("r2", tmp_path)


def test_subfolders_are_numbered(tmp_path: Path) -> None:
    folder = RunDir.create("r1", tmp_path)
    assert [folder.subfolder("burst").path.name for _ in range(2)] == ["burst-1", "burst-2"]


def test_a_run_that_is_held_is_refused_to_others_until_its_process_ends_or_dies(tmp_path: Path) -> None:
    folder = RunDir.create("r1", tmp_path)
    with folder.held(), pytest.raises(ConfigError, match="r1 is being seeded or removed"), folder.held():
        pass
    holding = (
        "import sys; from provision.rundir import *\nwith RunDir(Path(sys.argv[1])).held(): print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding, folder.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ConfigError, match="another process"), folder.held():
            pass
        other.kill()
        other.wait()
        with folder.held():
            folder.append(MANIFEST, {"event": "plan"})
    assert folder.lines(MANIFEST) == [{"event": "plan"}]


def test_the_first_line_of_a_held_run_forces_its_folders_to_the_disk_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, forced = RunDir.create("r1", tmp_path), list[int]()
    monkeypatch.setattr(os, "fsync", forced.append)
    with folder.held():
        folder.append(MANIFEST, {})
    assert len(forced) == 3
