"""What is known of tenants' own keys, and of their imports. Nothing here is secret."""

from datetime import datetime
from typing import Any
from uuid import UUID

from control_plane.keys.model import Purpose
from control_plane.keys.named.imports import Import, Method
from control_plane.keys.named.model import Kind, NamedKey, Origin, State
from control_plane.postgres.database import SystemTransaction


async def find(tx: SystemTransaction, tenant_uid: UUID, key_id: str) -> NamedKey | None:
    """Return a key, destroyed ones too, or None."""
    row = await tx.fetch_one(
        """
        SELECT tenant_uid, key_id, purpose, algorithm, origin, state, create_time, destroy_time,
               actor, request_id, request_hash
          FROM csm_system.named_keys WHERE tenant_uid = %(tenant_uid)s AND key_id = %(key_id)s
        """,
        {"tenant_uid": tenant_uid, "key_id": key_id},
    )
    return None if row is None else _named_key(row)


async def find_by_request(tx: SystemTransaction, tenant_uid: UUID, *, actor: str, request_id: UUID) -> NamedKey | None:
    """Return the key that a request has made, or None."""
    row = await tx.fetch_one(
        """
        SELECT tenant_uid, key_id, purpose, algorithm, origin, state, create_time, destroy_time,
               actor, request_id, request_hash
          FROM csm_system.named_keys
         WHERE tenant_uid = %(tenant_uid)s AND actor = %(actor)s AND request_id = %(request_id)s
        """,
        {"tenant_uid": tenant_uid, "actor": actor, "request_id": request_id},
    )
    return None if row is None else _named_key(row)


async def all_of(tx: SystemTransaction, tenant_uid: UUID) -> dict[str, NamedKey]:
    """Return all keys of a tenant's own by their ids, destroyed ones too."""
    rows = await tx.fetch_all(
        """
        SELECT tenant_uid, key_id, purpose, algorithm, origin, state, create_time, destroy_time,
               actor, request_id, request_hash
          FROM csm_system.named_keys WHERE tenant_uid = %(tenant_uid)s
        """,
        {"tenant_uid": tenant_uid},
    )
    return {row["key_id"]: _named_key(row) for row in rows}


async def hold(tx: SystemTransaction, tenant_uid: UUID, key_id: str) -> NamedKey | None:
    """Return a key, and keep it as it is until the transaction ends."""
    row = await tx.fetch_one(
        """
        SELECT tenant_uid, key_id, purpose, algorithm, origin, state, create_time, destroy_time,
               actor, request_id, request_hash
          FROM csm_system.named_keys WHERE tenant_uid = %(tenant_uid)s AND key_id = %(key_id)s FOR UPDATE
        """,
        {"tenant_uid": tenant_uid, "key_id": key_id},
    )
    return None if row is None else _named_key(row)


async def count(tx: SystemTransaction, tenant_uid: UUID) -> int:
    """Count a tenant's own keys, without those that are destroyed."""
    row = await tx.fetch_one(
        """
        SELECT count(*) AS found FROM csm_system.named_keys
         WHERE tenant_uid = %(tenant_uid)s AND state <> 'DESTROYED'
        """,
        {"tenant_uid": tenant_uid},
    )
    return 0 if row is None else int(row["found"])


async def insert(tx: SystemTransaction, key: NamedKey) -> None:
    """Insert a key. The caller holds the tenant, and has looked whether there is one of that name."""
    await tx.execute(
        """
        INSERT INTO csm_system.named_keys (tenant_uid, key_id, purpose, algorithm, origin, state, create_time,
                                           destroy_time, actor, request_id, request_hash)
        VALUES (%(tenant_uid)s, %(key_id)s, %(purpose)s, %(algorithm)s, %(origin)s, %(state)s, %(create_time)s,
                %(destroy_time)s, %(actor)s, %(request_id)s, %(request_hash)s)
        """,
        {
            "tenant_uid": key.tenant_uid,
            "key_id": key.key_id,
            "purpose": key.kind.purpose.value,
            "algorithm": key.kind.algorithm,
            "origin": key.origin.value,
            "state": key.state.value,
            "create_time": key.create_time,
            "destroy_time": key.destroy_time,
            "actor": key.actor,
            "request_id": key.request_id,
            "request_hash": key.request_hash,
        },
    )


async def change(tx: SystemTransaction, key: NamedKey) -> None:
    """Keep the state that a key has now. The caller holds it."""
    await tx.execute(
        """
        UPDATE csm_system.named_keys SET state = %(state)s, destroy_time = %(destroy_time)s
         WHERE tenant_uid = %(tenant_uid)s AND key_id = %(key_id)s
        """,
        {
            "tenant_uid": key.tenant_uid,
            "key_id": key.key_id,
            "state": key.state.value,
            "destroy_time": key.destroy_time,
        },
    )


async def delete_versions(tx: SystemTransaction, key: NamedKey) -> list[int]:
    """Delete the material of a key for good, and keep which versions there were; return these. The caller holds it."""
    rows = await tx.fetch_all(
        """
        WITH gone AS (
          DELETE FROM csm_system.tenant_keys
           WHERE tenant_uid = %(tenant_uid)s AND key_id = %(key_id)s
          RETURNING tenant_uid, key_id, version, algorithm, kek_version, create_time
        )
        INSERT INTO csm_system.destroyed_key_versions
               (tenant_uid, key_id, version, algorithm, kek_version, create_time, destroy_time)
        SELECT tenant_uid, key_id, version, algorithm, kek_version, create_time, %(destroy_time)s FROM gone
        RETURNING version
        """,
        {"tenant_uid": key.tenant_uid, "key_id": key.key_id, "destroy_time": key.destroy_time},
    )
    return sorted(row["version"] for row in rows)


async def insert_import(tx: SystemTransaction, made: Import) -> None:
    """Insert an import."""
    await tx.execute(
        """
        INSERT INTO csm_system.key_imports
               (id, tenant_uid, key_id, purpose, algorithm, method, create_time, expire_time)
        VALUES (%(id)s, %(tenant_uid)s, %(key_id)s, %(purpose)s, %(algorithm)s, %(method)s, %(create_time)s,
                %(expire_time)s)
        """,
        {
            "id": made.id,
            "tenant_uid": made.tenant_uid,
            "key_id": made.key_id,
            "purpose": made.kind.purpose.value,
            "algorithm": made.kind.algorithm,
            "method": made.method.value,
            "create_time": made.create_time,
            "expire_time": made.expire_time,
        },
    )


async def hold_import(tx: SystemTransaction, tenant_uid: UUID, import_id: UUID) -> Import | None:
    """Return an import of the tenant, and keep it as it is until the transaction ends; or None."""
    row = await tx.fetch_one(
        """
        SELECT id, tenant_uid, key_id, purpose, algorithm, method, create_time, expire_time, wrapped_sha256
          FROM csm_system.key_imports WHERE tenant_uid = %(tenant_uid)s AND id = %(id)s FOR UPDATE
        """,
        {"tenant_uid": tenant_uid, "id": import_id},
    )
    if row is None:
        return None
    kind = _kind(row)
    return Import(**{**row, "kind": kind, "method": Method(row["method"])})


async def count_imports(tx: SystemTransaction, tenant_uid: UUID, *, now: datetime) -> int:
    """Count the imports of a tenant that could still take something in."""
    row = await tx.fetch_one(
        """
        SELECT count(*) AS found FROM csm_system.key_imports
         WHERE tenant_uid = %(tenant_uid)s AND wrapped_sha256 IS NULL AND expire_time > %(now)s
        """,
        {"tenant_uid": tenant_uid, "now": now},
    )
    return 0 if row is None else int(row["found"])


async def use_import(tx: SystemTransaction, used: Import, *, wrapped_sha256: bytes) -> None:
    """Keep that something came in, and delete what it was wrapped under. The caller holds the import."""
    await tx.execute(
        "UPDATE csm_system.key_imports SET wrapped_sha256 = %(wrapped_sha256)s WHERE id = %(id)s",
        {"id": used.id, "wrapped_sha256": wrapped_sha256},
    )
    await tx.execute(
        "DELETE FROM csm_system.tenant_keys WHERE tenant_uid = %(tenant_uid)s AND key_id = %(key_id)s",
        {"tenant_uid": used.tenant_uid, "key_id": used.stored_as},
    )


async def delete_late_imports(tx: SystemTransaction, *, now: datetime) -> int:
    """Delete the imports that have expired, and what their keys would have been wrapped under; return how many."""
    return await tx.execute(
        """
        WITH late AS (
          DELETE FROM csm_system.key_imports WHERE expire_time <= %(now)s RETURNING id, tenant_uid
        ), keys AS (
          DELETE FROM csm_system.tenant_keys AS k USING late
           WHERE k.tenant_uid = late.tenant_uid AND k.key_id = 'import/' || late.id
        )
        SELECT id FROM late
        """,
        {"now": now},
    )


def _named_key(row: dict[str, Any]) -> NamedKey:
    kind = _kind(row)
    return NamedKey(**{**row, "kind": kind, "origin": Origin(row["origin"]), "state": State(row["state"])})


def _kind(row: dict[str, Any]) -> Kind:
    return Kind(purpose=Purpose(row.pop("purpose")), algorithm=row.pop("algorithm"))
