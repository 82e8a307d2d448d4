"""The schema and the roles of one tenant, made and dropped in one transaction each. The platform's DDL, nobody else's.

One tenant a transaction: each takes some 90 locks, and a few hundred tenants would use up the server's table of them.
"""

from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from psycopg import sql

from control_plane.postgres.database import Database, SystemTransaction
from control_plane.postgres.placement import Placement
from control_plane.postgres.pools import Connection
from control_plane.postgres.schemas.lint import find_faults
from control_plane.postgres.schemas.migrations import MigrationError, read_migrations

TENANT_MIGRATIONS: Final = read_migrations("tenant")
TENANT_VERSION: Final = TENANT_MIGRATIONS[-1].version

# What a tenant's statement may take in time and in memory, a lock may wait, and an open transaction may idle. Set for
# the role that logs in: a role that is taken on later brings none of its own.
_BOUNDS: Final = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
    "work_mem": "4MB",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What a strict tenant's own role logs in with."""

    version: int
    """Of the key that it is derived from."""
    password: str = field(repr=False)


_PATIENCE: Final = "SET LOCAL lock_timeout = '500ms'"


async def create_tenant_schema(database: Database, placement: Placement, *, login: Login | None = None) -> None:
    """Make the tenant's role and schema, or bring an older schema up to date. Safe to call again, and at once.

    A strict tenant's role logs in with `login`, from now on if it had another one, but for one of a newer version.

    Raises:
        MigrationError: a table would not be protected by row-level security; nothing was made.
        UnavailableError: the database is away, or busy with the same tenants.
    """
    async with database.ddl() as connection:
        await _take_turn(connection, placement.schema)
        version = await _version(connection, placement)
        if version == 0:
            await _create_role(connection, placement)
        if placement.is_strict:
            _check_login(placement, login)
        if version < TENANT_VERSION:
            await _migrate(connection, placement, version=version)
            await _put_canary(connection, placement, database.canaries.marker(placement.uid))
        if placement.is_strict and login is not None:
            await _change_login(connection, placement, login)
        if version == 0:
            # Last: from here to the end of the transaction, all others who make tenants wait for these roles.
            await _take_turn(connection, placement.login)
            await _grant_roles(connection, placement)


async def change_login(database: Database, placement: Placement, login: Login) -> None:
    """Have a strict tenant's role log in with this from now on. Safe to call again; who is logged in stays so.

    Raises:
        UnavailableError: the database is away, or busy with the same tenant.
    """
    async with database.ddl() as connection:
        await _take_turn(connection, placement.schema)
        await _change_login(connection, placement, login)


async def login_version(tx: SystemTransaction, tenant_uid: UUID) -> int | None:
    """Say of which version of its key a strict tenant's role has its password; None where it has none yet."""
    row = await tx.fetch_one(
        "SELECT login_version FROM csm_system.tenant_schemas WHERE tenant_uid = %(tenant_uid)s",
        {"tenant_uid": tenant_uid},
    )
    return None if row is None else row["login_version"]


async def drop_tenant_schema(database: Database, placement: Placement) -> None:
    """Drop the tenant's schema with all that is in it, and its role. Safe to call again, and where there is none.

    Raises:
        UnavailableError: the database is away, or the tenant's transactions did not end in time.
    """
    async with database.ddl() as connection:
        await _take_turn(connection, placement.schema)
        await connection.execute("SET LOCAL ROLE csm_owner")
        await connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(placement.schema)))
        await _drop_role(connection, placement)


async def purge_tenant_schema(database: Database, placement: Placement) -> None:
    """Drop all tables of the tenant's but those of its audit log, which are what the log's sealer reads; and its role.

    Safe to call again, and where there is nothing. The log can be read and grows on, by the platform's roles alone.

    Raises:
        UnavailableError: the database is away, or the tenant's transactions did not end in time.
    """
    async with database.ddl() as connection:
        await _take_turn(connection, placement.schema)
        schema, is_role = sql.Identifier(placement.schema), await _is_role(connection, placement.role)
        cursor = await connection.execute(
            """
            SELECT c.relname AS name, has_table_privilege('csm_sealer', c.oid, 'SELECT') AS is_log
              FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE n.nspname = %s AND c.relkind IN ('r', 'p')
            """,
            (placement.schema,),
        )
        tables = await cursor.fetchall()
        await connection.execute("SET LOCAL ROLE csm_owner")
        for table in tables:
            name = sql.SQL("{}.{}").format(schema, sql.Identifier(table["name"]))
            if not table["is_log"]:
                await connection.execute(sql.SQL("DROP TABLE {} CASCADE").format(name))
            elif is_role:
                await connection.execute(
                    sql.SQL("REVOKE ALL ON {} FROM {}").format(name, sql.Identifier(placement.role))
                )
        if is_role:
            await connection.execute(
                sql.SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(schema, sql.Identifier(placement.role))
            )
        await _drop_role(connection, placement)


async def find_tenant_weaknesses(database: Database, placement: Placement) -> list[str]:
    """Say what is wrong with the tenant's tables, as the catalogue has them now."""
    async with database.ddl() as connection:
        return await find_faults(connection, placement.schema)


async def schema_version(database: Database, placement: Placement) -> int:
    """Say which version the tenant's tables have; 0 where there are none."""
    async with database.ddl() as connection:
        return await _version(connection, placement)


async def _take_turn(connection: Connection, name: str) -> None:
    """Wait for whoever else works at this schema; or makes or drops tenants of this login role, which share members."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))


async def _version(connection: Connection, placement: Placement) -> int:
    cursor = await connection.execute(
        "SELECT version FROM csm_system.tenant_schemas WHERE tenant_uid = %s", (placement.uid,)
    )
    row = await cursor.fetchone()
    return int(row["version"]) if row else 0


async def _create_role(connection: Connection, placement: Placement) -> None:
    if placement.is_strict:
        await _create_login(connection, placement.role)
    else:
        await connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(placement.role)))


async def _create_login(connection: Connection, name: str) -> None:
    login = sql.Identifier(name)
    await connection.execute(sql.SQL("CREATE ROLE {} LOGIN NOINHERIT").format(login))
    for setting, value in _BOUNDS.items():
        await connection.execute(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(login, sql.Identifier(setting), sql.Literal(value))
        )


async def _drop_role(connection: Connection, placement: Placement) -> None:
    """End what `csm_owner` did: drop the role, and forget the version of the tables."""
    await connection.execute("SET LOCAL ROLE NONE")
    await _take_turn(connection, placement.login)
    await connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(placement.role)))
    await connection.execute("DELETE FROM csm_system.tenant_schemas WHERE tenant_uid = %s", (placement.uid,))


async def _grant_roles(connection: Connection, placement: Placement) -> None:
    role, login = sql.Identifier(placement.role), sql.Identifier(placement.login)
    is_new = placement.is_strict or not await _is_role(connection, placement.login)
    if is_new and not placement.is_strict:
        await _create_login(connection, placement.login)
    if is_new:
        await connection.execute(sql.SQL("GRANT csm_login TO {} WITH INHERIT TRUE, SET FALSE").format(login))
    if not placement.is_strict:
        await connection.execute(sql.SQL("GRANT {} TO {} WITH INHERIT FALSE, SET TRUE").format(role, login))
    await connection.execute(sql.SQL("GRANT csm_tenant TO {} WITH INHERIT TRUE, SET FALSE").format(role))


def _check_login(placement: Placement, login: Login | None) -> None:
    if login is None or not login.password:
        message = f"{placement.role} would log in without a password"
        raise ValueError(message)


async def _change_login(connection: Connection, placement: Placement, login: Login) -> None:
    """Send what the server verifies the password with (SCRAM), never the password: statements are logged.

    In one transaction with the version that it is of. A version that is older than that changes nothing: whoever comes
    with it has not heard of the newer one.
    """
    cursor = await connection.execute(
        """
        UPDATE csm_system.tenant_schemas SET login_version = %(version)s
         WHERE tenant_uid = %(tenant_uid)s AND coalesce(login_version, 0) <= %(version)s
        """,
        {"tenant_uid": placement.uid, "version": login.version},
    )
    if not cursor.rowcount:
        return
    verifier = connection.pgconn.encrypt_password(login.password.encode(), placement.role.encode(), b"scram-sha-256")
    await connection.execute(
        sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(placement.role), sql.Literal(verifier.decode()))
    )


async def _is_role(connection: Connection, name: str) -> bool:
    cursor = await connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,))
    return await cursor.fetchone() is not None


async def _migrate(connection: Connection, placement: Placement, *, version: int) -> None:
    schema = sql.Identifier(placement.schema)
    await connection.execute("SET LOCAL ROLE csm_owner")
    if version:
        # The tenant's own transactions queue up behind one that waits to change a table.
        await connection.execute(_PATIENCE)
    if version == 0:
        await connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
    await connection.execute(sql.SQL("SET LOCAL search_path = {}").format(schema))
    for migration in TENANT_MIGRATIONS[version:]:
        await connection.execute(sql.SQL(migration.text).format(schema=schema, role=sql.Identifier(placement.role)))
    await connection.execute("SET LOCAL ROLE NONE")
    if weaknesses := await find_faults(connection, placement.schema):
        raise MigrationError("; ".join(weaknesses))
    await connection.execute(
        "INSERT INTO csm_system.tenant_schemas (tenant_uid, version) VALUES (%s, %s)"
        " ON CONFLICT (tenant_uid) DO UPDATE"
        " SET version = excluded.version, migrate_time = now(), failure = '', failures = 0, retry_time = '-infinity'",
        (placement.uid, TENANT_VERSION),
    )


async def _put_canary(connection: Connection, placement: Placement, marker: str) -> None:
    schema = sql.Identifier(placement.schema)
    await connection.execute(sql.SQL("SET LOCAL app.tenant_id = {}").format(sql.Literal(str(placement.uid))))
    await connection.execute("SET LOCAL ROLE csm_owner")
    insert = sql.SQL(
        "INSERT INTO {}.canaries (marker) VALUES ({}) ON CONFLICT (tenant_id) DO UPDATE SET marker = excluded.marker"
    )
    await connection.execute(insert.format(schema, sql.Literal(marker)))
    await connection.execute("SET LOCAL ROLE NONE")
