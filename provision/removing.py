"""`provision teardown`: runs removed by their manifest, or found in the database itself when that is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from provision import bundled, rundir
from provision.counted import counted
from provision.errors import ConfigError, Interrupted, LeftBehind, ProvisionError
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
    """All runs that a teardown went through, and why it did not go through others."""

    runs: list[TornDown] = field(default_factory=list)
    failed: list[ProvisionError] = field(default_factory=list)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Note what ends the block badly, unless the user wants to end it all."""
        try:
            yield
        except Interrupted:
            raise
        except ProvisionError as error:
            self.failed.append(error)

    def check(self) -> None:
        """Raise the first error, with what the others say, or LeftBehind when rows are left."""
        for error in self.failed:
            error.hint = " ".join(filter(None, [error.hint, *map(str, self.failed[1:])]))
            raise error
        left = {done.run: done.left for done in self.runs if done.left and not done.dry_run}
        if rows := sum(left.values()):
            raise LeftBehind(
                f"{counted(rows, 'row')} {'is' if rows == 1 else 'are'} left of {', '.join(left)}.",
                hint="See the reasons above, mend them, and run the same teardown again.",
            )


def teardown(
    run: str | None, *, every: bool, dry_run: bool, watcher: Watcher, show: Callable[[TornDown], None]
) -> Teardown:
    """Remove what a run made: the named one, all of this folder, or the latest that is not clean; each is shown when it
    is done. One that cannot be removed does not keep the others."""
    _one_or_all(run, every=every)
    result = Teardown()
    folders = [RunDir.open(run)] if run is not None else _unclean(result)
    with ExitStack() as opened:
        targets: dict[str, Target] = {}
        for folder in folders if every else folders[-1:]:
            with result.going_on():
                if (name := stack_of(read_manifest(folder).target)) not in targets:
                    targets[name] = opened.enter_context(open_target(watcher, name))
                result.runs.append(teardown_run(folder, targets[name], watcher, dry_run=dry_run))
                show(result.runs[-1])
    return result


def _one_or_all(run: str | None, *, every: bool) -> None:
    """Raise ConfigError for a run beside all of them."""
    if run is not None and every:
        raise ConfigError("--run and --all exclude each other.")


def teardown_run(folder: RunDir, target: Target, watcher: Watcher, *, dry_run: bool = False) -> TornDown:
    """Remove one run's rows from the target that it was seeded on."""
    from provision import history

    with _alone(folder, dry_run=dry_run):
        manifest = read_manifest(folder)
        with gateway_of(manifest, target, watcher) as gateway:
            done = _remove(manifest, gateway, watcher, dry_run=dry_run)
        if not dry_run:
            accounts = [asdict(account) for account in done.accounts]
            event = "left" if done.left else "clean"
            folder.append(MANIFEST, {"event": event, "rows": done.left, "accounts": accounts})
            history.refresh(folder, watcher.say)
    return done


def _alone(folder: RunDir, *, dry_run: bool) -> AbstractContextManager[None]:
    """No seed of this folder writes the run meanwhile; a dry run may look on."""
    return nullcontext() if dry_run or not folder.has(MANIFEST) else folder.held()


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
    run: str | None,
    *,
    every: bool,
    recipe: str,
    dry_run: bool,
    watcher: Watcher,
    found: Callable[[Orphan], None],
    show: Callable[[TornDown], None],
) -> Found:
    """Look for runs in the database itself, tell which are found, and remove the named one or all, manifest or not;
    each is shown when it is done."""
    _one_or_all(run, every=every)
    from provision.fixtures import recipe as recipes
    from provision.gateway import orphans

    parsed, document = recipes.parse(*bundled.find("seeds", recipe))
    with open_target(watcher) as opened:
        target = in_schema(opened, parsed.profile)
        with open_gateway(target, watcher) as gateway:
            schema = gateway.schema()
            seen = orphans.runs(gateway, schema)
            for one in seen:
                found(one)
            chosen = [one for one in seen if every or one.run == run]
            if run is not None and not chosen:
                raise ConfigError(f"Run {run} does not stand in the database.", hint="List what does: teardown --find")
            done = Teardown()
            for one in chosen:
                with done.going_on(), _alone(RunDir(rundir.ROOT / one.run), dry_run=dry_run):
                    lost = orphans.lost(gateway, schema, one, parsed, document, target)
                    removed = _remove(lost.manifest, gateway, watcher, dry_run=dry_run)
                    done.runs.append(_with_unclear(removed, lost.unclear, identity(target)))
                    show(done.runs[-1])
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


def _unclean(result: Teardown) -> list[RunDir]:
    """The runs of this folder that may still have rows in a database, oldest first; a run whose plan is not wholly on
    disk never wrote one."""
    found = []
    for run in rundir.runs():
        with result.going_on():
            folder = RunDir.open(run)
            if folder.lines(MANIFEST) and read_manifest(folder).state != "clean":
                found.append(folder)
    return found
