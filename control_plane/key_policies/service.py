"""What can be done with key policies and approvals. One function, one transaction that has an effect."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from control_plane.errors import NotFoundError, UnavailableError
from control_plane.ids import new_uuid
from control_plane.key_policies import store
from control_plane.key_policies.approvals import Approval, Wish
from control_plane.key_policies.gate import approval_details, approval_name
from control_plane.key_policies.model import Terms
from control_plane.key_policies.policy import Administrator, Policy
from control_plane.key_policies.written import write_proposal, write_rules
from control_plane.postgres.database import SystemHandle, TenantHandle, TenantTransaction
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import TENANT_BOUND, Principal
from control_plane.tokens import store as tokens_store

_LOOK_AGAIN_S: Final = 0.02
# Twelve seconds: longer than any statement of a tenant's may take.
_LOOKS: Final = 600

MakeTerms = Callable[[Policy], Terms]
"""Says what a policy is to be. Raises what forbids it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Who wants what, and when."""

    terms: MakeTerms
    principal: Principal
    now: datetime
    validate_only: bool = False


async def update_policy(tenant: TenantHandle, change: Change, *, system: SystemHandle) -> Policy:
    """Change the policy at once, and return when no use goes on by the one of before.

    Raises:
        PermissionDeniedError: it is locked, or would be, and not by the tenant's own.
        PreconditionError: it is locked, and would be loosened.
        UnavailableError: it is changed, but uses from before have not ended. No other passes that it denies.
    """

    async def work(tx: TenantTransaction) -> Policy:
        name = policy_name(tx.placement)
        before = await store.find_policy_for_update(tx)
        by = await _administrator(tx, change.principal)
        after = before.updated(change.terms(before), by, name=name, now=change.now)
        if after == before or change.validate_only:
            tx.unchanged()
            return after
        await store.put_policy(tx, after)
        tx.record(Effect(resource=name, details=_told(after.terms)))
        return after

    return await _settled(await tenant.run(work), tenant.placement, system=system)


async def propose_change(tenant: TenantHandle, change: Change) -> Policy:
    """Have a change of a locked policy wait for a second administrator.

    Raises:
        PreconditionError: there is a proposal already, or the policy is not locked.
    """

    async def work(tx: TenantTransaction) -> Policy:
        name = policy_name(tx.placement)
        before = await store.find_policy_for_update(tx)
        by = await _administrator(tx, change.principal)
        after = before.proposed(change.terms(before), by, name=name, proposal_id=new_uuid(), now=change.now)
        if change.validate_only or after.proposal is None:
            tx.unchanged()
            return before
        await store.put_policy(tx, after)
        written = write_proposal(after.proposal)
        tx.record(Effect(resource=name, details={"change": written["id"], **_told(after.proposal.terms)}))
        return after

    return await tenant.run(work)


async def approve_change(
    tenant: TenantHandle, proposal_id: UUID, *, principal: Principal, system: SystemHandle, now: datetime
) -> Policy:
    """Change the policy as somebody else has proposed.

    Raises:
        PolicyDeniedError: one person could have done both.
        PreconditionError: there is no such proposal, or no longer.
        UnavailableError: as for `update_policy`.
    """

    async def work(tx: TenantTransaction) -> Policy:
        name = policy_name(tx.placement)
        before = await store.find_policy_for_update(tx)
        by = await _administrator(tx, principal)
        after = before.approved(proposal_id, by, name=name, now=now)
        await store.put_policy(tx, after)
        proposer = before.proposal.proposer if before.proposal else ""
        details: dict[str, JsonValue] = {"change": str(proposal_id), "proposer": proposer, **_told(after.terms)}
        tx.record(Effect(resource=name, details=details))
        return after

    return await _settled(await tenant.run(work), tenant.placement, system=system)


async def reject_change(tenant: TenantHandle, proposal_id: UUID, *, now: datetime) -> Policy:
    """Drop a proposal.

    Raises:
        PreconditionError: there is no such proposal, or no longer.
    """

    async def work(tx: TenantTransaction) -> Policy:
        name = policy_name(tx.placement)
        after = (await store.find_policy_for_update(tx)).rejected(proposal_id, name=name, now=now)
        await store.put_policy(tx, after)
        tx.record(Effect(resource=name, details={"change": str(proposal_id)}))
        return after

    return await tenant.run(work)


async def approve_use(
    tenant: TenantHandle, approval_id: UUID, *, principal: Principal, wish: Wish, etag: str
) -> Approval:
    """Consent to uses.

    Raises:
        NotFoundError: there is no such request.
        EtagMismatchError: when the caller has seen another state.
        PolicyDeniedError: one person could have asked and consented.
        PreconditionError: it was decided, or nobody waits for it any more.
    """

    async def decided(tx: TenantTransaction, before: Approval, by: Administrator) -> Approval:
        name = approval_name(tx.placement, approval_id)
        before.check_etag(name, etag)
        is_locked = (await store.find_policy(tx)).terms.locked
        return before.approved(wish, by, name=name, is_locked=is_locked)

    return await _decide_use(tenant, approval_id, principal=principal, decided=decided)


async def deny_use(
    tenant: TenantHandle, approval_id: UUID, *, principal: Principal, now: datetime, etag: str
) -> Approval:
    """Deny uses, or take back a consent; denied ones stay as they are.

    Raises:
        NotFoundError: there is no such request.
        EtagMismatchError: when the caller has seen another state.
        PreconditionError: nobody waits for it any more.
    """

    async def decided(tx: TenantTransaction, before: Approval, by: Administrator) -> Approval:
        name = approval_name(tx.placement, approval_id)
        before.check_etag(name, etag)
        return before.denied(by.name, name=name, now=now)

    return await _decide_use(tenant, approval_id, principal=principal, decided=decided)


async def existing(tx: TenantTransaction, approval_id: UUID) -> Approval:
    """Return an approval. Raises NotFoundError when the tenant has none of this id."""
    approval = await store.find_approval(tx, approval_id)
    if approval is None:
        raise NotFoundError(approval_name(tx.placement, approval_id))
    return approval


def policy_name(placement: Placement) -> str:
    """Name a tenant's policy as a resource."""
    return f"tenants/{placement.tenant_id}/keyPolicy"


async def _decide_use(
    tenant: TenantHandle,
    approval_id: UUID,
    *,
    principal: Principal,
    decided: Callable[[TenantTransaction, Approval, Administrator], Awaitable[Approval]],
) -> Approval:
    async def work(tx: TenantTransaction) -> Approval:
        name = approval_name(tx.placement, approval_id)
        before = await store.find_approval_for_update(tx, approval_id)
        if before is None:
            raise NotFoundError(name)
        after = await decided(tx, before, await _administrator(tx, principal))
        if after == before:
            tx.unchanged()
            return after
        await store.update_approval(tx, after)
        details = {**approval_details(after), "uses": after.uses_left, "expire_time": after.expire_time.isoformat()}
        tx.record(Effect(resource=name, details=details))
        return after

    return await tenant.run(work)


async def _administrator(tx: TenantTransaction, principal: Principal) -> Administrator:
    """Say who changes something, and who stands behind the credential."""
    behind = await tokens_store.find_behind(tx, principal)
    return Administrator(name=str(principal), is_tenants=principal.role in TENANT_BOUND, behind=behind)


def _told(terms: Terms) -> dict[str, JsonValue]:
    rules: list[JsonValue] = [*write_rules(terms.rules)]
    return {"enforced": terms.enforced, "locked": terms.locked, "rules": rules}


async def _settled(policy: Policy, placement: Placement, *, system: SystemHandle) -> Policy:
    """Return the policy once the tenant's transactions from before its COMMIT have ended: they go by another one."""
    begun = await system.run(store.now)
    for _ in range(_LOOKS):
        if not await system.run(lambda tx: store.open_transactions(tx, placement.number, begun=begun)):
            return policy
        await asyncio.sleep(_LOOK_AGAIN_S)
    text = "the key policy is changed, but what its tenant was doing before has not ended: make the change again"
    raise UnavailableError(text, reason="KEY_POLICY_UNCONFIRMED")
