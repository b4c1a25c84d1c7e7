"""The process that owns a stack's servers: `python -m provision.local.supervisor <name> <cache>`.

It listens on a socket. A client sends one line of JSON, `{"op": "up" | "lease" | "status" | "down", "gate", "pool"}`,
and gets lines back: any number of `{"progress"}` and one `{"stack"}` or `{"error", "hint"}`. An open connection of a
`lease` holds the stack; its end, for whatever reason, releases it. Without holders and without an `up` the process
ends, and with it, by signal or by the end of their stdin, the servers.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import time
import traceback
from asyncio import StreamReader, StreamWriter
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from provision.errors import LocalStackError
from provision.local import backend, postgres
from provision.local.child import Child
from provision.local.gates import DEFAULT_GATE, find_gate
from provision.local.paths import Layout, layout
from provision.local.state import load_state, save_state

DEFAULT_POOL = 20
_PATIENCE = 10.0  # seconds for the first client to come: the one who started us may have been killed
_RESTARTS = 5  # within…
_RESTART_WINDOW = 60.0  # …seconds: more than that is no accident


class Supervisor:
    """One stack's servers and those who hold it."""

    def __init__(self, place: Layout, server: Path) -> None:
        self.place = place
        self.server = server
        self.install = Path()
        self.state = load_state(place.state_file)
        self.gate = ""
        self.pool = 0
        self.holders = 0
        self.stay = False
        self.database: Child | None = None
        self.api: Child | None = None
        self.changing = asyncio.Lock()
        self.ended = asyncio.Event()
        self.restarts: deque[float] = deque(maxlen=_RESTARTS)
        self.watchers: set[asyncio.Task[None]] = set()

    async def ensure(self, gate: str | None, pool: int | None, say: Callable[[str], None]) -> None:
        """Brings the stack to this gate and pool; None keeps what there is, or takes the default."""
        async with self.changing:
            if self.database is None:
                await self._start_database(say)
            wanted_gate = gate or self.gate or DEFAULT_GATE
            if wanted_gate != self.gate:
                await backend.apply_gate(self.place, self.install, find_gate(wanted_gate))
                self.gate = wanted_gate
                log(f"gate {wanted_gate}")
            wanted_pool = pool or self.pool or DEFAULT_POOL
            if self.api is None or wanted_pool != self.pool:
                say(f"starting the API with {wanted_pool} database connections")
                await self._start_api(wanted_pool)

    async def end(self) -> None:
        """Stops the servers, the API first."""
        for watcher in self.watchers:
            watcher.cancel()
        api, database, self.api, self.database = self.api, self.database, None, None
        if api is not None:
            await api.stop(signal.SIGTERM)
        if database is not None:
            await database.stop(signal.SIGINT)

    def release(self) -> None:
        """One holder less; the last one out ends it all."""
        self.holders -= 1
        self.end_if_unused()

    def end_if_unused(self) -> None:
        """Ends the process when nobody needs the stack."""
        if self.holders == 0 and not self.stay:
            self.ended.set()

    def description(self) -> dict[str, object] | None:
        """What a client needs for its `Stack`; None while the stack does not serve."""
        if self.api is None or self.api.exit_code is not None:
            return None
        keys = self.state.keys
        return {
            "name": self.place.name,
            "url": f"http://127.0.0.1:{self.state.port}",
            "tls_url": f"https://127.0.0.1:{self.state.tls_port}",
            "ca_file": str(self.place.root / "ca.pem"),
            "secret_key": keys.secret_key,
            "publishable_key": keys.publishable_key,
            "service_role_key": keys.service_role_key,
            "anon_key": keys.anon_key,
            "gate": self.gate,
            "pool": self.pool,
            "dsn": postgres.dsn(self.place),
            "log_dir": str(self.place.logs),
        }

    async def _start_database(self, say: Callable[[str], None]) -> None:
        say("starting PostgreSQL")
        self.install = postgres.installation(self.place)
        self.database = await backend.start_postgres(self.place, self.install, say)
        log(f"PostgreSQL runs as process {self.database.pid}")
        self._watch(self.database, "PostgreSQL")

    async def _start_api(self, pool: int) -> None:
        assert self.database is not None  # noqa: S101  the callers start it first
        if (old := self.api) is not None:
            self.api = None
            await old.stop(signal.SIGTERM)
        self.api, self.state = await backend.start_api(self.place, self.server, self.state, pool, self.database.pid)
        self.pool = pool
        save_state(self.place.state_file, self.state)
        log(f"the API runs as process {self.api.pid} with a pool of {pool}")
        self._watch(self.api, "the API")

    def _watch(self, process: Child, name: str) -> None:
        watcher = asyncio.create_task(self._restart_after(process, name))
        self.watchers.add(watcher)
        watcher.add_done_callback(self.watchers.discard)

    async def _restart_after(self, process: Child, name: str) -> None:
        """Waits for the end of a server; unless we wanted it, starts what is missing."""
        code = await process.wait()
        if process not in (self.database, self.api):
            return
        log(f"{name} ended with {code}: starting it again")
        try:
            await self._restart(process)
        except LocalStackError as error:
            log(f"cannot go on: {error} ({error.hint})")
            self.ended.set()

    async def _restart(self, process: Child) -> None:
        now = time.monotonic()
        if len(self.restarts) == _RESTARTS and now - self.restarts[0] < _RESTART_WINDOW:
            raise LocalStackError(f"{_RESTARTS} restarts within a minute", hint=f"logs: {self.place.logs}")
        self.restarts.append(now)
        async with self.changing:
            if process is self.database:
                self.database = None
                await self._start_database(log)
            if self.api is not None:
                await self._start_api(self.pool)


async def handle(supervisor: Supervisor, reader: StreamReader, writer: StreamWriter) -> None:
    """Serves one client for as long as it stays."""
    try:
        request = json.loads(await reader.readline())
        if request["op"] in ("up", "lease"):
            await _hold(supervisor, request, reader, writer)
        elif request["op"] == "status":
            _send(writer, stack=supervisor.description())
        elif request["op"] == "down":
            supervisor.ended.set()
    except (ValueError, KeyError, ConnectionError):
        pass  # gone, or no client of ours
    finally:
        writer.close()


async def _hold(supervisor: Supervisor, request: dict[str, Any], reader: StreamReader, writer: StreamWriter) -> None:
    """Makes the stack what the client asks for; a client that leaves meanwhile no longer counts."""
    supervisor.holders += 1
    gone = asyncio.create_task(reader.read())
    making = asyncio.create_task(_make(supervisor, request, writer))
    try:
        await asyncio.wait({gone, making}, return_when=asyncio.FIRST_COMPLETED)
        if not making.done():
            # the work itself goes on if others wait for the same
            return
        if making.result():
            if request["op"] == "up":
                supervisor.stay = True
            _send(writer, stack=supervisor.description())
            await writer.drain()
            if request["op"] == "lease":
                await gone
    finally:
        gone.cancel()
        supervisor.release()


async def _make(supervisor: Supervisor, request: dict[str, Any], writer: StreamWriter) -> bool:
    """Whether it worked; if not, the client has been told why."""
    try:
        await supervisor.ensure(request.get("gate"), request.get("pool"), lambda text: _send(writer, progress=text))
    except LocalStackError as error:
        log(f"error: {error}")
        _send(writer, error=str(error), hint=error.hint)
        return False
    except OSError as error:
        log(f"error: {error!r}")
        _send(writer, error=f"{error.strerror or error}: {error.filename or ''}", hint="check the disk and its rights")
        return False
    except Exception:  # noqa: BLE001  a client waits: it must not wait for ever
        log(traceback.format_exc())
        _send(writer, error="the local stack failed", hint=f"log: {supervisor.place.logs}/supervisor.log")
        return False
    return True


def _send(writer: StreamWriter, **message: object) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")


def log(text: str) -> None:
    """One line for the supervisor's log, which is our stderr."""
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")
    sys.stderr.flush()


async def run(place: Layout, server: Path, listening: Callable[[], None]) -> None:
    """Serves clients until nobody needs the stack, then leaves nothing running."""
    supervisor = Supervisor(place, server)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, supervisor.ended.set)
    handlers: set[asyncio.Task[None]] = set()

    async def connected(reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        handlers.add(task)
        with suppress(asyncio.CancelledError):
            await handle(supervisor, reader, writer)
        handlers.discard(task)

    place.control.unlink(missing_ok=True)
    listener = await asyncio.start_unix_server(connected, place.control)
    place.control.chmod(0o600)
    listening()
    patience = asyncio.get_running_loop().call_later(_PATIENCE, supervisor.end_if_unused)
    await supervisor.ended.wait()
    patience.cancel()
    listener.close()
    place.control.unlink(missing_ok=True)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await supervisor.end()
    log("ended")


def main() -> None:
    """Starts a supervisor in the background and returns when it can be talked to; exits with 1 if it cannot."""
    name, cache, server = sys.argv[1:]
    told, tell = os.pipe()
    if os.fork() > 0:
        os.close(tell)
        os._exit(0 if os.read(told, 1) else 1)  # at once: what stands in our buffers is the child's
    os.close(told)
    place = layout(name, Path(cache))
    lock = os.open(place.supervisor_lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # an earlier one may still be on its way out
    os.chdir("/")

    def listening() -> None:
        os.write(tell, b".")  # fails if the one who started us is gone: then nobody needs us
        os.close(tell)

    asyncio.run(run(place, Path(server), listening))


if __name__ == "__main__":
    main()
