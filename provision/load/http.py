"""What HTTP carries, without the carrying: where requests go, their bytes, what came of them. Pure."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from provision.errors import ConfigError

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_TARGET = re.compile(r"/[\x21-\x7e]*")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?")
_OURS = {"host", "content-length", "transfer-encoding", "connection"}


class Fault(StrEnum):
    """Why there is no complete reply."""

    NOT_SENT = "not_sent"  # nothing of the request reached a server: refused, DNS, TLS, connect time-out
    STARVED = "starved"  # not sent either, since this machine had no descriptor, port or buffer for a connection
    TIMEOUT = "timeout"  # sent, no complete reply in time
    RESET = "reset"  # sent, connection closed or reset before a complete reply
    MALFORMED = "malformed"  # sent, the answer is not HTTP
    OVERSIZE = "oversize"  # sent, head or body above the limit
    ABORTED = "aborted"  # we gave up, `sent` tells whether before it was sent


class Reply(NamedTuple):
    """What came of one request; all times are `perf_counter_ns`, 0 for what did not happen."""

    status: int  # 0 when there is a fault
    body: bytes
    sent: int  # just before the (last part of the) request was written; 0 when never sent
    first: int  # first byte of the reply
    last: int  # last byte, or the moment when the fault was known
    fault: Fault | None
    detail: str  # the reason for a fault, never a header or a key
    connecting: int = 0  # ns of the TCP connect that this request had to wait for
    handshaking: int = 0  # ns of the TLS handshake that this request had to wait for
    received: int = 0  # bytes of the reply, its head included


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go: scheme, host and port, with the TLS context that verifies it."""

    scheme: str
    host: str
    port: int
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    tls2: ssl.SSLContext | None = field(default=None, repr=False, compare=False)  # the same trust, HTTP/2 offered first
    ca_file: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process makes its own TLS context from the same file."""
        return Origin.parse, (f"{self.scheme}://{self.authority}", self.ca_file)

    @classmethod
    def parse(cls, url: str, ca_file: Path | None = None) -> Origin:
        """Return the origin of a URL (its path is ignored); ConfigError when it is none."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ConfigError(f"the target is not a URL: {error}") from None
        if parts.scheme not in {"http", "https"}:
            raise ConfigError("the target's URL must start with http:// or https://")
        if "@" in parts.netloc:
            raise ConfigError("the target's URL must not hold a user name or password")
        if not _HOST.fullmatch(host) or port == 0:
            raise ConfigError("the target's URL has no valid host and port")
        if parts.scheme == "http":
            return cls(parts.scheme, host, port or 80, ca_file=ca_file)
        contexts = _tls_context(ca_file, "http/1.1"), _tls_context(ca_file, "h2", "http/1.1")
        return cls(parts.scheme, host, port or 443, *contexts, ca_file)

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


def _tls_context(ca_file: Path | None, *protocols: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        reason = "no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"cannot read the CA file {ca_file}: {reason}") from None
    context.set_alpn_protocols(list(protocols))
    return context


def request_head(method: str, path: str, headers: Mapping[str, str], host: str) -> bytes:
    """Encode the constant part of a request for `request_bytes` to finish; ConfigError for what HTTP cannot carry."""
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(path):
        raise ConfigError(f"not a valid request line: {method!a} {path!a}")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ConfigError(f"not a valid header name: {name!a}")
        if name.lower() in _OURS:
            raise ConfigError(f"the header {name} is set by the engine itself")
        if not _VALUE.fullmatch(value):
            raise ConfigError(f"the value of header {name} has a line break or a sign outside ASCII")
    if not _VALUE.fullmatch(host):
        raise ConfigError("not a valid host")
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def request_bytes(head: bytes, body: bytes = b"") -> bytes:
    """Finish a head with its Content-Length and body."""
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)
