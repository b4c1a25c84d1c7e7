from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from time import perf_counter_ns
from typing import Any

import pytest

from provision.load.timer import Timer

Run = Callable[[Coroutine[Any, Any, Any]], Any]
MS = 1_000_000
EXACT = [pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="no timerfd")), False]


@pytest.mark.parametrize("exact", EXACT)
def test_moments_come_in_order_and_never_early(run: Run, *, exact: bool) -> None:
    async def main() -> list[tuple[int, int]]:
        timer, found, done = Timer(exact=exact), [], asyncio.Event()
        start = perf_counter_ns()
        for delay in (7, 3, 5, 1, 5):
            moment = start + delay * MS
            timer.at(moment, lambda moment=moment: found.append((moment, perf_counter_ns())))
        timer.at(start + 8 * MS, done.set)
        await done.wait()
        timer.close()
        return found

    found = run(main())
    assert [moment for moment, _ in found] == sorted(moment for moment, _ in found)
    assert len(found) == 5
    assert all(came >= moment for moment, came in found)


@pytest.mark.parametrize("exact", EXACT)
def test_a_cancelled_moment_does_not_come(run: Run, *, exact: bool) -> None:
    async def main() -> list[str]:
        timer, found, done = Timer(exact=exact), [], asyncio.Event()
        now = perf_counter_ns()
        cancel = timer.at(now + MS, lambda: found.append("cancelled"))
        timer.at(now + 2 * MS, lambda: found.append("kept"))
        timer.at(now + 3 * MS, done.set)
        cancel()
        await done.wait()
        timer.close()
        return found

    assert run(main()) == ["kept"]


@pytest.mark.parametrize("exact", EXACT)
def test_what_a_moment_adds_for_now_waits_for_the_loops_next_turn(run: Run, *, exact: bool) -> None:
    async def main() -> list[str]:
        timer, found, done = Timer(exact=exact), [], asyncio.Event()
        loop = asyncio.get_running_loop()

        def first() -> None:
            loop.call_soon(found.append, "the loop's turn")
            timer.at(0, second)

        def second() -> None:
            found.append("second")
            done.set()

        timer.at(0, first)
        await done.wait()
        timer.close()
        return found

    assert run(main()) == ["the loop's turn", "second"]


@pytest.mark.parametrize("exact", EXACT)
def test_an_exception_in_one_moment_does_not_cost_the_others(run: Run, *, exact: bool) -> None:
    async def main() -> bool:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        timer, done = Timer(exact=exact), asyncio.Event()
        timer.at(0, lambda: 1 // 0)
        timer.at(perf_counter_ns() + MS, done.set)
        await done.wait()
        timer.close()
        return True

    assert run(main())


def test_a_closed_timer_leaves_no_file_behind(run: Run) -> None:
    import os

    async def main() -> int:
        before = len(os.listdir("/dev/fd"))
        timers = [Timer() for _ in range(20)]
        for timer in timers:
            timer.at(perf_counter_ns() + 10**12, lambda: None)
            timer.close()
        return len(os.listdir("/dev/fd")) - before

    assert run(main()) == 0
