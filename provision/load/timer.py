"""A timer that calls back at moments of `perf_counter_ns`, never before them.

uvloop's own timers tick in milliseconds; on Linux a `timerfd` in the loop is tens of microseconds late at most. Where
there is none, the loop's timers are used, and how late they were is measured like everything else.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from time import perf_counter_ns

_SECOND = 1_000_000_000
_MONOTONIC, _NONBLOCK_CLOEXEC, _ABSOLUTE = 1, os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0), 1


class Timer:
    """The moments of one event loop; `close` when done."""

    def __init__(self, *, exact: bool = sys.platform == "linux") -> None:
        """`exact` asks for a `timerfd`; without one the loop's own timers serve."""
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[int, int, list[Callable[[], None]]]] = []
        self._number = 0
        self._file = _open() if exact else None
        self._handle: asyncio.TimerHandle | None = None
        if self._file is not None:
            self._loop.add_reader(self._file, self._fire)

    def at(self, when: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` at `when` (ns), or in the loop's next turn if that is past; the result cancels it."""
        cell = [callback]
        self._number += 1
        heappush(self._heap, (when, self._number, cell))
        if self._heap[0][2] is cell:
            self._arm(when)
        return cell.clear

    def _arm(self, when: int) -> None:
        if self._file is not None:
            _set(self._file, max(1, when))
            return
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0, when - perf_counter_ns()) / _SECOND, self._fire)

    def _fire(self) -> None:
        if self._file is not None:
            with suppress(BlockingIOError):
                os.read(self._file, 8)
        now = perf_counter_ns()
        ready = []
        while self._heap and self._heap[0][0] <= now:
            ready.append(heappop(self._heap)[2])
        try:
            for cell in ready:  # what these add is for the loop's next turn, so that replies are read in between
                if cell:
                    cell[0]()
        finally:
            if self._heap:
                self._arm(self._heap[0][0])

    def close(self) -> None:
        """Forget all moments."""
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
        if self._file is not None:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = None


class _Spec(ctypes.Structure):
    """The C library's `itimerspec`: an interval, which stays zero, and the moment."""

    _fields_ = (
        ("every_s", ctypes.c_long), ("every_ns", ctypes.c_long), ("at_s", ctypes.c_long), ("at_ns", ctypes.c_long),
    )  # fmt: skip


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_spec = _Spec()
_spec_pointer = ctypes.byref(_spec)


def _open() -> int | None:
    """A `timerfd` on the clock of `perf_counter_ns`; None when the system has none."""
    if _libc is None:
        return None
    file = int(_libc.timerfd_create(_MONOTONIC, _NONBLOCK_CLOEXEC))
    return None if file < 0 else file


def _set(file: int, when: int) -> None:
    """Let a `timerfd` become readable at `when` (ns), at once if that is past."""
    _spec.at_s, _spec.at_ns = divmod(when, _SECOND)
    if _libc is not None:
        _libc.timerfd_settime(file, _ABSOLUTE, _spec_pointer, None)
