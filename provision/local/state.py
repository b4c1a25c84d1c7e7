"""What a stack keeps between its lives: keys and ports, in one file that only its owner reads."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from provision.local.keys import Keys, new_keys


@dataclass(frozen=True, slots=True)
class State:
    """Keys and the ports that the stack had last; 0 is any."""

    keys: Keys = field(repr=False)
    port: int = 0
    tls_port: int = 0


def load_state(path: Path) -> State:
    """The state in this file; a fresh one if there is none or it cannot be read."""
    try:
        raw = json.loads(path.read_text())
        return State(Keys(**raw["keys"]), int(raw["port"]), int(raw["tls_port"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return State(new_keys())


def save_state(path: Path, state: State) -> None:
    """Replaces the file as a whole, mode 0600."""
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(state), file)
    fresh.replace(path)
