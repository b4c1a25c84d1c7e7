"""Commands in forked processes that have their modules loaded; these import this module by its name."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "provision.cli",
        "provision.seeding",
        "provision.removing",
        "provision.gateway.supabase",
        "provision.gateway.removal",
    ]
)


def command(arguments: list[str], folder: str, variables: dict[str, str], log: str) -> None:
    """The real command, in a process that has its modules already."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    with Path(log).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["provision", *arguments]
    from provision import cli

    try:
        cli.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
