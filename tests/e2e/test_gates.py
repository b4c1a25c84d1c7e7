"""Every gate, correct and broken, rehearsed over the tool's own race: what it must find and what it must pass."""

from __future__ import annotations

import pytest
from commands import Place

from provision.local import stack as local
from provision.local.stack import Stack

GATES = local.gates()
BROKEN = sorted(name for name, gate in GATES.items() if gate.broken)
CORRECT = sorted(name for name, gate in GATES.items() if not gate.broken)
RACE = """
name: race
{}
scenarios:
  race: {{ executor: race, vus: 10, rounds: {} }}
"""


def _scenario(place: Place, gate: str, rounds: int) -> str:
    """A scenario with the race alone, asking for the function that this gate is a variant of."""
    from provision import bundled

    text = bundled.find("scenarios", GATES[gate].scenario or "scanner-burst")[1]
    middle = text[text.index("recipe:") if "recipe:" in text else text.index("request:") : text.index("scenarios:")]
    (place.folder / "race.yaml").write_text(RACE.format(middle, rounds))
    return "race.yaml"


def _rehearse(place: Place, gate: str, rounds: int, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and output of a race, its rows removed again."""
    scenario = _scenario(place, gate, rounds)
    assert place.run("seed", "--for", scenario).code == 0
    ran = place.run("run-scenario", scenario, "--json", "summary.json", env=env)
    assert place.run("teardown").code == 0
    return ran.code, str(ran)


@pytest.mark.parametrize("gate", BROKEN)
def test_a_broken_gate_fails_and_a_ticket_is_named_with_its_rows(
    gate: str, gates_stack: Stack, gates_place: Place
) -> None:
    with local.lease(gates_stack.name, gate=gate, pool=20):
        code, said = _rehearse(gates_place, gate, 100, {"CI": "true"})
    assert code == 99, said
    summary = gates_place.json("summary.json")
    assert summary["verdict"]["status"] == "FAIL"
    ids = {ticket["id"] for ticket in gates_place.json()["tickets"]}
    details = [
        detail for promise in summary["promises"] if promise["status"] == "FAIL" for detail in promise["details"]
    ]
    assert {detail["ticket"] for detail in details} <= ids
    assert any(detail["rows"] for detail in details), said


@pytest.mark.parametrize("gate", CORRECT)
def test_a_correct_gate_passes(gate: str, gates_stack: Stack, gates_place: Place) -> None:
    with local.lease(gates_stack.name, gate=gate, pool=20):
        code, said = _rehearse(gates_place, gate, 30)
    assert code == 0, said
    assert gates_place.json("summary.json")["race"]["concurrency"] >= 2


@pytest.mark.parametrize("gate", ["check-then-act", "check-then-act-5ms", "guarded-update"])
def test_a_gate_behind_one_connection_is_not_passed(gate: str, gates_stack: Stack, gates_place: Place) -> None:
    with local.lease(gates_stack.name, gate=gate, pool=1):
        code, said = _rehearse(gates_place, gate, 20)
    assert code == 98, said
    assert "one after the other, effective concurrency 1" in said


def test_the_same_key_ten_times_takes_effect_once(gates_stack: Stack, gates_place: Place) -> None:
    with local.lease(gates_stack.name, gate="skip-locked-stock", pool=20):
        assert gates_place.run("seed", "--for", "idempotent").code == 0
        ran = gates_place.run("run-scenario", "idempotent", "--rounds", "20")
        assert gates_place.run("teardown").code == 0
    assert ran.code == 0, ran
    assert "contended rounds took effect twice" in ran.out


def test_races_take_a_single_packet_where_the_target_speaks_http2(gates_stack: Stack, gates_place: Place) -> None:
    secure = {"SUPABASE_URL": gates_stack.tls_url, "PROVISION_CA_FILE": str(gates_stack.ca_file)}
    scenario = _scenario(gates_place, "row-lock-nowait", 20)
    with local.lease(gates_stack.name, gate="row-lock-nowait", pool=20):
        assert gates_place.run("seed", "--for", scenario, env=secure).code == 0
        ran = gates_place.run("run-scenario", scenario, "--json", "summary.json", env=secure)
        assert gates_place.run("teardown", env=secure).code == 0
    assert ran.code == 0, ran
    assert gates_place.json("summary.json")["race"]["release"] == "single-packet (the target offers HTTP/2)"


def test_a_confidence_is_turned_into_rounds(gates_stack: Stack, gates_place: Place) -> None:
    scenario = _scenario(gates_place, "row-lock-nowait", 100)
    with local.lease(gates_stack.name, gate="row-lock-nowait", pool=20):
        assert gates_place.run("seed", "--for", scenario).code == 0
        ran = gates_place.run("run-scenario", scenario, "--confidence", "5%", "--json", "summary.json")
        refused = gates_place.run("run-scenario", scenario, "--confidence", "0.1%")
        assert gates_place.run("teardown").code == 0
    assert ran.code == 0, ran
    assert gates_place.json("summary.json")["race"]["rounds"] == 59
    assert refused.code == 104
    assert "--tickets 3022" in refused.err
