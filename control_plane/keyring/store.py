"""What the registry knows of keys and of their rotations."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from control_plane.ids import TenantId
from control_plane.keyring.destructions import destroyed_versions
from control_plane.keyring.model import (
    Key,
    KeyVersion,
    VersionState,
    kek_version,
)
from control_plane.keys.model import KEK, Purpose
from control_plane.keys.named import store as named_store
from control_plane.postgres.database import SystemTransaction


async def keys_of(tx: SystemTransaction, tenant_uid: UUID, *, tenant_name: str) -> list[Key]:
    """List a tenant's keys with all their versions; those that it does not have yet are left out."""
    rows = await tx.fetch_all(
        """
        SELECT key_id, id, version, algorithm, kek_version, public, state, use_time IS NOT NULL AS is_used, create_time
          FROM csm_system.tenant_keys
         WHERE tenant_uid = %(tenant_uid)s AND purpose <> 'import' ORDER BY version DESC
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
    rotations = await tx.fetch_all(
        """
        SELECT r.key, r.operation_id FROM csm_system.key_rotations AS r
          JOIN csm_system.operations AS o ON o.id = r.operation_id AND o.state = 'RUNNING'
         WHERE r.tenant_uid = %(tenant_uid)s ORDER BY r.operation_id
        """,
        {"tenant_uid": tenant_uid},
    )
    running = {row["key"]: row["operation_id"] for row in rotations}
    wrapping = {row["kek_version"] for row in rows}
    found = {KEK: [kek_version(**row, wraps=row["version"] in wrapping) for row in keks]}
    for row in rows:
        found.setdefault(row.pop("key_id"), []).append(KeyVersion(**{**row, "state": VersionState(row["state"])}))
    for gone in await destroyed_versions(tx, tenant_uid):
        found.setdefault(gone.key_id, []).append(gone.shown())
    named = await named_store.all_of(tx, tenant_uid)
    keys = [
        Key(
            tenant_name=tenant_name,
            tenant_uid=tenant_uid,
            id=key_id,
            versions=versions,
            rotation=running.get(key_id),
            named=named.get(key_id),
        )
        for key_id, versions in found.items()
        if versions
    ]
    return sorted(keys, key=lambda key: key.position)


async def hold(tx: SystemTransaction, tenant_uid: UUID) -> str | None:
    """Keep other rotations of the tenant from beginning until the transaction ends; return the tenant's state."""
    row = await tx.fetch_one(
        "SELECT state FROM csm_system.tenants WHERE uid = %(tenant_uid)s FOR UPDATE", {"tenant_uid": tenant_uid}
    )
    return None if row is None else str(row["state"])


async def running_rotation(tx: SystemTransaction, tenant_uid: UUID, *, key: str) -> UUID | None:
    """Find the rotation of the tenant that lets no other begin, or is of this key; waits for one that is about to end.

    What was begun and lets others begin still seals anew what older versions have sealed.
    """
    row = await tx.fetch_one(
        """
        SELECT r.operation_id FROM csm_system.key_rotations AS r
          JOIN csm_system.operations AS o ON o.id = r.operation_id
         WHERE r.tenant_uid = %(tenant_uid)s
           AND (r.end_time IS NULL OR (r.key = %(key)s AND o.state = 'RUNNING'))
         ORDER BY r.end_time IS NOT NULL LIMIT 1 FOR UPDATE OF r
        """,
        {"tenant_uid": tenant_uid, "key": key},
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


async def retire(
    tx: SystemTransaction, tenant_uid: UUID, *, purpose: Purpose, unused_for: timedelta, kept: Sequence[int] = ()
) -> list[int]:
    """Retire the versions that a newer one took the place of so long ago, but for some; return which."""
    rows = await tx.fetch_all(
        """
        UPDATE csm_system.tenant_keys AS old SET state = 'RETIRED'
         WHERE tenant_uid = %(tenant_uid)s AND purpose = %(purpose)s AND state = 'ENABLED'
           AND version <> ALL (%(kept)s::integer[]) AND EXISTS (
               SELECT 1 FROM csm_system.tenant_keys AS newer
                WHERE newer.tenant_uid = old.tenant_uid AND newer.purpose = old.purpose
                  AND newer.version > old.version AND newer.use_time < now() - %(unused_for)s::interval)
        RETURNING version
        """,
        {"tenant_uid": tenant_uid, "purpose": purpose.value, "unused_for": unused_for, "kept": list(kept)},
    )
    return sorted(row["version"] for row in rows)


async def needed_enrolments(tx: SystemTransaction, tenant_uid: UUID) -> list[int]:
    """List the versions that the tenant's database role logs in with, or that vouch for its escrow."""
    rows = await tx.fetch_all(
        """
        SELECT version FROM csm_system.tenant_keys AS k
         WHERE tenant_uid = %(tenant_uid)s AND purpose = %(purpose)s
           AND (EXISTS (SELECT 1 FROM csm_system.tenant_escrows AS e
                         WHERE e.tenant_uid = k.tenant_uid AND e.check_key_id = k.id)
             OR EXISTS (SELECT 1 FROM csm_system.tenant_schemas AS s
                         WHERE s.tenant_uid = k.tenant_uid AND s.login_version = k.version))
         ORDER BY version
        """,
        {"tenant_uid": tenant_uid, "purpose": Purpose.ENROLMENT.value},
    )
    return [row["version"] for row in rows]


async def is_there_since(
    tx: SystemTransaction, tenant_uid: UUID, *, purpose: Purpose, version: int, ago: timedelta, used: bool
) -> bool:
    """Say whether a version has been there for that long, or `used` for what is new, by the database's clock."""
    row = await tx.fetch_one(
        """
        SELECT CASE WHEN %(used)s THEN use_time ELSE create_time END <= now() - %(ago)s::interval AS is_there
          FROM csm_system.tenant_keys
         WHERE tenant_uid = %(tenant_uid)s AND purpose = %(purpose)s AND version = %(version)s
        """,
        {"tenant_uid": tenant_uid, "purpose": purpose.value, "version": version, "ago": ago, "used": used},
    )
    return row is not None and bool(row["is_there"])


async def retire_before(
    tx: SystemTransaction, tenant_uid: UUID, *, purpose: Purpose, version: int, kept: Sequence[int]
) -> list[int]:
    """Retire the versions before this one but for some; return which."""
    rows = await tx.fetch_all(
        """
        UPDATE csm_system.tenant_keys SET state = 'RETIRED'
         WHERE tenant_uid = %(tenant_uid)s AND purpose = %(purpose)s AND state = 'ENABLED'
           AND version < %(version)s AND version <> ALL (%(kept)s::integer[])
        RETURNING version
        """,
        {"tenant_uid": tenant_uid, "purpose": purpose.value, "version": version, "kept": list(kept)},
    )
    return sorted(row["version"] for row in rows)


async def change_state(
    tx: SystemTransaction, tenant_uid: UUID, *, purpose: Purpose, version: int, state: VersionState
) -> None:
    """Bring a version into another state."""
    await tx.execute(
        """
        UPDATE csm_system.tenant_keys SET state = %(state)s
         WHERE tenant_uid = %(tenant_uid)s AND purpose = %(purpose)s AND version = %(version)s
        """,
        {"tenant_uid": tenant_uid, "purpose": purpose.value, "version": version, "state": state.value},
    )


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


async def tenants_with_due_keys(tx: SystemTransaction, *, now: datetime) -> list[tuple[TenantId, UUID]]:
    """List the tenants with keys whose destruction is due; sealed ones wait."""
    rows = await tx.fetch_all(
        """
        SELECT DISTINCT t.id, t.uid FROM csm_system.named_keys AS k JOIN csm_system.tenants AS t ON t.uid = k.tenant_uid
         WHERE k.state = 'DESTROY_SCHEDULED' AND k.destroy_time <= %(now)s AND t.state NOT IN ('SEALED', 'PROVISIONING')
        """,
        {"now": now},
    )
    return [(row["id"], row["uid"]) for row in rows]


async def due_keys(tx: SystemTransaction, tenant_uid: UUID, *, now: datetime) -> list[str]:
    """List the keys of a tenant whose destruction is due."""
    rows = await tx.fetch_all(
        """
        SELECT key_id FROM csm_system.named_keys
         WHERE tenant_uid = %(tenant_uid)s AND state = 'DESTROY_SCHEDULED' AND destroy_time <= %(now)s ORDER BY key_id
        """,
        {"tenant_uid": tenant_uid, "now": now},
    )
    return [row["key_id"] for row in rows]


async def tenants_with_doomed_keks(tx: SystemTransaction) -> list[tuple[TenantId, UUID]]:
    """List the tenants of whose KEKs one has wrapped a key that is destroyed, and is there yet. Sealed ones wait."""
    rows = await tx.fetch_all(
        """
        SELECT DISTINCT t.id, t.uid
          FROM csm_system.destroyed_key_versions AS v
          JOIN csm_system.tenant_keks AS k ON k.tenant_uid = v.tenant_uid AND k.version = v.kek_version
          JOIN csm_system.tenants AS t ON t.uid = v.tenant_uid
         WHERE k.destroy_time IS NULL AND t.state NOT IN ('SEALED', 'PROVISIONING')
        """
    )
    return [(row["id"], row["uid"]) for row in rows]
