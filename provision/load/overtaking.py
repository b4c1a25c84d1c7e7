"""Whether the server works on several requests at once: can a scan overtake a slow read that was sent before it?

A read of our own tickets whose filter costs the database a known time, and changes nothing, goes ahead; a scan follows
while it runs. Behind a pool of one connection, or a single worker, the scan has to wait for the read. If it does not,
and the read had begun before the scan was sent, two intervals of work overlapped: the definition of concurrency
(Lamport 1978, Herlihy & Wing 1990: neither of two operations precedes the other). With K reads ahead at once, a scan
that overtakes them all shows at least K + 1 places, as long as the server takes requests up in their order.

Throughput would not do: N requests in N times the time of one look the same behind one connection and behind twenty
when the API's own thread is the bottleneck, and over a network the round trip hides the difference altogether.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from provision.load.http import Origin, Reply, request_bytes, request_head
from provision.load.results import Probe

AS_GOOD = 3  # scans that overtake reads slowed down by something else count as much as one that is a proof
ROWS = 100  # tickets that a slow read goes through at most
GROUPS = range(3, 10)  # each further group multiplies the splits that the regular expression has to try, by about
STEP = 5  # …as much as this
SPARE = 1.3  # how much longer than wanted a read is made
LEAST_NS = 100_000_000  # what a slow read is to take; long enough for the sleep before the scan to be a small part
SCANS_LONG = 6  # …and at least this many scans
MOST_NS = 3_000_000_000  # below every statement timeout of Supabase
HEAD_START = 0.5  # of the read's time, before the scan is sent
TRIES = 4

Ask = Callable[[int, bytes], Awaitable[Reply]]


@dataclass(frozen=True, slots=True)
class SlowRead:
    """A read of our tickets `low` to `high` that takes the database long: a table, its key, its columns of text."""

    origin: Origin
    headers: tuple[tuple[str, str], ...]
    table: str
    key: str
    columns: tuple[str, ...]
    ids: tuple[str, ...]

    def request(self, column: str, groups: int, rows: int) -> bytes:
        """The read over the first `rows` tickets. Back references make PostgreSQL try every split of the text."""
        back = "".join(f"\\{number}" for number in range(groups, 0, -1))
        query = [
            ("select", self.key),
            (self.key, f"gte.{self.ids[0]}"),
            (self.key, f"lte.{self.ids[rows - 1]}"),
            (column, f"match.^{'(.*)' * groups}{back}$"),
            ("limit", "1"),
        ]
        path = f"/rest/v1/{quote(self.table)}?{urlencode(query)}"
        return request_bytes(request_head("GET", path, dict(self.headers), self.origin.authority))


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A slow read, or why there is none."""

    request: bytes = b""
    problem: str = ""


async def calibrate(ask: Ask, read: SlowRead, scan_ns: int) -> Calibrated:
    """Find a read that takes several times as long as a scan does (`scan_ns`)."""
    wanted = max(LEAST_NS, SCANS_LONG * scan_ns)
    if wanted > MOST_NS:
        return Calibrated(problem=f"a scan takes {scan_ns / 1e6:.0f} ms, too long for a read to be slow beside it")
    if not read.columns:
        return Calibrated(problem=f"{read.table} has no required column of text to search")
    try:
        return await _climb(ask, read, wanted)
    except _Unanswered as error:
        return Calibrated(problem=f"the slow read was answered with {error}")


async def _climb(ask: Ask, read: SlowRead, wanted: int) -> Calibrated:
    """Make the search harder, beginning with one row, until even the shorter of two times is enough.

    Each step is to take at most a few times as long as the one before, so that none of them runs into a time-out
    whatever the texts are. All columns are timed again at each: one that was slow once may have met something else.
    """
    most, rows, groups = min(ROWS, len(read.ids)), 1, GROUPS[0]
    while groups in GROUPS:
        times = {column: await _time(ask, read.request(column, groups, rows)) for column in read.columns}
        slowest = max(times, key=lambda column: times[column])
        request, took = read.request(slowest, groups, rows), times[slowest]
        if took >= wanted and (took := min(took, await _time(ask, request))) >= wanted:
            return Calibrated(request)
        if rows < most:
            rows = min(most, rows * STEP, rows + math.ceil(rows * (SPARE * wanted / took - 1)))
        else:
            rows, groups = -(-most // STEP), groups + 1
    return Calibrated(problem=f"no search of {read.table} takes as long as {wanted / 1e6:.0f} ms")


class _Unanswered(Exception):
    """A slow read without its result; not for users: it ends as a reason why there is no probe."""


async def _time(ask: Ask, request: bytes) -> int:
    reply = await ask(0, request)
    if reply.status != 200:
        raise _Unanswered(reply.detail or f"HTTP {reply.status}")
    return reply.last - reply.sent


def levels(places: int) -> list[int]:
    """How many reads go ahead, step by step, of a race with so many requests: one, two, all but one."""
    return sorted({1, min(2, places - 1), places - 1})


async def overtake(ask: Ask, slow: Calibrated, blockers: int, scan: Callable[[], Awaitable[Reply | None]]) -> Probe:
    """Send `blockers` slow reads, by the places after the first, and a scan after them; when each was sent and ended.

    The read goes alone once more just before: what a machine has to spare changes from second to second. A scan that
    came too late to meet the reads shows nothing.
    """
    before = await ask(0, slow.request)
    if before.status != 200:
        return Probe(blockers, 0, 0, 0, ())
    alone = before.last - before.sent
    reads = [asyncio.ensure_future(ask(place, slow.request)) for place in range(1, blockers + 1)]
    try:
        await asyncio.wait(reads, timeout=HEAD_START * alone / 1e9, return_when=asyncio.FIRST_COMPLETED)
        reply = await scan()
    finally:
        replies = [before, *await asyncio.gather(*reads)]
    ended = tuple(read.last for read in replies[1:])
    met = reply is not None and reply.fault is None and reply.sent < min(ended)
    if reply is None or not met or any(read.status != 200 for read in replies):
        return Probe(blockers, alone, 0, 0, ())
    return Probe(blockers, alone, reply.sent, reply.last, ended)


def shows(probes: Sequence[Probe]) -> bool:
    """Whether probes with as many reads ahead show that scans overtake.

    One proof does. A read that something slowed down could have begun after the scan, had it come later than the scan
    by more than the head start: once perhaps, by a lost packet, hardly three times. Behind two reads or more, whose
    number only adds to what one read has shown, once is enough.
    """
    overtook = sum(probe.overtook for probe in probes)
    return any(probe.proves for probe in probes) or overtook >= (AS_GOOD if probes[0].blockers == 1 else 1)


def typical(replies: Sequence[Reply]) -> int:
    """The median time (ns) of a scan."""
    return int(statistics.median(reply.last - reply.sent for reply in replies))
