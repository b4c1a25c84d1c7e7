"""What machines read: the summary and its schema, JUnit, GitHub's commands, every request as a row."""

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import jsonschema
import pytest
from histories import History, good
from junitparser import Error, Failure, JUnitXml
from reports import RUN, THRESHOLDS, leave, report, schema
from rich.console import Console

from provision import saved
from provision.audit.comparison import latencies
from provision.errors import ConfigError
from provision.load.results import NO_TICKET, Sample
from provision.report import github, html, junit, machine, rows, terminal
from provision.report.series import series
from provision.saved import Destination


def broken() -> History:
    history = good()
    history.race(70, ["admitted", "busy", "admitted"])
    history.store(70)
    history.samples.append(Sample("unclassified", 200, "<b>\x00odd & even</b>", 2))
    return history


def _validate(value: object) -> None:
    jsonschema.validate(value, schema("summary"), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("history", [good(), broken(), History()], ids=["good", "broken", "empty"])
def test_the_summary_keeps_to_its_schema(history: History, tmp_path: Path) -> None:
    _validate(json.loads(saved.as_json(report(history, tmp_path))))


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s["verdict"].update(status="OK"),
        lambda s: s["metrics"]["scan_duration"]["values"].pop("p(95)"),
        lambda s: s["metrics"]["scan_duration"]["thresholds"]["p(95)<200"].pop("ok"),
        lambda s: s.pop("promises"),
        lambda s: s["outcomes"]["burst"].update(admitted=-1),
    ],
)
def test_the_schema_refuses_a_summary_that_is_not_one(damage: object, tmp_path: Path) -> None:
    summary = machine.summary(report(good(), tmp_path))
    assert callable(damage)
    damage(summary)
    with pytest.raises(jsonschema.ValidationError):
        _validate(summary)


def test_the_summary_has_the_shape_of_k6s_handle_summary_data(tmp_path: Path) -> None:
    summary = machine.summary(report(good(), tmp_path))
    assert summary.keys() >= {"metrics", "root_group", "options", "state"}
    duration = summary["metrics"]["scan_duration"]
    assert (duration["type"], duration["contains"]) == ("trend", "time")
    assert duration["thresholds"]["p(95)<200"]["ok"] is True
    assert duration["values"]["count"] == 250
    assert summary["metrics"]["data_sent"]["contains"] == "data"
    assert summary["state"]["testRunDurationMs"] == 10_000
    assert summary["verdict"]["exit_code"] == 0


def given_up() -> History:
    history = good()
    for ticket in (70, 71):
        history.ask("interrupted", ticket, status=0)
    return history


def test_iterations_that_we_gave_up_are_counted_in_every_report_and_in_no_metric(tmp_path: Path) -> None:
    judged = report(given_up(), tmp_path)
    summary = json.loads(saved.as_json(judged))
    _validate(summary)
    assert summary["iterations"] == {"complete": 250, "interrupted": 2}
    assert summary["outcomes"]["burst"] == {"admitted": 50}
    assert {summary["metrics"][name]["values"]["count"] for name in ("iterations", "http_reqs", "scan_duration")} == {
        250
    }
    said = io.StringIO()
    Console(file=said, width=120).print(terminal.summary(judged))
    assert "250 complete and 2 interrupted iterations" in said.getvalue()
    assert "250 complete and 2 interrupted iterations" in github.step_summary(judged)
    page = re.sub("<[^>]*>", "", html.render(judged))
    assert "250 complete and 2 interrupted iterations" in page
    drawn = series(judged)
    assert sum(row["count"] for row in drawn["timeline"]) == sum(row["count"] for row in drawn["distribution"]) == 250
    assert {len(found) for found in latencies(judged.results).values()} == {50, 200}


def test_an_unknown_upper_bound_is_shown_as_such(tmp_path: Path) -> None:
    judged = report(good(), tmp_path, {"scan_duration{scenario:burst}": ["p(95)<200"]})
    (finding,) = judged.thresholds
    assert "(95 % interval 5 to ?) of 50 samples. An upper bound takes 72 samples. The limit lies inside" in (
        finding.statement
    )
    summary = json.loads(saved.as_json(judged))
    _validate(summary)
    found = summary["metrics"]["scan_duration{scenario:burst}"]["thresholds"]["p(95)<200"]
    assert found["interval"] == [5.0, None]
    assert "5 – ?" in html.render(judged)
    said = io.StringIO()
    Console(file=said, width=120).print(terminal.thresholds(judged))
    assert "5 – ?" in said.getvalue()


def test_a_threshold_without_samples_is_not_ok(tmp_path: Path) -> None:
    missing = {"scan_duration{outcome:conflict}": ["p(95)<200"]}
    summary = machine.summary(report(good(), tmp_path, missing))
    judged = summary["metrics"]["scan_duration{outcome:conflict}"]["thresholds"]["p(95)<200"]
    assert (judged["ok"], judged["status"], judged["value"], judged["samples"]) == (False, "INCONCLUSIVE", None, 0)


# -- JUnit


def _cases(text: str) -> dict[str, list[object]]:
    parsed = JUnitXml.fromstring(text.encode())
    return {f"{suite.name}: {case.name}": list(case.result) for suite in parsed for case in suite}


def test_junit_has_a_case_for_each_promise_and_threshold_and_all_pass(tmp_path: Path) -> None:
    good_report = report(good(), tmp_path)
    cases = _cases(junit.render(good_report))
    limits = [f"night thresholds: {metric} {text}" for metric, texts in THRESHOLDS.items() for text in texts]
    assert [name for name in cases if name.startswith("night thresholds")] == limits
    promises = [f"night promises: {finding.promise}" for finding in good_report.promises]
    assert [name for name in cases if name.startswith("night promises")] == promises
    assert [result for result in cases.values() if result] == []


def test_junit_tells_failures_from_what_the_run_does_not_tell(tmp_path: Path) -> None:
    limits = {"scan_duration": ["p(95)<1"], "scan_duration{outcome:conflict}": ["p(95)<200"]}
    text = junit.render(report(broken(), tmp_path, limits))
    cases = _cases(text)
    kinds = {name: [type(result) for result in results] for name, results in cases.items() if results}
    assert kinds["night promises: one-winner"] == [Failure]
    assert kinds["night thresholds: scan_duration p(95)<1"] == [Failure]
    assert kinds["night thresholds: scan_duration{outcome:conflict} p(95)<200"] == [Error]
    parsed = JUnitXml.fromstring(text.encode())
    assert (parsed.tests, parsed.failures, parsed.errors) == (len(cases), 4, 1)
    message = next(iter(cases["night promises: one-winner"]))
    assert "ticket-70" in str(message.message)
    assert "by gate 3 (race, round 21)" in str(message.text)


def test_junit_carries_characters_that_xml_cannot(tmp_path: Path) -> None:
    cases = _cases(junit.render(report(broken(), tmp_path)))
    assert "<b>\N{REPLACEMENT CHARACTER}odd & even</b>" in cases["night promises: all-classified"][0].message


# -- GitHub


def test_annotations_are_commands_whose_text_cannot_break_out(tmp_path: Path) -> None:
    history = good()
    history.samples.append(Sample("unclassified", 200, "50%\n::error::forged", 1))
    lines = github.commands(report(history, tmp_path, {}))
    assert [line.split("::")[1] for line in lines] == ["error title=provision%3A all-classified"]
    assert "\n" not in lines[0]
    assert "50%25%0A" in lines[0]


def test_annotations_keep_to_ten_of_a_kind_and_count_the_rest(tmp_path: Path) -> None:
    limits = {"scan_duration": [f"p(95)<{limit / 100}" for limit in range(1, 31)]}
    lines = github.commands(report(good(), tmp_path, limits))
    assert len(lines) == 10
    assert "21 more" in lines[-1]


def test_a_run_in_which_all_held_annotates_nothing(tmp_path: Path) -> None:
    assert github.commands(report(good(), tmp_path)) == []


def test_the_step_summary_says_the_verdict_first_and_escapes_markup(tmp_path: Path) -> None:
    text = github.step_summary(report(broken(), tmp_path))
    assert text.startswith("## ❌ FAIL: One ticket was admitted twice: ticket-70")
    assert "\\<b\\>" in text
    assert "| burst | admitted | 50 | 5.0 | 5.0 |" in text


def test_the_step_summary_keeps_what_is_there_and_stays_within_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    github.append_summary(path, "ours\n")
    assert path.read_text() == "before\nours\n"
    github.append_summary(path, "é" * github.SUMMARY_BYTES)
    written = path.read_bytes()
    assert github.SUMMARY_BYTES - 4 <= len(written) <= github.SUMMARY_BYTES
    assert written.decode().endswith("… cut: a step summary holds 1 MiB.\n")
    github.append_summary(path, "more")
    assert path.read_bytes() == written


# -- every request


def test_csv_and_ndjson_have_a_row_for_every_request_with_the_same_values(tmp_path: Path) -> None:
    history = good()
    history.ask("not_sent", 3, status=0)
    history.ask("not_found", NO_TICKET, part=0)
    results = report(history, tmp_path).results
    table = list(csv.DictReader(io.StringIO("".join(rows.as_csv(results)))))
    lines = [json.loads(line) for line in rows.as_ndjson(results)]
    assert len(table) == len(lines) == len(results)
    as_text = [{name: _text(value) for name, value in line.items()} for line in lines]
    assert table == as_text
    assert {line["outcome"] for line in lines} == {"admitted", "busy", "already_used", "not_sent", "not_found"}
    unsent = lines[-2]
    assert (unsent["sent_ms"], unsent["duration_ms"], unsent["status"], unsent["ticket"]) == (
        None,
        None,
        None,
        "ticket-3",
    )
    ghost = lines[-1]
    assert (ghost["ticket"], ghost["measured"], ghost["scenario"]) == (None, False, "canary")


def _text(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def test_a_row_carries_the_moment_of_sending(tmp_path: Path) -> None:
    first = next(iter(rows.rows(report(good(), tmp_path).results)))
    assert first["timestamp"] == "2026-06-01T20:00:00.000000+00:00"
    assert first["duration_ms"] == pytest.approx(5.0)
    assert (first["gate"], first["iteration"], first["round"]) == (1, 1, None)


@pytest.mark.parametrize(
    ("option", "expected"),
    [("csv", Destination("csv")), ("ndjson=there.ndjson", Destination("ndjson", "there.ndjson"))],
)
def test_out_names_a_form_and_perhaps_a_file(option: str, expected: Destination) -> None:
    assert saved.destination(option) == expected


def test_out_refuses_a_form_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="did you mean 'csv'"):
        saved.destination("cvs=there")


def test_a_saved_run_is_written_in_every_form_that_was_asked_for(tmp_path: Path) -> None:
    folder = leave(good(), tmp_path)
    files = {"json": tmp_path / "s.json", "html": tmp_path / "r.html", "junit": tmp_path / "j.xml"}
    out = [Destination("csv"), Destination("ndjson", str(tmp_path / "all.ndjson"))]
    saved.save(saved.load(folder), folder, files=files, out=out)
    assert files["json"].read_text() == (folder.path / "summary.json").read_text()
    assert files["html"].read_text() == (folder.path / "report.html").read_text()
    assert JUnitXml.fromstring(files["junit"].read_bytes()).failures == 0
    assert (folder.path / "requests.csv").read_text().count("\n") == 251
    assert (tmp_path / "all.ndjson").read_text().count("\n") == 250
    assert RUN in files["json"].read_text()


def test_judging_a_saved_run_again_gives_the_same_summary(tmp_path: Path) -> None:
    history = broken()
    folder = leave(history, tmp_path)
    first = saved.load(folder)
    saved.save(first, folder, files={})
    again = machine.summary(saved.load(folder))
    assert json.loads((folder.path / "summary.json").read_text()) == json.loads(json.dumps(again))
    assert dataclasses.asdict(first.verdict.contention) == again["race"]
