"""How far a run is: what a watcher is told while it goes on, taken from what is known anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provision.load.results import SIZE

if TYPE_CHECKING:
    from provision.load.spec import Scenario

RECENT = 400
"""How many of the last requests stand for what the latency is now."""
_LONGS = SIZE // 8
_SENT, _LAST = 4, 6
"""Where these times stand in a record, in 64-bit words."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What of `scenario` is running, seconds gone since the load began and in all, requests so far in all, by outcome
    and by part, active VUs and latencies (ms) of the last requests of this process, and the first reply of each
    outcome."""

    scenario: Scenario
    running: tuple[str, ...]
    elapsed: float
    total: float
    requests: int
    outcomes: Mapping[str, int]
    parts: Mapping[str, int]
    vus: int
    recent: tuple[float, ...]
    replies: Mapping[str, str]


def latencies(records: bytes) -> tuple[float, ...]:
    """The latencies in ms of the last `RECENT` of these records, without those that were not sent."""
    with memoryview(records[-RECENT * SIZE :]).cast("q") as longs:
        times = zip(longs[_SENT::_LONGS].tolist(), longs[_LAST::_LONGS].tolist(), strict=True)
    return tuple((last - sent) / 1e6 for sent, last in times if sent)
