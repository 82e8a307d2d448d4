"""Whatever somebody puts into Valkey in a value's place, the tenant does not get it, is told, and goes on."""

import os
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from typing_extensions import override

from control_plane.cache.handles import root
from tests.fixtures.cache import CacheServer, cache_server, placement

A: Final = replace(placement(1), cache_bytes=1 << 20)
B: Final = placement(2)
HOUR: Final = timedelta(hours=1)
NAME: Final = "certificates/one.pem"
OTHER: Final = "certificates/other.pem"
REFUSED: Final = "cache_refused"

Poison = Callable[[CacheServer, str], Awaitable[None]]


@pytest.fixture
async def valkey() -> AsyncIterator[CacheServer]:
    async with cache_server((A, B)) as server:
        yield server


class Touch:
    """What a careless reader would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @override
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


async def value_of(valkey: CacheServer, tenant: str) -> str:
    (value,) = [str(key) for key in await valkey.client.keys(f"tenant:{{{tenant}}}:cache:v:*")]
    return value


async def in_place(valkey: CacheServer, key: str, value: bytes) -> None:
    """Put it where the value was, with the time that it had."""
    await valkey.client.set(key, value, keepttl=True)


async def another_tenants(valkey: CacheServer, key: str) -> None:
    await valkey.of(B).put(NAME, b"B's", HOUR)
    await valkey.client.copy(await value_of(valkey, "org_2"), key, replace=True)


async def another_names(valkey: CacheServer, key: str) -> None:
    await valkey.of(A).put(OTHER, b"the other one's", HOUR)
    (other,) = [found for found in await valkey.values(A) if found != key]
    await valkey.client.copy(other, key, replace=True)


async def altered(valkey: CacheServer, key: str) -> None:
    await valkey.client.setrange(key, 30, "x")


async def cut(valkey: CacheServer, key: str) -> None:
    await in_place(valkey, key, b"BHE\x01\x01")


async def empty(valkey: CacheServer, key: str) -> None:
    await in_place(valkey, key, b"")


async def plain(valkey: CacheServer, key: str) -> None:
    await in_place(valkey, key, b"-----BEGIN CERTIFICATE-----")


async def a_list(valkey: CacheServer, key: str) -> None:
    await valkey.client.delete(key)
    await valkey.client.rpush(key, "x")


async def a_hash(valkey: CacheServer, key: str) -> None:
    await valkey.client.delete(key)
    await valkey.client.hset(key, "x", "y")


async def a_set(valkey: CacheServer, key: str) -> None:
    await valkey.client.delete(key)
    await valkey.client.sadd(key, "x")


async def a_stream(valkey: CacheServer, key: str) -> None:
    await valkey.client.delete(key)
    await valkey.client.xadd(key, {"x": "y"})


POISONS: Final[dict[str, Poison]] = {
    poison.__name__: poison
    for poison in (another_tenants, another_names, altered, cut, empty, plain, a_list, a_hash, a_set, a_stream)
}


@pytest.mark.behaviour("T-V6")
@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
async def test_what_is_not_the_tenants_own_value_is_a_miss_an_event_and_gone(
    valkey: CacheServer, poison: Poison
) -> None:
    cache = valkey.of(A)
    await cache.put(NAME, b"one", HOUR)
    key = await value_of(valkey, "org_1")
    await poison(valkey, key)
    with capture_logs() as events:
        read = await cache.get(NAME)
    with capture_logs() as later:
        again = await cache.get(NAME)

    assert read is None
    assert [(event["event"], event["tenant"], event["name"]) for event in events] == [(REFUSED, "org_1", NAME)]
    assert (again, later) == (None, [])
    assert key not in await valkey.keys(A)
    usage = await cache.usage()
    assert usage is not None
    assert usage.bytes == await valkey.bytes_taken(A)
    assert await cache.put(NAME, b"two", HOUR)
    assert await cache.get(NAME) == b"two"


@pytest.mark.behaviour("T-V6")
async def test_what_would_run_when_it_is_unpickled_does_not_run(valkey: CacheServer, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    cache = valkey.of(A)
    await cache.put(NAME, b"one", HOUR)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        await cache.put(NAME, b"one", HOUR)
        await in_place(valkey, await value_of(valkey, "org_1"), pickle.dumps(Touch(touched), protocol=protocol))
        assert await cache.get(NAME) is None
    # As a value, it is bytes like any others.
    await cache.put(NAME, pickle.dumps(Touch(touched)), HOUR)

    assert await cache.get(NAME) == pickle.dumps(Touch(touched))
    assert not touched.exists()


@pytest.mark.behaviour("T-V6")
@pytest.mark.parametrize("part", ["used", "due", "bytes"])
async def test_a_ledger_that_is_something_else_is_begun_anew(valkey: CacheServer, part: str) -> None:
    cache = valkey.of(A)
    await cache.put(NAME, b"one", HOUR)
    await valkey.client.delete(f"{root(A)}:{part}")
    await valkey.client.rpush(f"{root(A)}:{part}", "x")
    with capture_logs() as events:
        read = await cache.get(NAME)
        kept = [await cache.put(OTHER, b"two", HOUR) for _ in range(2)]
        found = await cache.get(OTHER)

    # Where the order of use is sound, a value may still be read before anything has to be written.
    assert read in {None, b"one"}
    assert (kept[-1], found) == (True, b"two")
    assert {(event["event"], event["tenant"]) for event in events} == {("cache_failed", "org_1")}
    assert await cache.put(NAME, b"three", HOUR)
    assert await cache.get(NAME) == b"three"


@pytest.mark.behaviour("T-V6")
@given(junk=st.binary(max_size=200))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_bytes_are_taken_for_a_value(valkey: CacheServer, junk: bytes) -> None:
    cache = valkey.of(A)
    await cache.put(NAME, b"one", HOUR)
    await in_place(valkey, await value_of(valkey, "org_1"), junk)
    with capture_logs() as events:
        read = await cache.get(NAME)

    assert read is None
    assert [event["event"] for event in events] == [REFUSED]


@pytest.mark.behaviour("T-V6")
async def test_the_right_value_in_its_place_is_the_one_that_is_read(valkey: CacheServer) -> None:
    """Or the tests above would pass where nothing is ever read."""
    cache = valkey.of(A)
    await cache.put(NAME, b"one", HOUR)
    key = await value_of(valkey, "org_1")
    await valkey.client.copy(key, "kept")
    await altered(valkey, key)
    await valkey.client.copy("kept", key, replace=True)
    with capture_logs() as events:
        read = await cache.get(NAME)

    assert (read, events) == (b"one", [])
