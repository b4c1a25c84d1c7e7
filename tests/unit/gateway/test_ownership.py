"""Numbers that the database gave out again: whose rows stand under them is proven before any is counted or touched."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import schemas

from provision.errors import ApiError, ConfigError, TargetError, TicketsError
from provision.fixtures import manifest, plan, recipe
from provision.fixtures.manifest import Manifest
from provision.fixtures.plan import Plan
from provision.fixtures.schema import from_openapi
from provision.gateway import Filter, Look, Row, adding, ownership, removal, seeding
from provision.gateway.memory import MemoryGateway

TABLES = {
    "events": {"id": "bigint! = pk", "name": "text!"},
    "tickets": {"id": "bigint! pk", "event_id": "bigint! >events", "code": "text!", "status": "text"},
    "seats": {"id": "bigint! pk", "ticket_id": "bigint! >tickets", "place": "integer!"},
    "notes": {"id": "bigint! pk", "ticket_id": "bigint!", "words": "text"},
}
RECIPE = """
name: t
tables:
  events: {values: {name: "Night {run}-{n}"}}
  tickets: {rows: tickets, values: {code: "T-{short}-{n:05}"}}
  seats: {rows: tickets}
tickets: {table: tickets, event: event_id}
written_by_app: {notes: ticket_id}
"""
OURS, OTHERS = "20260601-200000-abcde", "20260602-090000-vwxyz"
Rows = Mapping[str, Mapping[Any, Row]]


def ignore(*_: object) -> None:
    pass


class Hashing(MemoryGateway):
    """A BEFORE INSERT trigger keeps only hashes of names and codes, and the reply shows them."""

    def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
        super().insert(table, [{**row, **hashed(row)} for row in rows], key=key)

    def add(self, table: str, rows: Sequence[Row], *, columns: Sequence[str], look: Look) -> Sequence[Row]:
        return [{**row, **hashed(row)} for row in super().add(table, rows, columns=columns, look=look)]


class HashingLater(MemoryGateway):
    """An AFTER INSERT trigger does so: the reply shows what was sent."""

    def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
        super().insert(table, [{**row, **hashed(row)} for row in rows], key=key)


class Shouting(MemoryGateway):
    """An AFTER INSERT trigger keeps texts in capitals, with something before them."""

    def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
        texts = [{name: f"* {row[name].upper()}" for name in ("name", "code") if name in row} for row in rows]
        super().insert(table, [{**row, **text} for row, text in zip(rows, texts, strict=True)], key=key)


def hashed(row: Row) -> Row:
    return {name: hashlib.sha256(row[name].encode()).hexdigest() for name in ("name", "code") if name in row}


def planned(gateway: MemoryGateway, run: str = OURS, tickets: int = 12) -> Plan:
    parsed, document = recipe.parse(Path("t.yaml"), RECIPE)
    return plan.build(parsed, document, gateway.schema(), run, date(2026, 6, 1), tickets)


def opened(kind: type[MemoryGateway] = MemoryGateway) -> MemoryGateway:
    return kind(from_openapi(schemas.openapi(TABLES)))


def seed(gateway: MemoryGateway, run: str = OURS, tickets: int = 12) -> tuple[Manifest, list[Mapping[str, Any]]]:
    """A run in the database, its manifest and the lines of that."""
    plan_ = planned(gateway, run, tickets)
    lines = [manifest.announce(plan_, created="", target="", schema="public", versions={})]
    seeding.fill(gateway, plan_, lines.append, ignore)
    return manifest.read(json.loads(json.dumps(lines))), lines


def reset(gateway: MemoryGateway, *tables: str) -> None:
    """TRUNCATE … RESTART IDENTITY."""
    for table in tables or gateway.rows:
        gateway.rows[table].clear()
    gateway._made = 0


def colleague(gateway: MemoryGateway, tickets: int = 12) -> None:
    """Somebody's own rows; they take the numbers from 1 on in every table, as identities do."""
    gateway.insert("events", [{"id": n, "name": f"Their night {n}"} for n in range(1, 4)], key="id")
    numbers = range(1, tickets + 20)
    gateway.insert("tickets", [{"id": n, "event_id": 1, "code": f"theirs-{n}"} for n in numbers], key="id")
    gateway.insert("seats", [{"id": n, "ticket_id": n, "place": n} for n in numbers], key="id")
    gateway.insert("notes", [{"id": n, "ticket_id": n, "words": "theirs"} for n in numbers], key="id")


def the_same_recipe(gateway: MemoryGateway) -> None:
    seed(gateway, OTHERS)
    gateway.insert("notes", [{"id": 1, "ticket_id": 5, "words": "theirs"}], key="id")


@pytest.mark.parametrize("kind", [MemoryGateway, Hashing, HashingLater])
@pytest.mark.parametrize("come", [colleague, the_same_recipe], ids=["by hand", "by the same recipe"])
def test_rows_that_got_our_numbers_after_a_reset_are_neither_removed_nor_resumed_nor_scanned(
    come: Callable[[MemoryGateway], None], kind: type[MemoryGateway]
) -> None:
    gateway = opened(kind)
    mine, lines = seed(gateway)
    reset(gateway)
    come(gateway)
    before = deepcopy(gateway.rows)
    seen = removal.survey(gateway, mine)
    done = removal.remove(gateway, mine, ignore)
    assert gateway.rows == before
    assert {a.table for a in done.accounts if a.left and "not touched" in a.why} == {
        "events", "tickets", "seats", "notes",
    }  # fmt: skip
    assert [(a.table, a.left) for a in seen.accounts] == [(a.table, a.left) for a in done.accounts]
    with pytest.raises(ConfigError, match="numbers of run"):
        seeding.fill(gateway, planned(gateway), lines.append, ignore, mine)
    standing = ownership.stand(gateway, gateway.schema(), mine)
    with pytest.raises(TicketsError, match="other people's"):
        ownership.refuse_tickets(standing, mine, mine.table("tickets").ranges)
    assert gateway.rows == before


def test_one_row_of_somebody_under_any_of_our_numbers_is_kept() -> None:
    for number in range(1, 27):
        gateway = opened()
        mine, _ = seed(gateway)
        reset(gateway)
        gateway.insert("events", [{"id": number, "name": "theirs"}], key="id")
        gateway.insert("tickets", [{"id": number, "event_id": number, "code": "theirs"}], key="id")
        before = deepcopy(gateway.rows)
        removal.remove(gateway, mine, ignore)
        assert gateway.rows == before


def test_a_table_that_was_reset_alone_keeps_its_new_rows_and_what_is_ours_beside_it_goes() -> None:
    gateway = opened()
    mine, _ = seed(gateway)
    reset(gateway, "seats")
    event, ticket = 50, 60
    gateway.insert("events", [{"id": event, "name": "theirs"}], key="id")
    gateway.insert("tickets", [{"id": ticket, "event_id": event, "code": "theirs"}], key="id")
    numbers = [part.low for part in mine.table("seats").ranges]
    gateway.insert("seats", [{"id": int(numbers[0]), "ticket_id": ticket, "place": 1}], key="id")
    done = removal.remove(gateway, mine, ignore)
    assert {table: set(rows) for table, rows in gateway.rows.items()} == {
        "events": {event}, "tickets": {ticket}, "seats": {int(numbers[0])}, "notes": set(),
    }  # fmt: skip
    assert [(a.table, a.left) for a in done.accounts if a.left] == [("seats", 1)]


def test_after_a_restore_to_the_middle_of_a_seed_the_rows_that_came_since_are_kept() -> None:
    gateway = opened()
    mine, _ = seed(gateway, tickets=1_200)
    second = mine.table("tickets").told[1][1][0]
    gateway.rows["seats"].clear()
    for number in [n for n in gateway.rows["tickets"] if n >= second.low]:
        del gateway.rows["tickets"][number]
    gateway.insert("events", [{"id": -5, "name": "theirs"}], key="id")
    theirs = [{"id": second.low + n, "event_id": -5, "code": f"theirs-{n}"} for n in (3, 7)]
    gateway.insert("tickets", theirs, key="id")
    before = deepcopy(gateway.rows)
    done = removal.remove(gateway, mine, ignore)
    assert {row["id"] for row in gateway.rows["tickets"].values()} >= {row["id"] for row in theirs}
    assert gateway.rows["tickets"] == before["tickets"]
    assert any("2 of 502 rows" in account.why for account in done.accounts)


@pytest.mark.parametrize("kind", [MemoryGateway, Hashing, HashingLater])
def test_what_the_app_changed_and_what_triggers_rewrote_is_still_ours(kind: type[MemoryGateway]) -> None:
    gateway = opened(kind)
    gateway.insert("events", [{"id": -1, "name": "theirs"}], key="id")
    before = deepcopy(gateway.rows)
    mine, _ = seed(gateway)
    for number, row in enumerate(gateway.rows["tickets"].values()):
        row["status"] = "used"
        if number % 3 == 0:
            row["code"] = "given away"
    event = next(row for n, row in gateway.rows["events"].items() if n > 0)
    if kind is MemoryGateway:
        event["name"] = "Renamed by the app"
    gateway.insert("notes", [{"id": 1, "ticket_id": next(iter(gateway.rows["tickets"])), "words": "seen"}], key="id")
    done = removal.remove(gateway, mine, ignore)
    assert not any(account.left for account in done.accounts), done.accounts
    assert gateway.rows == before


def test_a_manifest_keeps_digests_only_of_texts_that_the_database_changed() -> None:
    gateway = opened(Hashing)
    mine, lines = seed(gateway, tickets=1_200)
    assert 0 < len(mine.table("tickets").stored) <= 3 * 2 * adding.WITNESSES
    assert not any(row["code"] in json.dumps(lines) for row in gateway.rows["tickets"].values())
    plain, _ = seed(opened())
    assert not any(table.stored for table in plain.tables)


def test_a_batch_without_a_reply_is_not_found_among_rows_that_hang_on_other_peoples_parents() -> None:
    gateway = opened()
    plan_, lines = planned(gateway), []
    lines.append(manifest.announce(plan_, created="", target="", schema="public", versions={}))

    def journal(line: Mapping[str, Any]) -> None:
        if line["event"] == "ids" and line["table"] == "seats":
            raise KeyboardInterrupt
        lines.append(line)

    with pytest.raises(KeyboardInterrupt):
        seeding.fill(gateway, plan_, journal, ignore)
    mine = manifest.read(json.loads(json.dumps(lines)))
    [batch] = mine.table("seats").unsettled
    reset(gateway)
    numbers = [n for part in mine.table("tickets").ranges for n in range(int(part.low), int(part.high) + 1)]
    gateway.insert("events", [{"id": 1, "name": "theirs"}], key="id")
    gateway.insert("tickets", [{"id": n, "event_id": 1, "code": f"theirs-{n}"} for n in numbers], key="id")
    seats = [{"id": (batch.floor or 0) + 1 + at, "ticket_id": n, "place": 1} for at, n in enumerate(numbers)]
    gateway.insert("seats", seats, key="id")
    before = deepcopy(gateway.rows)
    removal.remove(gateway, mine, ignore)
    assert gateway.rows == before


def killed(gateway: MemoryGateway, table: str, batch: int = 1, tickets: int = 12) -> tuple[Manifest, list[Any]]:
    """A seed that dies when a batch of a table is written and its ids are not recorded: its manifest and the lines."""
    plan_, lines, seen = planned(gateway, tickets=tickets), [], 0
    lines.append(manifest.announce(plan_, created="", target="", schema="public", versions={}))

    def journal(line: Mapping[str, Any]) -> None:
        nonlocal seen
        seen += line["event"] == "ids" and line["table"] == table
        if seen == batch:
            raise KeyboardInterrupt
        lines.append(line)

    with pytest.raises(KeyboardInterrupt):
        seeding.fill(gateway, plan_, journal, ignore)
    return manifest.read(json.loads(json.dumps(lines))), lines


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", [MemoryGateway, Hashing, HashingLater, Shouting])
def test_a_batch_whose_texts_a_trigger_rewrote_is_found_by_its_parents(kind: type[MemoryGateway], batch: int) -> None:
    gateway = opened(kind)
    gateway.insert("events", [{"id": -1, "name": "theirs"}], key="id")
    gateway.insert("tickets", [{"id": -1, "event_id": -1, "code": "theirs"}], key="id")
    before = deepcopy(gateway.rows)
    mine, lines = killed(gateway, "tickets", batch, tickets=700)
    gateway.insert("tickets", [{"id": 9_000, "event_id": -1, "code": "theirs"}], key="id")
    before["tickets"][9_000] = gateway.rows["tickets"][9_000]
    seeding.fill(gateway, planned(gateway, tickets=700), lines.append, ignore, mine)
    assert len(gateway.rows["tickets"]) == len(before["tickets"]) + planned(gateway, tickets=700).table("tickets").rows
    done = removal.remove(gateway, manifest.read(json.loads(json.dumps(lines))), ignore)
    assert not any(account.left for account in done.accounts), done.accounts
    assert gateway.rows == before


def test_a_row_that_is_known_by_nothing_is_named_and_kept() -> None:
    """Its reply was lost, a trigger put another text in place of ours, and it hangs on nothing."""
    gateway = opened(Hashing)
    gateway.insert("events", [{"id": -1, "name": "theirs"}], key="id")
    mine, lines = killed(gateway, "events")
    before = deepcopy(gateway.rows)
    assert len(before["events"]) == 2
    for done in (removal.survey(gateway, mine), removal.remove(gateway, mine, ignore)):
        [account] = [account for account in done.accounts if account.left]
        assert (account.table, account.left) == ("events", 1)
        assert "not touched" in account.why
        assert "no mark of a run: 1;" in account.why
        assert f"delete .provision/{OURS}" in account.why
    with pytest.raises(ConfigError, match="the reply to 1 new rows was lost"):
        seeding.fill(gateway, planned(gateway), lines.append, ignore, mine)
    assert gateway.rows == before


def test_a_batch_that_was_never_written_is_not_taken_for_rows_of_another_run() -> None:
    gateway = opened()
    mine, _ = killed(gateway, "events")
    gateway.rows["events"].clear()
    seed(gateway, OTHERS)
    done = removal.remove(gateway, mine, ignore)
    assert not any(account.left for account in done.accounts), done.accounts
    assert len(gateway.rows["events"]) == 1


def test_rows_that_somebody_adds_later_to_a_table_that_keeps_its_texts_raise_no_doubt() -> None:
    gateway = opened()
    mine, _ = killed(gateway, "tickets", batch=2, tickets=700)
    [batch] = mine.table("tickets").unsettled
    written = [number for number in gateway.rows["tickets"] if number > (batch.floor or 0)]
    for number in written:
        del gateway.rows["tickets"][number]
    gateway.insert("events", [{"id": -1, "name": "theirs"}], key="id")
    gateway.insert("tickets", [{"id": n, "event_id": -1, "code": f"theirs-{n}"} for n in written], key="id")
    done = removal.remove(gateway, mine, ignore)
    assert not any(account.left for account in done.accounts), done.accounts
    assert sorted(gateway.rows["tickets"]) == written


class Losing(Hashing):
    """The first reply is lost after the commit, and the batch is sent again as over a network."""

    def add(self, table: str, rows: Sequence[Row], *, columns: Sequence[str], look: Look) -> Sequence[Row]:
        super().add(table, rows, columns=columns, look=look)
        return look() or super().add(table, rows, columns=columns, look=look)


def test_rows_are_not_written_twice_where_a_trigger_hides_that_they_are_there() -> None:
    gateway = opened(Losing)
    with pytest.raises(TargetError, match=r"events: the reply to 1 new rows was lost") as refused:
        seed(gateway)
    assert "Does a trigger rewrite events.name?" in refused.value.hint
    assert len(gateway.rows["events"]) == 1


def test_a_seed_does_not_go_on_from_rows_that_are_gone() -> None:
    gateway = opened()
    mine, lines = seed(gateway)
    reset(gateway)
    with pytest.raises(ConfigError, match=r"1 of the rows that run .* made are gone") as refused:
        seeding.fill(gateway, planned(gateway), lines.append, ignore, mine)
    assert "seed a new run" in refused.value.hint
    assert not any(gateway.rows.values())
    assert not any(account.left for account in removal.remove(gateway, mine, ignore).accounts)
    standing = ownership.stand(gateway, gateway.schema(), mine)
    with pytest.raises(TicketsError, match="No ticket of run"):
        ownership.refuse_tickets(standing, mine, mine.table("tickets").ranges)


def test_a_run_is_proven_with_a_count_or_two_for_each_table() -> None:
    class Reading(MemoryGateway):
        read: tuple[str, ...] = ()

        def select(self, table: str, columns: Sequence[str], where: Sequence[Filter], *, key: str) -> Any:
            self.read = (*self.read, table)
            return super().select(table, columns, where, key=key)

    gateway = opened(Reading)
    mine, _ = seed(gateway)
    gateway.read = ()  # type: ignore[attr-defined]
    standing = ownership.stand(gateway, gateway.schema(), mine)
    assert gateway.read == ()  # type: ignore[attr-defined]
    assert standing.known == {table.table: table.ranges for table in mine.tables}
    assert not standing.doubts


@pytest.mark.parametrize("tickets", [12, 1_200])
def test_a_row_of_others_with_a_number_of_a_batch_is_not_vouched_for_by_the_rest_of_it(tickets: int) -> None:
    gateway = opened()
    gateway.insert("events", [{"id": -1, "name": "theirs"}], key="id")
    mine, _ = seed(gateway, tickets=tickets)
    gateway.rows["seats"].clear()
    numbers = sorted(gateway.rows["tickets"])[-5:]
    for number in numbers:
        gateway.rows["tickets"][number] = {"id": number, "event_id": -1, "code": f"theirs {number}"}
    for done in (removal.survey(gateway, mine), removal.remove(gateway, mine, ignore)):
        [why] = [account.why for account in done.accounts if account.left == 5]
        assert f"between {numbers[0]} and {numbers[-1]}" in why
    assert sorted(gateway.rows["tickets"]) == numbers
    assert set(gateway.rows["events"]) == {-1}


class Strict(MemoryGateway):
    """A condition on a column that is not there is an error, as it is to the API."""

    def count(self, table: str, where: Sequence[Filter]) -> int:
        for condition in where:
            if table in self.rows and condition.column not in self._schema.tables[table].columns:
                raise ApiError(
                    f"column {table}.{condition.column} does not exist (42703)", sqlstate="42703", status=400
                )
        return super().count(table, where)

    def select(self, table: str, columns: Sequence[str], where: Sequence[Filter], *, key: str) -> Any:
        self.count(table, [*where, *(Filter(column, "has", True) for column in columns)])
        return super().select(table, columns, where, key=key)


@pytest.mark.parametrize("unsettled", [False, True])
@pytest.mark.parametrize("gone", ["notes", "seats", "tickets.code"])
def test_a_table_or_a_column_that_is_gone_does_not_stop_the_teardown_of_the_rest(gone: str, unsettled: bool) -> None:
    gateway = opened(Strict)
    mine = killed(gateway, "tickets")[0] if unsettled else seed(gateway)[0]
    table, _, column = gone.partition(".")
    tables = {name: dict(columns) for name, columns in TABLES.items()}
    if column:
        del tables[table][column]
        for row in gateway.rows[table].values():
            del row[column]
    else:
        del tables[table], gateway.rows[table]
    gateway._schema = from_openapi(schemas.openapi(tables))
    assert not any(account.left for account in removal.survey(gateway, mine).accounts if account.why)
    done = removal.remove(gateway, mine, ignore)
    assert not any(account.left for account in done.accounts), done.accounts
    assert not any(gateway.rows.values())


def test_a_table_whose_key_was_renamed_is_named_and_goes_when_it_has_its_old_name() -> None:
    gateway = opened(Strict)
    mine, _ = seed(gateway)
    before, schema = deepcopy(gateway.rows), gateway._schema
    tables = {name: dict(columns) for name, columns in TABLES.items()}
    tables["tickets"] = {"number" if name == "id" else name: kind for name, kind in tables["tickets"].items()}
    tables["seats"]["ticket_id"] = "bigint"
    gateway._schema = from_openapi(schemas.openapi(tables))
    for row in gateway.rows["tickets"].values():
        row["number"] = row.pop("id")
    left = {account.table: account.why for account in removal.remove(gateway, mine, ignore).accounts if account.left}
    assert set(left) == {"events", "tickets", "seats"}, "seats are known by their tickets alone"
    assert "its key column id is gone; give it its old name" in left["tickets"]
    gateway.rows, gateway._schema = before, schema
    assert not any(account.left for account in removal.remove(gateway, mine, ignore).accounts)
    assert not any(gateway.rows.values())


def test_what_is_gone_beside_rows_that_nothing_proves_any_more_is_no_error() -> None:
    gateway = opened(Strict)
    mine, _ = seed(gateway)
    gateway.rows["seats"].clear()
    for row in gateway.rows["events"].values():
        row["name"] = "Renamed by the app"
    del gateway.rows["notes"]
    for row in gateway.rows["tickets"].values():
        del row["code"]
    tables = {name: dict(columns) for name, columns in TABLES.items() if name != "notes"}
    del tables["tickets"]["code"]
    gateway._schema = from_openapi(schemas.openapi(tables))
    before = deepcopy(gateway.rows)
    done = removal.remove(gateway, mine, ignore)
    assert {account.table: account.left for account in done.accounts if account.left} == {"events": 1, "tickets": 13}
    assert gateway.rows == before
