"""The variants of the scan function that a stack can run, correct and broken ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provision.errors import LocalStackError

DEFAULT_GATE = "row-lock-nowait"
_DIRECTORY = Path(__file__).parent / "gates"


@dataclass(frozen=True, slots=True)
class Gate:
    """One variant: `sql` puts it in place of whichever is there; `scenario` is the bundled one that puts it to the
    test, where the usual one does not."""

    name: str
    broken: bool
    description: str
    sql: str
    scenario: str = ""


def gates() -> dict[str, Gate]:
    """Every gate by name, from `gates/*.sql`."""
    return {path.stem: _read(path) for path in sorted(_DIRECTORY.glob("*.sql"))}


def find_gate(name: str) -> Gate:
    """The gate of this name, or an error that lists the names there are."""
    known = gates()
    if name not in known:
        raise LocalStackError(f"there is no gate {name!r}", hint=f"one of: {', '.join(known)}")
    return known[name]


def _read(path: Path) -> Gate:
    """The first line says what it is: `-- correct: …` or `-- broken: …`; a second one may say `-- scenario: …`."""
    sql = path.read_text(encoding="utf-8")
    first, second, *_ = sql.split("\n", 2)
    kind, description = first.removeprefix("-- ").split(": ", 1)
    scenario = second.removeprefix("-- scenario: ") if second.startswith("-- scenario: ") else ""
    return Gate(path.stem, kind == "broken", description, sql, scenario)
