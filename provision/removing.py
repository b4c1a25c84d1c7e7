"""`provision teardown`: runs removed by their manifest, or found in the database itself when that is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from provision import bundled, rundir
from provision.errors import ConfigError, LeftBehind
from provision.opening import gateway_of, identity, in_schema, open_gateway, open_target, owned, read_manifest, stack_of
from provision.report import Watcher
from provision.rundir import MANIFEST, RunDir
from provision.target import Target

if TYPE_CHECKING:
    from provision.fixtures.manifest import Manifest
    from provision.gateway import Gateway
    from provision.gateway.orphans import Orphan
    from provision.gateway.removal import Account
    from provision.gateway.scope import Foreign
    from provision.gateway.unmarked import Unclear

SHOWN = 10
"""Keys of rows that are left to the user, in a line."""


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
            if (name := stack_of(read_manifest(folder).target)) not in targets:
                targets[name] = opened.enter_context(open_target(watcher, name))
            result.runs.append(teardown_run(folder, targets[name], watcher, dry_run=dry_run))
    return result


def teardown_run(folder: RunDir, target: Target, watcher: Watcher, *, dry_run: bool = False) -> TornDown:
    """Remove one run's rows from the target that it was seeded on."""
    from provision import history

    manifest = read_manifest(folder)
    with gateway_of(manifest, target, watcher) as gateway:
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
        target = in_schema(opened, parsed.profile)
        with open_gateway(target, watcher) as gateway:
            schema = gateway.schema()
            seen = orphans.runs(gateway, schema)
            for one in seen:
                show(one)
            chosen = [one for one in seen if every or one.run == run]
            if run is not None and not chosen:
                raise ConfigError(f"Run {run} does not stand in the database.", hint="List what does: teardown --find")
            done = Teardown()
            for one in chosen:
                lost = orphans.lost(gateway, schema, one, parsed, document, target)
                removed = _remove(lost.manifest, gateway, watcher, dry_run=dry_run)
                done.runs.append(_with_unclear(removed, lost.unclear, identity(target)))
            return Found(identity(target), seen, done)


def _with_unclear(done: TornDown, unclear: Sequence[Unclear], target: str) -> TornDown:
    """What a teardown did, with the rows that it left because nobody can tell whose they are."""
    from provision.gateway.removal import Account

    keys = {(some.table, key) for some in unclear for key in some.keys}
    accounts = [Account(some.table, some.rows, 0, some.rows, _way_on(some)) for some in unclear]
    foreign = [row for row in done.foreign if (row.table, row.key) not in keys]
    return replace(done, target=target, accounts=[*accounts, *done.accounts], foreign=foreign)


def _way_on(some: Unclear) -> str:
    if not some.keys:
        return some.why
    shown = ", ".join(map(str, some.keys[:SHOWN])) + (", …" if len(some.keys) > SHOWN else "")
    return f"kept: {some.why}; if you know them for the run's, delete them by hand and run this again: {shown}"


def _unclean() -> list[str]:
    """The runs of this folder that may still have rows in a database, oldest first; a run whose plan is not wholly on
    disk never wrote one."""
    folders = [RunDir.open(run) for run in rundir.runs()]
    return [f.run for f in folders if f.lines(MANIFEST) and read_manifest(f).state != "clean"]
