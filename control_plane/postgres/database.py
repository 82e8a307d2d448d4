"""The database as the rest of the process sees it: handles to one tenant's rows, or to the registry.

A handle is the only way to SQL. There is no other path from a servicer to a connection, and none without a tenant to a
tenant's rows.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from control_plane.canary import Canaries
from control_plane.errors import UnavailableError
from control_plane.postgres.effects import BeforeCommit
from control_plane.postgres.handles import (
    Isolation,
    Retries,
    Runner,
    SystemHandle,
    TenantHandle,
    sealer_entrance,
    snapshot_entrance,
    system_entrance,
    tenant_entrance,
    unavailability_told,
)
from control_plane.postgres.placement import Placement
from control_plane.postgres.pools import Connection, Passwords, Pool, PostgresSettings, no_passwords
from control_plane.postgres.transactions import SystemTransaction, TenantTransaction
from control_plane.postgres.watch import Watch

__all__ = [
    "Database",
    "Isolation",
    "PostgresSettings",
    "Retries",
    "SystemHandle",
    "SystemTransaction",
    "TenantHandle",
    "TenantTransaction",
]

DDL_ROLE = "csm_ddl"


class Database:
    """The database of one cell. Opened by `open`; its connections are made when they are needed."""

    def __init__(
        self, settings: PostgresSettings, *, passwords: Passwords = no_passwords, retries: Retries | None = None
    ) -> None:
        """Prepare; nothing is opened. Strict tenants' own roles log in with `passwords`."""
        self._settings = settings
        self._retries = retries or Retries()
        self._tenants = Pool(settings, limit=settings.tenant_pool_size, passwords=passwords, is_weighed=True)
        self._platform = Pool(settings, limit=settings.system_pool_size)
        self._watch = Watch(Canaries(settings.canary_key))

    @classmethod
    @asynccontextmanager
    async def open(
        cls, settings: PostgresSettings, *, passwords: Passwords = no_passwords, retries: Retries | None = None
    ) -> AsyncIterator[Self]:
        """Use the database until the block ends. A server that is away is told by the first use, not here."""
        database = cls(settings, passwords=passwords, retries=retries)
        pools = database._tenants, database._platform
        sweeping = [asyncio.create_task(pool.sweep()) for pool in pools]
        try:
            yield database
        finally:
            for task in sweeping:
                task.cancel()
            await asyncio.wait(sweeping)
            for pool in pools:
                await pool.close()

    def tenant(
        self, placement: Placement, *, isolation: Isolation, before_commit: BeforeCommit | None = None
    ) -> TenantHandle:
        """Give a handle to one tenant's rows. Costs nothing: connections are leased by `run`."""
        return TenantHandle(
            placement=placement,
            _runner=Runner(
                pool=self._tenants,
                entrance=tenant_entrance(placement, isolation),
                before_commit=before_commit,
                retries=self._retries,
            ),
            _watch=self._watch,
        )

    @property
    def canaries(self) -> Canaries:
        """What makes and recognises the markers in this database."""
        return self._watch.canaries

    def system(self, *, before_commit: BeforeCommit | None = None) -> SystemHandle:
        """Give a handle to the registry, with the rights of this process's role."""
        return SystemHandle(
            _runner=Runner(
                pool=self._platform,
                entrance=system_entrance(self._settings.system_role),
                before_commit=before_commit,
                retries=self._retries,
            )
        )

    def snapshot(self) -> SystemHandle:
        """Give a handle that reads the registry as it is at one moment, and changes nothing."""
        return SystemHandle(
            _runner=Runner(
                pool=self._platform,
                entrance=snapshot_entrance(self._settings.system_role),
                before_commit=None,
                retries=self._retries,
            )
        )

    def sealer(self, placement: Placement) -> TenantHandle:
        """Give a handle with which one tenant's audit log can be read, and its seals read and written."""
        return TenantHandle(
            placement=placement,
            _runner=Runner(
                pool=self._platform, entrance=sealer_entrance(placement), before_commit=None, retries=self._retries
            ),
        )

    @asynccontextmanager
    async def bare(self, placement: Placement) -> AsyncIterator[Connection]:
        """Lend a session of the tenant's login, before any transaction. For `probing` alone: nothing checks its SQL."""
        async with self._tenants.lease(placement.login, placement) as connection:
            yield connection

    def entrance(self, placement: Placement) -> tuple[bytes, ...]:
        """Return what a transaction of the tenant's begins with. For `probing` alone."""
        return tenant_entrance(placement, Isolation.READ_COMMITTED).statements

    @asynccontextmanager
    async def ddl(self) -> AsyncIterator[Connection]:
        """Open a transaction in which tenants' schemas are made and dropped. For `tenancy` alone.

        Raises:
            UnavailableError: the database is away, or a lock did not come free within the role's time-out.
        """
        with unavailability_told():
            async with self._platform.lease(DDL_ROLE) as connection, connection.transaction():
                yield connection

    async def check(self, version: int) -> None:
        """Raise UnavailableError unless the database answers, and the platform's schema has this version or more."""

        async def read(tx: SystemTransaction) -> int:
            row = await tx.fetch_one("SELECT max(version) AS version FROM csm_system.schema_migrations")
            return int(row["version"] or 0) if row else 0

        found = await self.system().run(read)
        if found < version:
            message = f"the database's schema has version {found}, and {version} is needed"
            raise UnavailableError(message, reason="SCHEMA_TOO_OLD")
