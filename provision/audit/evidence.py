"""Evidence: what the replies claim and what the database holds, side by side for each ticket."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from provision.load.offline import scanned_at
from provision.load.outcomes import Outcome
from provision.load.results import CANARY, NO_TICKET, Record, Results, Round

OVERLAP_SHARE = 0.5
_TAKEN_IN = {Outcome.ADMITTED, Outcome.ALREADY_USED}
_NOT_TAKEN_IN = {
    Outcome.NOT_SENT,
    Outcome.STARVED,
    Outcome.BUSY,
    Outcome.CONFLICT,
    Outcome.NOT_FOUND,
    Outcome.REFUSED,
}
"""Of offline scans: what was taken in and what was not; of the rest the reply does not tell."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the database says of the run's tickets: the ids that count as consumed, how many entries each id has, and
    for tickets of interest the rows themselves, and when each id was scanned (ISO 8601). None where the scenario names
    no such table or column. `unsettled` are the ids of which requests without a reply may still change something."""

    consumed: frozenset[str] | None
    entries: Mapping[str, int] | None
    rows: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    scanned_at: Mapping[str, str] | None = None
    unsettled: frozenset[str] = frozenset()

    def stored(self, ticket: str) -> int:
        """How many admissions of a ticket the database holds."""
        if self.entries is not None:
            return self.entries.get(ticket, 0)
        return int(self.consumed is not None and ticket in self.consumed)

    def disagrees(self, ticket: str) -> bool:
        """Whether the ticket is consumed without an entry or entered without being consumed."""
        if self.consumed is None or self.entries is None or ticket in self.unsettled:
            return False
        return (ticket in self.consumed) != (self.entries.get(ticket, 0) > 0)

    def when(self, ticket: str) -> datetime | None:
        """When a ticket was scanned, by the database; a time without a zone is taken to be UTC."""
        if self.scanned_at is None or ticket not in self.scanned_at:
            return None
        found = datetime.fromisoformat(self.scanned_at[ticket])
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    def to_json(self) -> dict[str, Any]:
        return {
            "consumed": None if self.consumed is None else sorted(self.consumed),
            "entries": None if self.entries is None else dict(self.entries),
            "rows": dict(self.rows),
            "scanned_at": None if self.scanned_at is None else dict(self.scanned_at),
            "unsettled": sorted(self.unsettled),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Snapshot:
        consumed = data["consumed"]
        return cls(
            None if consumed is None else frozenset(consumed),
            data["entries"],
            data["rows"],
            data.get("scanned_at"),
            frozenset(data.get("unsettled", ())),
        )


@dataclass(slots=True)
class Case:
    """One ticket: the requests that were acknowledged, those whose effect is unknown, and what is stored; of offline
    scans also those that were taken in and those of which nobody can tell, each with the time that it gave. Requests
    are kept as their numbers in the journal, since a record in memory is ten times as large as on disk."""

    ticket: str
    results: Results
    heard: Sequence[int] = ()
    unheard: Sequence[int] = ()
    offline: Sequence[int] = ()
    requests: int = 0
    stored: int = 0
    disagrees: bool = False
    stored_at: datetime | None = None

    @property
    def allowed(self) -> int:
        return self.results.winners

    @property
    def repeatable(self) -> bool:
        """Whether any number may hear of success."""
        return self.results.promise != "winners"

    @property
    def acknowledged(self) -> list[Record]:
        return list(map(self.results.record, self.heard))

    @property
    def unknown(self) -> list[Record]:
        return list(map(self.results.record, self.unheard))

    @property
    def synced(self) -> list[tuple[datetime, Record]]:
        return self._dated(taken_in=True)

    @property
    def unsettled(self) -> list[tuple[datetime, Record]]:
        return self._dated(taken_in=False)

    def _dated(self, *, taken_in: bool) -> list[tuple[datetime, Record]]:
        records = [r for r in map(self.results.record, self.offline) if (r.named in _TAKEN_IN) is taken_in]
        return [(scanned_at(self.results.started, record.vu, record.iteration), record) for record in records]

    @property
    def twice(self) -> bool:
        """Whether more were admitted than the scenario allows: one, unless it says otherwise."""
        return self.stored > self.allowed or (len(self.heard) > self.allowed and not self.repeatable)

    @property
    def lost(self) -> bool:
        """Whether somebody heard of an admission that is not stored; one effect is enough where all may hear of it."""
        heard = min(len(self.heard), self.allowed) if self.repeatable else len(self.heard)
        return self.stored < heard and not self.twice

    @property
    def broken(self) -> bool:
        return self.twice or self.lost or self.unexpected or self.disagrees or self.misdated

    @property
    def misdated(self) -> bool:
        """Whether another time is stored than that of the earliest scan that was taken in. One whose reply does not
        tell whether it was taken in may have been."""
        synced, unsettled = self.synced, self.unsettled
        if not self.stored or not (synced or unsettled):
            return False
        first = min((at for at, _ in synced), default=None)
        possible = {at for at, _ in unsettled if first is None or at < first} | ({first} if first else set())
        return self.stored_at not in possible

    @property
    def unexpected(self) -> bool:
        return self.stored > len(self.heard) + len(self.unheard) and not self.twice

    @property
    def recovered(self) -> bool:
        return not self.twice and len(self.heard) < self.stored <= len(self.heard) + len(self.unheard)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All cases of a run, and the requests for a ticket that does not exist."""

    results: Results
    snapshot: Snapshot
    cases: Mapping[str, Case]
    ghosts: tuple[Record, ...]

    def having(self, fault: Callable[[Case], bool]) -> list[Case]:
        """The cases with a fault, those of race rounds first: there it shows who met whom."""
        raced = {self.results.tickets[round_.ticket] for round_ in self.results.rounds}
        return sorted(filter(fault, self.cases.values()), key=lambda case: case.ticket not in raced)

    def trials(self) -> list[Trial]:
        """The race rounds, in their order."""
        return [Trial(r, self.cases[self.results.tickets[r.ticket]]) for r in self.results.rounds]


@dataclass(frozen=True, slots=True)
class Trial:
    """One race round and what became of its ticket."""

    round: Round
    case: Case

    @property
    def state(self) -> Literal["held", "broken", "no contention"]:
        """`no contention` when the requests did not meet at the client, so that nothing was tried."""
        if self.case.broken:
            return "broken"
        return "held" if overlapped(self.round) else "no contention"

    @property
    def won(self) -> bool:
        """Whether somebody was let in, or may have been."""
        return bool(self.case.stored or self.case.heard or self.case.unheard)


def overlapped(round_: Round) -> bool:
    """Whether a round was contended at the client: half of its requests were in flight before the first reply."""
    return round_.overlap >= OVERLAP_SHARE * round_.requests


def gather(results: Results, snapshot: Snapshot) -> Evidence:
    """Join replies and database by ticket; tickets that the database alone speaks of are cases too."""
    dated = results.promise == "first-scan-wins"
    cases = {ticket: Case(ticket, results) for ticket in results.tickets}
    ghosts = []
    for number, record in enumerate(results.records()):
        if record.ticket == NO_TICKET:
            ghosts.append(record)
            continue
        case = cases[results.tickets[record.ticket]]
        case.requests += 1
        if record.named is Outcome.ADMITTED:
            case.heard = _with(case.heard, number)
        elif record.named is Outcome.UNKNOWN or (record.named is Outcome.INTERRUPTED and record.sent):
            case.unheard = _with(case.unheard, number)
        if dated and record.named not in _NOT_TAKEN_IN and record.sent:
            case.offline = _with(case.offline, number)
    for ticket in {*(snapshot.consumed or ()), *(snapshot.entries or ())}:
        cases.setdefault(ticket, Case(ticket, results))
    for case in cases.values():
        case.stored = snapshot.stored(case.ticket)
        case.disagrees = snapshot.disagrees(case.ticket)
        case.stored_at = snapshot.when(case.ticket)
    return Evidence(results, snapshot, cases, tuple(ghosts))


def _with(numbers: Sequence[int], number: int) -> Sequence[int]:
    """Numbers and one more, in eight bytes each: a ticket that is used again and again may have thousands."""
    if not isinstance(numbers, array):
        return array("Q", (number,))
    numbers.append(number)
    return numbers


def who(results: Results, record: Record) -> str:
    """A request in words: `gate 3 (race_condition, round 12)`."""
    part = results.parts[record.part]
    place = part.name if record.round < 0 else f"{part.name}, round {record.round + 1}"
    return "the canary" if part.name == CANARY else f"gate {record.vu + 1} ({place})"
