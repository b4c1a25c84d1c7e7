"""The release: everything in flight before anything is answered, and an end for whatever does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import servers
from servers import OK, Authority, Behaviour, Peer, Seen, replying, serve

from provision.errors import ConfigError
from provision.load.http import Fault, Origin, Reply
from provision.load.release import Volley, evidence, volley
from provision.load.wire import Connection

SHORT = 0.15
LONG = 10.0
Run = Callable[[Any], Any]
MODES = ["last-byte", "barrier"]


def request(number: int) -> bytes:
    return b'POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\n{"a":1}' % number


def together(count: int) -> Behaviour:
    """Answer nobody before `count` whole requests have arrived: one that waits for another's reply would hang."""
    everybody = asyncio.Event()

    async def behave(peer: Peer) -> None:
        while True:
            await peer.request()
            if len(peer.seen.requests) % count == 0:
                everybody.set()
            await everybody.wait()
            await peer.write(OK)

    return behave


async def fire(
    behaviour: Behaviour, mode: str, count: int = 10, *, timeout: float = LONG, tls: Authority | None = None
) -> tuple[Volley, Seen]:
    async with serve(behaviour, tls.server("127.0.0.1") if tls else None) as seen:
        origin = Origin.parse(seen.secure_url, tls.file) if tls else Origin.parse(seen.url)
        connections = [Connection(origin, timeout=LONG) for _ in range(count)]
        result = await volley(connections, [request(n) for n in range(count)], mode=mode, timeout=timeout)
        await close(connections)
    return result, seen


async def close(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("mode", MODES)
def test_all_requests_are_in_flight_before_the_first_reply(run: Run, mode: str) -> None:
    async def main() -> tuple[Volley, Seen]:
        return await fire(together(10), mode)

    result, seen = run(main())
    assert [reply.status for reply in result.replies] == [200] * 10
    assert (result.mode, result.overlap, seen.connections) == (mode, 10, 10)
    sent = [reply.sent for reply in result.replies]
    assert result.spread_ns == max(sent) - min(sent) > 0
    assert all(reply.connecting == 0 for reply in result.replies)


@pytest.mark.parametrize("mode", MODES)
def test_all_requests_are_in_flight_over_tls(run: Run, authority: Authority, mode: str) -> None:
    async def main() -> tuple[Volley, Seen]:
        return await fire(together(10), mode, tls=authority)

    result, seen = run(main())
    assert [reply.status for reply in result.replies] == [200] * 10
    assert (result.overlap, seen.connections) == (10, 10)


def test_nothing_is_whole_at_the_server_before_the_release(run: Run) -> None:
    async def main() -> tuple[Volley, Seen]:
        return await fire(together(30), "last-byte", 30)

    result, seen = run(main())
    assert min(seen.arrivals) >= min(reply.sent for reply in result.replies)
    assert sorted(seen.requests) == sorted(request(n) for n in range(30))


@pytest.mark.parametrize("mode", MODES)
def test_replies_stand_in_the_order_of_the_requests(run: Run, mode: str) -> None:
    async def behave(peer: Peer) -> None:
        number = int((await peer.request()).split()[1][1:])
        for _ in range(5 - number):  # the last request is answered first
            await asyncio.sleep(0.002)
        await peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)

    async def main() -> tuple[Volley, Seen]:
        return await fire(behave, mode, 5)

    result, _ = run(main())
    assert [reply.body for reply in result.replies] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("mode", MODES)
def test_rounds_use_the_same_connections_again(run: Run, mode: str) -> None:
    async def main() -> tuple[list[Volley], int]:
        async with serve(replying(OK)) as seen:
            connections = [Connection(Origin.parse(seen.url), timeout=LONG) for _ in range(4)]
            rounds = [await volley(connections, [request(1)] * 4, mode=mode, timeout=LONG) for _ in range(5)]
            await close(connections)
        return rounds, seen.connections

    rounds, connections = run(main())
    assert all(reply.status == 200 for result in rounds for reply in result.replies)
    assert connections == 4


@pytest.mark.parametrize("mode", MODES)
def test_laggard_times_out_and_the_others_keep_their_replies(run: Run, mode: str) -> None:
    async def behave(peer: Peer) -> None:
        if b"/3 " in await peer.request():
            await peer.gone()
        await peer.write(OK)
        await peer.gone()

    async def main() -> tuple[Volley, list[bool]]:
        async with serve(behave) as seen:
            connections = [Connection(Origin.parse(seen.url), timeout=LONG) for _ in range(5)]
            result = await volley(connections, [request(n) for n in range(5)], mode=mode, timeout=SHORT)
            connects = [connection.connects for connection in connections]
            for connection in connections:
                await connection.connect()
            again = [connection.connects > before for connection, before in zip(connections, connects, strict=True)]
            await close(connections)
        return result, again

    result, reconnected = run(main())
    assert [reply.fault for reply in result.replies] == [None, None, None, Fault.TIMEOUT, None]
    assert result.replies[3].sent > 0
    assert reconnected == [False, False, False, True, False]


@pytest.mark.parametrize("mode", MODES)
def test_connection_that_cannot_be_warmed_is_not_sent_and_the_rest_fires(run: Run, mode: str) -> None:
    async def main() -> Volley:
        async with serve(together(2)) as seen:
            with servers.full_backlog() as never:
                ports = [servers.closed_port(), seen.port, never, seen.port]
                connections = [Connection(Origin.parse(f"http://127.0.0.1:{port}"), timeout=LONG) for port in ports]
                result = await volley(connections, [request(n) for n in range(4)], mode=mode, timeout=SHORT)
                await close(connections)
        return result

    result = run(main())
    assert [reply.fault for reply in result.replies] == [Fault.NOT_SENT, None, Fault.NOT_SENT, None]
    assert [reply.detail for reply in result.replies] == ["connection refused", "", "connect timed out", ""]
    assert result.overlap == 2


@pytest.mark.parametrize("mode", MODES)
def test_nobody_to_talk_to_is_a_volley_of_not_sent(run: Run, mode: str) -> None:
    async def main() -> Volley:
        origin = Origin.parse(f"http://127.0.0.1:{servers.closed_port()}")
        return await volley([Connection(origin)] * 3, [request(1)] * 3, mode=mode, timeout=SHORT)

    result = run(main())
    assert [reply.fault for reply in result.replies] == [Fault.NOT_SENT] * 3
    assert (result.spread_ns, result.overlap) == (0, 0)


def test_server_that_hangs_up_on_a_held_request_is_no_contention(run: Run) -> None:
    async def behave(peer: Peer) -> None:
        head = await peer.reader.readexactly(8)
        if b"/0" not in head:
            await peer.reader.readuntil(b"}")
            await peer.write(OK)

    async def main() -> tuple[Volley, Seen]:
        return await fire(behave, "last-byte", 3)

    result, _ = run(main())
    assert [reply.fault for reply in result.replies] == [Fault.RESET, None, None]
    assert result.overlap == 2


def test_server_that_answers_before_the_release_does_not_count_as_contention(run: Run) -> None:
    async def behave(peer: Peer) -> None:
        head = await peer.reader.readexactly(8)
        if b"/0" in head:
            await peer.write(b"HTTP/1.1 429 Slow down\r\nContent-Length: 0\r\n\r\n")
            await peer.gone()
        await peer.reader.readuntil(b"}")
        await peer.write(OK)

    async def main() -> tuple[Volley, Seen]:
        return await fire(behave, "last-byte", 3)

    result, _ = run(main())
    assert [reply.status for reply in result.replies] == [429, 200, 200]
    assert result.overlap == 2


def test_server_that_never_reads_ends_in_time_outs(run: Run) -> None:
    """The kernel cannot take the held bytes: the release does not wait for it longer than the volley lasts."""

    async def behave(peer: Peer) -> None:
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async def main() -> Volley:
        async with serve(behave) as seen:
            connections = [Connection(Origin.parse(seen.url), timeout=LONG) for _ in range(2)]
            large = b"POST / HTTP/1.1\r\nContent-Length: 30000000\r\n\r\n" + b"x" * 30_000_000
            result = await volley(connections, [large, request(1)], timeout=SHORT)
            await close(connections)
        return result

    assert [reply.fault for reply in run(main()).replies] == [Fault.TIMEOUT, Fault.TIMEOUT]


def test_interrupted_volley_ends_with_aborted_replies(run: Run) -> None:
    async def main() -> Volley:
        async with serve(replying(end="silent")) as seen:
            connections = [Connection(Origin.parse(seen.url), timeout=LONG) for _ in range(3)]
            waiting = asyncio.ensure_future(volley(connections, [request(1)] * 3, timeout=LONG))
            while len(seen.requests) < 3:
                await asyncio.sleep(0)
            for connection in connections:
                connection.abort()
            return await waiting

    assert [reply.fault for reply in run(main()).replies] == [Fault.ABORTED] * 3


@pytest.mark.parametrize("mode", MODES)
def test_a_volley_that_is_given_up_while_it_connects_ends_at_once(run: Run, mode: str) -> None:
    async def main() -> tuple[Volley, Seen]:
        async with serve(replying(OK)) as ready, serve(servers.mute) as never:
            origins = [Origin.parse(url) for url in (ready.url, never.secure_url, never.secure_url)]
            connections = [Connection(origin, timeout=LONG) for origin in origins]
            waiting = asyncio.ensure_future(volley(connections, [request(1)] * 3, mode=mode, timeout=LONG))
            while never.connections < 2:
                await asyncio.sleep(0)
            for connection in connections:
                connection.abort()
            return await waiting, ready

    result, ready = run(main())
    assert [reply.fault for reply in result.replies] == [Fault.ABORTED] * 3
    assert ready.requests == []


def test_empty_volley_is_empty(run: Run) -> None:
    result = run(volley([], [], timeout=SHORT))
    assert result == Volley("last-byte", (), 0, 0, result.start)


def test_unknown_mode_is_a_configuration_error(run: Run) -> None:
    with pytest.raises(ConfigError, match="telepathy"):
        run(volley([], [], mode="telepathy", timeout=SHORT))


def test_too_few_connections_are_a_fault_of_ours(run: Run) -> None:
    with pytest.raises(ValueError, match="as many connections"):
        run(volley([], [request(1)], timeout=SHORT))


@pytest.mark.parametrize(
    ("sent_and_first", "spread", "overlap"),
    [
        ([(10, 50), (20, 40), (35, 60)], 25, 3),
        ([(10, 15), (20, 40), (35, 60)], 25, 1),
        ([(10, 20), (20, 40), (35, 60)], 25, 2),
        ([(10, 0), (20, 0)], 10, 2),
        ([(0, 0), (20, 30)], 0, 1),
        ([(5, 6), (20, 30), (25, 28)], 5, 2),
        ([(0, 0)], 0, 0),
        ([], 0, 0),
    ],
    ids=["all", "one", "on the stroke", "no replies", "one not sent", "one before the release", "none sent", "none"],
)
def test_evidence_counts_what_was_in_flight_when_the_first_reply_began(
    sent_and_first: list[tuple[int, int]], spread: int, overlap: int
) -> None:
    replies = [Reply(200, b"", sent, first, first, None, "") for sent, first in sent_and_first]
    assert evidence(replies, 10) == (spread, overlap)
