"""Brings every tenant's tables to this code's version: one tenant a transaction, a few at once, the used ones first.

A reconciler: it takes no input but hints, reads what is there, and may be killed, repeated, or run beside others at any
moment. Where everybody is up to date, a look is one query, however many tenants there are. A tenant whose tables cannot
be changed now is tried again later, ever more seldom; the others do not wait for it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final
from uuid import UUID

import psycopg
import structlog

from control_plane.errors import TenantSealedError, UnavailableError
from control_plane.postgres.database import Database, SystemTransaction
from control_plane.postgres.directory import SELECT_PLACEMENTS
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas import tenancy
from control_plane.postgres.schemas.migrations import MigrationError

CHANNEL: Final = "bulkhead_schema"
"""Where a process calls out the uid of a tenant that somebody waits for."""

# More of them would wait for each other: the server's catalogues are what they all write to.
_AT_ONCE: Final = 2
_PAGE: Final = 100
_EVERY: Final = timedelta(seconds=30)
_RETRY: Final = timedelta(seconds=1)
_LONGEST_FAILURE: Final = 500

_log: Final = structlog.get_logger("postgres.upgrades")

Notified = Callable[[], AsyncIterator[str]]
Logins = Callable[[Placement], Awaitable[tenancy.Login]]
"""Tells what a strict tenant's own role is to log in with. MAY raise UnavailableError and TenantSealedError."""


class SchemaUpgrades:
    """Upgrades the tenants of one cell, while `run` runs."""

    def __init__(self, database: Database, *, logins: Logins, notified: Notified) -> None:
        """Look at once, when `notified` names somebody, and each half minute."""
        self._database = database
        self._logins = logins
        self._notified = notified
        self._urgent = asyncio.Semaphore(_AT_ONCE)

    async def ensure(self, placement: Placement) -> None:
        """Bring one tenant's tables up to date, before all others.

        Raises:
            UnavailableError: it cannot be done now.
        """
        async with self._urgent:
            is_done = await self._try(placement)
        if not is_done:
            raise UnavailableError("the tenant's tables cannot be changed now", reason="SCHEMA_UPGRADING")

    async def run(self) -> None:
        """Upgrade whoever is due until cancelled, through every loss of the database."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._hear())
            while True:
                try:
                    while await self.round():
                        pass
                except UnavailableError as error:
                    _log.info("upgrades_put_off", reason=error.code)
                    await asyncio.sleep(_RETRY.total_seconds())
                else:
                    await asyncio.sleep(_EVERY.total_seconds())

    async def round(self) -> int:
        """Upgrade some of those that are due; return how many were."""
        due = await self._database.system().run(_due)
        left = iter(due)

        async def work() -> int:
            return sum([await self._try(placement) for placement in left])

        upgraded = sum(await asyncio.gather(*(work() for _ in range(_AT_ONCE))))
        if due:
            _log.info("schemas_upgraded", upgraded=upgraded, failed=len(due) - upgraded)
        return len(due)

    async def _try(self, placement: Placement) -> bool:
        """Upgrade one; note where that fails, and say so."""
        try:
            login = await self._logins(placement) if placement.is_strict else None
            await tenancy.create_tenant_schema(self._database, placement, login=login)
        except (MigrationError, psycopg.Error, TenantSealedError, UnavailableError) as error:
            _log.warning("schema_upgrade_failed", tenant=placement.tenant_id, error=str(error))
            failure = str(error)[:_LONGEST_FAILURE]
            await self._database.system().run(lambda tx: _note_failure(tx, placement.uid, failure=failure))
            return False
        return True

    async def _hear(self) -> None:
        while True:
            with suppress(UnavailableError):
                async for heard in self._notified():
                    # What was called out while nobody listened is found by those who call out again.
                    if heard:
                        await self._upgrade_uid(heard)
            await asyncio.sleep(_RETRY.total_seconds())

    async def _upgrade_uid(self, uid: str) -> None:
        placement = await self._database.system().run(lambda tx: _find(tx, uid))
        if placement is not None:
            with suppress(UnavailableError):
                await self.ensure(placement)


class Elsewhere:
    """Has tenants upgraded by another process, which has the rights to."""

    def __init__(self, database: Database) -> None:
        """Call out in this database."""
        self._database = database

    async def ensure(self, placement: Placement) -> None:
        """Call out that somebody waits for this tenant. Does not wait until it is done."""
        await self._database.system().run(lambda tx: _call_out(tx, placement.uid))


async def _due(tx: SystemTransaction) -> list[Placement]:
    rows = await tx.fetch_all(
        SELECT_PLACEMENTS  # noqa: S608 two constants
        + """
         WHERE uid IN (SELECT tenant_uid FROM csm_system.tenant_schemas
                        WHERE version < %(version)s AND retry_time <= now()
                          AND tenant_uid NOT IN (SELECT uid FROM csm_system.tenants WHERE state = 'SEALED')
                        ORDER BY version, retry_time LIMIT %(limit)s)
        """,
        {"version": tenancy.TENANT_VERSION, "limit": _PAGE},
    )
    return [Placement.of(row) for row in rows]


async def _note_failure(tx: SystemTransaction, uid: UUID, *, failure: str) -> None:
    """Put the tenant off: a second at first, an hour at most."""
    await tx.execute(
        """
        UPDATE csm_system.tenant_schemas
           SET failure = %(failure)s, failures = failures + 1,
               retry_time = now() + least(interval '1 second' * 2 ^ least(failures, 12), interval '1 hour')
         WHERE tenant_uid = %(uid)s
        """,
        {"uid": uid, "failure": failure},
    )


async def _find(tx: SystemTransaction, uid: str) -> Placement | None:
    row = await tx.fetch_one(SELECT_PLACEMENTS + " WHERE uid::text = %(uid)s", {"uid": uid})
    return None if row is None else Placement.of(row)


async def _call_out(tx: SystemTransaction, uid: UUID) -> None:
    await tx.execute("SELECT pg_notify('bulkhead_schema', %(uid)s)", {"uid": str(uid)})
