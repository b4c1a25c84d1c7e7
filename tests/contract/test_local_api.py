"""The local API behaves as PostgREST does where the tool looks, and none of lite's traps is open."""

from __future__ import annotations

import json
import ssl
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from supabase import ClientOptions, create_client

from provision.local.keys import signed_jwt
from provision.local.stack import Stack, gates
from provision.local.state import load_state

Sql = Callable[[Stack, str], str]
MINIMAL = {"Prefer": "return=minimal"}


@dataclass(frozen=True)
class Night:
    """An event with an order to hang tickets on."""

    event: str
    ticket_type: str
    order: str

    def ticket(self, **values: Any) -> dict[str, Any]:
        identity = str(uuid.uuid4())
        links = {"event_id": self.event, "ticket_type_id": self.ticket_type, "order_id": self.order}
        return {"id": identity, **links, "attendee_name": "Ada", "qr_token": identity, "is_used": False, **values}


def client(stack: Stack, key: str | None, **headers: str) -> httpx.Client:
    keys = {"apikey": key} if key else {}
    return httpx.Client(base_url=f"{stack.url}/rest/v1/", headers={**keys, **headers}, timeout=30)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[httpx.Client]:
    with client(stack, stack.secret_key) as one:
        yield one


@pytest.fixture
def night(api: httpx.Client) -> Iterator[Night]:
    one = Night(*(str(uuid.uuid4()) for _ in range(3)))
    event = {"id": one.event, "name": "Night", "event_date": "2027-01-01", "event_time": "22:00", "status": "published"}
    kind = {"id": one.ticket_type, "event_id": one.event, "code": "A", "name": "Early", "price": 12.5}
    order = {"id": one.order, "event_id": one.event, "purchaser_email": "a@example.com", "subtotal": 1, "total": 1}
    for table, row in (("events", event), ("ticket_types", {**kind, "total_inventory": 5000}), ("orders", order)):
        assert api.post(table, json=row, headers=MINIMAL).status_code == 201
    yield one
    for table, column in (("tickets", "event_id"), ("orders", "event_id"), ("events", "id")):
        assert api.delete(table, params={column: f"eq.{one.event}"}).status_code == 204


@pytest.fixture(scope="module")
def helpers(stack: Stack, sql: Sql) -> Iterator[None]:
    """Functions that a test calls over the API."""
    sql(
        stack,
        """
        create function test_raise(p_code text) returns void language plpgsql as
          $$ begin raise exception 'told so' using errcode = p_code, detail = 'more', hint = 'try'; end $$;
        create function test_who() returns text language sql as $$ select current_user::text $$;
        create function test_number(p_text text) returns numeric language sql as $$ select p_text::numeric $$;
        create function test_backend() returns integer language sql as
          $$ select pg_backend_pid() from pg_sleep(0.1) $$;
        create function test_die() returns boolean language sql security definer as
          $$ select pg_terminate_backend(pg_backend_pid()) $$;
        grant execute on function test_die to service_role;
        grant execute on function test_raise, test_who, test_number, test_backend to anon, authenticated, service_role;
        """,
    )
    yield
    sql(stack, "drop function test_die, test_raise, test_who, test_number, test_backend")


def scan(api: httpx.Client, ticket: str, **other: Any) -> httpx.Response:
    arguments = {"p_ticket_id": ticket, "p_scanned_by": None, "p_device_id": "gate-1", "p_scan_method": "qr"}
    return api.post("rpc/scan_ticket_atomic", json={**arguments, **other})


def insert(
    api: httpx.Client, rows: list[dict[str, Any]], prefer: str = "return=minimal", **params: str
) -> httpx.Response:
    return api.post("tickets", json=rows, params=params, headers={"Prefer": prefer})


# The work itself


def test_a_ticket_is_admitted_once_and_each_attempt_leaves_an_audit_row(api: httpx.Client, night: Night) -> None:
    ticket = night.ticket()
    insert(api, [ticket])
    [first], [second] = (scan(api, ticket["id"]).json() for _ in range(2))
    assert (first["success"], first["already_scanned"], first["error_message"]) == (True, False, None)
    assert (second["success"], second["already_scanned"]) == (False, True)
    assert second["scanned_at"] == first["scanned_at"]
    logs = api.get("scan_logs", params={"ticket_id": f"eq.{ticket['id']}", "order": "scanned_at"}).json()
    assert [(row["scan_result"], row["scan_success"]) for row in logs] == [
        ("admitted", True),
        ("already_scanned", False),
    ]


def test_an_unknown_ticket_is_answered_with_200_and_the_words_not_found(api: httpx.Client) -> None:
    reply = scan(api, str(uuid.uuid4()))
    assert reply.status_code == 200
    assert reply.json() == [
        {
            "success": False,
            "already_scanned": False,
            "scanned_at": None,
            "scanned_by": None,
            "error_message": "Ticket not found",
        }
    ]


def test_a_locked_ticket_is_busy(stack: Stack, api: httpx.Client, night: Night, sql: Sql) -> None:
    ticket = night.ticket()
    insert(api, [ticket])
    with ThreadPoolExecutor() as pool:
        lock = f"begin; select from tickets where id = '{ticket['id']}' for update; select pg_sleep(0.5); commit"
        holder = pool.submit(sql, stack, lock)
        waits = "select count(*) from pg_stat_activity where query like '%pg_sleep(0.5)%' and wait_event = 'PgSleep'"
        until(lambda: sql(stack, waits) == "1")
        [row] = scan(api, ticket["id"]).json()
        holder.result()
    assert not row["success"]
    assert not row["already_scanned"]
    assert row["error_message"] == "Ticket being processed by another scanner"


def test_a_ticket_whose_is_used_is_null_is_not_admitted(api: httpx.Client, night: Night) -> None:
    ticket = night.ticket(is_used=None)
    insert(api, [ticket])
    [row] = scan(api, ticket["id"]).json()
    assert not row["success"]


def test_an_event_brings_eight_checklist_rows_and_takes_them_away(api: httpx.Client, night: Night) -> None:
    rows = api.get("event_checklist", params={"event_id": f"eq.{night.event}"}).json()
    assert len(rows) == 8


def test_six_thousand_tickets_are_inserted_in_seconds_not_minutes(api: httpx.Client, night: Night) -> None:
    api.patch("ticket_types", params={"id": f"eq.{night.ticket_type}"}, json={"total_inventory": 6000})
    started = time.monotonic()
    for _ in range(12):
        assert insert(api, [night.ticket() for _ in range(500)]).status_code == 201
    assert time.monotonic() - started < 15
    [kind] = api.get("ticket_types", params={"id": f"eq.{night.ticket_type}"}).json()
    assert kind["tickets_sold"] == 6000


def test_selling_more_than_the_inventory_violates_the_check(api: httpx.Client, night: Night) -> None:
    api.patch("ticket_types", params={"id": f"eq.{night.ticket_type}"}, json={"total_inventory": 1})
    reply = insert(api, [night.ticket(), night.ticket()])
    assert (reply.status_code, reply.json()["code"]) == (400, "23514")
    assert api.get("tickets", params={"event_id": f"eq.{night.event}"}).json() == []


def test_deleting_tickets_returns_them_to_the_inventory(api: httpx.Client, night: Night) -> None:
    insert(api, [night.ticket() for _ in range(3)])
    api.delete("tickets", params={"event_id": f"eq.{night.event}"})
    [kind] = api.get("ticket_types", params={"id": f"eq.{night.ticket_type}"}).json()
    assert kind["tickets_sold"] == 0


# Statuses and bodies


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("P0001", 400),
        ("22P02", 400),
        ("23502", 400),
        ("23514", 400),
        ("23503", 409),
        ("23505", 409),
        ("42501", 403),
        ("42P01", 404),
        ("42883", 404),
        ("55P03", 500),
        ("40001", 500),
        ("40P01", 500),
        ("57014", 500),
        ("53300", 503),
        ("57P01", 503),
        ("PT402", 402),
    ],
)
@pytest.mark.usefixtures("helpers")
def test_a_database_error_has_postgrests_status_and_body(api: httpx.Client, code: str, status: int) -> None:
    reply = api.post("rpc/test_raise", json={"p_code": code})
    assert reply.status_code == status
    assert reply.json() == {"code": code, "message": "told so", "details": "more", "hint": "try"}


@pytest.mark.usefixtures("helpers")
def test_insufficient_privilege_is_401_for_anon(stack: Stack) -> None:
    with client(stack, stack.publishable_key) as anon:
        assert anon.post("rpc/test_raise", json={"p_code": "42501"}).status_code == 401


@pytest.mark.parametrize(
    ("request_line", "body", "status", "code"),
    [
        ("POST rpc/no_such_function", {}, 404, "PGRST202"),
        ("POST rpc/scan_ticket_atomic", {"p_ticket": "x"}, 404, "PGRST202"),
        ("GET no_such_table", None, 404, "PGRST205"),
        ("POST tickets", {"no_such_column": 1}, 400, "PGRST204"),
        ("GET tickets?select=no_such_column", None, 400, "42703"),
        ("GET tickets?id=eq.x", None, 400, "22P02"),
        ("DELETE tickets", None, 400, "21000"),
        ("PATCH tickets", {"is_used": True}, 400, "21000"),
        ("POST events", {"name": "without a date"}, 400, "23502"),
    ],
)
def test_a_wrong_request_has_postgrests_status_and_code(
    api: httpx.Client, request_line: str, body: dict[str, Any] | None, status: int, code: str
) -> None:
    method, path = request_line.split(" ")
    reply = api.request(method, path, json=body)
    assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert reply.json().keys() == {"code", "message", "details", "hint"}


def test_an_unknown_scanner_violates_the_foreign_key(api: httpx.Client, night: Night) -> None:
    ticket = night.ticket()
    insert(api, [ticket])
    reply = scan(api, ticket["id"], p_scanned_by=str(uuid.uuid4()))
    assert (reply.status_code, reply.json()["code"]) == (409, "23503")
    assert api.get("tickets", params={"id": f"eq.{ticket['id']}"}).json()[0]["is_used"] is False


def test_an_unknown_scan_method_violates_the_check(api: httpx.Client, night: Night) -> None:
    ticket = night.ticket()
    insert(api, [ticket])
    reply = scan(api, ticket["id"], p_scan_method="guess")
    assert (reply.status_code, reply.json()["code"]) == (400, "23514")


def test_an_event_is_not_deleted_before_its_orders(api: httpx.Client, night: Night) -> None:
    reply = api.delete("events", params={"id": f"eq.{night.event}"})
    assert (reply.status_code, reply.json()["code"]) == (409, "23503")


# Reading and writing


def test_reads_stop_at_a_thousand_rows_and_say_how_many_there_are(api: httpx.Client, night: Night) -> None:
    for _ in range(3):
        insert(api, [night.ticket() for _ in range(400)])
    of_the_night = {"event_id": f"eq.{night.event}", "select": "id"}
    reply = api.get("tickets", params=of_the_night, headers={"Prefer": "count=exact"})
    assert (reply.status_code, len(reply.json()), reply.headers["content-range"]) == (206, 1000, "0-999/1200")
    rest = api.get("tickets", params={**of_the_night, "offset": "1000", "order": "id"})
    assert len(rest.json()) == 200
    head = api.head("tickets", params=of_the_night, headers={"Prefer": "count=exact"})
    assert (head.status_code, head.headers["content-range"], head.content) == (206, "0-999/1200", b"")


def test_the_result_of_a_write_is_not_cut(api: httpx.Client, night: Night) -> None:
    reply = insert(api, [night.ticket() for _ in range(1100)], "return=representation")
    assert len(reply.json()) == 1100


def test_a_batch_sent_again_changes_nothing(api: httpx.Client, night: Night) -> None:
    rows = [night.ticket() for _ in range(5)]
    again = "return=minimal,resolution=ignore-duplicates"
    assert [insert(api, rows, again, on_conflict="id").status_code for _ in range(2)] == [201, 201]
    assert len(api.get("tickets", params={"event_id": f"eq.{night.event}"}).json()) == 5


def test_minimal_replies_are_empty(api: httpx.Client, night: Night) -> None:
    reply = insert(api, [night.ticket()])
    assert (reply.status_code, reply.content) == (201, b"")
    reply = api.patch("tickets", params={"event_id": f"eq.{night.event}"}, json={"is_used": True}, headers=MINIMAL)
    assert (reply.status_code, reply.content) == (204, b"")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"attendee_name": "eq.Ada"}, ["Ada"]),
        ({"attendee_name": "in.(Ada,Cy)"}, ["Ada", "Cy"]),
        ({"attendee_name": "gte.Bo"}, ["Bo", "Cy"]),
        ({"attendee_name": "lte.Bo"}, ["Ada", "Bo"]),
        ({"attendee_name": "like.*d*"}, ["Ada"]),
        ({"is_used": "is.true"}, ["Bo"]),
        ({"is_used": "is.null"}, ["Cy"]),
        ({"is_used": "not.is.null"}, ["Ada", "Bo"]),
    ],
)
def test_filters_find_what_they_say(
    api: httpx.Client, night: Night, filters: dict[str, str], expected: list[str]
) -> None:
    people = [("Ada", False), ("Bo", True), ("Cy", None)]
    insert(api, [night.ticket(attendee_name=name, is_used=used) for name, used in people])
    found = api.get("tickets", params={"event_id": f"eq.{night.event}", "order": "attendee_name", **filters})
    assert [row["attendee_name"] for row in found.json()] == expected


def test_timestamps_are_iso_and_numbers_are_numbers(api: httpx.Client, night: Night) -> None:
    [kind] = api.get("ticket_types", params={"id": f"eq.{night.ticket_type}"}).json()
    assert kind["price"] == 12.5
    assert kind["created_at"][10] == "T"
    assert kind["created_at"].endswith("+00:00")


@pytest.mark.usefixtures("helpers")
@pytest.mark.parametrize("text", ["25.00", "0.1", "-7", "1234567890123456789.125"])
def test_numerics_keep_every_digit_they_need(api: httpx.Client, text: str) -> None:
    reply = api.post("rpc/test_number", json={"p_text": text})
    assert json.loads(reply.text, parse_float=str, parse_int=str).rstrip("0").rstrip(".") == text.rstrip("0").rstrip(
        "."
    )


# Who may do what


def test_each_key_stands_for_its_role(stack: Stack, helpers: None) -> None:
    keys = {
        stack.secret_key: "service_role",
        stack.service_role_key: "service_role",
        stack.publishable_key: "anon",
        stack.anon_key: "anon",
    }
    for key, role in keys.items():
        for headers in ({}, {"Authorization": f"Bearer {key}"}):
            with client(stack, key, **headers) as one:
                assert one.post("rpc/test_who").json() == role


@pytest.mark.parametrize("path", ["/rest/v1/events", "/rest/v1/", "/auth/v1/user", "/rest/v1/rpc/scan_ticket_atomic"])
def test_without_a_key_nobody_gets_in(stack: Stack, path: str) -> None:
    for headers in ({}, {"apikey": "sb_secret_wrong"}, {"apikey": signed_jwt({"role": "service_role"}, "guessed")}):
        assert httpx.get(stack.url + path, headers=headers).status_code == 401


@pytest.mark.parametrize("path", ["/_system/info", "/_system/config", "/_system/introspect", "/", "/storage/v1/bucket"])
def test_nothing_but_data_and_auth_is_open(stack: Stack, path: str) -> None:
    assert httpx.get(stack.url + path, headers={"apikey": stack.secret_key}).status_code == 404


def test_a_secret_key_is_refused_from_a_browser(stack: Stack) -> None:
    with client(stack, stack.secret_key, **{"User-Agent": "Mozilla/5.0 (X11)"}) as browser:
        assert browser.get("events").status_code == 401


@pytest.mark.parametrize("claims", [{"role": "service_role", "exp": 1}, {"role": "postgres"}])
def test_a_key_that_has_expired_or_claims_another_role_is_refused(stack: Stack, claims: dict[str, object]) -> None:
    secret = load_state(stack.ca_file.parent / "state.json").keys.jwt_secret
    with client(stack, signed_jwt(claims, secret)) as one:
        assert one.get("events").status_code == 401


def test_a_user_token_signed_by_somebody_else_is_refused(stack: Stack) -> None:
    token = signed_jwt({"role": "authenticated", "sub": str(uuid.uuid4())}, "guessed")
    with client(stack, stack.publishable_key, Authorization=f"Bearer {token}") as forger:
        reply = forger.get("events")
    assert (reply.status_code, reply.json()["code"]) == (401, "PGRST301")


def test_anon_sees_published_events_only_and_may_not_scan(stack: Stack, api: httpx.Client, night: Night) -> None:
    with client(stack, stack.publishable_key) as anon:
        mine = {"id": f"eq.{night.event}"}
        assert len(anon.get("events", params=mine).json()) == 1
        api.patch("events", params=mine, json={"status": "draft"})
        assert anon.get("events", params=mine).json() == []
        assert anon.get("orders").json()["code"] == "42501"
        assert scan(anon, str(uuid.uuid4())).status_code == 401


def test_a_new_table_is_closed_until_it_is_granted(stack: Stack, api: httpx.Client, sql: Sql) -> None:
    sql(stack, "create table test_closed (id int)")
    try:
        until(lambda: api.get("test_closed").status_code == 403)
        assert api.get("test_closed").json()["code"] == "42501"
    finally:
        sql(stack, "drop table test_closed")


@pytest.mark.filterwarnings("ignore:The '(timeout|verify)' parameter is deprecated")
def test_users_sign_up_sign_in_and_see_their_own_orders(
    stack: Stack, api: httpx.Client, night: Night, sql: Sql
) -> None:
    who = {"email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse"}
    with httpx.Client() as http:
        options = ClientOptions(auto_refresh_token=False, persist_session=False, httpx_client=http)
        supabase = create_client(stack.url, stack.publishable_key, options)
        signed_up = supabase.auth.sign_up(who)
        assert signed_up.user is not None
        supabase.auth.sign_in_with_password(who)
        assert supabase.table("orders").select("id").execute().data == []
        api.patch("orders", params={"id": f"eq.{night.order}"}, json={"user_id": signed_up.user.id})
        assert supabase.table("orders").select("id").execute().data == [{"id": night.order}]
        supabase.auth.sign_out()
    sql(stack, "delete from auth.users")


# The document


def test_the_document_describes_tables_as_postgrest_does(api: httpx.Client) -> None:
    document = api.get("").json()
    tickets = document["definitions"]["tickets"]
    assert set(tickets["required"]) >= {"id", "attendee_name", "event_id", "order_id", "qr_token", "ticket_type_id"}
    assert "is_used" not in tickets["required"]
    columns = tickets["properties"]
    assert columns["id"] == {
        "default": "gen_random_uuid()",
        "description": "Note:\nThis is a Primary Key.<pk/>",
        "format": "uuid",
        "type": "string",
    }
    assert columns["event_id"]["description"] == (
        "Note:\nThis is a Foreign Key to `events.id`.<fk table='events' column='id'/>"
    )
    assert (columns["is_used"]["type"], columns["is_used"].get("default")) == ("boolean", None)
    assert columns["status"]["default"] == "valid"
    assert document["definitions"]["events"]["properties"]["name"]["maxLength"] == 200
    price = document["definitions"]["ticket_types"]["properties"]["price"]
    assert (price["type"], price["format"]) == ("number", "numeric")
    assert {"/", "/tickets", "/rpc/scan_ticket_atomic"} <= document["paths"].keys()


def test_the_document_describes_function_arguments(api: httpx.Client) -> None:
    [body, _] = api.get("").json()["paths"]["/rpc/scan_ticket_atomic"]["post"]["parameters"]
    assert (body["name"], body["in"], body["required"]) == ("args", "body", True)
    assert body["schema"]["properties"] == {
        "p_ticket_id": {"format": "uuid", "type": "string"},
        "p_scanned_by": {"format": "uuid", "type": "string"},
        "p_device_id": {"format": "text", "type": "string"},
        "p_scan_method": {"format": "text", "type": "string"},
    }
    assert body["schema"]["required"] == ["p_ticket_id", "p_scanned_by", "p_device_id", "p_scan_method"]


def test_the_document_knows_enums_and_identities(stack: Stack, api: httpx.Client, sql: Sql) -> None:
    sql(
        stack,
        """
        create type test_mood as enum ('good', 'bad');
        create table test_moods (id bigint generated by default as identity primary key, mood test_mood default 'good',
                                 tags text[], amount int default 3);
        grant select on test_moods to service_role;
        """,
    )
    try:
        columns = api.get("").json()["definitions"]["test_moods"]["properties"]
        assert columns["mood"]["enum"] == ["good", "bad"]
        assert (columns["mood"]["default"], columns["mood"]["format"]) == ("good", "public.test_mood")
        assert columns["tags"] == {"format": "text[]", "items": {"type": "string"}, "type": "array"}
        assert columns["amount"] == {"default": 3, "format": "integer", "type": "integer"}
    finally:
        sql(stack, "drop table test_moods; drop type test_mood")


def test_the_document_is_for_secret_keys_only(stack: Stack) -> None:
    for key, status in ((stack.publishable_key, 403), (stack.anon_key, 403), (stack.service_role_key, 200)):
        with client(stack, key) as one:
            assert one.get("").status_code == status


# Traps of lite


@pytest.mark.usefixtures("helpers")
def test_as_many_requests_as_the_pool_has_connections_run_side_by_side(stack: Stack) -> None:
    with client(stack, stack.secret_key) as api, ThreadPoolExecutor(stack.pool * 2) as pool:
        backends = set(pool.map(lambda _: api.post("rpc/test_backend").json(), range(stack.pool * 2)))
    assert len(backends) == stack.pool


def test_the_schema_cache_follows_changes_and_notifications(stack: Stack, api: httpx.Client, sql: Sql) -> None:
    try:
        sql(stack, "alter event trigger pgrst_ddl_watch disable")
        sql(stack, "create table test_late (id int); grant select on test_late to service_role")
        assert api.get("test_late").status_code == 404
        sql(stack, "notify pgrst, 'reload schema'")
        until(lambda: api.get("test_late").status_code == 200)
    finally:
        sql(stack, "alter event trigger pgrst_ddl_watch enable; drop table if exists test_late")
    until(lambda: api.get("test_late").status_code == 404)


def test_a_column_added_while_statements_are_prepared_is_read(stack: Stack, api: httpx.Client, sql: Sql) -> None:
    sql(
        stack,
        "create table test_wide (id int); grant select on test_wide to service_role; insert into test_wide values (1)",
    )
    try:
        until(lambda: api.get("test_wide", params={"id": "eq.1"}).json() == [{"id": 1}])
        sql(stack, "alter table test_wide add more int default 2")
        until(lambda: api.get("test_wide", params={"id": "eq.1"}).json() == [{"id": 1, "more": 2}])
    finally:
        sql(stack, "drop table test_wide")


def test_killed_database_connections_are_replaced(stack: Stack, api: httpx.Client, sql: Sql) -> None:
    sql(stack, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'api'")

    def serves() -> bool:
        try:
            return api.get("events").status_code == 200
        except httpx.TransportError:
            return False

    assert api.get("events").status_code in {200, 503}, "a lost connection is no wrong request"
    until(serves)
    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(lambda _: api.get("events").status_code, range(50))) == {200}
    # and it listens again
    sql(stack, "create table test_after (id int); grant select on test_after to service_role")
    try:
        until(lambda: api.get("test_after").status_code == 200)
    finally:
        sql(stack, "drop table test_after")


@pytest.mark.usefixtures("helpers")
def test_a_connection_lost_under_a_request_is_503_and_the_next_request_is_served(api: httpx.Client) -> None:
    sent = [api.post("rpc/test_die").status_code for _ in range(3)]
    assert sent == [503, 503, 503]
    assert api.get("events").status_code == 200


def test_no_error_of_daily_work_fills_the_log_and_no_key_is_in_it(
    stack: Stack, api: httpx.Client, night: Night
) -> None:
    before = (stack.log_dir / "api.log").read_text()
    insert(api, [night.ticket(qr_token="same"), night.ticket(qr_token="same")])
    api.get("no_such_table")
    api.get("tickets", params={"id": "eq.x"})
    assert (stack.log_dir / "api.log").read_text() == before
    secret = load_state(stack.ca_file.parent / "state.json").keys.jwt_secret
    for log in stack.log_dir.iterdir():
        for key in (*stack.env().values(), secret):
            assert key == stack.url or key not in log.read_text()


# TLS


def test_http2_and_http1_are_served_over_tls_with_a_certificate_of_our_own(stack: Stack) -> None:
    context = ssl.create_default_context(cafile=stack.ca_file)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    for http2, version in ((True, "HTTP/2"), (False, "HTTP/1.1")):
        with httpx.Client(http2=http2, verify=context, headers={"apikey": stack.secret_key}) as one:
            reply = one.get(f"{stack.tls_url}/rest/v1/events", params={"limit": 0})
        assert (reply.status_code, reply.http_version) == (200, version)
    with httpx.Client() as stranger, pytest.raises(httpx.ConnectError, match="certificate"):
        stranger.get(stack.tls_url)


# Gates


def test_every_gate_says_what_it_is() -> None:
    known = gates()
    assert known.keys() >= {"row-lock-nowait", "guarded-update", "row-lock-waiting", "check-then-act"}
    assert not known["row-lock-nowait"].broken
    assert known["check-then-act"].broken
    assert all(gate.description and gate.sql for gate in known.values())
