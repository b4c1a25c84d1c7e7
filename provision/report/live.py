"""What a person sees meanwhile: bars on a terminal, a calm line every few seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from provision.load.engine import Progress as LoadProgress

CALM = 5.0
"""Seconds between lines where no terminal shows a bar."""


class Live:
    """A watcher that shows rows and load on a console."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._spoke = 0.0

    def say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)

    @contextmanager
    def busy(self, title: str) -> Iterator[None]:
        """Show `title` and, on a terminal, bars until the block ends."""
        self._console.print(title, markup=False)
        self._spoke = self._clock()
        self._tasks = {}
        if not self._console.is_terminal:
            yield
            return
        columns = (TextColumn("{task.description:>16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=self._console, transient=True) as bars:
            self._bars = bars
            try:
                yield
            finally:
                self._bars = None

    def rows(self, table: str, done: int, total: int) -> None:
        self._show(table, done, total, "")
        if done >= total:
            self._calm(f"  {table}: {done:,} rows", now=True)
        else:
            self._calm(f"  {table}: {done:,} of {total:,} rows")

    def load(self, progress: LoadProgress) -> None:
        seen = ", ".join(f"{count:,} {name}" for name, count in progress.outcomes.items())
        running = ", ".join(progress.running) or "waiting"
        note = f"{progress.requests:,} requests ({seen})" if seen else ""
        self._show("load", int(progress.elapsed), max(int(progress.total), int(progress.elapsed)), f"{running}: {note}")
        self._calm(f"  {progress.elapsed:.0f} s {running}: {note}")

    def _show(self, name: str, done: int, total: int, note: str) -> None:
        if self._bars is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, note=note)
        self._bars.update(self._tasks[name], completed=done, total=total, note=note)

    def _calm(self, text: str, *, now: bool = False) -> None:
        if self._bars is None and (now or self._clock() - self._spoke >= CALM):
            self._spoke = self._clock()
            self._console.print(text, markup=False)
