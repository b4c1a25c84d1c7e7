"""`provision init` on the ticketing app, which it knows nothing of: what it writes runs without an edit."""

from __future__ import annotations

from commands import Database, Place


def test_a_drafted_recipe_and_scenario_run_without_an_edit(place: Place, database: Database) -> None:
    before = database.rows()
    drafted = place.run("init", "--name", "fair")
    assert drafted.code == 0, drafted
    assert {"seeds/fair.yaml", "scenarios/fair.yaml"} <= set(place.files())
    checked = place.run("check", "scenarios/fair.yaml", "--recipe", "seeds/fair.yaml")
    assert checked.code == 0, checked
    assert "canary: admitted" in checked.out
    assert place.run("seed", "seeds/fair.yaml", "--tickets", "150").code == 0
    short = ("--duration", "1s", "--rounds", "20", "--vus", "5")
    ran = place.run("run-scenario", "scenarios/fair.yaml", *short, "--json", "summary.json")
    summary = place.json("summary.json")
    assert ran.code in {0, 98}, ran
    verdict, promises = summary["verdict"], {found["promise"]: found["status"] for found in summary["promises"]}
    assert verdict["exit_code"] == ran.code
    assert {promises[name] for name in ("one-winner", "none-lost", "none-unexpected", "all-classified")} == {"PASS"}, (
        ran
    )
    assert set(promises.values()) <= ({"PASS"} if ran.code == 0 else {"PASS", "INCONCLUSIVE"}), ran
    assert verdict["status"] == ("PASS" if ran.code == 0 else "INCONCLUSIVE")
    assert "".join(verdict["sentence"].split()) in "".join(ran.out.split())
    assert summary["race"]["rounds"] == 20
    assert summary["metrics"]["successful_scans"]["values"]["count"] > 20
    torn = place.run("teardown")
    assert torn.code == 0, torn
    assert database.rows() == before


def test_a_draft_does_not_overwrite_what_is_there(place: Place, database: Database) -> None:
    assert place.run("init").code == 0
    again = place.run("init")
    assert again.code == 104, again
    assert "is there already" in again.err
