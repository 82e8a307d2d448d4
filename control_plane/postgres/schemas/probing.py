"""What a tenant's own session can do, tried out on a real one. Nothing that is tried is ever committed.

Each question returns what speaks against the wall that it is put to, in sentences that name no other tenant; nothing
where the wall holds.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from psycopg import errors, sql

from control_plane.ids import new_uuid
from control_plane.postgres.database import Database, SystemTransaction
from control_plane.postgres.handles import unavailability_told
from control_plane.postgres.placement import Placement
from control_plane.postgres.pools import Connection
from control_plane.postgres.schemas.lint import find_faults
from control_plane.postgres.statements import RefusedStatementError, check_statement
from control_plane.postgres.watch import WHOSE

# Makes a statement one of the extended protocol, as every statement of a handle is.
_AS_ONE: Final[dict[str, object]] = {}
_STATE: Final = (
    "SELECT session_user AS session, current_user AS role, current_setting('search_path') AS path,"
    " current_setting('app.tenant_id', true) AS tenant"
)
_WAYS_OUT: Final = ("RESET ROLE", "SET ROLE none", "SELECT 1; RESET ROLE", "SET app.tenant_id = ''", "DISCARD ALL")


class Session:
    """One tenant's session, in a transaction of its own for each thing that is tried."""

    def __init__(self, database: Database, placement: Placement) -> None:
        """Take sessions from where the tenant's transactions have theirs."""
        self._database = database
        self._placement = placement

    async def foreign_tables(self, other: Placement | None) -> list[str]:
        """Try to read each table of another tenant; where there is none, the registry's."""
        tables = [sql.Identifier("csm_system", table) for table in ("tenants", "tenant_keys")]
        if other is not None:
            tables = [sql.Identifier(other.schema, table) for table in await self._tables()]
        readable = [
            table for table in tables if not await self._is_refused(sql.SQL("SELECT FROM {} LIMIT 1").format(table))
        ]
        return [f"{len(readable)} of {len(tables)} foreign tables can be read"] if readable else []

    async def foreign_rows(self, other: Placement | None) -> list[str]:
        """Look at the tenant's own tables in the context of another tenant, and of nobody: all have to seem empty."""
        stranger = other.uid if other is not None else new_uuid()
        return [
            f"{table} shows its rows in the context of {whose}"
            for table in await self._tables()
            for whose, context in (("another tenant", str(stranger)), ("nobody", ""))
            if await self._rows(sql.SQL("SELECT 1 AS one FROM {} LIMIT 1").format(self._named(table)), context=context)
        ]

    async def written_rows(self, other: Placement | None) -> list[str]:
        """Try to write a row that says it belongs to another tenant."""
        stranger = other.uid if other is not None else new_uuid()
        statement = sql.SQL(
            "INSERT INTO {} (tenant_id, id, subject, role, state) VALUES ({}, uuidv7(), 'probe', 'auditor', 'INVITED')"
        ).format(self._named("users"), sql.Literal(str(stranger)))
        return [] if await self._is_refused(statement) else ["a row of another tenant's can be written"]

    async def ways_out(self, other: Placement | None) -> list[str]:
        """Try to become somebody else: by what a handle may send; where nobody shares the login, by any statement."""
        found = [f"a handle would send {way!r}" for way in _WAYS_OUT if not _is_stopped(way)]
        # Those of tenants that share a login keep it to themselves by the statements above.
        roles = ["csm_owner", *([other.role] if other is not None and self._placement.is_strict else [])]
        settings: list[sql.Composable] = [sql.SQL("SELECT set_config('role', 'csm_owner', true)")]
        settings += [sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)) for role in roles]
        escapes = [setting for setting in settings if not await self._is_refused(setting)]
        return found + [f"{len(escapes)} statements choose another role"] * bool(escapes)

    async def changed_history(self) -> list[str]:
        """Try to change the tenant's audit log, and what all tenants read."""
        statements = {
            "the audit log can be changed": "UPDATE {schema}.audit_entries SET actor = ''",
            "the audit log can be emptied": "DELETE FROM {schema}.audit_entries",
            "the audit log can be sealed by others than the sealer": "DELETE FROM {schema}.audit_seals",
            "reference data can be changed": "UPDATE csm_shared_readonly.certificate_profiles SET name = name",
        }
        schema = sql.Identifier(self._placement.schema)
        return [
            fault
            for fault, statement in statements.items()
            if not await self._is_refused(sql.SQL(statement).format(schema=schema))
        ]

    async def other_context(self) -> list[str]:
        """Ask a transaction whose it is. Raises BreachError where the answer is another tenant's marker."""
        rows = await self._rows(sql.SQL(WHOSE))
        own = self._database.canaries.marker(self._placement.uid)
        for row in rows:
            self._database.canaries.check(row["marker"], own=self._placement.uid, channel="context")
        return [] if rows == [{"marker": own}] else ["the tenant's marker is not where it was put"]

    async def residue(self) -> list[str]:
        """Use a session for the tenant, give it back, and look at it when it is lent again."""
        await self._rows(sql.SQL("SELECT 1 AS one"))
        with unavailability_told():
            async with self._database.bare(self._placement) as connection:
                cursor = await connection.execute(_STATE)
                state = await cursor.fetchone() or {}
        left = {
            "login": state.get("session") != self._placement.login,
            "role": state.get("role") != self._placement.login,
            "search path": self._placement.schema in str(state.get("path")),
            "tenant": bool(state.get("tenant")),
        }
        return [f"a session that was given back has another {name}" for name, is_left in left.items() if is_left]

    async def faulty_tables(self) -> list[str]:
        """Ask the catalogue what the tenant's tables are like."""
        async with self._database.ddl() as connection:
            return await find_faults(connection, self._placement.schema)

    def _named(self, table: str) -> sql.Identifier:
        return sql.Identifier(self._placement.schema, table)

    async def _tables(self) -> list[str]:
        return await self._database.system().run(lambda tx: _tables_of(tx, self._placement.schema))

    async def _is_refused(self, statement: sql.Composable) -> bool:
        """Tell whether the database refuses the statement for want of a right, or by a policy."""
        try:
            await self._rows(statement)
        except errors.InsufficientPrivilege:
            return True
        return False

    async def _rows(self, statement: sql.Composable, *, context: str | None = None) -> list[dict[str, Any]]:
        async with self._entered() as connection:
            if context is not None:
                await connection.execute(sql.SQL("SET LOCAL app.tenant_id = {}").format(sql.Literal(context)))
            cursor = await connection.execute(statement.as_bytes(connection).replace(b"%", b"%%"), _AS_ONE)
            return await cursor.fetchall() if cursor.description else []

    @asynccontextmanager
    async def _entered(self) -> AsyncIterator[Connection]:
        with unavailability_told():
            async with self._database.bare(self._placement) as connection:
                try:
                    for statement in self._database.entrance(self._placement):
                        await connection.execute(statement)
                    yield connection
                finally:
                    await connection.execute("ROLLBACK")


def _is_stopped(statement: str) -> bool:
    try:
        check_statement(statement)
    except RefusedStatementError:
        return True
    return False


async def _tables_of(tx: SystemTransaction, schema: str) -> list[str]:
    """Name the tables of a schema, as the catalogue has them."""
    rows = await tx.fetch_all(
        """
        SELECT c.relname FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_class AS c ON c.oid = d.objid
         WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_namespace'::regclass
           AND d.refobjid = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s)
           AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
         ORDER BY c.relname
        """,
        {"schema": schema},
    )
    return [row["relname"] for row in rows]
