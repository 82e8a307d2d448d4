"""What can be done with escrows. One function, one transaction that changes something."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from control_plane.errors import ConflictError, NotFoundError, PreconditionError
from control_plane.escrows import store
from control_plane.escrows.making import make
from control_plane.escrows.model import (
    PROPOSED_FOR,
    Overview,
    Proposal,
    Terms,
    describe,
    no_proposal,
)
from control_plane.ids import new_uuid
from control_plane.keyring import store as keyring_store
from control_plane.keys import store as keys_store
from control_plane.keys.model import KEK
from control_plane.keys.store import StoredKey
from control_plane.keys.wrapping import Wrapping
from control_plane.postgres.database import SystemHandle, SystemTransaction, TenantHandle, TenantTransaction
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Principal
from control_plane.tokens import store as tokens_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A request for an escrow; valid."""

    placement: Placement
    terms: Terms
    actor: str
    behind: frozenset[str]
    """See `who_stands_behind`."""
    etag: str
    validate_only: bool = False


def escrow_name(placement: Placement) -> str:
    """Name a tenant's escrow as a resource."""
    return f"tenants/{placement.tenant_id}/escrow"


async def who_stands_behind(tenant: TenantHandle, principal: Principal) -> frozenset[str]:
    """Say who stands behind an administrator's credential, by the tenant's own rows. It does not change."""

    async def read(tx: TenantTransaction) -> frozenset[str]:
        tx.unchanged()
        return await tokens_store.find_behind(tx, principal)

    return await tenant.run(read)


async def overview(tx: SystemTransaction, placement: Placement, *, now: datetime) -> Overview:
    """Return all that is told of a tenant's escrow."""
    escrow = await store.find(tx, placement.uid)
    covered = [] if escrow is None else await store.covered(tx, placement.uid)
    proposal = await store.find_proposal(tx, placement.uid)
    return Overview(
        name=escrow_name(placement),
        escrow=escrow,
        key_versions=[f"tenants/{placement.tenant_id}/keys/{key}/versions/{version}" for key, version in covered],
        proposal=proposal if proposal is not None and now < proposal.expire_time else None,
        recovery=await keyring_store.open_recovery(tx, placement.uid),
    )


async def propose(system: SystemHandle, wish: Wish, *, now: datetime) -> Overview:
    """Propose an escrow, in the place of what was proposed before. Nothing is in escrow by that.

    Raises:
        EtagMismatchError: the escrow is not as the caller has seen it.
        PreconditionError: the tenant has an escrow.
    """
    placement = wish.placement
    proposal = Proposal(
        id=new_uuid(),
        tenant_uid=placement.uid,
        terms=wish.terms,
        proposer=wish.actor,
        behind=wish.behind,
        create_time=now,
        expire_time=now + PROPOSED_FOR,
    )

    async def work(tx: SystemTransaction) -> Overview:
        await hold(tx, placement)
        before = await overview(tx, placement, now=now)
        before.check_etag(wish.etag)
        _check_off(before)
        if wish.validate_only:
            tx.unchanged()
            return before
        await store.insert_proposal(tx, proposal)
        details: dict[str, JsonValue] = {
            "proposed": True,
            "digest": proposal.digest,
            "threshold": wish.terms.threshold,
            "recipients": dict(describe(wish.terms)),
            "platform_may_begin": wish.terms.platform_may_begin,
        }
        tx.record(Effect(resource=before.name, placement=placement, details=details))
        return await overview(tx, placement, now=now)

    return await system.run(work)


async def confirm(
    system: SystemHandle,
    placement: Placement,
    *,
    digest: str,
    behind: AbstractSet[str],
    wrapping: Wrapping,
    now: datetime,
) -> Overview:
    """Make the escrow that another administrator has proposed in these very terms: every key is copied.

    Raises:
        ConflictError: a key was made meanwhile, or another proposal; the same call may work at once.
        InvalidArgumentError: the digest is another one.
        PolicyDeniedError: one person could have proposed it and confirm it.
        PreconditionError: nothing is proposed, or a key is being rotated.
    """

    async def read(tx: SystemTransaction) -> tuple[Proposal, list[StoredKey]]:
        tx.unchanged()
        proposal = await _confirmable(tx, placement, digest=digest, behind=behind, now=now)
        return proposal, await keys_store.all_of(tx, placement.uid)

    proposal, stored = await system.run(read)
    made = await make(wrapping, placement.uid, terms=proposal.terms, stored=stored, now=now)

    async def work(tx: SystemTransaction) -> Overview:
        if await _confirmable(tx, placement, digest=digest, behind=behind, now=now) != proposal:
            raise ConflictError("something else was proposed meanwhile")
        await store.insert(tx, made)
        await store.delete_proposal(tx, placement.uid)
        details: dict[str, JsonValue] = {
            "state": "ON",
            "escrow": str(made.escrow.id),
            "proposer": proposal.proposer,
            "digest": digest,
            "keys": len(made.keys),
        }
        tx.record(Effect(resource=escrow_name(placement), placement=placement, details=details))
        return await overview(tx, placement, now=now)

    return await system.run(work)


async def disable(system: SystemHandle, placement: Placement, *, etag: str, now: datetime) -> Overview:
    """Delete a tenant's escrow, and what is proposed. The entry says what went.

    Raises:
        EtagMismatchError: the escrow is not as the caller has seen it.
        PreconditionError: a recovery is open.
    """

    async def work(tx: SystemTransaction) -> Overview:
        await hold(tx, placement)
        before = await overview(tx, placement, now=now)
        before.check_etag(etag)
        if before.recovery is not None:
            raise recovery_in_progress(placement, f"tenants/{placement.tenant_id}/keyRecoveries/{before.recovery}")
        await store.delete(tx, placement.uid)
        await store.delete_proposal(tx, placement.uid)
        after = await overview(tx, placement, now=now)
        if before == after:
            tx.unchanged()
        else:
            tx.record(gone(before, placement))
        return after

    return await system.run(work)


def gone(before: Overview, placement: Placement) -> Effect:
    """Say in the tenant's audit log what of an escrow was deleted."""
    escrow = before.escrow
    return Effect(
        resource=before.name,
        placement=placement,
        details={
            "state": "OFF",
            "escrow": "none" if escrow is None else str(escrow.id),
            "shares_deleted": 0 if escrow is None else len(escrow.shares),
            "copies_deleted": len(before.key_versions),
            "recipients": {} if escrow is None else dict(describe(escrow.terms)),
            "proposal_deleted": before.proposal is not None,
        },
    )


async def hold(tx: SystemTransaction, placement: Placement) -> None:
    """Keep whatever else concerns a tenant's keys as a whole from beginning, until the transaction ends.

    Raises:
        NotFoundError: the tenant is gone.
        PreconditionError: it is sealed, or a key of its is being rotated.
    """
    name = f"tenants/{placement.tenant_id}"
    if await keyring_store.hold(tx, placement.uid) is None:
        raise NotFoundError(name)
    await keys_store.check_unsealed(tx, placement.uid)
    running = await keyring_store.running_rotation(tx, placement.uid, key=KEK)
    if running is not None:
        operation = f"operations/{running}"
        raise PreconditionError(
            name, f"{operation} is rotating a key of the tenant", reason="ROTATION_IN_PROGRESS", operation=operation
        )


def recovery_in_progress(placement: Placement, recovery: str) -> PreconditionError:
    """Make the error for what a recovery is in the way of."""
    text = f"{recovery} has not ended: cancel it, or wait for it"
    name = f"tenants/{placement.tenant_id}"
    return PreconditionError(name, text, reason="RECOVERY_IN_PROGRESS", recovery=recovery)


async def _confirmable(
    tx: SystemTransaction, placement: Placement, *, digest: str, behind: AbstractSet[str], now: datetime
) -> Proposal:
    await hold(tx, placement)
    before = await overview(tx, placement, now=now)
    _check_off(before)
    if before.proposal is None:
        raise no_proposal(before.name)
    before.proposal.check_confirmable(before.name, behind=behind, digest=digest, now=now)
    return before.proposal


def _check_off(before: Overview) -> None:
    if before.escrow is not None:
        text = f"{before.name} is on: disable it before you have another one"
        raise PreconditionError(before.name, text, reason="ESCROW_ON")
