"""A connection goes from tenant to tenant: nothing of one is there for the next, however its transaction ended."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Final

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import DictRow

from control_plane.postgres.database import Database, Isolation, PostgresSettings, TenantTransaction
from control_plane.postgres.placement import Placement
from control_plane.postgres.pools import Pool
from tests.fixtures.canaries import Canaries, ConnectAs, RawConnection, enter, rows_of
from tests.fixtures.postgres import MakeTenant

SESSION: Final = """
SELECT current_user, session_user, current_setting('search_path') AS path,
  coalesce(current_setting('app.tenant_id', true), '') AS tenant, current_setting('work_mem') AS work_mem,
  current_setting('transaction_read_only') AS read_only,
  (SELECT count(*) FROM pg_prepared_statements) AS prepared, (SELECT count(*) FROM pg_cursors) AS cursors,
  (SELECT count(*) FROM pg_listening_channels()) AS channels,
  (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()) AS temporary
"""
# Long enough to be interrupted, and nothing that a tenant could not run.
ENDLESS: Final = "SELECT count(*) FROM generate_series(1, 1000000000) AS a"


async def session_of(pool: Pool, login: str) -> dict[str, Any]:
    """Look at the next session that the pool lends."""
    async with pool.lease(login) as connection:
        (row,) = await rows_of(connection, sql.SQL(SESSION))
        return row


async def leave_by_an_error(tx: TenantTransaction) -> None:
    await tx.execute("SELECT * FROM there_is_no_such_table")


async def leave_by_an_exception(tx: TenantTransaction) -> None:
    await tx.execute("SELECT 1")
    raise ZeroDivisionError


async def leave_unused(tx: TenantTransaction) -> None:
    raise ZeroDivisionError


async def leave_by_commit(tx: TenantTransaction) -> None:
    await tx.execute("SELECT 1")


@pytest.mark.behaviour("S1.3")
@pytest.mark.parametrize("leave", [leave_by_commit, leave_by_an_error, leave_by_an_exception, leave_unused])
async def test_a_session_is_as_new_after_a_transaction(
    leave: Callable[[TenantTransaction], Any],
    postgres_settings: PostgresSettings,
    make_tenant: MakeTenant,
    superuser: RawConnection,
) -> None:
    placement = await make_tenant()
    await look_inside(superuser, placement)
    async with Database.open(postgres_settings) as database:
        new = await session_of(database._tenants, placement.login)
        with contextlib.suppress(ZeroDivisionError, psycopg.Error):
            await database.tenant(placement, isolation=Isolation.SERIALIZABLE).run(leave)

        assert await session_of(database._tenants, placement.login) == new
        assert new["current_user"] == new["session_user"] == placement.login
        assert new["tenant"] == ""
        assert database._tenants.size == 1


@pytest.mark.behaviour("S1.3")
async def test_a_cancelled_query_ends_on_the_server_and_leaves_nothing(
    database: Database, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    placement = await make_tenant()
    handle = database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    task = asyncio.create_task(handle.run(partial(TenantTransaction.fetch_all, query=ENDLESS)))
    await _until(superuser, "active", 1)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await _until(superuser, "active", 0)
    assert await handle.run(_user) == placement.role


@pytest.mark.behaviour("S1.3")
async def test_a_connection_that_a_task_was_torn_out_of_is_closed_and_never_mended(
    database: Database, make_tenant: MakeTenant
) -> None:
    placement = await make_tenant()
    handle = database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    begun = asyncio.Event()

    async def hold(tx: TenantTransaction) -> None:
        await tx.execute("SELECT 1")
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(handle.run(hold))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert database._tenants.size == 0


@pytest.mark.behaviour("S1.3")
async def test_a_call_that_runs_out_of_time_mid_query_leaves_nothing(
    database: Database, make_tenant: MakeTenant
) -> None:
    placement = await make_tenant()
    handle = database.tenant(placement, isolation=Isolation.SERIALIZABLE)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await handle.run(partial(TenantTransaction.fetch_all, query=ENDLESS))
    assert await handle.run(_user) == placement.role


async def _user(tx: TenantTransaction) -> str:
    (row,) = await tx.fetch_all("SELECT current_user AS name")
    return str(row["name"])


async def _until(superuser: RawConnection, state: str, number: int) -> None:
    async with asyncio.timeout(10):
        while True:
            (row,) = await rows_of(
                superuser,
                sql.SQL(
                    "SELECT count(*) AS n FROM pg_stat_activity"
                    " WHERE query LIKE {} AND state = {} AND pid <> pg_backend_pid()"
                ).format("%generate_series%", state),
            )
            if row["n"] == number:
                return
            await asyncio.sleep(0.01)


EVERYTHING: Final = "SELECT current_user AS name, tenant_id AS uid, subject FROM users"
CHECKOUTS: Final = 10_000
SWITCHES: Final = 10_000
DIRT: Final = (
    "SET search_path = tenant_theirs",
    "SET app.tenant_id = '0190b5c8-0000-7000-8000-000000000000'",
    "SET ROLE {role}",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET work_mem = '1MB'",
    "SELECT pg_advisory_lock(7)",
    "LISTEN anything",
    "PREPARE next AS SELECT 1",
    "DECLARE kept CURSOR WITH HOLD FOR SELECT 1",
    "CREATE TEMP TABLE kept (id int)",
    "BEGIN; SET LOCAL ROLE {role}",
    "BEGIN; SELECT no_such_column",
    "SELECT 1",
)


@pytest.mark.behaviour("S1.3")
@pytest.mark.behaviour("T-D2")
async def test_whatever_a_session_was_made_to_keep_is_gone_when_it_is_lent_again(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    """As if every guard before the reset had failed: sessions dirtied by hand, with rights that none has."""
    placement = await make_tenant()
    await look_inside(superuser, placement)
    pool = Pool(postgres_settings, limit=1)
    new = await session_of(pool, placement.login)

    for dirt in DIRT:
        async with pool.lease(placement.login) as connection:
            backend = connection.info.backend_pid
            with contextlib.suppress(psycopg.Error):
                await connection.execute(dirt.format(role=placement.role).encode())
        async with pool.lease(placement.login) as connection:
            assert connection.info.backend_pid == backend
        assert await session_of(pool, placement.login) == new, dirt
        assert await rows_of(superuser, sql.SQL("SELECT FROM pg_locks WHERE locktype = 'advisory'")) == [], dirt
    await pool.close()


async def look_inside(superuser: RawConnection, placement: Placement) -> None:
    """Give the login role the rights to make a mess, and to see one."""
    await superuser.execute("GRANT EXECUTE ON FUNCTION pg_advisory_lock(bigint) TO PUBLIC")
    await superuser.execute(
        sql.SQL("GRANT TEMP ON DATABASE {} TO PUBLIC").format(sql.Identifier(superuser.info.dbname))
    )
    await superuser.execute(
        sql.SQL("GRANT csm_platform TO {} WITH INHERIT TRUE").format(sql.Identifier(placement.login))
    )


@pytest.mark.behaviour("T-D2")
@pytest.mark.behaviour("T-D7")
async def test_fifty_tenants_on_four_connections_never_see_each_others_rows(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant
) -> None:
    tenants = [await make_tenant(f"org_{number}") for number in range(50)]
    seed = random.randrange(2**32)
    settings = replace(postgres_settings, tenant_pool_size=4, timeout=timedelta(seconds=60))
    async with Database.open(settings) as database:
        for placement in tenants:
            await database.tenant(placement, isolation=Isolation.SERIALIZABLE).run(_plant)
        await asyncio.gather(*(_wander(database, tenants, random.Random(seed + client)) for client in range(16)))

        # Those that were torn out of their work are closed.
        assert 1 <= database._tenants.size <= 4, f"seed {seed}"


async def _plant(tx: TenantTransaction) -> None:
    await tx.execute(
        "INSERT INTO users (id, subject, role, state) VALUES (uuidv7(), %(subject)s, 'tenant-admin', 'ACTIVE')",
        {"subject": tx.placement.tenant_id},
    )


async def _wander(database: Database, tenants: list[Placement], chance: random.Random) -> None:
    for _ in range(CHECKOUTS // 16):
        placement = chance.choice(tenants)
        handle = database.tenant(placement, isolation=chance.choice(list(Isolation)))
        ending = chance.randrange(20)
        if ending == 0:
            with pytest.raises(ZeroDivisionError):
                await handle.run(leave_by_an_exception)
        elif ending == 1:
            with pytest.raises(psycopg.Error):
                await handle.run(leave_by_an_error)
        elif chance.randrange(200) == 0:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await handle.run(partial(TenantTransaction.fetch_all, query=ENDLESS))
        else:
            seen = await handle.run(partial(TenantTransaction.fetch_all, query=EVERYTHING))
            assert seen == [{"name": placement.role, "uid": placement.uid, "subject": placement.tenant_id}]


@pytest.mark.behaviour("T-D7")
async def test_a_plan_made_for_one_tenant_shows_no_rows_to_another(canaries: Canaries, connect_as: ConnectAs) -> None:
    """With prepared statements, of which the pool makes none: what the database itself promises."""
    connection = await connect_as(canaries.ours.login)
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    both = [(placement.uid, placement) for placement in (canaries.ours, canaries.theirs)]

    for _ in range(SWITCHES // 100):
        async with connection.pipeline():
            cursors = [(uid, await _ask(connection, placement)) for _ in range(50) for uid, placement in both]
        for uid, cursor in cursors:
            assert await cursor.fetchall() == [{"tenant_id": uid}]


async def _ask(connection: RawConnection, placement: Placement) -> psycopg.AsyncCursor[DictRow]:
    await enter(connection, placement)
    cursor = await connection.execute("SELECT tenant_id FROM users", prepare=True)
    await connection.execute("RESET ROLE")
    return cursor
