"""Every way a command can end badly, drawn once.

ProvisionError                    (abstract: `code` is the exit code, `hint` says what to do next)
├── ConfigError            104    bad input: a file, an option, a variable
│   ├── RecipeError               a seed recipe that cannot be carried out
│   ├── ScenarioError             a scenario file that cannot be run
│   └── TicketsError              a ticket file that is missing, foreign or too small
├── TargetError            106    the target cannot be used
│   ├── Unreachable               no answer: DNS, connection, TLS, time-out
│   ├── Refused                   an answer that says no: key, permission, restricted project, staging guard
│   └── ApiError                  the API rejected one statement, in its own words (code, message, hint)
├── LeftBehind             107    rows of ours are still in the database
├── Interrupted            105    Ctrl-C or SIGTERM
└── LocalStackError        106    the embedded Supabase cannot be installed or started

Verdicts are results, not errors; their exit codes stand in `ExitCode` beside these.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell is told; 99, 104 and 105 mean what they mean in k6."""

    PASS = 0
    INTERNAL = 70
    INCONCLUSIVE = 98
    FAIL = 99
    BAD_INPUT = 104
    INTERRUPTED = 105
    TARGET = 106
    LEFT_BEHIND = 107


class ProvisionError(Exception):
    """A sentence for the user (`str(error)`), the next step (`hint`, may be empty) and an exit code."""

    code: ExitCode = ExitCode.INTERNAL

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(ProvisionError):
    """Bad input, found before any side effect."""

    code = ExitCode.BAD_INPUT


class RecipeError(ConfigError):
    """A recipe that cannot be carried out; names the file, the line and the key."""


class ScenarioError(ConfigError):
    """A scenario that cannot be run; names the file, the line and the key."""


class TicketsError(ConfigError):
    """A ticket file that is missing, of another run or target, or too small."""


class TargetError(ProvisionError):
    """The target cannot be used."""

    code = ExitCode.TARGET


class Unreachable(TargetError):
    """Nobody answered."""


class Refused(TargetError):
    """Somebody answered, and the answer is no."""


class ApiError(TargetError):
    """The API rejected a statement for good; `sqlstate` is PostgREST's `code`, `status` the HTTP status."""

    def __init__(self, message: str, *, sqlstate: str = "", status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate
        self.status = status


class LeftBehind(ProvisionError):
    """Rows that this tool made are still there after a teardown."""

    code = ExitCode.LEFT_BEHIND


class Interrupted(ProvisionError):
    """The user or the system asked us to stop."""

    code = ExitCode.INTERRUPTED


class LocalStackError(TargetError):
    """The embedded Supabase cannot be installed or started."""
