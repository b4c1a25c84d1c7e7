"""The engine against a gate on loopback that keeps its own count."""

import asyncio
import gc
import json
import mmap
import os
import pickle
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import gate as gates
import http2_server
import pytest
import servers
from gate import Gate
from histories import History

from provision import bundled
from provision.audit import thresholds
from provision.audit.evidence import Snapshot
from provision.audit.finding import Status
from provision.audit.metrics import Metrics
from provision.audit.verdict import Verdict, judge
from provision.errors import ConfigError, ProvisionError, ScenarioError, Unreachable
from provision.fixtures.ids import row_id
from provision.load import engine, race, release, spec
from provision.load.course import Course
from provision.load.engine import Progress
from provision.load.http import Origin, Reply
from provision.load.ledger import Ledger
from provision.load.offline import scanned_at
from provision.load.outcomes import Outcome, classifier
from provision.load.overtaking import SlowRead
from provision.load.pool import Pool
from provision.load.request import Template
from provision.load.results import SIZE, Generator, Journal, Results
from provision.load.session import Job, Session
from provision.load.spec import Limit
from provision.load.tally import Tally
from provision.load.wire import Connection
from provision.rehearsal import check_canary

TICKETS = [row_id("r", 1, n) for n in range(400)]
SOURCE = bundled.find("scenarios", "scanner-burst")[1].split("scenarios:")[0]


def job(gate: Gate, scenarios: dict[str, Any], tickets: int = 400, timeout: str = "5s", use: str = "once") -> Job:
    """A job for the gate with these scenarios."""
    text = SOURCE.replace("rpc:", f"timeout: {timeout}\n  rpc:") + f"tickets: {use}\n"
    parsed = spec.parse(Path("s.yaml"), text + f"scenarios: {scenarios}".replace("'", '"'))
    origin = Origin.parse(gate.url)
    template = Template(parsed.request, origin, {"apikey": "k"}, frozenset({"id"}))
    fields = [{"id": ticket} for ticket in TICKETS[:tickets]]
    read = SlowRead(origin, (("apikey", "k"),), "tickets", "id", ("name",), tuple(TICKETS[:100]))
    return Job(parsed, origin, template, classifier(parsed.outcomes), fields, {}, seed="s", slow_read=read)


def run(wanted: Job, journal: IO[bytes] | None = None, watch: engine.Watch = lambda _: None, **more: Any) -> Results:
    return engine.run(wanted, journal or BytesIO(), watch=watch, check_canary=check_canary, **more)


def judged(results: Results, gate: Gate) -> Verdict:
    """The verdict, but for the generator: the gate shares its process, so that its strain says nothing here."""
    return judge(replace(results, generator=Generator(0, 0, 0, 0)), snapshot(gate), ())


def outcomes(results: Results, part: str) -> Counter[str]:
    numbers = {number for number, known in enumerate(results.parts) if known.name == part}
    return Counter(str(record.named) for record in results.records() if record.part in numbers)


def snapshot(gate: Gate) -> Snapshot:
    return Snapshot(frozenset(+gate.admitted), dict(+gate.admitted))


BURST = {"burst": {"executor": "constant-vus", "vus": 4, "duration": "300ms", "pause": "20ms"}}
ONCE = {"once": {"executor": "per-vu-iterations", "vus": 3, "iterations": 5}}
RACE = {"race": {"executor": "race", "vus": 10, "rounds": 20}}


def test_every_ticket_is_used_once_and_every_admission_is_recorded() -> None:
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, BURST))
    asked = Counter(asked["p_ticket_id"] for asked in gate.seen)
    assert set(asked.values()) == {1, 2}
    assert [ticket for ticket, times in asked.items() if times == 2] == [TICKETS[0]]
    assert outcomes(results, "burst") == {"admitted": gate.admitted.total() - 1}
    assert 4 * 5 < gate.admitted.total() <= 4 * 16


def test_per_vu_iterations_are_exactly_as_many_as_asked_for() -> None:
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, ONCE))
    assert outcomes(results, "once") == {"admitted": 15}
    assert Counter(a["p_device_id"] for a in gate.seen) == {"gate-1": 5 + 3, "gate-2": 5, "gate-3": 5}


def test_scenarios_start_when_they_are_told_to() -> None:
    late = {**ONCE, "late": {"executor": "per-vu-iterations", "vus": 1, "startTime": "400ms"}}
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, late))
    number = [part.name for part in results.parts].index("late")
    first = min(record.sent for record in results.records() if record.part == number)
    assert first >= 400e6


@pytest.mark.parametrize("processes", [1, 2])
def test_the_time_that_each_offline_scan_gave_can_be_told_from_its_record(processes: int) -> None:
    with gates.serving(gates.racy, TICKETS) as gate:
        wanted = job(gate, {**BURST, **RACE})
        dated = wanted.scenario.request.model_copy(
            update={"args": {**wanted.scenario.request.args, "p_device_id": "{scanned_at}"}}
        )
        template = Template(dated, wanted.origin, {"apikey": "k"}, frozenset({"id"}))
        results = run(replace(wanted, template=template), processes=processes)
    told = Counter(scanned_at(results.started, r.vu, r.iteration).isoformat() for r in results.records())
    assert Counter(asked["p_device_id"] for asked in gate.seen) == told
    assert len(told) > 150
    assert max(told) < results.started


def test_a_race_that_insists_on_http2_ends_before_the_first_request_where_there_is_none() -> None:
    insisting = {"race": {**RACE["race"], "sync": "single-packet"}}
    with gates.serving(gates.racy, TICKETS) as gate:
        with pytest.raises(ScenarioError, match=r"scenarios\.race: single-packet needs HTTP/2, but .* plain HTTP"):
            run(job(gate, insisting))
        assert gate.seen == []
        wanted = replace(job(gate, insisting), race_origin=Origin.parse("https://127.0.0.1:1"))
        with pytest.raises(Unreachable, match=r"scenarios\.race: no HTTP/2 connection could be made: "):
            run(wanted)
        assert gate.seen == []


def test_a_racy_gate_is_caught() -> None:
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, RACE))
        verdict = judged(results, gate)
    assert verdict.status is Status.FAIL
    assert "was admitted" in verdict.headline
    assert len(results.rounds) == 20


def test_a_correct_gate_passes() -> None:
    with gates.serving(gates.correct, TICKETS) as gate:
        verdict = judged(run(job(gate, RACE)), gate)
    assert verdict.status is Status.PASS, verdict.headline
    assert "0 of 20 contended rounds" in verdict.headline


def test_a_racy_gate_behind_a_pool_of_one_is_inconclusive_not_passed() -> None:
    with gates.serving(gates.racy, TICKETS, places=1) as gate:
        verdict = judged(run(job(gate, RACE)), gate)
    assert verdict.status is Status.INCONCLUSIVE
    assert "one after the other, effective concurrency 1" in verdict.headline


def test_a_gate_that_answers_busy_out_of_a_flag_behind_one_worker_is_not_believed() -> None:
    async def sometimes_busy(gate: Gate, ticket: str) -> dict[str, Any]:
        if len(gate.seen) > 3 and len(gate.seen) % 3 == 0:
            return {"error_message": "Ticket being processed by another scanner"}
        return await gates.racy(gate, ticket)

    with gates.serving(sometimes_busy, TICKETS, places=1) as gate:
        verdict = judged(run(job(gate, RACE)), gate)
    assert verdict.contention.collisions > 0
    assert verdict.status is Status.INCONCLUSIVE


@pytest.mark.parametrize(("places", "known"), [(2, 2), (10, 10), (20, 10)])
def test_the_servers_concurrency_is_told_from_scans_that_overtake_slow_reads(places: int, known: int) -> None:
    with gates.serving(gates.waiting, TICKETS, places=places) as gate:
        verdict = judged(run(job(gate, RACE)), gate)
    assert verdict.status is Status.PASS, verdict.headline
    assert verdict.contention.concurrency == known


def test_a_target_whose_reads_cannot_be_made_slow_is_not_passed_without_other_evidence() -> None:
    with gates.serving(gates.waiting, TICKETS) as gate:
        wanted = replace(job(gate, RACE), slow_read=None)
        verdict = judged(run(wanted), gate)
    assert verdict.status is Status.INCONCLUSIVE
    assert "Nothing shows that the server worked on two requests at once" in verdict.headline


def test_a_race_that_found_no_time_for_all_its_rounds_is_not_passed() -> None:
    with gates.serving(gates.correct, TICKETS) as gate:
        results = run(job(gate, {"race": {**RACE["race"], "rounds": 40, "maxDuration": "50ms"}}))
        verdict = judge(results, snapshot(gate), ())
    assert results.dropped["race"] == (40 - len(results.rounds)) * RACE["race"]["vus"] > 0
    assert verdict.status is Status.INCONCLUSIVE
    assert "iterations found no time within maxDuration" in verdict.headline


def test_stop_on_broken_ends_the_race_at_its_first_broken_round() -> None:
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, {"race": {**RACE["race"], "stopOnBroken": True}}))
        verdict = judged(results, gate)
    assert len(results.rounds) == 1
    assert verdict.status is Status.FAIL


def test_the_order_of_the_requests_follows_from_the_seed() -> None:
    def order(seed: str) -> list[str]:
        with gates.serving(gates.correct, TICKETS) as gate:
            results = run(replace(job(gate, {"race": {**RACE["race"], "rounds": 4}}), seed=seed, slow_read=None))
        races = [r for r in results.records() if r.round >= 0]
        return [f"{r.round}:{r.vu}" for r in sorted(races, key=lambda r: (r.round, r.sent))]

    first = order("one")
    assert order("one") == first
    assert order("two") != first


def test_a_race_uses_a_fresh_ticket_in_every_round_and_another_device_for_every_request() -> None:
    with gates.serving(gates.correct, TICKETS) as gate:
        results = run(job(gate, RACE))
    tickets = [results.tickets[round_.ticket] for round_ in results.rounds]
    assert len(set(tickets)) == 20
    for ticket in tickets:
        assert len({a["p_device_id"] for a in gate.seen if a["p_ticket_id"] == ticket}) == 10


def test_connections_lost_after_the_scan_are_recovered_not_lost() -> None:
    with gates.serving(gates.racy, TICKETS, lose=lambda n: n > 3 and n % 4 == 0) as gate:
        verdict = judged(run(job(gate, ONCE)), gate)
    assert verdict.status is Status.PASS, verdict.headline
    assert any("whose reply was lost were found" in finding.statement for finding in verdict.findings)


def test_running_out_of_tickets_ends_the_scenario_and_is_said() -> None:
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, ONCE, tickets=8))
        verdict = judged(results, gate)
    assert results.exhausted == ("once",)
    assert verdict.status is Status.INCONCLUSIVE
    assert max(Counter(a["p_ticket_id"] for a in gate.seen).values()) == 2


def test_a_gate_that_never_answers_ends_in_unknown_replies_within_the_timeout() -> None:
    async def after_the_canary(gate: Gate, ticket: str) -> dict[str, Any]:
        return await (gates.racy if len(gate.seen) <= 3 else gates.silent)(gate, ticket)

    with gates.serving(after_the_canary, TICKETS) as gate:
        results = run(job(gate, {"once": {**ONCE["once"], "iterations": 1}}, timeout="100ms"))
    assert outcomes(results, "once") == {"unknown": 3}


OVER = {"duration": "50ms", "gracefulStop": "50ms"}
FALLS = {"stages": [{"duration": "50ms", "target": 0}], "startVUs": 4, "gracefulRampDown": "20ms"}


@pytest.mark.parametrize(
    "short",
    [
        {**BURST["burst"], **OVER},
        {"executor": "constant-arrival-rate", "rate": 80, "preAllocatedVUs": 9, **OVER},
        {"executor": "ramping-vus", **FALLS},
    ],
)
def test_what_we_give_up_is_in_no_metric_but_the_audit_knows_it(
    short: dict[str, Any],
) -> None:
    async def taken_in_unanswered(gate: Gate, ticket: str) -> dict[str, Any]:
        return await (gates.racy if len(gate.seen) <= 3 else taken_in)(gate, ticket)

    async def taken_in(gate: Gate, ticket: str) -> dict[str, Any]:
        gate.admitted[ticket] += 1
        return await gates.silent(gate, ticket)

    with gates.serving(taken_in_unanswered, TICKETS) as gate:
        results = run(job(gate, {"burst": short}))
        verdict = judge(results, snapshot(gate), ())
    assert outcomes(results, "burst") == {"interrupted": 4}
    assert results.elapsed < 3
    metrics = verdict.metrics
    assert metrics.interrupted() == 4
    assert {metrics.get(name).statistic("count") for name in ("iterations", "http_reqs")} == {0}
    assert {metrics.get(name).samples for name in ("http_req_duration", "iteration_duration", "scan_errors")} == {0}
    assert metrics.outcomes() == {}
    assert "interrupted" not in {sample.outcome for sample in results.samples}
    found = {finding.promise: finding.statement for finding in verdict.findings}
    assert "4 whose reply was lost were found in the database" in found["none-unexpected"]


def test_what_is_given_up_before_it_was_sent_cannot_have_let_anybody_in() -> None:
    history = History()
    history.ask("interrupted", 0, status=0)
    history.ask("interrupted", 1, status=0)
    history.records[1] = history.records[1]._replace(sent=0)
    history.store(0)
    history.store(1)
    found = {one.promise: one for one in judge(history.results(), history.snapshot(), ()).findings}
    assert found["none-unexpected"].status is Status.FAIL
    assert "ticket-1 is admitted in the database, but nobody" in found["none-unexpected"].statement


@pytest.mark.parametrize("processes", [1, 2])
def test_rates_are_those_of_the_load_alone(processes: int) -> None:
    steady = {"a": {"executor": "constant-arrival-rate", "rate": 100, "duration": "1s", "preAllocatedVUs": 20}}
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, steady), processes=processes)
    requests = Metrics(results).get("http_reqs")
    assert requests.statistic("count") == 100
    assert requests.statistic("rate") == pytest.approx(100 / results.load)
    assert 0.99 <= results.load < results.elapsed
    first, last = (pick(r.sent for r in results.records() if r.part == 1) for pick in (min, max))
    assert results.elapsed - results.load >= first / 1e9 - 0.06, "what came before the load is no part of it"
    assert results.load <= results.elapsed - first / 1e9 + 0.06
    assert last > first


@pytest.mark.parametrize("processes", [1, 2])
def test_thresholds_that_end_a_run_look_at_all_processes(monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    """200 arrivals/s, of which two VUs that never hear an answer take two: the others are dropped, in every process."""

    async def after_the_canary(gate: Gate, ticket: str) -> dict[str, Any]:
        return await (gates.racy if len(gate.seen) <= 3 else gates.silent)(gate, ticket)

    seen: list[tuple[float, Results, Tally]] = []

    def abort(results: Results, tally: Tally, elapsed: float) -> str:
        seen.append((elapsed, results, tally))
        return "enough" if elapsed > 1.1 else ""

    monkeypatch.setattr(engine, "JUDGE_EVERY_NS", 200_000_000)
    jam = {"executor": "constant-arrival-rate", "rate": 200, "duration": "9s", "preAllocatedVUs": 2}
    with gates.serving(after_the_canary, TICKETS) as gate:
        wanted = job(gate, {"a": {**jam, "gracefulStop": "0s"}})
        run(wanted, abort=abort, processes=processes)
    elapsed, results, tally = seen[-1]
    scan = wanted.template.render({"ticket.id": TICKETS[1], "vu": 1})
    assert results.dropped["a"] >= 200 * (elapsed - 0.5), "told at most two ticks ago"
    assert Metrics(results, tally).get("data_sent").statistic("count") == 2 * len(scan), "canary excluded"
    assert results.vus == (2,)


def test_the_journal_holds_what_the_results_hold() -> None:
    journal = BytesIO()
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, ONCE), journal)
    assert journal.getvalue() == results.journal
    assert len(results) == 3 + 15


@pytest.mark.parametrize(("ids", "absent"), [(range(7, 40), "-32768"), ([f"T-{n}" for n in range(40)], "absent-id")])
def test_the_canary_asks_about_a_ticket_that_does_not_exist_by_an_id_of_the_tickets_kind(ids: Any, absent: str) -> None:
    tickets = [str(identifier) for identifier in ids]
    with gates.serving(gates.correct, tickets) as gate:
        wanted = job(gate, ONCE)
        results = run(replace(wanted, tickets=[{"id": ticket} for ticket in tickets]))
    assert [asked["p_ticket_id"] for asked in gate.seen][:3] == [tickets[0], tickets[0], absent]
    assert outcomes(results, "canary")["not_found"] == 1


def test_a_target_that_refuses_connections_stops_at_the_canary() -> None:
    with gates.serving(gates.racy, TICKETS) as gate:
        wanted = job(gate, ONCE)
    with pytest.raises(Unreachable, match="connection refused"):
        run(wanted)


def test_a_misconfigured_scenario_stops_at_the_canary_in_the_servers_own_words() -> None:
    async def odd(gate: Gate, ticket: str) -> dict[str, Any]:
        del gate, ticket
        return {"error_message": "staff only"}

    with gates.serving(odd, TICKETS) as gate:
        with pytest.raises(ScenarioError, match="staff only"):
            run(job(gate, ONCE))
    assert len(gate.seen) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_run_in_order_and_it_is_judged(number: signal.Signals) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.requests > 10:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    forever = {"burst": {**BURST["burst"], "duration": "60s"}, "later": {**RACE["race"], "startTime": "61s"}}
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, forever), watch=interrupt)
        verdict = judged(results, gate)
    assert results.interrupted
    assert results.elapsed < 10
    assert verdict.exit_code == 105
    assert signal.getsignal(number) is before


def test_progress_tells_what_runs_and_how_far_it_is() -> None:
    told: list[Progress] = []
    with gates.serving(gates.racy, TICKETS) as gate:
        run(job(gate, {"burst": {**BURST["burst"], "duration": "600ms"}}), watch=told.append)
    assert told[0].running == ("burst",)
    assert 0 < told[0].elapsed < told[-1].elapsed
    assert told[-1].outcomes["admitted"] > 4


ARRIVING = {"door": {"executor": "constant-arrival-rate", "rate": 200, "duration": "500ms", "preAllocatedVUs": 20}}


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_vus_and_tickets_and_lose_no_record(processes: int) -> None:
    both = {**ONCE, **ARRIVING, "race": {**RACE["race"], "rounds": 5, "startTime": "1s"}}
    with gates.serving(gates.correct, TICKETS) as gate:
        results = run(job(gate, both), processes=processes)
        verdict = judged(results, gate)
    asked = Counter(asked["p_ticket_id"] for asked in gate.seen)
    assert results.processes == processes
    assert outcomes(results, "once") == {"admitted": 15} or outcomes(results, "once").total() == 15
    assert outcomes(results, "door").total() + results.dropped.get("door", 0) == 100
    assert len(results) == len(gate.seen)
    assert {ticket for ticket, times in asked.items() if times > 1} == {
        TICKETS[0], *(results.tickets[r.ticket] for r in results.rounds)
    }  # fmt: skip
    assert not [f for f in verdict.findings if f.status is Status.FAIL]
    vus = {record.vu for record in results.records() if results.parts[record.part].name == "once"}
    assert vus == {0, 1, 2}


def test_processes_start_together() -> None:
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, {"burst": {**BURST["burst"], "vus": 2}}), processes=2)
    first = {vu: min(r.due for r in results.records() if r.part == 1 and r.vu == vu) for vu in (0, 1)}
    assert first[0] == first[1]


def test_an_interrupt_stops_every_process() -> None:
    def interrupt(progress: Progress) -> None:
        if progress.requests > 20:
            os.kill(os.getpid(), signal.SIGINT)

    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, {"burst": {**BURST["burst"], "duration": "60s"}}), watch=interrupt, processes=2)
        verdict = judged(results, gate)
    assert verdict.exit_code == 105
    assert len(results) == len(gate.seen)
    assert results.elapsed < 10


def test_a_second_interrupt_gives_up_what_is_in_flight_in_every_process() -> None:
    async def after_the_canary(gate: Gate, ticket: str) -> dict[str, Any]:
        return await (gates.racy if len(gate.seen) <= 3 else gates.silent)(gate, ticket)

    def interrupt(progress: Progress) -> None:
        del progress
        os.kill(os.getpid(), signal.SIGINT)

    with gates.serving(after_the_canary, TICKETS) as gate:
        results = run(
            job(gate, {"burst": {**BURST["burst"], "duration": "60s"}}, timeout="60s"), watch=interrupt, processes=2
        )
    assert outcomes(results, "burst") == {"interrupted": 4}
    assert results.elapsed < 10


def test_a_second_interrupt_ends_a_race_that_still_connects() -> None:
    def interrupt(progress: Progress) -> None:
        del progress
        os.kill(os.getpid(), signal.SIGINT)

    with gates.serving(gates.racy, TICKETS) as gate, servers.full_backlog() as never:
        wanted = replace(job(gate, RACE, timeout="60s"), race_origin=Origin.parse(f"https://127.0.0.1:{never}"))
        results = run(wanted, watch=interrupt)
    assert results.interrupted
    assert results.elapsed < 10


@pytest.mark.parametrize("asked", [1, 2])
@pytest.mark.parametrize("twice", [False, True])
def test_an_interrupt_before_the_load_ends_the_canary_and_is_no_fault_of_the_scenarios(asked: int, twice: bool) -> None:
    async def interrupting(gate: Gate, ticket: str) -> dict[str, Any]:
        if len(gate.seen) == asked:
            os.kill(os.getpid(), signal.SIGINT)
            if twice:
                os.kill(os.getpid(), signal.SIGTERM)
                return await gates.silent(gate, ticket)
        return await gates.racy(gate, ticket)

    with gates.serving(interrupting, TICKETS) as gate:
        results = run(job(gate, {**BURST, **ARRIVING}, timeout="60s"))
    assert results.interrupted
    assert len(gate.seen) == asked
    assert outcomes(results, "burst") == outcomes(results, "door") == {}
    assert results.elapsed < 10


@pytest.mark.parametrize(
    ("prepare", "interrupts"),
    [(lambda session: Course(session).prepare(), 1), (race.warm_up, 2)],
    ids=["VUs", "a race"],
)
def test_an_interrupt_ends_the_connects_before_the_load(prepare: Callable[[Session], Any], interrupts: int) -> None:
    both = {**ARRIVING, "race": {**RACE["race"], "sync": "single-packet"}}

    async def main() -> int:
        async with servers.serve(servers.mute) as never:
            wanted = job(Gate(gates.racy, frozenset(), port=1), both, timeout="60s")
            session = Session(replace(wanted, origin=Origin.parse(never.secure_url)), Pool(400))
            preparing = asyncio.ensure_future(prepare(session))
            while not never.connections:
                await asyncio.sleep(0)
            for _ in range(interrupts):
                assert not preparing.done()
                session.interrupt()
            await asyncio.wait_for(preparing, 10)
            session.close()
            return never.connections

    assert asyncio.run(main()) > 0


def test_a_race_gives_up_what_is_in_flight_when_its_graceful_stop_is_over() -> None:
    async def then_silent(gate: Gate, ticket: str) -> dict[str, Any]:
        return await (gates.racy if len(gate.seen) <= 20 else gates.silent)(gate, ticket)

    short = {"vus": 3, "rounds": 50, "maxDuration": "200ms", "gracefulStop": "100ms", "pause": "0ms"}
    with gates.serving(then_silent, TICKETS) as gate:
        wanted = job(gate, {"race": {**RACE["race"], **short}}, timeout="60s")
        results = run(replace(wanted, slow_read=None))
    told = outcomes(results, "race")
    assert told["interrupted"] > 0
    assert told.total() + results.dropped["race"] == 3 * 50
    assert results.elapsed < 10


def test_what_a_race_prepares_is_no_part_of_its_response_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "SETTLE_S", 0.1)
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(replace(job(gate, {"race": {**RACE["race"], "rounds": 3}}), slow_read=None))
    number = [part.name for part in results.parts].index("race")
    waits = [record.sent - record.due for record in results.records() if record.part == number]
    assert len(waits) == 30
    assert 0 <= min(waits) < 50e6


@pytest.mark.parametrize("at", [3, 11, 13, 15, 20, 36])
def test_a_race_whose_http2_target_goes_away_ends_with_what_was_recorded(at: int, authority: servers.Authority) -> None:
    def answer(peer: http2_server.Peer, stream: int, path: str) -> None:
        if len(peer.seen.requests) >= at:
            peer.seen.die()
        elif "/rpc/" in path:
            peer.reply(stream, json.dumps([gates.ROW | {"success": True}]).encode())
        else:
            asyncio.get_running_loop().call_later(gates.READ_S, peer.reply, stream, b"[]")

    async def main() -> tuple[Session, int]:
        async with http2_server.serve(authority, answer) as seen:
            wanted = job(Gate(gates.racy, frozenset(), port=1), {"race": {**RACE["race"], "vus": 4, "rounds": 5}})
            wanted = replace(wanted, race_origin=Origin.parse(seen.url, authority.file))
            session = Session(wanted, Pool(400))
            (executor,) = wanted.scenario.races.values()
            await asyncio.wait_for(race.run(session, "race", executor), 20)
            session.close()
            return session, len(seen.requests)

    session, requests = asyncio.run(main())
    assert requests >= at
    assert [raced.mode for raced in session.races] == ["single-packet"]
    assert len(session.rounds) == 5
    assert len(session.fresh) // SIZE >= 10 + 5 * 4


@pytest.mark.skipif(sys.platform != "linux", reason="finds its children in /proc")
def test_a_process_that_is_killed_is_an_error_not_a_verdict() -> None:
    def kill(progress: Progress) -> None:
        if progress.requests > 10:
            for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
                if b"provision.load.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)

    with gates.serving(gates.racy, TICKETS) as gate:
        with pytest.raises(ProvisionError, match="ended early"):
            run(job(gate, {"burst": {**BURST["burst"], "duration": "60s"}}), watch=kill, processes=2)


def test_running_out_of_tickets_in_several_processes_uses_each_once() -> None:
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, {"burst": {**BURST["burst"], "duration": "20s"}}, tickets=60), processes=2)
    assert results.exhausted == ("burst",)
    assert Counter(Counter(a["p_ticket_id"] for a in gate.seen).values()) == {1: 59 + 1, 2: 1}  # and the canary's ghost


def test_reuse_goes_round_the_tickets_but_races_have_their_own() -> None:
    both = {**ONCE, "race": {**RACE["race"], "rounds": 3, "startTime": "500ms"}}
    with gates.serving(gates.correct, TICKETS) as gate:
        results = run(job(gate, both, tickets=3 + 20 + 50 + 4, use="reuse"))
        verdict = judged(results, gate)
    assert results.exhausted == ()
    assert outcomes(results, "once").total() == 15
    assert outcomes(results, "race")["admitted"] == 3
    assert verdict.status is Status.PASS, verdict.headline


def test_a_threshold_may_end_the_run_and_fails_it() -> None:
    told: list[float] = []
    abort_at = thresholds.parse("successful_scans", Limit(threshold="count<10", abortOnFail=True), [])

    def abort(results: Results, tally: Tally, elapsed: float) -> str:
        told.append(elapsed)
        return thresholds.reason_to_stop([abort_at], Metrics(results, tally), elapsed)

    forever = {"burst": {**BURST["burst"], "duration": "60s", "pause": "100ms"}}
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, forever), abort=abort)
        verdict = judge(results, snapshot(gate), [abort_at])
    assert results.aborted == "successful_scans count<10"
    assert results.elapsed < 10
    assert len(told) == 1
    assert verdict.exit_code == 99
    assert "ended by the threshold successful_scans count<10" in verdict.headline


def test_arrivals_find_their_connections_made() -> None:
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, ARRIVING))
    metrics = Metrics(results)
    assert metrics.get("http_req_connecting{scenario:door}").statistic("max") == 0
    assert metrics.get("http_req_response_time").statistic("max") >= metrics.get("http_req_duration").statistic("max")
    assert metrics.get("http_reqs{scenario:door}").statistic("count") + results.dropped.get("door", 0) == 100


def test_a_file_as_journal_is_read_back_without_copying_it(tmp_path: Path) -> None:
    with gates.serving(gates.racy, TICKETS) as gate, (tmp_path / "results.bin").open("w+b") as file:
        results = run(job(gate, ONCE), file)
    assert isinstance(results.journal, mmap.mmap)
    assert (tmp_path / "results.bin").read_bytes() == results.journal[:]
    assert len(list(results.records())) == 3 + 15
    assert Results.from_json(results.to_json(), results.journal[:]).to_json() == results.to_json()


def test_an_error_in_a_call_back_ends_the_run_instead_of_a_wait_without_end() -> None:
    class Planted(Exception):
        pass

    def classify(reply: Reply) -> Outcome:
        if len(gate.seen) > 10:
            raise Planted
        return named(reply)

    forever = {"burst": {**BURST["burst"], "duration": "1h", "gracefulStop": "1h"}}
    with gates.serving(gates.racy, TICKETS) as gate:
        wanted = job(gate, forever)
        named = wanted.classify
        with pytest.raises(Planted):
            run(replace(wanted, classify=classify))


def test_an_error_in_a_workers_call_back_ends_the_run_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    dumps = pickle.dumps
    monkeypatch.setattr(pickle, "dumps", lambda order: dumps(order._replace(began=1 << 80)))
    forever = {"burst": {**BURST["burst"], "duration": "1h"}}
    with gates.serving(gates.racy, TICKETS) as gate:
        with pytest.raises(RuntimeError, match=r"a worker process failed:\n(.|\n)*struct\.error"):
            run(job(gate, forever), processes=2)


@pytest.fixture
def few_descriptors() -> Iterator[int]:
    """Leaves this process hardly a descriptor more than it has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/dev/fd")) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, before[1]))
    yield few
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


CROWD = {"crowd": {"executor": "per-vu-iterations", "vus": 40, "iterations": 1}}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_soft_limit_of_descriptors_is_raised_to_what_the_load_needs(
    processes: int, few_descriptors: int, tmp_path: Path
) -> None:
    with gates.serving(gates.racy, TICKETS) as gate, (tmp_path / "results.bin").open("w+b") as file:
        results = run(job(gate, CROWD), file, processes=processes)
    assert outcomes(results, "crowd") == {"admitted": 40}
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > few_descriptors


def test_too_low_a_hard_limit_of_descriptors_is_refused_before_the_first_request(
    few_descriptors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (few_descriptors, few_descriptors))
    with gates.serving(gates.racy, TICKETS) as gate:
        with pytest.raises(ConfigError, match=rf"needs \d+ file descriptors, .* may open {few_descriptors}") as refused:
            run(job(gate, CROWD))
        assert gate.seen == []
    assert "ulimit -n" in refused.value.hint


def test_connections_are_closed_before_the_journal_takes_its_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_the_end: list[bool] = []

    def close(ledger: Ledger) -> Journal:
        gone = [c for c in gc.get_objects() if isinstance(c, Connection) and c.origin.port == gate.port]
        at_the_end.append(bool(gone) and all(connection._transport is None for connection in gone))
        return real(ledger)

    real = Ledger.close
    monkeypatch.setattr(Ledger, "close", close)
    with gates.serving(gates.racy, TICKETS) as gate, (tmp_path / "results.bin").open("w+b") as file:
        run(job(gate, ONCE), file)
    assert at_the_end == [True]


def test_active_vus_are_counted_every_second() -> None:
    with gates.serving(gates.racy, TICKETS) as gate:
        results = run(job(gate, {"burst": {**BURST["burst"], "duration": "1200ms", "pause": "200ms"}}))
    assert results.vus == (4,)


def test_requests_leave_nothing_behind_in_memory() -> None:
    """What grows with the number of requests is the journal alone."""

    def grown(seconds: str) -> int:
        with gates.serving(gates.instant, TICKETS) as gate, tempfile.TemporaryFile() as journal:
            wanted = job(gate, {"burst": {"executor": "constant-vus", "vus": 4, "duration": seconds}}, use="reuse")
            session_sizes: list[int] = []
            results = run(wanted, journal, watch=lambda _: session_sizes.append(len(gc.get_objects())))
            assert len(results) > 200
        return session_sizes[-1] - session_sizes[0]

    assert grown("1500ms") < 2_000
