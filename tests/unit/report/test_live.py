"""The live view: bars within 80 columns on a terminal, a calm line elsewhere, errors as they appear, quiet."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from histories import MS, History
from rich.console import Console

from provision import bundled
from provision.load import spec
from provision.load.progress import RECENT, Progress, latencies
from provision.report import terminal
from provision.report.live import Live
from provision.report.pace import how_far, limit_of

QUICK = spec.parse(*bundled.find("scenarios", "quick"))
START = Progress(
    scenario=QUICK, running=("scanner_burst",), elapsed=2.0, total=11.0, requests=100,
    outcomes={"admitted": 90, "busy": 9, "not_found": 1}, parts={"scanner_burst": 97}, vus=10,
    recent=(5.0, 6.0, 250.0), replies={"busy": "another scanner", "not_found": "no such ticket"},
)  # fmt: skip


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Shown:
    live: Live
    clock: Clock
    text: io.StringIO


def shown(*, terminal: bool, width: int = 80, **more: object) -> Shown:
    text, clock = io.StringIO(), Clock()
    console = Console(file=text, force_terminal=terminal, width=width, highlight=False, **more)
    return Shown(Live(console, clock), clock, text)


def test_where_no_terminal_is_a_line_is_said_every_few_seconds() -> None:
    view = shown(terminal=False)
    with view.live.busy("Running quick"):
        for tick in range(48):
            view.clock.now += 0.25
            view.live.load(replace(START, elapsed=tick / 4, requests=100 + 20 * tick))
    lines = view.text.getvalue().splitlines()
    assert lines[0] == "Running quick"
    assert lines[1:] == [
        "  5 s scanner_burst 5 of 5 s: 10 VUs, 80 scans/s, p95 225.6 ms of 200; 90 admitted, 9 busy, 1 not_found",
        "  10 s scanner_burst 5 of 5 s: 10 VUs, 80 scans/s, p95 225.6 ms of 200; 90 admitted, 9 busy, 1 not_found",
    ]
    assert "\x1b" not in view.text.getvalue()


def test_an_error_is_said_as_soon_as_it_appears_and_once() -> None:
    view = shown(terminal=False)
    with view.live.busy("Running quick"):
        view.live.load(START)
        bad = replace(START, outcomes={"error": 2}, replies={**START.replies, "error": "out of\n shared memory"})
        view.live.load(bad)
        view.live.load(bad)
    assert view.text.getvalue().splitlines()[1:] == ["  error: out of shared memory"]


def test_a_ticket_that_is_not_found_is_an_error_unless_it_was_the_canarys() -> None:
    view = shown(terminal=False)
    with view.live.busy("Running quick"):
        view.live.load(START)
        view.live.load(replace(START, outcomes={"not_found": 2}))
    assert view.text.getvalue().splitlines()[1:] == ["  not_found: no such ticket"]


def test_a_terminal_of_80_columns_shows_bars_figures_and_errors_within_it() -> None:
    view = shown(terminal=True)
    replies = {"error": "x" * 300}
    with view.live.busy("Running quick"):
        view.live.load(START)
        view.clock.now += 1
        view.live.load(replace(START, requests=180, replies=replies))
        picture = Console(file=io.StringIO(), width=80, record=True)
        picture.print(view.live._picture())
    text = picture.export_text()
    assert "scanner_burst" in text
    assert "2 of 5 s" in text
    assert "race_condition" in text
    assert "in 4 s" in text
    assert "10 VUs · 80 scans/s · p95 225.6 ms of 200" in text
    assert "90 admitted, 9 busy" in text
    assert "✗ error: xxx" in text
    assert max(map(len, text.splitlines())) <= 80


def test_pictures_are_drawn_twice_a_second_however_often_progress_is_told() -> None:
    view = shown(terminal=True)
    with view.live.busy("Running quick"):
        sizes = set()
        for _ in range(33):
            view.live.load(START)
            sizes.add(len(view.text.getvalue()))
            view.clock.now += 0.0625
    assert len(sizes) == 5


def test_colours_say_what_is_good_and_what_is_not_and_no_color_silences_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn() -> str:
        view = shown(terminal=True, color_system="standard")
        with view.live.busy("Running quick"):
            view.live.load(replace(START, outcomes={"admitted": 1, "error": 2}))
        return view.text.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32m1 admitted" in drawn()
    assert "\x1b[31m2 error" in drawn()
    assert "\x1b[31mp95" in drawn()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in drawn()
    assert "\x1b[32m" not in drawn()


def test_rows_are_told_with_their_rate_and_the_time_left() -> None:
    view = shown(terminal=False)
    with view.live.busy("Seeding"):
        for done in (500, 1000, 1500):
            view.clock.now += 5.5
            view.live.rows("tickets", done, 2500)
        view.live.rows("tickets", 2500, 2500)
    assert view.text.getvalue().splitlines()[1:] == [
        "  tickets: 500 of 2,500 rows",
        "  tickets: 1,000 of 2,500 rows, 91 rows/s, 17 s left",
        "  tickets: 1,500 of 2,500 rows, 91 rows/s, 11 s left",
        "  tickets: 2,500 rows",
    ]


def test_rows_have_bars_on_a_terminal() -> None:
    view = shown(terminal=True)
    with view.live.busy("Seeding"):
        view.live.rows("tickets", 500, 2500)
        view.clock.now += 1
        view.live.rows("tickets", 1500, 2500)
    text = view.text.getvalue()
    assert "1500/2500" in text
    assert "rows/s" in text


def test_what_a_terminal_showed_is_gone_when_the_block_ends() -> None:
    view = shown(terminal=True)
    with contextlib.suppress(KeyboardInterrupt), view.live.busy("Running quick"):
        view.live.load(START)
        raise KeyboardInterrupt
    assert view.text.getvalue().endswith("\x1b[2K")
    view.live.load(START)  # what comes late harms nobody


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    live = Live(terminal.console(stderr=True, quiet=True))
    live.say("something")
    with live.busy("Running quick"):
        live.load(START)
        live.rows("tickets", 1, 1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("written", "done", "elapsed", "told"),
    [
        ("{ executor: constant-vus, duration: 10s }", 7, 4.0, (0.4, "4 of 10 s")),
        ("{ executor: constant-vus, duration: 10s, startTime: 6s }", 0, 4.0, (0.0, "in 2 s")),
        ("{ executor: per-vu-iterations, vus: 4, iterations: 5 }", 15, 4.0, (0.75, "15 of 20 scans")),
        ("{ executor: shared-iterations, vus: 4, iterations: 8 }", 2, 4.0, (0.25, "2 of 8 scans")),
        ("{ executor: race, vus: 5, rounds: 10 }", 27, 4.0, (0.5, "5 of 10 rounds")),
        ("{ executor: constant-arrival-rate, rate: 5, duration: 8s, preAllocatedVUs: 1 }", 9, 99.0, (1.0, "8 of 8 s")),
    ],
)
def test_how_far_a_scenario_is(written: str, done: int, elapsed: float, told: tuple[float, str]) -> None:
    source = bundled.find("scenarios", "quick")[1]
    source = f"{source[: source.index('scenarios:')]}scenarios:\n  part: {written}\n"
    progress = replace(START, scenario=spec.parse(Path("x.yaml"), source), parts={"part": done}, elapsed=elapsed)
    assert how_far(progress, "part") == told


def test_the_limit_is_the_strictest_for_all_scans() -> None:
    thresholds = {"scan_duration": ["p(95)<200", "p(95) <= 150", "p(99)<1"], "scan_duration{scenario:x}": ["p(95)<9"]}
    assert limit_of(QUICK.model_copy(update={"thresholds": thresholds})) == 150
    assert limit_of(QUICK.model_copy(update={"thresholds": {}})) is None


def test_the_latest_requests_stand_for_what_the_latency_is_now() -> None:
    history = History()
    history.ask("not_sent", 0)
    for number in range(RECENT + 50):
        history.ask("admitted", number, ms=number)
    found = latencies(history.results().journal)
    assert (len(found), found[0], found[-1]) == (RECENT, 50.0, RECENT + 49.0)
    assert latencies(History().results().journal) == ()
    few = History()
    few.ask("not_sent", 0)
    few.ask("admitted", 1, ms=3, sent=7 * MS)
    assert latencies(few.results().journal) == (3.0,)
