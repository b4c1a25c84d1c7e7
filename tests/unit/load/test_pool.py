import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from provision.load.pool import Pool


def drain(pool: Pool, part: str = "burst", most: int = 10_000) -> list[int]:
    found: list[int] = []
    while len(found) < most and (ticket := pool.take(part)) is not None:
        found.append(ticket)
    return found


def test_tickets_come_in_the_files_order_each_once() -> None:
    pool = Pool(5)
    assert drain(pool) == [0, 1, 2, 3, 4]
    assert pool.take("burst") is None
    assert pool.used == 5


def test_reuse_goes_round_and_leaves_the_races_theirs() -> None:
    pool = Pool(5, reuse=True, keep=2, keepers=["race"])
    assert drain(pool, most=7) == [0, 1, 2, 0, 1, 2, 0]
    assert drain(pool, "race") == [3, 4]


def test_without_reuse_races_take_from_the_same_row() -> None:
    pool = Pool(4, keep=2, keepers=["race"])
    assert [pool.take("burst"), pool.take("race"), pool.take("burst")] == [0, 1, 2]


def test_reuse_of_nothing_is_nothing() -> None:
    assert Pool(2, reuse=True, keep=2, keepers=["race"]).take("burst") is None


def test_a_shared_pool_goes_on_where_it_was() -> None:
    pool = Pool(5)
    pool.take("canary")
    pool.share()
    assert drain(pool) == [1, 2, 3, 4]
    assert pool.used == 5
    pool.close()


def test_a_shared_pool_with_reuse_goes_round() -> None:
    pool = Pool(3, reuse=True)
    pool.share()
    assert drain(pool, most=7) == [0, 1, 2, 0, 1, 2, 0]
    pool.close()


TAKER = """
import sys
from provision.load.pool import Pool
pool = Pool(int(sys.argv[2]), shared=int(sys.argv[1]))
sys.stdin.read(1)
found = []
while (ticket := pool.take("burst")) is not None:
    found.append(ticket)
print(*found)
"""


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_partition_the_pool_without_overlap_and_without_loss(processes: int) -> None:
    size = 20_000
    pool = Pool(size)
    file = pool.share()
    os.set_inheritable(file, True)
    takers = [
        subprocess.Popen(
            [sys.executable, "-c", TAKER, str(file), str(size)],
            pass_fds=(file,),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(processes)
    ]
    with ThreadPoolExecutor(processes) as together:
        said = list(together.map(lambda taker: taker.communicate(b"x")[0], takers))
    found = [[int(word) for word in text.split()] for text in said]
    assert sorted(ticket for one in found for ticket in one) == list(range(size))
    assert all(one == sorted(one) for one in found)
    assert pool.used == size
    pool.close()
