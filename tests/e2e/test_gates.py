"""Every gate, correct and broken, rehearsed over the tool's own race: what it must find and what it must pass."""

from __future__ import annotations

import pytest
from commands import Place

from provision import bundled
from provision.local import stack as local
from provision.local.stack import Stack

GATES = local.gates()
BROKEN = sorted(name for name, gate in GATES.items() if gate.broken)
CORRECT = sorted(name for name, gate in GATES.items() if not gate.broken)
ROUNDS, CONTROLS = 15, 40
"""The most rounds of a race here, and what its canary and its probes may use besides."""
RACE = """
name: race
{}
scenarios:
  race: {{ executor: race, vus: 10, rounds: {} }}
"""


def _scenario(place: Place, gate: str, rounds: int) -> str:
    """A scenario with the race alone, asking for the function that this gate is a variant of."""
    text = bundled.find("scenarios", _asks(gate))[1]
    middle = text[text.index("recipe:") if "recipe:" in text else text.index("request:") : text.index("scenarios:")]
    (place.folder / "race.yaml").write_text(RACE.format(middle, rounds))
    return "race.yaml"


def _asks(gate: str) -> str:
    return GATES[gate].scenario or "scanner-burst"


def _tickets(nights: Place, scenario: str) -> str:
    """The file with the tickets for a scenario, enough for every gate that is asked by it; seeded by the first one.
    Not for broken gates: what they store twice keeps the next gate from making its unique index."""
    file = f"{scenario}.json"
    if not (nights.folder / file).exists():
        gates = [gate for gate in CORRECT if _asks(gate) == scenario]
        number = str((ROUNDS + CONTROLS) * (len(gates) + 3))
        assert nights.run("seed", "--for", scenario, "--tickets", number, "--out", file).code == 0
    return file


def _rehearse(nights: Place, gate: str, rounds: int) -> tuple[int, str]:
    """Exit code and output of a race."""
    scenario, tickets = _scenario(nights, gate, rounds), _tickets(nights, _asks(gate))
    ran = nights.run("run-scenario", scenario, "--tickets", tickets, "--json", "summary.json")
    return ran.code, str(ran)


@pytest.mark.parametrize("gate", BROKEN)
def test_a_broken_gate_fails_and_a_ticket_is_named_with_its_rows(
    gate: str, gates_stack: Stack, gates_place: Place
) -> None:
    scenario = _scenario(gates_place, gate, 60)
    with local.lease(gates_stack.name, gate=gate, pool=20):
        assert gates_place.run("seed", "--for", scenario).code == 0
        ran = gates_place.run("run-scenario", scenario, "--json", "summary.json", env={"CI": "true"})
        assert gates_place.run("teardown").code == 0
    assert ran.code == 99, ran
    summary = gates_place.json("summary.json")
    assert summary["verdict"]["status"] == "FAIL"
    ids = {ticket["id"] for ticket in gates_place.json()["tickets"]}
    details = [
        detail for promise in summary["promises"] if promise["status"] == "FAIL" for detail in promise["details"]
    ]
    assert {detail["ticket"] for detail in details} <= ids
    assert any(detail["rows"] for detail in details), ran


@pytest.mark.parametrize("gate", CORRECT)
def test_a_correct_gate_passes(gate: str, gates_stack: Stack, nights: Place) -> None:
    with local.lease(gates_stack.name, gate=gate, pool=20):
        code, said = _rehearse(nights, gate, ROUNDS)
    assert code == 0, said
    assert nights.json("summary.json")["race"]["concurrency"] >= 2


@pytest.mark.parametrize("gate", ["check-then-act-5ms", "guarded-update"])
def test_a_gate_behind_one_connection_is_not_passed(gate: str, gates_stack: Stack, nights: Place) -> None:
    with local.lease(gates_stack.name, gate=gate, pool=1):
        code, said = _rehearse(nights, gate, 8)
    assert code == 98, said
    assert "one after the other, effective concurrency 1" in said


def test_the_same_key_ten_times_takes_effect_once(gates_stack: Stack, nights: Place) -> None:
    with local.lease(gates_stack.name, gate="skip-locked-stock", pool=20):
        tickets = _tickets(nights, "idempotent")
        ran = nights.run("run-scenario", "idempotent", "--tickets", tickets, "--rounds", str(ROUNDS))
    assert ran.code == 0, ran
    assert "contended rounds took effect twice" in ran.out


def test_races_take_a_single_packet_where_the_target_speaks_http2(gates_stack: Stack, gates_place: Place) -> None:
    secure = {"SUPABASE_URL": gates_stack.tls_url, "PROVISION_CA_FILE": str(gates_stack.ca_file)}
    scenario = _scenario(gates_place, "row-lock-nowait", 10)
    with local.lease(gates_stack.name, gate="row-lock-nowait", pool=20):
        assert gates_place.run("seed", "--for", scenario, env=secure).code == 0
        ran = gates_place.run("run-scenario", scenario, "--json", "summary.json", env=secure)
        assert gates_place.run("teardown", env=secure).code == 0
    assert ran.code == 0, ran
    assert gates_place.json("summary.json")["race"]["release"] == "single-packet (the target offers HTTP/2)"


def test_a_confidence_is_turned_into_rounds(gates_stack: Stack, nights: Place) -> None:
    scenario, tickets = _scenario(nights, "row-lock-nowait", ROUNDS), _tickets(nights, "scanner-burst")
    asked = ("run-scenario", scenario, "--tickets", tickets)
    with local.lease(gates_stack.name, gate="row-lock-nowait", pool=20):
        ran = nights.run(*asked, "--confidence", "20%", "--json", "summary.json")
        refused = nights.run(*asked, "--confidence", "0.1%")
    assert ran.code == 0, ran
    assert nights.json("summary.json")["race"]["rounds"] == 14
    assert refused.code == 104
    assert "--tickets 3022" in refused.err
