"""Finished runs are found by what a person types, listed, reported again without a database, and compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from histories import BURST, MS, History, good
from reports import RUN, leave

from provision import history, saved
from provision.audit.finding import Status
from provision.errors import ConfigError, ExitCode
from provision.rundir import MANIFEST, ROOT, RunDir


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def reported(run: History, name: str = RUN) -> RunDir:
    folder = leave(run, ROOT, run=name)
    saved.save(saved.load(folder), folder, files={})
    return folder


def burst(factor: float) -> History:
    """A burst of 400 scans of 10 to 20 ms, times a factor."""
    run = History(changes={"elapsed": 40.0})
    for number in range(400):
        run.admit(number, part=BURST, sent=number * 100 * MS, ms=factor * (10 + number * 7 % 11))
    return run


LATER = "20260602-200000-fghjk"


@pytest.mark.parametrize("name", [None, LATER, "20260602", f"{LATER}/night-1", f".provision/{LATER}/night-1"])
def test_a_run_is_found_by_what_a_person_types(name: str | None) -> None:
    reported(good())
    latest = reported(good(), LATER)
    assert saved.find(name).path == latest.path


def test_the_last_rehearsal_of_a_run_is_meant_by_its_id() -> None:
    reported(good())
    second = reported(good())
    assert saved.find(RUN).path == second.path
    assert saved.find(f"{RUN}/night-1").path != second.path


def test_a_run_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    reported(good())
    with pytest.raises(ConfigError, match=f"'nothing'.*{RUN}/night-1"):
        saved.find("nothing")


def test_a_rehearsal_that_did_not_finish_is_not_found() -> None:
    (leave(good(), ROOT).path / "snapshot.json").unlink()
    with pytest.raises(ConfigError, match="no finished rehearsal"):
        saved.find(None)


@pytest.mark.parametrize("name", ["results.json", "scenario.json", "snapshot.json", "run.json"])
def test_a_damaged_file_is_an_error_that_names_it(name: str) -> None:
    folder = leave(good(), ROOT)
    (folder.path / name).write_text("{}")
    with pytest.raises(ConfigError, match="night-1"):
        saved.load(folder)


def test_the_list_has_verdict_p95_and_whether_rows_remain() -> None:
    folder = reported(good())
    bad = good()
    bad.ask("admitted", 0, ms=500)
    reported(bad, LATER)
    RunDir(folder.path.parent).append(MANIFEST, {"event": "clean", "rows": 0, "accounts": []})
    listed = [(line.name, line.status, line.p95, line.state) for line in history.lines()]
    assert listed == [
        (f"{RUN}/night-1", "PASS", 5.0, "clean"),
        (f"{LATER}/night-1", "FAIL", 5.0, "rows remain"),
    ]


def test_a_page_that_was_lost_is_written_again() -> None:
    folder = reported(good())
    page = folder.path / "report.html"
    before = page.read_text()
    page.unlink()
    again, written = history.report(None, {})
    assert written == page
    assert page.read_text() == before
    assert again.verdict.status is Status.PASS


def test_after_a_teardown_the_page_says_what_became_of_the_rows() -> None:
    folder = reported(good())
    page = folder.path / "report.html"
    assert "Not torn down yet" in page.read_text()
    seeded = RunDir(folder.path.parent)
    account = {"table": "tickets", "found": 71, "removed": 71, "left": 0, "why": ""}
    app = {"table": "scan_logs", "found": 888, "removed": 888, "left": 0, "why": ""}
    seeded.append(MANIFEST, {"event": "clean", "rows": 0, "accounts": [app, account]})
    said: list[str] = []
    history.refresh(seeded, said.append)
    assert said == []
    text = page.read_text()
    assert "Not torn down yet" not in text
    assert "provision teardown" not in text
    assert ">888<" in text


def test_a_page_that_cannot_be_brought_up_to_date_does_not_spoil_the_teardown() -> None:
    folder = reported(good())
    (folder.path / "results.json").write_text("{}")
    said: list[str] = []
    history.refresh(RunDir(folder.path.parent), said.append)
    assert [("report.html was not brought up to date" in line, "cannot be read" in line) for line in said] == [
        (True, True)
    ]


def test_a_slower_run_is_a_regression_beyond_the_limit() -> None:
    reported(burst(1.0))
    reported(burst(1.5), LATER)
    compared = history.compare(RUN, LATER, 0.1)
    assert (compared.status, compared.exit_code) == (Status.FAIL, ExitCode.FAIL)
    assert [one.proven for one in compared.changes if one.percent == 95] == [True]
    assert history.compare(RUN, LATER, 0.9).status is Status.PASS
    assert history.compare(LATER, RUN, 0.1).status is Status.PASS
    assert history.compare(RUN, LATER, None).exit_code == ExitCode.PASS


def test_a_run_compared_with_itself_has_not_changed() -> None:
    reported(burst(1.0))
    compared = history.compare(RUN, RUN, 0.1)
    assert [one.proven for one in compared.changes] == [False] * 3
    assert compared.status is Status.PASS


def test_runs_too_short_to_tell_are_inconclusive() -> None:
    reported(good())
    reported(good(), LATER)
    assert history.compare(RUN, LATER, 0.1).exit_code == ExitCode.INCONCLUSIVE


def test_runs_without_a_common_scenario_cannot_be_compared() -> None:
    reported(burst(1.0))
    nothing = History()
    reported(nothing, LATER)
    with pytest.raises(ConfigError, match="no scenario of the same name"):
        history.compare(RUN, LATER, None)
