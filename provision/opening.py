"""Opening the place where a command works: the target, its gateway, and what is said when it ends badly."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from dotenv import dotenv_values

from provision import __version__
from provision.errors import ConfigError, Interrupted, ProvisionError
from provision.report import Watcher
from provision.rundir import MANIFEST, RunDir, disk_error
from provision.target import Secret, Target, from_environment

if TYPE_CHECKING:
    from provision.fixtures.manifest import Manifest
    from provision.gateway import Gateway
    from provision.local.stack import Stack

EMBEDDED = "the embedded local stack "


@contextmanager
def open_target(watcher: Watcher, name: str = "default") -> Iterator[Target]:
    """The target that the environment or `.env` names; when they name none, the embedded local stack of that name."""
    target = from_environment(os.environ, _dotenv(Path(".env")))
    if target is not None:
        yield target
        return
    from provision.local import stack

    with stack.lease(name, progress=watcher.say) as running:
        watcher.say(f"No SUPABASE_URL is set: using the embedded local stack at {running.url}.")
        yield embedded(running)


def _dotenv(path: Path) -> Mapping[str, str | None]:
    """The variables in a file, none when there is no such file; ConfigError when it cannot be read."""
    try:
        return dotenv_values(path) if path.is_file() else {}
    except OSError as error:
        raise disk_error(path, error) from None
    except ValueError:
        raise ConfigError(
            f"{path} is not UTF-8 text.", hint="Save it as UTF-8, or set the variables yourself."
        ) from None


def embedded(running: Stack) -> Target:
    """The target that an embedded stack is."""
    key, tls_url = Secret(running.secret_key), running.tls_url
    return Target(running.url, key, ca_file=running.ca_file, embedded=running.name, tls_url=tls_url)


def identity(target: Target) -> str:
    """What a target is called in manifests and ticket files; an embedded stack's port may change, its name may not."""
    return EMBEDDED + target.embedded if target.embedded else target.url


def stack_of(recorded: str) -> str:
    """The name of the embedded stack in a recorded identity; the usual one when that is of another target."""
    return recorded.removeprefix(EMBEDDED) if recorded.startswith(EMBEDDED) else "default"


@contextmanager
def open_gateway(target: Target, watcher: Watcher) -> Iterator[Gateway]:
    """The gateway to a target, closed afterwards."""
    from provision.gateway.supabase import SupabaseGateway

    with closing(SupabaseGateway(target, notify=watcher.say)) as gateway:
        yield gateway


def in_schema(target: Target, schema: str | None) -> Target:
    """The target with the database schema that a recipe or a manifest names."""
    return target if schema is None else replace(target, schema=schema)


@contextmanager
def gateway_of(manifest: Manifest, target: Target, watcher: Watcher) -> Iterator[Gateway]:
    """The gateway to the target and the schema that a run was seeded on; ConfigError when the target is another."""
    same_target(manifest.target, target, f"Run {manifest.run} was seeded on")
    with open_gateway(in_schema(target, manifest.schema), watcher) as gateway:
        yield gateway


def versions() -> dict[str, str]:
    """What made a file."""
    return {"provision": __version__, "faker": version("faker"), "python": platform.python_version()}


def same_target(recorded: str, target: Target, what: str) -> None:
    """Raise ConfigError when a run or a ticket file belongs to another database than the one that is set."""
    if recorded not in {identity(target), target.url}:
        way = "Unset SUPABASE_URL and the key." if recorded.startswith(EMBEDDED) else f"Set SUPABASE_URL to {recorded}."
        raise ConfigError(f"{what} {recorded}, but the target now is {identity(target)}.", hint=way)


def read_manifest(folder: RunDir) -> Manifest:
    """The manifest of a run; ConfigError names its file when it is damaged or of another format."""
    from provision.fixtures import manifest

    lines, path = folder.lines(MANIFEST), folder.path / MANIFEST
    hint = (
        f"What is left of the run goes with: provision teardown --find --run {folder.run}; then delete {folder.path}."
    )
    try:
        return manifest.read(lines)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}", hint=hint) from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise ConfigError(f"{path} is damaged: it has lines that no manifest has.", hint=hint) from None


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
