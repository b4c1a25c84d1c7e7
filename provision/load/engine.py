"""The engine: carries out a scenario over the wire and writes down one record per request."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from time import perf_counter_ns
from typing import IO, Any

import uvloop

from provision.load import descriptors, race, spec
from provision.load.course import Course, frozen_garbage
from provision.load.executors import ConstantVus, OpenModel
from provision.load.guard import guarded
from provision.load.http import Reply
from provision.load.ledger import Ledger
from provision.load.outcomes import Outcome
from provision.load.pool import Pool
from provision.load.progress import Progress, latencies
from provision.load.results import CANARY, NO_TICKET, Generator, Journal, Results, Sample
from provision.load.session import Job, Session
from provision.load.share import Share
from provision.load.tally import Tally
from provision.load.workers import Workers

JUDGE_EVERY_NS = 2_000_000_000
"""How often thresholds that may end a run are looked at, as in k6."""


Watch = Callable[[Progress], None]
CanaryCheck = Callable[[list[tuple[Outcome, Reply]]], None]
Abort = Callable[[Results, Tally, float], str]
"""From what is known so far and the seconds since the load began: why to end it, or nothing."""


def run(
    job: Job,
    journal: IO[bytes],
    *,
    watch: Watch,
    check_canary: CanaryCheck,
    abort: Abort | None = None,
    processes: int = 1,
) -> Results:
    """Carry out the job; `journal` receives the records as they come, `check_canary` may raise to stop before the load.

    The first SIGINT or SIGTERM ends it in order (in-flight requests are awaited), the second at once. ConfigError when
    it may not open enough connections, OSError when the journal cannot be written.
    """
    descriptors.make_room(job.scenario, processes)
    return uvloop.run(_Run(job, Ledger(journal, live=abort is not None), watch, abort, processes).run(check_canary))


class _Run:
    """One run, in this process and its workers."""

    def __init__(self, job: Job, ledger: Ledger, watch: Watch, abort: Abort | None, processes: int) -> None:
        self.job = job
        self.ledger = ledger
        self.watch = watch
        self.abort = abort
        self.processes = processes
        self.aborted = ""
        self.ended: int | None = None
        self.others: dict[int, dict[str, Any]] = {}
        self.judged = 0
        self.recent: tuple[float, ...] = ()
        executors = job.scenario.scenarios.values()
        self.total = max((executor.startTime + _planned(executor) for executor in executors), default=0.0)

    async def run(self, check_canary: CanaryCheck) -> Results:
        races, keep = self.job.scenario.races, spec.race_tickets(self.job.scenario)
        pool = Pool(len(self.job.tickets), reuse=self.job.scenario.tickets == "reuse", keep=keep, keepers=races)
        self.session = Session(self.job, pool, Share(0, self.processes))
        self.course = Course(self.session)
        try:
            with _signals(self.session), guarded(self.session):
                await race.warm_up(self.session)
                try:
                    check_canary(await _canary(self.session))
                finally:
                    self._flush()
                others = await self._load()
                summaries = [self.course.summary(), *others]
                self.session.close()  # the journal is mapped by a descriptor of its own
                return self._results(summaries, self.ledger.close(), pool.used)
        finally:
            self.session.close()
            pool.close()

    async def _load(self) -> list[dict[str, Any]]:
        """Run the load here and in the workers; what the workers know at the end."""
        async with Workers(self.session, self.processes - 1, self.ledger) as workers:
            self.others = workers.so_far
            await self.course.prepare()
            with frozen_garbage():
                self.session.start = self.judged = await workers.start()
                await self.course.run(self._tick)
            others = await workers.finish()
            self.ended = perf_counter_ns()
            return others

    def _flush(self) -> None:
        self.ledger.add(bytes(self.session.fresh))
        self.session.fresh.clear()
        if self.ledger.refused:
            self.session.stopping.set()

    def _tick(self) -> None:
        self.recent = latencies(bytes(self.session.fresh)) or self.recent
        self._flush()
        now = perf_counter_ns()
        self.watch(self._progress((now - self.session.start) / 1e9))
        if self.abort and self.ledger.tally and not self.aborted and now - self.judged >= JUDGE_EVERY_NS:
            self.judged = now
            so_far = self._results([self.course.summary(), *self._so_far()], b"", 0)
            self.aborted = self.abort(so_far, self.ledger.tally, (now - self.session.start) / 1e9)
            if self.aborted:
                self.session.stopping.set()

    def _so_far(self) -> Iterator[dict[str, Any]]:
        """What the workers told last, with their VUs for as many seconds as ours."""
        seconds = len(self.course.vus)
        for told in self.others.values():
            missing = [told["active"]] * (seconds - len(told["vus"]))
            yield {**told, "vus": [*told["vus"], *missing][:seconds]}

    def _progress(self, elapsed: float) -> Progress:
        outcomes, session = self.ledger.outcomes(), self.session
        return Progress(
            scenario=self.job.scenario,
            running=tuple(self.course.running),
            elapsed=elapsed,
            total=self.total,
            requests=sum(outcomes.values()),
            outcomes=outcomes,
            parts={session.parts[number].name: times for number, times in self.ledger.parts().items()},
            vus=session.active,
            recent=self.recent,
            replies={str(outcome): body for (outcome, _), body in session.samples.items()},
        )

    def _results(self, summaries: Sequence[dict[str, Any]], journal: Journal, used: int) -> Results:
        bodies = {(o, s): body for summary in reversed(summaries) for o, s, body in summary["samples"]}
        counts, now = self.ledger.counts(), perf_counter_ns()
        dropped: Counter[str] = Counter()
        for summary in summaries:
            dropped.update(summary["dropped"])
        return Results(
            started=self.job.started,
            elapsed=(now - self.session.began) / 1e9,
            load=((self.ended or now) - self.session.start) / 1e9,
            parts=tuple(self.session.parts),
            tickets=tuple(ticket["id"] for ticket in self.job.tickets[:used]),
            rounds=tuple(self.session.rounds),
            generator=Generator.worst([summary["generator"] for summary in summaries if "generator" in summary]),
            samples=tuple(
                Sample(str(o), s, body, counts[o, s]) for (o, s), body in bodies.items() if o is not Outcome.INTERRUPTED
            ),
            connections=sum(summary["connections"] for summary in summaries),
            bytes_sent=sum(summary["bytes_sent"] for summary in summaries),
            exhausted=tuple(dict.fromkeys(name for summary in summaries for name in summary["exhausted"])),
            interrupted=self.session.interrupted,
            journal=journal,
            dropped=dict(dropped),
            vus=tuple(map(sum, zip_longest(*(summary["vus"] for summary in summaries), fillvalue=0))),
            aborted=self.aborted,
            processes=len(summaries),
            races=tuple(self.session.races),
            winners=self.job.scenario.winners,
            promise=self.job.scenario.promise,
        )


@contextmanager
def _signals(session: Session) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, session.interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


async def _canary(session: Session) -> list[tuple[Outcome, Reply]]:
    """One scan, the same again, and one of a ticket that does not exist: what was answered before a stop."""
    lane = session.lane(session.part(CANARY, CANARY, 1, measured=False), 0)
    ticket = session.take(CANARY)
    answers: list[tuple[Outcome, Reply]] = []
    for which in () if ticket is None else (ticket, ticket, NO_TICKET):
        if not session.stopping.is_set():
            answers.append(await session.ask(lane, which))
    lane.connection.bytes_sent = 0  # it is judged, not measured
    return [answer for answer in answers if answer[0] is not Outcome.INTERRUPTED]


def _planned(executor: spec.AnyExecutor) -> float:
    """Seconds that a part is expected to take; what has no set length counts little."""
    set_length = isinstance(executor, ConstantVus | OpenModel) or hasattr(executor, "stages")
    return executor.length if set_length else 5.0
