"""Folders to run the command in, strangers' rows to leave alone, and a second stack whose gate may be changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Database, Place, keys, plain_environment, target_environment

from provision.local import stack as local
from provision.local.stack import Stack

STRANGERS = """
insert into events (id, name, event_date, event_time) values
  ('00000000-0000-4000-8000-0000000000e1', 'Somebody else''s night', '2031-05-01', '20:00'),
  ('ffffffff-ffff-4fff-8fff-ffffffffffe2', 'Somebody else''s other night', '2031-05-02', '20:00');
insert into staff (id, display_name) values ('00000000-0000-4000-8000-0000000000f1', 'Somebody else');
insert into ticket_types (id, event_id, code, name, price)
  select id, id, 'GA', 'General', 10 from events where name like 'Somebody else%';
insert into orders (id, event_id, purchaser_email, subtotal, total)
  select id, id, 'somebody@else.example', 10, 11 from events where name like 'Somebody else%';
insert into tickets (id, event_id, ticket_type_id, order_id, attendee_name, qr_token, is_used)
  select e.id, e.id, e.id, e.id, 'Somebody', 'else-' || e.id, e.name like '%other%'
    from events e where e.name like 'Somebody else%';
insert into scan_logs (ticket_id, scan_result, scan_success)
  select id, 'admitted', true from tickets where attendee_name = 'Somebody' and is_used;
"""
NO_STRANGERS = """
delete from tickets where attendee_name = 'Somebody';
delete from orders where purchaser_email = 'somebody@else.example';
delete from events where name like 'Somebody else%';
delete from staff where display_name = 'Somebody else';
"""


@pytest.fixture
def database(stack: Stack, sql: Callable[[Stack, str], str]) -> Iterator[Database]:
    """The stack's database with strangers' rows in it; they and every other row must be the same after the test."""
    opened = Database(stack, sql)
    opened(STRANGERS)
    before = opened.rows()
    yield opened
    after = opened.rows()
    opened(NO_STRANGERS if after == before else "truncate events, staff cascade")
    assert after == before


@pytest.fixture
def place(stack: Stack, tmp_path: Path) -> Iterator[Place]:
    """An empty folder and the stack as the target; no key may be in anything that was said or written there."""
    yield from _place(tmp_path, target_environment(stack), stack)


def _place(tmp_path: Path, variables: dict[str, str], stack: Stack) -> Iterator[Place]:
    folder, temporary = tmp_path / "here", tmp_path / "tmp"
    for made in (folder, temporary):
        made.mkdir()
    opened = Place(folder, plain_environment(TMPDIR=str(temporary), **variables))
    yield opened
    text = opened.everything()
    assert [key for key in keys(stack) if key in text] == []
    assert "Traceback" not in text
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="session")
def gates_stack(local_cache: Path) -> Iterator[Stack]:
    """A stack beside the shared one, for tests that change its gate or its pool by a further lease."""
    name = f"gates-{os.getpid()}"
    with local.lease(name) as running:
        yield running
    local.reset(name)


@pytest.fixture(scope="module")
def nights(gates_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """As `gates_place`, for all tests of a module: what one seeds there the others may use; removed at the end."""
    for opened in _place(tmp_path_factory.mktemp("nights"), target_environment(gates_stack), gates_stack):
        yield opened
        for run in opened.runs():
            assert opened.run("teardown", "--run", run).code == 0


@pytest.fixture
def gates_place(gates_stack: Stack, tmp_path: Path) -> Iterator[Place]:
    """As `place`, with the second stack as the target."""
    yield from _place(tmp_path, target_environment(gates_stack), gates_stack)
