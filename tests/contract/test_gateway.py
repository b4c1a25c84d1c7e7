"""One suite for every gateway: the double that ships in the package and supabase-py against the local stack."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from uuid import uuid4

import pytest
import schemas
from proxy import Proxy

from provision.errors import ApiError, Refused, TargetError, Unreachable
from provision.fixtures import manifest, plan, recipe
from provision.fixtures.ids import IdRange, row_id
from provision.fixtures.plan import Plan
from provision.gateway import BatchTooLarge, Filter, Gateway, among, removal, seeding, truth, within
from provision.gateway.memory import MemoryGateway
from provision.gateway.supabase import PAGE, SupabaseGateway
from provision.load.spec import Evidence, Truth
from provision.local.stack import Stack
from provision.target import Secret, Target

RECIPE = Path(__file__).parents[2] / "seeds" / "event-night.yaml"
NO_WAIT: Callable[[float], None] = lambda _: None  # noqa: E731


@pytest.fixture(params=["memory", "supabase"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    if request.param == "memory":
        yield MemoryGateway(schemas.ticketing(), schemas.CASCADES)
        return
    stack: Stack = request.getfixturevalue("stack")
    real = SupabaseGateway(target(stack), notify=NO_WAIT, sleep=NO_WAIT)
    yield real
    real.close()


def target(stack: Stack, key: str | None = None) -> Target:
    return Target(stack.url, Secret(key or stack.secret_key))


def staff(run: str, count: int) -> list[dict[str, str]]:
    return [{"id": row_id(run, 0, n), "display_name": f"{run} {n}"} for n in range(count)]


@pytest.fixture
def run(gateway: Gateway) -> Iterator[str]:
    """A run of its own for each test, whose staff is removed again."""
    name = f"contract-{uuid4().hex}"
    yield name
    gateway.delete("staff", within("id", IdRange(name, 0, 0, 1 << 47)))


def test_rows_that_were_written_are_counted_and_read_back_in_the_order_of_their_key(gateway: Gateway, run: str) -> None:
    rows = staff(run, 5)
    gateway.insert("staff", rows[::-1], key="id")
    where = within("id", IdRange(run, 0, 0, 5))
    assert gateway.count("staff", where) == 5
    assert [dict(row) for row in gateway.select("staff", ["display_name"], where, key="id")] == rows


def test_writing_the_same_rows_again_changes_nothing(gateway: Gateway, run: str) -> None:
    gateway.insert("staff", staff(run, 3), key="id")
    gateway.insert("staff", [{**row, "display_name": "changed"} for row in staff(run, 4)], key="id")
    names = [
        row["display_name"]
        for row in gateway.select("staff", ["display_name"], within("id", IdRange(run, 0, 0, 9)), key="id")
    ]
    assert names == [f"{run} 0", f"{run} 1", f"{run} 2", "changed"]


def test_a_read_of_more_rows_than_a_page_is_whole(gateway: Gateway, run: str) -> None:
    rows = staff(run, PAGE * 2 + 7)
    gateway.insert("staff", rows, key="id")
    read = [row["id"] for row in gateway.select("staff", [], within("id", IdRange(run, 0, 0, len(rows))), key="id")]
    assert read == [row["id"] for row in rows]


def test_a_range_deletes_its_own_rows_and_no_other(gateway: Gateway, run: str) -> None:
    gateway.insert("staff", staff(run, 10), key="id")
    assert gateway.delete("staff", within("id", IdRange(run, 0, 2, 5))) == 5
    left = [row["id"] for row in gateway.select("staff", [], within("id", IdRange(run, 0, 0, 10)), key="id")]
    assert left == [row_id(run, 0, n) for n in (0, 1, 7, 8, 9)]
    assert gateway.delete("staff", within("id", IdRange(run, 0, 2, 5))) == 0


def test_several_ranges_are_counted_read_and_deleted_without_what_lies_between(gateway: Gateway, run: str) -> None:
    gateway.insert("staff", staff(run, 10), key="id")
    parts = [IdRange(run, 0, first, count) for first, count in ((1, 1), (3, 3), (8, 1))]
    [where] = among("id", parts)
    assert gateway.count("staff", where) == 5
    inside = [row["id"] for row in gateway.select("staff", [], where, key="id")]
    assert inside == [row_id(run, 0, n) for n in (1, 3, 4, 5, 8)]
    assert gateway.delete("staff", where) == 5
    left = [row["id"] for row in gateway.select("staff", [], within("id", IdRange(run, 0, 0, 10)), key="id")]
    assert left == [row_id(run, 0, n) for n in (0, 2, 6, 7, 9)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Filter("display_name", "eq", "b"), 1),
        (Filter("display_name", "in", ["a", "c", "with, comma"]), 3),
        (Filter("display_name", "gt", "b"), 2),
        (Filter("display_name", "is", None), 0),
    ],
)
def test_conditions_mean_the_same_everywhere(gateway: Gateway, run: str, where: Filter, expected: int) -> None:
    names = ["a", "b", "c", "with, comma"]
    gateway.insert("staff", [{"id": row_id(run, 0, n), "display_name": name} for n, name in enumerate(names)], key="id")
    assert gateway.count("staff", [*within("id", IdRange(run, 0, 0, 9)), where]) == expected


def test_a_delete_without_a_condition_is_a_mistake_of_ours(gateway: Gateway) -> None:
    with pytest.raises(ValueError, match="without a condition"):
        gateway.delete("staff", [])


@pytest.mark.parametrize(
    ("table", "row", "sqlstate"),
    [
        ("staff", {"id": row_id("x", 0, 0)}, "23502"),
        ("staff", {"id": row_id("x", 0, 0), "display_name": "x", "colour": "red"}, "PGRST204"),
        ("nothing", {"id": row_id("x", 0, 0)}, "PGRST205"),
        ("event_checklist", {"id": 987654321, "event_id": row_id("x", 0, 0)}, "2350[23]"),
    ],
)
def test_refusals_carry_the_apis_code(gateway: Gateway, table: str, row: dict, sqlstate: str) -> None:
    with pytest.raises(ApiError, match=sqlstate):
        gateway.insert(table, [row], key="id")


def test_the_schema_has_what_the_recipe_needs(gateway: Gateway) -> None:
    schema = gateway.schema()
    assert schema.tables["tickets"].columns["order_id"].references == ("orders", "id")
    assert schema.tables["tickets"].columns["attendee_name"].must_be_given
    assert schema.tables["tickets"].key is not None
    assert set(schema.functions["scan_ticket_atomic"].arguments) == set(schemas.SCAN)


def planned(gateway: Gateway, tickets: int) -> Plan:
    parsed, document = recipe.parse(RECIPE, RECIPE.read_text())
    return plan.build(parsed, document, gateway.schema(), f"contract-{uuid4().hex}", date(2026, 6, 1), tickets)


def test_a_plan_is_filled_seen_and_emptied_to_the_last_row(gateway: Gateway) -> None:
    plan_ = planned(gateway, 40)
    line = manifest.announce(plan_, created="", target="", schema="public", versions={})
    owned = manifest.read([json.loads(json.dumps(line))])
    seeding.fill(gateway, plan_, lambda _: None, lambda *_: None)
    try:
        wanted = Truth(consumed=Evidence(table="tickets", where={"is_used": True}))
        ids = plan_.table("tickets").ids
        assert truth.take(gateway, gateway.schema(), wanted, [ids]).consumed == frozenset()
        free = Truth(consumed=Evidence(table="tickets", where={"is_used": False}))
        assert len(truth.take(gateway, gateway.schema(), free, [ids]).consumed or ()) == 41
    finally:
        accounts = removal.remove(gateway, owned, lambda *_: None).accounts
    assert {a.table: a.left for a in accounts} == dict.fromkeys((a.table for a in accounts), 0)
    assert sum(account.removed for account in accounts) >= 41


def test_a_wrong_key_is_refused_without_being_shown(stack: Stack) -> None:
    wrong = "sb_secret_wrong_0123456789abcdef"
    real = SupabaseGateway(target(stack, wrong), notify=NO_WAIT, sleep=NO_WAIT)
    with pytest.raises(Refused) as refused:
        real.schema()
    real.close()
    assert wrong not in f"{refused.value!r} {refused.value} {refused.value.hint}"


def test_a_host_that_does_not_answer_is_unreachable_after_the_last_attempt() -> None:
    waits: list[float] = []
    real = SupabaseGateway(Target("http://127.0.0.1:9", Secret("k")), notify=NO_WAIT, sleep=waits.append)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9 does not answer"):
        real.schema()
    real.close()
    assert len(waits) == 5


def test_a_server_that_is_no_supabase_is_named_so(stack: Stack) -> None:
    import gate as gates

    with gates.serving(gates.correct, []) as gate:
        real = SupabaseGateway(Target(gate.url, Secret("k")), notify=NO_WAIT, sleep=NO_WAIT)
        with pytest.raises(TargetError):
            real.schema()
        real.close()


def test_rows_whose_key_the_database_makes_come_back_with_it_in_their_order(gateway: Gateway, run: str) -> None:
    event = {"id": row_id(run, 1, 0), "name": run, "event_date": "2031-01-01", "event_time": "20:00"}
    gateway.insert("events", [event], key="id")
    try:
        first = gateway.last("event_checklist", "id", ())
        rows = [{"event_id": event["id"], "position": 100 + n, "task": f"{run} {n}"} for n in range(3)]
        written = gateway.add(
            "event_checklist", rows, columns=["id", "task"], look=lambda: pytest.fail("no need to look")
        )
        assert [row["task"] for row in written] == [row["task"] for row in rows]
        assert gateway.last("event_checklist", "id", [Filter("event_id", "eq", event["id"])]) == written[-1]["id"]
        assert first is None or first < written[0]["id"]
        middle = Filter("id", "outside", (written[1]["id"], written[1]["id"]))
        mine = [Filter("event_id", "eq", event["id"]), Filter("position", "gte", 100)]
        assert gateway.count("event_checklist", [*mine, middle]) == 2
        named = [Filter("task", "match", f"{run} [0-9]"), Filter("task", "lacks", " 1")]
        assert gateway.count("event_checklist", [*named, Filter("task", "has", True)]) == 2
    finally:
        gateway.delete("event_checklist", [Filter("event_id", "eq", event["id"])])
        gateway.delete("events", [Filter("id", "eq", event["id"])])


@pytest.mark.parametrize(("rows", "sent"), [(2, 3), (19, 3), (20, 1)])
def test_few_rows_with_ids_of_the_databases_are_tried_again_before_they_are_parted(
    stack: Stack, rows: int, sent: int
) -> None:
    name = f"contract-{uuid4().hex}"
    with Proxy(stack.url, lambda number: "57014" if number < 2 else None) as proxy:
        real = SupabaseGateway(Target(proxy.address, Secret(stack.secret_key)), notify=NO_WAIT, sleep=NO_WAIT)
        with closing(real):
            try:
                written = len(real.add("staff", staff(name, rows), columns=["id", "display_name"], look=lambda: ()))
            except BatchTooLarge:
                written = 0
            assert (written, proxy.requests) == (rows if sent == 3 else 0, sent)
        proxy.quiet()
    with closing(SupabaseGateway(Target(stack.url, Secret(stack.secret_key)), notify=NO_WAIT)) as direct:
        assert direct.delete("staff", within("id", IdRange(name, 0, 0, rows))) == written


def test_a_single_row_that_took_too_long_once_is_tried_again_and_several_are_handed_back(stack: Stack) -> None:
    faults = ["57014", None, "57014", "57014", None]
    name = f"contract-{uuid4().hex}"
    with Proxy(stack.url, lambda number: faults[number] if number < len(faults) else None) as proxy:
        behind = Target(proxy.address, Secret(stack.secret_key))
        real = SupabaseGateway(behind, notify=NO_WAIT, sleep=NO_WAIT)
        with closing(real):
            real.insert("staff", staff(name, 1), key="id")
            with pytest.raises(BatchTooLarge):
                real.insert("staff", staff(name, 2), key="id")
            assert real.delete("staff", within("id", IdRange(name, 0, 0, 1))) == 1
        assert (proxy.faults["57014"], proxy.requests, real.retries) == (3, 5, 2)
        proxy.quiet()
