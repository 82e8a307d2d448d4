"""What a use case does its work with: one open transaction, which ends when the use case does.

Every statement goes out in pipeline mode, so by the extended protocol: psycopg would send one without parameters by the
simple protocol otherwise, and that one accepts a second statement after a `;`.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from typing_extensions import override

from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement
from control_plane.postgres.pools import Connection
from control_plane.postgres.statements import check_statement
from control_plane.postgres.watch import WHOSE, Watch

NO_PARAMETERS: Final[Mapping[str, object]] = MappingProxyType({})


class Transaction:
    """One open transaction. Belongs to the task that runs it, and every method raises RuntimeError after its end.

    An error of the database ends it: whoever catches one can do nothing more here, and `run` raises it again.
    """

    def __init__(self, connection: Connection, pipeline: psycopg.AsyncPipeline) -> None:
        """Take over a connection on which a transaction has begun."""
        self._pipeline = pipeline
        self._connection: Connection | None = connection
        self._effects: list[Effect] = []
        self._is_unchanged = False
        self._failure: psycopg.Error | None = None

    async def fetch_all(
        self, query: LiteralString, params: Mapping[str, object] = NO_PARAMETERS
    ) -> list[dict[str, Any]]:
        """Run one query with `%(name)s` parameters and return its rows. A literal percent sign is written `%%`."""
        connection = self._usable(query)
        try:
            cursor = await connection.execute(query, params)
            return await cursor.fetchall()
        except psycopg.Error as error:
            self._failure = self._failure or error
            raise

    async def check_context(self) -> None:
        """See to it, before it commits, that the transaction is still whose it was made. Raises BreachError."""

    async def fetch_one(
        self, query: LiteralString, params: Mapping[str, object] = NO_PARAMETERS
    ) -> dict[str, Any] | None:
        """Run one query and return its row, or None. Raises ValueError for more than one."""
        rows = await self.fetch_all(query, params)
        if len(rows) > 1:
            message = f"{len(rows)} rows where at most one was expected"
            raise ValueError(message)
        return rows[0] if rows else None

    async def execute(self, query: LiteralString, params: Mapping[str, object] = NO_PARAMETERS) -> int:
        """Run one query and return how many rows it wrote or found."""
        connection = self._usable(query)
        try:
            cursor = await connection.execute(query, params)
            await self._pipeline.sync()
        except psycopg.Error as error:
            self._failure = self._failure or error
            raise
        return cursor.rowcount

    def record(self, effect: Effect) -> None:
        """Say what the transaction did, for the audit log."""
        self._open()
        self._effects.append(effect)

    def unchanged(self) -> None:
        """Say that the transaction has no effect, such as a repeated request: the audit log gets nothing."""
        self._open()
        self._is_unchanged = True

    @property
    def effects(self) -> Sequence[Effect] | None:
        """What was recorded; None where the transaction said that it has no effect."""
        return None if self._is_unchanged else self._effects

    def check_sound(self) -> None:
        """Raise the error that ended the transaction, if one did: COMMIT would silently do nothing."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Make every later use an error. Called by the handle; safe to call twice."""
        self._connection = None

    def _usable(self, query: str) -> Connection:
        connection = self._open()
        self.check_sound()
        check_statement(query)
        return connection

    def _open(self) -> Connection:
        if self._connection is None:
            message = "the transaction is over"
            raise RuntimeError(message)
        return self._connection


class TenantTransaction(Transaction):
    """A transaction that sees one tenant's rows. A row with another tenant's marker ends it (BreachError)."""

    def __init__(
        self,
        connection: Connection,
        pipeline: psycopg.AsyncPipeline,
        *,
        placement: Placement,
        watch: Watch | None = None,
    ) -> None:
        """Take over a connection that has taken on the tenant's role, or one that `watch` cannot look at."""
        super().__init__(connection, pipeline)
        self.placement = placement
        self._watch = watch

    @override
    async def fetch_all(
        self, query: LiteralString, params: Mapping[str, object] = NO_PARAMETERS
    ) -> list[dict[str, Any]]:
        rows = await super().fetch_all(query, params)
        if self._watch is not None:
            self._watch.look_at(rows, own=self.placement.uid, channel="row")
        return rows

    @override
    async def check_context(self) -> None:
        if self._watch is not None and self._watch.is_due():
            rows = await super().fetch_all(WHOSE)
            self._watch.look_at(rows, own=self.placement.uid, channel="context")


class SystemTransaction(Transaction):
    """A transaction in the registry and the platform's other tables; it reads no tenant's rows."""

    @property
    def connection(self) -> Connection:
        """The connection itself, to queue a job in this transaction, and for nothing else: nothing checks its SQL."""
        return self._open()

    async def enter(self, placement: Placement) -> None:
        """From now on the names of a tenant's tables mean this tenant's, so that its audit log can be written."""
        connection = self._open()
        for statement in (
            sql.SQL("SET LOCAL search_path = pg_catalog, csm_system, csm_jobs, {}, pg_temp").format(
                sql.Identifier(placement.schema)
            ),
            sql.SQL("SET LOCAL app.tenant_id = {}").format(sql.Literal(str(placement.uid))),
        ):
            await connection.execute(statement)
