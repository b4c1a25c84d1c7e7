"""How a command ends that could not do its work: one message with a way on, and its exit code."""

from __future__ import annotations

import io
import os
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, ParamSpec, TextIO

import typer

from provision import __version__
from provision.errors import ExitCode, Interrupted, ProvisionError

P = ParamSpec("P")


def command(function: Callable[P, None]) -> Callable[P, None]:
    """A command in which Ctrl-C is an error with a name."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            raise Interrupted("Interrupted; nothing was left half-done.") from None

    return wrapped


class _Outlet(io.FileIO):
    """A descriptor whose reader may go away (`| head`): what is written from then on goes nowhere."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
            return super().write(data) or 0


def outlasting(stream: TextIO | None) -> TextIO | None:
    """A standard stream that lets a command do its work to the end, and say how it ended, though nobody reads on."""
    if stream is None:  # closed by whoever started us
        return None
    raw = _Outlet(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=bool(stream.line_buffering)
    )


def complain(error: ProvisionError) -> int:
    """Say what went wrong and what to do; the exit code."""
    typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
    if error.hint:
        typer.echo(f"       {error.hint}", err=True)
    return int(error.code)


def our_fault(error: Exception) -> int:
    """Write the traceback to a file, keys blotted out, and say where; the exit code."""
    text = f"provision {__version__}\n{_without_keys(''.join(traceback.format_exception(error)))}"
    typer.secho(f"error: this is a fault of provision itself: {type(error).__name__}", err=True, fg=typer.colors.RED)
    try:
        with tempfile.NamedTemporaryFile("w", prefix="provision-", suffix=".log", delete=False) as log:
            log.write(text)
    except OSError:
        typer.echo(text, err=True)
    else:
        typer.echo(f"       details: {log.name}", err=True)
    return int(ExitCode.INTERNAL)


def _without_keys(text: str) -> str:
    """The text with the value of every variable that is called a key, here or in `.env`, blotted out."""
    from dotenv import dotenv_values

    with suppress(OSError, ValueError):
        settings = {**dotenv_values(".env"), **os.environ}
        for name, value in settings.items():
            if "KEY" in name and value and len(value) > 8:
                text = text.replace(value, "***")
        return text
    return "the details are withheld, since .env cannot be read to blot out its keys"
