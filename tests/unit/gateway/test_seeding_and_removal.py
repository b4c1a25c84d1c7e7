"""Seed and teardown on the double, with the faults planted that the promises are about."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import schemas

from provision import bundled
from provision.errors import ApiError, TargetError
from provision.fixtures import manifest, plan, recipe
from provision.fixtures.manifest import AppTable, Manifest
from provision.fixtures.plan import Plan
from provision.fixtures.schema import from_openapi
from provision.gateway import BatchTooLarge, Filter, Row, orphans, removal, seeding
from provision.gateway.memory import MemoryGateway
from provision.gateway.orphans import Lost
from provision.target import Secret, Target


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


def test_a_batch_that_was_made_beforehand_is_made_again_when_batches_become_smaller() -> None:
    class Refusing(MemoryGateway):
        """Takes 500 rows at once, until there are 1,000 tickets; then no more than 100."""

        sizes: tuple[int, ...] = ()

        def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
            if len(rows) > (500 if len(self.rows["tickets"]) < 1_000 else 100):
                raise BatchTooLarge("timeout", sqlstate="57014", status=500)
            super().insert(table, rows, key=key)
            self.sizes = (*self.sizes, len(rows))

    gateway, plan_ = database(Refusing), planned(3_000)
    seed(gateway, plan_)
    assert len(gateway.rows["tickets"]) == 3_001
    assert sum(gateway.sizes) == sum(table.rows for table in plan_.tables)  # type: ignore[attr-defined]


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


def test_a_resumed_seed_writes_the_missing_rows_and_no_other() -> None:
    class Counted(MemoryGateway):
        written = 0

        def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
            self.written += len(rows)
            super().insert(table, rows, key=key)

    gateway, plan_ = database(Counted), planned(100)
    seed(gateway, plan_)
    whole = {table: dict(rows) for table, rows in gateway.rows.items()}
    ids = plan_.table("tickets").ids
    lost = [ids.id(n) for n in (0, 17, 18, 60, 100)]
    for ticket in lost:
        del gateway.rows["tickets"][ticket]
    gateway.written = 0  # type: ignore[attr-defined]
    seeding.fill(gateway, plan_, ignore, ignore, recorded(plan_))
    assert gateway.rows == whole
    assert gateway.written == len(lost)  # type: ignore[attr-defined]


def test_a_strangers_row_blocks_its_parents_and_nothing_beside_them() -> None:
    gateway, plan_ = database(), planned(30)
    seed(gateway, plan_)
    order = plan_.table("orders").ids.id(3)
    mine = next(row for row in gateway.rows["tickets"].values() if row["order_id"] == order)
    gateway.insert("tickets", [{**mine, "id": "theirs", "qr_token": "theirs"}], key="id")
    done = removal.remove(gateway, recorded(plan_), ignore)
    assert {(row.table, row.key) for row in done.foreign} == {("tickets", "theirs")}
    assert set(gateway.rows["orders"]) == {order}
    assert set(gateway.rows["tickets"]) == {"theirs"}
    assert len(gateway.rows["events"]) == len(gateway.rows["ticket_types"]) == 1
    assert not gateway.rows["staff"]


def test_a_row_that_a_cascade_would_take_is_seen_before_anything_is_deleted() -> None:
    gateway, plan_ = database(), planned(10)
    seed(gateway, plan_)
    before = {table: dict(rows) for table, rows in gateway.rows.items()}
    gateway.insert("event_checklist", [{"id": 1, "event_id": plan_.table("events").ids.id(0)}], key="id")
    silent = replace(recorded(plan_), written_by_app=())
    seen = removal.survey(gateway, silent)
    assert [str(row).split(" references")[0] for row in seen.foreign] == ["event_checklist 1"]
    del before["event_checklist"]
    assert {table: rows for table, rows in gateway.rows.items() if table != "event_checklist"} == before
    removal.remove(gateway, silent, ignore)
    assert len(gateway.rows["event_checklist"]) == 1
    assert len(gateway.rows["events"]) == 1


def test_a_row_that_two_entries_claim_is_counted_once() -> None:
    gateway, plan_ = database(), planned(10)
    seed(gateway, plan_)
    ticket = plan_.table("tickets").ids.id(0)
    gateway.insert("scan_logs", [{"id": "a", "ticket_id": ticket}, {"id": "b", "ticket_id": None}], key="id")
    twice = replace(recorded(plan_), written_by_app=(AppTable("scan_logs", "ticket_id", "tickets"),) * 2)
    [account] = [a for a in removal.remove(gateway, twice, ignore).accounts if a.table == "scan_logs"]
    assert (account.found, account.removed, account.left) == (1, 1, 0)
    assert set(gateway.rows["scan_logs"]) == {"b"}


NUMBERED = {
    "events": {"id": "bigint! = pk", "name": "text!"},
    "tickets": {"id": "bigint! pk", "event_id": "bigint! >events", "code": "text!"},
    "seats": {"id": "bigint! pk", "ticket_id": "bigint! >tickets", "place": "integer!"},
}
NUMBERED_RECIPE = """
name: t
tables: {events: {values: {name: "Night {run}-{n}"}}, tickets: {rows: tickets}, seats: {rows: tickets}}
tickets: {table: tickets, event: event_id}
"""


def numbered(tickets: int = 12) -> tuple[MemoryGateway, Plan]:
    schema = from_openapi(schemas.openapi(NUMBERED))
    parsed, document = recipe.parse(Path("t.yaml"), NUMBERED_RECIPE)
    return MemoryGateway(schema), plan.build(parsed, document, schema, "r1", date(2026, 6, 1), tickets)


def manifest_of(plan_: Plan, lines: Sequence[Mapping[str, Any]]) -> Manifest:
    head = manifest.announce(plan_, created="", target="", schema="public", versions={})
    return manifest.read(json.loads(json.dumps([head, *lines])))


def test_ids_that_the_database_makes_are_announced_before_and_recorded_after() -> None:
    gateway, plan_ = numbered()
    lines: list[Mapping[str, Any]] = []
    seeding.fill(gateway, plan_, lines.append, ignore)
    events = [(line["event"], line["table"]) for line in lines if line["event"] != "insert"]
    assert events == [(event, table) for table in ("events", "tickets", "seats") for event in ("batch", "ids")]
    tickets = plan_.table("tickets")
    assert {tickets.ids.id(n) for n in range(13)} == set(gateway.rows["tickets"])
    assert {row["ticket_id"] for row in gateway.rows["seats"].values()} == set(gateway.rows["tickets"])


@pytest.mark.parametrize("lost", ["tickets", "seats"])
def test_rows_whose_reply_a_kill_swallowed_are_found_by_their_text_or_their_parent(lost: str) -> None:
    gateway, plan_ = numbered()
    gateway.insert("events", [{"id": -1, "name": "theirs"}], key="id")
    gateway.insert("tickets", [{"id": -1, "event_id": -1, "code": "theirs"}], key="id")
    lines: list[Mapping[str, Any]] = []

    def journal(line: Mapping[str, Any]) -> None:
        if line["event"] == "ids" and line["table"] == lost:
            raise KeyboardInterrupt
        lines.append(line)

    with pytest.raises(KeyboardInterrupt):
        seeding.fill(gateway, plan_, journal, ignore)
    owned = manifest_of(plan_, lines)
    assert owned.table(lost).unsettled
    _, again = numbered()
    seeding.fill(gateway, again, lines.append, ignore, owned)
    assert len(gateway.rows["tickets"]) == 14
    assert len(gateway.rows["seats"]) == 13
    done = removal.remove(gateway, manifest_of(again, lines), ignore)
    assert not done.foreign
    left = {table: set(rows) for table, rows in gateway.rows.items()}
    assert left == {"events": {-1}, "tickets": {-1}, "seats": set()}


RUN = "20260601-200000-abcde"
TARGET = Target("http://localhost", Secret("k"))


def lost(gateway: MemoryGateway, text: str | None = None) -> Lost:
    """What is known of the only run in the database without its manifest."""
    path, source = bundled.find("seeds", "event-night")
    parsed, document = recipe.parse(path, source if text is None else text)
    [found] = orphans.runs(gateway, gateway.schema())
    assert found.run == RUN
    return orphans.lost(gateway, gateway.schema(), found, parsed, document, TARGET)


def left(gateway: MemoryGateway) -> dict[str, set[Any]]:
    """The keys of the rows that are left when what is known of a lost run is removed."""
    removal.remove(gateway, lost(gateway, NUMBERED_RECIPE).manifest, ignore)
    return {table: set(rows) for table, rows in gateway.rows.items()}


def numbered_run(tickets: int = 12) -> MemoryGateway:
    """A run in numbered tables, beside rows of others."""
    gateway, _ = numbered()
    parsed, document = recipe.parse(Path("t.yaml"), NUMBERED_RECIPE)
    gateway.insert("events", [{"id": -1, "name": "theirs"}], key="id")
    gateway.insert("tickets", [{"id": -1, "event_id": -1, "code": "theirs"}], key="id")
    gateway.insert("seats", [{"id": -1, "ticket_id": -1, "place": 1}], key="id")
    seed(gateway, plan.build(parsed, document, gateway.schema(), RUN, date(2026, 6, 1), tickets))
    return gateway


def test_a_lost_run_is_found_by_its_texts_and_its_keys() -> None:
    gateway, plan_ = database(), planned(20, run=RUN)
    seed(gateway, plan_)
    gateway.insert("staff", [{"id": "theirs", "display_name": "Anna, see run 20260601"}], key="id")
    found = lost(gateway)
    assert AppTable("scan_logs", "ticket_id", "tickets") in found.manifest.written_by_app
    removal.remove(gateway, found.manifest, ignore)
    assert {table: len(rows) for table, rows in gateway.rows.items() if rows} == {"staff": 1}


def test_a_lost_run_in_numbered_tables_is_told_from_a_note_about_it() -> None:
    gateway = numbered_run()
    gateway.insert("tickets", [{"id": -2, "event_id": 1, "code": f"look at {RUN}-1, please"}], key="id")
    found = lost(gateway, NUMBERED_RECIPE)
    assert [(table.table, table.rows) for table in found.manifest.tables] == [
        ("events", 1), ("tickets", 13), ("seats", 13),
    ]  # fmt: skip
    assert not found.unclear


def test_rows_without_a_text_are_followed_from_their_parents_and_those_of_others_stay() -> None:
    gateway = numbered_run()
    assert left(gateway) == {"events": {-1}, "tickets": {-1}, "seats": {-1}}


def test_a_row_that_a_colleague_attached_to_a_lost_run_is_reported_and_kept_with_its_parents() -> None:
    gateway = numbered_run()
    first = min(key for key in gateway.rows["tickets"] if key > 0)
    gateway.insert("seats", [{"id": 999, "ticket_id": first, "place": 77}], key="id")
    found = lost(gateway, NUMBERED_RECIPE)
    assert not found.unclear
    [foreign] = removal.survey(gateway, found.manifest).foreign
    assert (foreign.table, foreign.key) == ("seats", 999)
    assert left(gateway) == {"events": {-1, 1}, "tickets": {-1, first}, "seats": {-1, 999}}


def test_a_row_that_looks_exactly_like_one_of_a_lost_run_is_kept_with_it_and_both_are_named() -> None:
    gateway = numbered_run()
    twin = next(row for row in gateway.rows["seats"].values() if row["id"] > 0)
    gateway.insert("seats", [{**twin, "id": 999}], key="id")
    [unclear] = lost(gateway, NUMBERED_RECIPE).unclear
    assert (unclear.table, unclear.keys, unclear.rows) == ("seats", (twin["id"], 999), 2)
    assert left(gateway)["seats"] == {-1, twin["id"], 999}


@pytest.mark.parametrize(("tickets", "gone"), [(12, {3}), (5, set()), (300, {0}), (300, {300})])
def test_rows_that_are_too_few_or_not_whole_are_nobodys_until_somebody_knows(tickets: int, gone: set[int]) -> None:
    gateway = numbered_run(tickets)
    seats = sorted(key for key in gateway.rows["seats"] if key > 0)
    for place in gone:
        del gateway.rows["seats"][seats[place]]
    found = lost(gateway, NUMBERED_RECIPE)
    clear = tickets == 300 and 0 not in gone
    assert [(some.table, some.rows) for some in found.unclear] == ([] if clear else [("seats", len(seats) - len(gone))])
    kept = set() if clear else {key for n, key in enumerate(seats) if n not in gone}
    assert left(gateway)["seats"] == {-1} | kept


def test_numbered_rows_of_a_run_that_the_recipe_does_not_know_are_not_passed_over() -> None:
    gateway = numbered_run()
    found = lost(gateway)
    assert not found.manifest.tables
    assert {some.table: some.rows for some in found.unclear} == {"events": 1, "tickets": 13}
