import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.errors import ScenarioError
from provision.load.http import Origin
from provision.load.request import Template, escaped
from provision.load.spec import Request

ORIGIN = Origin.parse("http://gate.test")
words = st.text(max_size=20)


def template(args: dict[str, Any], *fields: str) -> Template:
    return Template(Request(rpc="scan", args=args), ORIGIN, {"apikey": "100%"}, frozenset(fields), frozenset({"run"}))


def body(request: bytes) -> Any:
    head, _, content = request.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(content)}".encode() in head.split(b"\r\n")
    return json.loads(content)


@given(words, words, words, st.integers(0, 99), st.integers(0, 99))
def test_a_spliced_request_is_the_one_that_is_built(one: str, other: str, run: str, vu: int, iteration: int) -> None:
    args = {
        "a": "x{ticket.id}%s",
        "b": "{vu}/{iter} of {run}",
        "at": "{scanned_at}",
        "c": ["{ticket.code}", None, 7],
        "100%": "%d",
    }
    made = template(args, "id", "code")
    values: dict[str, str | int] = {
        "ticket.id": one,
        "ticket.code": other,
        "run": run,
        "vu": vu + 1,
        "iter": iteration + 1,
        "scanned_at": f"moment {iteration}",
    }
    built = made.render(values)
    splice = made.form({"run": run, "vu": vu + 1}).splicer(
        {"ticket.id": [escaped(one)], "ticket.code": [escaped(other)]}, lambda number: b"moment %d" % number
    )
    assert splice(0, iteration) == built
    assert body(built) == {
        "a": f"x{one}%s", "b": f"{vu + 1}/{iteration + 1} of {run}",
        "at": f"moment {iteration}", "c": [other, None, 7], "100%": "%d",
    }  # fmt: skip


@given(st.lists(words, min_size=1, max_size=5))
def test_the_usual_request_with_one_open_token_is_the_one_that_is_built(ids: list[str]) -> None:
    made = template({"p": "{ticket.id}", "gate": "gate-{vu}"}, "id")
    splice = made.form({"vu": 3}).splicer({"ticket.id": [escaped(value) for value in ids]}, lambda _: b"")
    for number, value in enumerate(ids):
        assert splice(number, 0) == made.render({"ticket.id": value, "vu": 3})


def test_a_token_that_means_nothing_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"did you mean 'ticket\.id'"):
        template({"p": "{ticket.ids}"}, "id")


@pytest.mark.parametrize(
    ("written", "near"),
    [("{Vu}", "'vu'"), ("{ vu }", "'vu'"), ("{ticket-id}", "'ticket.id'"), ("{scannedat}", "'scanned_at'")],
)
def test_what_looks_like_a_token_and_is_none_is_refused_not_sent(written: str, near: str) -> None:
    with pytest.raises(ScenarioError, match=f"did you mean {near}"):
        template({"p": ["x", {"inner": f"gate {written}"}]}, "id")


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("{{vu}}", "{vu}"),
        ("{{{vu}}}", "{{vu}}"),
        ("{{name}} {vu}", "{name} 7"),
        ('{"gate": {"vu": {vu}}, "none": {}}', '{"gate": {"vu": 7}, "none": {}}'),
        ("[0-9]{3} {2,5} { } {1}", "[0-9]{3} {2,5} { } {1}"),
    ],
)
def test_braces_that_are_doubled_or_hold_no_word_are_literal(written: str, sent: str) -> None:
    assert body(template({"p": written}).render({"vu": 7})) == {"p": sent}


def test_a_header_of_the_scenario_takes_the_place_of_ours_however_it_is_spelled() -> None:
    request = Request(rpc="scan", headers={"authorization": "Bearer staff", "ACCEPT": "text/csv"})
    ours = {"apikey": "k", "Authorization": "Bearer service"}
    head = Template(request, ORIGIN, ours, frozenset()).render({}).decode().partition("\r\n\r\n")[0]
    headers = [line.split(": ") for line in head.split("\r\n")[1:]]
    assert sorted(name.lower() for name, _ in headers) == sorted({name.lower() for name, _ in headers})
    assert {name.lower(): value for name, value in headers} == {
        "host": "gate.test", "accept": "text/csv", "content-type": "application/json", "apikey": "k",
        "authorization": "Bearer staff", "content-length": "2",
    }  # fmt: skip
