"""Bad recipes, scenarios, tickets and targets: each is refused with its place, and no error or repr shows a key."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

from provision import bundled
from provision.audit import thresholds
from provision.errors import ConfigError, ExitCode, ProvisionError, RecipeError, Refused, ScenarioError, TicketsError
from provision.fixtures import recipe, tickets
from provision.fixtures.fits import misfit
from provision.fixtures.schema import Column
from provision.gateway.supabase import SupabaseGateway
from provision.load import spec
from provision.target import Secret, Target, from_environment

KEY = "sb_secret_abcdefghijklmnopqrstuv_12345678"
REF = "abcdefghijklmnopqrst"
HOSTED = f"https://{REF}.supabase.co"
RECIPE = bundled.find("seeds", "event-night")[1]
COUNT = next(line for line in RECIPE.splitlines() if line.startswith("count: "))
SCENARIO = bundled.find("scenarios", "quick")[1]


def _token(**claims: str) -> str:
    parts = ({"alg": "HS256"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


# -- targets


def _target(url: str = "http://127.0.0.1:54321", key: str = KEY, **more: str) -> Target | None:
    return from_environment({"SUPABASE_URL": url, "SUPABASE_SECRET_KEY": key, **more}, {})


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:54321", "not a project URL"),
        ("ftp://127.0.0.1", "not a project URL"),
        ("https://", "not a project URL"),
        ("https://user:word@127.0.0.1", "not a project URL"),
        ("http://127.0.0.1:port", "is not a URL"),
        ("http://127.0.0.1:99999", "is not a URL"),
        ("http://[::1", "is not a URL"),
        ("http://127.0.0.1/rest/v1", "has a path"),
        ("http://127.0.0.1/?apikey=x", "has a path"),
        ("http://staging.example.com", "plain http"),
        ("http://127.0.0.1.example.com", "plain http"),
        ("http://localhost.example.com", "plain http"),
        ("http://192.168.1.10:54321", "plain http"),
    ],
)
def test_a_url_that_is_no_project_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        _target(url)
    assert caught.value.hint
    assert "word" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost", "http://[::1]:9", "http://api.localhost:1"])
def test_this_machine_is_always_allowed(url: str) -> None:
    target = _target(url + "/")
    assert target
    assert target.url == url


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("sb_publishable_abcdefgh", "publishable key"),
        (_token(role="anon"), "role 'anon'"),
        (_token(role="authenticated"), "role 'authenticated'"),
        (_token(sub="me"), "role 'none'"),
        ("a.b.c", "role 'unreadable'"),
        ("sb_secret_äöü", "characters that no key has"),
        ("sb_secret_a b", "characters that no key has"),
        ("sb_secret_a\r\nX-Evil: 1", "characters that no key has"),
    ],
)
def test_a_key_that_may_not_write_is_refused_and_not_repeated(key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        _target(key=key)
    assert "sb_secret_" in caught.value.hint
    assert key not in str(caught.value) + caught.value.hint + repr(caught.value)


def test_one_variable_without_the_other_is_named() -> None:
    with pytest.raises(ConfigError, match="SUPABASE_SECRET_KEY is not set"):
        from_environment({"SUPABASE_URL": "http://127.0.0.1"}, {})
    with pytest.raises(ConfigError, match="SUPABASE_URL is not set"):
        from_environment({"SUPABASE_SERVICE_ROLE_KEY": KEY, "SUPABASE_URL": " "}, {})
    assert from_environment({"SUPABASE_URL": ""}, {"SUPABASE_SECRET_KEY": None}) is None


@pytest.mark.parametrize(
    ("lists", "allowed"),
    [
        ({}, False),
        ({"PROVISION_STAGING_REFS": "somethingelse"}, False),
        ({"PROVISION_STAGING_REFS": "abcdefghij"}, False),
        ({"PROVISION_STAGING_REFS": "other, abcdefghijklmnopqrst"}, True),
        ({"PROVISION_STAGING_REFS": "abcdefghijklmnopqrst.supabase.co"}, True),
        (
            {"PROVISION_STAGING_REFS": "abcdefghijklmnopqrst", "PROVISION_PRODUCTION_REFS": "abcdefghijklmnopqrst"},
            False,
        ),
        (
            {
                "PROVISION_STAGING_REFS": "abcdefghijklmnopqrst",
                "PROVISION_PRODUCTION_REFS": "abcdefghijklmnopqrst.supabase.co",
            },
            False,
        ),
    ],
)
@pytest.mark.parametrize("url", [HOSTED, HOSTED.upper().replace("HTTPS", "https"), f"{HOSTED}:443", f"{HOSTED}./"])
def test_a_hosted_project_needs_the_staging_list_and_never_passes_as_production(
    url: str, lists: Mapping[str, str], allowed: bool
) -> None:
    if allowed:
        target = _target(url, **lists)
        assert target
        assert target.ref == "abcdefghijklmnopqrst"
        return
    with pytest.raises(Refused) as caught:
        _target(url, **lists)
    assert caught.value.code is ExitCode.TARGET


def test_a_production_ref_in_another_case_is_still_production() -> None:
    with pytest.raises(Refused, match="PROVISION_PRODUCTION_REFS"):
        _target(HOSTED, PROVISION_STAGING_REFS="abcdefghijklmnopqrst", PROVISION_PRODUCTION_REFS="ABCDEFGHIJKLMNOPQRST")


def test_a_database_on_this_machine_may_be_called_production() -> None:
    with pytest.raises(Refused, match="PROVISION_PRODUCTION_REFS"):
        _target("http://localhost:54321", PROVISION_PRODUCTION_REFS="localhost")


def test_the_key_is_in_no_text_about_a_target() -> None:
    target = _target()
    assert target
    shown = [repr(target), str(target), repr(target.key), str(target.key), f"{target.key}", f"{target!r:s}"]
    assert [text for text in shown if KEY in text] == []
    assert target.key.reveal() == KEY
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(target.key)
    assert not hasattr(Secret(KEY), "__dict__")


@pytest.mark.parametrize("text", [None, "not a certificate"])
def test_a_ca_file_without_a_certificate_is_refused(text: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    target = _target("https://localhost", PROVISION_CA_FILE=str(path))
    assert target
    with pytest.raises(ConfigError, match="PROVISION_CA_FILE"):
        SupabaseGateway(target, notify=print)


# -- files


def _changed(source: str, old: str, new: str) -> str:
    assert old in source
    return source.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (COUNT, "count: 0", "greater than or equal to 1"),
        (COUNT, "count: 10000001", "less than or equal to"),
        (COUNT, "count: many", "valid integer"),
        ("rows: 1", "rows: 0", "a row count is at least 1"),
        ("rows: 1", "rows: tickets/0", "is no row count"),
        ("rows: 1", "rows: [1]", "r.yaml:"),
        ("  table: tickets", "  table: ticket", "unknown table 'ticket'; did you mean 'ticket"),
        ("scanner: staff", "scanner: stuff", "unknown table 'stuff'; did you mean 'staff'"),
        ("name: event-night", "name: event-night\nname: other", "key 'name' stands here twice"),
        ("name: event-night", "format: 2\nname: event-night", "format: Input should be 1"),
        ("tables:", "tabels:", "unknown key 'tabels'; did you mean 'tables'"),
        ("seed: 2026", "seed: !!python/object/apply:os.getcwd []", "r.yaml:"),
    ],
)
def test_a_bad_recipe_names_the_file_and_the_place(old: str, new: str, says: str) -> None:
    with pytest.raises(RecipeError, match=r"^r\.yaml(:\d+)?: ") as caught:
        recipe.parse(Path("r.yaml"), _changed(RECIPE, old, new))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "word", "a: [", "a: \x00", "1: 2", "? [1]\n: 2", "<<: 3", "a: &x [*x]", "\t- x"]
)
@pytest.mark.parametrize("parse", [recipe.parse, spec.parse])
def test_what_is_no_such_file_is_refused_with_its_name(text: str, parse: object) -> None:
    assert callable(parse)
    with pytest.raises(ConfigError, match=r"^f\.yaml"):
        parse(Path("f.yaml"), text)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("vus: 10, dur", "vus: 0, dur", "greater than or equal to 1"),
        ("vus: 10, dur", "vus: 1.5, dur", "valid integer"),
        ("vus: 10, dur", "vus: true, dur", "valid integer"),
        ("duration: 5s", "duration: 0s", "greater than 0"),
        ("duration: 5s", "duration: -5s", "is no duration"),
        ("duration: 5s", "duration: 5 s", "is no duration"),
        ("duration: 5s", "duration: true", "is no duration"),
        ("duration: 5s", "duration: .inf", "is no duration"),
        ("duration: 5s", "duration: .nan", "is no duration"),
        ("duration: 5s, ", "", "'duration' is missing"),
        ("rounds: 60", "rounds: 0", "greater than or equal to 1"),
        ("rounds: 60", "iterations: 60", "unknown key 'iterations'"),
        ("executor: race", "executor: rase", "rase"),
        ("rpc: scan_ticket_atomic", "rpc: ../auth/v1/admin", "rpc"),
        ("name: quick", "name: ../../etc", "name"),
        ("admitted:     {", "admittet:     {", "unknown outcome 'admittet'; did you mean 'admitted'"),
        ("already_used: {", "unknown: {", "unknown outcome 'unknown'"),
        ("path: success, equals: true", "equals: true", "needs a path or a status"),
        ("equals: true }", "equals: true, matches: x }", "exactly one of"),
        ('"not found"', '"[not found"', "no regular expression"),
    ],
)
def test_a_bad_scenario_names_the_file_and_the_place(old: str, new: str, says: str) -> None:
    with pytest.raises(ScenarioError, match=r"^s\.yaml(:\d+)?: ") as caught:
        spec.parse(Path("s.yaml"), _changed(SCENARIO, old, new))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "expression", "says"),
    [
        ("scan_durations", "p(95)<200", "did you mean 'scan_duration'"),
        ("scan_duration", "p(95)", "is no threshold"),
        ("scan_duration", "p(101)<200", "between 0 and 100"),
        ("scan_duration", "p(1.2.3)<200", "is no threshold|it has"),
        ("scan_duration", "p(95)<1.2.3", "is no threshold"),
        ("scan_duration", "p(95)<.", "is no threshold"),
        ("scan_duration", "rate<1", "scan_duration is a trend"),
        ("scan_errors", "p(95)<1", "scan_errors is a rate"),
        ("successful_scans", "value>1", "successful_scans is a counter"),
        ("scan_duration{outcom:admitted}", "p(95)<1", "did you mean 'outcome'"),
        ("scan_duration{outcome:admited}", "p(95)<1", "did you mean 'admitted'"),
        ("scan_duration{scenario:bursd}", "p(95)<1", "did you mean 'burst'"),
        ("scan_duration{admitted}", "p(95)<1", "tag|is no metric"),
        ("scan_duration{", "p(95)<1", "is no metric"),
        ("", "p(95)<1", "is no metric"),
    ],
)
def test_a_threshold_that_cannot_be_judged_is_refused_before_the_run(metric: str, expression: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        thresholds.parse(metric, expression, ["burst"])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "7", "null", '"x"', "{}", '{"tickets": 3}', '{"tickets": [], "run": "x"}', '{"run": {}}', "\x00"],
)
def test_a_ticket_file_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(TicketsError, match=r"^t\.json") as caught:
        tickets.parse(Path("t.json"), text)
    assert caught.value.hint == "Make one with: provision seed"


@pytest.mark.parametrize(
    "change",
    [
        {"run": 7},
        {"run": None},
        {"run": "../../etc"},
        {"target": ["x"]},
        {"tickets": [3]},
        {"tickets": {"id": "x"}},
        {"raceTestTicket": {"id": 5}},
        {"raceTestTicket": []},
        {"environment_variables": {"TEST_EVENT_ID": 3, "TEST_SCANNER_ID": 4}},
    ],
    ids=str,
)
def test_a_ticket_file_with_a_value_of_the_wrong_kind_is_refused(change: Mapping[str, object]) -> None:
    good = {
        "run": "20260131-204500-x7kq3",
        "target": "http://127.0.0.1:54321",
        "tickets": [{"id": "a"}],
        "raceTestTicket": {"id": "b"},
        "environment_variables": {"TEST_EVENT_ID": "e", "TEST_SCANNER_ID": "s"},
    }
    assert tickets.parse(Path("t.json"), json.dumps(good)).run == good["run"]
    with pytest.raises(TicketsError, match=r"^t\.json was not written by provision seed"):
        tickets.parse(Path("t.json"), json.dumps({**good, **change}))


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("boolean", [True], ["true", 1, 0]),
        ("integer", [1, -1], [True, 1.5, "1"]),
        ("numeric(10,2)", [1, 2.5, "25.00"], ["cheap", True, [1]]),
        ("date", ["2026-01-31", "tomorrow"], ["soon", 7]),
        ("timestamp with time zone", ["2026-01-31T20:00:00Z", "now"], ["later", 7]),
        ("time without time zone", ["20:00"], ["late", 20]),
        ("uuid", ["5f3a9c1e-77b2-4d01-8003-000000000012"], ["me", 7]),
        ("text", ["x"], []),
    ],
)
def test_a_value_is_held_against_its_columns_type(kind: str, good: list[object], bad: list[object]) -> None:
    column = Column("c", kind, required=True, has_default=False)
    assert [value for value in good if misfit(column, value)] == []
    assert [value for value in bad if not misfit(column, value)] == []
    assert "NOT NULL" in misfit(column, None)


def test_every_error_has_an_exit_code_that_is_not_success() -> None:
    kinds = [ProvisionError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        assert kind.code not in {ExitCode.PASS, ExitCode.FAIL, ExitCode.INCONCLUSIVE}
    assert len(kinds) > 8
