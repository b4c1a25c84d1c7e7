"""Dialling: the addresses of a host tried in turn, each within its share of the time, and why none answers."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from time import perf_counter_ns
from typing import Any

from provision.load.http import Fault, Origin, Reply

OUR_OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM})
"""What this machine, not the server, says when it has no connection to give."""
_REASONS: dict[type[Exception], str] = {
    socket.gaierror: "the host name does not resolve",
    UnicodeError: "the host name does not resolve",
    ConnectionRefusedError: "connection refused",
    TimeoutError: "connect timed out",
    ConnectionError: "connection closed while connecting",
}


class ConnectFailed(Exception):
    """No connection, and why in a few words; not for users: it ends as a Reply, or as Unreachable at the edge. `fault`
    says whether it was our own machine that had none to give."""

    def __init__(self, why: str, fault: Fault = Fault.NOT_SENT) -> None:
        super().__init__(why)
        self.fault = fault

    @classmethod
    def of(cls, error: Exception) -> ConnectFailed:
        """What an error in connecting means."""
        return cls(_reason(error), Fault.STARVED if _is_ours(error) else Fault.NOT_SENT)

    def reply(self) -> Reply:
        """What comes of a request that waited for the connection."""
        return Reply(0, b"", 0, 0, perf_counter_ns(), self.fault, str(self))


async def made(opening: asyncio.Task[None]) -> None:
    """Wait until a task has made its connection; ConnectFailed when it cannot, or is given up by being cancelled."""
    try:
        await asyncio.wait({opening})
    finally:
        opening.cancel()  # when nobody waits for it any more
    if opening.cancelled():
        raise ConnectFailed("given up", Fault.ABORTED)
    opening.result()


class Dialler:
    """Makes TCP connections to an origin, each within `timeout` seconds; goes back to the address that answered."""

    __slots__ = ("_addresses", "_origin", "_timeout")

    def __init__(self, origin: Origin, timeout: float) -> None:
        self._origin = origin
        self._timeout = timeout
        self._addresses: list[Any] = []

    def forget(self) -> None:
        """Ask for the host's addresses again next time."""
        self._addresses = []

    async def dial(self) -> tuple[socket.socket, int]:
        """A connected socket and the ns that connecting took; OSError or ValueError when no address answers."""
        loop = asyncio.get_running_loop()
        if not self._addresses:
            self._addresses = await loop.getaddrinfo(self._origin.host, self._origin.port, type=socket.SOCK_STREAM)
        share = self._timeout / len(self._addresses)  # so that a dead address leaves time for the next one
        refusal: OSError = OSError("no address")
        for entry in self._addresses:
            sock = socket.socket(*entry[:3])
            began = perf_counter_ns()
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                async with asyncio.timeout(share):
                    await loop.sock_connect(sock, entry[4])
            except OSError as error:
                sock.close()
                refusal = refusal if _is_ours(error) and refusal.errno else error  # what the server said counts
            except BaseException:
                sock.close()
                raise
            else:
                self._addresses = [entry]
                return sock, perf_counter_ns() - began
        raise refusal


def _is_ours(error: Exception) -> bool:
    """Whether it was this machine that had no connection to give."""
    return isinstance(error, OSError) and error.errno in OUR_OWN


def _reason(error: Exception) -> str:
    """Say in a few words why there is no connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS handshake failed: {(error.reason or 'closed').lower().replace('_', ' ')}"
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    return getattr(error, "strerror", None) or "cannot connect"
