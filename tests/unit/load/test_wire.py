"""The wire against servers that keep the rules and servers that do not."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import pytest
import servers
from hypothesis import given
from hypothesis import strategies as st
from servers import OK, Authority, Behaviour, Peer, Seen, replying, serve

from provision.errors import ConfigError
from provision.load import wire
from provision.load.dial import ConnectFailed, Dialler
from provision.load.http import Fault, Origin, Reply, request_bytes, request_head
from provision.load.wire import Connection

SHORT = 0.15  # seconds; where a test is about running into it
LONG = 10.0  # seconds; where it must not be reached
REQUEST = b'POST /rpc HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\n{"a":1}'
Run = Callable[[Any], Any]


class Asker:
    """Sends over one connection and counts how often each `done` is called."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.calls: list[int] = []

    async def __call__(self, request: bytes = REQUEST, *, through: Callable[..., None] | None = None) -> Reply:
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        number = len(self.calls)
        self.calls.append(0)

        def done(reply: Reply) -> None:
            self.calls[number] += 1
            if not answer.done():
                answer.set_result(reply)

        if through is None:
            self.connection.send(request, done)
        else:
            through(done)
        return await answer


async def with_server(
    behaviour: Behaviour, use: Callable[[Asker, Seen], Awaitable[Any]], *, timeout: float = LONG
) -> Any:
    """Run `use` against a server of that behaviour; every `done` must have been called once by the end, and no more."""
    async with serve(behaviour) as seen:
        asker = Asker(Connection(Origin.parse(seen.url), timeout=timeout))
        result = await use(asker, seen)
        asker.connection.close()
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert set(asker.calls) <= {1}
    return result


async def ask_once(asker: Asker, _seen: Seen) -> Reply:
    return await asker()


def ask_times(times: int) -> Callable[[Asker, Seen], Awaitable[tuple[list[Reply], int]]]:
    async def ask(asker: Asker, seen: Seen) -> tuple[list[Reply], int]:
        return [await asker() for _ in range(times)], seen.connections

    return ask


COMPLETE: dict[str, tuple[tuple[bytes, ...], str, int, bytes]] = {
    "content length": ((OK,), "keep", 200, b"ok"),
    "no body": ((b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",), "keep", 200, b""),
    "head and body apart": ((OK[:-2], b"o", b"k"), "keep", 200, b"ok"),
    "status line in pieces": (
        (b"HT", b"TP/1.1 2", b"00 OK\r", b"\nContent-Length: 2\r\n\r", b"\nok"), "keep", 200, b"ok",
    ),
    "header names in capitals": ((b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH:2\r\n\r\nok",), "keep", 200, b"ok"),
    "no reason phrase": ((b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",), "keep", 200, b"ok"),
    "empty line before the status": ((b"\r\n" + OK,), "keep", 200, b"ok"),
    "chunked": (
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",), "keep", 200, b"ok",
    ),
    "chunked in pieces": (
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2", b"\r\nok\r", b"\n0\r\n", b"\r\n"),
        "keep", 200, b"ok",
    ),
    "chunked with trailers": (
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: T\r\n\r\n2\r\nok\r\n0\r\nT: v\r\n\r\n",),
        "keep", 200, b"ok",
    ),
    "chunk extensions": (
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0;c\r\n\r\n",), "keep", 200, b"ok",
    ),
    "until close": ((b"HTTP/1.1 200 OK\r\n\r\no", b"k"), "close", 200, b"ok"),
    "until close, empty": ((b"HTTP/1.1 200 OK\r\n\r\n",), "close", 200, b""),
    "until close, after an interim reply": (
        (b"HTTP/1.1 103 E\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\n\r\nok",), "close", 200, b"ok",
    ),
    "until close, a body that looks like a header": (
        (b"HTTP/1.1 200 OK\r\n\r\na\r\nContent-Length: 9\r\n",), "close", 200, b"a\r\nContent-Length: 9\r\n",
    ),
    "HTTP/1.0": ((b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",), "close", 200, b"ok"),
    "HTTP/1.0 until close": ((b"HTTP/1.0 200 OK\r\n\r\nok",), "close", 200, b"ok"),
    "204": ((b"HTTP/1.1 204 No Content\r\n\r\n",), "keep", 204, b""),
    "304 with a length": ((b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",), "keep", 304, b""),
    "100 first": ((b"HTTP/1.1 100 Continue\r\n\r\n" + OK,), "keep", 200, b"ok"),
    "100 first, on its own": ((b"HTTP/1.1 100 Continue\r\n\r\n", OK), "keep", 200, b"ok"),
    "103 twice": ((b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2, OK), "keep", 200, b"ok"),
    "error with a body": ((b"HTTP/1.1 503 No\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\nno",), "keep", 503, b"no"),
    "upgrade offered": (
        (b"HTTP/1.1 200 OK\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok",), "keep", 200, b"ok",
    ),
    "upgrade made": ((b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n\0\1",), "keep", 101, b""),
    "large": (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,), "keep", 200, b"x" * 1_000_000,
    ),
    "head as large as allowed": (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: " + b"a" * (wire.MAX_HEAD - 43) + b"\r\n\r\nok",),
        "keep", 200, b"ok",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPLETE)
def test_complete_reply_is_handed_on(run: Run, name: str) -> None:
    parts, end, status, body = COMPLETE[name]
    reply = run(with_server(replying(*parts, end=end), ask_once))
    assert (reply.status, reply.body, reply.fault, reply.detail) == (status, body, None, "")
    assert 0 < reply.sent < reply.first <= reply.last
    assert reply.connecting > 0
    assert reply.handshaking == 0
    assert reply.received == sum(map(len, parts))


FAULTY: dict[str, tuple[tuple[bytes, ...], str, Fault]] = {
    "close without a reply": ((), "close", Fault.RESET),
    "reset without a reply": ((), "reset", Fault.RESET),
    "close in the status line": ((b"HTTP/1.1 20",), "close", Fault.RESET),
    "close in the head": ((b"HTTP/1.1 200 OK\r\nContent-",), "close", Fault.RESET),
    "reset in the head": ((b"HTTP/1.1 200 OK\r\nContent-",), "reset", Fault.RESET),
    "close in the body": ((OK[:-1],), "close", Fault.RESET),
    "reset in the body": ((OK[:-1],), "reset", Fault.RESET),
    "reset where close would end the body": ((b"HTTP/1.1 200 OK\r\n\r\nok",), "reset", Fault.RESET),
    "close before the body": ((OK[:-2],), "close", Fault.RESET),
    "close in a body after an interim reply": ((b"HTTP/1.1 100 C\r\n\r\n" + OK[:-1],), "close", Fault.RESET),
    "close after an interim reply": ((b"HTTP/1.1 100 Continue\r\n\r\n",), "close", Fault.RESET),
    "close in a body of an unshared connection": (
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\no",), "close", Fault.RESET,
    ),
    "close in a chunk": ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",), "close", Fault.RESET),
    "close between chunks": (
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",), "close", Fault.RESET,
    ),
    "close before the last line": (
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",), "close", Fault.RESET,
    ),
    "garbage": ((b"\x00\xff\x80garbage",), "keep", Fault.MALFORMED),
    "an SSH server": ((b"SSH-2.0-OpenSSH_9.6\r\n",), "keep", Fault.MALFORMED),
    "a TLS alert": ((b"\x15\x03\x01\x00\x02\x02\x46",), "close", Fault.MALFORMED),
    "HTTP/0.9": ((b"<html>hello</html>",), "close", Fault.MALFORMED),
    "HTTP/2 frames": ((b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + b"\0" * 18,), "keep", Fault.MALFORMED),
    "a request": ((b"GET / HTTP/1.1\r\n\r\n",), "keep", Fault.MALFORMED),
    "a status that is no number": ((b"HTTP/1.1 abc OK\r\n\r\n",), "keep", Fault.MALFORMED),
    "bare line feeds": ((b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",), "keep", Fault.MALFORMED),
    "a header without a colon": ((b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",), "keep", Fault.MALFORMED),
    "a length that is no number": ((b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",), "keep", Fault.MALFORMED),
    "a negative length": ((b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",), "keep", Fault.MALFORMED),
    "a length beyond counting": (
        (b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n" % (b"9" * 40),), "keep", Fault.MALFORMED,
    ),
    "two lengths": ((b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",), "keep", Fault.MALFORMED),
    "length and chunks": (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",), "keep", Fault.MALFORMED,
    ),
    "a chunk size that is no number": (
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok",), "keep", Fault.MALFORMED,
    ),
    "a chunk longer than it says": (
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nok\r\n",), "keep", Fault.MALFORMED,
    ),
    "one long header": ((b"HTTP/1.1 200 OK\r\nA: " + b"a" * 70_000,), "keep", Fault.OVERSIZE),
    "a head just too large": (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nA: " + b"a" * (wire.MAX_HEAD - 42) + b"\r\n\r\nok",),
        "keep", Fault.OVERSIZE,
    ),
    "many headers": ((b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,), "keep", Fault.OVERSIZE),
    "many interim replies": ((b"HTTP/1.1 103 E\r\n\r\n" * 5_000,), "keep", Fault.OVERSIZE),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTY)
def test_faulty_reply_is_classified(run: Run, name: str) -> None:
    parts, end, fault = FAULTY[name]
    reply = run(with_server(replying(*parts, end=end), ask_once))
    assert (reply.status, reply.body, reply.fault) == (0, b"", fault)
    assert reply.detail
    assert 0 < reply.sent < reply.last


@pytest.mark.parametrize(
    ("start", "block"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", b"x" * 65536),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
        (b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 1000),
    ],
    ids=["length", "chunked", "until close", "headers"],
)
def test_reply_without_an_end_is_oversize(
    run: Run, monkeypatch: pytest.MonkeyPatch, start: bytes, block: bytes
) -> None:
    monkeypatch.setattr(wire, "MAX_BODY", 300_000)
    reply = run(with_server(servers.flooding(start, block), ask_once))
    assert reply.fault is Fault.OVERSIZE


@pytest.mark.parametrize(
    "behaviour",
    [
        servers.mute,
        replying(OK[:-1], end="silent"),
        replying(b"HTTP/1.1 200 OK\r\n\r\nuntil close, which does not come", end="silent"),
        replying(b"HTTP/1.1 100 Continue\r\n\r\n", end="silent"),
        replying(b"\r\n", end="silent"),
        servers.dripping(b"HTTP/1.1 200 OK\r\nA: " + b"a" * 60_000),
        servers.dripping(b"HTTP/1.1 103 Early Hints\r\n\r\n", pause=0),
    ],
    ids=["mute", "half a body", "open end", "interim only", "empty line", "slow head", "slow interim replies"],
)
def test_reply_that_does_not_end_in_time_is_a_timeout(run: Run, behaviour: Behaviour) -> None:
    reply = run(with_server(behaviour, ask_once, timeout=SHORT))
    assert (reply.status, reply.fault) == (0, Fault.TIMEOUT)
    assert (reply.received > 0) == (behaviour is not servers.mute), "half a reply came over the wire, too"
    assert reply.last - reply.sent >= SHORT * 1e9


def test_a_later_request_gets_its_own_whole_time(run: Run) -> None:
    """One timer serves all requests; it must neither fire early for a later one nor forget it."""

    async def behave(peer: Peer) -> None:
        for _ in range(3):
            await peer.request()
            await asyncio.sleep(SHORT)
            await peer.write(OK)
        await peer.gone()

    replies, _ = run(with_server(behave, ask_times(4), timeout=2.5 * SHORT))
    assert [reply.fault for reply in replies] == [None, None, None, Fault.TIMEOUT]


# -- keeping the connection


def test_connection_is_kept_for_the_next_request(run: Run) -> None:
    replies, connections = run(with_server(replying(OK), ask_times(5)))
    assert [reply.status for reply in replies] == [200] * 5
    assert connections == 1
    assert [reply.connecting > 0 for reply in replies] == [True, False, False, False, False]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
    ids=["announced", "HTTP/1.0", "until close", "announced, chunked"],
)
def test_server_that_closes_after_each_reply_is_reconnected(run: Run, answer: bytes) -> None:
    replies, connections = run(with_server(replying(answer, end="close"), ask_times(3)))
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"ok")] * 3
    assert all(reply.connecting > 0 for reply in replies)
    assert connections == 3


def test_announced_close_is_honoured_though_the_server_stays(run: Run) -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    _, connections = run(with_server(replying(answer), ask_times(3)))
    assert connections == 3


@pytest.mark.parametrize("how", ["close", "reset", "junk"])
def test_connection_lost_while_idle_is_replaced_before_the_next_request(run: Run, how: str) -> None:
    left = asyncio.Event()

    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.write(OK)
        if how == "junk":
            await peer.write(b"unasked")
        elif how == "reset":
            peer.reset()
        else:
            peer.writer.close()
        left.set()
        if how == "junk":
            await peer.gone()

    async def use(asker: Asker, seen: Seen) -> tuple[list[Reply], int]:
        replies = []
        for _ in range(3):
            left.clear()
            replies.append(await asker())
            await left.wait()
            await until_stale(asker.connection)
        return replies, len(seen.requests)

    replies, requests = run(with_server(behave, use))
    assert [reply.fault for reply in replies] == [None] * 3
    assert requests == 3


def test_connection_lost_just_now_is_noticed_though_the_loop_has_not_seen_it(run: Run) -> None:
    """The close lies in the kernel, the loop had no turn to read it: the send itself must look."""

    async def use(asker: Asker, seen: Seen) -> tuple[Reply, Reply, int]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            here = Origin.parse(f"http://127.0.0.1:{listener.getsockname()[1]}")
            asker.connection._dialler = Dialler(here, LONG)
            await asker.connection.connect()
            server_side, _ = listener.accept()
            asker.connection._dialler = Dialler(Origin.parse(seen.url), LONG)
            server_side.close()
        _spin(2 * wire.IDLE_CHECK_NS)
        return await asker(), await asker(), len(seen.requests)

    first, second, requests = run(with_server(replying(OK), use))
    assert (first.status, second.status, requests) == (200, 200, 2)


async def until_stale(connection: Connection) -> None:
    while not connection._stale():
        await asyncio.sleep(0)
    _spin(2 * wire.IDLE_CHECK_NS)


def _spin(nanoseconds: int) -> None:
    until = perf_counter_ns() + nanoseconds
    while perf_counter_ns() < until:
        pass


def test_request_lost_on_a_kept_connection_is_not_sent_again(run: Run) -> None:
    async def behave(peer: Peer) -> None:
        await peer.request()
        await peer.write(OK)
        await peer.request()

    async def use(asker: Asker, seen: Seen) -> tuple[Reply, Reply, int]:
        return await asker(), await asker(), len(seen.requests)

    first, second, requests = run(with_server(behave, use))
    assert (first.status, second.fault, requests) == (200, Fault.RESET, 2)


def test_unannounced_close_after_each_reply_loses_no_call_back(run: Run) -> None:
    replies, _ = run(with_server(replying(OK, end="close"), ask_times(20)))
    assert {reply.fault for reply in replies} <= {None, Fault.RESET}
    assert replies[0].status == 200


@pytest.mark.parametrize(
    "extra", [OK, b"HTTP/1.1 2", b"x", b"\0"], ids=["second reply", "half a reply", "letter", "zero byte"]
)
def test_more_than_one_reply_costs_the_connection(run: Run, extra: bytes) -> None:
    replies, connections = run(with_server(replying(OK + extra), ask_times(3)))
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"ok")] * 3
    assert connections == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_a_reply_and_nobody_goes_there(run: Run, status: int) -> None:
    elsewhere = Seen()

    async def use(asker: Asker, seen: Seen) -> tuple[Reply, int, int]:
        return await asker(), seen.connections, elsewhere.connections

    async def main() -> tuple[Reply, int, int]:
        nonlocal elsewhere
        async with serve(replying(OK)) as elsewhere:
            location = f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere.url}/rpc\r\nContent-Length: 0\r\n\r\n"
            return await with_server(replying(location.encode()), use)  # type: ignore[no-any-return]

    reply, here, there = run(main())
    assert (reply.status, reply.fault, here, there) == (status, None, 1, 0)


# -- call-backs


def test_sending_from_call_backs_does_not_recurse(run: Run) -> None:
    async def use(asker: Asker, seen: Seen) -> int:
        everything = asyncio.Event()
        count = 0

        def done(_reply: Reply) -> None:
            nonlocal count
            count += 1
            if count == 3000:
                everything.set()
            else:
                asker.connection.send(REQUEST, done)

        asker.connection.send(REQUEST, done)
        await everything.wait()
        return seen.connections

    assert run(with_server(replying(OK), use)) == 1


def test_failing_from_call_backs_does_not_recurse(run: Run) -> None:
    async def main() -> set[Fault | None]:
        connection = Connection(Origin.parse(f"http://127.0.0.1:{servers.closed_port()}"), timeout=LONG)
        everything = asyncio.Event()
        faults: list[Fault | None] = []

        def done(reply: Reply) -> None:
            faults.append(reply.fault)
            if len(faults) == 1500:
                everything.set()
            else:
                connection.send(REQUEST, done)

        connection.send(REQUEST, done)
        await everything.wait()
        connection.close()
        return set(faults)

    assert run(main()) == {Fault.NOT_SENT}


def test_second_request_in_flight_is_refused_and_the_first_unharmed(run: Run) -> None:
    async def use(asker: Asker, seen: Seen) -> tuple[Reply, Reply, int]:
        first, second = await asyncio.gather(asker(), asker())
        return first, second, len(seen.requests)

    first, second, requests = run(with_server(replying(OK), use))
    assert (first.status, second.fault, second.sent, requests) == (200, Fault.NOT_SENT, 0, 1)


def test_abort_ends_the_request_in_flight(run: Run) -> None:
    async def use(asker: Asker, seen: Seen) -> Reply:
        waiting = asyncio.ensure_future(asker())
        while not seen.requests:
            await asyncio.sleep(0)
        asker.connection.abort("enough")
        asker.connection.abort("again")
        return await waiting

    async def silent(peer: Peer) -> None:
        await peer.request()
        await peer.gone()

    reply = run(with_server(silent, use))
    assert (reply.fault, reply.detail, reply.first) == (Fault.ABORTED, "enough", 0)
    assert reply.sent > 0


def test_abort_while_connecting_is_an_abort_of_what_was_not_sent(run: Run) -> None:
    async def main() -> Reply:
        with servers.full_backlog() as port:
            asker = Asker(Connection(Origin.parse(f"http://127.0.0.1:{port}"), timeout=LONG))
            waiting = asyncio.ensure_future(asker())
            await asyncio.sleep(0.01)
            asker.connection.close()
            reply = await waiting
        assert asker.calls == [1]
        return reply

    reply = run(main())
    assert (reply.fault, reply.sent) == (Fault.ABORTED, 0)


def test_closed_connection_can_be_used_again(run: Run) -> None:
    async def use(asker: Asker, seen: Seen) -> tuple[Reply, Reply, int]:
        first = await asker()
        asker.connection.close()
        asker.connection.close()
        return first, await asker(), asker.connection.connects

    first, second, connects = run(with_server(replying(OK), use))
    assert (first.status, second.status, connects) == (200, 200, 2)


def test_connect_leaves_a_request_in_flight_alone(run: Run) -> None:
    async def use(asker: Asker, seen: Seen) -> tuple[Reply, int]:
        waiting = asyncio.ensure_future(asker())
        await asyncio.sleep(0)
        await asker.connection.connect()
        reply = await waiting
        await asker.connection.connect()
        return reply, seen.connections

    reply, connections = run(with_server(replying(OK), use))
    assert (reply.status, connections) == (200, 1)


def test_bytes_and_connects_are_counted(run: Run) -> None:
    async def use(asker: Asker, _seen: Seen) -> tuple[int, ...]:
        for _ in range(3):
            await asker()
        c = asker.connection
        return c.connects, c.bytes_sent, c.tls_ns, int(c.connecting_ns > 0)

    assert run(with_server(replying(OK), use)) == (1, 3 * len(REQUEST), 0, 1)


def test_large_request_arrives_whole(run: Run) -> None:
    request = request_bytes(request_head("POST", "/", {}, "h"), b"x" * 4_000_000)

    async def use(asker: Asker, seen: Seen) -> tuple[Reply, Reply, list[int]]:
        return await asker(request), await asker(), [len(request) for request in seen.requests]

    async def behave(peer: Peer) -> None:
        for _ in range(2):
            head = await peer.reader.readuntil(b"\r\n\r\n")
            length = int(head.split(b"Content-Length: ")[1].split(b"\r")[0])
            peer.seen.requests.append(head + await peer.reader.readexactly(length))
            await peer.write(OK)
        await peer.gone()

    first, second, lengths = run(with_server(behave, use))
    assert (first.status, second.status, lengths) == (200, 200, [len(request), len(REQUEST)])


# -- connecting


def test_refused_connection_is_not_sent(run: Run) -> None:
    assert run(fault_of(f"http://127.0.0.1:{servers.closed_port()}")) == (Fault.NOT_SENT, "connection refused", 0)


def test_connect_that_is_never_answered_is_not_sent(run: Run) -> None:
    with servers.full_backlog() as port:
        assert run(fault_of(f"http://127.0.0.1:{port}", timeout=SHORT)) == (Fault.NOT_SENT, "connect timed out", 0)


def test_host_that_does_not_resolve_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_args: Any, **_kwargs: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    outcome = asyncio.run(fault_of("http://nowhere.invalid"))
    assert outcome == (Fault.NOT_SENT, "the host name does not resolve", 0)


async def refused_by(monkeypatch: pytest.MonkeyPatch, *errors: OSError) -> tuple[Any, str, int]:
    """What becomes of a request whose connects to a few addresses end in these errors."""
    left = list(errors)

    async def connect(*_: Any) -> None:
        raise left.pop(0)

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", connect)
    asker = Asker(Connection(Origin.parse("http://127.0.0.1:1")))
    asker.connection._dialler._addresses = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))] * len(errors)
    reply = await asker()
    asker.connection.close()
    return reply.fault, reply.detail, reply.sent


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EADDRNOTAVAIL])
def test_a_machine_without_a_descriptor_or_port_starves_the_request(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(number, os.strerror(number))
    assert asyncio.run(refused_by(monkeypatch, error)) == (Fault.STARVED, os.strerror(number), 0)


def test_a_refusal_by_the_server_counts_more_than_an_address_that_this_machine_cannot_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors = ConnectionRefusedError(errno.ECONNREFUSED, "refused"), OSError(errno.EADDRNOTAVAIL, "cannot assign")
    assert asyncio.run(refused_by(monkeypatch, *errors)) == (Fault.NOT_SENT, "connection refused", 0)


def test_host_that_cannot_be_a_name_is_not_sent(run: Run) -> None:
    assert run(fault_of("http://a..b:1")) == (Fault.NOT_SENT, "the host name does not resolve", 0)


def test_second_address_is_tried_when_the_first_is_dead(run: Run) -> None:
    async def use(asker: Asker, seen: Seen) -> Reply:
        here = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", seen.port))
        dead = (*here[:4], ("127.0.0.1", servers.closed_port()))
        asker.connection._dialler._addresses = [dead, here]
        return await asker()

    assert run(with_server(replying(OK), use)).status == 200


def test_server_that_hangs_up_at_once_loses_no_call_back(run: Run) -> None:
    replies, _ = run(with_server(servers.hang_up, ask_times(10)))
    assert {reply.fault for reply in replies} <= {Fault.RESET, Fault.NOT_SENT}


def test_connect_says_why_it_failed(run: Run) -> None:
    async def main() -> None:
        await Connection(Origin.parse(f"http://127.0.0.1:{servers.closed_port()}")).connect()

    with pytest.raises(ConnectFailed, match="connection refused"):
        run(main())


def test_connect_twice_is_one_connection(run: Run) -> None:
    async def use(asker: Asker, seen: Seen) -> tuple[Reply, int]:
        await asker.connection.connect()
        await asker.connection.connect()
        return await asker(), seen.connections

    reply, connections = run(with_server(replying(OK), use))
    assert (reply.status, reply.connecting, connections) == (200, 0, 1)


async def fault_of(url: str, *, ca_file: Path | None = None, timeout: float = LONG) -> tuple[Fault | None, str, int]:
    asker = Asker(Connection(Origin.parse(url, ca_file), timeout=timeout))
    reply = await asker()
    asker.connection.close()
    await asyncio.sleep(0)
    assert asker.calls == [1]
    return reply.fault, reply.detail, reply.sent


# -- TLS


async def over_tls(
    authority: Authority, behaviour: Behaviour, *, times: int = 1, left: bool = False
) -> tuple[list[Reply], Connection, int]:
    async with serve(behaviour, authority.server("localhost", "127.0.0.1")) as seen:
        asker = Asker(Connection(Origin.parse(seen.secure_url, authority.file), timeout=LONG))
        replies = []
        for _ in range(times):
            replies.append(await asker())
            if left:
                await until_stale(asker.connection)
        asker.connection.close()
        await asyncio.sleep(0)
        assert set(asker.calls) == {1}
        return replies, asker.connection, seen.connections


def test_tls_connection_is_kept_and_its_handshake_timed(run: Run, authority: Authority) -> None:
    replies, connection, connections = run(over_tls(authority, replying(OK), times=3))
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"ok")] * 3
    assert connections == connection.connects == 1
    assert [reply.handshaking > 0 for reply in replies] == [True, False, False]
    assert connection.tls_ns == replies[0].handshaking


@pytest.mark.parametrize(
    ("name", "status", "fault"),
    [("until close", 200, None), ("close in the body", 0, Fault.RESET), ("garbage", 0, Fault.MALFORMED)],
)
def test_tls_replies_are_classified_alike(
    run: Run, authority: Authority, name: str, status: int, fault: Fault | None
) -> None:
    parts, end = (COMPLETE[name] if name in COMPLETE else FAULTY[name])[:2]
    replies, _, _ = run(over_tls(authority, replying(*parts, end=end)))
    assert (replies[0].status, replies[0].fault) == (status, fault)


def test_tls_connection_lost_while_idle_is_replaced(run: Run, authority: Authority) -> None:
    replies, _, connections = run(over_tls(authority, replying(OK, end="close"), times=3, left=True))
    assert [reply.status for reply in replies] == [200] * 3
    assert connections == 3


def test_untrusted_certificate_is_not_sent(run: Run, authority: Authority, tmp_path: Path) -> None:
    other = Authority.create(tmp_path, "another authority")
    outcome = run(refused_by_tls(other.server("127.0.0.1"), authority))
    assert outcome[0] is Fault.NOT_SENT
    assert "certificate not trusted" in outcome[1]


def test_certificate_of_another_host_is_not_sent(run: Run, authority: Authority) -> None:
    outcome = run(refused_by_tls(authority.server("example.com"), authority))
    assert outcome[0] is Fault.NOT_SENT
    assert "certificate not trusted" in outcome[1]


def test_expired_certificate_is_not_sent(run: Run, authority: Authority) -> None:
    outcome = run(refused_by_tls(authority.server("127.0.0.1", days=-1), authority))
    assert (outcome[0], "expired" in outcome[1]) == (Fault.NOT_SENT, True)


def test_system_certificates_do_not_trust_our_own(run: Run, authority: Authority) -> None:
    outcome = run(refused_by_tls(authority.server("127.0.0.1"), None))
    assert outcome[0] is Fault.NOT_SENT


async def refused_by_tls(context: Any, trusted: Authority | None) -> tuple[Fault | None, str]:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's own complaint
    async with serve(replying(OK), context) as seen:
        fault, detail, sent = await fault_of(seen.secure_url, ca_file=trusted.file if trusted else None)
        assert (sent, seen.requests) == (0, [])
        return fault, detail


@pytest.mark.parametrize(
    ("behaviour", "timeout", "detail"),
    [
        (servers.mute, SHORT, "connect timed out"),
        (servers.hang_up, LONG, ""),
        (replying(OK), SHORT, ""),
        (servers.flooding(b"", b"HTTP/1.1 400 Plain HTTP sent to TLS\r\n"), SHORT, ""),
    ],
    ids=["never finishes", "closes", "waits for HTTP", "speaks HTTP"],
)
def test_tls_handshake_that_fails_is_not_sent(
    run: Run, authority: Authority, behaviour: Behaviour, timeout: float, detail: str
) -> None:
    async def main() -> tuple[Fault | None, str, int]:
        async with serve(behaviour) as seen:
            return await fault_of(seen.secure_url, ca_file=authority.file, timeout=timeout)

    fault, said, sent = run(main())
    assert (fault, sent) == (Fault.NOT_SENT, 0)
    assert detail in said
    assert said


# -- holding back


def test_held_request_lacks_its_last_byte_until_the_release(run: Run) -> None:
    received = bytearray()

    async def behave(peer: Peer) -> None:
        received.extend(await peer.reader.readexactly(len(REQUEST) - 1))
        held.set()
        received.extend(await peer.reader.readexactly(1))
        await peer.write(OK)

    async def use(asker: Asker, _seen: Seen) -> tuple[Reply, bytes, int]:
        await asker.connection.connect()
        asker.connection.hold(REQUEST)
        await held.wait()
        before, released = bytes(received), perf_counter_ns()
        return await asker(through=asker.connection.release), before, released

    held = asyncio.Event()
    reply, before, released = run(with_server(behave, use))
    assert (reply.status, before, bytes(received)) == (200, REQUEST[:-1], REQUEST)
    assert reply.sent >= released


@pytest.mark.parametrize(
    ("parts", "end", "status", "fault"),
    [
        ((b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",), "keep", 401, None),
        ((b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n",), "close", 401, None),
        ((), "close", 0, Fault.RESET),
        ((), "reset", 0, Fault.RESET),
        ((b"nonsense",), "keep", 0, Fault.MALFORMED),
    ],
    ids=["reply", "reply and close", "close", "reset", "garbage"],
)
def test_what_ends_a_held_request_is_its_reply(
    run: Run, parts: tuple[bytes, ...], end: str, status: int, fault: Fault | None
) -> None:
    async def behave(peer: Peer) -> None:
        await peer.reader.readexactly(len(REQUEST) - 1)
        await peer.write(*parts)
        if end == "reset":
            peer.reset()
        elif end == "keep":
            assert await peer.reader.read() == b""

    async def use(asker: Asker, _seen: Seen) -> tuple[Reply, int]:
        await asker.connection.connect()
        asker.connection.hold(REQUEST)
        while asker.connection.busy:
            await asyncio.sleep(0)
        released = perf_counter_ns()
        return await asker(through=asker.connection.release), released

    reply, released = run(with_server(behave, use))
    assert (reply.status, reply.fault) == (status, fault)
    assert 0 < reply.sent < released


def test_hold_without_a_connection_is_not_sent(run: Run) -> None:
    async def use(asker: Asker, seen: Seen) -> tuple[Reply, Reply, int]:
        asker.connection.hold(REQUEST)
        held = await asker(through=asker.connection.release)
        return held, await asker(through=asker.connection.release), seen.connections

    held, nothing, connections = run(with_server(replying(OK), use))
    assert (held.fault, nothing.fault, connections) == (Fault.NOT_SENT, Fault.NOT_SENT, 0)


def test_held_request_can_be_given_up(run: Run) -> None:
    async def use(asker: Asker, _seen: Seen) -> Reply:
        await asker.connection.connect()
        asker.connection.hold(REQUEST)
        asker.connection.abort("enough")
        return await asker(through=asker.connection.release)

    assert run(with_server(servers.mute, use)).fault is Fault.ABORTED


# -- any way the bytes arrive


class Paper(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass


def arriving(pieces: list[bytes], *, closed: bool) -> tuple[list[tuple[Any, ...]], bool]:
    """Return the replies (no times) to one request whose answer arrives so, and whether the connection lives."""

    async def main() -> tuple[list[tuple[Any, ...]], bool]:
        connection, replies = Connection(Origin.parse("http://127.0.0.1:1")), list[Reply]()
        transport = Paper()
        connection.connection_made(transport)
        connection.send(REQUEST, replies.append)
        assert transport.written == REQUEST
        for piece in pieces:
            if not transport.closed:
                connection.data_received(piece)
        if closed and not transport.closed:
            connection.connection_lost(None)
        alive = not transport.closed
        connection.abort()
        connection.close()
        return [(r.status, r.body, r.fault, r.detail) for r in replies], alive

    return asyncio.run(main())


STREAMS = {name: (b"".join(case[0]), case[1] == "close") for name, case in (COMPLETE | FAULTY).items()}
SMALL = [name for name, (data, _) in STREAMS.items() if 1 < len(data) < 300 and STREAMS[name]]


@pytest.mark.parametrize("name", SMALL)
def test_split_at_any_one_byte_changes_nothing(name: str) -> None:
    data, closed = STREAMS[name]
    whole = arriving([data], closed=closed)
    assert len(whole[0]) == 1
    for at in range(1, len(data)):
        assert arriving([data[:at], data[at:]], closed=closed) == whole


@given(data=st.data(), name=st.sampled_from(list(STREAMS)))
def test_any_split_changes_nothing(data: st.DataObject, name: str) -> None:
    stream, closed = STREAMS[name]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]
    assert arriving(pieces, closed=closed) == arriving([stream] if stream else [], closed=closed)


@given(data=st.data(), first=st.sampled_from(list(STREAMS)), second=st.sampled_from(list(STREAMS)))
def test_heads_that_were_read_before_change_nothing(data: st.DataObject, first: str, second: str) -> None:
    wire._heads.clear()
    fresh = {
        name: arriving([STREAMS[name][0]] if STREAMS[name][0] else [], closed=STREAMS[name][1]) for name in STREAMS
    }
    wire._heads.clear()
    for name in (first, first, second, first):
        stream, closed = STREAMS[name]
        cut = data.draw(st.integers(0, len(stream)))
        assert arriving([piece for piece in (stream[:cut], stream[cut:]) if piece], closed=closed) == fresh[name]


def test_a_known_head_with_a_body_of_another_length_is_read_as_if_it_were_new() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
    assert arriving([head + b"ok"], closed=False) == ([(200, b"ok", None, "")], True)
    assert wire._heads[head] == (200, 2)
    assert arriving([head + b"o", b"k"], closed=False) == ([(200, b"ok", None, "")], True)
    assert arriving([head + b"ok!"], closed=False) == ([(200, b"ok", None, "")], False)
    assert arriving([head + b"o"], closed=True)[0][0][2] is Fault.RESET


def test_heads_are_not_remembered_without_end() -> None:
    for number in range(3 * wire.HEADS):
        arriving([b"HTTP/1.1 200 OK\r\nX: %d\r\nContent-Length: 0\r\n\r\n" % number], closed=False)
    assert 0 < len(wire._heads) <= wire.HEADS


@given(junk=st.binary(max_size=400), cut=st.integers(0, 400))
def test_no_bytes_whatsoever_raise_or_are_answered_twice(junk: bytes, cut: int) -> None:
    replies, _ = arriving([piece for piece in (junk[:cut], junk[cut:]) if piece], closed=True)
    assert len(replies) == 1


# -- origins and requests


@pytest.mark.parametrize(
    ("url", "host", "port", "authority"),
    [
        ("http://localhost", "localhost", 80, "localhost"),
        ("http://127.0.0.1:54321/", "127.0.0.1", 54321, "127.0.0.1:54321"),
        ("https://abc.supabase.co/rest/v1", "abc.supabase.co", 443, "abc.supabase.co"),
        ("https://[::1]:8443", "::1", 8443, "[::1]:8443"),
        ("HTTPS://ABC.Example", "abc.example", 443, "abc.example"),
    ],
)
def test_origin_of_a_url(url: str, host: str, port: int, authority: str) -> None:
    origin = Origin.parse(url)
    assert (origin.host, origin.port, origin.authority) == (host, port, authority)
    assert (origin.tls is not None) == (origin.scheme == "https")


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost", "ftp://a", "http://", "http://a:99999", "http://a:b", "http://a:0", "http://u:secret@a",
        "http://a b", "http://[::1", "//a",
    ],
)  # fmt: skip
def test_url_that_is_no_origin_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Origin.parse(url)
    assert "secret" not in str(caught.value)


def test_ca_file_that_cannot_be_read_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CA file"):
        Origin.parse("https://a", tmp_path / "missing.pem")
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="CA file"):
        Origin.parse("https://a", tmp_path / "empty.pem")


def test_request_is_encoded_once_and_finished_with_its_body() -> None:
    head = request_head("POST", "/rest/v1/rpc/scan", {"apikey": "k"}, "h:1")
    assert request_bytes(head, b"{}") == (
        b"POST /rest/v1/rpc/scan HTTP/1.1\r\nHost: h:1\r\napikey: k\r\nContent-Length: 2\r\n\r\n{}"
    )


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/", {"apikey": "topsecret\r\nX: y"}),
        ("POST", "/", {"apikey": "topsecret\n"}),
        ("POST", "/", {"apikey": "topsecretß"}),
        ("POST", "/", {"a b": "topsecret"}),
        ("POST", "/", {"a\r\n": "topsecret"}),
        ("POST", "/", {"Content-Length": "topsecret"}),
        ("POST", "/", {"transfer-encoding": "topsecret"}),
        ("POST", "/a b", {}),
        ("POST", "/a\r\nX: y", {}),
        ("POST", "a", {}),
        ("PO ST", "/", {}),
    ],
)
def test_what_http_cannot_carry_is_a_configuration_error(method: str, path: str, headers: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        request_head(method, path, headers, "h")
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize("pieces", [1, 3])
def test_tls_reply_larger_than_a_record_arrives_whole(run: Run, authority: Authority, pieces: int) -> None:
    body = bytes(range(256)) * 400 * pieces
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    replies, _, connections = run(over_tls(authority, replying(answer), times=2))
    assert [reply.body == body for reply in replies] == [True, True]
    assert connections == 1


def test_tls_request_larger_than_the_socket_takes_arrives_whole(run: Run, authority: Authority) -> None:
    async def main() -> tuple[int, int]:
        async with serve(replying(OK), authority.server("127.0.0.1")) as seen:
            asker = Asker(Connection(Origin.parse(seen.secure_url, authority.file), timeout=LONG))
            reply = await asker(request_bytes(request_head("POST", "/", {}, "h"), b"x" * 8_000_000))
            asker.connection.close()
            return reply.status, len(seen.requests[0])

    assert run(main()) > (200, 8_000_000)


def test_tls_handshake_that_is_given_up_leaves_nothing_open(run: Run, authority: Authority) -> None:
    import os

    async def main() -> int:
        async with serve(servers.mute) as seen:
            before = len(os.listdir("/dev/fd"))
            for _ in range(5):
                connection = Connection(Origin.parse(seen.secure_url, authority.file), timeout=SHORT)
                with pytest.raises(ConnectFailed):
                    await connection.connect()
            for _ in range(3):
                await asyncio.sleep(0)
            return len(os.listdir("/dev/fd")) - before - 5  # the server's own ends

    assert run(main()) <= 0
