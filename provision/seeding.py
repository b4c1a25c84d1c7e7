"""`provision seed`: recipe → plan → manifest → rows → ticket file, and an interrupted seed brought to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from provision import bundled, rundir
from provision.counted import counted
from provision.errors import ConfigError
from provision.opening import (
    gateway_of,
    identity,
    in_schema,
    open_gateway,
    open_target,
    owned,
    read_manifest,
    removal_hint,
    stack_of,
    versions,
)
from provision.report import Watcher
from provision.rundir import MANIFEST, RECIPE, RunDir
from provision.target import Target

if TYPE_CHECKING:
    from provision.fixtures.manifest import Manifest
    from provision.fixtures.plan import Plan
    from provision.gateway import Gateway
    from provision.load.spec import Scenario
    from provision.yamlfile import Document

USUAL_RECIPE = "event-night"
TICKETS_FILE = Path("test-tickets.json")


@dataclass(frozen=True, slots=True)
class SeedOptions:
    """What `provision seed` was asked for; a `run` is resumed, with its own recipe, tickets and files."""

    recipe: str | None = None
    scenario: str | None = None
    tickets: int | None = None
    out: Path | None = None
    env: Path | None = None
    dry_run: bool = False
    run: str | None = None

    def check(self) -> None:
        """Raise ConfigError for what a run that is resumed has already."""
        given = {"RECIPE": self.recipe, "--for": self.scenario, "--tickets": self.tickets, "--out": self.out}
        beside = [name for name, value in {**given, "--env": self.env}.items() if value is not None]
        if self.run is not None and beside:
            words = f"--run goes on with what its run was asked for; it excludes {', '.join(beside)}."
            raise ConfigError(words, hint="Leave that out, or seed a new run without --run.")


@dataclass(frozen=True, slots=True)
class Seeded:
    """What a seed made, or in a dry run would make; `files` are those that it writes, the tickets' first; `why` says
    where the number of tickets comes from."""

    run: str
    target: str
    counts: Mapping[str, int]
    files: tuple[Path, ...]
    why: str
    written: bool


def seed(options: SeedOptions, watcher: Watcher) -> Seeded:
    """Seed what was asked for, or resume the run that was named."""
    options.check()
    if options.run is not None:
        folder = RunDir.open(options.run)
        with folder.held():
            return resume(folder, watcher, dry_run=options.dry_run)
    with open_target(watcher) as target:
        return seed_target(options, target, watcher)


def seed_target(options: SeedOptions, target: Target, watcher: Watcher) -> Seeded:
    """`seed` on a target that is open."""
    from provision import fitting
    from provision.fixtures import manifest, plan, recipe

    scenario = _scenario(options.scenario)
    name = options.recipe or (scenario[0].recipe if scenario else USUAL_RECIPE)
    path, text = bundled.find("seeds", name)
    parsed, document = recipe.parse(path, text)
    here, target = target.schema, in_schema(target, parsed.profile)
    count, why = _ticket_count(options, scenario and scenario[0], name, parsed.count)
    out, env = options.out or TICKETS_FILE, options.env
    files = tuple(filter(None, (out, env)))
    for file in files:
        rundir.check_writable(file)
    now = datetime.now(UTC)
    with open_gateway(target, watcher) as gateway:
        schema = gateway.schema()
        if scenario and parsed.profile in {None, here}:
            fitting.check_schema(*scenario, schema)
        planned = plan.build(parsed, document, schema, rundir.new_run_id(now), now.date(), count)
        if options.dry_run:
            return Seeded(planned.run, identity(target), _counts(planned), files, why, written=False)
        folder = RunDir.create(planned.run)
        rundir.write_text(folder.path / RECIPE, [text])
        head = manifest.announce(
            planned,
            created=now.isoformat(timespec="seconds"),
            target=identity(target),
            schema=target.schema,
            versions=versions(),
            files={"out": str(out.resolve()), "env": str(env.resolve()) if env else None},
        )
        with folder.held():
            folder.append(MANIFEST, head)
            _fill(planned, folder, gateway, target, watcher)
    return Seeded(planned.run, identity(target), _counts(planned), files, why, written=True)


def resume(folder: RunDir, watcher: Watcher, *, dry_run: bool = False) -> Seeded:
    """Bring a seed that was interrupted, its folder held, to its end: the rows that are missing, then the files."""
    from provision.fixtures import fakes, manifest, plan, recipe

    done = read_manifest(folder)
    if done.state in {"clean", "left"}:
        raise ConfigError(f"Run {done.run} was torn down.", hint="Seed a new one with: provision seed")
    with open_target(watcher, stack_of(done.target)) as opened, gateway_of(done, opened, watcher) as gateway:
        parsed, document = recipe.parse(folder.path / RECIPE, rundir.read_text(folder.path / RECIPE))
        planned = plan.build(parsed, document, gateway.schema(), done.run, fakes.run_day(done.created), done.tickets)
        if manifest.tables(planned) != folder.lines(MANIFEST)[0]["tables"]:
            raise ConfigError(f"The schema has changed since run {done.run} began.", hint=removal_hint(done.run))
        if not dry_run:
            _fill(planned, folder, gateway, in_schema(opened, done.schema), watcher, done)
    files = tuple(Path(name) for name in (done.files["out"] or TICKETS_FILE, done.files["env"]) if name)
    return Seeded(done.run, done.target, _counts(planned), files, f"run {done.run} resumed", written=not dry_run)


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
        done = resumed or read_manifest(folder)
        text = tickets.document(
            plan, url=target.url, target=identity(target), created=done.created, versions=done.versions
        )
        rundir.write_text(out := Path(done.files["out"] or TICKETS_FILE), text)
        if env := done.files["env"]:
            rundir.write_text(Path(env), [tickets.env_file(plan, target.url)])
        folder.append(MANIFEST, {"event": "seeded", "tickets": str(out)})
        if gateway.retries:
            watcher.say(f"{counted(gateway.retries, 'request')} had to be sent again.")
        _warn_of_unnamed(folder, gateway, watcher)


def _warn_of_unnamed(folder: RunDir, gateway: Gateway, watcher: Watcher) -> None:
    """Say now what a teardown would have to leave: rows that hang on ours in tables that the recipe does not name."""
    from provision.gateway import scope

    for row in scope.open_scope(gateway, read_manifest(folder)).unnamed():
        watcher.say(f"{row}; if the app or a trigger writes there, name it in the recipe:")
        watcher.say(f"  written_by_app: {{{row.table}: {row.column}}}; else teardown keeps such rows and theirs")


def _scenario(name: str | None) -> tuple[Scenario, Document] | None:
    """The scenario that tickets are wanted for, as far as it can be checked without them."""
    if name is None:
        return None
    from provision import fitting

    scenario, document, _ = fitting.read(name)
    fitting.thresholds(scenario, document)
    return scenario, document


def _ticket_count(options: SeedOptions, scenario: Scenario | None, recipe: str, default: int) -> tuple[int, str]:
    """How many tickets, and why so many."""
    if options.tickets is not None:
        return options.tickets, "--tickets"
    if scenario is None:
        return default, f"the recipe {recipe}"
    from provision.load import spec

    total, words = spec.tickets_needed(scenario)
    return total, f"{scenario.name} can use {' + '.join(words)}"


def _counts(plan: Plan) -> dict[str, int]:
    return {table.table: table.rows for table in plan.tables}
