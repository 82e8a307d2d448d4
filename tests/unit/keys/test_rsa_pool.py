"""A pool gives each key once, fills itself again, and makes one itself where it has none."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from control_plane.keys.algorithms import KeyAlgorithm
from control_plane.keys.named.rsa_pool import RsaPool

RSA = KeyAlgorithm.RSA_3072


class Maker:
    """Makes keys that are told apart, and says in which threads."""

    def __init__(self) -> None:
        self.made = 0
        self.threads: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, algorithm: KeyAlgorithm) -> Any:
        with self._lock:
            self.made += 1
            self.threads.add(threading.current_thread().name)
            return f"{algorithm} {self.made}"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 a thread's doing is looked at
            await asyncio.sleep(0.001)


async def stopped(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_without_a_thread_each_key_is_made_when_it_is_asked_for() -> None:
    maker = Maker()
    pool = RsaPool(ready={RSA: 2}, make=maker)

    assert [str(pool.take(RSA)), str(pool.take(KeyAlgorithm.EC_P256))] == ["RSA_3072 1", "EC_P256 2"]
    assert pool.ready(RSA) == 0


async def test_keys_are_ready_and_no_more_than_asked_for_and_one_that_is_taken_is_replaced() -> None:
    maker = Maker()
    pool = RsaPool(ready={RSA: 2, KeyAlgorithm.RSA_4096: 1}, make=maker)
    filling = asyncio.create_task(pool.run())
    await until(lambda: maker.made == 3)
    await asyncio.sleep(0.05)
    made = maker.made
    first = pool.take(RSA)
    await until(lambda: pool.ready(RSA) == 2)
    await stopped(filling)

    assert (made, maker.made) == (3, 4)
    assert str(first).startswith("RSA_3072")
    assert maker.threads == {"rsa-pool"}


async def test_no_key_is_given_to_two() -> None:
    pool = RsaPool(ready={RSA: 8}, make=Maker())
    filling = asyncio.create_task(pool.run())
    await until(lambda: pool.ready(RSA) == 8)
    with ThreadPoolExecutor(8) as many:
        taken = list(many.map(lambda _: pool.take(RSA), range(2000)))
    await stopped(filling)

    assert len(set(taken)) == 2000


async def test_when_it_is_over_nothing_stays_in_memory_and_it_can_begin_again() -> None:
    pool = RsaPool(ready={RSA: 2}, make=Maker())
    for _ in range(2):
        filling = asyncio.create_task(pool.run())
        await until(lambda: pool.ready(RSA) == 2)
        await stopped(filling)
        assert pool.ready(RSA) == 0
