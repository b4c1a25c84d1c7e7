"""The whole tool on one page: one short function a command, values handed from stage to stage."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values

from provision import __version__, bundled, rundir
from provision.errors import ConfigError, Interrupted, LeftBehind, ProvisionError
from provision.report import Watcher
from provision.rundir import MANIFEST, RECIPE, RunDir
from provision.target import Secret, Target, from_environment

if TYPE_CHECKING:
    from provision.fixtures.manifest import Manifest
    from provision.fixtures.plan import Plan
    from provision.gateway import Gateway
    from provision.gateway.orphans import Orphan
    from provision.gateway.removal import Account
    from provision.gateway.scope import Foreign
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


def _in_schema(target: Target, schema: str | None) -> Target:
    """The target with the database schema that a recipe or a manifest names."""
    return target if schema is None else replace(target, schema=schema)


@contextmanager
def _gateway_of(manifest: Manifest, target: Target, watcher: Watcher) -> Iterator[Gateway]:
    """The gateway to the target and the schema that a run was seeded on; ConfigError when the target is another."""
    _same_target(manifest.target, target, f"Run {manifest.run} was seeded on")
    with open_gateway(_in_schema(target, manifest.schema), watcher) as gateway:
        yield gateway


def versions() -> dict[str, str]:
    """What made a file."""
    return {"provision": __version__, "faker": version("faker"), "python": platform.python_version()}


# -- init


def init(name: str, folder: Path, watcher: Watcher) -> tuple[Path, Path]:
    """Draft a recipe and a scenario for the target's schema; the files, which must not be there yet."""
    from provision.fixtures import drafting

    recipe, scenario = folder / "seeds" / f"{name}.yaml", folder / "scenarios" / f"{name}.yaml"
    for path in (recipe, scenario):
        if path.exists():
            raise ConfigError(f"{path} is there already.", hint="Choose another name with --name.")
    with open_target(watcher) as target, open_gateway(target, watcher) as gateway:
        drafted = drafting.draft(gateway.schema(), name, target.schema)
    for path, text in ((recipe, drafted.recipe), (scenario, drafted.scenario)):
        rundir.write_text(rundir.with_folder(path), [text])
    return recipe, scenario


# -- seed


@dataclass(frozen=True, slots=True)
class SeedOptions:
    """What `provision seed` was asked for; a `run` is resumed, with its own recipe, tickets and files."""

    recipe: str | None = None
    scenario: str | None = None
    tickets: int | None = None
    out: Path = TICKETS_FILE
    env: Path | None = None
    dry_run: bool = False
    run: str | None = None


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
    if options.run is not None:
        return resume(RunDir.open(options.run), watcher, dry_run=options.dry_run)
    with open_target(watcher) as target:
        return seed_target(options, target, watcher)


def seed_target(options: SeedOptions, target: Target, watcher: Watcher) -> Seeded:
    """`seed` on a target that is open."""
    from provision.fixtures import manifest, plan, recipe

    name = options.recipe or _recipe_for(options.scenario)
    path, text = bundled.find("seeds", name)
    parsed, document = recipe.parse(path, text)
    target = _in_schema(target, parsed.profile)
    count, why = _ticket_count(options, name, parsed.count)
    for file in filter(None, (options.out, options.env)):
        rundir.check_writable(file)
    now = datetime.now(UTC)
    with open_gateway(target, watcher) as gateway:
        planned = plan.build(parsed, document, gateway.schema(), rundir.new_run_id(now), now.date(), count)
        if options.dry_run:
            return Seeded(planned.run, identity(target), _counts(planned), options.out, why, written=False)
        folder = RunDir.create(planned.run)
        rundir.write_text(folder.path / RECIPE, [text])
        head = manifest.announce(
            planned,
            created=now.isoformat(timespec="seconds"),
            target=identity(target),
            schema=target.schema,
            versions=versions(),
            files={"out": str(options.out.resolve()), "env": str(options.env.resolve()) if options.env else None},
        )
        folder.append(MANIFEST, head)
        _fill(planned, folder, gateway, target, watcher)
    return Seeded(planned.run, identity(target), _counts(planned), options.out, why, written=True)


def resume(folder: RunDir, watcher: Watcher, *, dry_run: bool = False) -> Seeded:
    """Bring a seed that was interrupted to its end: the rows that are missing, then the files."""
    from provision.fixtures import fakes, manifest, plan, recipe

    done = _manifest(folder)
    if done.state in {"clean", "left"}:
        raise ConfigError(f"Run {done.run} was torn down.", hint="Seed a new one with: provision seed")
    with open_target(watcher, _stack_of(done.target)) as opened, _gateway_of(done, opened, watcher) as gateway:
        parsed, document = recipe.parse(folder.path / RECIPE, rundir.read_text(folder.path / RECIPE))
        planned = plan.build(parsed, document, gateway.schema(), done.run, fakes.run_day(done.created), done.tickets)
        if manifest.tables(planned) != folder.lines(MANIFEST)[0]["tables"]:
            raise ConfigError(f"The schema has changed since run {done.run} began.", hint=removal_hint(done.run))
        out = Path(done.files["out"] or TICKETS_FILE)
        if not dry_run:
            _fill(planned, folder, gateway, _in_schema(opened, done.schema), watcher, done)
    return Seeded(done.run, done.target, _counts(planned), out, f"run {done.run} resumed", written=not dry_run)


def _fill(
    plan: Plan,
    folder: RunDir,
    gateway: Gateway,
    target: Target,
    watcher: Watcher,
    resumed: Manifest | None = None,
) -> None:
    """Write the rows of a plan that is announced, then its files."""
    from provision.fixtures import tickets
    from provision.gateway import seeding

    way_on = f", or go on with: provision seed --run {plan.run}"
    with owned(plan.run, way_on), watcher.busy(f"Seeding {plan.run}"):
        seeding.fill(gateway, plan, partial(folder.append, MANIFEST), watcher.rows, resumed)
        done = resumed or _manifest(folder)
        text = tickets.document(
            plan, url=target.url, target=identity(target), created=done.created, versions=done.versions
        )
        rundir.write_text(out := Path(done.files["out"] or TICKETS_FILE), text)
        if env := done.files["env"]:
            rundir.write_text(Path(env), [tickets.env_file(plan, target.url)])
        folder.append(MANIFEST, {"event": "seeded", "tickets": str(out)})
        if gateway.retries:
            watcher.say(f"{gateway.retries:,} requests had to be sent again.")
        _warn_of_unnamed(folder, gateway, watcher)


def _warn_of_unnamed(folder: RunDir, gateway: Gateway, watcher: Watcher) -> None:
    """Say now what a teardown would have to leave: rows that hang on ours in tables that the recipe does not name."""
    from provision.gateway import scope

    for row in scope.open_scope(gateway, _manifest(folder)).unnamed():
        watcher.say(f"{row}; if the app or a trigger writes there, name it in the recipe:")
        watcher.say(f"  written_by_app: {{{row.table}: {row.column}}}; else teardown keeps such rows and theirs")


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
def owned(run: str, way_on: str = "") -> Iterator[None]:
    """While rows of a run may be in the database, whatever ends badly says how to remove them, or to go on."""
    hint = f"{removal_hint(run)}{way_on}"
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("Interrupted.", hint=hint) from None
    except ProvisionError as error:
        error.hint = f"{error.hint} {hint}".strip()
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
    foreign: Sequence[Foreign] = ()
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
    from provision import history

    manifest = _manifest(folder)
    with _gateway_of(manifest, target, watcher) as gateway:
        done = _remove(manifest, gateway, watcher, dry_run=dry_run)
    if not dry_run:
        accounts = [asdict(account) for account in done.accounts]
        folder.append(MANIFEST, {"event": "left" if done.left else "clean", "rows": done.left, "accounts": accounts})
        history.refresh(folder, watcher.say)
    return done


def _remove(manifest: Manifest, gateway: Gateway, watcher: Watcher, *, dry_run: bool) -> TornDown:
    from provision.gateway import removal

    if dry_run:
        seen = removal.survey(gateway, manifest)
        return TornDown(manifest.run, manifest.target, seen.accounts, seen.foreign, dry_run=True)
    with owned(manifest.run), watcher.busy(f"Removing {manifest.run}"):
        done = removal.remove(gateway, manifest, watcher.rows)
    return TornDown(manifest.run, manifest.target, done.accounts, done.foreign)


@dataclass(frozen=True, slots=True)
class Found:
    """The runs that stand in the database, those of this folder that are known marked, and what was removed."""

    target: str
    orphans: Sequence[Orphan]
    removed: Teardown


def find(
    run: str | None, *, every: bool, recipe: str, dry_run: bool, watcher: Watcher, show: Callable[[Orphan], None]
) -> Found:
    """Look for runs in the database itself, show them, and remove the named one or all, manifest or not."""
    from provision.fixtures import recipe as recipes
    from provision.gateway import orphans

    parsed, document = recipes.parse(*bundled.find("seeds", recipe))
    with open_target(watcher) as opened:
        target = _in_schema(opened, parsed.profile)
        with open_gateway(target, watcher) as gateway:
            schema = gateway.schema()
            seen = orphans.runs(gateway, schema)
            for one in seen:
                show(one)
            chosen = [one.run for one in seen if every or one.run == run]
            if run is not None and not chosen:
                raise ConfigError(f"Run {run} does not stand in the database.", hint="List what does: teardown --find")
            done = Teardown()
            for name in chosen:
                lost = orphans.manifest(
                    gateway,
                    schema,
                    name,
                    target=identity(target),
                    profile=target.schema,
                    traces=orphans.traces(parsed, document, schema, name),
                    app=orphans.app_tables(parsed, schema),
                )
                done.runs.append(_remove(lost, gateway, watcher, dry_run=dry_run))
            return Found(identity(target), seen, done)


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


def export_k6(name: str, tickets: Path, out: Path | None) -> tuple[Path, Path]:
    """Write a scenario as a k6 script and its environment file; the paths of both."""
    from provision import rehearsal
    from provision.k6 import script

    wanted = rehearsal.prepare(rehearsal.RunOptions(scenario=name, tickets=tickets))
    path = out or Path(f"{wanted.scenario.name}.k6.js")
    env = path.with_suffix(".env")
    for file in (path, env):
        rundir.check_writable(file)
    variables = json.loads(tickets.read_text(encoding="utf-8"))["environment_variables"]
    rundir.write_text(path, [script.render(wanted.scenario, script=path.name, env=env.name)])
    rundir.write_text(env, [script.environment(tickets, variables)])
    return path, env


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
