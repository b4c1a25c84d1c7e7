"""Where a stack lives on disk, and as whom its PostgreSQL runs.

<cache>/node/…                      the API server's packages, shared by all stacks
<cache>/stacks/<name>/              mode 0700: state.json (keys, ports), certificate, logs
home/  data/ and the socket         <cache>/stacks/<name>/home, or for root <shared>/<name>, see below

PostgreSQL refuses to run as root. Root's own cache is closed to every other account and stays so; the database of
root's stacks lives in `/var/tmp/provision-0-<hash of the cache's path>/<name>` instead, which only the unprivileged
account can read.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from provision.errors import LocalStackError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_SHARED = Path("/var/tmp")  # noqa: S108  its entry is ours alone: checked by `_claim`
_SOCKET_LIMIT = 100  # bytes; macOS allows 103, Linux 107
_SOCKET_NAME = "/.s.PGSQL.5432"
_ACCOUNTS = ("nobody", "daemon")


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged account that root's PostgreSQL runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Every path of one stack."""

    name: str
    root: Path
    home: Path
    sockets: Path
    shared: Path
    account: Account | None

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.home / "data"

    @property
    def version_file(self) -> Path:
        """Says with which schema and PostgreSQL the data were made; its presence, that they are complete."""
        return self.root / "data-version"

    @property
    def state_file(self) -> Path:
        """Keys and ports."""
        return self.root / "state.json"

    @property
    def logs(self) -> Path:
        """What supervisor, API and PostgreSQL had to say."""
        return self.root / "logs"

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return _short(self.root, "/control") / "control"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.root / "supervisor.lock"

    @property
    def start_lock(self) -> Path:
        """Held while a supervisor is being started, or the stack deleted."""
        return self.root.parent / f".{self.name}.lock"


def cache_dir() -> Path:
    """The cache directory of this user, after `PROVISION_CACHE_DIR` and the platform's custom."""
    if given := os.environ.get("PROVISION_CACHE_DIR"):
        return Path(given).absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "provision"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "provision"


def layout(name: str, cache: Path) -> Layout:
    """The paths of the stack `name`; nothing is made."""
    if not _NAME.fullmatch(name):
        raise LocalStackError(
            f"{name!r} is no name for a stack", hint="use up to 32 of: small letters, digits, hyphen, underscore"
        )
    root = cache / "stacks" / name
    account = unprivileged_account() if os.geteuid() == 0 else None
    shared = _SHARED / f"provision-0-{_digest(cache)}" if account else root
    home = shared / name if account else root / "home"
    return Layout(name, root, home, _short(home / "socket", _SOCKET_NAME), shared, account)


def unprivileged_account() -> Account:
    """An account without rights that has a passwd entry, which PostgreSQL asks for."""
    for name in _ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise LocalStackError(
        f"PostgreSQL does not run as root, and there is no account {' or '.join(_ACCOUNTS)} to run it as",
        hint="run as a normal user",
    )


def make_directories(place: Layout) -> None:
    """Makes the stack's directories, each closed to others."""
    for directory in (place.root.parent, place.root, place.logs, place.control.parent):
        _private(directory)
    if place.account is None:
        for directory in (place.home, place.sockets):
            _private(directory)
        return
    _claim(place.shared)
    for directory in (place.home, place.sockets):
        directory.mkdir(mode=0o700, exist_ok=True)
        os.chown(directory, place.account.uid, place.account.gid, follow_symlinks=False)


def make_private(directory: Path) -> None:
    """Makes what is missing of this path, closed to others; what is there stays as it is."""
    for missing in reversed([path for path in (directory, *directory.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


def _private(directory: Path) -> None:
    """Makes `directory` with mode 0700; one that is somebody else's is refused."""
    make_private(directory)
    if directory.lstat().st_uid != os.geteuid() or directory.is_symlink():
        raise LocalStackError(f"{directory} belongs to somebody else", hint="set PROVISION_CACHE_DIR to another place")
    directory.chmod(0o700)


def _claim(directory: Path) -> None:
    """Makes root's directory in a place where anybody may write; one that was there before must be root's."""
    directory.mkdir(mode=0o711, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise LocalStackError(f"{directory} belongs to somebody else", hint="delete it, or set PROVISION_CACHE_DIR")
    directory.chmod(0o711)  # to pass through, not to list


def _short(directory: Path, name: str) -> Path:
    """`directory`, or a short stand-in for it if a socket `name` in it would have too long a path."""
    if len(os.fsencode(directory)) + len(name) <= _SOCKET_LIMIT:
        return directory
    return Path("/tmp") / f"provision-{os.geteuid()}-{_digest(directory)}"  # noqa: S108  checked by `_private`


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
