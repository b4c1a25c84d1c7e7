"""A child process for an event loop: started at once, awaited without threads, ended for certain.

asyncio's own subprocesses are not used: their `wait` outlasts the process while a grandchild holds a pipe, and a start
that is cancelled may never return.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

_POLL = 0.05  # seconds, where the system cannot tell


class Child:
    """One started process."""

    def __init__(self, command: Sequence[str | Path], **how: Any) -> None:
        self._process: subprocess.Popen[bytes] = subprocess.Popen(command, cwd="/", **how)
        self.pid = self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def stdin(self) -> IO[bytes]:
        """Its standard input, which was asked for as a pipe."""
        assert self._process.stdin is not None  # noqa: S101
        return self._process.stdin

    async def read_line(self) -> bytes:
        """The first line of its standard output, which was asked for as a pipe; empty if it ends without one."""
        assert self._process.stdout is not None  # noqa: S101
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        duplicate = os.fdopen(os.dup(self._process.stdout.fileno()), "rb")
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, duplicate)
        try:
            return await reader.readline()
        finally:
            transport.close()

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        while (code := self._process.poll()) is None:
            await _change(self.pid)
        return code

    async def stop(self, number: signal.Signals, patience: float = 10.0) -> None:
        """Ends it with this signal, and by force if it does not listen; returns when it is gone."""
        if self.exit_code is None:
            self._process.send_signal(number)
            try:
                await asyncio.wait_for(self.wait(), patience)
            except TimeoutError:
                self._process.kill()
                await self.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


async def run(command: Sequence[str | Path], how: Mapping[str, Any], stdin: bytes = b"") -> tuple[str, int]:
    """What a program says, output and errors together, and its exit code; it is killed if we are cancelled."""
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as said:
        told.write(stdin)
        told.seek(0)
        child = Child(command, stdin=told, stdout=said, stderr=said, **how)
        try:
            code = await child.wait()
        finally:
            await child.stop(signal.SIGKILL)
        said.seek(0)
        return said.read().decode(errors="replace").strip(), code


async def _change(pid: int) -> None:
    """Returns when the process has ended, or after a moment."""
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):
        await asyncio.sleep(_POLL)
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)
