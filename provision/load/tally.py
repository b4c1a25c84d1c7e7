"""A journal added up column by column: counts and durations for each part and outcome, never a value per request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import compress
from operator import sub

from provision.load.histogram import Histogram
from provision.load.outcomes import OUTCOMES, Outcome
from provision.load.results import SIZE, Journal

CHUNK = 16_384 * SIZE
TRENDS = ("duration", "waiting", "response", "lateness", "connecting", "handshaking")
"""From send to last byte, from send to first byte, from due to last byte, from due to send without connecting, and
what a request waited for its connection and its TLS handshake; all in ns, of requests that were sent."""

Kind = tuple[int, Outcome]
"""The part and the outcome of a request."""


class Tally:
    """What `results.bin` adds up to; grows with parts and outcomes, not with requests."""

    def __init__(self, journal: Journal = b"") -> None:
        self.statuses: Counter[tuple[int, Outcome, int]] = Counter()
        self.received: Counter[Kind] = Counter()
        self.trends: dict[str, dict[Kind, Histogram]] = {name: {} for name in TRENDS}
        for start in range(0, len(journal), CHUNK):
            self.add(journal[start : start + CHUNK])

    def add(self, chunk: bytes | bytearray | memoryview) -> None:
        """Add whole records."""
        with memoryview(chunk) as whole, whole.cast("q") as longs, whole.cast("I") as ints, whole.cast("f") as floats:
            for word, times in Counter(longs[0 :: SIZE // 8]).items():  # part, outcome and status stand in the first 8
                self.statuses[word & 0xFFFF, OUTCOMES[word >> 16 & 0xFF], word >> 32 & 0xFFFF] += times
            kinds = ints[0 :: SIZE // 4].tolist()
            sent = longs[4 :: SIZE // 8].tolist()
            for number in set(kinds):
                kind = number & 0xFFFF, OUTCOMES[number >> 16]
                self.received[kind] += sum(compress(ints[14 :: SIZE // 4], (k == number for k in kinds)))
                chosen = [k == number and s > 0 for k, s in zip(kinds, sent, strict=True)]
                times_of = [list(compress(longs[n :: SIZE // 8], chosen)) for n in (3, 4, 5, 6)]
                waits_of = [list(map(round, compress(floats[n :: SIZE // 4], chosen))) for n in (15, 16)]
                self._add_trends(kind, times_of, waits_of)

    def _add_trends(self, kind: Kind, times: list[list[int]], waits: list[list[int]]) -> None:
        due, sent, first, last = times
        connecting, handshaking = waits
        began = map(sub, sent, due)
        values: dict[str, Iterator[int]] = {
            "duration": map(sub, last, sent),
            "waiting": ((f or la) - s for f, la, s in zip(first, last, sent, strict=True)),
            "response": map(sub, last, due),
            "lateness": (b - c - h for b, c, h in zip(began, connecting, handshaking, strict=True)),
            "connecting": iter(connecting),
            "handshaking": iter(handshaking),
        }
        for name, found in values.items():
            self.trends[name].setdefault(kind, Histogram()).update(found)
