"""A connection is used by many tenants in turn, and speaks for none but the one whose turn it is."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import pytest

from control_plane.cache.acl import tenant_user
from control_plane.cache.connection import Command, Connection, ConnectionGoneError, Login, RefusedError
from control_plane.cache.handles import login, root
from control_plane.cache.pool import AwayError, Pool
from control_plane.postgres.placement import Placement
from tests.fixtures.cache import CacheServer, be_patient
from tests.integration.cache.conftest import TENANTS, A, B

USAGE: Final = ("FCALL", "cache_usage", 1)


@pytest.fixture
async def connection(valkey: CacheServer) -> AsyncIterator[Connection]:
    opened = await Connection.open(valkey.server.socket)
    yield opened
    await opened.close()


@pytest.fixture
async def pool(valkey: CacheServer) -> AsyncIterator[Pool]:
    async with Pool.open(valkey.server.socket) as opened:
        be_patient(opened)
        yield opened


def who(valkey: CacheServer, tenant: Placement) -> Login:
    return login(tenant_user(tenant, valkey.server.secret))


def put(tenant: Placement, value: bytes, *, digest: str = "d" * 22) -> Command:
    """Keep a value as the functions do, without a handle."""
    return ("FCALL", "cache_put", 1, root(tenant), digest, value, 60_000, 1 << 20)


def get(tenant: Placement, *, digest: str = "d" * 22) -> Command:
    return ("FCALL", "cache_get", 1, root(tenant), digest)


async def test_a_connection_changes_hands_within_one_round_trip(valkey: CacheServer, connection: Connection) -> None:
    a, b = who(valkey, A), who(valkey, B)
    kept = [await connection.call(login, put(tenant, value)) for login, tenant, value in ((a, A, b"A"), (b, B, b"B"))]
    found = [await connection.call(login, get(tenant)) for login, tenant in ((a, A), (a, A), (b, B), (a, A))]

    assert kept == [[1], [1]]
    assert found == [[b"A"], [b"A"], [b"B"], [b"A"]]


@pytest.mark.behaviour("S1.11")
async def test_whose_turn_fails_speaks_for_nobody(valkey: CacheServer, connection: Connection) -> None:
    """The tenant before may read everything here, so that nothing but the order of the commands protects it."""
    await valkey.client.acl_setuser(str(A.uid), enabled=True, keys=["*"], categories=["+@all"])
    await connection.call(who(valkey, A), put(A, b"A"))
    (answer,) = await connection.call(Login(user=str(B.uid), password="not B's"), get(A))
    (again,) = await connection.call(Login(user="nobody", password=""), get(A))

    assert isinstance(answer, RefusedError)
    assert "Authentication required" in str(answer)
    assert isinstance(again, RefusedError)
    assert connection.user is None
    assert await connection.call(who(valkey, A), get(A)) == [b"A"]


@pytest.mark.behaviour("S1.11")
async def test_whose_turn_it_is_reaches_no_other_tenants_keys(valkey: CacheServer, connection: Connection) -> None:
    await connection.call(who(valkey, A), put(A, b"A"))
    answers = await connection.call(who(valkey, B), get(A), put(A, b"B"), (*USAGE, root(A)))

    assert [str(answer).startswith("No permissions to access a key") for answer in answers] == [True] * 3
    assert await connection.call(who(valkey, A), get(A)) == [b"A"]


@pytest.mark.behaviour("S1.11")
async def test_a_function_that_computes_another_tenants_key_is_refused(valkey: CacheServer, pool: Pool) -> None:
    """The key that it declares is its own; what it touches is not."""
    await pool.call(who(valkey, A), *put(A, b"A"))
    code = (
        "#!lua name=wrong\n"
        "server.register_function('wrong', function(keys, args) return server.call('GET', args[1]) end)"
    )
    await valkey.client.function_load(code)
    (value,) = await valkey.values(A)
    own = await pool.call(who(valkey, A), "FCALL", "wrong", 1, root(A), value)
    with pytest.raises(RefusedError, match="permissions to access a key"):
        await pool.call(who(valkey, B), "FCALL", "wrong", 1, root(B), value)

    assert own == b"A"


async def test_nobody_gets_the_answer_that_somebody_else_stopped_waiting_for(valkey: CacheServer, pool: Pool) -> None:
    wanted = [(tenant, f"digest-{number}") for tenant in TENANTS for number in range(6)]
    for tenant, digest in wanted:
        await pool.call(who(valkey, tenant), *put(tenant, f"{tenant.uid} {digest}".encode(), digest=digest))
    for turn in range(60):
        waiting = [
            asyncio.create_task(pool.call(who(valkey, tenant), *get(tenant, digest=digest)))
            for tenant, digest in wanted
        ]
        for _ in range(turn % 12):
            await asyncio.sleep(0)
        for task in waiting[turn % 3 :: 3]:
            task.cancel()
        found = await asyncio.gather(*waiting, return_exceptions=True)

        for (tenant, digest), answer in zip(wanted, found, strict=True):
            assert isinstance(answer, asyncio.CancelledError) or answer == f"{tenant.uid} {digest}".encode()
    assert [await pool.call(who(valkey, tenant), *get(tenant, digest=digest)) for tenant, digest in wanted] == [
        f"{tenant.uid} {digest}".encode() for tenant, digest in wanted
    ]


async def test_a_late_answer_is_nobodys(valkey: CacheServer, pool: Pool) -> None:
    await pool.call(who(valkey, A), *put(A, b"A"))
    await pool.call(who(valkey, B), *put(B, b"B"))
    pool._patience_s = 0.1
    valkey.server.freeze()
    try:
        outcomes = await asyncio.gather(
            *(pool.call(who(valkey, A), *get(A)) for _ in range(20)), return_exceptions=True
        )
    finally:
        valkey.server.thaw()
    found = await _when_back(pool, who(valkey, B), get(B))

    assert {type(outcome) for outcome in outcomes} == {AwayError}
    assert found == b"B"


async def test_a_tenant_that_asks_for_much_at_once_leaves_room_for_others(valkey: CacheServer, pool: Pool) -> None:
    done: list[Placement] = []

    async def ask(tenant: Placement) -> None:
        with suppress(AwayError):
            await pool.call(who(valkey, tenant), *get(tenant))
        done.append(tenant)

    await asyncio.gather(*(ask(A) for _ in range(200)), ask(B))

    # It asked last, and is not the last to be answered.
    assert done.index(B) < 150


async def test_a_tenant_that_waits_for_its_own_turn_in_vain_says_nothing_about_the_server(
    valkey: CacheServer, pool: Pool
) -> None:
    pool._turn_within_s = 0.05
    asked = [pool.call(who(valkey, A), *get(A)) for _ in range(3_000)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    # The server is not thought to be away, which no patience would help.
    be_patient(pool)
    kept = await pool.call(who(valkey, B), *put(B, b"B"))

    assert {type(outcome) for outcome in outcomes} == {AwayError, type(None)}
    assert kept == 1


async def test_a_loop_that_was_held_up_says_nothing_about_the_server(valkey: CacheServer, pool: Pool) -> None:
    """What it waited for was there all along; it had no time to look."""
    await pool.call(who(valkey, A), *put(A, b"A"))
    for turns in range(8):
        pool._patience_s = 0.05
        asked = asyncio.create_task(pool.call(who(valkey, A), *get(A)))
        for _ in range(turns):
            await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251 that is what holds it up
        with suppress(AwayError):
            await asked
        be_patient(pool)

        assert await pool.call(who(valkey, B), *put(B, b"B")) == 1


async def test_a_tenant_that_is_removed_costs_no_other_one_anything(valkey: CacheServer, pool: Pool) -> None:
    await asyncio.gather(*(pool.call(who(valkey, A), *put(A, b"A")) for _ in range(8)))
    await valkey.client.acl_deluser(str(A.uid))
    kept = [await pool.call(who(valkey, B), *put(B, b"B")) for _ in range(10)]

    assert kept == [1] * 10


async def test_a_connection_to_nobody_is_told_at_once(valkey: CacheServer) -> None:
    await valkey.server.kill()

    with pytest.raises(ConnectionGoneError):
        await Connection.open(valkey.server.socket)


async def _when_back(pool: Pool, login: Login, command: Command) -> object:
    async with asyncio.timeout(30):
        while True:
            try:
                return await pool.call(login, *command)
            except AwayError:
                await asyncio.sleep(0.01)
