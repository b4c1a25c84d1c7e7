"""The built wheel works where there is no checkout: what it needs beside its code is in it."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from commands import Database, Place, plain_environment

ROOT = Path(__file__).parents[2]
NEEDED = [
    "provision/bundled/seeds/event-night.yaml",
    "provision/bundled/scenarios/scanner-burst.yaml",
    "provision/bundled/scenarios/quick.yaml",
    "provision/local/schema.sql",
    "provision/local/gates/row-lock-nowait.sql",
    "provision/local/server/server.mjs",
    "provision/local/server/package-lock.json",
    "provision/py.typed",
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel installed; the dependencies are read from the one that runs the tests."""
    wheels, home = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("fresh") / "venv"
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    install = ["install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check", *wheels.glob("*.whl")]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True, capture_output=True)
    site = next(home.glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    return home


@pytest.fixture
def run_installed(installed: Path, place: Place) -> Place:
    """A folder in which the installed command is run."""
    place.command = [str(installed / "bin" / "provision")]
    return place


def test_the_wheel_holds_all_that_is_no_code(installed: Path) -> None:
    site = next(installed.glob("lib/python*/site-packages"))
    assert [name for name in NEEDED if not (site / name).is_file()] == []


def test_the_command_is_the_installed_one_and_helps(installed: Path, run_installed: Place) -> None:
    where = [str(installed / "bin" / "python"), "-c", "import provision; print(provision.__file__)"]
    found = subprocess.run(where, cwd=run_installed.folder, capture_output=True, text=True, check=True)
    assert found.stdout.startswith(str(installed))
    done = run_installed.run("--help")
    assert done.code == 0, done
    assert {"seed", "run-scenario", "teardown"} <= set(done.out.split())


def test_a_seed_is_planned_from_the_bundled_recipe(run_installed: Place, database: Database) -> None:
    done = run_installed.run("seed", "--dry-run", "--for", "scanner-burst")
    assert done.code == 0, done
    assert "scanner-burst can use" in done.out
    assert run_installed.files() == []


def test_a_whole_short_night_runs_from_the_wheel(run_installed: Place, database: Database) -> None:
    assert run_installed.run("seed", "--for", "quick").code == 0
    ran = run_installed.run("run-scenario", "quick", "--duration", "500ms", "--rounds", "20")
    assert ran.code == 0, ran
    assert run_installed.run("teardown").code == 0


def test_a_stack_starts_from_the_wheel(installed: Path, local_cache: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, plain_environment(), command=[str(installed / "bin" / "provision")])
    try:
        up = place.run("local", "up", "--name", "wheel")
        assert up.code == 0, up
        assert place.run("local", "gates").out.count("broken") >= 4
    finally:
        assert place.run("local", "reset", "--name", "wheel").code == 0
