"""The whole tool on one page: one short function a command, values handed from stage to stage."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values

from provision import __version__, bundled, rundir
from provision.errors import ConfigError, Interrupted, LeftBehind, ProvisionError
from provision.report import Watcher
from provision.rundir import MANIFEST, RunDir
from provision.target import Secret, Target, from_environment

if TYPE_CHECKING:
    from provision.fixtures.manifest import Manifest
    from provision.fixtures.plan import Plan
    from provision.gateway import Gateway
    from provision.gateway.removal import Account
    from provision.local.stack import Stack
    from provision.rehearsal import Rehearsal, RunOptions

TICKETS_FILE = Path("test-tickets.json")
EMBEDDED = "the embedded local stack "


# -- where


@contextmanager
def open_target(watcher: Watcher, name: str = "default") -> Iterator[Target]:
    """The target that the environment or `.env` names; when they name none, the embedded local stack of that name."""
    target = from_environment(os.environ, dotenv_values(".env") if Path(".env").is_file() else {})
    if target is not None:
        yield target
        return
    from provision.local import stack

    with stack.lease(name, progress=watcher.say) as running:
        watcher.say(f"No SUPABASE_URL is set: using the embedded local stack at {running.url}.")
        yield embedded(running)


def embedded(running: Stack) -> Target:
    """The target that an embedded stack is."""
    key, tls_url = Secret(running.secret_key), running.tls_url
    return Target(running.url, key, ca_file=running.ca_file, embedded=running.name, tls_url=tls_url)


def identity(target: Target) -> str:
    """What a target is called in manifests and ticket files; an embedded stack's port may change, its name may not."""
    return EMBEDDED + target.embedded if target.embedded else target.url


def _stack_of(recorded: str) -> str:
    """The name of the embedded stack in a recorded identity; the usual one when that is of another target."""
    return recorded.removeprefix(EMBEDDED) if recorded.startswith(EMBEDDED) else "default"


@contextmanager
def open_gateway(target: Target, watcher: Watcher) -> Iterator[Gateway]:
    """The gateway to a target, closed afterwards."""
    from provision.gateway.supabase import SupabaseGateway

    with closing(SupabaseGateway(target, notify=watcher.say)) as gateway:
        yield gateway


def versions() -> dict[str, str]:
    """What made a file."""
    return {"provision": __version__, "faker": version("faker"), "python": platform.python_version()}


# -- seed


@dataclass(frozen=True, slots=True)
class SeedOptions:
    """What `provision seed` was asked for."""

    recipe: str | None = None
    scenario: str | None = None
    tickets: int | None = None
    out: Path = TICKETS_FILE
    env: Path | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Seeded:
    """What a seed made, or in a dry run would make; `why` says where the number of tickets comes from."""

    run: str
    target: str
    counts: Mapping[str, int]
    out: Path
    why: str
    written: bool


def seed(options: SeedOptions, watcher: Watcher) -> Seeded:
    """Recipe → plan → manifest → rows → ticket file."""
    with open_target(watcher) as target:
        return seed_target(options, target, watcher)


def seed_target(options: SeedOptions, target: Target, watcher: Watcher) -> Seeded:
    """`seed` on a target that is open."""
    from provision.fixtures import manifest, plan, recipe, tickets
    from provision.gateway import seeding

    name = options.recipe or _recipe_for(options.scenario)
    parsed, document = recipe.parse(*bundled.find("seeds", name))
    count, why = _ticket_count(options, name, parsed.count)
    for path in filter(None, (options.out, options.env)):
        rundir.check_writable(path)
    now = datetime.now(UTC)
    created = now.isoformat(timespec="seconds")
    with open_gateway(target, watcher) as gateway:
        planned = plan.build(parsed, document, gateway.schema(), rundir.new_run_id(now), now.date(), count)
        seeded = Seeded(planned.run, identity(target), _counts(planned), options.out, why, not options.dry_run)
        if options.dry_run:
            return seeded
        folder = RunDir.create(planned.run)
        head = manifest.announce(
            planned, created=created, target=identity(target), schema=target.schema, versions=versions()
        )
        folder.append(MANIFEST, head)
        with owned(planned.run), watcher.busy(f"Seeding {planned.run}"):
            seeding.fill(
                gateway,
                planned,
                lambda table: folder.append(MANIFEST, {"event": "insert", "table": table}),
                watcher.rows,
            )
            text = tickets.document(
                planned, url=target.url, target=identity(target), created=created, versions=versions()
            )
            rundir.write_text(options.out, text)
            if options.env:
                rundir.write_text(options.env, [tickets.env_file(planned, target.url)])
            folder.append(MANIFEST, {"event": "seeded", "tickets": str(options.out.resolve())})
    return seeded


def _recipe_for(scenario: str | None) -> str:
    """The recipe that makes a scenario's tickets, the usual one without a scenario."""
    from provision.load import spec

    if scenario is None:
        return "event-night"
    return spec.parse(*bundled.find("scenarios", scenario)).recipe


def _ticket_count(options: SeedOptions, recipe: str, default: int) -> tuple[int, str]:
    """How many tickets, and why so many."""
    if options.tickets is not None:
        return options.tickets, "--tickets"
    if options.scenario is None:
        return default, f"the recipe {recipe}"
    from provision.load import spec

    scenario = spec.parse(*bundled.find("scenarios", options.scenario))
    total, words = spec.tickets_needed(scenario)
    return total, f"{scenario.name} can use {' + '.join(words)}"


def _counts(plan: Plan) -> dict[str, int]:
    return {table.table: table.rows for table in plan.tables}


@contextmanager
def owned(run: str) -> Iterator[None]:
    """While rows of a run may be in the database, whatever ends badly says how to remove them."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("Interrupted.", hint=removal_hint(run)) from None
    except ProvisionError as error:
        error.hint = f"{error.hint} {removal_hint(run)}".strip()
        raise


@contextmanager
def interruptible(run: str) -> Iterator[None]:
    """A Ctrl-C in the block says how to remove the run's rows."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("Interrupted.", hint=removal_hint(run)) from None


def removal_hint(run: str) -> str:
    """What to do about the rows of a run that did not come to its end."""
    return f"Rows of run {run} may be in the database; remove them with: provision teardown --run {run}"


# -- teardown


@dataclass(frozen=True, slots=True)
class TornDown:
    """What a teardown did to one run, table by table."""

    run: str
    target: str
    accounts: Sequence[Account]
    dry_run: bool = False

    @property
    def left(self) -> int:
        return sum(account.left for account in self.accounts)


@dataclass(slots=True)
class Teardown:
    """All runs that a teardown went through."""

    runs: list[TornDown] = field(default_factory=list)

    def check(self) -> None:
        """Raise LeftBehind when rows are left."""
        left = {done.run: done.left for done in self.runs if done.left and not done.dry_run}
        if left:
            raise LeftBehind(
                f"{sum(left.values())} rows are left of {', '.join(left)}.",
                hint="See the reasons above, mend them, and run the same teardown again.",
            )


def teardown(run: str | None, *, every: bool, dry_run: bool, watcher: Watcher) -> Teardown:
    """Remove what a run made: the named one, all of this folder, or the latest that is not clean."""
    if run is not None and every:
        raise ConfigError("--run and --all exclude each other.")
    chosen = [run] if run is not None else _unclean()
    chosen = chosen if every or run is not None else chosen[-1:]
    folders = [RunDir.open(name) for name in chosen]
    result = Teardown()
    if not folders:
        return result
    with ExitStack() as opened:
        targets: dict[str, Target] = {}
        for folder in folders:
            if (name := _stack_of(_manifest(folder).target)) not in targets:
                targets[name] = opened.enter_context(open_target(watcher, name))
            result.runs.append(teardown_run(folder, targets[name], watcher, dry_run=dry_run))
    return result


def teardown_run(folder: RunDir, target: Target, watcher: Watcher, *, dry_run: bool = False) -> TornDown:
    """Remove one run's rows from the target that it was seeded on."""
    from provision.gateway import removal

    manifest = _manifest(folder)
    _same_target(manifest.target, target, f"Run {manifest.run} was seeded on")
    with open_gateway(target, watcher) as gateway:
        if dry_run:
            return TornDown(manifest.run, manifest.target, removal.survey(gateway, manifest), dry_run=True)
        with owned(manifest.run), watcher.busy(f"Removing {manifest.run}"):
            done = TornDown(manifest.run, manifest.target, removal.remove(gateway, manifest, watcher.rows))
    folder.append(MANIFEST, {"event": "left" if done.left else "clean", "rows": done.left})
    return done


def _unclean() -> list[str]:
    """The runs of this folder that may still have rows in a database, oldest first; a run whose plan is not wholly on
    disk never wrote one."""
    folders = [RunDir.open(run) for run in rundir.runs()]
    return [f.run for f in folders if f.lines(MANIFEST) and _manifest(f).state != "clean"]


def _manifest(folder: RunDir) -> Manifest:
    from provision.fixtures import manifest

    return manifest.read(folder.lines(MANIFEST))


def _same_target(recorded: str, target: Target, what: str) -> None:
    """Raise ConfigError when a run or a ticket file belongs to another database than the one that is set."""
    if recorded not in {identity(target), target.url}:
        way = "Unset SUPABASE_URL and the key." if recorded.startswith(EMBEDDED) else f"Set SUPABASE_URL to {recorded}."
        raise ConfigError(f"{what} {recorded}, but the target now is {identity(target)}.", hint=way)


# -- run-scenario and check


def run_scenario(options: RunOptions, watcher: Watcher) -> Rehearsal:
    """Scenario + tickets → load → snapshot → verdict; everything is checked before the first request."""
    from provision import rehearsal

    wanted = rehearsal.prepare(options)
    with interruptible(wanted.tickets.run), open_target(watcher, _stack_of(wanted.tickets.target)) as target:
        _same_target(wanted.tickets.target, target, f"{options.tickets} holds tickets of")
        with open_gateway(target, watcher) as gateway:
            return rehearsal.rehearse(wanted, target, gateway, watcher)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a preflight found in order."""

    target: str
    facts: Sequence[str]


def check(scenario: str, recipe: str | None, watcher: Watcher) -> Checked:
    """Rehearse with a single ticket: schema, function, columns and a canary scan; removes again what it made."""
    from provision import rehearsal

    with open_target(watcher) as target, rundir.temporary_file("tickets.json") as out:
        seeded = seed_target(SeedOptions(recipe=recipe, scenario=scenario, tickets=1, out=out), target, watcher)
        folder = RunDir.open(seeded.run)
        try:
            wanted = rehearsal.prepare(rehearsal.RunOptions(scenario=scenario, tickets=out))
            with open_gateway(target, watcher) as gateway:
                facts = rehearsal.preflight(wanted, target, gateway)
        finally:
            removed = Teardown([teardown_run(folder, target, watcher)])
        removed.check()
        return Checked(target.url, [*facts, "everything that the check made is removed again"])


# -- demo


@dataclass(frozen=True, slots=True)
class Demo:
    """A whole rehearsal on the embedded stack."""

    rehearsal: Rehearsal
    removed: TornDown


def demo(*, gate: str | None, fast: bool, watcher: Watcher) -> Demo:
    """Stack up, seed, burst, race, verdict, teardown; the stack ends with it unless it ran before."""
    from provision import rehearsal
    from provision.local import stack

    chosen = stack.gates()[gate or "row-lock-nowait"]
    scenario = chosen.scenario or ("quick" if fast else "scanner-burst")
    with stack.lease("demo", gate=chosen.name, progress=watcher.say) as running:
        watcher.say(f"The stack is up at {running.url}, its gate is {running.gate}.")
        target = embedded(running)
        with rundir.temporary_file("tickets.json") as out:
            seeded = seed_target(SeedOptions(scenario=scenario, out=out), target, watcher)
            watcher.say(f"Seeded {sum(seeded.counts.values()):,} rows as run {seeded.run} ({seeded.why}).")
            folder = RunDir.open(seeded.run)
            try:
                wanted = rehearsal.prepare(rehearsal.RunOptions(scenario=scenario, tickets=out))
                with open_gateway(target, watcher) as gateway:
                    outcome = rehearsal.rehearse(wanted, target, gateway, watcher)
            finally:
                removed = teardown_run(folder, target, watcher)
        Teardown([removed]).check()
        return Demo(outcome, removed)
