"""Connections: as few as needed, never more than allowed, and replaced when the server has lost them."""

import asyncio
import os
import signal
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from psycopg import sql

from control_plane.errors import UnavailableError
from control_plane.postgres import admission, pools
from control_plane.postgres.database import Database, Isolation, PostgresSettings, SystemTransaction, TenantTransaction
from control_plane.postgres.placement import TENANTS_PER_LOGIN, ConnectionPooling, Placement
from control_plane.postgres.pools import Pool
from control_plane.postgres.schemas.migrations import SYSTEM_VERSION
from tests.fixtures.canaries import ConnectAs, RawConnection, rows_of
from tests.fixtures.postgres import MakeTenant, login_password

SHORT = timedelta(milliseconds=100)


async def backend_of(database: Database, placement: Placement) -> int:
    query = "SELECT pg_backend_pid() AS pid"
    handle = database.tenant(placement, isolation=Isolation.READ_COMMITTED)
    (row,) = await handle.run(partial(TenantTransaction.fetch_all, query=query))
    return int(row["pid"])


async def backends(superuser: RawConnection, like: str) -> set[int]:
    rows = await rows_of(superuser, sql.SQL("SELECT pid FROM pg_stat_activity WHERE usename LIKE {}").format(like))
    return {row["pid"] for row in rows}


async def test_nothing_is_opened_before_it_is_needed(database: Database, superuser: RawConnection) -> None:
    assert database._tenants.size == database._platform.size == 0
    assert await backends(superuser, "csm%") == set()


async def test_a_connection_is_used_again(database: Database, make_tenant: MakeTenant) -> None:
    ours, theirs = await make_tenant("ours"), await make_tenant("theirs")

    assert await backend_of(database, ours) == await backend_of(database, theirs)


@pytest.mark.behaviour("S1.19")
async def test_there_are_never_more_connections_than_the_limit(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    """With more login roles than connections: those at rest make room for those that are needed."""
    tenants = []
    for number in range(6):
        # Beyond the numbers that any other test's tenants have: see `fixtures.postgres`.
        first = 1_000_000_000 + number * TENANTS_PER_LOGIN
        await superuser.execute(
            sql.SQL("ALTER TABLE csm_system.tenants ALTER COLUMN number RESTART WITH {}").format(first)
        )
        tenants.append(await make_tenant(f"org_{number}"))
    seen = 0
    async with Database.open(replace(postgres_settings, tenant_pool_size=3, timeout=timedelta(seconds=30))) as database:

        async def use(placement: Placement) -> None:
            nonlocal seen
            await backend_of(database, placement)
            seen = max(seen, database._tenants.size)

        await asyncio.gather(*(use(placement) for placement in tenants * 10))
        # The server ends what we have hung up on in its own time.
        while len(await backends(superuser, "csm_pool%")) > 3:  # noqa: ASYNC110 it tells nobody when
            await asyncio.sleep(0.01)

    assert len({placement.login for placement in tenants}) == 6
    assert 1 < seen <= 3


@pytest.mark.behaviour("S1.19")
async def test_a_connection_that_has_served_many_tenants_is_retired(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant
) -> None:
    tenants = [await make_tenant(f"org_{number}") for number in range(4)]

    async with Database.open(replace(postgres_settings, tenants_per_connection=2)) as database:
        pids = [await backend_of(database, placement) for placement in tenants]
        again = await backend_of(database, tenants[-1])

    assert pids[0] == pids[1] == pids[2]
    assert pids[3] == again != pids[2]


@pytest.mark.behaviour("S1.19")
async def test_a_connection_whose_backend_has_grown_is_retired(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_WEIGHED_EVERY", 2)
    tenants = [await make_tenant(f"org_{number}") for number in range(4)]
    pids = {}
    for most in (1, 1 << 30):
        async with Database.open(replace(postgres_settings, memory_per_connection=most)) as database:
            pids[most] = [await backend_of(database, placement) for placement in tenants]

    # After the second tenant it is weighed, and its place is taken by another.
    assert [pid == pids[1][0] for pid in pids[1]] == [True, True, False, False]
    assert len(set(pids[1 << 30])) == 1


async def test_a_backends_weight_is_what_it_takes(
    database: Database, make_tenant: MakeTenant, connect_as: ConnectAs
) -> None:
    """By the server's own books; each tenant's tables that it has seen are among them."""
    tenants = [await make_tenant(f"org_{number}") for number in range(6)]
    connection = await connect_as(tenants[0].login)
    weights = []
    for placement in tenants:
        for table in ("users", "tokens", "certificates"):
            await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(placement.role)))
            await connection.execute(sql.SQL("SELECT FROM {}").format(sql.Identifier(placement.schema, table)))
        await connection.execute("RESET ROLE")
        (row,) = await rows_of(connection, sql.SQL("SELECT csm_session.memory_bytes() AS bytes"))
        weights.append(row["bytes"])

    assert 500_000 < weights[0] < 50_000_000
    assert weights[-1] > weights[0]


async def test_whoever_waits_too_long_is_told_that_the_database_is_busy(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant
) -> None:
    placement = await make_tenant()
    async with Database.open(replace(postgres_settings, tenant_pool_size=1, timeout=SHORT)) as database:
        async with database._tenants.lease(placement.login, placement):
            with pytest.raises(UnavailableError, match="free in time") as caught:
                await backend_of(database, placement)

        assert caught.value.code == "DATABASE_BUSY"
        assert await backend_of(database, placement) > 0


async def test_who_waits_beyond_all_measure_is_told_so_at_once(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_MOST_WAITING", 1)
    placement = await make_tenant()
    async with Database.open(replace(postgres_settings, tenant_pool_size=1)) as database:
        async with database._tenants.lease(placement.login, placement):
            waiting = asyncio.create_task(backend_of(database, placement))
            await asyncio.sleep(0.01)
            with pytest.raises(UnavailableError, match="too many") as caught:
                await backend_of(database, placement)

        assert caught.value.code == "DATABASE_BUSY"
        assert await waiting > 0


@pytest.mark.behaviour("S7.6")
async def test_a_tenant_has_no_more_connections_at_once_than_it_may(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant
) -> None:
    ours, theirs = await make_tenant("ours"), await make_tenant("theirs")
    one = replace(ours, pooling=ConnectionPooling(min_connections=1, max_connections=1))
    async with (
        Database.open(replace(postgres_settings, tenant_pool_size=4, timeout=SHORT)) as database,
        database._tenants.lease(one.login, one),
    ):
        with pytest.raises(UnavailableError, match="free in time"):
            await backend_of(database, one)

        assert await backend_of(database, theirs) > 0


async def test_a_strict_tenants_connection_that_rests_is_closed_soon(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_STRICT_RESTS", timedelta(seconds=0.05))
    monkeypatch.setattr(pools, "_SWEPT_EVERY", timedelta(seconds=0.01))
    strict, pooled = await make_tenant("ours", isolation="STRICT"), await make_tenant("theirs")
    async with Database.open(postgres_settings, passwords=login_password) as database:
        await backend_of(database, strict)
        await backend_of(database, pooled)
        while database._tenants.size > 1:  # noqa: ASYNC110 it tells nobody when
            await asyncio.sleep(0.01)

        assert [session.login for session in database._tenants._resting] == [pooled.login]


async def test_strict_and_pooled_tenants_share_the_same_connections(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    """However many strict tenants there are: those at rest make room for each other."""
    tenants = [
        await make_tenant(f"org_{number}", isolation="STRICT" if number % 2 else "POOLED") for number in range(8)
    ]
    seen = 0
    settings = replace(postgres_settings, tenant_pool_size=3, timeout=timedelta(seconds=30))
    async with Database.open(settings, passwords=login_password) as database:

        async def use(placement: Placement) -> None:
            nonlocal seen
            await backend_of(database, placement)
            seen = max(seen, database._tenants.size)

        await asyncio.gather(*(use(placement) for placement in tenants * 5))

    assert 1 < seen <= 3


async def test_whoever_gives_up_waiting_leaves_the_place_to_the_next(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant
) -> None:
    placement = await make_tenant()
    async with Database.open(replace(postgres_settings, tenant_pool_size=1)) as database:
        async with database._tenants.lease(placement.login, placement):
            waiting = [asyncio.create_task(backend_of(database, placement)) for _ in range(3)]
            await asyncio.sleep(0.01)
            waiting[0].cancel()
        ends = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(ends[0], asyncio.CancelledError)
    assert ends[1] == ends[2]


async def test_tenants_cannot_use_up_the_platforms_connections(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant
) -> None:
    placement = await make_tenant()
    async with (
        Database.open(replace(postgres_settings, tenant_pool_size=1, timeout=SHORT)) as database,
        database._tenants.lease(placement.login, placement),
    ):
        await database.check(SYSTEM_VERSION)


async def test_a_server_that_is_not_there_is_told_as_such(postgres_settings: PostgresSettings) -> None:
    async with Database.open(replace(postgres_settings, port=1)) as database:
        with pytest.raises(UnavailableError):
            await database.check(SYSTEM_VERSION)


async def test_a_role_that_the_database_does_not_know_is_told_as_such(postgres_settings: PostgresSettings) -> None:
    async with Database.open(replace(postgres_settings, system_role="nobody")) as database:
        with pytest.raises(UnavailableError):
            await database.check(SYSTEM_VERSION)


async def test_connections_that_the_server_closed_at_rest_are_replaced_unseen(
    database: Database, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    placement = await make_tenant()
    before = await backend_of(database, placement)
    await superuser.execute("SELECT pg_terminate_backend(%s, 5000)", (before,))

    assert await backend_of(database, placement) != before


async def test_a_backend_killed_at_work_is_told_as_unavailable_and_the_pool_recovers(
    database: Database, make_tenant: MakeTenant
) -> None:
    """A killed backend may have torn the shared memory, so the server ends all the others and recovers."""
    placement = await make_tenant()
    handle = database.tenant(placement, isolation=Isolation.SERIALIZABLE)

    async def be_killed(tx: TenantTransaction) -> None:
        (row,) = await tx.fetch_all("SELECT pg_backend_pid() AS pid")
        os.kill(row["pid"], signal.SIGKILL)
        await asyncio.sleep(0.05)
        await tx.fetch_all("SELECT 1")

    with pytest.raises(UnavailableError):
        await handle.run(be_killed)
    assert await _first_answer(database, placement) > 0
    await database.check(SYSTEM_VERSION)


async def test_a_backend_killed_at_commit_is_told_as_unavailable(database: Database, make_tenant: MakeTenant) -> None:
    placement = await make_tenant()

    async def be_killed(tx: TenantTransaction) -> None:
        (row,) = await tx.fetch_all("SELECT pg_backend_pid() AS pid")
        os.kill(row["pid"], signal.SIGKILL)
        await asyncio.sleep(0.05)

    with pytest.raises(UnavailableError):
        await database.tenant(placement, isolation=Isolation.SERIALIZABLE).run(be_killed)
    assert await _first_answer(database, placement) > 0


async def _first_answer(database: Database, placement: Placement) -> int:
    async with asyncio.timeout(20):
        while True:
            try:
                return await backend_of(database, placement)
            except UnavailableError:
                await asyncio.sleep(0.02)


async def test_a_statement_that_takes_too_long_is_told_as_unavailable(
    database: Database, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    placement = await make_tenant()
    await superuser.execute(
        sql.SQL("ALTER ROLE {} SET statement_timeout = '50ms'").format(sql.Identifier(placement.login))
    )
    query = "SELECT count(*) FROM generate_series(1, 1000000000)"

    with pytest.raises(UnavailableError):
        await database.tenant(placement, isolation=Isolation.SERIALIZABLE).run(
            partial(TenantTransaction.fetch_all, query=query)
        )


async def test_a_closed_pool_lends_nothing_and_keeps_nothing(
    postgres_settings: PostgresSettings, superuser: RawConnection
) -> None:
    pool = Pool(postgres_settings, limit=2)
    async with pool.lease("csm_control"):
        await pool.close()
        assert pool.size == 1

    assert pool.size == 0
    with pytest.raises(RuntimeError, match="closed"):
        async with pool.lease("csm_control"):
            pass


async def test_a_schema_older_than_the_code_is_not_ready(database: Database, superuser: RawConnection) -> None:
    await database.check(SYSTEM_VERSION)
    await superuser.execute("DELETE FROM csm_system.schema_migrations WHERE version > 1")

    with pytest.raises(UnavailableError, match="version 1") as caught:
        await database.check(SYSTEM_VERSION)
    assert caught.value.code == "SCHEMA_TOO_OLD"


async def test_the_directory_role_opens_the_registry(postgres_settings: PostgresSettings) -> None:
    async with Database.open(replace(postgres_settings, system_role="csm_directory")) as database:
        await database.check(SYSTEM_VERSION)
        query = "SELECT current_user AS name"
        row = await database.system().run(partial(SystemTransaction.fetch_one, query=query))

    assert row == {"name": "csm_directory"}
