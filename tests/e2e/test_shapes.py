"""Six schemas that nobody described to the tool, each seeded and torn down to zero by a recipe alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from commands import Place, plain_environment, target_environment
from shapes import BETWEEN, BIGINT, CHECKS, GATE, GRANT, OTHER, ROWS, SCAN, SHAPES, TEXT, UUID, Shape

from provision.local import stack as local
from provision.local.stack import Stack

Sql = Callable[[Stack, str], str]
BARE = """
drop schema public cascade;
drop schema if exists ticketing, private cascade;
create schema public;
grant usage on schema public to service_role;
"""


@pytest.fixture(scope="module")
def bare(local_cache: Path) -> Iterator[Stack]:
    """A stack of this module's own, whose schema every test replaces."""
    name = f"shapes-{os.getpid()}"
    with local.lease(name) as running:
        yield running
    local.reset(name)


def rows(stack: Stack, sql: Sql) -> list[str]:
    """Every row of every table of the users' schemas."""
    union = " union all ".join(sql(stack, ROWS).splitlines())
    return sorted(sql(stack, f"select t || r from ({union}) x").splitlines()) if union else []


def prepare(stack: Stack, sql: Sql, shape: Shape, folder: Path) -> Place:
    """The shape's schema with strangers' rows in it, and a folder with its recipe."""
    sql(stack, BARE + shape.ddl + GRANT.format(profile="public"))
    for profile in {"ticketing", "private"} & set(re.findall(r"create schema (\w+)", shape.ddl)):
        sql(stack, GRANT.format(profile=profile))
    sql(stack, shape.strangers)
    return prepare_folder(stack, shape, folder)


def prepare_folder(stack: Stack, shape: Shape, folder: Path) -> Place:
    """A folder with the shape's recipe."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dedent(shape.recipe))
    return Place(folder, plain_environment(TMPDIR=str(folder), **target_environment(stack)))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_recipe_alone_fills_a_schema_and_teardown_leaves_it_as_it_was(
    shape: Shape, bare: Stack, sql: Sql, tmp_path: Path
) -> None:
    place = prepare(bare, sql, shape, tmp_path / "here")
    before = rows(bare, sql)
    seeded = place.run("seed", "recipe.yaml")
    assert seeded.code == 0, seeded
    made = rows(bare, sql)
    expected = sum(shape.rows.values())
    assert len(made) - len(before) == expected, seeded
    assert len(place.json()["tickets"]) == 10
    resumed = place.run("seed", "--run", place.runs()[0])
    assert resumed.code == 0, resumed
    assert rows(bare, sql) == made
    torn = place.run("teardown")
    assert torn.code == 0, torn
    assert rows(bare, sql) == before


@pytest.mark.parametrize("shape", [BIGINT, TEXT, OTHER, CHECKS, UUID], ids=lambda shape: shape.name)
def test_a_run_without_its_manifest_is_found_in_the_database_and_removed(
    shape: Shape, bare: Stack, sql: Sql, tmp_path: Path
) -> None:
    place = prepare(bare, sql, shape, tmp_path / "here")
    before = rows(bare, sql)
    assert place.run("seed", "recipe.yaml").code == 0
    run = place.runs()[0]
    (place.folder / ".provision" / run / "manifest.ndjson").unlink()
    listed = place.run("teardown", "--find", "--recipe", "recipe.yaml")
    assert listed.code == 0, listed
    assert f"found run {run}" in listed.out
    removed = place.run("teardown", "--find", "--run", run, "--recipe", "recipe.yaml")
    assert removed.code == 0, removed
    assert rows(bare, sql) == before


def test_a_row_attached_by_hand_to_a_run_without_its_manifest_is_named_and_kept(
    bare: Stack, sql: Sql, tmp_path: Path
) -> None:
    place = prepare(bare, sql, BIGINT, tmp_path / "here")
    before = rows(bare, sql)
    assert place.run("seed", "recipe.yaml").code == 0
    run = place.runs()[0]
    (place.folder / ".provision" / run / "manifest.ndjson").unlink()
    sql(bare, "insert into pass_seats (pass_id, seat, zone) select max(pass_id), 99, 7 from pass_seats")
    find = ("teardown", "--find", "--run", run)
    unknown = place.run(*find)
    assert unknown.code == 107, unknown
    assert re.search(r"passes +11 found +0 removed +11 left\n +they name the run", unknown.out), unknown
    removed = place.run(*find, "--recipe", "recipe.yaml")
    assert removed.code == 107, removed
    assert re.search(r"pass_seats +11 found +11 removed +0 left", removed.out), removed
    assert re.search(r"not ours, kept: pass_seats \d+ references passes", removed.out), removed
    kept = set(rows(bare, sql)) - set(before)
    assert sorted(row.split(".")[1].split("{")[0] for row in kept) == ["gigs", "pass_seats", "passes"]
    sql(bare, "delete from pass_seats where seat = 99")
    assert place.run(*find, "--recipe", "recipe.yaml").code == 0
    assert rows(bare, sql) == before


def test_a_colleagues_row_that_a_cascade_would_take_is_found_before_and_kept(
    bare: Stack, sql: Sql, tmp_path: Path
) -> None:
    place = prepare(bare, sql, UUID, tmp_path / "here")
    assert place.run("seed", "recipe.yaml").code == 0
    sql(bare, "insert into entries (basket_id, qr) select id, 'by hand' from baskets limit 1")
    dry = place.run("teardown", "--dry-run")
    assert re.search(r"not ours, kept: entries \S+ references baskets", dry.out), dry
    torn = place.run("teardown")
    assert torn.code == 107, torn
    assert re.search(r"not ours, kept: entries \S+ references baskets \S+ by basket_id", torn.out), torn
    counts = """
        select (select count(*) from entries), (select count(*) from baskets), count(*)
          from evenings where title <> 'theirs'
    """
    assert sql(bare, counts) == "1|1|1"
    assert sql(bare, "select count(*) from hosts where name <> 'theirs'") == "1"
    sql(bare, "delete from entries where qr = 'by hand'")
    again = place.run("teardown")
    assert again.code == 0, again
    assert sql(bare, counts) == "0|0|0"


def test_a_row_that_hangs_on_what_the_app_wrote_is_kept_with_all_that_it_hangs_on(
    bare: Stack, sql: Sql, tmp_path: Path
) -> None:
    shape = Shape("", CHECKS.ddl, CHECKS.recipe.replace(", movement_notes: movement_id", ""), {}, CHECKS.strangers)
    place = prepare(bare, sql, shape, tmp_path / "here")
    assert place.run("seed", "recipe.yaml").code == 0
    sql(bare, "insert into movement_notes (movement_id, note) select min(id), 'mine' from movements")
    torn = place.run("teardown")
    assert torn.code == 107, torn
    assert "not ours, kept: movement_notes" in torn.out
    assert sql(bare, "select count(*) from movement_notes") == "1"
    assert (
        sql(bare, "select (select count(*) from movements), (select count(*) from wristbands), count(*) from parties")
        == "1|1|2"
    )


def test_a_seed_says_which_rows_hang_on_its_own_that_the_recipe_does_not_name(
    bare: Stack, sql: Sql, tmp_path: Path
) -> None:
    recipe = CHECKS.recipe.replace("written_by_app", "# written_by_app")
    place = prepare(bare, sql, Shape("", CHECKS.ddl, recipe, {}, CHECKS.strangers), tmp_path / "here")
    seeded = place.run("seed", "recipe.yaml")
    assert seeded.code == 0, seeded
    assert "written_by_app: {movements: wristband_id}" in seeded.err


def test_a_reference_that_the_api_does_not_show_stops_one_row_and_no_other(
    bare: Stack, sql: Sql, tmp_path: Path
) -> None:
    place = prepare(bare, sql, OTHER, tmp_path / "here")
    assert place.run("seed", "recipe.yaml").code == 0
    sql(bare, "create schema hidden; create table hidden.audit (stub uuid references ticketing.stubs)")
    sql(bare, "insert into hidden.audit select id from ticketing.stubs order by serial_number limit 1")
    torn = place.run("teardown")
    sql(bare, "select count(*) from ticketing.stubs")
    assert torn.code == 107, torn
    assert re.search(r"stubs +11 found +10 removed +1 left", torn.out), torn
    sql(bare, "drop schema hidden cascade")
    assert place.run("teardown").code == 0


@pytest.mark.parametrize(
    ("shape", "more", "table", "mark", "key", "theirs"),
    [(BIGINT, BETWEEN, "passes", "code", "bigint", 16), (TEXT, "", "admits", "id", "varchar", 0)],
    ids=["bigint, rows of others between ours", "text"],
)
def test_a_scenario_rehearses_tickets_with_keys_of_other_types_and_its_log_goes_with_the_run(
    shape: Shape, more: str, table: str, mark: str, key: str, theirs: int, bare: Stack, sql: Sql, tmp_path: Path
) -> None:
    gate = GATE.format(table=table, id="id", key=key) + more
    place = prepare(bare, sql, Shape("", shape.ddl + gate, shape.recipe, {}, shape.strangers), tmp_path / "here")
    sql(bare, f"insert into scans (ticket, ok) select id, true from {table}")
    (place.folder / "night.yaml").write_text(SCAN)
    before = rows(bare, sql)
    assert place.run("seed", "recipe.yaml", "--tickets", "80").code == 0
    between = set(rows(bare, sql)) - set(before)
    between = {row for row in between if '"theirs-' in row}
    assert len(between) == theirs
    ours = place.json()
    foreign = sql(bare, f"select id from {table} where {mark} = 'theirs'")
    edited = {**ours, "tickets": [{**ours["tickets"][0], "id": type(ours["tickets"][0]["id"])(foreign)}]}
    (place.folder / "edited.json").write_text(json.dumps(edited))
    refused = place.run("run-scenario", "night.yaml", "--tickets", "edited.json")
    assert (refused.code, "not of run" in refused.err) == (104, True), refused
    ran = place.run("run-scenario", "night.yaml", "--json", "summary.json")
    assert ran.code in {0, 98}, ran
    summary = place.json("summary.json")
    promises = {found["promise"]: found["status"] for found in summary["promises"]}
    assert {promises[name] for name in ("one-winner", "none-lost", "none-unexpected", "all-classified")} == {"PASS"}
    assert summary["metrics"]["successful_scans"]["values"]["count"] == 45
    torn = place.run("teardown")
    assert torn.code == 0, torn
    assert set(rows(bare, sql)) == {*before, *between}


def test_after_a_reset_of_the_database_an_old_run_touches_none_of_the_rows_that_have_its_numbers(
    bare: Stack, sql: Sql, tmp_path: Path
) -> None:
    gate = GATE.format(table="passes", id="id", key="bigint")
    place = prepare(bare, sql, Shape("", BIGINT.ddl + gate, BIGINT.recipe, {}, BIGINT.strangers), tmp_path / "here")
    (place.folder / "night.yaml").write_text(SCAN)
    assert place.run("seed", "recipe.yaml").code == 0
    run = place.runs()[0]
    sql(bare, "truncate gigs, passes, pass_seats, scans restart identity")
    sql(bare, BIGINT.strangers)
    colleague = prepare_folder(bare, BIGINT, tmp_path / "colleague")
    assert colleague.run("seed", "recipe.yaml").code == 0
    sql(bare, "insert into scans (ticket, ok) select id, false from passes")
    before = rows(bare, sql)
    dry = place.run("teardown", "--dry-run")
    torn = place.run("teardown")
    every = place.run("teardown", "--all")
    resumed = place.run("seed", "--run", run)
    ran = place.run("run-scenario", "night.yaml")
    (place.folder / ".provision" / run / "manifest.ndjson").unlink()
    elsewhere = place.run("run-scenario", "night.yaml")
    assert rows(bare, sql) == before
    assert (torn.code, every.code, resumed.code, ran.code, elsewhere.code) == (107, 107, 104, 104, 104), torn
    assert re.search(r"passes +11 found\n +not touched: ", dry.out), dry
    for said in (torn, every):
        assert re.search(r"passes +11 found +0 removed +11 left\n +not touched: ", said.out), said
        assert f"delete .provision/{run}" in said.out
    assert all("other people's" in refused.err for refused in (ran, elsewhere)), elsewhere


def test_what_the_app_changed_and_a_trigger_rewrote_does_not_stop_a_teardown(
    bare: Stack, sql: Sql, tmp_path: Path
) -> None:
    rewriting = """
        create function rewrite() returns trigger language plpgsql security definer set search_path = public as $$
          begin
            update passes set code = md5(code), holder_name = md5(holder_name) where id = new.id; return null;
          end $$;
        create trigger rewrite after insert on passes for each row execute function rewrite();
        create function shout() returns trigger language plpgsql as $$
          begin new.title = md5(new.title); return new; end $$;
        create trigger shout before insert on gigs for each row execute function shout();
    """
    strangers = BIGINT.strangers.replace("= 'theirs'", "= md5('theirs')")
    place = prepare(bare, sql, Shape("", BIGINT.ddl + rewriting, BIGINT.recipe, {}, strangers), tmp_path / "here")
    before = rows(bare, sql)
    assert place.run("seed", "recipe.yaml", "--tickets", "600").code == 0
    sql(
        bare, "update passes set redeemed_at = now(), code = 'sold ' || id where id % 3 = 0 and holder_name <> md5('x')"
    )
    assert place.run("seed", "--run", place.runs()[0]).code == 0
    torn = place.run("teardown")
    assert torn.code == 0, torn
    assert rows(bare, sql) == before


def test_logs_without_a_key_of_one_column_are_emptied_of_what_the_app_wrote_about_a_run(
    bare: Stack, sql: Sql, tmp_path: Path
) -> None:
    logs = """
        create table turns (pass_id bigint not null references passes, n int not null, primary key (pass_id, n));
        create table whispers (pass_id bigint not null references passes, words text);
    """
    named = dedent(BIGINT.recipe) + "written_by_app: {turns: pass_id, whispers: pass_id}\n"
    place = prepare(bare, sql, Shape("", BIGINT.ddl + logs, named, {}, BIGINT.strangers), tmp_path / "here")
    sql(bare, "insert into turns select id, 1 from passes; insert into whispers select id, 'theirs' from passes")
    before = rows(bare, sql)
    assert place.run("seed", "recipe.yaml").code == 0
    ours = "from passes where code <> 'theirs'"
    sql(bare, f"insert into turns select id, n {ours.replace(' where', ', generate_series(1, 120) n where')}")
    sql(bare, f"insert into whispers select id, 'ours' {ours}")
    dry, torn = place.run("teardown", "--dry-run"), place.run("teardown")
    assert (dry.code, torn.code) == (0, 0), torn
    assert dict(re.findall(r"(turns|whispers) +(\S+) found", dry.out)) == {"turns": "1,320", "whispers": "11"}, dry
    assert rows(bare, sql) == before
