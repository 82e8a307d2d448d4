"""What a tenant takes is known to a few percent, never more than its limit, and its own least used makes room."""

import asyncio
import os
from dataclasses import replace
from datetime import timedelta
from typing import Final

import pytest

from control_plane.cache.handles import TenantCache, root
from control_plane.postgres.placement import Placement
from tests.fixtures.cache import LEDGER, CacheServer
from tests.integration.cache.conftest import A, B

HOUR: Final = timedelta(hours=1)
LONG: Final = timedelta(hours=2)
LEAST: Final = 64 << 10
# So many entries a call looks through at most: `cache.lua`.
MOST: Final = 64


async def fill(
    cache: TenantCache, count: int, size: int, *, prefix: str = "n", lifetime: timedelta = HOUR
) -> list[str]:
    names = [f"{prefix}/{number}" for number in range(count)]
    for name in names:
        assert await cache.put(name, os.urandom(size), lifetime)
    return names


async def found(cache: TenantCache, names: list[str]) -> list[str]:
    return [name for name in names if await cache.get(name) is not None]


async def expire(valkey: CacheServer, tenant: Placement, keys: list[str]) -> None:
    """Let the lifetime of these values be over: Valkey takes them away, and the ledger has yet to notice."""
    for key in keys:
        await valkey.client.pexpire(key, 1)
        await valkey.client.zadd(f"{root(tenant)}:due", {key.rpartition(":")[2]: 1})
    await asyncio.sleep(0.005)


@pytest.mark.behaviour("I11")
@pytest.mark.parametrize("count", [1, 10, 128, 129, 512, 513, 2000])
@pytest.mark.parametrize("size", [0, 30, 1000, 20_000])
async def test_the_ledger_is_within_5_percent_of_what_valkey_says(valkey: CacheServer, count: int, size: int) -> None:
    cache = valkey.of(replace(A, cache_bytes=1 << 30))
    await fill(cache, count, size)
    usage, taken = await cache.usage(), await valkey.bytes_taken(A)

    assert usage is not None
    assert usage.values == count
    assert abs(usage.bytes / taken - 1) < 0.05


@pytest.mark.behaviour("I11")
async def test_it_is_so_after_replacing_deleting_and_evicting(valkey: CacheServer) -> None:
    cache = valkey.of(replace(A, cache_bytes=200_000))
    for turn, size in enumerate((10, 3000, 100, 40_000, 5, 500) * 4):
        for name in await fill(cache, 60, size, prefix=f"p{turn % 3}"):
            if name.endswith("7"):
                await cache.delete(name)
        usage, taken = await cache.usage(), await valkey.bytes_taken(A)
        assert usage is not None
        assert abs(usage.bytes / taken - 1) < 0.05
        assert taken <= 200_000 * 1.05


@pytest.mark.behaviour("S1.12")
async def test_a_tenant_never_takes_more_than_its_limit_and_loses_what_it_used_longest_ago(valkey: CacheServer) -> None:
    cache = valkey.of(replace(A, cache_bytes=LEAST))
    names = await fill(cache, 20, 2000)
    used = [names[0], names[5]]
    assert await found(cache, used) == used
    more = await fill(cache, 25, 2000, prefix="more")
    usage, left = await cache.usage(), await found(cache, [*names, *more])

    assert usage is not None
    assert LEAST * 0.9 < usage.bytes <= LEAST
    # In the order of last use: those of the first round that were not used again have gone first.
    order = [*(name for name in names if name not in used), *used, *more]
    assert left == [name for name in [*names, *more] if name in order[-len(left) :]]
    assert set(left) >= {*more}


@pytest.mark.behaviour("S1.12")
async def test_what_makes_room_is_the_tenants_own(valkey: CacheServer) -> None:
    others = await fill(valkey.of(B), 50, 1000)
    await fill(valkey.of(replace(A, cache_bytes=LEAST)), 500, 1000)

    assert await found(valkey.of(B), others) == others


async def test_a_limit_that_is_lowered_holds_from_the_next_value_on(valkey: CacheServer) -> None:
    names = await fill(valkey.of(replace(A, cache_bytes=1 << 20)), 100, 1000)
    lower = valkey.of(replace(A, cache_bytes=LEAST))
    usages = []
    while not await lower.put("last", b"x", HOUR):
        usages.append(await lower.usage())
    usage = await lower.usage()

    assert usage is not None
    assert usage.bytes <= LEAST
    assert await found(lower, names) == names[-usage.values + 1 :]


async def test_one_call_throws_few_away_and_keeps_nothing_that_needs_more(valkey: CacheServer) -> None:
    names = await fill(valkey.of(replace(A, cache_bytes=1 << 20)), 300, 10)
    lower = valkey.of(replace(A, cache_bytes=LEAST))
    large = await lower.put("large", bytes(50_000), HOUR)
    left = await found(lower, names)

    assert not large
    assert left == names[MOST:]


async def test_nobody_makes_room_for_what_would_never_fit(valkey: CacheServer) -> None:
    cache = valkey.of(replace(A, cache_bytes=LEAST))
    names = await fill(cache, 20, 100)
    kept = await cache.put("large", bytes(LEAST - 100), HOUR)

    assert not kept
    assert await found(cache, names) == names


async def test_what_has_expired_makes_room_before_anything_else(valkey: CacheServer) -> None:
    cache = valkey.of(replace(A, cache_bytes=LEAST))
    old = await fill(cache, 5, 5000, prefix="old")
    expired = await fill(cache, 5, 5000, prefix="expired")
    await expire(valkey, A, (await valkey.values(A))[5:])
    new = await fill(cache, 6, 5000, prefix="new")
    usage = await cache.usage()

    assert usage is not None
    assert usage.values == 11
    assert await found(cache, [*old, *expired, *new]) == [*old, *new]


async def test_what_has_expired_is_cleared_up_a_part_in_each_call(valkey: CacheServer) -> None:
    cache = valkey.of(replace(A, cache_bytes=1 << 20))
    await fill(cache, 1, 10, prefix="live")
    await fill(cache, 3 * MOST, 10)
    await expire(valkey, A, (await valkey.values(A))[1:])
    usages = [await cache.usage() for _ in range(4)]

    assert [usage and usage.values for usage in usages] == [2 * MOST + 1, MOST + 1, 1, 1]
    assert await found(cache, ["live/0"]) == ["live/0"]


async def test_no_live_value_makes_room_while_expired_ones_are_left(valkey: CacheServer) -> None:
    cache = valkey.of(replace(A, cache_bytes=LEAST))
    live = await fill(cache, 5, 100, prefix="live")
    await fill(cache, 2 * MOST + 5, 60, prefix="expired")
    await expire(valkey, A, (await valkey.values(A))[5:])
    kept = [await cache.put("large", bytes(44_000), HOUR) for _ in range(3)]

    assert (kept[0], kept[-1]) == (False, True)
    assert await found(cache, live) == live


@pytest.mark.behaviour("S1.12")
async def test_the_ledger_goes_with_the_last_value(valkey: CacheServer) -> None:
    cache = valkey.of(A)
    await cache.put("long", b"x", LONG)
    await cache.put("short", b"x", HOUR)
    last = max([await valkey.client.pexpiretime(key) for key in await valkey.values(A)])
    ledger = [await valkey.client.pexpiretime(f"{root(A)}:{name}") for name in LEDGER]
    await cache.delete("long")
    (value,) = await valkey.values(A)
    sooner = [await valkey.client.pexpiretime(f"{root(A)}:{name}") for name in LEDGER]

    assert ledger == [last] * 3
    assert sooner == [await valkey.client.pexpiretime(value)] * 3


@pytest.mark.behaviour("S1.12")
async def test_an_idle_tenant_takes_nothing_once_its_values_are_over(valkey: CacheServer) -> None:
    cache = valkey.of(A)
    await fill(cache, 200, 100, lifetime=timedelta(milliseconds=300))
    async with asyncio.timeout(30):
        while await valkey.client.dbsize():  # noqa: ASYNC110 there is nothing that could tell
            await asyncio.sleep(0.05)

    assert await valkey.keys(A) == []


async def test_what_somebody_took_out_of_valkey_is_taken_out_of_the_ledger(valkey: CacheServer) -> None:
    cache = valkey.of(A)
    names = await fill(cache, 3, 100)
    await valkey.client.delete((await valkey.values(A))[1])
    left = await found(cache, names)
    usage = await cache.usage()

    assert left == [names[0], names[2]]
    assert usage is not None
    assert usage.values == 2
    assert abs(usage.bytes / await valkey.bytes_taken(A) - 1) < 0.05


async def test_a_value_that_the_ledger_does_not_know_is_not_found_and_goes(valkey: CacheServer) -> None:
    cache = valkey.of(A)
    await fill(cache, 3, 100)
    await valkey.client.delete(*(f"{root(A)}:{name}" for name in LEDGER))
    left = await found(cache, ["n/0", "n/1", "n/2"])

    assert left == []
    assert await valkey.keys(A) == []


async def test_a_clock_that_is_set_back_does_not_make_the_newest_the_oldest(valkey: CacheServer) -> None:
    """What is noted is an order, so that no reading of a clock decides who makes room."""
    cache = valkey.of(replace(A, cache_bytes=LEAST))
    await fill(cache, 20, 1000)
    names = [f"n/{number}" for number in range(20)]
    before = await valkey.values(A)
    assert await found(cache, names[::-1]) == names[::-1]

    assert await valkey.values(A) == before[::-1]
    assert await valkey.client.zscore(f"{root(A)}:used", before[0].rpartition(":")[2]) == 40


async def test_a_use_is_not_written_to_the_log_and_a_change_is(valkey: CacheServer) -> None:
    cache = valkey.of(A)
    names = await fill(cache, 3, 10)
    before = await _written(valkey)
    assert await found(cache, names * 20) == names * 20
    after_uses = await _written(valkey)
    await cache.delete(names[0])

    assert after_uses == before
    assert await _written(valkey) > before


async def _written(valkey: CacheServer) -> int:
    info = await valkey.client.info("persistence")
    return int(info["aof_current_size"])


async def test_after_a_kill_the_ledger_and_the_values_still_agree(valkey: CacheServer) -> None:
    cache = valkey.of(replace(A, cache_bytes=LEAST))
    await fill(cache, 100, 1000)
    await found(cache, [f"n/{number}" for number in (*range(60, 70), *range(50))])
    await cache.delete("n/99")
    await valkey.server.kill()
    await valkey.server.restart()
    async with valkey.server.superuser(decode_responses=True) as client:
        restarted = replace(valkey, client=client)
        values = await restarted.values(A)
        due = [f"{root(A)}:v:{digest!s}" for digest in await client.zrange(f"{root(A)}:due", 0, -1)]
        sizes = {str(name): int(size) for name, size in (await client.hgetall(f"{root(A)}:bytes")).items()}
        keys = [key for key in await restarted.keys(A) if ":v:" in key]
        told = sum([int(await client.memory_usage(key) or 0) for key in keys])

    total = sizes.pop("total")
    assert keys == sorted(values) == sorted(due) == sorted(f"{root(A)}:v:{digest}" for digest in sizes)
    assert total == sum(sizes.values())
    assert abs(total / told - 1) < 0.05
