"""From a finished run to what people and machines read, with the commands that the README names."""

from __future__ import annotations

import csv
import json
import sys

import jsonschema
import pytest
from commands import Database, Place
from junitparser import JUnitXml
from prometheus_client.parser import text_string_to_metric_families
from reports import schema
from servers import closed_port

from provision import bundled

QUICK = bundled.find("scenarios", "quick")[1]
PATIENT = QUICK.replace("p(95)<200", "p(95)<20000")
"""The machine of the tests may be a busy one."""
SHORT = ("run-scenario", "night.yaml", "--duration", "1s", "--rounds", "10", "--quiet")
FILES = ("--json", "s.json", "--html", "r.html", "--junit", "j.xml", "--out", "csv", "--out", "ndjson=all.ndjson",
         "--out", "prometheus=night.prom")  # fmt: skip


@pytest.fixture(autouse=True)
def _night(place: Place) -> None:
    (place.folder / "night.yaml").write_text(PATIENT)


def _valid(value: object, name: str) -> None:
    jsonschema.validate(value, schema(name), cls=jsonschema.Draft202012Validator)


def test_a_run_leaves_every_form_that_was_asked_for_and_each_keeps_to_its_schema(
    place: Place, database: Database
) -> None:
    assert place.run("seed", "--for", "night.yaml").code == 0
    ran = place.run(*SHORT, *FILES)
    assert ran.code == 0, ran
    folder = next(place.folder.glob(".provision/*/quick-1"))
    assert f"report: {folder.relative_to(place.folder)}/report.html" in ran.out
    summary = place.json("s.json")
    _valid(summary, "summary")
    _valid(place.json("test-tickets.json"), "tickets")
    assert JUnitXml.fromfile(str(place.folder / "j.xml")).failures == 0
    requests = list(csv.DictReader((folder / "requests.csv").read_text().splitlines()))
    assert len(requests) == len((place.folder / "all.ndjson").read_text().splitlines())
    measured = [row for row in requests if row["measured"] == "true"]
    assert len(measured) == summary["metrics"]["iterations"]["values"]["count"]
    samples = [s for f in text_string_to_metric_families((place.folder / "night.prom").read_text()) for s in f.samples]
    assert sum(s.value for s in samples if s.name == "k6_iterations_total") == len(measured)
    assert (place.folder / "r.html").read_bytes() == (folder / "report.html").read_bytes()
    assert len((place.folder / "r.html").read_bytes()) < 1_500_000

    assert place.run("teardown").code == 0
    for line in place.manifest():
        _valid(json.loads(line), "manifest")
    assert ">scan_logs</th>" in (folder / "report.html").read_text()
    assert "Not torn down yet" not in (folder / "report.html").read_text()


def test_a_collector_that_does_not_answer_changes_no_verdict(place: Place, database: Database) -> None:
    place.env["OTEL_EXPORTER_OTLP_TIMEOUT"] = "0.5"
    assert place.run("seed", "--for", "night.yaml").code == 0
    ran = place.run(*SHORT, "--out", f"otlp=http://127.0.0.1:{closed_port()}")
    assert ran.code == 0, ran
    assert "did not take the metrics" in ran.err
    assert place.run("teardown").code == 0


def test_a_finished_run_is_reported_again_without_a_database_and_opened(place: Place, database: Database) -> None:
    assert place.run("seed", "--for", "night.yaml").code == 0
    ran = place.run(*SHORT)
    assert place.run("teardown").code == 0
    nowhere = {"SUPABASE_URL": "http://127.0.0.1:9", "SUPABASE_SECRET_KEY": "sb_secret_none"}
    opened = place.folder / "opened.txt"
    browser = place.folder / "browser.py"
    browser.write_text(f"import sys\nopen({str(opened)!r}, 'w').write(sys.argv[1])\n")
    again = place.run("report", "--open", env={**nowhere, "BROWSER": f"{sys.executable} {browser} %s"})
    assert again.code == 0, again
    page = next(place.folder.glob(".provision/*/quick-1/report.html"))
    assert opened.read_text() == page.as_uri()
    told = next(line for line in ran.out.splitlines() if "PASS" in line)
    assert told in again.out
    listed = place.run("runs", env=nowhere)
    assert (listed.code, "PASS" in listed.out, "clean" in listed.out) == (0, True, True), listed


def test_two_runs_are_compared_and_a_missing_one_is_named(place: Place, database: Database) -> None:
    assert place.run("seed", "--tickets", "420").code == 0
    for _ in range(2):
        assert place.run(*SHORT).code == 0
    assert place.run("teardown").code == 0
    first, second = (f"{place.runs()[0]}/quick-{number}" for number in (1, 2))
    compared = place.run("compare", first, second)
    assert compared.code == 0, compared
    assert f"A: {first}  PASS" in compared.out
    assert compared.out.count("race_condition") == 3
    assert place.run("compare", first, second, "--max-regression", "100000%").code in {0, 98}
    assert place.run("compare", first, "nothing").code == 104
    assert place.run("compare", first, second, "--max-regression", "much").code == 104


def test_github_gets_annotations_and_a_step_summary(place: Place, database: Database) -> None:
    (place.folder / "night.yaml").write_text(QUICK.replace("p(95)<200", "p(95)<0.001"))
    assert place.run("seed", "--for", "night.yaml").code == 0
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(place.folder / "step.md")}
    ran = place.run(*SHORT, env=github)
    assert ran.code == 99, ran
    assert [line for line in ran.out.splitlines() if line.startswith("::error title=provision%3A threshold")]
    assert (place.folder / "step.md").read_text().startswith("## ❌ FAIL: Scanning was too slow: p(95) was")
    assert "::error" not in place.run("report").out
    assert place.run("teardown").code == 0


def test_a_k6_configuration_takes_the_place_of_the_executors(place: Place, database: Database) -> None:
    given = {"scenarios": {"doors": {"executor": "per-vu-iterations", "vus": 3, "iterations": 4, "exec": "scan"}},
             "thresholds": {"http_req_duration": ["p(95)<5000"]}}  # fmt: skip
    (place.folder / "k6.json").write_text(json.dumps(given))
    assert place.run("seed", "--tickets", "20").code == 0
    ran = place.run("run-scenario", "quick", "--config", "k6.json", "--json", "s.json")
    assert ran.code == 0, ran
    summary = place.json("s.json")
    assert summary["outcomes"] == {"doors": {"admitted": 12}}
    assert list(summary["metrics"]["http_req_duration"]["thresholds"]) == ["p(95)<5000"]
    (place.folder / "k6.json").write_text('{"scenarios": {"doors": {"executor": "per-vu-iterations", "vuss": 3}}}')
    bad = place.run("run-scenario", "quick", "--config", "k6.json")
    assert bad.code == 104
    assert "k6.json:1: scenarios.doors" in bad.err
    assert place.run("teardown").code == 0


def test_a_bad_place_or_form_is_refused_before_anything_is_sent(place: Place, database: Database) -> None:
    assert place.run("seed", "--tickets", "200").code == 0
    before = database("select count(*) from scan_logs")
    for option in (
        ("--html", "nowhere/r.html"),
        ("--junit", "."),
        ("--out", "xml"),
        ("--out", "otlp=nowhere"),
        ("--config", "no"),
    ):
        ran = place.run(*SHORT, *option)
        assert ran.code == 104, ran
    assert database("select count(*) from scan_logs") == before
    assert place.run("teardown").code == 0


def test_the_schemas_are_printed(place: Place) -> None:
    for name in ("summary", "manifest", "tickets"):
        assert json.loads(place.run("schema", name).out) == schema(name)
    assert place.run("schema", "sumary").code == 104
