"""A rate that cannot be counted admits nobody, and is counted again as soon as there is a Valkey."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from redis.exceptions import OutOfMemoryError

from ext_authz.budgets.counter import BudgetUnavailableError, Counter
from ext_authz.budgets.reserves import Budgets
from ext_authz.policies.model import TenantPolicy
from tests.fixtures.edge_policies import policy
from tests.integration.ext_authz.limiter.valkey_servers import Server, take_again, valkey_server

LIMIT = 1000


def a_tenant() -> TenantPolicy:
    return replace(policy(1), uid=uuid4(), requests_per_minute=LIMIT)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with valkey_server() as server:
        yield server


@pytest.fixture
async def limiter(server: Server) -> AsyncIterator[Budgets]:
    async with Budgets.open(server.socket, server.edge_key) as limiter:
        yield limiter


@pytest.mark.behaviour("S3.4")
async def test_two_workers_admit_no_more_than_the_limit_together(server: Server, limiter: Budgets) -> None:
    tenant = a_tenant()
    async with Budgets.open(server.socket, server.edge_key) as other:
        taken = await asyncio.gather(*(each.take(tenant, cost=1) for _ in range(LIMIT) for each in (limiter, other)))
    async with server.superuser(decode_responses=True) as client:
        begin_ms, end_ms, used = str(await client.get(f"edge:{{{tenant.uid}}}:count:minute")).split()

    assert (int(used), int(end_ms) - int(begin_ms)) == (LIMIT, 60_000)
    # The minute may have ended meanwhile.
    assert sum(each.allowed for each in taken) - LIMIT in range(LIMIT + 1)


async def test_what_was_counted_is_counted_after_a_kill(server: Server, limiter: Budgets) -> None:
    tenant = a_tenant()
    first = await limiter.take(tenant, cost=5)
    await server.kill()
    with pytest.raises(BudgetUnavailableError):
        await limiter.take(tenant, cost=1)
    await server.restart()
    again = await take_again(limiter, tenant)

    # The minute may have ended meanwhile.
    assert again.remaining in {first.remaining - 1, LIMIT - 1}


async def test_an_emptied_valkey_is_brought_the_function_again(server: Server, limiter: Budgets) -> None:
    await server.kill()
    await server.restart(empty=True)
    again = await take_again(limiter, a_tenant())

    assert again.remaining == LIMIT - 1


async def test_a_lost_function_is_brought_again(server: Server, limiter: Budgets) -> None:
    async with server.superuser() as client:
        await client.function_flush()
    with pytest.raises(BudgetUnavailableError, match="not found"):
        await limiter.take(a_tenant(), cost=1)
    again = await take_again(limiter, a_tenant())

    assert again.allowed


async def test_whoever_waits_for_a_frozen_valkey_is_told_and_those_after_them_at_once(
    server: Server, limiter: Budgets
) -> None:
    server.freeze()
    try:
        outcomes = await asyncio.gather(*(limiter.take(a_tenant(), cost=1) for _ in range(50)), return_exceptions=True)
        with pytest.raises(BudgetUnavailableError, match=r"away|answer"):
            await limiter.take(a_tenant(), cost=1)
    finally:
        server.thaw()
    again = await take_again(limiter, a_tenant())

    assert {type(outcome) for outcome in outcomes} == {BudgetUnavailableError}
    assert again.allowed


async def test_a_key_that_somebody_broke_fails_its_own_tenant_alone(server: Server, limiter: Budgets) -> None:
    broken, sound = a_tenant(), a_tenant()
    async with server.superuser() as client:
        await client.lpush(f"edge:{{{broken.uid}}}:count:minute", "x")
    outcomes = await asyncio.gather(
        *(limiter.take(tenant, cost=1) for tenant in (broken, sound, broken, sound)),
        return_exceptions=True,
    )

    assert [isinstance(outcome, BudgetUnavailableError) for outcome in outcomes] == [True, False, True, False]


async def test_who_stops_waiting_takes_nobody_else_s_answer(limiter: Budgets) -> None:
    tenants = [a_tenant() for _ in range(4)]
    tenants = [replace(tenant, requests_per_minute=LIMIT + n) for n, tenant in enumerate(tenants)]
    waiting = [asyncio.create_task(limiter.take(tenant, cost=1)) for tenant in tenants]
    await asyncio.sleep(0)
    waiting[1].cancel()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    assert [getattr(outcome, "remaining", None) for outcome in outcomes] == [LIMIT - 1, None, LIMIT + 1, LIMIT + 2]


async def test_a_limiter_may_be_there_before_its_valkey(tmp_path: Path) -> None:
    async with Budgets.open(tmp_path / "none.sock", bytes(32)) as limiter:
        with pytest.raises(BudgetUnavailableError, match="away"):
            await limiter.take(a_tenant(), cost=1)


async def fill_memory(server: Server) -> None:
    """Leave no room for anything that a function without the flag would add."""
    async with server.superuser() as client:
        await client.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            await client.set("edge:more", "x")


@pytest.mark.behaviour("T-V7")
async def test_where_memory_is_short_a_rate_is_counted_all_the_same(server: Server, limiter: Budgets) -> None:
    tenant = a_tenant()
    first = await limiter.take(tenant, cost=1)
    await fill_memory(server)
    more = await limiter.take(tenant, cost=1, request_id="one")
    new = await limiter.take(a_tenant(), cost=1)

    # The minute may have ended meanwhile.
    assert more.remaining in {first.remaining - 1, LIMIT - 1}
    assert new.allowed


async def test_a_worker_that_comes_where_memory_is_short_counts_with_the_others(
    server: Server, limiter: Budgets
) -> None:
    """It cannot bring the function, which is there."""
    await limiter.take(a_tenant(), cost=1)
    await fill_memory(server)
    async with Budgets.open(server.socket, server.edge_key) as other:
        taken = await take_again(other, a_tenant())

    assert taken.allowed


async def test_a_limiter_with_another_key_is_not_let_in_and_admits_nobody(server: Server) -> None:
    async with Budgets.open(server.socket, server.secret) as limiter:
        with pytest.raises(BudgetUnavailableError, match="away"):
            await limiter.take(a_tenant(), cost=1)


async def test_a_connection_that_valkey_does_not_let_in_is_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The function is brought on another connection; the one that counts has to show the password itself."""
    monkeypatch.setattr(Counter, "_prepared", _prepares_nothing)
    async with Budgets.open(server.socket, server.secret) as limiter:
        with pytest.raises(BudgetUnavailableError, match="away"):
            await limiter.take(a_tenant(), cost=1)


async def _prepares_nothing(_: Counter) -> str:
    return "memory"


async def test_it_ends_although_a_library_passes_a_cancellation_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_over = asyncio.Event()

    async def connects_once_cancelled(counter: Counter) -> bool:
        try:
            await asyncio.sleep(0 if passed_over.is_set() else 30)
        except asyncio.CancelledError:
            passed_over.set()
        return False

    async with Counter.open(tmp_path / "none.sock", bytes(32)):
        monkeypatch.setattr(Counter, "_connect", connects_once_cancelled)
        # It tries again every 50 to 100 ms.
        await asyncio.sleep(0.3)

    assert passed_over.is_set()
