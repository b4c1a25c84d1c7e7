"""The local stack's life: it starts once, serves whoever holds it, heals, and leaves no process behind."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

import provision
from provision.errors import LocalStackError
from provision.local import backend, postgres
from provision.local import stack as local
from provision.local.install import install_server
from provision.local.paths import layout, make_directories
from provision.local.process import is_alive
from provision.local.state import load_state

Sql = Callable[[local.Stack, str], str]
SOURCE = str(Path(provision.__file__).parents[1])
HOLD = """
import sys
from provision.local import stack
with stack.lease(sys.argv[1], progress=print) as one:
    print("holding", one.url, flush=True)
    sys.stdin.read()
"""


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.02)


def processes(name: str) -> set[int]:
    """Every process of the stack: those that name it, and their descendants."""
    found: set[int] = set()
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            named = name in words or any(f"/{name}/" in word for word in words)
            if named and process.pid != os.getpid():
                found |= {process.pid, *(child.pid for child in process.children(recursive=True))}
        except psutil.Error:
            continue
    return found


def gone(pids: set[int]) -> bool:
    return not any(is_alive(pid) for pid in pids)


def supervisor_of(name: str) -> int:
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "provision.local.supervisor" in words and name in words and is_alive(process.pid):
            return process.pid
    raise AssertionError("no supervisor")


def child_of(name: str, program: str) -> int:
    children = psutil.Process(supervisor_of(name)).children()
    [pid] = [child.pid for child in children if Path(child.cmdline()[0]).name == program]
    return pid


def serves(stack: local.Stack) -> bool:
    try:
        return httpx.get(f"{stack.url}/rest/v1/events", headers={"apikey": stack.secret_key}).status_code == 200
    except httpx.TransportError:
        return False


def holder(name: str) -> subprocess.Popen[str]:
    """A process that leases the stack until its stdin ends."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", HOLD, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=SOURCE
    )


def read_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if word in line:
            return line
    raise AssertionError(f"{word!r} was never said")


@pytest.fixture
def name(local_cache: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A stack's name of this test's own; the stack is gone afterwards, and so are its processes."""
    one = f"t{abs(hash(request.node.name)) % 10**6}-{os.getpid()}"
    yield one
    seen = processes(one)
    local.reset(one)
    until(lambda: gone(seen))
    assert not layout(one, local_cache).home.exists()


def test_a_second_up_is_instant_and_down_leaves_no_process(name: str) -> None:
    first = local.up(name)
    started = time.monotonic()
    assert local.up(name) == first
    assert time.monotonic() - started < 0.1
    assert serves(first)
    running = processes(name)
    assert len(running) > 5
    assert local.down(name)
    assert gone(running)
    assert local.status(name) is None
    assert not local.down(name)


def test_data_keys_and_address_outlive_a_stop(name: str, sql: Sql) -> None:
    before = local.up(name)
    sql(before, "insert into events (name, event_date, event_time) values ('kept', '2027-01-01', '22:00')")
    local.down(name)
    after = local.up(name)
    assert after == before
    assert sql(after, "select name from events") == "kept"


def test_reset_forgets_data_and_keys(name: str, sql: Sql) -> None:
    before = local.up(name)
    sql(before, "insert into events (name, event_date, event_time) values ('lost', '2027-01-01', '22:00')")
    local.reset(name)
    after = local.up(name)
    assert sql(after, "select count(*) from events") == "0"
    assert after.secret_key != before.secret_key


def test_two_stacks_live_side_by_side(stack: local.Stack, name: str, sql: Sql) -> None:
    with local.lease(name) as other:
        assert other.url != stack.url
        assert other.secret_key != stack.secret_key
        sql(other, "insert into events (name, event_date, event_time) values ('there', '2027-01-01', '22:00')")
        assert sql(stack, "select count(*) from events where name = 'there'") == "0"
        assert serves(stack)
        assert serves(other)


def test_two_ups_at_once_start_one_stack(name: str) -> None:
    with ThreadPoolExecutor() as pool:
        stacks = list(pool.map(lambda _: local.up(name), range(4)))
    assert len(set(stacks)) == 1
    assert len([pid for pid in processes(name) if "supervisor" in " ".join(psutil.Process(pid).cmdline())]) == 1


def test_the_first_requests_after_a_start_may_come_together(name: str) -> None:
    with local.lease(name) as stack, ThreadPoolExecutor(10) as pool:
        assert all(pool.map(lambda _: serves(stack), range(10)))


def test_a_lease_ends_the_stack_only_with_the_last_holder(name: str) -> None:
    with local.lease(name) as outer:
        with local.lease(name) as inner:
            assert inner == outer
        assert serves(outer)
        running = processes(name)
    until(lambda: gone(running))
    assert local.status(name) is None


def test_a_lease_on_a_stack_that_is_up_leaves_it_up(name: str) -> None:
    local.up(name)
    with local.lease(name) as stack:
        assert serves(stack)
    assert local.status(name) == stack


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_holder_that_dies_releases_the_stack(name: str, number: signal.Signals) -> None:
    with holder(name) as process:
        read_until(process, "holding")
        running = processes(name)
        process.send_signal(number)
        process.wait(10)
    until(lambda: gone(running))


@pytest.mark.parametrize("moment", ["starting PostgreSQL", "creating the database", "starting the API"])
def test_an_interrupt_while_starting_leaves_nothing_running(name: str, moment: str) -> None:
    with holder(name) as process:
        read_until(process, moment)
        process.send_signal(signal.SIGINT)
        process.wait(10)
    until(lambda: not processes(name))
    with local.lease(name) as stack:
        assert serves(stack)


def test_a_killed_supervisor_takes_its_servers_with_it_and_the_next_start_heals(name: str) -> None:
    before = local.up(name)
    running = processes(name)
    os.kill(supervisor_of(name), signal.SIGKILL)
    until(lambda: gone(running))
    after = local.up(name)
    assert after.secret_key == before.secret_key
    assert serves(after)


@pytest.mark.parametrize("program", ["node", "postgres"])
def test_a_killed_server_is_started_again_at_the_same_address(name: str, program: str) -> None:
    stack = local.up(name)
    victim = child_of(name, program)
    os.kill(victim, signal.SIGKILL)
    until(lambda: not is_alive(victim))
    until(lambda: serves(stack))
    assert local.status(name) == stack
    assert "starting it again" in (stack.log_dir / "supervisor.log").read_text()


def test_a_server_that_keeps_dying_is_given_up_and_nothing_stays(name: str) -> None:
    stack = local.up(name)
    running = processes(name)
    for _ in range(6):
        until(lambda: serves(stack))
        os.kill(child_of(name, "node"), signal.SIGKILL)
        until(lambda: not serves(stack))
    until(lambda: gone(running))
    assert local.status(name) is None


def test_a_power_cut_is_healed(name: str, local_cache: Path) -> None:
    stack = local.up(name)
    running = processes(name)
    for pid in running:
        with suppress(ProcessLookupError):  # some end with the one before
            os.kill(pid, signal.SIGKILL)
    until(lambda: gone(running))
    pid_file = layout(name, local_cache).data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")  # as after a reboot: somebody else's
        try:
            assert serves(local.up(name))
            assert stranger.poll() is None
        finally:
            stranger.kill()
    assert local.status(name) == stack


def test_a_half_made_database_is_made_again(name: str, local_cache: Path) -> None:
    local.up(name)
    local.down(name)
    place = layout(name, local_cache)
    place.version_file.unlink()
    (place.data / "PG_VERSION").unlink()
    with local.lease(name) as stack:
        assert serves(stack)


@pytest.mark.parametrize("pool", [1, 3])
def test_a_pool_has_exactly_the_size_that_was_asked_for(name: str, pool: int, sql: Sql) -> None:
    with local.lease(name, pool=pool) as stack, httpx.Client(headers={"apikey": stack.secret_key}) as http:
        assert stack.pool == pool
        sql(
            stack,
            """
            create function test_backend() returns integer language sql as
              $$ select pg_backend_pid() from pg_sleep(0.02) $$;
            grant execute on function test_backend to service_role;
            """,
        )
        url = f"{stack.url}/rest/v1/rpc/test_backend"
        until(lambda: http.post(url).status_code == 200)
        with ThreadPoolExecutor(10) as threads:
            assert len(set(threads.map(lambda _: http.post(url).json(), range(20)))) == pool


def test_gate_and_pool_of_a_running_stack_are_changed_and_kept(name: str, sql: Sql) -> None:
    first = local.up(name, pool=2)
    assert (first.gate, first.pool) == ("row-lock-nowait", 2)
    source = "select prosrc from pg_proc where proname = 'scan_ticket_atomic'"
    broken = local.up(name, gate="check-then-act", pool=4)
    assert (broken.gate, broken.pool, broken.url) == ("check-then-act", 4, first.url)
    assert "for update" not in sql(broken, source)
    assert local.up(name) == broken
    assert serves(broken)


def test_every_gate_can_take_the_place_of_every_other(name: str) -> None:
    with local.lease(name) as stack, httpx.Client(headers={"apikey": stack.secret_key}) as http:
        arguments = {"p_ticket_id": None, "p_scanned_by": None, "p_device_id": "d", "p_scan_method": "qr"}
        for gate in (*local.gates(), *reversed(local.gates())):
            with local.lease(name, gate=gate) as changed:
                reply = http.post(f"{changed.url}/rest/v1/rpc/scan_ticket_atomic", json=arguments)
                assert reply.json()[0]["error_message"] == "Ticket not found", gate


def test_every_key_keeps_its_role_even_where_no_table_has_row_security(name: str, sql: Sql) -> None:
    with local.lease(name) as stack:
        sql(
            stack,
            """
            do $$ declare t regclass; begin
              for t in select oid from pg_class where relrowsecurity loop
                execute format('alter table %s disable row level security', t);
              end loop;
            end $$;
            create function test_who() returns text language sql as $$ select current_user::text $$;
            grant execute on function test_who to anon;
            """,
        )
        with local.lease(name, pool=5) as restarted:
            headers = {"apikey": restarted.publishable_key}
            assert httpx.post(f"{restarted.url}/rest/v1/rpc/test_who", headers=headers).json() == "anon"
            assert httpx.get(f"{restarted.url}/rest/v1/tickets", headers=headers).status_code == 401


def test_files_are_closed_to_others_and_no_key_is_shown(name: str, local_cache: Path) -> None:
    stack = local.up(name)
    place = layout(name, local_cache)
    for directory in (place.root, place.root.parent, place.home, place.sockets, place.logs):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(place.state_file.stat().st_mode) == 0o600
    keys = [stack.secret_key, stack.publishable_key, stack.service_role_key, stack.anon_key]
    words = " ".join(
        text
        for pid in processes(name)
        for process in [psutil.Process(pid)]
        for text in (*process.cmdline(), *process.environ().values())
    )
    assert not any(key in repr(stack) or key in words for key in keys)
    api = psutil.Process(child_of(name, "node"))
    assert api.environ()["LITE_TELEMETRY"] == "0"


def test_bad_names_gates_and_pools_are_refused_before_anything_starts(local_cache: Path) -> None:
    with pytest.raises(LocalStackError, match="no name"):
        local.up("../there")
    with pytest.raises(LocalStackError, match="no gate") as refused:
        local.up("refused", gate="row-lock-nowiat")
    assert "row-lock-nowait" in refused.value.hint
    with pytest.raises(LocalStackError, match="pool"):
        local.up("refused", pool=0)
    assert not layout("refused", local_cache).root.exists()


def test_a_cache_that_cannot_be_made_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROVISION_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(LocalStackError) as refused:
        local.up("nowhere")
    assert "PROVISION_CACHE_DIR" in refused.value.hint


def test_a_missing_extra_says_how_to_get_it(local_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(LocalStackError) as refused:
        local.up("missing")
    assert refused.value.hint == "pip install 'provision[local]'"


def test_a_long_cache_path_is_no_obstacle(local_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / ("long" * 20) / ("path" * 20)
    cache.mkdir(parents=True)
    (cache / "node").symlink_to(local_cache / "node")
    monkeypatch.setenv("PROVISION_CACHE_DIR", str(cache))
    with local.lease("far") as stack:
        assert serves(stack)
    local.reset("far")
    assert not layout("far", cache).control.parent.exists()


def unprivileged_python(user: pwd.struct_passwd) -> tuple[str, dict[str, str]] | None:
    """An interpreter and environment with which this account can import us; None if there is none."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    paths = os.pathsep.join([SOURCE, *(path for path in sys.path if path.endswith("site-packages"))])
    env = {"PATH": os.defpath, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        try:
            check = subprocess.run(
                [candidate, "-c", "import provision.local.stack, cryptography.x509"],
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
                env=env,
                cwd="/",
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if check.returncode == 0:
            return candidate, env
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else; a normal user is one anyway")
def test_it_works_as_a_normal_user(local_cache: Path) -> None:
    user = pwd.getpwnam("nobody")
    found = unprivileged_python(user)
    if found is None:
        pytest.skip("no Python that an unprivileged account can run")
    python, env = found
    cache = Path("/var/tmp") / f"provision-test-{os.getpid()}"
    try:
        packages = (local_cache / "node").resolve()
        shutil.copytree(packages, cache / "node", symlinks=True)
        for path in (cache, *cache.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
        done = subprocess.run(
            [python, "-c", HOLD, "plain"],
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            env={**env, "PROVISION_CACHE_DIR": str(cache)},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "holding http://127.0.0.1:" in done.stdout
        until(lambda: not processes("plain"))
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def test_an_api_whose_parent_is_gone_stops_itself_and_the_database(name: str, local_cache: Path) -> None:
    place = layout(name, local_cache)
    make_directories(place)
    server = install_server(local_cache, print)

    async def orphan() -> None:
        database = await backend.start_postgres(place, postgres.installation(place), print)
        api, _ = await backend.start_api(place, server, load_state(place.state_file), 2, database.pid)
        api.stdin.close()  # what the kernel does for a parent that is no more
        async with asyncio.timeout(10):
            assert await api.wait() == 0
            await database.wait()
        await api.stop(signal.SIGKILL)

    asyncio.run(orphan())
