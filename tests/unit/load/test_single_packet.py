"""The single-packet release: held until the server has all but the last bytes, then let go in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import servers
from h2.errors import ErrorCodes
from http2_server import Peer, Seen, at_once, serve, together
from servers import OK, Authority, replying

from provision.load.channel import Channel, open_channel
from provision.load.http import Fault, Origin, request_bytes, request_head
from provision.load.http2 import LEFT, translated
from provision.load.release import Volley

Run = Callable[[Any], Any]
LONG, SHORT = 10.0, 0.2


def request(number: int, body: bytes = b'{"a":1}') -> bytes:
    return request_bytes(request_head("POST", f"/{number}", {"Apikey": "k"}, "h"), body)


async def fire(seen: Seen, authority: Authority, count: int = 10, timeout: float = LONG, **how: Any) -> Volley:
    channel = await open_channel(Origin.parse(seen.url, authority.file), "auto", count, timeout)
    volley = await channel.fire([request(n, **how) for n in range(count)])
    await close(channel)
    return volley


async def close(channel: Channel) -> None:
    for link in channel.links:
        link.close()
    await asyncio.sleep(0)


def test_all_requests_are_in_flight_before_the_first_reply(run: Run, authority: Authority) -> None:
    async def main() -> tuple[Volley, Seen]:
        async with serve(authority, together(10)) as seen:
            return await fire(seen, authority), seen

    volley, seen = run(main())
    assert [reply.status for reply in volley.replies] == [200] * 10
    assert (volley.mode, volley.overlap, volley.late, volley.spread_ns) == ("single-packet", 10, (), 0)
    assert seen.connections == 1
    assert sorted(seen.requests) == [(f"/{n}", b'{"a":1}') for n in range(10)]


def test_nothing_is_whole_at_the_server_before_it_has_acknowledged_all_that_came_before(
    run: Run, authority: Authority
) -> None:
    async def main() -> tuple[Volley, Seen]:
        async with serve(authority, at_once) as seen:
            return await fire(seen, authority, 30), seen

    volley, seen = run(main())
    assert seen.before_ping == [30]
    assert min(seen.arrivals) >= min(reply.sent for reply in volley.replies)
    assert len(set(seen.arrivals)) == 1, "the last bytes came in more than one read"
    assert [reply.body for reply in volley.replies] == [b"/%d" % n for n in range(30)]


def test_more_requests_than_the_server_takes_at_once_go_over_several_connections(
    run: Run, authority: Authority
) -> None:
    async def main() -> tuple[Volley, Seen]:
        async with serve(authority, together(10), limit=4) as seen:
            return await fire(seen, authority), seen

    volley, seen = run(main())
    assert (volley.overlap, seen.connections) == (10, 3)
    assert [reply.status for reply in volley.replies] == [200] * 10


def test_bodies_larger_than_the_servers_windows_arrive_whole(run: Run, authority: Authority) -> None:
    body = bytes(range(256)) * 400

    async def main() -> tuple[Volley, Seen]:
        async with serve(authority, together(3)) as seen:
            return await fire(seen, authority, 3, body=body), seen

    volley, seen = run(main())
    assert [reply.status for reply in volley.replies] == [200] * 3
    assert {len(sent) for _, sent in seen.requests} == {len(body)}


def test_rounds_use_the_same_connection_again_and_single_requests_too(run: Run, authority: Authority) -> None:
    async def main() -> tuple[list[Volley], bytes, Seen]:
        async with serve(authority, at_once) as seen:
            channel = await open_channel(Origin.parse(seen.url, authority.file), "auto", 3, LONG)
            rounds = [await channel.fire([request(n) for n in range(3)]) for _ in range(5)]
            alone = await channel.ask(2, request_bytes(request_head("GET", "/alone", {}, "h")))
            await close(channel)
            return rounds, alone.body, seen

    rounds, alone, seen = run(main())
    assert all(reply.status == 200 for volley in rounds for reply in volley.replies)
    assert (alone, seen.connections) == (b"/alone", 1)


def test_a_laggard_times_out_and_the_others_keep_their_replies(run: Run, authority: Authority) -> None:
    def never_three(peer: Peer, stream: int, path: str) -> None:
        if path != "/3":
            at_once(peer, stream, path)

    async def main() -> Volley:
        async with serve(authority, never_three) as seen:
            return await fire(seen, authority, 5, SHORT)

    volley = run(main())
    assert [reply.fault for reply in volley.replies] == [None, None, None, Fault.TIMEOUT, None]


def test_a_refused_stream_was_not_sent_and_a_reset_one_is_unknown(run: Run, authority: Authority) -> None:
    def odd(peer: Peer, stream: int, path: str) -> None:
        if path == "/1":
            peer.refuse(stream)
        elif path == "/2":
            peer.refuse(stream, ErrorCodes.INTERNAL_ERROR)
        else:
            at_once(peer, stream, path)

    async def main() -> Volley:
        async with serve(authority, odd) as seen:
            return await fire(seen, authority, 3)

    assert [reply.fault for reply in run(main()).replies] == [None, Fault.NOT_SENT, Fault.RESET]


def test_a_request_answered_before_the_release_has_missed_it_and_is_named(run: Run, authority: Authority) -> None:
    def early(peer: Peer, stream: int, path: str) -> None:
        if path == "/1":
            peer.reply(stream, b"unauthorised")

    async def main() -> Volley:
        async with serve(authority, at_once, on_headers=early) as seen:
            return await fire(seen, authority, 3)

    volley = run(main())
    assert volley.late == (1,)
    assert volley.overlap == 2
    assert [reply.status for reply in volley.replies] == [200] * 3


def test_a_server_that_dies_after_the_release_leaves_unknown_replies(run: Run, authority: Authority) -> None:
    def die(peer: Peer, stream: int, path: str) -> None:
        del stream, path
        if len(peer.seen.requests) == 4:
            peer.transport.abort()

    async def main() -> Volley:
        async with serve(authority, die) as seen:
            return await fire(seen, authority, 4)

    assert [reply.fault for reply in run(main()).replies] == [Fault.RESET] * 4


def test_a_server_that_dies_before_the_release_was_sent_nothing_and_the_next_round_connects_anew(
    run: Run, authority: Authority
) -> None:
    def die_once(peer: Peer, stream: int, path: str) -> None:
        del stream, path
        if peer.seen.begun == 2:
            peer.transport.abort()

    async def main() -> tuple[Volley, Volley]:
        async with serve(authority, at_once, on_headers=die_once) as seen:
            channel = await open_channel(Origin.parse(seen.url, authority.file), "auto", 3, LONG)
            rounds = [await channel.fire([request(n) for n in range(3)]) for _ in range(2)]
            await close(channel)
            return rounds[0], rounds[1]

    first, second = run(main())
    assert [reply.fault for reply in first.replies] == [Fault.NOT_SENT] * 3
    assert [reply.status for reply in second.replies] == [200] * 3


def leaving(at: int, last: int | None = None) -> Callable[[Peer, int, str], None]:
    """Leave with the n-th request that begins, as nginx does with its `keepalive_requests`, whole or not."""

    def on_headers(peer: Peer, stream: int, path: str) -> None:
        del path
        if peer.seen.begun == at:
            peer.leave(stream if last is None else last)

    return on_headers


@pytest.mark.parametrize("at", [1, 6, 10])
@pytest.mark.parametrize("last", [None, 2**31 - 1], ids=["with a request", "with a notice"])
def test_a_round_is_held_once_more_when_the_server_leaves_before_the_release(
    run: Run, authority: Authority, at: int, last: int | None
) -> None:
    async def main() -> tuple[Volley, Seen]:
        async with serve(authority, together(10), on_headers=leaving(at, last)) as seen:
            return await fire(seen, authority), seen

    volley, seen = run(main())
    assert [reply.status for reply in volley.replies] == [200] * 10
    assert (volley.overlap, volley.late, seen.connections) == (10, (), 2)
    assert sorted(path for path, _ in seen.requests) == [f"/{n}" for n in range(10)]


def test_a_request_answered_before_the_server_left_is_not_sent_again(run: Run, authority: Authority) -> None:
    def early(peer: Peer, stream: int, path: str) -> None:
        if path == "/1":
            peer.reply(stream, b"unauthorised")
        if peer.seen.begun == 3:
            peer.leave(stream)

    async def main() -> tuple[Volley, Seen]:
        async with serve(authority, at_once, on_headers=early) as seen:
            return await fire(seen, authority, 3), seen

    volley, seen = run(main())
    assert (volley.late, volley.overlap, seen.begun) == ((1,), 2, 3 + 2)
    assert [reply.body for reply in volley.replies] == [b"/0", b"unauthorised", b"/2"]


def test_a_server_that_leaves_again_and_again_was_sent_nothing(run: Run, authority: Authority) -> None:
    def always(peer: Peer, stream: int, path: str) -> None:
        del path
        peer.leave(stream)

    async def main() -> tuple[Volley, Seen]:
        async with serve(authority, at_once, on_headers=always) as seen:
            return await fire(seen, authority, 3), seen

    volley, seen = run(main())
    assert [(reply.fault, reply.detail) for reply in volley.replies] == [(Fault.NOT_SENT, LEFT)] * 3
    assert (seen.connections, seen.requests) == (2, [])


def test_a_round_is_held_once_more_within_its_timeout(run: Run, authority: Authority) -> None:
    async def main() -> tuple[Volley, Seen]:
        async with serve(authority, at_once, on_headers=leaving(2), settles=lambda number: number == 1) as seen:
            return await fire(seen, authority, 3, SHORT), seen

    volley, seen = run(main())
    assert [reply.fault for reply in volley.replies] == [Fault.NOT_SENT] * 3
    assert (seen.connections, seen.requests) == (2, [])


def test_of_released_requests_a_server_that_leaves_answers_those_that_it_took_up(
    run: Run, authority: Authority
) -> None:
    async def main() -> tuple[Volley, Volley, Seen]:
        waiting: list[int] = []

        def leave_the_last(peer: Peer, stream: int, path: str) -> None:
            waiting.append(stream)
            if len(waiting) == 4:
                peer.leave(waiting[2])
                for number in waiting[:3]:
                    peer.reply(number)
            elif len(waiting) > 4:
                at_once(peer, stream, path)

        async with serve(authority, leave_the_last) as seen:
            channel = await open_channel(Origin.parse(seen.url, authority.file), "auto", 4, LONG)
            rounds = [await channel.fire([request(n) for n in range(4)]) for _ in range(2)]
            await close(channel)
            return rounds[0], rounds[1], seen

    first, second, seen = run(main())
    assert [(reply.fault, reply.detail) for reply in first.replies] == [(None, "")] * 3 + [(Fault.NOT_SENT, LEFT)]
    assert [reply.status for reply in second.replies] == [200] * 4
    assert seen.connections == 2


def test_what_is_no_http2_after_the_server_left_is_told_as_its_leaving(run: Run, authority: Authority) -> None:
    def leave_oddly(peer: Peer, stream: int, path: str) -> None:
        del path
        peer.leave(stream)
        peer.transport.write(b"\0\0\1\0\0\0\0\0\0x")  # data of no stream

    async def main() -> Volley:
        async with serve(authority, leave_oddly) as seen:
            return await fire(seen, authority, 2)

    assert {(reply.fault, reply.detail) for reply in run(main()).replies} <= {
        (Fault.RESET, LEFT), (Fault.NOT_SENT, LEFT)
    }  # fmt: skip


def test_single_requests_connect_anew_when_the_server_left_after_the_one_before(run: Run, authority: Authority) -> None:
    def reply_and_leave(peer: Peer, stream: int, path: str) -> None:
        peer.reply(stream, path.encode())
        peer.leave(stream)

    async def main() -> tuple[list[bytes], Seen]:
        async with serve(authority, reply_and_leave) as seen:
            channel = await open_channel(Origin.parse(seen.url, authority.file), "auto", 3, LONG)
            replies = [await channel.ask(0, request(n)) for n in range(3)]
            await close(channel)
            return [reply.body for reply in replies], seen

    bodies, seen = run(main())
    assert (bodies, seen.connections) == ([b"/0", b"/1", b"/2"], 3)


def test_what_the_server_still_answers_when_it_left_comes_before_what_is_asked_then(
    run: Run, authority: Authority
) -> None:
    async def main() -> tuple[list[bytes], Seen]:
        def slow_and_leave(peer: Peer, stream: int, path: str) -> None:
            if path == "/0":
                peer.leave(stream)
            else:
                at_once(peer, stream, path)

        async with serve(authority, slow_and_leave) as seen:
            channel = await open_channel(Origin.parse(seen.url, authority.file), "auto", 3, LONG)
            asked = [asyncio.ensure_future(channel.ask(0, request(0)))]
            while not channel.links[0].left:  # type: ignore[attr-defined] - links over HTTP/2
                await asyncio.sleep(0)
            asked += [asyncio.ensure_future(channel.ask(place, request(place))) for place in (1, 2)]
            await asyncio.sleep(0)
            seen.peers[0].reply(1, b"late")
            bodies = [reply.body for reply in await asyncio.gather(*asked)]
            await close(channel)
            return bodies, seen

    bodies, seen = run(main())
    assert (bodies, seen.connections) == ([b"late", b"/1", b"/2"], 2)


def test_a_target_that_refuses_connections_by_now_is_sent_nothing(run: Run, authority: Authority) -> None:
    async def main() -> list[tuple[Fault | None, str]]:
        async with serve(authority, at_once) as seen:
            channel = await open_channel(Origin.parse(seen.url, authority.file), "auto", 2, LONG)
            await channel.ask(0, request(0))
        while channel.links[0].alive:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        replies = [await channel.ask(0, request(1)), *(await channel.fire([request(n) for n in range(2)])).replies]
        await close(channel)
        return [(reply.fault, reply.detail) for reply in replies]

    assert run(main()) == [(Fault.NOT_SENT, "connection refused")] * 3


def test_a_round_that_is_given_up_while_it_connects_ends_at_once(run: Run, authority: Authority) -> None:
    async def main() -> tuple[Volley, Seen]:
        async with serve(authority, at_once, limit=4, settles=lambda number: number == 1) as seen:
            channel = await open_channel(Origin.parse(seen.url, authority.file), "auto", 10, LONG)
            firing = asyncio.ensure_future(channel.fire([request(n) for n in range(10)]))
            while seen.connections < 3:
                await asyncio.sleep(0)
            for link in channel.links:
                link.abort()
            return await firing, seen

    volley, seen = run(main())
    assert [reply.fault for reply in volley.replies] == [Fault.ABORTED] * 10
    assert seen.begun == 0


def test_auto_takes_http1_where_no_http2_is_offered_and_says_why(run: Run, authority: Authority) -> None:
    async def main() -> list[tuple[str, str]]:
        found = []
        async with (
            servers.serve(replying(OK), authority.server("127.0.0.1")) as secure,
            servers.serve(replying(OK)) as plain,
        ):
            for origin in (Origin.parse(secure.secure_url, authority.file), Origin.parse(plain.url)):
                channel = await open_channel(origin, "auto", 2, LONG)
                found.append((channel.mode, channel.why))
                assert {reply.status for reply in (await channel.fire([request(1)] * 2)).replies} == {200}
                await close(channel)
        return found

    assert run(main()) == [
        ("last-byte", "no HTTP/2: the server does not offer HTTP/2"),
        ("last-byte", "no HTTP/2: the target speaks plain HTTP"),
    ]


def test_single_packet_asked_for_where_it_is_not_offered_sends_nothing(run: Run, authority: Authority) -> None:
    async def main() -> Volley:
        async with servers.serve(replying(OK)) as plain:
            channel = await open_channel(Origin.parse(plain.url), "single-packet", 2, LONG)
            volley = await channel.fire([request(1)] * 2)
            await close(channel)
            return volley

    volley = run(main())
    assert [reply.fault for reply in volley.replies] == [Fault.NOT_SENT] * 2
    assert volley.late == (0, 1)


def test_a_certificate_that_is_not_trusted_is_refused(run: Run, authority: Authority, tmp_path: Path) -> None:
    async def main() -> tuple[str, str]:
        async with serve(authority, at_once) as seen:
            stranger = Authority.create(tmp_path / "stranger", "stranger")
            channel = await open_channel(Origin.parse(seen.url, stranger.file), "single-packet", 2, LONG)
            volley = await channel.fire([request(1)] * 2)
            await close(channel)
            assert seen.begun == 0
            return channel.why, volley.replies[0].detail

    assert all("certificate not trusted" in words for words in run(main()))


def test_a_request_is_translated_without_what_http2_forbids() -> None:
    origin = Origin("https", "api.test", 443)
    head = request_head("POST", "/rest/v1/rpc/scan?x=1", {"Apikey": "a: b", "Prefer": "x"}, "api.test")
    headers, body = translated(request_bytes(head, b"{}\r\n\r\n"), origin)
    assert headers == [
        (":method", "POST"), (":scheme", "https"), (":authority", "api.test"), (":path", "/rest/v1/rpc/scan?x=1"),
        ("apikey", "a: b"), ("prefer", "x"), ("content-length", "6"),
    ]  # fmt: skip
    assert body == b"{}\r\n\r\n"
