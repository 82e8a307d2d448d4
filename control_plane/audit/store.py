"""SQL of the audit log. Every function runs in a transaction that sees one tenant's rows only."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import psycopg

from control_plane.audit.model import Entry, Outcome, Position, Record, Seal, SealedEntry
from control_plane.errors import ConflictError
from control_plane.postgres.database import SystemTransaction, TenantTransaction
from control_plane.proofs.audit_log import PublishedKey, Signature, SignedCheckpoint
from control_plane.tally import Tally


async def insert(tx: TenantTransaction | SystemTransaction, entry: Entry) -> None:
    """Add an entry to the log of the tenant that `tx` is in."""
    await tx.execute(
        """
        INSERT INTO audit_entries
               (id, create_time, actor, method, resource, outcome, reason, request_id, count, details)
        VALUES (%(id)s, %(create_time)s, %(actor)s, %(method)s, %(resource)s, %(outcome)s, %(reason)s, %(request_id)s,
                %(count)s, %(details)s::jsonb)
        """,
        _parameters(entry),
    )


async def insert_once(tx: TenantTransaction, entry: Entry) -> None:
    """Add an entry, unless it is there: for entries whose first try may or may not have been committed."""
    await tx.execute(
        """
        INSERT INTO audit_entries
               (id, create_time, actor, method, resource, outcome, reason, request_id, count, details)
        VALUES (%(id)s, %(create_time)s, %(actor)s, %(method)s, %(resource)s, %(outcome)s, %(reason)s, %(request_id)s,
                %(count)s, %(details)s::jsonb)
        ON CONFLICT DO NOTHING
        """,
        _parameters(entry),
    )


async def insert_denied_call(tx: SystemTransaction, tally_id: UUID, *, tally: Tally) -> None:
    """Add denials that no tenant's credential stands behind, unless they are there."""
    await tx.execute(
        """
        INSERT INTO csm_system.denied_calls (id, first_time, last_time, actor, method, reason, peer, count, request_id)
        VALUES (%(id)s, %(first_time)s, %(last_time)s, %(actor)s, %(method)s, %(reason)s, %(peer)s, %(count)s,
                %(request_id)s)
        ON CONFLICT DO NOTHING
        """,
        {
            "id": tally_id,
            "first_time": tally.first_time,
            "last_time": tally.last_time,
            "actor": tally.kind.actor,
            "method": tally.kind.method,
            "reason": tally.kind.reason,
            "peer": tally.kind.peer,
            "count": tally.count,
            "request_id": tally.request_id,
        },
    )


async def list_page(tx: TenantTransaction, before: UUID, *, limit: int) -> list[SealedEntry]:
    """List the newest entries whose ids are before `before`."""
    rows = await tx.fetch_all(
        """
        SELECT e.id, e.create_time, e.actor, e.method, e.resource, e.outcome, e.reason, e.request_id, e.count,
               e.details, s.sequence, s.hash
          FROM audit_entries AS e
          LEFT JOIN audit_seals AS s ON s.tenant_id = e.tenant_id AND s.entry_id = e.id
         WHERE e.id < %(before)s
         ORDER BY e.id DESC
         LIMIT %(limit)s
        """,
        {"before": before, "limit": limit},
    )
    return [_sealed_entry(row) for row in rows]


async def last_seal(tx: TenantTransaction) -> Seal | None:
    """Return the newest link."""
    row = await tx.fetch_one(
        """
        SELECT sequence, entry_id, entry_xact::text AS entry_xact, hash
          FROM audit_seals
         ORDER BY sequence DESC
         LIMIT 1
        """
    )
    return None if row is None else _seal(row)


async def sealable(tx: TenantTransaction, after: Position, *, limit: int) -> list[Record]:
    """List what comes next in the order of sealing, as far as nothing can appear any more in between.

    Every transaction below the snapshot's xmin has ended, and this statement's snapshot shows what it did.
    """
    rows = await tx.fetch_all(
        """
        SELECT e.id, e.xact::text AS xact, trunc(extract(epoch FROM e.create_time) * 1000000)::text AS create_time_us,
               e.actor, e.method, e.resource, e.outcome, e.reason, e.request_id, e.count, e.details::text AS details
          FROM audit_entries AS e
         WHERE (e.xact, e.id) > (%(xact)s::text::xid8, %(id)s)
           AND e.xact < pg_snapshot_xmin(pg_current_snapshot())
         ORDER BY e.xact, e.id
         LIMIT %(limit)s
        """,
        {"xact": str(after.xact), "id": after.id, "limit": limit},
    )
    return [_record(row) for row in rows]


async def has_waiting(tx: TenantTransaction, after: Position) -> bool:
    """Say whether there are entries beyond `after`, sealable or not yet."""
    row = await tx.fetch_one(
        "SELECT 1 AS waiting FROM audit_entries AS e WHERE (e.xact, e.id) > (%(xact)s::text::xid8, %(id)s) LIMIT 1",
        {"xact": str(after.xact), "id": after.id},
    )
    return row is not None


async def insert_seals(tx: TenantTransaction, seals: Sequence[Seal]) -> None:
    """Add links.

    Raises:
        ConflictError: when another sealer was first.
    """
    try:
        await _insert_seals(tx, seals)
    except psycopg.errors.UniqueViolation as error:
        raise ConflictError("another sealer was first") from error


async def _insert_seals(tx: TenantTransaction, seals: Sequence[Seal]) -> None:
    await tx.execute(
        """
        INSERT INTO audit_seals (sequence, entry_id, entry_xact, hash)
        SELECT sequence, entry_id, entry_xact::xid8, hash
          FROM unnest(%(sequences)s::bigint[], %(ids)s::uuid[], %(xacts)s::text[], %(hashes)s::bytea[])
            AS seals (sequence, entry_id, entry_xact, hash)
        """,
        {
            "sequences": [seal.sequence for seal in seals],
            "ids": [seal.entry_id for seal in seals],
            "xacts": [str(seal.entry_xact) for seal in seals],
            "hashes": [seal.hash for seal in seals],
        },
    )


async def seal_at(tx: TenantTransaction, sequence: int) -> Seal | None:
    """Return the link of that number."""
    row = await tx.fetch_one(
        """
        SELECT sequence, entry_id, entry_xact::text AS entry_xact, hash
          FROM audit_seals
         WHERE sequence = %(sequence)s
        """,
        {"sequence": sequence},
    )
    return None if row is None else _seal(row)


async def sealed_page(tx: TenantTransaction, after: int, *, limit: int) -> list[tuple[Seal, Record | None]]:
    """List links beyond the sequence number `after`, each with the entry that it is of, if that is there."""
    rows = await tx.fetch_all(
        """
        SELECT s.sequence, s.entry_id, s.entry_xact::text AS entry_xact, s.hash,
               e.id, e.xact::text AS xact, trunc(extract(epoch FROM e.create_time) * 1000000)::text AS create_time_us,
               e.actor, e.method, e.resource, e.outcome, e.reason, e.request_id, e.count, e.details::text AS details
          FROM audit_seals AS s
          LEFT JOIN audit_entries AS e ON e.tenant_id = s.tenant_id AND e.id = s.entry_id
         WHERE s.sequence > %(after)s
         ORDER BY s.sequence
         LIMIT %(limit)s
        """,
        {"after": after, "limit": limit},
    )
    return [(_seal(row), None if row["id"] is None else _record(row)) for row in rows]


async def count_unsealed(tx: TenantTransaction) -> int:
    """Count the entries that have no link."""
    row = await tx.fetch_one(
        """
        SELECT count(*) AS unsealed
          FROM audit_entries AS e
         WHERE NOT EXISTS (SELECT FROM audit_seals AS s WHERE s.tenant_id = e.tenant_id AND s.entry_id = e.id)
        """
    )
    return 0 if row is None else int(row["unsealed"])


async def first_overtaken(tx: TenantTransaction) -> int | None:
    """Return the first link that has an entry without a link before it: there, one was put in, or a link taken out."""
    row = await tx.fetch_one(
        """
        SELECT min(s.sequence) AS sequence
          FROM audit_seals AS s
         WHERE (s.entry_xact, s.entry_id) > (
                SELECT e.xact, e.id
                  FROM audit_entries AS e
                 WHERE NOT EXISTS (SELECT FROM audit_seals AS t WHERE t.tenant_id = e.tenant_id AND t.entry_id = e.id)
                 ORDER BY e.xact, e.id
                 LIMIT 1)
        """
    )
    return None if row is None or row["sequence"] is None else int(row["sequence"])


async def keeps_checkpoints(tx: TenantTransaction) -> bool:
    """Say whether there is a table of checkpoints: a sealed tenant's schema may be of an older release."""
    row = await tx.fetch_one("SELECT to_regclass('audit_checkpoints') IS NOT NULL AS kept")
    return row is not None and bool(row["kept"])


async def last_checkpoint(tx: TenantTransaction) -> SignedCheckpoint | None:
    """Return the newest checkpoint, believed or not."""
    row = await tx.fetch_one(
        "SELECT sequence, payload, signature FROM audit_checkpoints ORDER BY sequence DESC LIMIT 1"
    )
    return None if row is None else SignedCheckpoint(**row)


async def checkpoints(tx: TenantTransaction, after: int, *, limit: int) -> list[SignedCheckpoint]:
    """List the checkpoints beyond the sequence number `after`."""
    rows = await tx.fetch_all(
        """
        SELECT sequence, payload, signature FROM audit_checkpoints
         WHERE sequence > %(after)s ORDER BY sequence LIMIT %(limit)s
        """,
        {"after": after, "limit": limit},
    )
    return [SignedCheckpoint(**row) for row in rows]


async def insert_checkpoint(tx: TenantTransaction, signed: SignedCheckpoint) -> None:
    """Add a checkpoint, unless there is one at that place: the first stays."""
    await tx.execute(
        """
        INSERT INTO audit_checkpoints (sequence, payload, signature)
        VALUES (%(sequence)s, %(payload)s, %(signature)s)
        ON CONFLICT DO NOTHING
        """,
        {"sequence": signed.sequence, "payload": signed.payload, "signature": signed.signature},
    )


async def published_keys(tx: SystemTransaction, tenant_uid: UUID) -> list[PublishedKey]:
    """List the published keys of a tenant's log, the oldest first, believed or not."""
    rows = await tx.fetch_all(
        """
        SELECT payload, platform_key_id, platform_signature, own_key_id, own_signature, previous_key_id,
               previous_signature
          FROM csm_system.audit_keys WHERE tenant_uid = %(tenant_uid)s ORDER BY version
        """,
        {"tenant_uid": tenant_uid},
    )
    return [_published_key(row) for row in rows]


async def insert_published_key(tx: SystemTransaction, tenant_uid: UUID, *, version: int, key: PublishedKey) -> None:
    """Publish a version of the key of a tenant's log, unless it is published: the first stays.

    The signatures are the platform's, its own and that of the version before it, in this order.
    """
    platform, own, *previous = key.signatures
    await tx.execute(
        """
        INSERT INTO csm_system.audit_keys
               (tenant_uid, version, payload, platform_key_id, platform_signature, own_key_id, own_signature,
                previous_key_id, previous_signature)
        VALUES (%(tenant_uid)s, %(version)s, %(payload)s, %(platform_key_id)s, %(platform_signature)s, %(own_key_id)s,
                %(own_signature)s, %(previous_key_id)s, %(previous_signature)s)
        ON CONFLICT ON CONSTRAINT audit_keys_pkey DO NOTHING
        """,
        {
            "tenant_uid": tenant_uid,
            "version": version,
            "payload": key.payload,
            "platform_key_id": platform.key_id,
            "platform_signature": platform.signature,
            "own_key_id": own.key_id,
            "own_signature": own.signature,
            "previous_key_id": previous[0].key_id if previous else None,
            "previous_signature": previous[0].signature if previous else None,
        },
    )


def _parameters(entry: Entry) -> dict[str, object]:
    return {
        "id": entry.id,
        "create_time": entry.create_time,
        "actor": entry.actor,
        "method": entry.method,
        "resource": entry.resource,
        "outcome": entry.outcome.value,
        "reason": entry.reason,
        "request_id": entry.request_id,
        "count": entry.count,
        "details": json.dumps(entry.details),
    }


def _sealed_entry(row: Mapping[str, Any]) -> SealedEntry:
    fields = {key: value for key, value in row.items() if key not in {"sequence", "hash"}}
    return SealedEntry(
        entry=Entry(**{**fields, "outcome": Outcome(row["outcome"])}),
        sequence=row["sequence"] or 0,
        hash=row["hash"] or b"",
    )


def _published_key(row: Mapping[str, Any]) -> PublishedKey:
    signatures = [
        Signature(key_id=row[f"{by}_key_id"], signature=row[f"{by}_signature"])
        for by in ("platform", "own", "previous")
        if row[f"{by}_key_id"] is not None
    ]
    return PublishedKey(payload=row["payload"], signatures=signatures)


def _seal(row: Mapping[str, Any]) -> Seal:
    return Seal(
        sequence=row["sequence"], entry_id=row["entry_id"], entry_xact=int(row["entry_xact"]), hash=bytes(row["hash"])
    )


def _record(row: Mapping[str, Any]) -> Record:
    return Record(
        id=row["id"],
        xact=int(row["xact"]),
        create_time_us=row["create_time_us"],
        actor=row["actor"],
        method=row["method"],
        resource=row["resource"],
        outcome=row["outcome"],
        reason=row["reason"],
        request_id=row["request_id"],
        count=row["count"],
        details=row["details"],
    )
