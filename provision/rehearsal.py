"""A rehearsal: what was prepared is checked against the target, run, judged and saved."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from provision import __version__, aftermath, fitting, preparation, rundir, saved
from provision.audit import evidence, thresholds, verdict
from provision.audit.evidence import Snapshot
from provision.audit.finding import Status
from provision.audit.metrics import Metrics
from provision.audit.verdict import Verdict
from provision.errors import Interrupted, Refused, ScenarioError, TicketsError, Unreachable
from provision.fixtures import ids, manifest
from provision.fixtures.manifest import OwnedTable
from provision.fixtures.schema import Schema
from provision.fixtures.tables import Trace
from provision.gateway import Gateway, ownership, truth
from provision.load import engine, overtaking, spec
from provision.load.http import Origin, Reply
from provision.load.outcomes import Outcome, classifier
from provision.load.overtaking import SlowRead
from provision.load.request import Template
from provision.load.results import Results
from provision.load.session import Job
from provision.opening import gateway_of, read_manifest
from provision.preparation import Wanted
from provision.report import Watcher
from provision.report.model import Report
from provision.rundir import MANIFEST, RunDir
from provision.saved import Destination
from provision.target import Target

BROKEN_SHOWN = 5
TEXTS = {"text", "character varying"}


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A judged run and the folder that keeps it."""

    report: Report
    folder: Path
    out: Sequence[Destination] = ()

    @property
    def verdict(self) -> Verdict:
        return self.report.verdict

    @property
    def run(self) -> str:
        """The run whose tickets were used."""
        return self.folder.parent.name


def rehearse(wanted: Wanted, target: Target, gateway: Gateway, watcher: Watcher) -> Rehearsal:
    """Check the target, run the load, take the snapshot, judge, save."""
    schema = gateway.schema()
    fitting.check_schema(wanted.scenario, wanted.document, schema)
    _check_numbers(wanted, target, watcher)
    fresh = _fresh(gateway, schema, wanted)
    job = _job(wanted, target, fresh, schema)
    _own_entries(wanted, schema, watcher)
    folder = RunDir.ensure(wanted.tickets.run).subfolder(wanted.scenario.name)
    run, scenario = _about(wanted, target), _carried_out(wanted)
    folder.write_json("run.json", run)
    folder.write_json("scenario.json", scenario)
    rundir.write_text(folder.path / "scenario.yaml", [wanted.source])
    with folder.stream("results.bin") as journal, watcher.busy(f"Running {wanted.scenario.name}"):
        results = engine.run(
            job,
            journal,
            watch=watcher.load,
            check_canary=check_canary,
            abort=_abort(wanted),
            processes=wanted.processes,
        )
    folder.write_json("results.json", results.to_json())
    snapshot = _snapshot(gateway, schema, wanted, results, {ticket["id"] for ticket in fresh}, watcher)
    folder.write_json("snapshot.json", snapshot.to_json())
    report = saved.judge(run, scenario, wanted.source, results, snapshot, folder)
    saved.save(report, folder, files=wanted.files, out=wanted.out)
    return Rehearsal(report, folder.path, wanted.out)


def _abort(wanted: Wanted) -> engine.Abort | None:
    """What ends the run early: a threshold with `abortOnFail` that has failed; None when there is no such."""
    if not any(threshold.abort_on_fail for threshold in wanted.thresholds):
        return None
    return lambda results, tally, elapsed: thresholds.reason_to_stop(
        wanted.thresholds, Metrics(results, tally), elapsed
    )


def _own_entries(wanted: Wanted, schema: Schema, watcher: Watcher) -> None:
    """Put on disk that rows about our tickets are ours where the app is going to write them, so that the teardown of
    a run that was seeded here removes them though its recipe does not name their table."""
    entries, seeded = wanted.scenario.truth.entries, RunDir(rundir.ROOT / wanted.tickets.run)
    if entries is None or not seeded.has(MANIFEST):
        return
    known = read_manifest(seeded)
    names = (entries.table, entries.ticket)
    if names in [entry[:2] for entry in known.written_by_app] or names in [(t.table, t.key) for t in known.tables]:
        return
    found = manifest.app_table(known, schema, *names, wanted.ids)
    if found is not None:
        seeded.append(MANIFEST, manifest.written_by_app(found))
    else:
        watcher.say(f"{'.'.join(names)} does not reference the tickets: teardown keeps what the app writes there,")
        watcher.say(f"  unless the recipe names it: written_by_app: {{{entries.table}: {entries.ticket}}}")


def preflight(wanted: Wanted, target: Target, gateway: Gateway, watcher: Watcher) -> list[str]:
    """Everything of `rehearse` up to the load, the canary included; the facts that were found in order."""
    bare = wanted.scenario.model_copy(update={"scenarios": {}})
    schema = gateway.schema()
    fitting.check_schema(wanted.scenario, wanted.document, schema)
    job = _job(replace(wanted, scenario=bare), target, [dict(ticket) for ticket in wanted.tickets.fields], schema)
    _own_entries(wanted, schema, watcher)
    results = engine.run(job, BytesIO(), watch=lambda _: None, check_canary=check_canary)
    if results.interrupted:
        raise Interrupted("Interrupted before the canary was judged.")
    snapshot = truth.take(gateway, schema, wanted.scenario.truth, wanted.ids)
    broken = [f for f in verdict.judge(results, snapshot, ()).findings if f.status is Status.FAIL]
    if broken:
        raise ScenarioError(f"The canary scan broke a promise: {broken[0].statement}")
    return [
        f"{len(schema.tables)} tables and {len(schema.functions)} functions are exposed",
        f"{wanted.scenario.request.rpc} takes the scenario's arguments",
        "the scenario's truth is in the schema",
        *(f"canary: {record.named} (HTTP {record.status})" for record in results.records()),
    ]


def _check_numbers(wanted: Wanted, target: Target, watcher: Watcher) -> None:
    """Raise TicketsError unless the rows that have the tickets' numbers now are those of the tickets' run."""
    if isinstance(wanted.ids[0], ids.IdRange):
        return
    seeded, mark = RunDir(rundir.ROOT / wanted.tickets.run), wanted.tickets.mark
    if seeded.has(MANIFEST):
        known = read_manifest(seeded)
    elif mark is not None:
        numbers = sum(part.count for part in wanted.ids)
        table = OwnedTable(mark.table, mark.key, numbers, wanted.ids, Trace(mark.column, mark.template, None))
        known = manifest.rebuilt(wanted.tickets.run, wanted.tickets.target, mark.schema, (table,))
    else:
        raise TicketsError(
            f"Nothing here tells the tickets of run {wanted.tickets.run} from others with the same numbers.",
            hint="Run it in the folder in which they were seeded, or seed new ones: provision seed",
        )
    with gateway_of(known, target, watcher) as gateway:
        standing = ownership.stand(gateway, gateway.schema(), known)
    ownership.refuse_tickets(standing, known, wanted.ids)


def _fresh(gateway: Gateway, schema: Schema, wanted: Wanted) -> list[dict[str, str]]:
    """The tickets that are in the database and were not used before; TicketsError when they are too few."""
    needed = _needed(wanted)
    hint = f"Seed enough with: provision seed {wanted.scenario.recipe} --tickets {needed}"
    sample = wanted.scenario.truth.consumed or wanted.scenario.truth.entries
    if wanted.scenario.truth.consumed and sample:
        there = truth.count(gateway, sample, wanted.ids)
        if there < len(wanted.tickets):
            raise TicketsError(
                f"{there} of the file's {len(wanted.tickets)} tickets are in the database (torn down?).", hint=hint
            )
    before = truth.take(gateway, schema, wanted.scenario.truth, wanted.ids)
    used = {*(before.consumed or ()), *(before.entries or ())}
    fresh = [dict(ticket) for ticket in wanted.tickets.fields if ticket["id"] not in used]
    if len(fresh) < needed:
        already = f", {len(used)} of them used already" if used else ""
        raise TicketsError(
            f"The scenario can use {needed} tickets; the file has {len(wanted.tickets)}{already}.",
            hint=f"{hint}, or run until they are used up with --allow-exhaustion.",
        )
    return fresh


def _needed(wanted: Wanted) -> int:
    """The tickets without which a run does not begin: all that it can use, unless it may run out of them."""
    least = spec.CANARY_TICKETS + 1
    if wanted.scenario.tickets == "reuse":
        return least + spec.race_tickets(wanted.scenario)
    if wanted.allow_exhaustion:
        return least
    try:
        return spec.tickets_needed(wanted.scenario)[0]
    except ScenarioError as error:
        error.hint = "Give it a pause, or run until the tickets are used up with --allow-exhaustion."
        raise


def _job(wanted: Wanted, target: Target, fresh: list[dict[str, str]], schema: Schema) -> Job:
    origin = Origin.parse(target.url, target.ca_file)
    race_origin = Origin.parse(target.tls_url, target.ca_file) if target.tls_url else origin
    values = preparation.values(wanted.tickets)
    headers = {**target.headers, "User-Agent": f"provision/{__version__}"}
    fields = frozenset(fresh[0]).intersection(*fresh)
    with fitting.placed(wanted.document):
        template = Template(wanted.scenario.request, origin, headers, fields, frozenset(values))
    classify = classifier(wanted.scenario.outcomes)
    slow_read = _slow_read(wanted, schema, race_origin, headers)
    run = wanted.tickets.run
    return Job(wanted.scenario, origin, template, classify, fresh, values, run, race_origin, slow_read)


def _slow_read(wanted: Wanted, schema: Schema, origin: Origin, headers: dict[str, str]) -> SlowRead:
    """A read of our tickets, or of the rows about them, that can be made slow."""
    evidence = wanted.scenario.truth.consumed or wanted.scenario.truth.entries
    assert evidence is not None  # noqa: S101 - the scenario's model sees to it
    columns = schema.tables[evidence.table].columns.values()
    texts = tuple(column.name for column in columns if column.required and column.format in TEXTS)
    near = tuple(str(identifier) for identifier in ids.densest(wanted.ids, overtaking.ROWS))
    return SlowRead(origin, tuple(headers.items()), evidence.table, evidence.ticket, texts, near)


def check_canary(answers: list[tuple[Outcome, Reply]]) -> None:
    """Raise, in the API's own words, when the first scans show that the scenario or the target is not set up right."""
    for (outcome, reply), what in zip(answers, ("a fresh ticket", "the same ticket", "no ticket at all"), strict=False):
        words = f"The canary scan of {what} was answered with {_words(reply)}"
        if outcome in {Outcome.NOT_SENT, Outcome.STARVED}:
            raise Unreachable(f"The canary scan was not sent: {reply.detail}.", hint="Check SUPABASE_URL.")
        if outcome is Outcome.UNAUTHORISED:
            raise Refused(f"{words}.", hint="Check the key and the function's GRANTs.")
        if outcome is Outcome.UNCLASSIFIED:
            raise ScenarioError(f"{words}: no outcome rule fits.", hint="Add a rule under outcomes.")
        if what == "a fresh ticket" and outcome is not Outcome.ADMITTED:
            raise ScenarioError(
                f"{words}: {outcome}, not admitted.", hint="Check request.args and the rule for admitted."
            )


def _words(reply: Reply) -> str:
    return f"HTTP {reply.status}: {reply.detail or reply.body[:300].decode(errors='replace')}"


def _snapshot(
    gateway: Gateway, schema: Schema, wanted: Wanted, results: Results, fresh: set[str], watcher: Watcher
) -> Snapshot:
    """What the database says of the tickets that were fresh, with the rows of those on which a promise broke."""

    def read(only: Collection[str] | None) -> Snapshot:
        taken = truth.take(gateway, schema, wanted.scenario.truth, wanted.ids, only)
        consumed = None if taken.consumed is None else taken.consumed & fresh
        entries = None if taken.entries is None else {t: n for t, n in taken.entries.items() if t in fresh}
        return replace(taken, consumed=consumed, entries=entries)

    snapshot = aftermath.take(read, results, say=watcher.say)
    broken = [case.ticket for case in evidence.gather(results, snapshot).having(lambda case: case.broken)]
    return replace(snapshot, rows=truth.rows_of(gateway, schema, wanted.scenario.truth, broken[:BROKEN_SHOWN]))


def _about(wanted: Wanted, target: Target) -> dict[str, Any]:
    """What a report says of where a run comes from."""
    packages = {name: version(name) for name in ("uvloop", "httptools", "pydantic")}
    return {
        "id": wanted.tickets.run,
        "scenario": wanted.scenario.name,
        "file": wanted.path.name,
        "target": target.url,
        "version": __version__,
        "versions": {"python": platform.python_version(), **packages},
        "system": platform.platform(),
        "cpus": os.cpu_count(),
    }


def _carried_out(wanted: Wanted) -> dict[str, Any]:
    """The scenario's values as they are run, those left out that nobody set."""
    return wanted.scenario.model_dump(mode="json", exclude_unset=True)
