"""The embedded Supabase from outside: `up`, `lease`, `down`, `reset`, `status`, and the `gates` it can run."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.errors import LocalStackError
from provision.local import postgres
from provision.local.backend import open_log
from provision.local.gates import Gate, find_gate, gates
from provision.local.install import file_lock, install_server, require_extra
from provision.local.paths import Layout, cache_dir, layout, make_directories, make_private

__all__ = ["Gate", "Stack", "down", "gates", "lease", "reset", "status", "up"]

MAX_POOL = 150  # of PostgreSQL's 200 connections
_ANSWER_SECONDS = 180.0
_END_SECONDS = 40.0
_ATTEMPTS = 5
_POLL = 0.01


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack: where it is and what opens it."""

    name: str
    url: str
    tls_url: str
    ca_file: Path
    secret_key: str = field(repr=False)
    publishable_key: str = field(repr=False)
    service_role_key: str = field(repr=False)
    anon_key: str = field(repr=False)
    gate: str
    pool: int
    dsn: str
    log_dir: Path

    def env(self) -> dict[str, str]:
        """The variables that a Supabase client reads, under the names it reads them."""
        return {
            "SUPABASE_URL": self.url,
            "SUPABASE_SECRET_KEY": self.secret_key,
            "SUPABASE_PUBLISHABLE_KEY": self.publishable_key,
            "SUPABASE_SERVICE_ROLE_KEY": self.service_role_key,
            "SUPABASE_ANON_KEY": self.anon_key,
        }


def _silent(_text: str) -> None:
    pass


def up(
    name: str = "default",
    *,
    gate: str | None = None,
    pool: int | None = None,
    progress: Callable[[str], None] = _silent,
) -> Stack:
    """Starts a stack that stays until `down`; one that runs already is brought to this gate and pool, if given."""
    with _hold("up", name, gate, pool, progress) as stack:
        return stack


@contextmanager
def lease(
    name: str = "default",
    *,
    gate: str | None = None,
    pool: int | None = None,
    progress: Callable[[str], None] = _silent,
) -> Iterator[Stack]:
    """A stack for as long as the block lasts: one that runs already, or one that ends with its last lease."""
    with _hold("lease", name, gate, pool, progress) as stack:
        yield stack


def down(name: str = "default") -> bool:
    """Stops a stack and returns when its processes are gone; False if it did not run. Its data stay."""
    place = layout(name, cache_dir())
    if not place.root.is_dir():
        return False
    ran = _ask(place, "down") is not None
    with _supervisor_lock(place):
        postgres.clear_traces(place)
    return ran


def reset(name: str = "default") -> None:
    """Deletes a stack with its data, keys and logs; stops it first if it runs."""
    place = layout(name, cache_dir())
    if not place.root.is_dir():
        return
    with _errors(), file_lock(place.start_lock):
        down(name)
        for directory in (place.home, place.sockets, place.control.parent, place.root):
            if directory.exists():
                shutil.rmtree(directory)
        if place.account and not any(_homes(place.shared)):
            shutil.rmtree(place.shared)


def _homes(shared: Path) -> Iterator[Path]:
    """The homes of stacks in root's directory, where there may be copied programs too."""
    return (entry for entry in shared.iterdir() if not entry.name.startswith((".", "postgres-", "new-")))


def status(name: str = "default") -> Stack | None:
    """The stack if it runs and serves."""
    place = layout(name, cache_dir())
    answer = _ask(place, "status") if place.root.is_dir() else None
    return _stack(answer["stack"]) if answer and answer.get("stack") else None


@contextmanager
def _hold(op: str, name: str, gate: str | None, pool: int | None, progress: Callable[[str], None]) -> Iterator[Stack]:
    """Holds a connection to the stack's supervisor, started first if there is none."""
    place = layout(name, cache_dir())
    if gate is not None:
        find_gate(gate)
    if pool is not None and not 1 <= pool <= MAX_POOL:
        raise LocalStackError(f"a pool of {pool} connections is not possible", hint=f"1 to {MAX_POOL}")
    request: dict[str, object] = {"op": op, "gate": gate, "pool": pool}
    with _errors():
        connection, answer = _reach(place, request, progress)
    with connection:
        yield _stack(answer)


def _reach(
    place: Layout, request: dict[str, object], progress: Callable[[str], None]
) -> tuple[socket.socket, dict[str, Any]]:
    """A connection over which a supervisor has said that the stack serves, and how to use it."""
    for _ in range(_ATTEMPTS):
        connection = _connect(place) or _started(place, progress)
        try:
            answer = _talk(connection, request, progress)
        except BaseException:
            connection.close()
            raise
        if answer is not None:
            return connection, answer["stack"]
        connection.close()  # it was on its way out: the next one is ours
    raise LocalStackError("the local stack does not answer", hint=f"log: {place.logs}/supervisor.log")


def _started(place: Layout, progress: Callable[[str], None]) -> socket.socket:
    """A connection to a supervisor that is started under a lock, so that two at once start one."""
    require_extra()
    make_private(place.root.parent)
    server = install_server(cache_dir(), progress)
    with file_lock(place.start_lock):
        if (connection := _connect(place)) is not None:
            return connection
        make_directories(place)
        _spawn(place, server)
        if (connection := _connect(place)) is not None:
            return connection
    raise LocalStackError("the local stack's supervisor does not start", hint=f"log: {place.logs}/supervisor.log")


def _spawn(place: Layout, server: Path) -> None:
    """Runs the supervisor, in a session of its own: a Ctrl-C at the terminal is not for it; returns when it listens."""
    command = [sys.executable, "-m", "provision.local.supervisor", place.name, str(cache_dir()), str(server)]
    with open_log(place, "supervisor") as log, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            timeout=_END_SECONDS,
            check=False,
        )


def _connect(place: Layout) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_ANSWER_SECONDS)
    try:
        connection.connect(str(place.control))
    except (FileNotFoundError, ConnectionError, NotADirectoryError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


def _talk(
    connection: socket.socket, request: dict[str, object], progress: Callable[[str], None]
) -> dict[str, Any] | None:
    """The supervisor's final answer; None if it went away without one."""
    try:
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                message: dict[str, Any] = json.loads(line)
                if "progress" in message:
                    progress(message["progress"])
                elif "error" in message:
                    raise LocalStackError(message["error"], hint=message["hint"])
                else:
                    return message
    except (ConnectionError, ValueError):
        return None
    return None


def _ask(place: Layout, op: str) -> dict[str, Any] | None:
    """The answer to a question that changes nothing or ends it all; None without a supervisor."""
    with _errors():
        connection = _connect(place)
        if connection is None:
            return None
        with connection:
            return _talk(connection, {"op": op}, _silent) or {}


@contextmanager
def _supervisor_lock(place: Layout) -> Iterator[None]:
    """Waits until no supervisor of this stack lives, and lets none begin."""
    deadline = time.monotonic() + _END_SECONDS
    with open(os.open(place.supervisor_lock, os.O_RDWR | os.O_CREAT, 0o600), "rb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    log = f"log: {place.logs}/supervisor.log"
                    raise LocalStackError(f"the stack {place.name} does not end", hint=log) from None
                time.sleep(_POLL)
        yield


@contextmanager
def _errors() -> Iterator[None]:
    """Tells what the system refused, and where, in our words."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise LocalStackError(
            f"the local stack: {error.strerror or error}{where}",
            hint="check the disk, its rights and PROVISION_CACHE_DIR",
        ) from error


def _stack(raw: dict[str, Any]) -> Stack:
    return Stack(**{**raw, "ca_file": Path(raw["ca_file"]), "log_dir": Path(raw["log_dir"])})
