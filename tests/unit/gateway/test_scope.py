"""What belongs to a run in tables that are shaped as the app's are: without a key, as views, filled by others."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import schemas

from provision.errors import ApiError, TargetError
from provision.fixtures import ids, manifest, plan, recipe
from provision.fixtures.ids import Id, IdRange, NumberRange, Range, row_id
from provision.fixtures.manifest import AppTable, Manifest
from provision.fixtures.schema import from_openapi
from provision.gateway import Filter, removal, scope, seeding
from provision.gateway.memory import MemoryGateway
from provision.gateway.removal import Removal, _without

TABLES = {
    "events": {"id": "uuid! = pk", "name": "text!"},
    "tickets": {"id": "uuid! = pk", "event_id": "uuid! >events", "code": "text!"},
    "scans": {"ticket_id": "uuid! pk >tickets", "gate": "integer! pk", "event_id": "uuid >events", "mark": "uuid"},
    "audit": {"ticket_id": "uuid! >tickets", "note": "text"},
    "remarks": {"id": "bigint! = pk", "scan": "uuid"},
}
RECIPE = """
name: t
tables:
  events: {values: {name: "Night {run}-{n}"}}
  tickets: {rows: tickets, values: {code: "T-{run}-{n:05}"}}
tickets: {table: tickets, event: event_id}
"""
RUN = "20260601-200000-abcde"
Tables = dict[str, dict[str, str]]


def ignore(*_: object) -> None:
    pass


def opened(tables: Tables = TABLES, kind: type[MemoryGateway] = MemoryGateway) -> MemoryGateway:
    return kind(from_openapi(schemas.openapi(tables)))


def seed(gateway: MemoryGateway, text: str = RECIPE) -> Manifest:
    parsed, document = recipe.parse(Path("t.yaml"), text)
    planned = plan.build(parsed, document, gateway.schema(), RUN, date(2026, 6, 1), 12)
    lines: list[Mapping[str, Any]] = [manifest.announce(planned, created="", target="", schema="public", versions={})]
    seeding.fill(gateway, planned, lines.append, ignore)
    return manifest.read(json.loads(json.dumps(lines)))


def written_by_app(*entries: str) -> str:
    return RECIPE + f"written_by_app: {{{', '.join(entries)}}}\n"


def keys(gateway: MemoryGateway, table: str) -> list[Any]:
    return [row["id"] for row in gateway.rows[table].values()]


def put(gateway: MemoryGateway, table: str, *rows: dict[str, Any]) -> None:
    """Rows in a table that may have no key."""
    there = gateway.rows[table]
    there |= {len(there) + n: row for n, row in enumerate(rows)}


def remove(gateway: MemoryGateway, owned: Manifest) -> Removal:
    return removal.remove(gateway, owned, ignore)


def accounts(done: Removal) -> dict[str, tuple[int, int, int]]:
    return {account.table: (account.found, account.removed, account.left) for account in done.accounts}


@pytest.mark.parametrize("table", ["scans", "audit"])
def test_rows_that_the_app_wrote_into_a_table_without_a_single_key_are_counted_and_removed(table: str) -> None:
    gateway = opened()
    owned = seed(gateway, written_by_app(f"{table}: ticket_id"))
    put(gateway, table, *({"ticket_id": key, "gate": 1} for key in keys(gateway, "tickets")[:5]))
    put(gateway, table, {"ticket_id": "theirs", "gate": 1})
    assert accounts(removal.survey(gateway, owned))[table] == (5, 0, 5)
    assert accounts(remove(gateway, owned)) == {table: (5, 5, 0), "tickets": (13, 13, 0), "events": (1, 1, 0)}
    assert [row["ticket_id"] for row in gateway.rows[table].values()] == ["theirs"]


def test_a_row_of_a_keyless_table_that_two_of_its_columns_make_ours_is_counted_once() -> None:
    gateway = opened()
    owned = seed(gateway, written_by_app("scans: ticket_id"))
    both = (*owned.written_by_app, AppTable("scans", "event_id", "events"))
    event = keys(gateway, "events")[0]
    put(gateway, "scans", {"ticket_id": "gone", "gate": 1, "event_id": event})
    put(gateway, "scans", *({"ticket_id": key, "gate": 1, "event_id": event} for key in keys(gateway, "tickets")[:5]))
    done = remove(gateway, manifest.rebuilt(RUN, "", "", owned.tables, both, owned.parents))
    assert accounts(done)["scans"] == (6, 6, 0)
    assert gateway.rows["scans"] == {}


def test_rows_of_a_keyless_table_by_way_of_another_table_of_the_apps_are_removed() -> None:
    tables = {
        **TABLES,
        "logs": {"remark": "bigint >remarks"},
        "remarks": {"id": "bigint! = pk", "scan": "uuid >tickets"},
    }
    gateway = opened(tables)
    owned = seed(gateway, written_by_app("remarks: scan", "logs: remark"))
    gateway.rows["remarks"] = {n: {"id": n, "scan": key} for n, key in enumerate(keys(gateway, "tickets"))}
    put(gateway, "logs", {"remark": 3}, {"remark": 3}, {"remark": 4}, {"remark": 99})
    assert accounts(remove(gateway, owned))["logs"] == (3, 3, 0)
    assert list(gateway.rows["logs"].values()) == [{"remark": 99}]


class Counting(MemoryGateway):
    """Counts the reads of each table."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.reads = Counter[str]()

    def select(self, table: str, columns: Sequence[str], where: Sequence[Filter], *, key: str) -> Iterator[Any]:
        self.reads[table] += 1
        return super().select(table, columns, where, key=key)


def test_rows_by_way_of_a_table_of_the_apps_are_told_from_those_of_others_by_few_requests() -> None:
    tables = {
        **TABLES,
        "remarks": {"id": "bigint! = pk", "scan": "uuid >tickets"},
        "logs": {"id": "bigint! = pk", "remark": "bigint >remarks", "event_id": "uuid >events"},
    }
    gateway = opened(tables, Counting)
    owned = seed(gateway, written_by_app("remarks: scan", "logs: remark"))
    gateway.rows["remarks"] = {n: {"id": n, "scan": keys(gateway, "tickets")[n % 13]} for n in range(1_000)}
    gateway.rows["remarks"][1_000] = {"id": 1_000, "scan": "theirs"}
    event = keys(gateway, "events")[0]
    gateway.rows["logs"] = {n: {"id": n, "remark": n % 1_001, "event_id": event} for n in range(2_002)}
    gateway.rows["logs"][3_000] = {"id": 3_000, "remark": None, "event_id": event}
    theirs = {1_000, 2_001, 3_000}
    gateway.reads.clear()
    assert {row.key for row in removal.survey(gateway, owned).foreign} == theirs
    assert gateway.reads["remarks"] < 100, "not one for each of 2,000 rows"
    assert {row.key for row in remove(gateway, owned).foreign} == theirs
    assert set(gateway.rows["logs"]) == theirs
    assert set(gateway.rows["remarks"]) == {1_000}


def test_a_row_of_others_on_one_without_a_single_key_is_a_sentence_and_nothing_of_that_table_goes() -> None:
    remark = {"id": "bigint! = pk", "scan": "uuid"}
    schema = schemas.openapi({**TABLES, "remarks": remark})
    schema["definitions"]["remarks"]["properties"]["scan"]["description"] = "<fk table='scans' column='mark'/>"
    gateway = MemoryGateway(from_openapi(schema))
    owned = seed(gateway, written_by_app("scans: ticket_id"))
    put(gateway, "scans", {"ticket_id": keys(gateway, "tickets")[0], "gate": 1, "mark": "m"})
    put(gateway, "scans", {"ticket_id": keys(gateway, "tickets")[1], "gate": 1, "mark": None})
    gateway.rows["remarks"][1] = {"id": 1, "scan": "m"}
    [unnamed] = scope.open_scope(gateway, owned).unnamed()
    assert str(unnamed) == "remarks 1 references scans m by scan"
    for attempt in (removal.survey, lambda *of: removal.remove(*of, ignore)):
        with pytest.raises(TargetError, match="scans has no key of one column"):
            attempt(gateway, owned)
    assert (len(gateway.rows["scans"]), len(gateway.rows["tickets"])) == (2, 13)


# -- tables that have changed since


CYCLE = {
    **TABLES,
    "events": {"id": "uuid! = pk", "name": "text!", "first_ticket": "uuid >tickets"},
    "extras": {"id": "uuid! = pk", "name": "text!"},
}


@pytest.mark.parametrize("dropped", [True, False])
def test_a_table_that_changed_beside_a_cycle_of_others_does_not_stop_the_teardown(dropped: bool) -> None:
    gateway = opened(CYCLE)
    owned = seed(gateway, RECIPE.replace("tables:", "tables:\n  extras: {values: {name: 'X {run}-{n}'}}"))
    if dropped:
        gateway._schema = from_openapi(schemas.openapi({n: t for n, t in CYCLE.items() if n != "extras"}))
        del gateway.rows["extras"]
    else:
        gateway._schema = from_openapi(schemas.openapi({**CYCLE, "extras": {"number": "uuid! pk", "name": "text!"}}))
    done = accounts(remove(gateway, owned))
    assert (done["tickets"], done["events"]) == ((13, 13, 0), (1, 1, 0))
    assert done.get("extras") == (None if dropped else (1, 0, 1))


@pytest.mark.parametrize("events", [None, {"id": "text! pk", "name": "text! pk"}, {"a": "uuid! pk", "b": "text! pk"}])
def test_a_parent_that_changed_does_not_stop_what_a_row_of_others_keeps(events: dict[str, str] | None) -> None:
    tables = {**TABLES, "remarks": {"id": "bigint! = pk", "scan": "uuid >tickets"}}
    gateway = opened(tables)
    owned = seed(gateway)
    kept = keys(gateway, "tickets")[0]
    gateway.rows["remarks"][1] = {"id": 1, "scan": kept}
    changed = {**tables, "tickets": {**tables["tickets"], "event_id": "uuid!"}, "events": events or {}}
    if events is None:
        del changed["events"], gateway.rows["events"]
    gateway._schema = from_openapi(schemas.openapi(changed))
    assert accounts(remove(gateway, owned))["tickets"] == (13, 12, 1)
    assert list(gateway.rows["tickets"]) == [kept]


# -- views


SHOWING = {**TABLES, "details": {"id": "uuid pk", "event_id": "uuid >events", "code": "text"}}


class Showing(MemoryGateway):
    """`details` is a view of tickets, as PostgREST describes one; `hidden` are rows that it shows of another table."""

    hidden: tuple[dict[str, Any], ...] = ()

    def _table(self, name: str) -> dict[Any, dict[str, Any]]:
        if name != "details":
            return super()._table(name)
        return {row["id"]: row for row in (*self.rows["tickets"].values(), *self.hidden)}

    def delete(self, table: str, where: Sequence[Filter]) -> int:
        if table == "details":
            raise ApiError('cannot delete from view "details" (55000)', sqlstate="55000", status=500)
        return super().delete(table, where)


@pytest.mark.parametrize("kind", ["uuid", "bigint"])
def test_a_view_that_shows_rows_of_ours_is_not_taken_for_others_rows(kind: str) -> None:
    numbered = {**SHOWING["tickets"], "id": f"{kind}! = pk"}
    gateway = opened({**SHOWING, "tickets": numbered, "details": {**SHOWING["details"], "id": f"{kind} pk"}}, Showing)
    owned = seed(gateway)
    assert scope.open_scope(gateway, owned).unnamed() == []
    assert removal.survey(gateway, owned).foreign == []
    assert accounts(remove(gateway, owned)) == {"tickets": (13, 13, 0), "events": (1, 1, 0)}


class Cascading(Showing):
    """The hidden table's rows go with the events that they hang on, and nothing refuses that."""

    def delete(self, table: str, where: Sequence[Filter]) -> int:
        if table == "events":
            gone = {row["id"] for row in self._matching(table, where)}
            self.hidden = tuple(row for row in self.hidden if row["event_id"] not in gone)
        return super().delete(table, where)


@pytest.mark.parametrize("key", [5, 99])
def test_a_row_of_others_that_only_a_view_shows_keeps_what_it_hangs_on(key: int) -> None:
    numbered = {**SHOWING["tickets"], "id": "bigint! = pk"}
    gateway = opened({**SHOWING, "tickets": numbered, "details": {**SHOWING["details"], "id": "bigint pk"}}, Cascading)
    owned = seed(gateway)
    event = keys(gateway, "events")[0]
    gateway.hidden = ({"id": key, "event_id": event},)  # type: ignore[attr-defined] - of the double that was opened
    done = remove(gateway, owned)
    assert accounts(done) == {"tickets": (13, 13, 0), "events": (1, 0, 1)}
    assert [str(row) for row in done.foreign] == [f"details {key} references events {event} by event_id"]


def test_what_a_view_refuses_to_delete_does_not_keep_the_tables() -> None:
    gateway = opened(SHOWING, Showing)
    owned = seed(gateway, written_by_app("details: event_id"))
    done = remove(gateway, owned)
    assert accounts(done) == {"details": (13, 13, 0), "tickets": (13, 13, 0), "events": (1, 1, 0)}


# -- rows that are kept


def test_ids_that_are_kept_are_left_out_of_every_range_whatever_the_order_of_these() -> None:
    parts = [NumberRange(20, 5), NumberRange(1, 3), IdRange(RUN, 1, 0, 4)]
    kept = {2, 20, 24, 99, row_id(RUN, 1, 0), row_id(RUN, 2, 1)}
    assert list(_without(parts, kept)) == [
        NumberRange(21, 3),
        NumberRange(1, 1),
        NumberRange(3, 1),
        IdRange(RUN, 1, 1, 3),
    ]


def test_leaving_out_what_is_kept_looks_at_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def count(part: Range, kept: Iterable[Id]) -> list[Range]:
        looked.append(len(list(kept)))
        return [part]

    monkeypatch.setattr(ids, "without", count)
    parts = [NumberRange(first, 10) for first in range(0, 1000, 20)]
    assert list(_without(parts, set(range(0, 1000, 10)))) == parts
    assert sum(looked) == len(parts)
