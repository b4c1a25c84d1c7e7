"""Seed and teardown on the double, with the faults planted that the promises are about."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import pytest
import schemas

from provision import bundled
from provision.errors import ApiError, TargetError
from provision.fixtures import manifest, plan, recipe
from provision.fixtures.manifest import Manifest
from provision.fixtures.plan import Plan
from provision.gateway import BatchTooLarge, Filter, Row, removal, seeding
from provision.gateway.memory import MemoryGateway


def ignore(*_: object) -> None:
    pass


def planned(tickets: int = 30, run: str = "r1") -> Plan:
    parsed, document = recipe.parse(*bundled.find("seeds", "event-night"))
    return plan.build(parsed, document, schemas.ticketing(), run, date(2026, 6, 1), tickets)


def recorded(plan_: Plan) -> Manifest:
    line = manifest.announce(plan_, created="", target="", schema="public", versions={})
    return manifest.read([json.loads(json.dumps(line))])


def database(kind: type[MemoryGateway] = MemoryGateway) -> MemoryGateway:
    return kind(schemas.ticketing(), schemas.CASCADES)


def seed(gateway: MemoryGateway, plan_: Plan) -> None:
    seeding.fill(gateway, plan_, ignore, ignore)


class Slow(MemoryGateway):
    """A statement of more than `most` rows takes too long."""

    most = 7

    def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
        if len(rows) > self.most:
            raise BatchTooLarge("canceling statement due to statement timeout", sqlstate="57014", status=500)
        super().insert(table, rows, key=key)

    def delete(self, table: str, where: Sequence[Filter]) -> int:
        if self.count(table, where) > self.most:
            raise BatchTooLarge("canceling statement due to statement timeout", sqlstate="57014", status=500)
        return super().delete(table, where)


class Counting(MemoryGateway):
    """A trigger that counts refuses a batch that is in already, as FACTS' inventory trigger does on repetition."""

    def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
        super().insert(table, rows, key=key)
        raise ApiError("violates check constraint (23514)", sqlstate="23514", status=400)


class Dropping(MemoryGateway):
    """A trigger that silently drops every tenth ticket."""

    def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
        kept = [row for n, row in enumerate(rows) if table != "tickets" or n % 10]
        super().insert(table, kept, key=key)


def test_every_planned_row_is_written_parents_first() -> None:
    gateway, plan_, announced = database(), planned(), []
    seeding.fill(gateway, plan_, lambda line: announced.append(line["table"]), ignore)
    assert announced == [table.table for table in plan_.tables]
    assert {t: len(gateway.rows[t]) for t in announced} == {t.table: t.rows for t in plan_.tables}


def test_each_table_is_announced_before_its_first_row_is_written() -> None:
    gateway = database()

    def announce(line: Mapping[str, Any]) -> None:
        assert not gateway.rows[line["table"]]

    seeding.fill(gateway, planned(), announce, ignore)


def test_a_batch_that_takes_too_long_is_halved_until_it_fits() -> None:
    gateway, plan_ = database(Slow), planned(100)
    seed(gateway, plan_)
    assert len(gateway.rows["tickets"]) == 101


def test_a_single_row_that_takes_too_long_is_an_error() -> None:
    gateway = database(Slow)
    gateway.most = 0  # type: ignore[attr-defined]
    with pytest.raises(BatchTooLarge):
        seed(gateway, planned())


def test_a_batch_that_was_refused_but_is_in_counts_as_written() -> None:
    gateway, plan_ = database(Counting), planned()
    seed(gateway, plan_)
    assert len(gateway.rows["tickets"]) == 31


def test_rows_that_a_trigger_drops_are_noticed() -> None:
    with pytest.raises(TargetError, match=r"tickets: 31 rows were written, but 27 are there"):
        seed(database(Dropping), planned())


def test_seeding_twice_changes_nothing() -> None:
    gateway, plan_ = database(), planned()
    seed(gateway, plan_)
    before = {table: dict(rows) for table, rows in gateway.rows.items()}
    seed(gateway, plan_)
    assert gateway.rows == before


def test_teardown_removes_the_run_with_the_scans_of_it_and_nothing_else() -> None:
    gateway, mine, other = database(), planned(run="r1"), planned(run="r2")
    seed(gateway, other)
    before = {table: dict(rows) for table, rows in gateway.rows.items()}
    seed(gateway, mine)
    ticket = mine.table("tickets").ids.id(0)
    gateway.insert("scan_logs", [{"id": "log", "ticket_id": ticket, "scan_success": True}], key="id")
    accounts = removal.remove(gateway, recorded(mine), ignore).accounts
    assert gateway.rows == before
    assert {a.table: a.removed for a in accounts} | {"tickets": 31, "scan_logs": 1} == {
        a.table: a.removed for a in accounts
    }
    assert not any(account.left for account in accounts)


def test_teardown_after_half_a_seed_leaves_nothing() -> None:
    class Killed(MemoryGateway):
        def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
            super().insert(table, rows, key=key)
            if table == "orders":
                raise KeyboardInterrupt

    gateway, plan_ = database(Killed), planned()
    with pytest.raises(KeyboardInterrupt):
        seed(gateway, plan_)
    assert gateway.rows["orders"]
    removal.remove(gateway, recorded(plan_), ignore)
    assert not any(gateway.rows.values())


def test_teardown_twice_is_harmless() -> None:
    gateway, plan_ = database(), planned()
    seed(gateway, plan_)
    removal.remove(gateway, recorded(plan_), ignore)
    assert not any(
        account.found or account.left for account in removal.remove(gateway, recorded(plan_), ignore).accounts
    )


def test_deletes_that_take_too_long_go_in_smaller_pieces() -> None:
    gateway, plan_ = database(Slow), planned(100)
    seed(gateway, plan_)
    assert not any(account.left for account in removal.remove(gateway, recorded(plan_), ignore).accounts)
    assert not any(gateway.rows.values())


def test_a_row_of_a_colleague_that_references_ours_is_reported_and_kept() -> None:
    gateway, plan_ = database(), planned()
    seed(gateway, plan_)
    event = plan_.table("events").ids.id(0)
    theirs = {"id": "theirs", "event_id": event, "purchaser_email": "a@b", "subtotal": 1, "total": 1}
    gateway.insert("orders", [theirs], key="id")
    accounts = {account.table: account for account in removal.remove(gateway, recorded(plan_), ignore).accounts}
    assert gateway.rows["orders"] == {"theirs": theirs}
    assert accounts["events"].left == 1
    assert "not ours" in accounts["events"].why
    assert accounts["tickets"].left == 0


def test_a_survey_counts_and_touches_nothing() -> None:
    gateway, plan_ = database(), planned()
    seed(gateway, plan_)
    before = {table: dict(rows) for table, rows in gateway.rows.items()}
    assert {a.table: a.found for a in removal.survey(gateway, recorded(plan_)).accounts}["tickets"] == 31
    assert gateway.rows == before


def test_the_double_refuses_what_the_api_refuses() -> None:
    gateway = database()
    with pytest.raises(ApiError, match="23502"):
        gateway.insert("staff", [{"id": "1"}], key="id")
    with pytest.raises(ApiError, match="PGRST204"):
        gateway.insert("staff", [{"id": "1", "display_name": "x", "colour": "red"}], key="id")
    with pytest.raises(ApiError, match="23503"):
        gateway.insert("event_checklist", [{"id": 1, "event_id": "none"}], key="id")
    with pytest.raises(ApiError, match="PGRST205"):
        gateway.count("nothing", [])
    with pytest.raises(ValueError, match="without a condition"):
        gateway.delete("staff", [])
