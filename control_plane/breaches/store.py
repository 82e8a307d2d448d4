"""csm_system.breaches."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from control_plane.breaches.model import Breach, Kind
from control_plane.postgres.database import SystemTransaction


async def add(tx: SystemTransaction, breach: Breach) -> None:
    """Insert the breach, or add to the one with its id. To be called once for each counting: it adds."""
    await tx.execute(
        """
        INSERT INTO csm_system.breaches AS b
               (id, owner_uid, finder_uid, channel, method, request_id, count, first_time, last_time)
        VALUES (%(id)s, %(owner_uid)s, %(finder_uid)s, %(channel)s, %(method)s, %(request_id)s, %(count)s,
                %(first_time)s, %(last_time)s)
        ON CONFLICT (id) DO UPDATE SET count = b.count + excluded.count, last_time = excluded.last_time
        """,
        {
            "id": breach.id,
            "owner_uid": breach.kind.owner_uid,
            "finder_uid": breach.kind.finder_uid,
            "channel": breach.kind.channel,
            "method": breach.kind.method,
            "request_id": breach.request_id,
            "count": breach.count,
            "first_time": breach.first_time,
            "last_time": breach.last_time,
        },
    )


async def list_page(tx: SystemTransaction, *, before: UUID, limit: int) -> list[Breach]:
    """Return breaches, the newest first, from before `before` on."""
    rows = await tx.fetch_all(
        """
        SELECT b.id, owner_uid, finder_uid, channel, method, request_id, count, first_time, last_time,
               coalesce('tenants/' || owner.id, 'uids/' || owner_uid) AS owner,
               coalesce('tenants/' || finder.id, 'uids/' || finder_uid, '') AS finder
          FROM csm_system.breaches AS b
          LEFT JOIN csm_system.tenants AS owner ON owner.uid = owner_uid
          LEFT JOIN csm_system.tenants AS finder ON finder.uid = finder_uid
         WHERE b.id < %(before)s
         ORDER BY b.id DESC
         LIMIT %(limit)s
        """,
        {"before": before, "limit": limit},
    )
    return [_breach(row) for row in rows]


def _breach(row: Mapping[str, Any]) -> Breach:
    kind = Kind(owner_uid=row["owner_uid"], finder_uid=row["finder_uid"], channel=row["channel"], method=row["method"])
    return Breach(
        id=row["id"],
        kind=kind,
        count=row["count"],
        request_id=row["request_id"],
        first_time=row["first_time"],
        last_time=row["last_time"],
        owner=row["owner"],
        finder=row["finder"],
    )
