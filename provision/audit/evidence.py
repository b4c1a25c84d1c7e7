"""Evidence: what the replies claim and what the database holds, side by side for each ticket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provision.load.outcomes import Outcome
from provision.load.results import CANARY, NO_TICKET, Record, Results


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the database says of the run's tickets: the ids that count as consumed, how many entries each id has, and
    for tickets of interest the rows themselves. None where the scenario names no such table."""

    consumed: frozenset[str] | None
    entries: Mapping[str, int] | None
    rows: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    def stored(self, ticket: str) -> int:
        """How many admissions of a ticket the database holds."""
        if self.entries is not None:
            return self.entries.get(ticket, 0)
        return int(self.consumed is not None and ticket in self.consumed)

    def disagrees(self, ticket: str) -> bool:
        """Whether the ticket is consumed without an entry or entered without being consumed."""
        if self.consumed is None or self.entries is None:
            return False
        return (ticket in self.consumed) != (self.entries.get(ticket, 0) > 0)

    def to_json(self) -> dict[str, Any]:
        return {
            "consumed": None if self.consumed is None else sorted(self.consumed),
            "entries": None if self.entries is None else dict(self.entries),
            "rows": dict(self.rows),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Snapshot:
        consumed = data["consumed"]
        return cls(None if consumed is None else frozenset(consumed), data["entries"], data["rows"])


@dataclass(slots=True)
class Case:
    """One ticket: the requests that were acknowledged, those whose effect is unknown, and what is stored."""

    ticket: str
    acknowledged: list[Record] = field(default_factory=list)
    unknown: list[Record] = field(default_factory=list)
    requests: int = 0
    stored: int = 0
    disagrees: bool = False

    @property
    def twice(self) -> bool:
        return len(self.acknowledged) > 1 or self.stored > 1

    @property
    def lost(self) -> bool:
        return self.stored < len(self.acknowledged) and not self.twice

    @property
    def unexpected(self) -> bool:
        return self.stored > len(self.acknowledged) + len(self.unknown) and not self.twice

    @property
    def recovered(self) -> bool:
        return not self.twice and len(self.acknowledged) < self.stored <= len(self.acknowledged) + len(self.unknown)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All cases of a run, and the requests for a ticket that does not exist."""

    results: Results
    snapshot: Snapshot
    cases: Mapping[str, Case]
    ghosts: tuple[Record, ...]

    def round_cases(self) -> list[tuple[int, Case]]:
        """The race rounds' numbers with the case of their ticket."""
        return [(number, self.cases[self.results.tickets[r.ticket]]) for number, r in enumerate(self.results.rounds)]


def gather(results: Results, snapshot: Snapshot) -> Evidence:
    """Join replies and database by ticket; tickets that the database alone speaks of are cases too."""
    cases = {ticket: Case(ticket) for ticket in results.tickets}
    ghosts = []
    for record in results.records():
        if record.ticket == NO_TICKET:
            ghosts.append(record)
            continue
        case = cases[results.tickets[record.ticket]]
        case.requests += 1
        if record.named is Outcome.ADMITTED:
            case.acknowledged.append(record)
        elif record.named is Outcome.UNKNOWN:
            case.unknown.append(record)
    for ticket in {*(snapshot.consumed or ()), *(snapshot.entries or ())}:
        cases.setdefault(ticket, Case(ticket))
    for case in cases.values():
        case.stored = snapshot.stored(case.ticket)
        case.disagrees = snapshot.disagrees(case.ticket)
    return Evidence(results, snapshot, cases, tuple(ghosts))


def who(results: Results, record: Record) -> str:
    """A request in words: `gate 3 (race_condition, round 12)`."""
    part = results.parts[record.part]
    place = part.name if record.round < 0 else f"{part.name}, round {record.round + 1}"
    return "the canary" if part.name == CANARY else f"gate {record.vu + 1} ({place})"
