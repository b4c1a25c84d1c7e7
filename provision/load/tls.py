"""TLS between a transport and its user: records are opened and sealed here, where the event loops' own layer costs
about as much again as the cryptography."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

READ = 16 * 1024
"""Bytes a read, the most that a record holds; a larger buffer would be had from the system each time."""
NEEDED_NOTHING = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Tls(asyncio.Protocol):
    """One connection's TLS; `established` is done when its handshake is, or holds why it failed."""

    def __init__(self, context: ssl.SSLContext, host: str, user: asyncio.Protocol) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._user = user
        self._transport: asyncio.Transport | None = None
        self._open = False
        self.established: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def seal(self, data: bytes) -> bytes:
        """The records that carry these bytes."""
        self._tls.write(data)
        return self._outgoing.read()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if not self._open:
            self._shake_hands()
        if self._open:
            self._read()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
            self._open = True
        except NEEDED_NOTHING:
            pass
        except ssl.SSLError as error:  # a certificate that is not trusted among them
            self._fail(error)
        self._flush()
        if self._open and not self.established.done():
            self.established.set_result(None)

    def _read(self) -> None:
        """Hand on what the records that have come hold, in one piece, so that no rest is taken for the next reply."""
        data = b""
        end: Exception | None = None
        try:
            data = self._tls.read(READ)
            while self._incoming.pending or self._tls.pending():
                data += self._tls.read(READ)
        except NEEDED_NOTHING:
            pass
        except ssl.SSLError as error:
            end = error
        if data:
            self._user.data_received(data)
        if self._outgoing.pending:
            self._flush()
        if end is not None:  # a good-bye is an end like any other
            self._user.connection_lost(None if isinstance(end, ssl.SSLZeroReturnError) else end)

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and (data := self._outgoing.read()):
            self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._open:
            self._user.connection_lost(exc)
        else:
            self._fail(exc or ConnectionResetError("closed in the TLS handshake"))

    def _fail(self, error: Exception) -> None:
        if not self.established.done():
            self.established.set_exception(error)
