"""Every request as a row, canary and controls included: CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from provision.load.results import NO_ROUND, NO_TICKET, Record, Results

COLUMNS = (
    "timestamp", "scenario", "measured", "gate", "iteration", "round", "ticket", "outcome", "status",
    "due_ms", "sent_ms", "first_byte_ms", "last_byte_ms", "duration_ms", "received_bytes",
)  # fmt: skip


def rows(results: Results) -> Iterator[dict[str, Any]]:
    """The requests in the order in which they ended; times in ms since the run began, None where there was no such
    moment; `timestamp` is the moment of sending (of being due, where nothing was sent)."""
    began = datetime.fromisoformat(results.started)
    return (_row(results, began, record) for record in results.records())


def _row(results: Results, began: datetime, record: Record) -> dict[str, Any]:
    part = results.parts[record.part]
    at = began + timedelta(microseconds=(record.sent or record.due) / 1000)
    values = (
        at.isoformat(timespec="microseconds"),
        part.name,
        part.measured,
        record.vu + 1,
        record.iteration + 1,
        None if record.round == NO_ROUND else record.round + 1,
        None if record.ticket == NO_TICKET else results.tickets[record.ticket],
        str(record.named),
        record.status or None,
        record.due / 1e6,
        record.sent / 1e6 if record.sent else None,
        record.first / 1e6 if record.first else None,
        record.last / 1e6,
        (record.last - record.sent) / 1e6 if record.sent else None,
        record.received,
    )
    return dict(zip(COLUMNS, values, strict=True))


def as_csv(results: Results) -> Iterator[str]:
    """Lines of CSV (RFC 4180) with a head; empty where there is no value."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS)
    writer.writeheader()
    yield buffer.getvalue()
    for row in rows(results):
        buffer.seek(0)
        buffer.truncate()
        writer.writerow({**row, "measured": str(row["measured"]).lower()})
        yield buffer.getvalue()


def as_ndjson(results: Results) -> Iterator[str]:
    """One JSON object a line."""
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows(results))


FORMATS: Mapping[str, Callable[[Results], Iterator[str]]] = {"csv": as_csv, "ndjson": as_ndjson}
