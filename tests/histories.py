"""Histories for tests: runs written as short calls, with the database's word beside them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from provision.audit.evidence import Snapshot
from provision.load.outcomes import NUMBER, Outcome
from provision.load.results import NO_ROUND, Generator, Part, Record, Results, Round, Sample, pack

MS = 1_000_000
PARTS = (
    Part("canary", "canary", 1, measured=False),
    Part("burst", "constant-vus", 10, measured=True),
    Part("race:control", "control", 10, measured=False),
    Part("race", "race", 10, measured=True),
)
CANARY, BURST, CONTROL, RACE = range(4)


@dataclass
class History:
    """A run that is put together request by request; `results()` and `snapshot()` are what the audit gets."""

    records: list[Record] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    consumed: set[str] = field(default_factory=set)
    entries: Counter[str] = field(default_factory=Counter)
    scanned_at: dict[str, str] | None = None
    samples: list[Sample] = field(default_factory=list)
    parts: tuple[Part, ...] = PARTS
    changes: dict[str, Any] = field(default_factory=dict)
    now: int = 0

    def ticket(self, number: int) -> str:
        return f"ticket-{number}"

    def ask(self, outcome: str, ticket: int, *, part: int = BURST, vu: int = 0, round_: int = NO_ROUND,
            sent: int | None = None, ms: float = 5.0, status: int = 200) -> None:  # fmt: skip
        """One request about a ticket and its outcome; times in ms."""
        at = self.now * MS if sent is None else sent
        sent_at = 0 if outcome == "not_sent" else at + 1
        last = at + 1 + int(ms * MS)
        number = NUMBER[Outcome(outcome)]
        self.records.append(
            Record(part, number, status, vu, max(round_, 0), round_, ticket, at, sent_at, last, last, 100)
        )
        self.now += 10

    def store(self, ticket: int, times: int = 1) -> None:
        """The database holds `times` admissions of a ticket."""
        if times:
            self.consumed.add(self.ticket(ticket))
            self.entries[self.ticket(ticket)] += times

    def admit(self, ticket: int, **where: Any) -> None:
        """A scan that went well on both sides."""
        self.ask("admitted", ticket, **where)
        self.store(ticket)

    def race(
        self, ticket: int, outcomes: list[str], *, overlap: int | None = None, part: int = RACE, name: str = "race"
    ) -> None:
        """One race round on a ticket; nothing is stored by it."""
        number = len(self.rounds)
        self.rounds.append(
            Round(
                name,
                number,
                ticket,
                "last-byte",
                MS // 10,
                len(outcomes) if overlap is None else overlap,
                len(outcomes),
            )
        )
        for vu, outcome in enumerate(outcomes):
            self.ask(outcome, ticket, part=part, vu=vu, round_=number)

    def results(self) -> Results:
        tickets = max((r.ticket for r in self.records if r.ticket < 1 << 31), default=-1) + 1
        values: dict[str, Any] = {
            "started": "2026-06-01T20:00:00+00:00", "elapsed": 10.0, "load": 10.0, "parts": self.parts,
            "tickets": tuple(map(self.ticket, range(tickets))), "rounds": tuple(self.rounds),
            "generator": Generator(0.1, 0.1, 1.0, 2.0), "samples": tuple(self.samples), "connections": 10,
            "bytes_sent": 1000, "exhausted": (), "interrupted": False,
            "journal": b"".join(map(pack, self.records)),
        }  # fmt: skip
        return Results(**{**values, **self.changes})

    def snapshot(self) -> Snapshot:
        return Snapshot(frozenset(self.consumed), dict(self.entries), scanned_at=self.scanned_at)


def good() -> History:
    """A run in which every promise holds: a burst of 50 and 20 contended rounds."""
    history = History()
    for ticket in range(50):
        history.admit(ticket)
    for ticket in range(50, 70):
        history.race(ticket, ["busy"] * 4 + ["admitted"] + ["already_used"] * 5)
        history.store(ticket)
    return history
