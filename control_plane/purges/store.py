"""Who is to be purged, and what the database has of them. The tables are found by the database itself."""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from control_plane.ids import TenantId
from control_plane.postgres.database import SystemTransaction

KIND: Final = "tenants.purge"
"""The kind of the operations that purge. The database knows it, too: it keeps these."""


async def running(tx: SystemTransaction) -> int:
    """Count the purges that are under way."""
    row = await tx.fetch_one(
        "SELECT count(*) AS running FROM csm_system.operations WHERE kind = %(kind)s AND state = 'RUNNING'",
        {"kind": KIND},
    )
    return 0 if row is None else int(row["running"])


async def due(
    tx: SystemTransaction, *, now: datetime, again_after: timedelta, limit: int, only: TenantId | None = None
) -> list[TenantId]:
    """List tenants whose waiting period is over, or whose purge has failed so long ago; the first ones first.

    With `only` it is that one, if it is due.
    """
    rows = await tx.fetch_all(
        """
        SELECT t.id FROM csm_system.tenants AS t
         WHERE t.deletion IN ('PENDING_DELETION', 'PURGING') AND t.purge_time <= %(now)s
           AND (%(only)s::text IS NULL OR t.id = %(only)s)
           AND NOT EXISTS (
               SELECT FROM csm_system.operations AS o
                WHERE o.tenant_id = t.id AND o.tenant_uid = t.uid AND o.kind = %(kind)s
                  AND (o.state = 'RUNNING' OR o.end_time > %(now)s - %(again_after)s))
         ORDER BY t.purge_time LIMIT %(limit)s
        """,
        {"kind": KIND, "now": now, "again_after": again_after, "limit": limit, "only": only},
    )
    return [TenantId(row["id"]) for row in rows]


async def purge_rows(tx: SystemTransaction, tenant_uid: UUID) -> None:
    """Delete all rows of the registry that are of a tenant which is being purged, but the proofs of what was destroyed.

    The database refuses that for any other tenant.
    """
    await tx.execute("SELECT csm_system.purge_rows(%(uid)s)", {"uid": tenant_uid})


async def residue(tx: SystemTransaction, tenant_uid: UUID) -> list[str]:
    """Name what the database still has of a tenant, and ought not to have after its purge."""
    rows = await tx.fetch_all("SELECT csm_system.residue(%(uid)s) AS found", {"uid": tenant_uid})
    return [str(row["found"]) for row in rows]
