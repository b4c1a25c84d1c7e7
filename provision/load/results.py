"""What a run leaves: one fixed-size record per request, and what was seen of the races and of the generator itself."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from io import BytesIO
from typing import IO, Any, NamedTuple

from provision.load.outcomes import OUTCOMES, Outcome

_RECORD = struct.Struct("<HBxHxxIIiiqqqqIff4x")
SIZE = _RECORD.size
NO_TICKET = 0xFFFFFFFF
"""The ticket number of a request for a ticket that does not exist."""
NO_ROUND = -1
CANARY = "canary"
"""The part of a run that asks a few questions before the load; it is judged, not measured."""


class Record(NamedTuple):
    """One request. Times are ns since the run began: due, sent (0: never), first and last byte of the reply, of which
    `received` bytes came, its head included."""

    part: int
    outcome: int
    status: int
    vu: int
    iteration: int
    round: int
    ticket: int
    due: int
    sent: int
    first: int
    last: int
    received: int
    connecting: float = 0.0  # ns that it waited for a connection to be made
    handshaking: float = 0.0  # ns that it waited for a TLS handshake

    @property
    def named(self) -> Outcome:
        return OUTCOMES[self.outcome]


pack_fields = _RECORD.pack
"""The fields of a record, the ticket signed, as they stand in `results.bin`."""


def pack(record: Record) -> bytes:
    """The record as it stands in `results.bin`."""
    return pack_fields(*record._replace(ticket=-1) if record.ticket == NO_TICKET else record)


def _unpack(fields: tuple[Any, ...]) -> Record:
    record = Record(*fields)
    return record._replace(ticket=NO_TICKET) if record.ticket == -1 else record


Journal = bytes | mmap.mmap


def read_back(journal: IO[bytes]) -> Journal:
    """All records that were written to a journal, without reading a file into memory."""
    if isinstance(journal, BytesIO):
        return journal.getvalue()
    journal.flush()
    size = os.fstat(journal.fileno()).st_size
    return mmap.mmap(journal.fileno(), size, access=mmap.ACCESS_READ) if size else b""


@dataclass(frozen=True, slots=True)
class Part:
    """A named part of a run: a scenario of the file, the controls around a race, or the canary."""

    name: str
    executor: str
    vus: int
    measured: bool


@dataclass(frozen=True, slots=True)
class Round:
    """One release of a race: `spread` is the ns between the first and the last send, `overlap` how many requests were
    in flight before the first reply, `late` the VUs whose request missed the release."""

    part: str
    number: int
    ticket: int
    mode: str
    spread: int
    overlap: int
    requests: int
    late: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Probe:
    """A scan sent behind `blockers` slow reads, one of which took `alone` ns just before; when the scan was asked and
    answered and when the reads ended, on one clock in ns. None ended when they did not meet or a request failed."""

    blockers: int
    alone: int
    asked: int
    answered: int
    ended: tuple[int, ...]

    @property
    def overtook(self) -> bool:
        """Whether the scan was answered before any read ended."""
        return bool(self.ended) and self.answered < min(self.ended)

    @property
    def proves(self) -> bool:
        """Whether it overtook reads that began before it was asked: they ended too early to have begun later."""
        return self.overtook and max(self.ended) - self.alone <= self.asked


@dataclass(frozen=True, slots=True)
class Raced:
    """How a race was carried out: its release mode and why that one, and the probes of the server's concurrency before
    and after it, or why there are none."""

    part: str
    mode: str
    why: str
    before: tuple[Probe, ...]
    after: tuple[Probe, ...]
    unprobed: str = ""


@dataclass(frozen=True, slots=True)
class Strain:
    """What the requests of a part (by its number) met of the tool itself when they ended, on average: the share of a
    core that it used and the share of the time that it waited for one, the mean and p99 lateness of its loop in ms; and
    the share of the requests at whose time it was at its limit."""

    part: int
    requests: int
    cpu: float
    waited: float
    lag: float
    lag_p95: float
    lag_p99: float
    lag_max: float
    saturated: float


@dataclass(frozen=True, slots=True)
class Generator:
    """How the tool itself fared over the whole course: the share of a core that it used, lateness of its loop in ms,
    the share of the time that it waited for a core, and what each part had of it; of several processes, the worst of
    each."""

    cpu: float
    lag_p50: float
    lag_p99: float
    lag_max: float
    waited: float = 0.0
    strains: tuple[Strain, ...] = ()

    def strain(self, part: int) -> Strain:
        """What this part met; nothing when none of its requests ended."""
        none = Strain(part, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        return next((strain for strain in self.strains if strain.part == part), none)

    @classmethod
    def worst(cls, generators: Sequence[Generator]) -> Generator:
        """The worst of each figure over several processes."""
        cpu, p50, p99, most, waited = (
            max(column)
            for column in zip(*((g.cpu, g.lag_p50, g.lag_p99, g.lag_max, g.waited) for g in generators), strict=True)
        )
        parts: dict[int, list[Strain]] = {}
        for strain in (strain for generator in generators for strain in generator.strains):
            parts.setdefault(strain.part, []).append(strain)
        strains = (
            Strain(
                part,
                sum(one.requests for one in found),
                *(max(column) for column in zip(*(astuple(one)[2:] for one in found), strict=True)),
            )
            for part, found in sorted(parts.items())
        )
        return cls(cpu, p50, p99, most, waited, tuple(strains))


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply kept for the user's eyes: the first of each outcome that is no success."""

    outcome: str
    status: int
    body: str
    count: int


@dataclass(frozen=True, slots=True)
class Results:
    """A whole run of `elapsed` seconds, of which the load took `load`. `tickets[n]` is the id of the ticket that
    records call n; `journal` is all records, in memory or as a mapped file. `dropped` are the iterations of each part
    that found no free VU or no time, `vus` the active VUs in each second, `aborted` the threshold that ended the run;
    `winners` and `promise` are the scenario's."""

    started: str
    elapsed: float
    load: float
    parts: tuple[Part, ...]
    tickets: tuple[str, ...]
    rounds: tuple[Round, ...]
    generator: Generator
    samples: tuple[Sample, ...]
    connections: int
    bytes_sent: int
    exhausted: tuple[str, ...]
    interrupted: bool
    journal: Journal
    dropped: Mapping[str, int] = field(default_factory=dict)
    vus: tuple[int, ...] = ()
    aborted: str = ""
    processes: int = 1
    races: tuple[Raced, ...] = ()
    winners: int = 1
    promise: str = "winners"

    def __len__(self) -> int:
        return len(self.journal) // SIZE

    def records(self) -> Iterator[Record]:
        """Every request, in the order in which they ended."""
        return map(_unpack, _RECORD.iter_unpack(self.journal))

    def record(self, number: int) -> Record:
        """The request number `number` in that order."""
        return _unpack(_RECORD.unpack_from(self.journal, number * SIZE))

    def to_json(self) -> dict[str, Any]:
        """All but the records, for `results.json`."""
        return {name: value for name, value in asdict(replace(self, journal=b"")).items() if name != "journal"}

    @classmethod
    def from_json(cls, data: dict[str, Any], journal: Journal) -> Results:
        """The results as `to_json` and `results.bin` keep them; a record that a crash cut short is left out."""
        return cls(
            **{
                "load": data["elapsed"],  # which is what runs of earlier versions took for it
                **data,
                "parts": tuple(Part(**part) for part in data["parts"]),
                "tickets": tuple(data["tickets"]),
                "rounds": tuple(Round(**{**one, "late": tuple(one.get("late", ()))}) for one in data["rounds"]),
                "races": tuple(_raced(race) for race in data.get("races", ())),
                "generator": _generator(data["generator"]),
                "samples": tuple(Sample(**sample) for sample in data["samples"]),
                "exhausted": tuple(data["exhausted"]),
                "vus": tuple(data.get("vus", ())),
            },
            journal=journal[: len(journal) // SIZE * SIZE],
        )


def _generator(data: dict[str, Any]) -> Generator:
    return Generator(**{**data, "strains": tuple(Strain(**strain) for strain in data.get("strains", ()))})


def _raced(data: dict[str, Any]) -> Raced:
    return Raced(**{**data, "before": _probes(data["before"]), "after": _probes(data["after"])})


def _probes(data: list[dict[str, Any]]) -> tuple[Probe, ...]:
    return tuple(Probe(**{**probe, "ended": tuple(probe["ended"])}) for probe in data)
