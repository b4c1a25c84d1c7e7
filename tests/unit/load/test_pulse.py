"""The generator's own pulse sees what would pass for the server's latency."""

import asyncio
import time
from time import perf_counter_ns

import pytest
from histories import MS

from provision.load.pulse import BEAT_NS, Pulse
from provision.load.results import Generator, Record, Strain, pack
from provision.load.timer import Timer

BURST, LATER = 1, 2


def records(part: int, times: int) -> bytes:
    return pack(Record(part, 0, 200, 0, 0, -1, 0, 1, 1, 2, 3, 100)) * times


def spin(ms: int) -> None:
    """Keep the loop and the core busy."""
    until = perf_counter_ns() + ms * MS
    while perf_counter_ns() < until:
        pass


async def beats(pulse: Pulse, number: int) -> None:
    await asyncio.sleep(number * BEAT_NS / 1e9)


def test_a_stall_counts_as_every_beat_that_it_swallowed() -> None:
    async def main() -> Generator:
        pulse, timer = Pulse(), Timer()
        async with pulse.beating(timer):
            await beats(pulse, 2)
            time.sleep(0.2)  # the stall
            await beats(pulse, 3)
            pulse.window(records(BURST, 10))
        timer.close()
        return pulse.summary()

    strain = asyncio.run(main()).strain(BURST)
    assert 40 < strain.lag < 120  # of the beats due in these 200 ms each waited for the rest of it: 100 ms on average
    assert strain.lag_p99 > 150


def test_a_quiet_time_does_not_hide_what_the_requests_of_a_burst_met() -> None:
    async def main() -> Generator:
        pulse, timer = Pulse(), Timer()
        async with pulse.beating(timer):
            pulse.window(b"")
            spin(150)
            await beats(pulse, 1)
            pulse.window(records(BURST, 1000))
            await beats(pulse, 60)
            pulse.window(records(LATER, 10))
        timer.close()
        return pulse.summary()

    generator = asyncio.run(main())
    burst, later = generator.strain(BURST), generator.strain(LATER)
    assert (burst.requests, later.requests) == (1000, 10)
    assert burst.saturated == 1
    assert burst.cpu + burst.waited > 0.9
    assert later.saturated == 0
    assert later.lag < burst.lag
    assert generator.cpu < 0.9  # as it would be told of the whole course
    assert generator.strain(7).requests == 0


def test_a_load_of_a_moment_is_no_sign_of_a_generator_at_its_limit() -> None:
    async def main() -> Generator:
        pulse, timer = Pulse(), Timer()
        async with pulse.beating(timer):
            spin(30)
            pulse.window(records(BURST, 10))
        timer.close()
        return pulse.summary()

    assert asyncio.run(main()).strain(BURST).saturated == 0


def test_a_course_without_requests_or_beats_has_no_strain() -> None:
    async def main() -> Generator:
        pulse, timer = Pulse(), Timer()
        async with pulse.beating(timer):
            pulse.window(b"")
        timer.close()
        return pulse.summary()

    assert asyncio.run(main()).strains == ()
    assert Pulse().summary() == Generator(0, 0, 0, 0)


LATE = Strain(LATER, 1, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_processes_the_worst_of_each_figure_counts(order: int) -> None:
    one = Generator(0.2, 0.1, 9, 20, 0.0, (Strain(BURST, 10, 0.2, 0.0, 0.1, 0.5, 1.0, 3.0, 0.0),))
    two = Generator(0.1, 0.3, 8, 30, 0.4, (Strain(BURST, 5, 0.1, 0.4, 0.7, 4.0, 5.0, 6.0, 0.5), LATE))
    worst = Generator.worst([one, two][::order])
    assert worst == Generator(0.2, 0.3, 9, 30, 0.4, (Strain(BURST, 15, 0.2, 0.4, 0.7, 4.0, 5.0, 6.0, 0.5), LATE))
