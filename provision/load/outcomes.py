"""What a reply means for the ticket: named once, by the scenario's rules first, then by PostgREST's error codes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from provision.load.http import Reply
    from provision.load.spec import Rule


class Outcome(StrEnum):
    """What became of a request. `unknown` is one that was sent and whose effect the reply does not tell, `interrupted`
    one that we gave up ourselves: nobody can tell its effect either, but it is no error of the server's. `starved`
    is one that our own machine had no connection for."""

    ADMITTED = "admitted"
    ALREADY_USED = "already_used"
    BUSY = "busy"
    CONFLICT = "conflict"
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    UNAUTHORISED = "unauthorised"
    RATE_LIMITED = "rate_limited"
    OVERLOAD = "overload"
    ERROR = "error"
    NOT_SENT = "not_sent"
    UNKNOWN = "unknown"
    UNCLASSIFIED = "unclassified"
    INTERRUPTED = "interrupted"
    STARVED = "starved"


OUTCOMES = tuple(Outcome)
NUMBER = {outcome: number for number, outcome in enumerate(OUTCOMES)}
COMPLETE: tuple[Outcome, ...] = tuple(o for o in OUTCOMES if o not in {Outcome.INTERRUPTED, Outcome.STARVED})
"""The outcomes of iterations that came to their end; as in k6, no metric knows the others."""
NAMEABLE = frozenset(map(str, COMPLETE)) - {"not_sent", "unknown", "unclassified"}
"""The outcomes that a scenario file may name; the others follow from the wire."""
FAILURES = frozenset(COMPLETE) - {Outcome.ADMITTED, Outcome.ALREADY_USED, Outcome.BUSY, Outcome.CONFLICT}
"""The outcomes that count as errors of the rehearsal: our tickets exist and our key is right."""

BY_CODE: Mapping[str, Outcome] = {
    "55P03": Outcome.BUSY,
    "40001": Outcome.CONFLICT,
    "40P01": Outcome.CONFLICT,
    "23505": Outcome.CONFLICT,
    "42501": Outcome.UNAUTHORISED,
    "PGRST301": Outcome.UNAUTHORISED,
    "PGRST302": Outcome.UNAUTHORISED,
    "PGRST303": Outcome.UNAUTHORISED,
    "53300": Outcome.OVERLOAD,
    "PGRST000": Outcome.OVERLOAD,
    "PGRST001": Outcome.OVERLOAD,
    "PGRST002": Outcome.OVERLOAD,
    "PGRST003": Outcome.OVERLOAD,
    "57P01": Outcome.UNKNOWN,
}
BY_STATUS: Mapping[int, Outcome] = {
    401: Outcome.UNAUTHORISED,
    402: Outcome.REFUSED,
    408: Outcome.UNKNOWN,
    429: Outcome.RATE_LIMITED,
    502: Outcome.UNKNOWN,
    503: Outcome.UNKNOWN,
    504: Outcome.UNKNOWN,
    540: Outcome.REFUSED,
    544: Outcome.UNKNOWN,
    **dict.fromkeys(range(520, 528), Outcome.UNKNOWN),
}

_BY_FAULT: Mapping[str, Outcome] = {
    "not_sent": Outcome.NOT_SENT,
    "aborted": Outcome.INTERRUPTED,
    "starved": Outcome.STARVED,
}
_NOTHING = object()
Matcher = Callable[[int, Any], bool]
Classifier = Callable[["Reply"], Outcome]


def classifier(rules: Mapping[str, Rule | Sequence[Rule]]) -> Classifier:
    """A function that names the outcome of a wire reply; the first rule that matches decides."""
    matchers: list[tuple[Outcome, Matcher]] = [
        (Outcome(name), _matcher(rule))
        for name, given in rules.items()
        for rule in (given if isinstance(given, Sequence) else [given])
    ]

    def classify(reply: Reply) -> Outcome:
        if reply.fault is not None:
            return _BY_FAULT.get(reply.fault, Outcome.UNKNOWN)
        value = decode(reply.body)
        for outcome, matches in matchers:
            if matches(reply.status, value):
                return outcome
        return _by_convention(reply.status, value)

    return classify


def decode(body: bytes) -> Any:
    """The JSON of a reply, the only row of an array of one row in its place; a private object when it is no JSON.

    Integers beyond 64 bits become the nearest double.
    """
    try:
        value = orjson.loads(body)
    except ValueError:
        value = _lenient(body)
    return value[0] if type(value) is list and len(value) == 1 else value


def _lenient(body: bytes) -> Any:
    """What a reply may hold and `orjson` refuses: NaN, half of a surrogate pair, a byte order mark."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return _NOTHING


def look_up(value: Any, path: str) -> Any:
    """What stands at a dotted path of decoded JSON (`.`: the whole); a private object when nothing does."""
    if path == ".":
        return value
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step, _NOTHING)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return _NOTHING
    return value


def _matcher(rule: Rule) -> Matcher:
    if rule.path is None:
        return lambda status, _: rule.status == status
    test, path, wanted, equals = _test(rule), rule.path, rule.status, rule.equals
    if wanted is None and "." not in path and not path.isdigit():  # most rules: a key of an object
        if isinstance(equals, bool) and rule.matches is None and rule.one_of is None:
            return lambda _, value: type(value) is dict and value.get(path) is equals
        return lambda _, value: type(value) is dict and test(value.get(path, _NOTHING))
    return lambda status, value: wanted in {None, status} and test(look_up(value, path))


def _test(rule: Rule) -> Callable[[Any], bool]:
    if rule.matches is not None:
        search = re.compile(rule.matches).search
        return lambda found: isinstance(found, str) and search(found) is not None
    if rule.one_of is not None:
        return lambda found: any(_same(found, wanted) for wanted in rule.one_of or ())
    equals = rule.equals
    if isinstance(equals, bool) or equals is None:
        return lambda found: found is equals
    return lambda found: _same(found, equals)


def _same(found: Any, wanted: Any) -> bool:
    """Equal as JSON values are: `true` is not 1."""
    return found is not _NOTHING and found == wanted and isinstance(found, bool) == isinstance(wanted, bool)


def _by_convention(status: int, value: Any) -> Outcome:
    """The outcome of a reply that no rule names, from PostgREST's code or the HTTP status."""
    code = value.get("code") if isinstance(value, dict) else None
    if status >= 400 and isinstance(code, str) and (code in BY_CODE or code.startswith("08")):
        return BY_CODE.get(code, Outcome.UNKNOWN)
    if status in BY_STATUS:
        return BY_STATUS[status]
    if status >= 500:
        return Outcome.ERROR if isinstance(code, str) else Outcome.UNKNOWN
    if 300 <= status < 400:
        return Outcome.REFUSED
    known = isinstance(code, str) and re.fullmatch(r"(2[23]|42|PGRST)\w+", code)
    return Outcome.ERROR if known else Outcome.UNCLASSIFIED
