"""What a person sees meanwhile: bars on a terminal, a calm line every few seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.text import Text

from provision.counted import counted
from provision.report.pace import Pace

if TYPE_CHECKING:
    from provision.load.progress import Progress as LoadProgress

CALM = 5.0
"""Seconds between lines where no terminal shows a bar."""
REDRAW = 0.5
"""Seconds between pictures on a terminal: drawing one costs the load engine's loop a few ms."""


class _Rate(ProgressColumn):
    """Rows per second."""

    def render(self, task: Task) -> Text:
        return Text("" if not task.speed else f"{task.speed:,.0f} rows/s", style="dim")


class Live:
    """A watcher that shows rows and load on a console."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._screen: Screen | None = None
        self._spoke = self._drew = 0.0
        self._begin()

    def _begin(self) -> None:
        """Forget what was shown before."""
        columns = (
            TextColumn("{task.description:>20}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            _Rate(),
            TimeLeft(),
        )
        self._bars = Progress(*columns, console=self._console, auto_refresh=False, get_time=self._clock)
        self._tasks: dict[str, TaskID] = {}
        self._pace = Pace(self._clock)

    def say(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False)

    @contextmanager
    def busy(self, title: str) -> Iterator[None]:
        """Show `title` and, on a terminal, bars until the block ends."""
        self._console.print(title, markup=False)
        self._begin()
        self._spoke = self._clock()
        if not self._console.is_terminal:
            yield
            return
        screen = Screen(console=self._console, auto_refresh=False, transient=True, get_renderable=self._picture)
        with screen:
            self._screen = screen
            try:
                yield
            finally:
                self._screen = None

    def rows(self, table: str, done: int, total: int) -> None:
        if table not in self._tasks:
            self._tasks[table] = self._bars.add_task(table, total=total)
        task = self._tasks[table]
        self._bars.update(task, completed=done, total=total)
        if done >= total:
            self._tell(f"  {table}: {counted(done, 'row')}", now=True)
        else:
            speed, left = self._bars.tasks[task].speed, self._bars.tasks[task].time_remaining
            pace = f", {speed:,.0f} rows/s, {left:.0f} s left" if speed and left is not None else ""
            self._tell(f"  {table}: {done:,} of {total:,} rows{pace}")

    def load(self, progress: LoadProgress) -> None:
        fresh = self._pace.take(progress)
        if self._screen is None:
            for line in fresh:
                self._console.print(f"  {line}", markup=False, soft_wrap=True)
        self._tell(f"  {self._pace.line()}")

    def _picture(self) -> RenderableType:
        """All that there is to see now."""
        return Group(self._bars, *self._pace.picture()) if self._tasks else Group(*self._pace.picture())

    def _tell(self, text: str, *, now: bool = False) -> None:
        """Draw a new picture on a terminal; elsewhere say a line, unless one was said just now."""
        at = self._clock()
        if self._screen is not None:
            if now or at - self._drew >= REDRAW:
                self._drew = at
                self._screen.refresh()
        elif now or at - self._spoke >= CALM:
            self._spoke = at
            self._console.print(text, markup=False, soft_wrap=True)
