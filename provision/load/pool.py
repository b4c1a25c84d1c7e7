"""The pool of tickets: every iteration takes the next one, in the file's order, whichever VU or process it is of."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection

_NUMBER = 4  # bytes


class Pool:
    """Tickets by number, each taken once; when reuse is asked for, they go round, but not those kept for races."""

    def __init__(
        self, size: int, *, reuse: bool = False, keep: int = 0, keepers: Collection[str] = (), shared: int | None = None
    ) -> None:
        """Of `size` tickets, with `reuse`, the last `keep` are for the parts named `keepers`; `shared` is the file of a
        pool that another process shares out."""
        self.size = size
        self._reuse = reuse
        self._open = max(0, size - keep) if reuse else size  # from here on the tickets are the keepers'
        self._keepers = frozenset(keepers) if reuse else frozenset()
        self._next, self._kept = 0, self._open
        self._shared = shared

    def take(self, part: str) -> int | None:
        """The number of the next ticket for a part of the run; None when there is none left."""
        if part in self._keepers:
            self._kept += 1
            return self._kept - 1 if self._kept <= self.size else None
        if self._shared is not None:
            return self._read(self._shared)
        if self._next == self._open:
            if not self._reuse or not self._open:
                return None
            self._next = 0
        self._next += 1
        return self._next - 1

    def _read(self, file: int) -> int | None:
        found = os.read(file, _NUMBER)
        if not found and self._reuse:
            os.lseek(file, 0, os.SEEK_SET)
            found = os.read(file, _NUMBER)
        return int.from_bytes(found, "little") if found else None

    def share(self) -> int:
        """From now on every process that was given this file takes from the same pool.

        They share the file's offset, which the kernel moves on by one ticket for each read, whoever reads.
        """
        first = 0 if self._reuse else self._next
        with tempfile.TemporaryFile() as file:
            file.write(b"".join(number.to_bytes(_NUMBER, "little") for number in range(first, self._open)))
            file.seek(0)
            self._shared = os.dup(file.fileno())
        self._next = first
        return self._shared

    @property
    def used(self) -> int:
        """Up to which number tickets may have been used."""
        if self._reuse:
            return self.size
        return self._next + (os.lseek(self._shared, 0, os.SEEK_CUR) // _NUMBER if self._shared is not None else 0)

    def close(self) -> None:
        if self._shared is not None:
            os.close(self._shared)
