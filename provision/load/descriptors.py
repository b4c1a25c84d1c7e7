"""File descriptors: a run asks for as many as its connections need before it begins, or refuses to begin."""

from __future__ import annotations

import os
import resource

from provision.errors import ConfigError
from provision.load import schedule
from provision.load.share import Share
from provision.load.spec import Race, Scenario

SPARE = 64
"""For all that is no connection: the journal, pipes, timers, what a library opens for a moment."""
A_PROCESS = 4
"""What a further process takes of the first one's: its pipes and how it is waited for."""


def make_room(scenario: Scenario, processes: int) -> None:
    """Raise this process's soft limit, which its children take over, to what a run needs; ConfigError when the hard
    limit is too low."""
    wanted = needed(scenario, processes) + len(os.listdir("/dev/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _enough(soft, wanted):
        return
    try:
        if not _enough(hard, wanted):
            raise ValueError
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS may refuse what is below its hard limit
        raise ConfigError(
            f"The scenario needs {wanted:,} file descriptors, but this process may open {max(soft, hard):,}.",
            hint=f"Allow more of them (ulimit -n {wanted}), or run with fewer VUs.",
        ) from None


def needed(scenario: Scenario, processes: int) -> int:
    """How many descriptors the first process opens, which has the races besides its share of the load."""
    parts = scenario.scenarios.values()
    share = Share(0, processes)
    load = sum(len(share.within(schedule.most_vus(part))) for part in parts if not isinstance(part, Race))
    races = sum(race.vus for race in scenario.races.values())
    return load + races + SPARE + A_PROCESS * (processes - 1)


def _enough(limit: int, wanted: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= wanted
