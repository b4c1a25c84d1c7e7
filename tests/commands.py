"""Runs the real command in a folder of its own and keeps all that it says, so that a key in it does not go unseen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.local.stack import Stack
from provision.rundir import MANIFEST

PROVISION = [sys.executable, "-m", "provision"]
DEADLINE = 60.0
_PASSED_ON = ("PATH", "HOME", "LANG", "PROVISION_CACHE_DIR", "COVERAGE_PROCESS_START")


def plain_environment(**more: str) -> dict[str, str]:
    """The variables of a command that knows no target: none of those that whoever runs the tests may have set."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**passed_on, "NO_COLOR": "1", "COLUMNS": "200", **more}


def target_environment(stack: Stack) -> dict[str, str]:
    """The variables that name a stack as the target."""
    return {"SUPABASE_URL": stack.url, "SUPABASE_SECRET_KEY": stack.secret_key}


def keys(stack: Stack) -> list[str]:
    """All that must never be seen of a stack, with the parts of the tokens that would do as well."""
    tokens = [stack.service_role_key, stack.anon_key]
    return [stack.secret_key, stack.publishable_key, *tokens, *(token.split(".")[2] for token in tokens)]


@dataclass(frozen=True, slots=True)
class Done:
    """What a command that ended said, and its exit code."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@dataclass(slots=True)
class Place:
    """A working folder, the variables that commands see there, and everything that they said so far."""

    folder: Path
    env: dict[str, str]
    command: list[str] = field(default_factory=lambda: PROVISION)
    said: list[str] = field(default_factory=list)

    def run(
        self, *arguments: str, env: Mapping[str, str | None] | None = None, preexec: Callable[[], None] | None = None
    ) -> Done:
        """Run the command to its end; `env` adds variables, or with None removes them."""
        with self.start(*arguments, env=env, preexec=preexec) as process:
            return self.end(process)

    @contextmanager
    def start(
        self, *arguments: str, env: Mapping[str, str | None] | None = None, preexec: Callable[[], None] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """The command while it runs; it is dead when the block ends."""
        variables = {name: value for name, value in {**self.env, **(env or {})}.items() if value is not None}
        process = subprocess.Popen(
            [*self.command, *arguments],
            cwd=self.folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=preexec,  # noqa: PLW1509 - no thread runs in the tests
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def end(self, process: subprocess.Popen[str]) -> Done:
        """What a started command said until its end."""
        out, err = process.communicate(timeout=DEADLINE)
        self.said += [out, err]
        return Done(process.returncode, out, err)

    def files(self) -> list[str]:
        """Every file below the folder, by its path from there."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def runs(self) -> list[str]:
        """The runs that were seeded here, oldest first."""
        return sorted(path.parent.name for path in self.folder.glob(f".provision/*/{MANIFEST}"))

    def manifest(self) -> list[str]:
        """The complete lines of the latest run's manifest; none before it is on disk."""
        path = next(iter(sorted(self.folder.glob(f".provision/*/{MANIFEST}"), reverse=True)), None)
        return [] if path is None else path.read_text().split("\n")[:-1]

    def json(self, name: str = "test-tickets.json") -> Any:
        """A JSON file of the folder."""
        return json.loads((self.folder / name).read_text())

    def everything(self) -> str:
        """All that was said and all that was written, as one text."""
        written = (path.read_bytes().decode(errors="replace") for path in self.folder.rglob("*") if path.is_file())
        return "\n".join([*self.said, *self.files(), *written])


def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Return as soon as the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.005)


@dataclass(frozen=True, slots=True)
class Database:
    """A stack's database as its superuser sees it."""

    stack: Stack
    sql: Callable[[Stack, str], str]

    def __call__(self, text: str) -> str:
        return self.sql(self.stack, text)

    def holds(self, condition: str) -> bool:
        """Whether an SQL condition is true now."""
        return self(f"select {condition}") == "t"

    def rows(self) -> dict[str, list[str]]:
        """Every row of every table of the schema public, as JSON."""
        tables = self("select tablename from pg_tables where schemaname = 'public' order by 1").split()
        union = " union all ".join(
            f"select '{name}' as t, to_jsonb(r)::text as r from public.{name} r" for name in tables
        )
        lines = [line.split("|", 1) for line in self(f"select t, r from ({union}) x order by 1, 2").splitlines()]
        return {name: [row for table, row in lines if table == name] for name in tables}
