"""csm_system.tenants."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb

from control_plane.ids import TenantId
from control_plane.keys.store import read_certificate_policy
from control_plane.postgres.database import SystemTransaction, TenantTransaction
from control_plane.postgres.directory import SELECT_PLACEMENTS
from control_plane.postgres.placement import Placement
from control_plane.tenants.model import DELETED, Settings, State, Tenant
from control_plane.tenants.rates import RateLimit, Window


async def insert(tx: SystemTransaction, tenant: Tenant) -> bool:
    """Insert the tenant; False when its id, or a name made from it, is taken."""
    return (
        await tx.execute(
            """
            INSERT INTO csm_system.tenants
                (id, uid, display_name, state, tier, isolation, cell, hsm_tier, schema_name, dns_label, labels,
                 admin_email, requests_per_minute, domains, max_policy_age, min_connections, max_connections,
                 is_serializable, cache_bytes, units_per_second, units_per_minute, units_per_hour, units_per_day,
                 units_per_month, billing_day, time_zone, authority_algorithm, key_algorithms, post_quantum,
                 token_algorithm, revision, create_time, update_time)
            VALUES (%(id)s, %(uid)s, %(display_name)s, %(state)s, %(tier)s, %(isolation)s, %(cell)s, %(hsm_tier)s,
                    %(schema_name)s, %(dns_label)s, %(labels)s, %(admin_email)s, %(requests_per_minute)s,
                    %(domains)s::text[], %(max_policy_age)s, %(min_connections)s, %(max_connections)s,
                    %(is_serializable)s, %(cache_bytes)s, %(units_per_second)s, %(units_per_minute)s,
                    %(units_per_hour)s, %(units_per_day)s, %(units_per_month)s, %(billing_day)s, %(time_zone)s,
                    %(authority_algorithm)s, %(key_algorithms)s::text[], %(post_quantum)s, %(token_algorithm)s,
                    %(revision)s, %(create_time)s, %(update_time)s)
            ON CONFLICT DO NOTHING
            """,
            {
                **_settings(tenant),
                "id": tenant.id,
                "uid": tenant.uid,
                "state": tenant.state,
                "isolation": tenant.settings.isolation,
                "cell": tenant.settings.cell,
                "hsm_tier": tenant.settings.hsm_tier,
                "schema_name": tenant.schema,
                "dns_label": tenant.dns_label,
                "revision": tenant.revision,
                "create_time": tenant.create_time,
                "update_time": tenant.update_time,
            },
        )
        == 1
    )


async def find(tx: SystemTransaction, tenant_id: TenantId) -> Tenant | None:
    """Return the tenant, or None."""
    row = await tx.fetch_one("SELECT * FROM csm_system.tenants WHERE id = %(id)s", {"id": tenant_id})
    return None if row is None else _tenant(row)


async def find_for_update(tx: SystemTransaction, tenant_id: TenantId) -> Tenant | None:
    """Return the tenant, held until the transaction ends, or None."""
    row = await tx.fetch_one("SELECT * FROM csm_system.tenants WHERE id = %(id)s FOR UPDATE", {"id": tenant_id})
    return None if row is None else _tenant(row)


async def find_placement(tx: SystemTransaction, tenant_id: TenantId) -> Placement | None:
    """Return where the tenant's rows live, or None."""
    row = await tx.fetch_one(SELECT_PLACEMENTS + " WHERE id = %(id)s", {"id": tenant_id})
    return None if row is None else Placement.of(row)


async def list_page(tx: SystemTransaction, *, after: str, limit: int, with_purged: bool) -> list[Tenant]:
    """Return tenants in the order of their ids, from after `after` on."""
    rows = await tx.fetch_all(
        """
        SELECT * FROM csm_system.tenants
         WHERE id > %(after)s AND (deletion IS DISTINCT FROM 'PURGED' OR %(with_purged)s)
         ORDER BY id LIMIT %(limit)s
        """,
        {"after": after, "limit": limit, "with_purged": with_purged},
    )
    return [_tenant(row) for row in rows]


async def find_taken_domain(tx: SystemTransaction, tenant: Tenant) -> str | None:
    """Return one of the tenant's domains that another tenant has, or None."""
    row = await tx.fetch_one(
        """
        SELECT min(domain) AS domain FROM csm_system.tenant_domains
        WHERE domain = ANY (%(domains)s) AND tenant_uid <> %(uid)s
        """,
        {"domains": list(tenant.settings.domains), "uid": tenant.uid},
    )
    return None if row is None else row["domain"]


async def update(tx: SystemTransaction, tenant: Tenant) -> Tenant:
    """Write what may change, and return the tenant with the revision that the change has at the edge.

    The caller holds the row.
    """
    row = await tx.fetch_one(
        """
        UPDATE csm_system.tenants
        SET display_name = %(display_name)s, tier = %(tier)s, labels = %(labels)s, admin_email = %(admin_email)s,
            requests_per_minute = %(requests_per_minute)s, domains = %(domains)s::text[],
            max_policy_age = %(max_policy_age)s, min_connections = %(min_connections)s,
            max_connections = %(max_connections)s, is_serializable = %(is_serializable)s,
            cache_bytes = %(cache_bytes)s, units_per_second = %(units_per_second)s,
            units_per_minute = %(units_per_minute)s, units_per_hour = %(units_per_hour)s,
            units_per_day = %(units_per_day)s, units_per_month = %(units_per_month)s,
            billing_day = %(billing_day)s, time_zone = %(time_zone)s,
            key_algorithms = %(key_algorithms)s::text[], post_quantum = %(post_quantum)s,
            token_algorithm = %(token_algorithm)s, state = %(state)s, suspend_reason = %(suspend_reason)s,
            deletion = %(deletion)s, delete_time = %(delete_time)s, purge_time = %(purge_time)s,
            -- That there is nothing left of it is news for the edge, too.
            edge_revision = edge_revision + (deletion IS DISTINCT FROM %(deletion)s)::integer,
            revision = %(revision)s, update_time = %(update_time)s
        WHERE id = %(id)s
        RETURNING edge_revision
        """,
        {
            **_settings(tenant),
            "id": tenant.id,
            "state": State.SEALED if tenant.state.is_sealed else tenant.state,
            "deletion": tenant.state if tenant.state in DELETED else None,
            "delete_time": tenant.delete_time,
            "purge_time": tenant.purge_time,
            "suspend_reason": tenant.suspend_reason,
            "revision": tenant.revision,
            "update_time": tenant.update_time,
        },
    )
    if row is None:
        message = f"{tenant.name} is gone, although its row was held"
        raise RuntimeError(message)
    return replace(tenant, edge_revision=row["edge_revision"])


async def read_clock(tx: SystemTransaction) -> datetime:
    """Return the time by the database's clock."""
    row = await tx.fetch_one("SELECT clock_timestamp() AS now")
    if row is None:
        message = "the database does not tell the time"
        raise RuntimeError(message)
    now: datetime = row["now"]
    return now


async def end_transactions(tx: SystemTransaction, placement: Placement, *, begun: datetime) -> int:
    """Tell those transactions of a sealed tenant to end that began before; return how many there were."""
    row = await tx.fetch_one(
        "SELECT csm_system.end_transactions(%(number)s, %(begun)s) AS ended",
        {"number": placement.number, "begun": begun},
    )
    return 0 if row is None else int(row["ended"])


async def delete_unfinished(tx: SystemTransaction, tenant_id: TenantId) -> None:
    """Forget a tenant whose provisioning was taken back; its id is free again."""
    await tx.execute("DELETE FROM csm_system.tenants WHERE id = %(id)s AND state = 'PROVISIONING'", {"id": tenant_id})


async def administrators(tx: TenantTransaction) -> int:
    """Count the administrators that the tenant has, as seen through its own role."""
    row = await tx.fetch_one("SELECT count(*) AS administrators FROM users WHERE role = 'tenant-admin'")
    return 0 if row is None else int(row["administrators"])


def _settings(tenant: Tenant) -> dict[str, object]:
    settings = tenant.settings
    return {
        "display_name": settings.display_name,
        "tier": settings.tier,
        "labels": Jsonb(dict(settings.labels)),
        "admin_email": settings.admin_email or None,
        "requests_per_minute": settings.requests_per_minute,
        "domains": list(settings.domains),
        "max_policy_age": settings.max_policy_age,
        "min_connections": settings.connection_pooling.min_connections,
        "max_connections": settings.connection_pooling.max_connections,
        "is_serializable": settings.connection_pooling.is_serializable,
        "cache_bytes": settings.cache_bytes,
        "billing_day": settings.billing_day,
        "time_zone": settings.time_zone,
        "authority_algorithm": settings.certificate_policy.authority,
        "key_algorithms": sorted(settings.certificate_policy.keys),
        "post_quantum": settings.certificate_policy.post_quantum,
        "token_algorithm": settings.token_algorithm,
        **_units(settings),
    }


def _units(settings: Settings) -> dict[str, int | None]:
    units: dict[str, int] = {limit.window: limit.units for limit in settings.rate_limits}
    return {f"units_per_{window.lower()}": units.get(window) for window in Window}


def rate_limits(row: Mapping[str, Any]) -> tuple[RateLimit, ...]:
    """Return the rate limits of a row of tenants, from the shortest window on."""
    units = {window: row[f"units_per_{window.lower()}"] for window in Window}
    return tuple(RateLimit(window=window, units=most) for window, most in units.items() if most is not None)


def _tenant(row: Mapping[str, Any]) -> Tenant:
    placement = Placement.of(row)
    return Tenant(
        id=TenantId(row["id"]),
        uid=row["uid"],
        state=State(row["deletion"] or row["state"]),
        settings=Settings(
            display_name=row["display_name"],
            tier=row["tier"],
            isolation=row["isolation"],
            hsm_tier=row["hsm_tier"],
            cell=row["cell"],
            labels=row["labels"],
            admin_email=row["admin_email"] or "",
            requests_per_minute=row["requests_per_minute"],
            domains=tuple(row["domains"]),
            max_policy_age=row["max_policy_age"],
            connection_pooling=placement.pooling,
            cache_bytes=placement.cache_bytes,
            rate_limits=rate_limits(row),
            billing_day=row["billing_day"],
            time_zone=row["time_zone"],
            certificate_policy=read_certificate_policy(row),
            token_algorithm=row["token_algorithm"],
        ),
        schema=row["schema_name"],
        dns_label=row["dns_label"],
        revision=row["revision"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        suspend_reason=row["suspend_reason"],
        edge_revision=row["edge_revision"],
        delete_time=row["delete_time"],
        purge_time=row["purge_time"],
    )
