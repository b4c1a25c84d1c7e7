"""Runs whose manifest is lost, found again in databases that keep times, texts and rows in ways of their own."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import schemas

from provision.fixtures import plan, recipe
from provision.fixtures.schema import from_openapi
from provision.gateway import Filter, Row, orphans, removal, seeding
from provision.gateway.memory import MemoryGateway
from provision.gateway.orphans import Lost
from provision.target import Secret, Target

TABLES = {
    "events": {"id": "uuid! = pk", "name": "text!"},
    "tickets": {"id": "uuid! = pk", "event_id": "uuid! >events", "code": "text!"},
    "seats": {"id": "bigint! = pk", "ticket_id": "uuid! >tickets", "starts_at": "timestamp with time zone!"},
}
RECIPE = """
name: t
tables:
  events: {values: {name: "Night {run}-{n}"}}
  tickets: {rows: tickets, values: {code: "B-{run}-{n}"}}
  seats: {rows: tickets}
tickets: {table: tickets, event: event_id}
"""
RUN = "20260601-200000-abcde"
Tables = dict[str, dict[str, str]]


def opened(tables: Tables = TABLES, kind: type[MemoryGateway] = MemoryGateway) -> MemoryGateway:
    return kind(from_openapi(schemas.openapi(tables)))


def seed(gateway: MemoryGateway, text: str = RECIPE) -> None:
    parsed, document = recipe.parse(Path("t.yaml"), text)
    planned = plan.build(parsed, document, gateway.schema(), RUN, date(2026, 6, 1), 12)
    seeding.fill(gateway, planned, lambda _: None, lambda *_: None)


def lost(gateway: MemoryGateway, text: str = RECIPE) -> Lost:
    schema = gateway.schema()
    [orphan] = orphans.runs(gateway, schema)
    assert orphan.run == RUN
    return orphans.lost(
        gateway, schema, orphan, *recipe.parse(Path("t.yaml"), text), Target("http://127.0.0.1:1", Secret("x"))
    )


def left(gateway: MemoryGateway, found: Lost) -> dict[str, int]:
    """The rows that are left when what was found is removed."""
    removal.remove(gateway, found.manifest, lambda *_: None)
    return {table: len(rows) for table, rows in gateway.rows.items() if rows}


class InBerlin(MemoryGateway):
    """A database whose time zone is Berlin's: that is how it reads times without a zone and shows all of them."""

    def select(self, table: str, columns: Sequence[str], where: Sequence[Filter], *, key: str) -> Iterator[Row]:
        for row in super().select(table, columns, where, key=key):
            yield {**row, **({"starts_at": in_berlin(row["starts_at"])} if row.get("starts_at") else {})}


def in_berlin(text: str) -> str:
    time, zone = datetime.fromisoformat(text), ZoneInfo("Europe/Berlin")
    return (time.astimezone(zone) if time.tzinfo else time.replace(tzinfo=zone)).isoformat()


@pytest.mark.parametrize("kind", [MemoryGateway, InBerlin])
@pytest.mark.parametrize(
    "values",
    [
        "",
        ', values: {starts_at: "{day+14}T20:00:00+02:00"}',
        ', values: {starts_at: "{day+14}T20:00:00"}',
        ', values: {starts_at: "2026-06-15T20:00:00-07:30"}',
    ],
)
def test_rows_are_known_by_their_times_in_whatever_zone_these_are_shown(kind: type[MemoryGateway], values: str) -> None:
    text = RECIPE.replace("seats: {rows: tickets", f"seats: {{rows: tickets{values}")
    gateway = opened(kind=kind)
    seed(gateway, text)
    assert left(gateway, lost(gateway, text)) == {}


@pytest.mark.parametrize(
    "time", ["infinity", "-infinity", "0044-03-15T12:00:00+00:00 BC", "12026-01-01T00:00:00+00:00"]
)
@pytest.mark.parametrize("kind", ["timestamp with time zone", "timestamp without time zone"])
def test_a_colleagues_row_with_a_time_that_python_does_not_know_is_kept_and_ours_go(kind: str, time: str) -> None:
    gateway = opened({**TABLES, "seats": {**TABLES["seats"], "starts_at": f"{kind}!"}})
    seed(gateway)
    ticket = next(iter(gateway.rows["tickets"]))
    gateway.rows["seats"][999] = {"id": 999, "ticket_id": ticket, "starts_at": time}
    assert left(gateway, lost(gateway)) == {"events": 1, "tickets": 1, "seats": 1}
    assert list(gateway.rows["seats"]) == [999]


def test_rows_of_which_the_recipe_makes_none_any_more_are_others() -> None:
    tables = {
        **TABLES,
        "zones": {"id": "bigint! = pk", "label": "text!"},
        "seats": {"id": "bigint! = pk", "ticket_id": "uuid! >tickets", "zone_id": "bigint! >zones", "open": "boolean!"},
    }
    text = RECIPE.replace("  seats:", '  zones: {values: {label: "Z-{run}-{n}"}}\n  seats:')
    gateway = opened(tables)
    seed(gateway, text)
    for zone in gateway.rows["zones"].values():
        zone["label"] = "a trigger's own"
    found = lost(gateway, text)
    assert [table.table for table in found.manifest.tables] == ["events", "tickets"]
    assert left(gateway, found) == {"events": 1, "tickets": 13, "zones": 1, "seats": 13}


class Shouting(MemoryGateway):
    """A trigger keeps texts in capitals."""

    def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
        texts = [{name: row[name].upper() for name in ("name", "code") if name in row} for row in rows]
        super().insert(table, [{**row, **text} for row, text in zip(rows, texts, strict=True)], key=key)


def test_a_run_is_known_by_its_id_in_capitals() -> None:
    numbered: Tables = {**TABLES, "tickets": {**TABLES["tickets"], "id": "bigint! = pk"}}
    del numbered["seats"]
    text = RECIPE.replace("  seats: {rows: tickets}\n", "")
    gateway = opened(numbered, Shouting)
    seed(gateway, text)
    assert all(RUN.upper() in row["code"] for row in gateway.rows["tickets"].values())
    found = lost(gateway, text)
    assert found.unclear == ()
    assert left(gateway, found) == {}


def test_a_run_in_capitals_of_which_another_recipe_is_given_is_named() -> None:
    numbered: Tables = {**TABLES, "tickets": {**TABLES["tickets"], "id": "bigint! = pk"}}
    del numbered["seats"]
    text = RECIPE.replace("  seats: {rows: tickets}\n", "")
    gateway = opened(numbered, Shouting)
    seed(gateway, text)
    [unclear] = lost(gateway, text.replace('"B-{run}', '"C-{run}')).unclear
    assert (unclear.table, unclear.rows) == ("tickets", 13)


def test_a_view_of_rows_of_the_run_is_not_owned_beside_their_table() -> None:
    tables = {**TABLES, "details": {"id": "uuid pk", "event_id": "uuid >events", "code": "text"}}

    class Showing(MemoryGateway):
        def _table(self, name: str) -> dict[Any, dict[str, Any]]:
            return super()._table("tickets" if name == "details" else name)

    gateway = opened(tables, Showing)
    seed(gateway)
    found = lost(gateway)
    assert [table.table for table in found.manifest.tables] == ["events", "tickets", "seats"]
    assert left(gateway, found) == {}


def test_a_view_is_owned_where_its_table_is_not_shown() -> None:
    gateway = opened({**TABLES, "tickets": {**TABLES["tickets"], "id": "uuid pk"}})
    seed(gateway)
    assert left(gateway, lost(gateway)) == {}
