"""The recipes and scenarios that come with the tool, found beside the checkout or inside the installed package."""

from __future__ import annotations

from pathlib import Path

from provision.errors import ConfigError
from provision.rundir import disk_error

_HERE = Path(__file__).resolve().parent


def folder(kind: str) -> Path:
    """The folder of bundled files of a kind, `seeds` or `scenarios`."""
    packaged = _HERE / "bundled" / kind
    return packaged if packaged.is_dir() else _HERE.parent / kind


def names(kind: str) -> list[str]:
    """The names under which bundled files can be asked for."""
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def find(kind: str, given: str) -> tuple[Path, str]:
    """The path and text of a file that a user named: a path of theirs, else a bundled file of that name."""
    path = Path(given)
    if not path.exists():
        bundled = folder(kind) / f"{path.stem if path.suffix in {'.yaml', '.yml'} else given}.yaml"
        is_bundled_name = str(path.parent) in {".", kind}
        if not (is_bundled_name and bundled.is_file()):
            raise ConfigError(
                f"There is no file {given!r}.", hint=f"Bundled {kind}: {', '.join(names(kind))}; or give a path."
            )
        path = bundled
    try:
        return path, path.read_text(encoding="utf-8")
    except OSError as error:
        raise disk_error(path, error) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text.") from None
