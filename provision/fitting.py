"""A scenario file held against itself, its tickets and the target: whatever does not fit is named with file, line and
the nearest word, before anything is written or sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from provision import bundled, saved, yamlfile
from provision.audit.thresholds import Threshold
from provision.errors import ScenarioError, TicketsError
from provision.fixtures.schema import Schema
from provision.gateway import truth
from provision.load import tokens
from provision.load.spec import Scenario
from provision.yamlfile import Document, unknown

_ANY_FIELD = "ticket."


def read(name: str) -> tuple[Scenario, Document, str]:
    """The scenario of a file or bundled name, its document and its text; ScenarioError for what is wrong in it."""
    path, source = bundled.find("scenarios", name)
    document = yamlfile.parse(path, source, ScenarioError)
    scenario = yamlfile.validate(document, Scenario, ScenarioError)
    for token, place in tokens.tokens(scenario.request.args):
        if not token.startswith(_ANY_FIELD):
            _check_token(document, token, place, tokens.known(("id",)))
    return scenario, document, source


def thresholds(scenario: Scenario, document: Document) -> Sequence[Threshold]:
    """The thresholds, which stand in `document`."""
    found = []
    for metric, given in scenario.thresholds.items():
        try:
            found += [threshold for _, threshold in saved.parse_thresholds({metric: given}, scenario.scenarios)]
        except ValueError as error:
            raise ScenarioError(f"{document.where(('thresholds', metric))}: {error}") from None
    return found


def check_tickets(
    scenario: Scenario, document: Document, path: Path, tickets: Sequence[Mapping[str, str]], of_the_run: Iterable[str]
) -> None:
    """Raise ScenarioError for a token that no ticket has a value for, TicketsError for one that some have none for."""
    everywhere = frozenset(tickets[0]).intersection(*tickets)
    somewhere = frozenset().union(*tickets)
    for token, place in tokens.tokens(scenario.request.args):
        _check_token(document, token, place, tokens.known(somewhere, of_the_run))
        name = token.removeprefix(_ANY_FIELD)
        if token.startswith(_ANY_FIELD) and name not in everywhere:
            number = next(number for number, ticket in enumerate(tickets, 1) if name not in ticket)
            where = document.where(("request", "args", *place))
            raise TicketsError(
                f"{path}: ticket {number} has no {name!r}, which {where} asks for.",
                hint="Make a new file with: provision seed",
            )


def _check_token(document: Document, token: str, place: tuple[str | int, ...], valid: Iterable[str]) -> None:
    if token not in valid:
        hint = f"For the literal, double the braces: {{{{{token}}}}}."
        where = document.where(("request", "args", *place))
        raise ScenarioError(f"{where}: {unknown('token', token, valid)}", hint=hint)


def check_schema(scenario: Scenario, document: Document, schema: Schema) -> None:
    """Raise ScenarioError when function, arguments or truth are not what the API exposes."""
    request = scenario.request
    function = schema.functions.get(request.rpc)
    if function is None:
        where = document.where(("request", "rpc"))
        raise ScenarioError(f"{where}: {unknown('function', request.rpc, schema.functions)}")
    for name in request.args:
        if name not in function.arguments:
            where = document.where(("request", "args", name))
            raise ScenarioError(f"{where}: {unknown('argument', name, function.arguments)}")
    if missing := sorted(function.required - set(request.args)):
        where = document.where(("request", "args"))
        raise ScenarioError(f"{where}: {request.rpc} needs {', '.join(missing)} as well")
    with placed(document):
        truth.check(schema, scenario.truth)


@contextmanager
def placed(document: Document) -> Iterator[None]:
    """A ScenarioError in the block, such as `truth.consumed: …`, names file and line."""
    try:
        yield
    except ScenarioError as error:
        place, _, what = str(error).partition(": ")
        raise ScenarioError(f"{document.where(place.split('.'))}: {what}", hint=error.hint) from None
