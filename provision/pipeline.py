"""The whole tool on one page: one short function a command, values handed from stage to stage.

`seed` and `teardown` have a module each, `seeding` and `removing`; what they share is in `opening`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from provision import rundir
from provision.errors import ConfigError
from provision.opening import embedded, interruptible, open_gateway, open_target, same_target, stack_of
from provision.removing import Teardown, TornDown, teardown_run
from provision.report import Watcher
from provision.rundir import RunDir
from provision.seeding import SeedOptions, seed_target

if TYPE_CHECKING:
    from provision.preparation import RunOptions
    from provision.rehearsal import Rehearsal


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


# -- run-scenario and check


def run_scenario(options: RunOptions, watcher: Watcher) -> Rehearsal:
    """Scenario + tickets → load → snapshot → verdict; everything is checked before the first request."""
    from provision import preparation, rehearsal

    wanted = preparation.prepare(options)
    with interruptible(wanted.tickets.run), open_target(watcher, stack_of(wanted.tickets.target)) as target:
        same_target(wanted.tickets.target, target, f"{options.tickets} holds tickets of")
        with open_gateway(target, watcher) as gateway:
            return rehearsal.rehearse(wanted, target, gateway, watcher)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a preflight found in order."""

    target: str
    facts: Sequence[str]


def check(scenario: str, recipe: str | None, watcher: Watcher) -> Checked:
    """Rehearse with a single ticket: schema, function, columns and a canary scan; removes again what it made."""
    from provision import preparation, rehearsal

    with open_target(watcher) as target, rundir.temporary_file("tickets.json") as out:
        seeded = seed_target(SeedOptions(recipe=recipe, scenario=scenario, tickets=1, out=out), target, watcher)
        folder = RunDir.open(seeded.run)
        try:
            wanted = preparation.prepare(preparation.RunOptions(scenario=scenario, tickets=out))
            with open_gateway(target, watcher) as gateway:
                facts = rehearsal.preflight(wanted, target, gateway, watcher)
        finally:
            removed = Teardown([teardown_run(folder, target, watcher)])
        removed.check()
        return Checked(target.url, [*facts, "everything that the check made is removed again"])


def export_k6(name: str, tickets: Path, out: Path | None) -> tuple[Path, Path]:
    """Write a scenario as a k6 script and its environment file; the paths of both."""
    from provision import preparation
    from provision.k6 import script

    wanted = preparation.prepare(preparation.RunOptions(scenario=name, tickets=tickets))
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
    from provision import preparation, rehearsal, saved
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
                wanted = preparation.prepare(preparation.RunOptions(scenario=scenario, tickets=out))
                with open_gateway(target, watcher) as gateway:
                    outcome = rehearsal.rehearse(wanted, target, gateway, watcher)
            finally:
                removed = teardown_run(folder, target, watcher)
        Teardown([removed]).check()
        return Demo(replace(outcome, report=saved.load(RunDir(outcome.folder))), removed)
