"""The slow read: as slow as it is wanted whatever the texts are, and never much slower on the way there."""

from __future__ import annotations

import asyncio
import math
from urllib.parse import parse_qsl, urlsplit

import pytest

from provision.load.http import Fault, Origin, Reply, not_sent
from provision.load.overtaking import LEAST_NS, ROWS, Calibrated, SlowRead, calibrate, overtake
from provision.load.results import Probe

SCAN_NS = 5_000_000
ROUND_TRIP_NS = 3_000_000


class Database:
    """Answers each read after the time that PostgreSQL would take: the splits of a text into groups, for each row."""

    def __init__(self, lengths: dict[str, int], rows: int = ROWS, status: int = 200) -> None:
        ids = tuple(f"{number:03}" for number in range(rows))
        self.lengths = lengths
        self.read = SlowRead(Origin.parse("http://127.0.0.1:1"), (), "tickets", "id", tuple(lengths), ids)
        self.status = status
        self.times: list[int] = []

    async def ask(self, _place: int, request: bytes) -> Reply:
        self.times.append(self.cost(request))
        return Reply(self.status, b"[]", 1, 1 + self.times[-1], 1 + self.times[-1], None, "")

    def column(self, request: bytes) -> str:
        return next(name for name in dict(self._query(request)) if name in self.lengths)

    def cost(self, request: bytes) -> int:
        query, column = self._query(request), self.column(request)
        rows = int(next(value for _, value in query if value.startswith("lte.")).removeprefix("lte.")) + 1
        groups = dict(query)[column].count("(.*)")
        return ROUND_TRIP_NS + 20 * rows * math.comb(self.lengths[column] + groups - 1, groups - 1)

    def calibrated(self) -> Calibrated:
        return asyncio.run(calibrate(self.ask, self.read, SCAN_NS))

    @staticmethod
    def _query(request: bytes) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(request.split(b" ")[1].decode()).query)


@pytest.mark.parametrize("length", [12, 40, 120, 400, 900])
def test_a_slow_read_is_as_slow_as_wanted_and_none_on_the_way_is_much_slower(length: int) -> None:
    database = Database({"code": 8, "token": length})
    found = database.calibrated()
    assert database.column(found.request) == "token"
    assert LEAST_NS <= database.cost(found.request) <= 3 * LEAST_NS
    assert max(database.times) < 10 * LEAST_NS
    assert sum(database.times) < 20 * LEAST_NS


def test_a_single_ticket_can_be_read_slowly_too() -> None:
    database = Database({"token": 60}, rows=1)
    assert database.cost(database.calibrated().request) >= LEAST_NS


def test_texts_that_nothing_makes_slow_are_said_to_be_so() -> None:
    assert Database({"code": 1}).calibrated().problem == "no search of tickets takes as long as 100 ms"


def test_a_read_that_is_refused_is_said_to_be_so() -> None:
    assert Database({"token": 40}, status=500).calibrated().problem == "the slow read was answered with HTTP 500"


@pytest.mark.parametrize("slowed", range(1, 30))
def test_a_read_that_something_else_slowed_down_does_not_lead_astray(slowed: int) -> None:
    database = Database({"token": 40, "code": 4})

    async def hiccup(place: int, request: bytes) -> Reply:
        reply = await database.ask(place, request)
        return reply._replace(last=reply.last + LEAST_NS) if len(database.times) == slowed else reply

    found = asyncio.run(calibrate(hiccup, database.read, SCAN_NS))
    assert LEAST_NS <= database.cost(found.request) < 6 * LEAST_NS


async def no_scan() -> None:
    return None


def test_a_target_that_refuses_the_slow_read_ends_the_probe_at_once() -> None:
    async def refuse(_place: int, _request: bytes) -> Reply:
        return not_sent("connection refused")

    probing = overtake(refuse, Calibrated(b"GET"), 1, no_scan)
    assert asyncio.run(asyncio.wait_for(probing, 5)) == Probe(1, 0, 0, 0, ())


def test_slow_reads_that_are_given_up_end_the_probe_at_once() -> None:
    async def give_up(place: int, _request: bytes) -> Reply:
        took = 60_000_000_000
        return Reply(0, b"", 1, 0, 2, Fault.ABORTED, "") if place else Reply(200, b"[]", 1, took, took, None, "")

    probing = overtake(give_up, Calibrated(b"GET"), 2, no_scan)
    assert asyncio.run(asyncio.wait_for(probing, 5)).ended == ()
