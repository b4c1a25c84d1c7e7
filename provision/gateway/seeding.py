"""Fill a database by a plan: batches that adapt, each safe to repeat, each table proven by a count."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from provision.errors import ApiError, TargetError
from provision.fixtures.ids import IdRange
from provision.fixtures.plan import Plan, TablePlan
from provision.gateway import BatchTooLarge, Gateway, within

BATCH = 500
Done = Callable[[str, int, int], None]
"""Told after each batch: table, rows written, rows in all."""


def fill(gateway: Gateway, plan: Plan, announce: Callable[[str], None], done: Done) -> None:
    """Write every row of the plan, parents first; `announce` is called with each table's name before its first row."""
    for table in plan.tables:
        announce(table.table)
        written = 0
        for batch in _batches(gateway, plan, table):
            written += batch
            done(table.table, written, table.rows)
        found = gateway.count(table.table, within(table.key, table.ids))
        if found != table.rows:
            raise TargetError(
                f"{table.table}: {table.rows} rows were written, but {found} are there.",
                hint="A trigger or a policy may drop rows; look at the table's triggers.",
            )


def _batches(gateway: Gateway, plan: Plan, table: TablePlan) -> Iterator[int]:
    """Write one table; yields the size of each batch that is in. Halves the batch when a statement takes too long."""
    start, size = 0, BATCH
    while start < table.rows:
        stop = min(start + size, table.rows)
        try:
            gateway.insert(table.table, list(plan.rows(table, start, stop)), key=table.key)
        except BatchTooLarge:
            if size == 1:
                raise
            size = max(1, size // 2)
            continue
        except ApiError:
            if not _is_in(gateway, table, start, stop):
                raise
        yield stop - start
        start = stop


def _is_in(gateway: Gateway, table: TablePlan, start: int, stop: int) -> bool:
    """Whether a batch that was refused is there all the same: an earlier attempt, whose reply was lost, wrote it and
    a BEFORE INSERT trigger then refused the repetition."""
    ids = IdRange(table.ids.run, table.ids.table, start, stop - start)
    return gateway.count(table.table, within(table.key, ids)) == stop - start
