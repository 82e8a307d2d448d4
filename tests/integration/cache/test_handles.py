"""What a tenant keeps is found by that tenant alone; and nobody ever needs it."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from control_plane.cache.handles import LIBRARY, Caches, TenantCache
from control_plane.cache.model import LARGEST_VALUE
from control_plane.errors import UnavailableError
from control_plane.keys.model import IntegrityError, MissingKeyError
from control_plane.postgres.placement import Placement
from tests.fixtures.cache import CacheServer, admit, be_patient, derive
from tests.integration.cache.conftest import TENANTS, A, B

HOUR: Final = timedelta(hours=1)
NAME: Final = "certificates/one.pem"


async def nothing_is_kept(cache: TenantCache) -> bool:
    """Ask for everything; whatever cannot be had is told as not being there."""
    put, got = await cache.put(NAME, b"x", HOUR), await cache.get(NAME)
    return (put, got, await cache.delete(NAME), await cache.usage()) == (False, None, False, None)


async def found_again(cache: TenantCache) -> bytes:
    """Ask until there is an answer."""
    async with asyncio.timeout(30):
        while (found := await cache.get(NAME)) is None:  # noqa: ASYNC110 there is nothing that could tell
            await asyncio.sleep(0.01)
        return found


async def everything_is_kept(cache: TenantCache) -> bool:
    return await cache.put(NAME, b"x", HOUR) and await cache.get(NAME) == b"x"


async def test_what_was_kept_is_found_until_it_is_deleted(valkey: CacheServer) -> None:
    cache = valkey.of(A)
    before = await cache.get(NAME)
    kept = await cache.put(NAME, b"one", HOUR)
    found = await cache.get(NAME)
    replaced = await cache.put(NAME, b"", HOUR)
    empty = await cache.get(NAME)
    deleted = await cache.delete(NAME)

    assert (before, kept, found, replaced, empty, deleted) == (None, True, b"one", True, b"", True)
    assert await cache.get(NAME) is None
    assert await valkey.keys(A) == []


@pytest.mark.behaviour("S1.10")
async def test_two_tenants_keep_different_things_under_one_name(valkey: CacheServer) -> None:
    await valkey.of(A).put(NAME, b"A's", HOUR)
    unknown = await valkey.of(B).get(NAME)
    await valkey.of(B).put(NAME, b"B's", HOUR)
    await valkey.of(B).delete(NAME)

    assert unknown is None
    assert await valkey.of(A).get(NAME) == b"A's"


async def test_neither_names_nor_values_are_in_valkey(valkey: CacheServer) -> None:
    await valkey.of(A).put("certificates/canary-7.pem", b"canary-8", HOUR)
    stored = [await valkey.client.dump(key) for key in await valkey.keys(A)]

    assert len(stored) == 4
    assert all(key.startswith("tenant:{org_1}:cache:") for key in await valkey.keys(A))
    assert not any("canary" in str(part) for part in [*stored, *await valkey.keys(A)])


async def test_a_value_that_is_too_large_is_not_kept_and_neither_is_what_it_replaces(valkey: CacheServer) -> None:
    cache = valkey.of(A)
    largest = await cache.put(NAME, bytes(LARGEST_VALUE), HOUR)
    beyond = await cache.put(NAME, bytes(LARGEST_VALUE + 1), HOUR)

    assert (largest, beyond) == (True, False)
    assert await cache.get(NAME) is None


@pytest.mark.behaviour("S1.10")
@pytest.mark.parametrize("name", ["", "a:b", "*", "a\nb", "{org_2}", "x" * 129])
async def test_a_name_of_another_form_is_refused_before_anything_is_asked(valkey: CacheServer, name: str) -> None:
    cache = valkey.of(A)
    for asked in (cache.get(name), cache.put(name, b"", HOUR), cache.delete(name)):
        with pytest.raises(ValueError, match="is not 1 to 128"):
            await asked


async def test_a_value_whose_time_is_over_by_our_clock_is_not_found(valkey: CacheServer) -> None:
    moved = timedelta()
    async with Caches.open(
        valkey.server.socket, derive, valkey.server.secret, clock=lambda: datetime.now(UTC) + moved
    ) as caches:
        be_patient(caches._pool)
        await caches.of(A).put(NAME, b"one", HOUR)
        first = await caches.of(A).get(NAME)
        moved = timedelta(hours=1, seconds=1)
        late = await caches.of(A).get(NAME)

    assert (first, late) == (b"one", None)


@pytest.mark.behaviour("T-V5")
async def test_whoever_keeps_the_server_busy_does_without_and_others_do_not(valkey: CacheServer) -> None:
    async with Caches.open(valkey.server.socket, derive, valkey.server.secret, units_per_second=20) as caches:
        be_patient(caches._pool)
        busy, other = caches.of(A), caches.of(B)
        assert await busy.put(NAME, bytes(LARGEST_VALUE), HOUR)
        # It moves as much again, and with that more than a second's worth.
        assert await busy.get(NAME) is not None
        refused = await busy.get(NAME), await busy.put(NAME, b"", HOUR), await busy.usage()
        kept = await valkey.keys(A)

        assert refused == (None, False, None)
        assert await everything_is_kept(other)
        # What is to be forgotten is forgotten.
        assert await busy.delete(NAME)
        assert kept != await valkey.keys(A) == []


@pytest.mark.parametrize("error", [UnavailableError("away"), MissingKeyError("key"), IntegrityError()])
async def test_without_the_tenants_key_nothing_is_kept(valkey: CacheServer, error: Exception) -> None:
    async def keyless(tenant: Placement, label: bytes) -> bytes:
        raise error

    await valkey.of(A).put(NAME, b"one", HOUR)
    async with Caches.open(valkey.server.socket, keyless, valkey.server.secret) as caches:
        cache = caches.of(A)

        assert (await cache.get(NAME), await cache.put(NAME, b"", HOUR), await cache.delete(NAME)) == (
            None,
            False,
            False,
        )


@pytest.mark.behaviour("T-V7")
async def test_before_there_is_a_valkey_nothing_is_kept(tmp_path: Path) -> None:
    async with Caches.open(tmp_path / "none.sock", derive, bytes(32)) as caches:
        assert await nothing_is_kept(caches.of(A))


@pytest.mark.behaviour("T-V7")
async def test_a_killed_valkey_is_a_miss_and_one_that_is_back_still_has_what_was_kept(valkey: CacheServer) -> None:
    cache = valkey.of(A)
    await cache.put(NAME, b"one", HOUR)
    await valkey.server.kill()
    while_away = await nothing_is_kept(cache)
    await valkey.server.restart()
    without_user = await nothing_is_kept(cache)
    await admit(valkey.server, TENANTS)

    assert while_away
    assert without_user
    assert await found_again(cache) == b"one"


@pytest.mark.behaviour("T-V7")
async def test_a_frozen_valkey_is_waited_for_by_few_and_is_found_again(valkey: CacheServer) -> None:
    cache = valkey.of(A)
    await cache.put(NAME, b"one", HOUR)
    valkey.caches._pool._patience_s = 0.1
    valkey.server.freeze()
    try:
        outcomes = await asyncio.gather(*(cache.get(NAME) for _ in range(100)))
        while_away = await nothing_is_kept(cache)
    finally:
        valkey.server.thaw()

    assert set(outcomes) == {None}
    assert while_away
    assert await found_again(cache) == b"one"


@pytest.mark.behaviour("T-V7")
async def test_an_emptied_valkey_is_a_miss_and_is_filled_again(valkey: CacheServer) -> None:
    cache = valkey.of(A)
    await cache.put(NAME, b"one", HOUR)
    await valkey.client.flushall()
    missed = await cache.get(NAME)

    assert missed is None
    assert await everything_is_kept(cache)


@pytest.mark.behaviour("T-V7")
async def test_a_valkey_without_the_functions_is_a_miss_until_they_are_there(valkey: CacheServer) -> None:
    cache = valkey.of(A)
    await valkey.client.function_flush()
    without = await nothing_is_kept(cache)
    await valkey.client.function_load(LIBRARY.read_text())

    assert without
    assert await everything_is_kept(cache)


async def test_a_tenant_that_valkey_does_not_know_has_no_cache(valkey: CacheServer) -> None:
    stranger = replace(A, uid=TENANTS[2].uid)
    before = await nothing_is_kept(valkey.of(stranger))
    await valkey.client.acl_deluser(str(A.uid))

    assert before
    assert await nothing_is_kept(valkey.of(A))
    assert await everything_is_kept(valkey.of(B))


@pytest.mark.behaviour("S1.12")
async def test_where_memory_is_short_nothing_is_added_and_what_is_there_is_found(valkey: CacheServer) -> None:
    cache = valkey.of(A)
    await cache.put(NAME, b"one", HOUR)
    await valkey.client.config_set("maxmemory", 1)
    added = await cache.put("another", b"two", HOUR)
    found = await cache.get(NAME)
    usage = await cache.usage()
    deleted = await cache.delete(NAME)

    assert (added, found, deleted) == (False, b"one", True)
    assert usage is not None
    assert usage.values == 1
    assert await valkey.keys(A) == []
