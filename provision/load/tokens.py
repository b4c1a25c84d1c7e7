"""The `{tokens}` in a scenario's arguments: what differs from one request to the next."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

FIXED = frozenset({"vu", "iter", "scanned_at"})
"""What a request draws from its VU and iteration."""
OF_THE_RUN = frozenset({"run", "event.id", "scanner.id"})
"""What is the same in all requests of a run; there is no scanner where the recipe makes none."""
_WORD = r" *[A-Za-z_][A-Za-z0-9_.-]* *"
_BRACES = re.compile(rf"\{{\{{({_WORD})\}}\}}|\{{({_WORD})\}}")


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """The pieces of a text in order, and whether each is the name of a token. `{{word}}` is the literal `{word}`; other
    braces, such as those of JSON in a text, mean themselves."""
    end = 0
    for found in _BRACES.finditer(text):
        yield text[end : found.start()] + (f"{{{found[1]}}}" if found[1] else ""), False
        if found[2]:
            yield found[2], True
        end = found.end()
    yield text[end:], False


def tokens(value: Any, location: tuple[str | int, ...] = ()) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Every token in texts and keys of JSON values, with the place where it stands."""
    if isinstance(value, str):
        yield from ((name, location) for name, is_token in pieces(value) if is_token)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from tokens(key, (*location, key))
            yield from tokens(inner, (*location, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from tokens(inner, (*location, index))


def known(fields: Iterable[str], of_the_run: Iterable[str] = OF_THE_RUN) -> frozenset[str]:
    """The tokens that there are for tickets with these fields."""
    return FIXED | frozenset(of_the_run) | {f"ticket.{name}" for name in fields}
