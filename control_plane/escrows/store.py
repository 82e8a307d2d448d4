"""What the registry knows of escrows, proposals and recoveries. Nothing here opens a key."""

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from control_plane.errors import ConflictError
from control_plane.escrows.making import Made
from control_plane.escrows.model import (
    Afterwards,
    Approval,
    Escrow,
    Proposal,
    Recipient,
    Recovery,
    RecoveryState,
    Share,
    Terms,
)
from control_plane.ids import TenantId
from control_plane.keys import store as keys_store
from control_plane.keys.escrow import Copy
from control_plane.postgres.database import SystemTransaction


async def find(tx: SystemTransaction, tenant_uid: UUID) -> Escrow | None:
    """Return a tenant's escrow, or None."""
    row = await tx.fetch_one(
        """
        SELECT tenant_uid, id, public, threshold, platform_may_begin, terms_digest, check_key_id, root_check, voucher,
               create_time
          FROM csm_system.tenant_escrows WHERE tenant_uid = %(tenant_uid)s
        """,
        {"tenant_uid": tenant_uid},
    )
    if row is None:
        return None
    shares = await tx.fetch_all(
        """
        SELECT recipient, position, public, sealed, digest FROM csm_system.escrow_shares
         WHERE escrow_id = %(id)s ORDER BY position
        """,
        {"id": row["id"]},
    )
    return Escrow(**row, shares=tuple(Share(**share) for share in shares))


async def covered(tx: SystemTransaction, tenant_uid: UUID) -> list[tuple[str, int]]:
    """List the names and versions of the keys that have a copy; what imports are made with is left out."""
    rows = await tx.fetch_all(
        """
        SELECT k.key_id, k.version FROM csm_system.escrow_copies AS c
          JOIN csm_system.tenant_keys AS k ON k.id = c.key_id
         WHERE c.tenant_uid = %(tenant_uid)s AND k.purpose <> 'import' ORDER BY k.key_id, k.version DESC
        """,
        {"tenant_uid": tenant_uid},
    )
    return [(row["key_id"], row["version"]) for row in rows]


async def copies(tx: SystemTransaction, tenant_uid: UUID) -> dict[UUID, Copy]:
    """Return the copies of a tenant's keys, by the keys' ids."""
    rows = await tx.fetch_all(
        """
        SELECT key_id, escrow_id, sealed, check_value FROM csm_system.escrow_copies WHERE tenant_uid = %(tenant_uid)s
        """,
        {"tenant_uid": tenant_uid},
    )
    return {row.pop("key_id"): Copy(**row) for row in rows}


async def insert(tx: SystemTransaction, made: Made) -> None:
    """Store an escrow with all that belongs to it.

    Raises:
        ConflictError: a key has come or gone since it was made. Until the transaction ends, none does.
    """
    escrow = made.escrow
    # Whoever stores a key shares the lock on its KEK: it is before us, and copied, or after us, and brings its copy.
    await tx.fetch_all(
        "SELECT version FROM csm_system.tenant_keks WHERE tenant_uid = %(tenant_uid)s ORDER BY version FOR UPDATE",
        {"tenant_uid": escrow.tenant_uid},
    )
    if {key.id for key in await keys_store.all_of(tx, escrow.tenant_uid)} != {key.id for key in made.keys}:
        raise ConflictError("a key of the tenant was made meanwhile")
    await tx.execute(
        """
        INSERT INTO csm_system.tenant_escrows
               (tenant_uid, id, public, threshold, platform_may_begin, terms_digest, check_key_id, root_check, voucher,
                create_time)
        VALUES (%(tenant_uid)s, %(id)s, %(public)s, %(threshold)s, %(platform_may_begin)s, %(terms_digest)s,
                %(check_key_id)s, %(root_check)s, %(voucher)s, %(create_time)s)
        """,
        {
            "tenant_uid": escrow.tenant_uid,
            "id": escrow.id,
            "public": escrow.public,
            "threshold": escrow.threshold,
            "platform_may_begin": escrow.platform_may_begin,
            "terms_digest": escrow.terms_digest,
            "check_key_id": escrow.check_key_id,
            "root_check": escrow.root_check,
            "voucher": escrow.voucher,
            "create_time": escrow.create_time,
        },
    )
    for share in escrow.shares:
        await _insert_share(tx, escrow.id, share)
    for key in made.keys:
        if key.copy is not None:
            await keys_store.insert_copy(tx, key, key.copy)


async def _insert_share(tx: SystemTransaction, escrow_id: UUID, share: Share) -> None:
    await tx.execute(
        """
        INSERT INTO csm_system.escrow_shares (escrow_id, recipient, position, public, sealed, digest)
        VALUES (%(escrow_id)s, %(recipient)s, %(position)s, %(public)s, %(sealed)s, %(digest)s)
        """,
        {
            "escrow_id": escrow_id,
            "recipient": share.recipient,
            "position": share.position,
            "public": share.public,
            "sealed": share.sealed,
            "digest": share.digest,
        },
    )


async def delete(tx: SystemTransaction, tenant_uid: UUID) -> None:
    """Delete a tenant's escrow with its shares and copies."""
    await tx.execute(
        "DELETE FROM csm_system.tenant_escrows WHERE tenant_uid = %(tenant_uid)s", {"tenant_uid": tenant_uid}
    )


async def find_proposal(tx: SystemTransaction, tenant_uid: UUID) -> Proposal | None:
    """Return what is proposed for a tenant, expired or not."""
    row = await tx.fetch_one(
        """
        SELECT id, tenant_uid, recipients, threshold, platform_may_begin, proposer, behind, create_time, expire_time
          FROM csm_system.escrow_proposals WHERE tenant_uid = %(tenant_uid)s
        """,
        {"tenant_uid": tenant_uid},
    )
    if row is None:
        return None
    recipients = tuple(
        Recipient(name=one["name"], public=base64.b64decode(one["public"])) for one in row.pop("recipients")
    )
    terms = Terms(
        recipients=recipients, threshold=row.pop("threshold"), platform_may_begin=row.pop("platform_may_begin")
    )
    return Proposal(**{**row, "behind": frozenset(row["behind"])}, terms=terms)


async def insert_proposal(tx: SystemTransaction, proposal: Proposal) -> None:
    """Keep a proposal, in the place of what was proposed before."""
    await delete_proposal(tx, proposal.tenant_uid)
    recipients = [
        {"name": one.name, "public": base64.b64encode(one.public).decode()} for one in proposal.terms.recipients
    ]
    await tx.execute(
        """
        INSERT INTO csm_system.escrow_proposals
               (tenant_uid, id, recipients, threshold, platform_may_begin, proposer, behind, create_time, expire_time)
        VALUES (%(tenant_uid)s, %(id)s, %(recipients)s::jsonb, %(threshold)s, %(platform_may_begin)s, %(proposer)s,
                %(behind)s::text[], %(create_time)s, %(expire_time)s)
        """,
        {
            "tenant_uid": proposal.tenant_uid,
            "id": proposal.id,
            "recipients": json.dumps(recipients),
            "threshold": proposal.terms.threshold,
            "platform_may_begin": proposal.terms.platform_may_begin,
            "proposer": proposal.proposer,
            "behind": sorted(proposal.behind),
            "create_time": proposal.create_time,
            "expire_time": proposal.expire_time,
        },
    )


async def delete_proposal(tx: SystemTransaction, tenant_uid: UUID) -> None:
    """Delete what is proposed for a tenant."""
    await tx.execute(
        "DELETE FROM csm_system.escrow_proposals WHERE tenant_uid = %(tenant_uid)s", {"tenant_uid": tenant_uid}
    )


async def next_kek_version(tx: SystemTransaction, tenant_uid: UUID) -> int:
    """Say which version of a tenant's KEK comes next."""
    row = await tx.fetch_one(
        "SELECT coalesce(max(version), 0) + 1 AS next FROM csm_system.tenant_keks WHERE tenant_uid = %(tenant_uid)s",
        {"tenant_uid": tenant_uid},
    )
    return 1 if row is None else int(row["next"])


async def insert_recovery(tx: SystemTransaction, recovery: Recovery) -> None:
    """Keep a recovery. The database refuses a second one that has not ended."""
    await tx.execute(
        """
        INSERT INTO csm_system.key_recoveries
               (id, tenant_uid, escrow_id, kek_version, state, session, beginner, reason, afterwards, create_time,
                expire_time)
        VALUES (%(id)s, %(tenant_uid)s, %(escrow_id)s, %(kek_version)s, %(state)s, %(session)s, %(beginner)s,
                %(reason)s, %(afterwards)s, %(create_time)s, %(expire_time)s)
        """,
        {
            "id": recovery.id,
            "tenant_uid": recovery.tenant_uid,
            "escrow_id": recovery.escrow_id,
            "kek_version": recovery.kek_version,
            "state": recovery.state.value,
            "session": recovery.session,
            "beginner": recovery.beginner,
            "reason": recovery.reason,
            "afterwards": recovery.afterwards.value,
            "create_time": recovery.create_time,
            "expire_time": recovery.expire_time,
        },
    )


async def find_recovery(tx: SystemTransaction, tenant_uid: UUID, recovery_id: UUID) -> Recovery | None:
    """Return a recovery of the tenant, or None."""
    row = await tx.fetch_one(
        """
        SELECT id, tenant_uid, escrow_id, kek_version, state, session, beginner, reason, afterwards, operation_id,
               create_time, expire_time, end_time
          FROM csm_system.key_recoveries WHERE tenant_uid = %(tenant_uid)s AND id = %(id)s
        """,
        {"tenant_uid": tenant_uid, "id": recovery_id},
    )
    return None if row is None else _recovery(row, await _approvals(tx, recovery_id))


async def recovery_of(tx: SystemTransaction, tenant_uid: UUID, operation_id: UUID) -> Recovery | None:
    """Return the recovery that an operation carries out."""
    row = await tx.fetch_one(
        "SELECT id FROM csm_system.key_recoveries WHERE tenant_uid = %(uid)s AND operation_id = %(operation_id)s",
        {"uid": tenant_uid, "operation_id": operation_id},
    )
    return None if row is None else await find_recovery(tx, tenant_uid, row["id"])


async def expired(tx: SystemTransaction, *, now: datetime) -> list[tuple[TenantId, UUID]]:
    """List recoveries that were not approved in time, each as its tenant's id and its own."""
    rows = await tx.fetch_all(
        """
        SELECT t.id AS tenant_id, r.id FROM csm_system.key_recoveries AS r
          JOIN csm_system.tenants AS t ON t.uid = r.tenant_uid
         WHERE r.state = 'OPEN' AND r.expire_time <= %(now)s
        """,
        {"now": now},
    )
    return [(TenantId(row["tenant_id"]), row["id"]) for row in rows]


async def insert_approval(tx: SystemTransaction, recovery_id: UUID, approval: Approval) -> None:
    """Keep what a recipient gave."""
    await tx.execute(
        """
        INSERT INTO csm_system.recovery_approvals (recovery_id, recipient, sealed, create_time)
        VALUES (%(recovery_id)s, %(recipient)s, %(sealed)s, %(create_time)s)
        """,
        {
            "recovery_id": recovery_id,
            "recipient": approval.recipient,
            "sealed": approval.sealed,
            "create_time": approval.create_time,
        },
    )


async def begin_recovering(tx: SystemTransaction, recovery_id: UUID, operation_id: UUID) -> None:
    """Note that there are enough approvals, and what carries it out."""
    await tx.execute(
        """
        UPDATE csm_system.key_recoveries SET state = 'RECOVERING', operation_id = %(operation_id)s WHERE id = %(id)s
        """,
        {"id": recovery_id, "operation_id": operation_id},
    )


async def end_recovery(tx: SystemTransaction, recovery_id: UUID, *, state: RecoveryState, now: datetime) -> bool:
    """End a recovery, and forget its session and what recipients gave; False where it has ended."""
    found = await tx.execute(
        """
        UPDATE csm_system.key_recoveries SET state = %(state)s, session = NULL, end_time = %(now)s
         WHERE id = %(id)s AND session IS NOT NULL
        """,
        {"id": recovery_id, "state": state.value, "now": now},
    )
    await tx.execute("DELETE FROM csm_system.recovery_approvals WHERE recovery_id = %(id)s", {"id": recovery_id})
    return found == 1


async def _approvals(tx: SystemTransaction, recovery_id: UUID) -> Sequence[dict[str, Any]]:
    return await tx.fetch_all(
        """
        SELECT recipient, sealed, create_time FROM csm_system.recovery_approvals
         WHERE recovery_id = %(id)s ORDER BY create_time, recipient
        """,
        {"id": recovery_id},
    )


def _recovery(row: dict[str, Any], approvals: Sequence[dict[str, Any]]) -> Recovery:
    return Recovery(
        **{**row, "state": RecoveryState(row["state"]), "afterwards": Afterwards(row["afterwards"])},
        approvals=tuple(Approval(**one) for one in approvals),
    )
