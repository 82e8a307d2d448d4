"""No window admits more than its limit, whatever happens to workers and to Valkey; and no less, where it is asked."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import pytest

from ext_authz.policies.model import Period
from tests.integration.ext_authz.budgets.crowds import admitted_by, limited, workers
from tests.integration.ext_authz.limiter.valkey_servers import Server, valkey_server

RUN_S: Final = 4.5


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with valkey_server() as server:
        yield server


@pytest.mark.behaviour("T-X2")
@pytest.mark.behaviour("S3.4")
@pytest.mark.behaviour("S3.18")
@pytest.mark.parametrize(("limit", "cost"), [(1000, 1), (997, 7)])
async def test_across_the_ends_of_windows_all_that_is_allowed_is_admitted_and_nothing_more(
    server: Server, limit: int, cost: int
) -> None:
    policy = limited((Period.SECOND, limit))
    async with workers(server, -5_000, 0, 5_000) as crowd:
        begun, until_s = time.time(), time.monotonic() + RUN_S
        await asyncio.gather(*(worker.run(policy, cost=cost, until_s=until_s) for worker in crowd))
    admitted = admitted_by(crowd, Period.SECOND)
    whole = range(int(begun) + 1, int(begun + RUN_S))

    assert max(admitted.values()) <= limit
    assert sum(worker.late for worker in crowd) == 0
    least = 0.99 * (limit // cost * cost)
    assert {second: admitted[second] for second in whole if admitted[second] < least} == {}
    assert sum(worker.from_memory for worker in crowd) > 0


@pytest.mark.behaviour("T-V7")
@pytest.mark.behaviour("S3.12")
@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_while_valkey_is_away_and_when_it_is_back_no_window_admits_more_than_its_limit(
    server: Server, how: str
) -> None:
    policy = limited((Period.SECOND, 2_000), (Period.HOUR, 9_000))
    async with workers(server, -5_000, 0, 5_000) as crowd:
        until_s = time.monotonic() + RUN_S
        running = [asyncio.create_task(each.run(policy, cost=1, until_s=until_s, pause_s=0.01)) for each in crowd]
        for _ in range(2):
            await _the_end_of_a_second_is_near()
            if how == "killed":
                await server.kill()
                await asyncio.sleep(0.4)
                await server.restart()
            else:
                server.freeze()
                await asyncio.sleep(0.6)
                server.thaw()
        await asyncio.gather(*running)

    assert max(admitted_by(crowd, Period.SECOND).values()) <= 2_000
    assert sum(admitted_by(crowd, Period.HOUR).values()) <= 9_000
    assert sum(worker.late for worker in crowd) == 0
    assert sum(worker.from_memory for worker in crowd) > 0
    assert sum(worker.unavailable for worker in crowd) > 0


async def _the_end_of_a_second_is_near() -> None:
    """Wait until a window ends soon: within one that is used up, nobody would notice that Valkey is away."""
    await asyncio.sleep((0.7 - time.time()) % 1)
