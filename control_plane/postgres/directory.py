"""Which tenants there are, where their rows live, and whether they are served. Kept in memory for a moment."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, LiteralString
from uuid import UUID

from control_plane.errors import UnavailableError
from control_plane.ids import tenant_id_violation
from control_plane.postgres.database import Database, SystemTransaction
from control_plane.postgres.placement import Placement

MAXIMUM_AGE: Final = timedelta(seconds=1)
"""How long after its commit a suspension, or a seal, may go unnoticed in another process."""
SEALED: Final = "SEALED"
"""The state of a tenant of which nothing is opened for anybody."""
_MOST_TENANTS: Final = 10_000
_SERVED: Final = "ACTIVE"
_PAGE: Final = 1_000
# A caller waits two seconds for its tenant's tables, and is told to come again.
_UPGRADE_LOOKS: Final = 40
_UPGRADE_LOOK_S: Final = 0.05

SELECT_PLACEMENTS: Final[LiteralString] = """
SELECT number, id, uid, state, schema_name, role_name, login_role, min_connections, max_connections, is_serializable,
       cache_bytes, (SELECT version FROM csm_system.tenant_schemas WHERE tenant_uid = uid) AS schema_version
  FROM csm_system.tenants
"""
"""What `Placement.of` reads, and a bit more; to be followed by a condition."""
_BY_ID: Final = SELECT_PLACEMENTS + " WHERE id = %(key)s"
_BY_UID: Final = SELECT_PLACEMENTS + " WHERE uid = %(key)s"
_ALL_AFTER: Final = SELECT_PLACEMENTS + (
    " WHERE number > %(after)s AND (deletion IS NULL OR deletion = 'PENDING_DELETION') ORDER BY number LIMIT %(limit)s"
)
_AFTER: Final = (
    SELECT_PLACEMENTS + " WHERE number > %(after)s AND state <> 'PROVISIONING' ORDER BY number LIMIT %(limit)s"
)


Upgrade = Callable[[Placement], Awaitable[None]]
"""Brings a tenant's tables up to date, or sees to it that somebody does soon. May raise UnavailableError."""


async def no_upgrade(placement: Placement) -> None:
    """Leave the tables as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A tenant as the registry had it at most `MAXIMUM_AGE` ago."""

    placement: Placement
    state: str
    """`PROVISIONING`, `ACTIVE`, `SUSPENDED`, `READ_ONLY` or `SEALED`."""
    schema_version: int
    """Of its tables; 0 where there are none."""


class Directory:
    """Looks tenants up. Who is served, or sealed, is remembered for `MAXIMUM_AGE`; all else is asked for again.

    A sealed one's callers may come in crowds, and are not to cost a query each. Since all else is asked for again, a
    tenant that is created or reactivated is served at once, and the edge can say when. A tenant whose tables are
    older than the code is not found before they have been brought up to date; a sealed one's are left as they are.
    """

    def __init__(
        self,
        database: Database,
        *,
        version: int = 0,
        upgrade: Upgrade = no_upgrade,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember nothing yet. Have tables with a lower version than this one upgraded by `upgrade`."""
        self._database = database
        self._version = version
        self._upgrade = upgrade
        self._clock = clock
        # With the time of each reading; the oldest first.
        self._by_id: OrderedDict[str, tuple[float, Entry]] = OrderedDict()
        self._id_by_uid: dict[UUID, str] = {}

    async def find(self, tenant_id: str) -> Entry | None:
        """Find a tenant by its id. Any text may be asked for.

        Raises:
            UnavailableError: its tables are not up to date yet; or the database is away.
        """
        if tenant_id_violation(tenant_id):
            return None
        return self._remembered(tenant_id) or await self._up_to_date(_BY_ID, tenant_id)

    async def find_uid(self, uid: UUID) -> Entry | None:
        """Find a tenant by its uid. Raises like `find`."""
        return self._remembered(self._id_by_uid.get(uid, "")) or await self._up_to_date(_BY_UID, uid)

    def forget(self, tenant_id: str) -> None:
        """Read the tenant anew next time. For whoever has just changed it."""
        _, entry = self._by_id.pop(tenant_id, (0.0, None))
        if entry is not None:
            del self._id_by_uid[entry.placement.uid]

    def placements(self) -> AsyncIterator[Placement]:
        """Go through all tenants that have a schema, in the order of their making, a page at a time."""
        return self._pages(_AFTER)

    def everyone(self) -> AsyncIterator[Placement]:
        """Go through all tenants of the registry, also those in the making, and no purged ones, in the same way."""
        return self._pages(_ALL_AFTER)

    async def _pages(self, query: LiteralString) -> AsyncIterator[Placement]:
        after = 0
        while True:
            rows = await self._page(query, after)
            for row in rows:
                yield _entry(row).placement
            if len(rows) < _PAGE:
                return
            after = rows[-1]["number"]

    async def _page(self, query: LiteralString, after: int) -> list[dict[str, Any]]:
        async def read(tx: SystemTransaction) -> list[dict[str, Any]]:
            return await tx.fetch_all(query, {"after": after, "limit": _PAGE})

        return await self._database.system().run(read)

    def _remembered(self, tenant_id: str) -> Entry | None:
        read_at, entry = self._by_id.get(tenant_id, (float("-inf"), None))
        return entry if self._clock() - read_at < MAXIMUM_AGE.total_seconds() else None

    async def _up_to_date(self, query: LiteralString, key: str | UUID) -> Entry | None:
        entry = await self._read(query, key)
        for _ in range(_UPGRADE_LOOKS):
            if entry is None or entry.state == SEALED or not 0 < entry.schema_version < self._version:
                return entry
            self.forget(entry.placement.tenant_id)
            await self._upgrade(entry.placement)
            entry = await self._read(query, key)
            if entry is not None and entry.schema_version < self._version:
                # Somebody else is at it.
                await asyncio.sleep(_UPGRADE_LOOK_S)
        raise UnavailableError("the tenant's tables are being changed", reason="SCHEMA_UPGRADING")

    async def _read(self, query: LiteralString, key: str | UUID) -> Entry | None:
        # From before the query: what it finds may be as old as that.
        read_at = self._clock()

        async def read(tx: SystemTransaction) -> dict[str, Any] | None:
            return await tx.fetch_one(query, {"key": key})

        row = await self._database.system().run(read)
        if row is None:
            return None
        entry = _entry(row)
        self._remember(entry, read_at)
        return entry

    def _remember(self, entry: Entry, read_at: float) -> None:
        known_at, _ = self._by_id.get(entry.placement.tenant_id, (float("-inf"), None))
        if known_at > read_at:
            return
        self.forget(entry.placement.tenant_id)  # the id may have been given to another tenant meanwhile
        if entry.state not in {_SERVED, SEALED}:
            return
        self._by_id[entry.placement.tenant_id] = (read_at, entry)
        self._id_by_uid[entry.placement.uid] = entry.placement.tenant_id
        while len(self._by_id) > _MOST_TENANTS:
            self.forget(next(iter(self._by_id)))


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(placement=Placement.of(row), state=row["state"], schema_version=row["schema_version"] or 0)
