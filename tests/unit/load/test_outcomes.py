import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision import bundled
from provision.load import spec
from provision.load.http import Fault, Reply
from provision.load.outcomes import NAMEABLE, OUTCOMES, Outcome, classifier, decode
from provision.load.spec import Rule

RULES = spec.parse(*bundled.find("scenarios", "scanner-burst")).outcomes
ROW = {"success": False, "already_scanned": False, "scanned_at": None, "scanned_by": None, "error_message": None}


def reply(body: Any, status: int = 200) -> Reply:
    return Reply(status, body if isinstance(body, bytes) else json.dumps(body).encode(), 1, 2, 3, None, "")


def named(body: Any, status: int = 200, rules: dict[str, Any] | None = None) -> Outcome:
    return classifier(rules or RULES)(reply(body, status))


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        ({"success": True}, "admitted"),
        ({"already_scanned": True}, "already_used"),
        ({"error_message": "Ticket being processed by another scanner"}, "busy"),
        ({"error_message": "Ticket not found"}, "not_found"),
        ({"error_message": "The moon is full"}, "unclassified"),
        ({}, "unclassified"),
    ],
)
def test_the_seeds_replies_have_the_seeds_names(row: dict[str, Any], outcome: str) -> None:
    assert named([ROW | row]) == outcome
    assert named(ROW | row) == outcome


@pytest.mark.parametrize(
    ("code", "status", "outcome"),
    [("55P03", 500, "busy"), ("40001", 500, "conflict"), ("40P01", 500, "conflict"), ("23505", 409, "conflict"),
     ("PGRST301", 401, "unauthorised"), ("42501", 403, "unauthorised"), ("53300", 503, "overload"),
     ("PGRST003", 504, "overload"), ("57014", 500, "error"), ("23503", 409, "error"), ("PGRST202", 404, "error"),
     ("42883", 404, "error"), ("P0001", 400, "unclassified"), ("57P01", 503, "unknown"), ("08006", 503, "unknown"),
     ("XX000", 500, "error")],
)  # fmt: skip
def test_postgrests_errors_have_their_conventional_names(code: str, status: int, outcome: str) -> None:
    assert named({"code": code, "message": "m", "details": None, "hint": None}, status) == outcome


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(429, "rate_limited"), (503, "unknown"), (502, "unknown"), (504, "unknown"), (520, "unknown"), (524, "unknown"),
     (544, "unknown"), (500, "unknown"), (402, "refused"), (540, "refused"), (301, "refused"), (401, "unauthorised"),
     (404, "unclassified"), (200, "unclassified"), (204, "unclassified")],
)  # fmt: skip
def test_pages_of_proxies_have_their_conventional_names(status: int, outcome: str) -> None:
    assert named(b"<html>a proxy</html>", status) == outcome


@pytest.mark.parametrize("fault", Fault)
def test_a_request_that_was_sent_and_not_answered_is_unknown_never_an_error(fault: Fault) -> None:
    lost = Reply(0, b"", 1, 0, 2, fault, "why")
    named = {"not_sent": "not_sent", "aborted": "interrupted", "starved": "starved"}
    assert classifier(RULES)(lost) == named.get(fault, "unknown")


def test_the_first_rule_that_matches_decides() -> None:
    rules = {"admitted": Rule(path="ok", equals=True), "refused": Rule(path="ok", one_of=[True, False])}
    assert named({"ok": True}, rules=rules) == "admitted"
    assert named({"ok": False}, rules=rules) == "refused"
    assert named({"ok": True}, rules=dict(reversed(rules.items()))) == "refused"


def test_a_rule_wins_over_the_convention() -> None:
    rules = {"admitted": Rule(path="ok", equals=1), "already_used": Rule(path="message", matches="ALREADY")}
    assert named({"code": "P0001", "message": "ALREADY_CHECKED_IN"}, 400, rules) == "already_used"


def test_several_rules_may_name_one_outcome() -> None:
    rules = {"admitted": [Rule(path="result", equals="REDEEMED"), Rule(path="status", equals="valid")]}
    assert [named(body, rules=rules) for body in ({"result": "REDEEMED"}, {"status": "valid"})] == ["admitted"] * 2


@pytest.mark.parametrize(
    ("body", "equals", "fits"),
    [
        (True, True, True),
        (1, True, False),
        (True, 1, False),
        (None, None, True),
        ("x", "x", True),
        (False, None, False),
    ],
)
def test_values_are_equal_as_json_values_are(body: object, equals: object, *, fits: bool) -> None:
    rules = {"admitted": Rule(path=".", equals=equals)}
    assert (named(body, rules=rules) == "admitted") is fits


def test_a_missing_path_equals_nothing_not_even_null() -> None:
    assert named({"a": 1}, rules={"admitted": Rule(path="b", equals=None)}) == "unclassified"


def test_paths_reach_into_objects_and_arrays() -> None:
    rules = {"admitted": Rule(path="data.0.ok", equals=True)}
    assert named({"data": [{"ok": True}]}, rules=rules) == "admitted"
    assert named({"data": []}, rules=rules) == "unclassified"


def test_a_status_can_be_part_of_a_rule() -> None:
    rules = {"admitted": Rule(path="ok", equals=True, status=201), "refused": Rule(status=403)}
    assert [named({"ok": True}, s, rules) for s in (201, 200, 403)] == ["admitted", "unclassified", "refused"]


@given(st.binary(max_size=200), st.integers(100, 599))
def test_whatever_comes_has_exactly_one_name(body: bytes, status: int) -> None:
    assert named(body, status) in OUTCOMES


def test_what_only_the_wire_can_say_cannot_be_claimed_by_a_rule() -> None:
    assert {"not_sent", "unknown", "unclassified"} & NAMEABLE == set()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
)
encodings = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])


@given(
    json_values,
    st.sampled_from(["", " ", "\n", "\t ", "x", "\0", "[", "{}"]),
    st.sampled_from(["", " ", "\n", "x", "\0", "]"]),
    encodings,
)
def test_a_reply_is_decoded_as_the_json_module_decodes_it(value: Any, before: str, after: str, encoding: str) -> None:
    body = (before + json.dumps(value) + after).encode(encoding)
    _assert_same_decoding(body)


@pytest.mark.parametrize("depth", [2_000, 200_000])
def test_json_that_is_nested_without_end_is_no_json(depth: int) -> None:
    assert named(b"[" * depth + b"]" * depth) == "unclassified"


@given(st.binary(max_size=40))
def test_any_bytes_are_decoded_as_the_json_module_decodes_them(body: bytes) -> None:
    _assert_same_decoding(body)


def _assert_same_decoding(body: bytes) -> None:
    try:
        expected = json.loads(body)
    except ValueError:
        assert type(decode(body)) is object
        return
    if isinstance(expected, list) and len(expected) == 1:
        expected = expected[0]
    assert repr(decode(body)) == repr(expected)


rows = st.dictionaries(st.sampled_from(["success", "code", "a.b", "message"]), json_values, max_size=4)


@given(st.one_of(rows, rows.map(lambda row: [row]), json_values), st.sampled_from([200, 400, 409]), json_values)
def test_the_short_way_to_an_outcome_leads_where_the_long_one_does(body: Any, status: int, wanted: Any) -> None:
    rules: dict[str, Any] = {
        "admitted": Rule(path="success", equals=wanted),
        "busy": Rule(path="message", equals=None),
        "conflict": Rule(path="code", equals=True),
        "not_found": Rule(path="code", one_of=[wanted, 1]),
    }
    decoded = decode(json.dumps(body).encode())
    expected = next((n for n, rule in rules.items() if _fits(rule, decoded)), None)
    found = named(body, status, rules)
    assert found == expected if expected else found not in rules or status >= 400


def _fits(rule: Rule, decoded: Any) -> bool:
    """What the rule says, written down once more and slowly."""
    if not isinstance(decoded, dict) or rule.path not in decoded:
        return False
    value = decoded[rule.path]
    wanted = rule.one_of if rule.one_of is not None else [rule.equals]
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in wanted)
