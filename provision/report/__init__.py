"""What people see: while it happens, at the end, and in files."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from provision.load.progress import Progress


class Watcher(Protocol):
    """Who is told what happens while it happens."""

    def say(self, text: str) -> None:
        """A line for the log."""

    def rows(self, table: str, done: int, total: int) -> None:
        """Rows written or removed so far."""

    def load(self, progress: Progress) -> None:
        """How far the load is."""

    def busy(self, title: str) -> AbstractContextManager[None]:
        """The time in which `rows` or `load` is called."""
