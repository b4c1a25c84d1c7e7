"""The folder of a run, `.provision/<run>/`: the only place where run state is written to disk."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from provision.errors import ConfigError

ROOT = Path(".provision")
MANIFEST = "manifest.ndjson"
RECIPE = "recipe.yaml"
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


def new_run_id(now: datetime) -> str:
    """A run id that sorts by time and that no other run has: `20260131-204500-x7kq3`."""
    return f"{now:%Y%m%d-%H%M%S}-" + "".join(secrets.choice(_ALPHABET) for _ in range(5))


class RunDir:
    """One run's folder; every write is complete or did not happen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, run: str, root: Path = ROOT) -> RunDir:
        """Make the folder of a new run; ConfigError when the disk says no."""
        try:
            root.mkdir(parents=True, exist_ok=True)
            (root / run).mkdir()
            (ignore := root / ".gitignore").exists() or ignore.write_text("*\n")
        except OSError as error:
            raise disk_error(root / run, error) from None
        return cls(root / run)

    @classmethod
    def ensure(cls, run: str, root: Path = ROOT) -> RunDir:
        """The folder of a run, made when the run was seeded from elsewhere."""
        return cls(root / run) if (root / run).is_dir() else cls.create(run, root)

    @classmethod
    def open(cls, run: str, root: Path = ROOT) -> RunDir:
        """The folder of a run that was seeded here; ConfigError names the runs there are."""
        if (root / run / MANIFEST).is_file():
            return cls(root / run)
        known = ", ".join(runs(root)[-5:]) or "none"
        raise ConfigError(
            f"There is no run {run!r} under {root}/ (latest runs: {known}).",
            hint="Run teardown in the folder where the run was seeded.",
        )

    @property
    def run(self) -> str:
        return self.path.name

    def subfolder(self, stem: str) -> RunDir:
        """A new numbered folder inside this one: `scanner-burst-1`, `scanner-burst-2`, …"""
        number = 1
        while True:
            try:
                (path := self.path / f"{stem}-{number}").mkdir()
            except FileExistsError:
                number += 1
            except OSError as error:
                raise disk_error(path, error) from None
            else:
                return RunDir(path)

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Add one JSON line and force it to the disk before returning, and with its first line the file itself; what is
        left of a line that a crash or a full disk cut short goes first."""
        try:
            with (self.path / name).open("a+b") as file:
                new = _cut_torn(file) == 0
                file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            for folder in (self.path, self.path.parent) if new else ():
                _sync(folder)
        except OSError as error:
            raise disk_error(self.path / name, error) from None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process from writing or removing the run; ConfigError when one does. The kernel lets go of
        it when this process dies."""
        try:
            file = (self.path / MANIFEST).open("ab")
        except OSError as error:
            raise disk_error(self.path / MANIFEST, error) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                words = f"Run {self.run} is being seeded or removed by another process."
                raise ConfigError(words, hint="Wait for its end, or end it, and run this again.") from None
            except OSError:  # a file system that has no locks: better without one than not at all
                pass
            yield

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.path / name).is_file()

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The JSON lines of a file; a last line that a crash cut short is left out."""
        try:
            raw = (self.path / name).read_bytes().split(b"\n")
            return [json.loads(line) for line in raw[:-1] if line.strip()]
        except OSError as error:
            raise disk_error(self.path / name, error) from None
        except ValueError as error:
            raise ConfigError(f"{self.path / name} is damaged: {error}.") from None

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file atomically."""
        return write_text(self.path / name, [json.dumps(value, ensure_ascii=False, indent=2) + "\n"])

    def read_json(self, name: str) -> Any:
        """A JSON file of this run."""
        try:
            return json.loads((self.path / name).read_text())
        except OSError as error:
            raise disk_error(self.path / name, error) from None
        except ValueError as error:
            raise ConfigError(f"{self.path / name} is damaged: {error}.") from None

    @contextmanager
    def stream(self, name: str) -> Iterator[IO[bytes]]:
        """A file to stream records into and read them back; ConfigError when the disk refuses it, at first or later."""
        try:
            with (self.path / name).open("w+b") as file:
                yield file
        except OSError as error:
            raise disk_error(self.path / name, error) from None


def _cut_torn(file: IO[bytes]) -> int:
    """Cut off a last line that has no end; the bytes that stay."""
    if end := file.seek(0, os.SEEK_END):
        file.seek(end - 1)
        if file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
    return file.seek(0, os.SEEK_END)


def _sync(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def runs(root: Path = ROOT) -> list[str]:
    """The ids of the runs seeded from this folder, oldest first."""
    return sorted(path.parent.name for path in root.glob(f"*/{MANIFEST}"))


@contextmanager
def temporary_file(name: str) -> Iterator[Path]:
    """A path for a file that nobody keeps, in a folder of its own that vanishes with it."""
    with tempfile.TemporaryDirectory(prefix="provision-") as folder:
        yield Path(folder) / name


def with_folder(path: Path) -> Path:
    """The path, its folder made; ConfigError when the disk says no."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(path.parent, error) from None
    return path


def read_text(path: Path) -> str:
    """The text of a file; ConfigError when the disk says no or it is none."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise disk_error(path, error) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text.") from None


def write_text(path: Path, chunks: Iterable[str]) -> Path:
    """Write a text file in chunks so that a reader sees the whole of it or nothing, whatever happens meanwhile."""
    try:
        with _replacing(path) as file:
            for chunk in chunks:
                file.write(chunk.encode())
    except OSError as error:
        raise disk_error(path, error) from None
    return path


class _replacing:  # noqa: N801 - used as a `with` verb
    """A temporary file beside `path` that takes its place when the block ends well, and vanishes when not."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> IO[bytes]:
        descriptor, self.name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        self.file = os.fdopen(descriptor, "wb")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.file.flush()
                os.fsync(self.file.fileno())
                Path(self.name).chmod(0o644)
                Path(self.name).replace(self.path)
        finally:
            Path(self.name).unlink(missing_ok=True)
            self.file.close()


def check_writable(path: Path) -> None:
    """Raise ConfigError when a file could not be written at `path`; nothing is left there."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; a file name is needed.")
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent or Path(), prefix=f".{path.name}.")
        os.close(descriptor)
        Path(name).unlink()
    except OSError as error:
        raise disk_error(path, error) from None


def disk_error(path: Path, error: OSError) -> ConfigError:
    """The disk's refusal as a sentence with a next step."""
    hint = "Free some space and try again." if error.errno == 28 else "Use a folder that exists and is writable."
    return ConfigError(f"{path}: {error.strerror or error}.", hint=hint)
