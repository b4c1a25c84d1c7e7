"""What does not fit is named with file, line and the nearest word, whichever command comes across it first."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from provision import bundled, fitting, preparation, seeding
from provision.errors import ProvisionError, ScenarioError, TicketsError
from provision.fixtures.schema import Function, Schema
from provision.preparation import RunOptions
from provision.seeding import SeedOptions
from provision.target import Secret, Target

SOURCE = bundled.find("scenarios", "scanner-burst")[1]
TARGET = Target("http://127.0.0.1:1", Secret("k"))
BAD: dict[str, tuple[str, str, str]] = {
    "a metric": ("scan_errors:", "scan_eror:", r": thresholds\.scan_eror: unknown metric .*'scan_errors'"),
    "a scenario": (
        "scan_errors:",
        "scan_errors{scenario:scaner_burst}:",
        r": thresholds\..*: unknown scenario .*'scanner_burst'",
    ),
    "a token": ("gate-{vu}", "gate-{vus}", r": request\.args\.p_device_id: unknown token 'vus'; did you mean 'vu'"),
    "a token's case": ("gate-{vu}", "gate-{Vu}", r": request\.args\.p_device_id: unknown token 'Vu'.*'vu'"),
}


@pytest.fixture(params=BAD)
def bad(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, AbstractContextManager[Any]]:
    """A scenario file with a mistake, and the refusal of it by file and line."""
    old, new, words = BAD[request.param]
    text = SOURCE.replace(old, new, 1)
    number = next(number for number, line in enumerate(text.splitlines(), 1) if new in line)
    (tmp_path / "bad.yaml").write_text(text)
    return tmp_path / "bad.yaml", pytest.raises(ScenarioError, match=rf"bad\.yaml:{number}{words}")


def test_run_scenario_names_the_place(bad: tuple[Path, AbstractContextManager[Any]]) -> None:
    path, refusal = bad
    with refusal:
        preparation.prepare(RunOptions(scenario=str(path), tickets=path.parent / "none.json"))


def test_seed_and_check_name_the_place_before_they_ask_the_target(
    bad: tuple[Path, AbstractContextManager[Any]],
) -> None:
    path, refusal = bad
    with refusal:
        seeding.seed_target(SeedOptions(scenario=str(path), tickets=1, recipe="event-night"), TARGET, None)


def check_schema(path: Path, function: Function) -> None:
    scenario, document, _ = fitting.read(str(path))
    fitting.check_schema(scenario, document, Schema({}, {function.name: function}))


ARGS = {"p_ticket_id": "uuid", "p_scanned_by": "uuid", "p_device": "text", "p_scan_method": "text"}


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (Function("scan_ticket", ARGS, frozenset()), r":\d+: request\.rpc: unknown function .*'scan_ticket'"),
        (Function("scan_ticket_atomic", ARGS, frozenset()), r":\d+: request\.args\.p_device_id: .*'p_device'"),
        (
            Function("scan_ticket_atomic", {**ARGS, "p_device_id": "text"}, frozenset({"p_gate"})),
            r":\d+: request\.args: scan_ticket_atomic needs p_gate as well",
        ),
        (
            Function("scan_ticket_atomic", {**ARGS, "p_device_id": "text"}, frozenset()),
            r":\d+: truth\.consumed: unknown table 'tickets'",
        ),
    ],
)
def test_what_the_target_does_not_have_is_named_with_its_line(function: Function, words: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SOURCE)
    with pytest.raises(ScenarioError, match=r"s\.yaml" + words):
        check_schema(tmp_path / "s.yaml", function)


def check_tickets(text: str, tickets: list[dict[str, str]], path: Path) -> None:
    (path / "s.yaml").write_text(text)
    scenario, document, _ = fitting.read(str(path / "s.yaml"))
    fitting.check_tickets(scenario, document, Path("t.json"), tickets, ("run", "event.id"))


def test_a_ticket_without_a_field_that_the_others_have_is_named(tmp_path: Path) -> None:
    text = SOURCE.replace("p_scan_method: qr", 'p_scan_method: "{ticket.type}"')
    tickets = [{"id": str(number), "type": "GA"} for number in range(6)]
    check_tickets(text, tickets, tmp_path)
    del tickets[5]["type"]
    with pytest.raises(TicketsError, match=r"t\.json: ticket 6 has no 'type', which .*s\.yaml:\d+: .* asks for"):
        check_tickets(text, tickets, tmp_path)


@pytest.mark.parametrize(("token", "near"), [("ticket.typ", "'ticket.type'"), ("scanner.id", "'scanned_at'")])
def test_a_token_that_no_ticket_has_a_value_for_is_named(token: str, near: str, tmp_path: Path) -> None:
    text = SOURCE.replace("p_scan_method: qr", f'p_scan_method: "{{{token}}}"')
    with pytest.raises(ProvisionError, match=rf"s\.yaml:\d+: request\.args\.p_scan_method: unknown token .*{near}"):
        check_tickets(text, [{"id": "1", "type": "GA"}], tmp_path)
