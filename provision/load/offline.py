"""Scans made offline and synchronised late: the moment that each request says it was scanned at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zlib import crc32

WITHIN_S = 3600
"""How long before the run the earliest of them may have been."""


def scanned_at(started: str, vu: int, iteration: int) -> datetime:
    """When a VU (from 0) says that it made the scan of an iteration (from 0): a whole second of the hour before the
    run began (ISO 8601), in no order, and the same whenever it is asked for, so that the audit can tell it too."""
    began = datetime.fromisoformat(started).astimezone(UTC).replace(microsecond=0)
    return began - timedelta(seconds=1 + crc32(b"%d/%d" % (iteration, vu)) % WITHIN_S)
