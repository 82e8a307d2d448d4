"""A tenant is let in and shut out, and nothing of it is left."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from control_plane.cache.handles import root
from control_plane.cache.users import CacheUsers
from control_plane.errors import UnavailableError
from tests.fixtures.cache import CacheServer, placement
from tests.integration.cache.conftest import TENANTS, A, B

HOUR: Final = timedelta(hours=1)
NAME: Final = "one"
NEW: Final = placement(9)


@pytest.fixture
async def users(valkey: CacheServer) -> AsyncIterator[CacheUsers]:
    async with CacheUsers.open(valkey.server.socket, valkey.server.secret) as opened:
        yield opened


async def test_a_tenant_that_was_made_has_its_cache_at_once(valkey: CacheServer, users: CacheUsers) -> None:
    before = await valkey.of(NEW).put(NAME, b"x", HOUR)
    await users.make(NEW)
    await users.make(NEW)

    assert not before
    assert await valkey.of(NEW).put(NAME, b"x", HOUR)
    assert await valkey.of(NEW).get(NAME) == b"x"
    assert valkey.server.tenants_known() == {str(tenant.uid) for tenant in (*TENANTS, NEW)}


@pytest.mark.behaviour("S1.20")
@pytest.mark.behaviour("S4.11")
async def test_of_a_tenant_that_was_removed_nothing_is_left(valkey: CacheServer, users: CacheUsers) -> None:
    for number in range(600):
        assert await valkey.of(replace(A, cache_bytes=1 << 30)).put(f"n/{number}", b"x", HOUR)
    await valkey.of(B).put(NAME, b"B's", HOUR)
    await users.remove(A)
    keys, known = await valkey.client.keys(), valkey.server.tenants_known()
    await users.remove(A)

    assert sorted(map(str, keys)) == await valkey.keys(B)
    assert known == {str(tenant.uid) for tenant in TENANTS if tenant != A}
    assert valkey.server.tenants_known() == known
    assert await valkey.of(B).get(NAME) == b"B's"
    assert not await valkey.of(A).put(NAME, b"x", HOUR)


async def test_while_a_tenant_is_removed_nobody_adds_anything(valkey: CacheServer, users: CacheUsers) -> None:
    """A value that is added behind the broom would stay."""
    removed = asyncio.Event()

    async def keep_adding() -> None:
        number = 0
        while not removed.is_set():
            number += 1
            await valkey.of(A).put(f"n/{number}", b"x" * 100, HOUR)

    adding = [asyncio.create_task(keep_adding()) for _ in range(4)]
    await asyncio.sleep(0.1)
    for _ in range(5):
        await users.make(A)
        await asyncio.sleep(0.02)
        await users.remove(A)
        assert await valkey.keys(A) == []
    removed.set()
    await asyncio.gather(*adding)

    assert await valkey.keys(A) == []


@pytest.mark.behaviour("S1.20")
async def test_a_later_tenant_of_the_same_id_sees_nothing_that_was_left(valkey: CacheServer, users: CacheUsers) -> None:
    """As if nothing had been removed: its key is another one, and so is its password."""
    await valkey.of(A).put(NAME, b"the first one's", HOUR)
    later = replace(A, uid=NEW.uid)
    await users.make(later)
    seen = await valkey.of(later).get(NAME)
    kept = await valkey.of(later).put(NAME, b"the later one's", HOUR)

    assert seen is None
    assert kept
    assert await valkey.of(A).get(NAME) == b"the first one's"


async def test_a_ledger_that_somebody_broke_is_removed_all_the_same(valkey: CacheServer, users: CacheUsers) -> None:
    await valkey.client.set(f"{root(A)}:used", "x")
    await users.remove(A)

    assert await valkey.keys(A) == []


async def test_without_valkey_it_is_told(tmp_path: Path) -> None:
    async with CacheUsers.open(tmp_path / "none.sock", bytes(32)) as users:
        for change in (users.make(A), users.remove(A)):
            with pytest.raises(UnavailableError) as raised:
                await change
            assert raised.value.code == "CACHE_UNAVAILABLE"


async def test_whoever_does_not_know_the_secret_changes_nothing(valkey: CacheServer) -> None:
    async with CacheUsers.open(valkey.server.socket, bytes(32)) as users:
        for change in (users.make(NEW), users.remove(A)):
            with pytest.raises(UnavailableError, match="refuses"):
                await change

    assert valkey.server.tenants_known() == {str(tenant.uid) for tenant in TENANTS}
