"""Kills and faults at random moments: after at most one resume and one teardown the database is as it was before.

A short form runs always. The whole campaign: PROVISION_CAMPAIGN=300 pytest -s tests/e2e/test_campaign.py
One that failed, alone: PROVISION_CAMPAIGN=1, PROVISION_CAMPAIGN_FIRST and _SEED as the failure names them.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import pytest
from commands import plain_environment, target_environment
from forks import FORKS, command
from proxy import FAULTS, Proxy
from shapes import BIGINT, GRANT, ROWS

from provision.gateway import FEWEST
from provision.local import stack as local
from provision.local.stack import Stack

ROUNDS = int(os.environ.get("PROVISION_CAMPAIGN", "10"))
FIRST = int(os.environ.get("PROVISION_CAMPAIGN_FIRST", "0"))
SEED = int(os.environ.get("PROVISION_CAMPAIGN_SEED", "20260601"))
Sql = Callable[[Stack, str], str]
REWRITING = """
create function rewrite() returns trigger language plpgsql security definer set search_path = public as $$
  begin update passes set code = md5(code), holder_name = md5(holder_name) where id = new.id; return null; end $$;
create trigger rewrite after insert on passes for each row execute function rewrite();
"""
"""Rows that the run made are then known neither by their keys nor by their texts: only where they are many."""
KILLS = ("kill before", "kill after the commit", "interrupt", "terminate")
STOPPED = {105, 106, -signal.SIGKILL}


@pytest.fixture(scope="module")
def target(local_cache: Path, sql: Sql) -> Iterator[Stack]:
    """A stack with the ticketing app and, beside it, tables whose keys the database makes; strangers' rows in both."""
    name = f"campaign-{os.getpid()}"
    with local.lease(name) as running:
        sql(running, BIGINT.ddl + GRANT.format(profile="public") + BIGINT.strangers + REWRITING)
        yield running
    local.reset(name)


def rows(stack: Stack, sql: Sql) -> list[str]:
    union = " union all ".join(sql(stack, ROWS).splitlines())
    return sorted(sql(stack, f"select t || r from ({union}) x").splitlines())


@dataclass
class Storm:
    """Chooses a fault for some requests, and at one of them ends the running command."""

    dice: random.Random
    pid: Future[int | None] = field(default_factory=Future)
    deadly: tuple[int, str] | None = None
    in_a_row: int = 0
    seen: int = 0
    done: Counter[str] = field(default_factory=Counter)

    def begin(self, chance: float, deadly: tuple[int, str] | None = None) -> None:
        """Begin a command, whose process id follows."""
        self.pid = Future()
        self.chance, self.deadly, self.seen, self.in_a_row = chance, deadly, 0, 0

    def choose(self, _: int) -> str | None:
        self.seen += 1
        if self.deadly and self.seen > self.deadly[0]:
            how, self.deadly = self.deadly[1], None
            return self._end(how)
        if self.in_a_row < 3 and self.dice.random() < self.chance:
            self.in_a_row += 1
            return self.dice.choice(list(FAULTS))
        self.in_a_row = 0
        return None

    def _end(self, how: str) -> str | None:
        pid = self.pid.result(timeout=30)  # its first requests may be here before its start has returned
        assert pid
        self.done[how] += 1
        numbers = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM}
        os.kill(pid, numbers.get(how, signal.SIGKILL))
        return {"kill before": "reset before", "kill after the commit": "reset after"}.get(how)


@dataclass
class Command:
    """Runs the command under a storm in one folder."""

    folder: Path
    storm: Storm
    proxy: Proxy
    stack: Stack

    def __call__(self, *arguments: str, chance: float, deadly: tuple[int, str] | None = None) -> int:
        address = {**target_environment(self.stack), "SUPABASE_URL": self.proxy.address}
        variables = plain_environment(**address)
        log = str(self.folder / "log")
        process = FORKS.Process(target=command, args=(list(arguments), str(self.folder), variables, log))
        self.storm.begin(chance, deadly)
        process.start()
        self.storm.pid.set_result(process.pid)
        process.join(timeout=120)
        ended = process.exitcode
        process.kill()
        process.join()
        process.close()
        self.proxy.quiet()
        assert ended is not None, f"{arguments} did not end: {self.log()}"
        return ended

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def run_id(self) -> str | None:
        return next(
            (path.parent.name for path in self.folder.glob(".provision/*/manifest.ndjson") if path.stat().st_size), None
        )


def one_round(dice: random.Random, run: Command, stack: Stack, sql: Sql) -> None:
    """Seed under faults and perhaps a kill, resume or not, tear down under faults and perhaps a kill."""
    recipe, tables = dice.choice([("event-night", ("tickets", "orders")), ("gigs.yaml", ("passes", "pass_seats"))])
    tickets = dice.choice([3, 20, 60, 520 if recipe == "gigs.yaml" else 120])
    chance = dice.choice([0.0, 0.1, 0.3])
    deadly = (dice.randrange(1, 25), dice.choice(KILLS)) if dice.random() < 0.8 else None
    rewriting = dice.choice(["enable", "disable"]) if tickets >= FEWEST else "disable"
    sql(stack, f"alter table passes {rewriting} trigger rewrite")
    before = rows(stack, sql)
    code = run("seed", recipe, "--tickets", str(tickets), chance=chance, deadly=deadly)
    assert code == 0 or code in STOPPED, run.log()
    name = run.run_id()
    if name is None:
        assert rows(stack, sql) == before
        return
    if dice.random() < 0.5:
        assert run("seed", "--run", name, chance=chance) == 0, run.log()
        sold = int(sql(stack, f"select count(*) from {tables[0]}")) - sum(
            row.startswith(f"public.{tables[0]}{{") for row in before
        )
        assert sold == tickets + 1, run.log()
    if dice.random() < 0.3:
        code = run("teardown", chance=chance, deadly=(dice.randrange(1, 30), dice.choice(KILLS)))
        assert code == 0 or code in STOPPED, run.log()
    assert run("teardown", "--run", name, chance=chance) == 0, run.log()
    assert rows(stack, sql) == before, run.log()


def test_after_kills_and_faults_the_database_is_as_it_was(target: Stack, sql: Sql, tmp_path: Path) -> None:
    storm = Storm(random.Random(SEED))  # noqa: S311 - repeatable on purpose
    with Proxy(target.url, storm.choose) as proxy:
        for number in range(FIRST, FIRST + ROUNDS):
            dice = random.Random(f"{SEED}/{number}")  # noqa: S311
            storm.dice = dice
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / "gigs.yaml").write_text(dedent(BIGINT.recipe))
            try:
                one_round(dice, Command(folder, storm, proxy, target), target, sql)
            except AssertionError as error:
                error.add_note(f"round {number} of seed {SEED}")
                raise
        print(f"{ROUNDS} rounds, {proxy.requests} requests; ended: {dict(storm.done)}; faults: {dict(proxy.faults)}")
    assert sum(storm.done.values()) >= ROUNDS // 2
