"""What the registry keeps of keys that are gone: what was to go, and the receipts of it."""

import json
from datetime import datetime
from uuid import UUID

from control_plane.errors import PreconditionError
from control_plane.keyring.model import DestroyedVersion, Destruction, Receipt, Shredding
from control_plane.postgres.database import SystemTransaction


async def destroyed_versions(tx: SystemTransaction, tenant_uid: UUID) -> list[DestroyedVersion]:
    """List what of the tenant's own keys was deleted, the newest version of each first."""
    rows = await tx.fetch_all(
        """
        SELECT key_id, version, algorithm, kek_version, create_time, destroy_time
          FROM csm_system.destroyed_key_versions WHERE tenant_uid = %(tenant_uid)s ORDER BY key_id, version DESC
        """,
        {"tenant_uid": tenant_uid},
    )
    return [DestroyedVersion(**row) for row in rows]


async def destroyed_under(tx: SystemTransaction, tenant_uid: UUID, *, version: int) -> list[DestroyedVersion]:
    """List what of the tenant's own keys was deleted while it was wrapped under this version of the KEK."""
    gone = await destroyed_versions(tx, tenant_uid)
    return [each for each in gone if each.kek_version == version]


async def note_destroyed_kek(tx: SystemTransaction, tenant_uid: UUID, *, version: int, now: datetime) -> bool:
    """Keep that a version of the KEK is gone; False where that is known."""
    found = await tx.execute(
        """
        UPDATE csm_system.tenant_keks SET destroy_time = %(now)s, close_time = coalesce(close_time, %(now)s)
         WHERE tenant_uid = %(tenant_uid)s AND version = %(version)s AND destroy_time IS NULL
        """,
        {"tenant_uid": tenant_uid, "version": version, "now": now},
    )
    return found == 1


async def begun_destruction(tx: SystemTransaction, tenant_uid: UUID, *, version: int) -> Destruction | None:
    """Find the destruction of a version of the KEK that was begun, whether or not it is done."""
    row = await tx.fetch_one(
        """
        SELECT id, tenant_uid, kek_version, sample FROM csm_system.key_destructions
         WHERE tenant_uid = %(tenant_uid)s AND kek_version = %(version)s
        """,
        {"tenant_uid": tenant_uid, "version": version},
    )
    return None if row is None else Destruction(**row)


async def begin_destruction(tx: SystemTransaction, destruction: Destruction, *, now: datetime) -> None:
    """Keep what a KEK has wrapped, from before it is destroyed."""
    await tx.execute(
        """
        INSERT INTO csm_system.key_destructions (id, tenant_uid, kek_version, begin_time, sample)
        VALUES (%(id)s, %(tenant_uid)s, %(kek_version)s, %(now)s, %(sample)s)
        ON CONFLICT ON CONSTRAINT key_destructions_kek_version_key DO NOTHING
        """,
        {
            "id": destruction.id,
            "tenant_uid": destruction.tenant_uid,
            "kek_version": destruction.kek_version,
            "now": now,
            "sample": destruction.sample,
        },
    )


async def sign_destruction(tx: SystemTransaction, receipt: Receipt) -> None:
    """Keep a receipt; one that is there stays."""
    await tx.execute(
        """
        UPDATE csm_system.key_destructions
           SET destroy_time = %(destroy_time)s, payload = %(payload)s, signature = %(signature)s, key_id = %(key_id)s
         WHERE id = %(id)s AND payload IS NULL
        """,
        {
            "id": receipt.id,
            "destroy_time": receipt.destroy_time,
            "payload": receipt.payload,
            "signature": receipt.signature,
            "key_id": receipt.key_id,
        },
    )


async def unproven_destructions(tx: SystemTransaction, tenant_uid: UUID) -> list[Destruction]:
    """List the destructions of a tenant's KEKs that were begun and have no receipt."""
    rows = await tx.fetch_all(
        """
        SELECT id, tenant_uid, kek_version, sample FROM csm_system.key_destructions
         WHERE tenant_uid = %(tenant_uid)s AND payload IS NULL ORDER BY kek_version
        """,
        {"tenant_uid": tenant_uid},
    )
    return [Destruction(**row) for row in rows]


async def check_sealed(tx: SystemTransaction, tenant_uid: UUID) -> None:
    """Raise PreconditionError for a tenant that is not sealed; fine where it is gone."""
    row = await tx.fetch_one(
        "SELECT id FROM csm_system.tenants WHERE uid = %(uid)s AND state <> 'SEALED'", {"uid": tenant_uid}
    )
    if row is not None:
        name = f"tenants/{row['id']}"
        raise PreconditionError(name, f"{name} is not sealed: its keys may be in use", reason="TENANT_NOT_SEALED")


async def begun_shredding(tx: SystemTransaction, tenant_uid: UUID) -> Shredding | None:
    """Find the shredding of a tenant's keys that was begun, whether or not it is done."""
    row = await tx.fetch_one(
        "SELECT id, tenant_uid, keys FROM csm_system.key_shreddings WHERE tenant_uid = %(tenant_uid)s",
        {"tenant_uid": tenant_uid},
    )
    return None if row is None else Shredding(**row)


async def begin_shredding(tx: SystemTransaction, shredding: Shredding, *, now: datetime) -> None:
    """Keep which keys are to go, from before any does; the first list stays."""
    await tx.execute(
        """
        INSERT INTO csm_system.key_shreddings (id, tenant_uid, begin_time, keys)
        VALUES (%(id)s, %(tenant_uid)s, %(now)s, %(keys)s::jsonb)
        ON CONFLICT ON CONSTRAINT key_shreddings_tenant_uid_key DO NOTHING
        """,
        {
            "id": shredding.id,
            "tenant_uid": shredding.tenant_uid,
            "now": now,
            "keys": json.dumps(list(map(dict, shredding.keys))),
        },
    )


async def sign_shredding(tx: SystemTransaction, receipt: Receipt) -> None:
    """Keep the receipt of a shredding; one that is there stays."""
    await tx.execute(
        """
        UPDATE csm_system.key_shreddings
           SET destroy_time = %(destroy_time)s, payload = %(payload)s, signature = %(signature)s, key_id = %(key_id)s
         WHERE id = %(receipt)s AND payload IS NULL
        """,
        {
            "receipt": receipt.id,
            "destroy_time": receipt.destroy_time,
            "payload": receipt.payload,
            "signature": receipt.signature,
            "key_id": receipt.key_id,
        },
    )


async def find_receipt(tx: SystemTransaction, tenant_uid: UUID, receipt_id: UUID) -> Receipt | None:
    """Return a receipt of the tenant, or None."""
    row = await tx.fetch_one(
        """
        SELECT id, kek_version, destroy_time, payload, signature, key_id FROM csm_system.destruction_receipts
         WHERE tenant_uid = %(tenant_uid)s AND id = %(id)s AND payload IS NOT NULL
        """,
        {"tenant_uid": tenant_uid, "id": receipt_id},
    )
    return None if row is None else Receipt(**row)


async def receipts(tx: SystemTransaction, tenant_uid: UUID, *, before: UUID, limit: int) -> list[Receipt]:
    """List a tenant's receipts whose ids are before `before`, the newest first."""
    rows = await tx.fetch_all(
        """
        SELECT id, kek_version, destroy_time, payload, signature, key_id FROM csm_system.destruction_receipts
         WHERE tenant_uid = %(tenant_uid)s AND id < %(before)s AND payload IS NOT NULL ORDER BY id DESC LIMIT %(limit)s
        """,
        {"tenant_uid": tenant_uid, "before": before, "limit": limit},
    )
    return [Receipt(**row) for row in rows]
