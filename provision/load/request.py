"""Requests encoded once: the bytes around the tokens are fixed, the ticket's bytes are spliced in for each scan."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from provision.errors import ScenarioError
from provision.load import tokens
from provision.load.http import Origin, request_bytes, request_head
from provision.load.spec import Request
from provision.yamlfile import unknown


class Template:
    """A request whose `{tokens}` are still open."""

    __slots__ = ("_head", "_parts", "tokens")

    def __init__(
        self,
        request: Request,
        origin: Origin,
        headers: Mapping[str, str],
        fields: frozenset[str],
        common_tokens: frozenset[str] = frozenset(),
    ) -> None:
        """`headers` carry the key; `fields` are those of a ticket, `common_tokens` are the same for all.

        ScenarioError for a token that means nothing.
        """
        common = {"Accept": "application/json", "Content-Type": "application/json"}
        path = f"/rest/v1/rpc/{request.rpc}"
        merged = {name.lower(): (name, value) for name, value in _items(common, headers, request.headers)}
        self._head = request_head("POST", path, dict(merged.values()), origin.authority)
        pieces = list(tokens.pieces(json.dumps(request.args, ensure_ascii=False, separators=(",", ":"))))
        self.tokens = tuple(piece for piece, is_token in pieces if is_token)
        valid = tokens.known(fields, common_tokens)
        for token in self.tokens:
            if token not in valid:
                raise ScenarioError(f"request.args: {unknown('token', token, valid)}")
        self._parts = [piece if is_token else piece.encode() for piece, is_token in pieces]

    def render(self, values: Mapping[str, str | int]) -> bytes:
        """The whole request, its tokens taken from `values`."""
        body = b"".join(part if isinstance(part, bytes) else escaped(values[part]) for part in self._parts)
        return request_bytes(self._head, body)

    def form(self, values: Mapping[str, str | int]) -> Form:
        """The request with some of its tokens filled in; the others stay open."""
        filled = [escaped(values[part]) if isinstance(part, str) and part in values else part for part in self._parts]
        return Form(self._head, filled)


class Form:
    """A request of which only what differs from one to the next is open: `tokens`, in their order."""

    __slots__ = ("fixed", "format", "tokens")

    def __init__(self, head: bytes, parts: Sequence[bytes | str]) -> None:
        self.tokens = tuple(part for part in parts if isinstance(part, str))
        literal = [part for part in parts if isinstance(part, bytes)]
        self.fixed = sum(map(len, literal))
        body = b"".join(b"%b" if isinstance(part, str) else part.replace(b"%", b"%%") for part in parts)
        self.format = head.replace(b"%", b"%%") + b"Content-Length: %d\r\n\r\n" + body

    def __call__(self, *values: bytes) -> bytes:
        """The whole request; `values` are the open tokens' as `escaped` makes them."""
        return self.format % (self.fixed + sum(map(len, values)), *values)

    def splicer(
        self, columns: Mapping[str, Sequence[bytes]], scanned_at: Callable[[int], bytes]
    ) -> Callable[[int, int], bytes]:
        """A function from ticket and iteration (from 0) to the whole request; `columns` are the tickets' values,
        `scanned_at` dates an iteration."""
        tokens, form, fixed = self.tokens, self.format, self.fixed
        if len(tokens) == 1 and tokens[0] in columns:  # the usual case, and worth its few lines on the hot path
            column = columns[tokens[0]]
            return lambda ticket, _: form % (fixed + len(column[ticket]), column[ticket])
        drawn = {"iter": lambda iteration: b"%d" % (iteration + 1), "scanned_at": scanned_at}
        return lambda ticket, iteration: self(
            *(columns[token][ticket] if token in columns else drawn[token](iteration) for token in tokens)
        )


def _items(*mappings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """All entries, in the order of the mappings."""
    return (item for mapping in mappings for item in mapping.items())


def escaped(value: Any) -> bytes:
    """A value as it stands inside a JSON string."""
    return json.dumps(str(value), ensure_ascii=False)[1:-1].encode()
