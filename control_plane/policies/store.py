"""SQL of the policy feed, of how far the edges are, and of what they report."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from control_plane.errors import UnavailableError
from control_plane.keys.model import Purpose
from control_plane.policies.model import (
    Access,
    Changes,
    Edge,
    Position,
    Purged,
    Report,
    Revocation,
    TenantPolicy,
    Usage,
)
from control_plane.postgres.database import SystemTransaction
from control_plane.tenants.model import requests_per_minute
from control_plane.tenants.store import rate_limits

# At once in memory as rows, and without a pause of the loop.
_PAGE: Final = 500

CHANNEL: Final = "bulkhead_revision"
"""Where each commit with an effect at the edge is called out."""


async def head(tx: SystemTransaction) -> Position:
    """Return the newest revision that is committed. It does not go back: see `forget_revocations`."""
    row = await tx.fetch_one(
        """
        SELECT id::text AS feed,
               greatest((SELECT max(edge_revision) FROM csm_system.tenants),
                        (SELECT max(revision) FROM csm_system.edge_revocations), 0) AS revision
          FROM csm_system.edge_feed
        """
    )
    if row is None:
        raise UnavailableError("the database has no feed", reason="FEED_MISSING")
    return Position(**row)


async def changes(tx: SystemTransaction, after: int | None, *, to: Position, as_of: datetime) -> Changes:
    """Read what came after the revision; None reads everything. `tx` is to see one moment, that of `to`."""
    revision = after or 0
    return Changes(
        head=to,
        is_snapshot=after is None,
        policies=await _policies(tx, revision) if revision < to.revision else [],
        purged=await _purged(tx, after) if after is not None and after < to.revision else [],
        revocations=await _revocations(tx, revision) if revision < to.revision else [],
        as_of=as_of,
    )


async def _policies(tx: SystemTransaction, after: int) -> list[TenantPolicy]:
    found: list[TenantPolicy] = []
    while True:
        rows = await tx.fetch_all(
            """
            SELECT t.id, t.uid, t.edge_revision, t.state, t.tier, t.isolation, t.dns_label, t.domains,
                   t.requests_per_minute, t.max_policy_age, t.units_per_second, t.units_per_minute, t.units_per_hour,
                   t.units_per_day, t.units_per_month, t.billing_day, t.time_zone, k.kids, k.publics
              FROM csm_system.tenants AS t
             CROSS JOIN LATERAL (
                   SELECT array_agg(id) AS kids, array_agg(public) AS publics
                     FROM csm_system.tenant_keys
                    WHERE tenant_uid = t.uid AND purpose = %(purpose)s AND state = 'ENABLED' AND public IS NOT NULL
                   ) AS k
             WHERE t.edge_revision > %(after)s AND t.deletion IS DISTINCT FROM 'PURGED'
             ORDER BY t.edge_revision
             LIMIT %(limit)s
            """,
            {"after": after, "purpose": Purpose.TOKENS.value, "limit": _PAGE},
        )
        found += [_policy(row) for row in rows]
        if len(rows) < _PAGE:
            return found
        after = found[-1].revision


async def _purged(tx: SystemTransaction, after: int) -> list[Purged]:
    rows = await tx.fetch_all(
        """
        SELECT id AS tenant_id, edge_revision AS revision FROM csm_system.tenants
         WHERE edge_revision > %(after)s AND deletion = 'PURGED' ORDER BY edge_revision
        """,
        {"after": after},
    )
    return [Purged(**row) for row in rows]


async def _revocations(tx: SystemTransaction, after: int) -> list[Revocation]:
    rows = await tx.fetch_all(
        """
        SELECT token_id, tenant_uid, expire_time, revision
          FROM csm_system.edge_revocations
         WHERE revision > %(after)s AND expire_time > now()
         ORDER BY revision
        """,
        {"after": after},
    )
    return [Revocation(**row) for row in rows]


async def forget_revocations(tx: SystemTransaction) -> None:
    """Delete revocations whose tokens have expired; not the newest of all changes, which is the head of the feed."""
    await tx.execute(
        """
        DELETE FROM csm_system.edge_revocations
         WHERE expire_time < now() - interval '1 hour'
           AND revision < greatest((SELECT max(edge_revision) FROM csm_system.tenants),
                                   (SELECT max(revision) FROM csm_system.edge_revocations))
        """
    )


async def acknowledge(tx: SystemTransaction, name: str, *, position: Position, proxies: bytes) -> None:
    """Keep how far the edge is, by the database's clock."""
    await tx.execute(
        """
        INSERT INTO csm_system.edges (name, feed, revision, last_seen, proxies)
        VALUES (%(name)s, %(feed)s, %(revision)s, clock_timestamp(), %(proxies)s)
        ON CONFLICT (name) DO UPDATE
           SET feed = excluded.feed, revision = excluded.revision, last_seen = excluded.last_seen,
               proxies = excluded.proxies
        """,
        {"name": name, "feed": position.feed, "revision": position.revision, "proxies": proxies},
    )


async def edges(tx: SystemTransaction, *, with_proxies: bool) -> list[Edge]:
    """List the edges by name; without their proxies for who looks often."""
    rows = await tx.fetch_all(
        """
        SELECT name, feed, revision, last_seen, last_seen > clock_timestamp() - interval '10 seconds' AS is_live,
               CASE WHEN %(with_proxies)s THEN proxies ELSE ''::bytea END AS proxies
          FROM csm_system.edges
         ORDER BY name
        """,
        {"with_proxies": with_proxies},
    )
    return [
        Edge(
            name=row["name"],
            position=Position(feed=row["feed"], revision=row["revision"]),
            is_live=row["is_live"],
            last_seen=row["last_seen"],
            proxies=bytes(row["proxies"]),
        )
        for row in rows
    ]


async def forget_edges(tx: SystemTransaction) -> None:
    """Delete the edges that were not heard of for a day, and the reporters that were not for a month.

    What an edge has on disk comes again when it is back: so long it is known what of that was counted.
    """
    await tx.execute("DELETE FROM csm_system.edges WHERE last_seen < now() - interval '1 day'")
    await tx.execute("DELETE FROM csm_system.edge_reports WHERE last_time < now() - interval '31 days'")


async def is_counted(tx: SystemTransaction, report: Report) -> bool:
    """Say whether the report was counted before."""
    row = await tx.fetch_one(
        "SELECT FROM csm_system.edge_reports WHERE reporter = %(reporter)s AND sequence >= %(sequence)s",
        {"reporter": report.reporter, "sequence": report.sequence},
    )
    return row is not None


async def begin_count(tx: SystemTransaction, report: Report) -> bool:
    """Take the report's turn; False when it was counted before. Until the end its reporter's other reports wait."""
    return (
        await tx.execute(
            """
            INSERT INTO csm_system.edge_reports AS r (reporter, sequence, last_time)
            VALUES (%(reporter)s, %(sequence)s, now())
            ON CONFLICT (reporter) DO UPDATE SET sequence = excluded.sequence, last_time = excluded.last_time
             WHERE r.sequence < excluded.sequence
            """,
            {"reporter": report.reporter, "sequence": report.sequence},
        )
        == 1
    )


async def add_usage(tx: SystemTransaction, usage: Sequence[Usage]) -> None:
    """Add to what the tenants have used, but for purged ones, in an order that is the same for all reporters."""
    await tx.execute(
        """
        INSERT INTO csm_system.edge_usage AS u (tenant_uid, method, minute, admitted, limited, cost)
        SELECT tenant_uid, method, minute, sum(admitted), sum(limited), sum(cost)
          FROM unnest(%(tenant_uids)s::uuid[], %(methods)s::text[], %(minutes)s::timestamptz[], %(admitted)s::bigint[],
                      %(limited)s::bigint[], %(costs)s::bigint[])
               AS counted (tenant_uid, method, minute, admitted, limited, cost)
         WHERE NOT EXISTS (SELECT FROM csm_system.tenants AS t
                            WHERE t.uid = counted.tenant_uid AND t.deletion IN ('PURGING', 'PURGED'))
         GROUP BY tenant_uid, method, minute
         ORDER BY tenant_uid, method, minute
        ON CONFLICT (tenant_uid, method, minute) DO UPDATE
           SET admitted = u.admitted + excluded.admitted, limited = u.limited + excluded.limited,
               cost = u.cost + excluded.cost
        """,
        {
            "tenant_uids": [one.tenant_uid for one in usage],
            "methods": [one.method for one in usage],
            "minutes": [one.minute for one in usage],
            "admitted": [one.admitted for one in usage],
            "limited": [one.limited for one in usage],
            "costs": [one.cost for one in usage],
        },
    )


async def add_accesses(tx: SystemTransaction, accesses: Sequence[Access]) -> None:
    """Add to how often credentials of tenants that are not purged were let through, in an order as above."""
    await tx.execute(
        """
        INSERT INTO csm_system.edge_accesses AS a (tenant_uid, credential, lease_class, minute, admitted)
        SELECT tenant_uid, credential, lease_class, minute, sum(admitted)
          FROM unnest(%(tenant_uids)s::uuid[], %(credentials)s::uuid[], %(classes)s::text[],
                      %(minutes)s::timestamptz[], %(admitted)s::bigint[])
               AS counted (tenant_uid, credential, lease_class, minute, admitted)
         WHERE NOT EXISTS (SELECT FROM csm_system.tenants AS t
                            WHERE t.uid = counted.tenant_uid AND t.deletion IN ('PURGING', 'PURGED'))
         GROUP BY tenant_uid, credential, lease_class, minute
         ORDER BY tenant_uid, minute, credential, lease_class
        ON CONFLICT (tenant_uid, minute, credential, lease_class) DO UPDATE
           SET admitted = a.admitted + excluded.admitted
        """,
        {
            "tenant_uids": [one.tenant_uid for one in accesses],
            "credentials": [one.credential for one in accesses],
            "classes": [one.lease_class for one in accesses],
            "minutes": [one.minute for one in accesses],
            "admitted": [one.admitted for one in accesses],
        },
    )


async def forget_accesses(tx: SystemTransaction) -> None:
    """Delete what credentials did more than a week ago."""
    await tx.execute("DELETE FROM csm_system.edge_accesses WHERE minute < now() - interval '7 days'")


async def tenant_ids(tx: SystemTransaction, uids: Collection[UUID]) -> Mapping[UUID, str]:
    """Return the ids of the tenants of these uids; one that is no tenant's is left out."""
    rows = await tx.fetch_all("SELECT uid, id FROM csm_system.tenants WHERE uid = ANY(%(uids)s)", {"uids": list(uids)})
    return {row["uid"]: row["id"] for row in rows}


def _policy(row: Mapping[str, Any]) -> TenantPolicy:
    keys: dict[UUID, bytes] = dict(zip(row["kids"] or (), map(bytes, row["publics"] or ()), strict=True))
    return TenantPolicy(
        tenant_id=row["id"],
        uid=row["uid"],
        revision=row["edge_revision"],
        state=row["state"],
        tier=row["tier"],
        isolation_level=row["isolation"],
        dns_label=row["dns_label"],
        domains=tuple(row["domains"]),
        requests_per_minute=requests_per_minute(row["tier"], row["requests_per_minute"]),
        token_keys=keys,
        max_policy_age=row["max_policy_age"],
        rate_limits=rate_limits(row),
        billing_day=row["billing_day"],
        time_zone=row["time_zone"],
    )
