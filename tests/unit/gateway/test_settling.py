"""Batches whose replies never came: what is found is whole, what cannot be known is named, and nothing is forgotten."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import schemas

from provision.errors import ApiError, ConfigError, TargetError
from provision.fixtures import manifest, plan, recipe
from provision.fixtures.manifest import Manifest
from provision.fixtures.plan import Plan
from provision.fixtures.schema import from_openapi
from provision.gateway import (
    LONGEST,
    BatchTooLarge,
    Filter,
    Look,
    Row,
    ownership,
    removal,
    seeding,
    settling,
    text_chunks,
)
from provision.gateway.memory import MemoryGateway

TABLES = {
    "badges": {"id": "bigint! = pk", "code": "text!", "kind": "text!"},
    "events": {"id": "uuid! = pk", "name": "text!"},
    "tickets": {"id": "bigint! = pk", "event_id": "uuid! >events", "code": "text!"},
    "seats": {"id": "bigint! = pk", "ticket_id": "bigint! >tickets", "place": "integer!"},
}
RECIPE = """
name: t
tables:
  badges: {rows: tickets, values: {code: "B-{short}-{n}", kind: {cycle: [plain, vip]}}}
  events: {values: {name: "Night {run}-{n}"}}
  tickets: {rows: tickets, values: {code: "T-{run}-{n}"}}
  seats: {rows: tickets}
tickets: {table: tickets, event: event_id}
"""
RUN = "20260601-200000-abcde"
Lines = list[Mapping[str, Any]]


class Faulty(MemoryGateway):
    """Faults at the nth insert into a table, and a trigger that rewrites its rows."""

    def __init__(self, faults: Mapping[tuple[str, int], str], rewrite: Callable[[Row], Row] = dict) -> None:
        super().__init__(from_openapi(schemas.openapi(TABLES)))
        self.faults, self.rewrite, self.calls, self.read = dict(faults), rewrite, Counter[str](), Counter[str]()

    def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
        super().insert(table, [self.rewrite(row) for row in rows], key=key)

    def select(self, table: str, columns: Sequence[str], where: Sequence[Filter], *, key: str) -> Iterator[Row]:
        for row in super().select(table, columns, where, key=key):
            self.read[table] += 1
            yield row

    def add(self, table: str, rows: Sequence[Row], *, columns: Sequence[str], look: Look) -> Sequence[Row]:
        self.calls[table] += 1
        fault = self.faults.get((table, self.calls[table]), self.faults.get((table, 0)))
        if fault == "killed before":
            raise KeyboardInterrupt
        if fault in {"refused", "late", "late, then killed", "late, unique"}:
            assert not look()
        if fault in {"late", "late, then killed", "late, unique"}:  # the first statement ends only now
            super().add(table, rows, columns=columns, look=look)
        if fault == "late, unique":
            raise ApiError("duplicate key value violates a constraint (23505)", sqlstate="23505", status=409)
        done = super().add(table, rows, columns=columns, look=look)
        if fault in {"killed", "late, then killed"}:
            raise KeyboardInterrupt
        if fault == "lost, and one more came":
            self._made += 1
            more = {**self.rows[table][self._made - 1], "id": self._made, "place": 99}
            MemoryGateway.insert(self, table, [more], key="id")
        if fault and fault.startswith("lost"):
            return look() or super().add(table, rows, columns=columns, look=look)
        return done


def hashed(row: Row) -> Row:
    return {**row, **{name: hashlib.sha256(row[name].encode()).hexdigest() for name in ("code",) if name in row}}


def some_hashed(row: Row) -> Row:
    return hashed(row) if row.get("kind") == "vip" else row


def planned(gateway: MemoryGateway, tickets: int = 12, text: str = RECIPE) -> Plan:
    parsed, document = recipe.parse(Path("t.yaml"), text)
    return plan.build(parsed, document, gateway.schema(), RUN, date(2026, 6, 1), tickets)


def seed(gateway: MemoryGateway, tickets: int = 12, text: str = RECIPE) -> Lines:
    """The manifest's lines of a seed that ended well or was killed."""
    plan_ = planned(gateway, tickets, text)
    lines: Lines = [manifest.announce(plan_, created="", target="", schema="public", versions={})]
    with suppress(KeyboardInterrupt):
        seeding.fill(gateway, plan_, lines.append, lambda *_: None)
    return lines


def known(lines: Lines) -> Manifest:
    return manifest.read(json.loads(json.dumps(lines)))


def resume(gateway: MemoryGateway, lines: Lines, tickets: int = 12) -> None:
    seeding.fill(gateway, planned(gateway, tickets), lines.append, lambda *_: None, known(lines))


def left(gateway: MemoryGateway, lines: Lines) -> dict[str, str]:
    """What a teardown says of the tables in which it leaves rows."""
    done = removal.remove(gateway, known(lines), lambda *_: None)
    return {account.table: account.why for account in done.accounts if account.left}


def attach(gateway: MemoryGateway, tickets: int) -> set[int]:
    """A colleague's tickets on the event of the run."""
    [event] = gateway.rows["events"]
    rows = [{"id": 9_000 + n, "event_id": event, "code": f"their own {n}"} for n in range(tickets)]
    MemoryGateway.insert(gateway, "tickets", rows, key="id")
    return {row["id"] for row in rows}


@pytest.mark.parametrize(("tickets", "batch", "theirs"), [(1, 1, 2), (500, 2, 1), (1_000, 2, 500)])
def test_rows_of_a_colleague_are_not_taken_for_a_batch_that_was_never_applied(
    tickets: int, batch: int, theirs: int
) -> None:
    for go_on in (False, True):
        gateway = Faulty({("tickets", batch): "killed before"})
        lines = seed(gateway, tickets)
        own = attach(gateway, theirs)
        if go_on and batch == 1:
            with pytest.raises(ConfigError, match="the reply to 2 new rows was lost, and 2 rows came since"):
                resume(gateway, lines, tickets)
        elif go_on:
            resume(gateway, lines, tickets)
            assert len(gateway.rows["tickets"]) == tickets + 1 + theirs
        assert left(gateway, lines)
        assert set(gateway.rows["tickets"]) == own


@pytest.mark.parametrize(("tickets", "batch"), [(12, 1), (1_100, 2)])
def test_the_rows_of_a_batch_whose_texts_a_trigger_rewrote_are_named(tickets: int, batch: int) -> None:
    gateway = Faulty({("badges", batch): "killed"}, some_hashed)
    lines = seed(gateway, tickets)
    rest = {n for n, row in gateway.rows["badges"].items() if len(row["code"]) == 64 and n > (batch - 1) * 500}
    with pytest.raises(ConfigError, match=f"and {len(rest)} rows came since"):
        resume(gateway, lines, tickets)
    why = left(gateway, lines)
    assert f"between {min(rest)} and {max(rest)}" in why["badges"]
    assert set(gateway.rows["badges"]) == rest


def test_rows_that_were_rewritten_although_the_table_kept_its_texts_before_are_named() -> None:
    gateway = Faulty({("badges", 2): "killed"}, lambda row: hashed(row) if row["id"] in range(601, 701) else row)
    assert "and 100 rows came since" in left(gateway, seed(gateway, 1_100))["badges"]
    assert set(gateway.rows["badges"]) == set(range(601, 701))


def test_a_few_rows_without_a_text_are_found_by_their_parents() -> None:
    gateway = Faulty({("seats", 1): "killed"})
    lines = seed(gateway, 3)
    resume(gateway, lines, 3)
    assert len(gateway.rows["seats"]) == 4
    assert not left(gateway, lines)
    assert not any(gateway.rows.values())


def test_what_hangs_on_a_run_of_which_a_batch_was_sent_again_raises_no_doubt_of_the_run() -> None:
    gateway = Faulty({("tickets", 1): "refused", ("seats", 1): "refused"}, hashed)
    lines = seed(gateway)
    attach(gateway, 3)
    MemoryGateway.insert(gateway, "seats", [{"id": 9_000, "ticket_id": 9_000, "place": 1}], key="id")
    assert not ownership.stand(gateway, gateway.schema(), known(lines)).doubts
    assert set(left(gateway, lines)) == {"events"}
    assert set(gateway.rows["tickets"]) == {9_000, 9_001, 9_002}


def test_a_batch_of_many_that_was_rewritten_in_part_is_found_by_its_texts_and_its_parents() -> None:
    gateway = Faulty({("tickets", 1): "killed"}, lambda row: hashed(row) if row["id"] in range(60, 72) else row)
    assert not left(gateway, seed(gateway, 50))
    assert not any(gateway.rows.values())


def test_a_batch_of_a_table_without_parents_is_found_by_texts_that_were_changed_a_little() -> None:
    gateway = Faulty(
        {("badges", 1): "killed"}, lambda row: {**row, "code": f"* {row['code'].upper()} *"} if "kind" in row else row
    )
    lines = seed(gateway)
    resume(gateway, lines)
    assert len(gateway.rows["badges"]) == 13
    assert not left(gateway, lines)


def test_rows_that_hang_on_rows_of_others_are_not_taken_for_a_lost_batch() -> None:
    gateway = Faulty({("tickets", 1): "killed before"})
    lines = seed(gateway)
    MemoryGateway.insert(gateway, "events", [{"id": "theirs", "name": "theirs"}], key="id")
    theirs = [{"id": n, "event_id": "theirs", "code": f"their own {n}"} for n in range(100, 113)]
    MemoryGateway.insert(gateway, "tickets", theirs, key="id")
    resume(gateway, lines)
    assert len(gateway.rows["tickets"]) == 26
    assert not left(gateway, lines)
    assert set(gateway.rows["tickets"]) == {row["id"] for row in theirs}


@pytest.mark.parametrize(
    ("fault", "gone"), [("killed", {5}), ("killed", {13}), ("late, then killed", {*range(2, 14), 26})]
)
def test_a_batch_that_is_not_there_as_it_was_sent_is_not_gone_on_from(fault: str, gone: set[int]) -> None:
    gateway = Faulty({("badges", 1): fault})
    lines = seed(gateway)
    for number in gone:
        del gateway.rows["badges"][number]
    rows = len(gateway.rows["badges"])
    with pytest.raises(TargetError, match=f"badges: 13 rows were written, but {rows} are there"):
        resume(gateway, lines)
    assert not left(gateway, lines)
    assert not any(gateway.rows.values())


@pytest.mark.parametrize(
    ("rows", "fitting", "batches"),
    [
        (21, 20, [11, 10]),
        (39, 20, [20, 19]),
        (41, 20, [11, 11, 19]),
        (1_000, 130, [125] * 8),
        (30, 11, [8, 8, 8, 6]),
        (19, 18, [9, 9, 1]),
        (11, 1, [1] * 11),
        (2, 1, [1, 1]),
    ],
)
def test_batches_that_were_too_large_become_smaller_and_too_few_to_be_told_only_at_last(
    rows: int, fitting: int, batches: list[int]
) -> None:
    class Slow(Faulty):
        def add(self, table: str, rows: Sequence[Row], *, columns: Sequence[str], look: Look) -> Sequence[Row]:
            if len(rows) > fitting:
                raise BatchTooLarge("canceling statement due to statement timeout", sqlstate="57014", status=500)
            return super().add(table, rows, columns=columns, look=look)

    lines = seed(Slow({}), rows - 1)
    assert [sum(part.count for part in parts) for _, parts in known(lines).table("seats").told] == batches


def test_a_batch_that_was_written_twice_is_not_gone_on_from_and_goes_as_a_whole() -> None:
    gateway = Faulty({("tickets", 1): "late, then killed"})
    lines = seed(gateway, 1_200)
    assert len(gateway.rows["tickets"]) == 1_000
    with pytest.raises(TargetError, match="tickets: 500 rows were written, but 1000 are there"):
        resume(gateway, lines, 1_200)
    assert not left(gateway, lines)
    assert not any(gateway.rows.values())


@pytest.mark.parametrize("cycle", [2, 3, 4, 5, 6, 7, 8])
def test_a_trigger_that_rewrites_every_few_texts_is_noticed(cycle: int) -> None:
    gateway = Faulty({}, lambda row: hashed(row) if row.get("kind") == "vip" else row)
    kinds = ", ".join(["plain"] * (cycle - 1) + ["vip"])
    lines = seed(gateway, 1_100, RECIPE.replace("plain, vip", kinds))
    assert known(lines).table("badges").stored


class Viewed(Faulty):
    """Shows its tables as views, in which the column with a row's transaction is missing."""

    def select(self, table: str, columns: Sequence[str], where: Sequence[Filter], *, key: str) -> Iterator[Row]:
        if settling.TRANSACTION in columns:
            raise ApiError(f"column {table}.xmin does not exist (42703)", sqlstate="42703", status=400)
        yield from super().select(table, columns, where, key=key)


def test_rows_of_a_view_are_not_written_twice_when_more_hang_on_ours_than_were_sent() -> None:
    gateway = Viewed({("seats", 1): "lost, and one more came"})
    lines: Lines = [manifest.announce(planned(gateway), created="", target="", schema="public", versions={})]
    with pytest.raises(TargetError, match="the reply to 13 new rows was lost, and 14 rows came since") as refused:
        seeding.fill(gateway, planned(gateway), lines.append, lambda *_: None)
    assert "Do others, or a trigger, write into seats" in refused.value.hint
    assert len(gateway.rows["seats"]) == 14
    with pytest.raises(ConfigError, match="14 rows came since"):
        resume(gateway, lines)
    assert "14 rows came since" in left(gateway, lines)["seats"]
    assert len(gateway.rows["seats"]) == 14


def test_rows_of_a_view_are_found_by_their_number_alone() -> None:
    gateway = Viewed({("tickets", 1): "killed"}, hashed)
    assert not left(gateway, seed(gateway))
    assert not any(gateway.rows.values())


def test_a_read_that_takes_too_long_is_no_view() -> None:
    class Slow(Faulty):
        def select(self, table: str, columns: Sequence[str], where: Sequence[Filter], *, key: str) -> Iterator[Row]:
            if settling.TRANSACTION in columns:
                raise BatchTooLarge("canceling statement due to statement timeout", sqlstate="57014", status=500)
            yield from super().select(table, columns, where, key=key)

    with pytest.raises(BatchTooLarge):
        left(gateway := Slow({("tickets", 1): "killed"}, hashed), seed(gateway))


def test_rows_of_one_transaction_are_told_from_one_that_came_beside_them() -> None:
    gateway = Faulty({("seats", 1): "lost, and one more came"})
    lines = seed(gateway)
    [theirs] = [row for row in gateway.rows["seats"].values() if row["place"] == 99]
    assert len(gateway.rows["seats"]) == 14
    assert set(left(gateway, lines)) == {"events", "tickets"}
    assert list(gateway.rows["seats"].values()) == [theirs]


@pytest.mark.parametrize("theirs", [1, 4, 12])
def test_the_rewritten_rows_of_a_killed_batch_go_without_those_that_others_attached(theirs: int) -> None:
    gateway = Faulty({("tickets", 1): "killed"}, hashed)
    lines = seed(gateway)
    attached = attach(gateway, theirs)
    assert set(left(gateway, lines)) == {"events"}
    assert set(gateway.rows["tickets"]) == attached


def test_as_many_rows_as_were_sent_that_were_attached_one_by_one_are_not_taken_for_them() -> None:
    gateway = Faulty({("tickets", 1): "killed before"}, hashed)
    lines = seed(gateway)
    [event] = gateway.rows["events"]
    for n in range(13):
        MemoryGateway.insert(gateway, "tickets", [{"id": 9_000 + n, "event_id": event, "code": f"{n}"}], key="id")
    assert "13 rows came since" in left(gateway, lines)["tickets"]
    assert len(gateway.rows["tickets"]) == 13


def test_of_two_transactions_with_as_many_rows_as_were_sent_none_is_taken_for_ours() -> None:
    gateway = Faulty({("tickets", 1): "killed"}, hashed)
    lines = seed(gateway)
    attach(gateway, 13)
    assert "26 rows came since" in left(gateway, lines)["tickets"]
    assert len(gateway.rows["tickets"]) == 26


def test_a_few_rows_that_others_attach_while_a_reply_is_lost_are_not_taken_for_the_batch() -> None:
    class Meanwhile(Faulty):
        def add(self, table: str, rows: Sequence[Row], *, columns: Sequence[str], look: Look) -> Sequence[Row]:
            if table == "tickets" and not self.rows["tickets"]:
                attach(self, 2)
                return look()
            return super().add(table, rows, columns=columns, look=look)

    gateway = Meanwhile({})
    lines: Lines = [manifest.announce(planned(gateway, 1), created="", target="", schema="public", versions={})]
    with pytest.raises(TargetError, match="the reply to 2 new rows was lost, and 2 rows came since"):
        seeding.fill(gateway, planned(gateway, 1), lines.append, lambda *_: None)
    assert left(gateway, lines)
    assert set(gateway.rows["tickets"]) == {9_000, 9_001}


@pytest.mark.parametrize(("tickets", "theirs"), [(3, [1, 1]), (3, [4, 4]), (3, [1, 4]), (12, [13, 13]), (12, [26])])
def test_of_many_attempts_at_a_batch_one_was_applied_at_most(tickets: int, theirs: list[int]) -> None:
    gateway = Faulty({("seats", 1): "killed before"})
    lines = seed(gateway, tickets)
    lines += [line for line in lines if line["event"] == "batch" and line["table"] == "seats"] * 5
    first = min(gateway.rows["tickets"])
    for number, rows in enumerate(theirs, 1):
        attached = [{"id": 9_000 + 100 * number + n, "ticket_id": first, "place": 1} for n in range(rows)]
        MemoryGateway.insert(gateway, "seats", attached, key="id")
    assert f"{sum(theirs)} rows came since" in left(gateway, lines)["seats"]
    assert len(gateway.rows["seats"]) == sum(theirs)


@pytest.mark.parametrize(("fault", "left_over"), [("late", 26), ("killed", 13)])
def test_a_trigger_that_hides_the_transaction_hides_no_double(fault: str, left_over: int) -> None:
    class Nested(Faulty):
        """Updates each row in a subtransaction of its own, whose number is then the row's."""

        def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
            for row in rows:
                super().insert(table, [row], key=key)

    gateway = Nested({("tickets", 1): fault}, hashed)
    lines: Lines = [manifest.announce(planned(gateway), created="", target="", schema="public", versions={})]
    with pytest.raises((TargetError, KeyboardInterrupt)):
        seeding.fill(gateway, planned(gateway), lines.append, lambda *_: None)
    assert len(gateway.rows["tickets"]) == left_over
    assert left(gateway, lines)


@pytest.mark.parametrize("fault", ["lost", "killed"])
@pytest.mark.parametrize("stored", ["a9c1e-77b2-4d01-vwxyz000001", "a9c1e-77", "a9c1e000077"])
@pytest.mark.parametrize("text", ["{short}{n:06}", "{short}-{n}", "T-{run}-{n}"])
def test_a_rewritten_text_is_never_taken_for_another_runs(text: str, stored: str, fault: str) -> None:
    gateway = Faulty({("badges", 1): fault}, lambda row: {**row, "code": stored} if "kind" in row else row)
    source = RECIPE.replace("B-{short}-{n}", text)
    if fault == "lost":
        with pytest.raises(TargetError, match="13 rows came since"):
            seed(gateway, text=source)
    else:
        assert "13 rows came since" in left(gateway, seed(gateway, text=source))["badges"]
    assert len(gateway.rows["badges"]) == 13


def test_of_rows_that_may_be_ours_it_is_said_how_many_came_and_where_they_lie() -> None:
    gateway = Faulty({("badges", 1): "killed"}, hashed)
    lines = seed(gateway)
    theirs = [{"id": n, "code": f"theirs {n}", "kind": "x"} for n in range(-15, 0)]
    MemoryGateway.insert(gateway, "badges", theirs, key="id")
    del gateway.rows["badges"][4]
    why = left(gateway, lines)["badges"]
    assert "the reply to 13 new rows was lost, and 27 rows came since" in why
    assert "between -15 and 13; delete by hand those that you know for the run's" in why
    assert len(gateway.rows["badges"]) == 27


@pytest.mark.parametrize("table", ["badges", "tickets", "seats"])
@pytest.mark.parametrize("rewrite", [dict, hashed])
def test_a_seed_is_not_well_when_an_attempt_was_applied_beside_the_one_that_answered(
    table: str, rewrite: Callable[[Row], Row]
) -> None:
    gateway = Faulty({(table, 1): "late"}, rewrite)
    plan_ = planned(gateway)
    lines: Lines = [manifest.announce(plan_, created="", target="", schema="public", versions={})]
    hidden = table == "badges" and rewrite is hashed
    if hidden:  # nothing tells the rows of the one attempt from those of others: a teardown names them
        seeding.fill(gateway, plan_, lines.append, lambda *_: None)
    else:
        with pytest.raises(TargetError, match=f"{table}: 13 rows were written, but 26 are there"):
            seeding.fill(gateway, plan_, lines.append, lambda *_: None)
    assert set(left(gateway, lines)) == ({"badges"} if hidden else set())
    assert sum(map(len, gateway.rows.values())) == (13 if hidden else 0)


def test_a_batch_that_a_unique_constraint_refuses_because_it_is_there_counts_as_written() -> None:
    gateway = Faulty({("tickets", 2): "late, unique"})
    lines = seed(gateway, 1_200)
    assert len(gateway.rows["tickets"]) == len(gateway.rows["seats"]) == 1_201
    assert not left(gateway, lines)


@pytest.mark.parametrize("sent_again", [False, True])
def test_a_unique_constraint_that_another_row_broke_ends_the_seed(sent_again: bool) -> None:
    class Refusing(Faulty):
        def add(self, table: str, rows: Sequence[Row], *, columns: Sequence[str], look: Look) -> Sequence[Row]:
            assert not (sent_again and look())
            raise ApiError("duplicate key value violates a constraint (23505)", sqlstate="23505", status=409)

    with pytest.raises(ApiError, match="23505"):
        seed(Refusing({}))


def test_the_newer_rows_of_a_table_are_read_once_however_many_batches_were_sent_again() -> None:
    gateway = Faulty({("seats", 0): "refused"})
    lines = seed(gateway, 5_000)
    gateway.read.clear()
    standing = ownership.stand(gateway, gateway.schema(), known(lines))
    assert not standing.doubts
    assert gateway.read["seats"] <= 5_001


def test_keys_that_do_not_ascend_hide_no_row_of_a_batch_without_a_reply() -> None:
    class Descending(Faulty):
        def add(self, table: str, rows: Sequence[Row], *, columns: Sequence[str], look: Look) -> Sequence[Row]:
            self._made -= 1_000
            return super().add(table, rows, columns=columns, look=look)

    gateway = Descending({("seats", 3): "lost"})
    gateway._made = 100_000
    lines = seed(gateway, 1_200)
    assert len(gateway.rows["seats"]) == 1_201
    assert not left(gateway, lines)


@pytest.mark.parametrize("letter", ["a", "я", "ト", '"'])
def test_texts_are_asked_for_in_urls_that_stay_short(letter: str) -> None:
    texts = [f"{letter * 60} {n}" for n in range(1_000)]
    chunks = list(text_chunks(texts))
    assert [text for chunk in chunks for text in chunk] == texts
    assert all(len(quote(",".join(f'"{text}"' for text in chunk), safe="")) <= LONGEST for chunk in chunks)
    assert list(text_chunks(["я" * LONGEST, "a"])) == [["я" * LONGEST], ["a"]]


def test_a_killed_batch_with_long_texts_is_found_by_short_urls() -> None:
    class Measured(Faulty):
        def select(self, table: str, columns: Sequence[str], where: Sequence[Filter], *, key: str) -> Iterator[Row]:
            for condition in where:
                if condition.operator == "in":
                    assert len(quote("".join(map(str, condition.value)))) < LONGEST
            return super().select(table, columns, where, key=key)

    gateway = Measured({("tickets", 1): "killed"})
    text = RECIPE.replace("T-{run}-{n}", "Входной билет № {n:06} на репетицию вечера {run}")
    assert not left(gateway, seed(gateway, 300, text))
    assert not any(gateway.rows.values())
