"""What the registry knows of keys and of their rotations."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from control_plane.keyring.model import (
    KEK,
    KEY_IDS,
    Destruction,
    Key,
    KeyVersion,
    Receipt,
    VersionState,
    kek_version,
)
from control_plane.keys.model import Purpose
from control_plane.postgres.database import SystemTransaction


async def keys_of(tx: SystemTransaction, tenant_uid: UUID, *, tenant_name: str) -> list[Key]:
    """List a tenant's keys with all their versions; those that it does not have yet are left out."""
    rows = await tx.fetch_all(
        """
        SELECT purpose, id, version, algorithm, kek_version, public, state, use_time IS NOT NULL AS is_used, create_time
          FROM csm_system.tenant_keys WHERE tenant_uid = %(tenant_uid)s ORDER BY version DESC
        """,
        {"tenant_uid": tenant_uid},
    )
    keks = await tx.fetch_all(
        """
        SELECT version, create_time, destroy_time FROM csm_system.tenant_keks
         WHERE tenant_uid = %(tenant_uid)s ORDER BY version DESC
        """,
        {"tenant_uid": tenant_uid},
    )
    running = await tx.fetch_one(
        """
        SELECT operation_id, key FROM csm_system.key_rotations WHERE tenant_uid = %(tenant_uid)s AND end_time IS NULL
        """,
        {"tenant_uid": tenant_uid},
    )
    wrapping = {row["kek_version"] for row in rows}
    found = {KEK: [kek_version(**row, wraps=row["version"] in wrapping) for row in keks]}
    for row in rows:
        found.setdefault(row.pop("purpose"), []).append(KeyVersion(**{**row, "state": VersionState(row["state"])}))
    return list(_keys(found, running, tenant_uid=tenant_uid, tenant_name=tenant_name))


def _keys(
    found: dict[str, list[KeyVersion]], running: dict[str, Any] | None, *, tenant_uid: UUID, tenant_name: str
) -> Iterator[Key]:
    for key_id in KEY_IDS:
        if versions := found.get(key_id):
            is_rotating = running is not None and running["key"] == key_id
            rotation = running["operation_id"] if running is not None and is_rotating else None
            yield Key(tenant_name=tenant_name, tenant_uid=tenant_uid, id=key_id, versions=versions, rotation=rotation)


async def hold(tx: SystemTransaction, tenant_uid: UUID) -> str | None:
    """Keep other rotations of the tenant from beginning until the transaction ends; return the tenant's state."""
    row = await tx.fetch_one(
        "SELECT state FROM csm_system.tenants WHERE uid = %(tenant_uid)s FOR UPDATE", {"tenant_uid": tenant_uid}
    )
    return None if row is None else str(row["state"])


async def running_rotation(tx: SystemTransaction, tenant_uid: UUID) -> UUID | None:
    """Find the rotation of the tenant that has not ended; waits for one that is about to."""
    row = await tx.fetch_one(
        """
        SELECT operation_id FROM csm_system.key_rotations
         WHERE tenant_uid = %(tenant_uid)s AND end_time IS NULL FOR UPDATE
        """,
        {"tenant_uid": tenant_uid},
    )
    return None if row is None else row["operation_id"]


async def open_recovery(tx: SystemTransaction, tenant_uid: UUID) -> UUID | None:
    """Find the recovery of the tenant's keys from escrow that has not ended."""
    row = await tx.fetch_one(
        "SELECT id FROM csm_system.key_recoveries WHERE tenant_uid = %(tenant_uid)s AND session IS NOT NULL",
        {"tenant_uid": tenant_uid},
    )
    return None if row is None else row["id"]


async def begin_rotation(tx: SystemTransaction, operation_id: UUID, *, key: Key, version: int) -> None:
    """Note a rotation. The database refuses a second one that runs."""
    await tx.execute(
        """
        INSERT INTO csm_system.key_rotations (operation_id, tenant_uid, key, version)
        VALUES (%(operation_id)s, %(tenant_uid)s, %(key)s, %(version)s)
        """,
        {"operation_id": operation_id, "tenant_uid": key.tenant_uid, "key": key.id, "version": version},
    )


async def rotated_version(tx: SystemTransaction, operation_id: UUID) -> int:
    """Say which version a rotation makes."""
    row = await tx.fetch_one(
        "SELECT version FROM csm_system.key_rotations WHERE operation_id = %(id)s", {"id": operation_id}
    )
    if row is None:
        message = f"operations/{operation_id} rotates no key"
        raise RuntimeError(message)
    return int(row["version"])


async def end_rotation(tx: SystemTransaction, operation_id: UUID, *, now: datetime) -> None:
    """Note that it has ended, so that the next one can begin."""
    await tx.execute(
        "UPDATE csm_system.key_rotations SET end_time = %(now)s WHERE operation_id = %(id)s AND end_time IS NULL",
        {"id": operation_id, "now": now},
    )


async def edge_revision(tx: SystemTransaction, tenant_uid: UUID) -> int:
    """Say since which revision the edge knows the tenant as it is; 0 where it is not to know it."""
    row = await tx.fetch_one(
        "SELECT edge_revision FROM csm_system.tenants WHERE uid = %(tenant_uid)s", {"tenant_uid": tenant_uid}
    )
    return 0 if row is None else int(row["edge_revision"])


async def use(tx: SystemTransaction, tenant_uid: UUID, *, purpose: Purpose, version: int) -> bool:
    """Use a version that was published for what is new; False where it is used already."""
    found = await tx.execute(
        """
        UPDATE csm_system.tenant_keys SET use_time = now()
         WHERE tenant_uid = %(tenant_uid)s AND purpose = %(purpose)s AND version = %(version)s AND use_time IS NULL
        """,
        {"tenant_uid": tenant_uid, "purpose": purpose.value, "version": version},
    )
    return found == 1


async def withdraw(tx: SystemTransaction, tenant_uid: UUID, *, purpose: Purpose, version: int) -> None:
    """Take back a version that was published and never used."""
    await tx.execute(
        """
        DELETE FROM csm_system.tenant_keys
         WHERE tenant_uid = %(tenant_uid)s AND purpose = %(purpose)s AND version = %(version)s AND use_time IS NULL
        """,
        {"tenant_uid": tenant_uid, "purpose": purpose.value, "version": version},
    )


async def retire(tx: SystemTransaction, tenant_uid: UUID, *, purpose: Purpose, unused_for: timedelta) -> list[int]:
    """Retire the versions that a newer one took the place of so long ago; return which."""
    rows = await tx.fetch_all(
        """
        UPDATE csm_system.tenant_keys AS old SET state = 'RETIRED'
         WHERE tenant_uid = %(tenant_uid)s AND purpose = %(purpose)s AND state = 'ENABLED' AND EXISTS (
               SELECT 1 FROM csm_system.tenant_keys AS newer
                WHERE newer.tenant_uid = old.tenant_uid AND newer.purpose = old.purpose
                  AND newer.version > old.version AND newer.use_time < now() - %(unused_for)s::interval)
        RETURNING version
        """,
        {"tenant_uid": tenant_uid, "purpose": purpose.value, "unused_for": unused_for},
    )
    return sorted(row["version"] for row in rows)


async def close_keks(tx: SystemTransaction, tenant_uid: UUID, *, before: int, now: datetime) -> list[int]:
    """Let no key be put under the versions of the KEK before this one any more; return those that are not destroyed.

    Whoever is putting one there at this moment is waited for.
    """
    rows = await tx.fetch_all(
        """
        UPDATE csm_system.tenant_keks SET close_time = coalesce(close_time, %(now)s)
         WHERE tenant_uid = %(tenant_uid)s AND version < %(before)s AND destroy_time IS NULL
        RETURNING version
        """,
        {"tenant_uid": tenant_uid, "before": before, "now": now},
    )
    return sorted(row["version"] for row in rows)


async def is_wrapped_under(tx: SystemTransaction, tenant_uid: UUID, version: int) -> bool:
    """Say whether a key of the tenant, in whatever state, is wrapped under this version of its KEK."""
    row = await tx.fetch_one(
        """
        SELECT EXISTS (SELECT 1 FROM csm_system.tenant_keys
                        WHERE tenant_uid = %(tenant_uid)s AND kek_version = %(version)s) AS is_wrapped
        """,
        {"tenant_uid": tenant_uid, "version": version},
    )
    return row is not None and bool(row["is_wrapped"])


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


async def find_receipt(tx: SystemTransaction, tenant_uid: UUID, receipt_id: UUID) -> Receipt | None:
    """Return a receipt of the tenant, or None."""
    row = await tx.fetch_one(
        """
        SELECT id, kek_version, destroy_time, payload, signature, key_id FROM csm_system.key_destructions
         WHERE tenant_uid = %(tenant_uid)s AND id = %(id)s AND payload IS NOT NULL
        """,
        {"tenant_uid": tenant_uid, "id": receipt_id},
    )
    return None if row is None else Receipt(**row)


async def receipts(tx: SystemTransaction, tenant_uid: UUID, *, before: UUID, limit: int) -> list[Receipt]:
    """List a tenant's receipts whose ids are before `before`, the newest first."""
    rows = await tx.fetch_all(
        """
        SELECT id, kek_version, destroy_time, payload, signature, key_id FROM csm_system.key_destructions
         WHERE tenant_uid = %(tenant_uid)s AND id < %(before)s AND payload IS NOT NULL ORDER BY id DESC LIMIT %(limit)s
        """,
        {"tenant_uid": tenant_uid, "before": before, "limit": limit},
    )
    return [Receipt(**row) for row in rows]
