"""A strict tenant's session: whatever SQL runs in it, there is no way out of the tenant. Injected as bare text.

The handle's own guards are left out on purpose: each attack is sent as the session's own statement, and where it is one
that a simple protocol takes, as several at once. What holds here holds for any bug in what stands before it.
"""

import contextlib
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final

import psycopg
import pytest
from psycopg import sql

from control_plane.errors import UnavailableError
from control_plane.postgres.database import Database, Isolation, PostgresSettings, TenantTransaction
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas.tenancy import Login, create_tenant_schema
from tests.fixtures.canaries import ConnectAs, RawConnection, insert_row, rows_of, tables_of
from tests.fixtures.postgres import MakeTenant, login_password

WHO: Final = "SELECT current_user AS name, session_user AS session, current_setting('search_path') AS path"

# `{role}`, `{login}`, `{schema}` and `{uid}` are the other tenant's. After each of them the other's rows are asked for.
ATTACKS: Final = {
    "no role": "RESET ROLE",
    "no settings": "RESET ALL",
    "the other's role": "SET ROLE {role}",
    "the other's role, for the transaction": "BEGIN; SET LOCAL ROLE {role}",
    "its login": "SET ROLE {login}",
    "a pool's login": "SET ROLE csm_pool_0",
    "the owner": "SET ROLE csm_owner",
    "another user": "SET SESSION AUTHORIZATION {role}",
    "the superuser": "SET SESSION AUTHORIZATION bulkhead",
    "a setting that is a role": "SELECT set_config('role', '{role}', false)",
    "a setting that is a tenant": "SELECT set_config('app.tenant_id', '{uid}', false)",
    "the other's context": "SET app.tenant_id = '{uid}'",
    "the other's path": "SET search_path = {schema}, pg_catalog",
    "a temporary table before the tenant's": (
        "CREATE TEMP TABLE users (LIKE {schema}.users); SET search_path = pg_temp, pg_catalog"
    ),
    "a table in public": "CREATE TABLE public.users (id int)",
    "a function of the system's name": (
        "CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT ''hijacked'''"
    ),
    "the same beside its own tables": "CREATE FUNCTION lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
    "the same for the session": "CREATE FUNCTION pg_temp.lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
    "a copy to the client": "COPY {schema}.users TO STDOUT",
    "a copy of a query": "COPY (SELECT * FROM {schema}.users) TO STDOUT",
    "a copy to a file": "COPY users TO '/tmp/loot'",
    "a copy through a program": "COPY users TO PROGRAM 'cat'",
    "a large object": "SELECT lo_from_bytea(0, 'loot')",
    "a large object of somebody's": "SELECT lo_get(1)",
    "a block of code": "DO $$ BEGIN EXECUTE 'SET ROLE {role}'; END $$",
    "text as SQL": "SELECT query_to_xml('SELECT * FROM {schema}.users', true, true, '')",
    "row security off": "SET row_security = off; SELECT * FROM {schema}.users",
    "the policy": "ALTER TABLE users DISABLE ROW LEVEL SECURITY",
    "a right for everybody": "GRANT ALL ON users TO PUBLIC",
    "another server": "CREATE EXTENSION postgres_fdw",
    "a library": "LOAD 'auto_explain'",
    "a longer life": "SET statement_timeout = 0; SELECT pg_sleep(1)",
    "a listener": "LISTEN bulkhead_revision; SELECT * FROM {schema}.users",
    "several at once": "RESET ROLE; SET ROLE {role}; SET app.tenant_id = '{uid}'; SELECT * FROM {schema}.users",
}


@pytest.fixture
async def both(make_tenant: MakeTenant, superuser: RawConnection) -> tuple[Placement, Placement]:
    """A strict tenant, and a pooled one; each has a row in each table."""
    ours, theirs = await make_tenant("ours", isolation="STRICT"), await make_tenant("theirs")
    for placement in (ours, theirs):
        for table in await tables_of(superuser, placement):
            await insert_row(superuser, table, uid=placement.uid)
    return ours, theirs


@pytest.mark.behaviour("S1.2")
@pytest.mark.behaviour("T-D2")
@pytest.mark.parametrize("is_theirs_strict", [False, True])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_no_statement_leads_out_of_a_strict_tenants_session(
    attack: str,
    *,
    is_theirs_strict: bool,
    both: tuple[Placement, Placement],
    connect_as: ConnectAs,
    make_tenant: MakeTenant,
    superuser: RawConnection,
) -> None:
    ours, theirs = both
    if is_theirs_strict:
        theirs = await make_tenant("other", isolation="STRICT")
        for table in await tables_of(superuser, theirs):
            await insert_row(superuser, table, uid=theirs.uid)
    connection = await connect_as(ours.login)
    text = attack.format(role=theirs.role, login=theirs.login, schema=theirs.schema, uid=theirs.uid)

    with contextlib.suppress(psycopg.Error):
        await _send(connection, text)
    assert await _is_still(connection, ours)
    for table in await tables_of(superuser, theirs):
        with pytest.raises(psycopg.Error):
            await connection.execute(sql.SQL("SELECT * FROM {}").format(table.qualified))
        await connection.execute("ROLLBACK")
    assert await rows_of(superuser, sql.SQL("SELECT FROM pg_largeobject_metadata")) == []
    hijacks = sql.SQL("SELECT FROM pg_proc WHERE proname = 'lower' AND pronamespace <> 'pg_catalog'::regnamespace")
    assert await rows_of(superuser, hijacks) == []


async def _send(connection: RawConnection, text: str) -> None:
    """Send it as the simple protocol takes it, statement by statement in one go; what it copies is thrown away."""
    if "COPY" in text:
        async with connection.cursor() as cursor, cursor.copy(text.encode()) as copy:
            loot = [chunk async for chunk in copy]
        assert loot == [], "something was copied"
    else:
        await connection.execute(text.encode())


async def _is_still(connection: RawConnection, ours: Placement) -> bool:
    with contextlib.suppress(psycopg.Error):
        await connection.execute("ROLLBACK")
    cursor = await connection.execute(WHO)
    row = await cursor.fetchone()
    return row is not None and (row["name"], row["session"]) == (ours.role, ours.role)


async def test_a_strict_tenant_reads_and_writes_what_is_its_own(
    both: tuple[Placement, Placement], database: Database
) -> None:
    """The positive twin: the same handle as a pooled tenant's."""
    for placement in both:
        handle = database.tenant(placement, isolation=Isolation.SERIALIZABLE)
        rows = await handle.run(partial(TenantTransaction.fetch_all, query="SELECT tenant_id FROM users"))
        row = await handle.run(partial(TenantTransaction.fetch_one, query=WHO))

        assert rows == [{"tenant_id": placement.uid}]
        assert row is not None
        assert (row["name"], row["session"]) == (placement.role, placement.login)


async def test_a_strict_tenants_session_serves_nobody_else(
    both: tuple[Placement, Placement], database: Database
) -> None:
    query = "SELECT pg_backend_pid() AS pid"
    pids = []
    for placement in (*both, *both):
        handle = database.tenant(placement, isolation=Isolation.READ_COMMITTED)
        (row,) = await handle.run(partial(TenantTransaction.fetch_all, query=query))
        pids.append(row["pid"])

    assert pids[:2] == pids[2:]
    assert pids[0] != pids[1]


async def test_a_strict_tenants_role_is_a_member_of_no_other_tenants(
    both: tuple[Placement, Placement], superuser: RawConnection
) -> None:
    ours, _ = both
    members = await rows_of(
        superuser,
        sql.SQL(
            "SELECT roleid::regrole::text AS name, set_option FROM pg_auth_members WHERE member = {}::regrole"
        ).format(ours.role),
    )

    assert sorted((row["name"], row["set_option"]) for row in members) == [("csm_login", False), ("csm_tenant", False)]


@pytest.mark.parametrize("password", ["", "password of csm_t_1", "wrong"])
async def test_a_strict_tenants_role_needs_its_own_password(
    password: str, both: tuple[Placement, Placement], postgres_settings: PostgresSettings
) -> None:
    ours, _ = both
    with pytest.raises(psycopg.OperationalError, match="password"):
        await psycopg.AsyncConnection.connect(
            host=str(postgres_settings.socket_dir),
            port=postgres_settings.port,
            dbname=postgres_settings.dbname,
            user=ours.login,
            password=password,
        )


async def test_a_strict_tenant_without_a_password_is_not_made(make_tenant: MakeTenant, database: Database) -> None:
    ours = await make_tenant("ours", isolation="STRICT")

    with pytest.raises(ValueError, match="without a password"):
        await create_tenant_schema(database, ours)


async def test_a_password_that_was_changed_elsewhere_is_asked_for_anew(
    both: tuple[Placement, Placement], database: Database, postgres_settings: PostgresSettings
) -> None:
    ours, _ = both
    await create_tenant_schema(database, ours, login=Login(version=1, password="another"))
    asked = []

    async def passwords(placement: Placement, *, anew: bool = False) -> str:
        asked.append(anew)
        return "another" if anew else await login_password(placement)

    async with Database.open(postgres_settings, passwords=passwords) as other:
        handle = other.tenant(ours, isolation=Isolation.READ_COMMITTED)
        row = await handle.run(partial(TenantTransaction.fetch_one, query="SELECT 1 AS one"))

    assert (row, asked) == ({"one": 1}, [False, True])


async def test_whoever_does_not_know_the_password_is_told_that_the_database_is_away(
    both: tuple[Placement, Placement], postgres_settings: PostgresSettings
) -> None:
    ours, theirs = both

    async def passwords(placement: Placement, *, anew: bool = False) -> str:
        return "wrong"

    async with Database.open(replace(postgres_settings, timeout=timedelta(seconds=5)), passwords=passwords) as other:
        with pytest.raises(UnavailableError):
            await other.tenant(ours, isolation=Isolation.READ_COMMITTED).run(_nothing)
        await other.tenant(theirs, isolation=Isolation.READ_COMMITTED).run(_nothing)


async def _nothing(tx: TenantTransaction) -> None:
    await tx.fetch_all("SELECT 1")


async def test_a_pooled_session_that_is_injected_into_by_the_simple_protocol_reaches_its_login_roles_tenants(
    make_tenant: MakeTenant, connect_as: ConnectAs
) -> None:
    """What `strict` is for. No handle sends anything by the simple protocol: see `test_database_attacks.py`."""
    ours, theirs = await make_tenant("ours"), await make_tenant("theirs")
    connection = await connect_as(ours.login)
    await connection.execute(f"RESET ROLE; SET ROLE {theirs.role}; SET app.tenant_id = '{theirs.uid}'".encode())

    assert await rows_of(connection, sql.SQL("SELECT FROM {}.users").format(sql.Identifier(theirs.schema))) == []


async def test_a_transaction_that_asks_for_less_is_serializable_where_the_tenant_wants_it(
    make_tenant: MakeTenant, database: Database
) -> None:
    ours = await make_tenant("ours")
    wants = replace(ours, pooling=replace(ours.pooling, is_serializable=True))
    levels = []
    for placement in (ours, wants):
        handle = database.tenant(placement, isolation=Isolation.READ_COMMITTED)
        query = "SELECT current_setting('transaction_isolation') AS level"
        row = await handle.run(partial(TenantTransaction.fetch_one, query=query))
        assert row is not None
        levels.append(row["level"])

    assert levels == ["read committed", "serializable"]
