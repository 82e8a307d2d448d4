"""Attestations, and when the next one of each tenant is due."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

from control_plane.isolation.model import Attestation
from control_plane.postgres.database import SystemTransaction
from control_plane.postgres.directory import SELECT_PLACEMENTS
from control_plane.postgres.placement import Placement


async def insert(tx: SystemTransaction, attestation: Attestation) -> None:
    """Keep an attestation."""
    await tx.execute(
        """
        INSERT INTO csm_system.attestations (id, tenant_uid, passed, create_time, payload, signature, key_id)
        VALUES (%(id)s, %(tenant_uid)s, %(passed)s, %(create_time)s, %(payload)s, %(signature)s, %(key_id)s)
        """,
        {
            "id": attestation.id,
            "tenant_uid": attestation.tenant_uid,
            "passed": attestation.passed,
            "create_time": attestation.create_time,
            "payload": attestation.payload,
            "signature": attestation.signature,
            "key_id": attestation.key_id,
        },
    )


async def find(tx: SystemTransaction, tenant_uid: UUID, attestation_id: UUID) -> Attestation | None:
    """Return an attestation of the tenant, or None."""
    row = await tx.fetch_one(
        """
        SELECT id, tenant_uid, passed, create_time, payload, signature, key_id FROM csm_system.attestations
         WHERE tenant_uid = %(tenant_uid)s AND id = %(id)s
        """,
        {"tenant_uid": tenant_uid, "id": attestation_id},
    )
    return None if row is None else _attestation(row)


async def list_page(tx: SystemTransaction, tenant_uid: UUID, *, before: UUID, limit: int) -> list[Attestation]:
    """Return attestations of the tenant, the newest first, from before `before` on."""
    rows = await tx.fetch_all(
        """
        SELECT id, tenant_uid, passed, create_time, payload, signature, key_id FROM csm_system.attestations
         WHERE tenant_uid = %(tenant_uid)s AND id < %(before)s
         ORDER BY id DESC LIMIT %(limit)s
        """,
        {"tenant_uid": tenant_uid, "before": before, "limit": limit},
    )
    return [_attestation(row) for row in rows]


async def find_state(tx: SystemTransaction, tenant_uid: UUID) -> str | None:
    """Return the state of a tenant that has its tables; None for one that is being created, or not there."""
    row = await tx.fetch_one(
        """
        SELECT state FROM csm_system.tenants
         WHERE uid = %(uid)s AND state <> 'PROVISIONING'
           AND EXISTS (SELECT FROM csm_system.tenant_schemas WHERE tenant_uid = uid)
        """,
        {"uid": tenant_uid},
    )
    return None if row is None else str(row["state"])


async def find_neighbour(tx: SystemTransaction, placement: Placement) -> Placement | None:
    """Return another tenant that has tables, and may be asked: the next one by number, or the first."""
    rows = await tx.fetch_all(
        SELECT_PLACEMENTS  # noqa: S608 two constants
        + """
         WHERE uid <> %(uid)s AND state NOT IN ('PROVISIONING', 'SEALED')
           AND EXISTS (SELECT FROM csm_system.tenant_schemas WHERE tenant_uid = uid)
         ORDER BY number < (SELECT number FROM csm_system.tenants WHERE uid = %(uid)s), number LIMIT 1
        """,
        {"uid": placement.uid},
    )
    return Placement.of(rows[0]) if rows else None


async def enrol(tx: SystemTransaction) -> None:
    """Have every tenant that is new verified as soon as may be."""
    await tx.execute(
        """
        INSERT INTO csm_system.verifications (tenant_uid, due_time)
        SELECT uid, now() FROM csm_system.tenants AS t
         WHERE state <> 'PROVISIONING'
           AND EXISTS (SELECT FROM csm_system.tenant_schemas WHERE tenant_uid = t.uid)
           AND NOT EXISTS (SELECT FROM csm_system.verifications WHERE tenant_uid = t.uid)
        ON CONFLICT DO NOTHING
        """
    )


async def take_due(tx: SystemTransaction, *, put_off: timedelta) -> UUID | None:
    """Return the tenant that is due for longest, put off so that nobody else takes it; None where nobody is due.

    Should the taker die, the tenant is due again when the time is over. A sealed tenant is not due.
    """
    row = await tx.fetch_one(
        """
        UPDATE csm_system.verifications SET due_time = now() + %(put_off)s
         WHERE tenant_uid = (SELECT tenant_uid FROM csm_system.verifications WHERE due_time <= now()
                                AND tenant_uid NOT IN (SELECT uid FROM csm_system.tenants WHERE state = 'SEALED')
                              ORDER BY due_time LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING tenant_uid
        """,
        {"put_off": put_off},
    )
    return None if row is None else row["tenant_uid"]


async def put_off(tx: SystemTransaction, *, tenant_uid: UUID, by: timedelta) -> None:
    """Say when the tenant is to be verified next."""
    await tx.execute(
        "UPDATE csm_system.verifications SET due_time = now() + %(by)s WHERE tenant_uid = %(uid)s",
        {"uid": tenant_uid, "by": by},
    )


def _attestation(row: Mapping[str, Any]) -> Attestation:
    return Attestation(
        id=row["id"],
        tenant_uid=row["tenant_uid"],
        passed=row["passed"],
        create_time=row["create_time"],
        payload=bytes(row["payload"]),
        signature=bytes(row["signature"]),
        key_id=row["key_id"],
    )
