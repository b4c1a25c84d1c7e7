"""What a call-back raises ends the run, since whoever waits for that call-back's work would wait for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from provision.load.session import Session
from provision.load.wire import ConnectFailed


@contextmanager
def guarded(session: Session) -> Iterator[None]:
    """The block ends with the first error that a call-back of the loop raises; connections that end in an error of
    their own are no such thing, their requests hear of it."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs us
    failed: list[Exception] = []

    def handle(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, Exception):
            loop.default_exception_handler(context)
        elif not failed and not isinstance(error, OSError | ConnectFailed):
            failed.append(error)
            session.stopping.set()
            task.cancel()

    before = loop.get_exception_handler()
    loop.set_exception_handler(handle)
    try:
        yield
    except asyncio.CancelledError:
        if not failed:
            raise
        task.uncancel()
        raise failed[0] from None
    finally:
        loop.set_exception_handler(before)
