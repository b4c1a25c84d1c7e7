"""What a promise came to: its status and the sentence that says so."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Status(IntEnum):
    """Ordered: the worst finding is the verdict."""

    PASS = 0
    INCONCLUSIVE = 1
    FAIL = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one promise: a sentence, and the tickets and requests behind it."""

    promise: str
    status: Status
    statement: str
    details: tuple[dict[str, Any], ...] = ()
