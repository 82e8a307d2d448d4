"""The one place that every use of a tenant's key passes: before the key is opened, and with the entry that tells of it.

`check` comes first, and costs no query while the policy is known from a moment ago and lets the use pass. `run` decides
again, in the transaction that writes the use's entry, by the policy as it is there: so an entry and the policy never
disagree, and what was opened meanwhile is not given out. Where the policy cannot be read, no key is used.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

import structlog

from control_plane.errors import PolicyDeniedError, QuotaExceededError, UnavailableError
from control_plane.ids import new_uuid
from control_plane.key_policies import store
from control_plane.key_policies.approvals import MOST_OF_ONE_WAITING, MOST_WAITING, Approval, State, asked
from control_plane.key_policies.decide import Decision, Unmatched, Verdict, decide
from control_plane.key_policies.model import KeyUse, Terms
from control_plane.keys.opened.cache import KeyCache
from control_plane.postgres.database import TenantHandle, TenantTransaction
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from control_plane.tokens import store as tokens_store
from control_plane.tokens.model import ANYBODY

_REMEMBERED: Final = timedelta(seconds=1)
_MOST_REMEMBERED: Final = 4096

T = TypeVar("T")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """A use that may be made, in this transaction."""

    details: dict[str, JsonValue]
    """What its entry in the audit log says of the decision: the reason code, and the approval that it has used."""


Record = Callable[[TenantTransaction, Permit], Awaitable[T]]
"""Writes the entry of a use, and what else belongs to it; as `TenantHandle.run`, it may be called again."""


class KeyGate:
    """Lets uses of keys pass, as each tenant's policy says."""

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Remember what policies say for a second, to refuse early; never to let pass."""
        self._now = now
        self._terms: KeyCache[UUID, Terms] = KeyCache(lifetime=_REMEMBERED, capacity=_MOST_REMEMBERED)

    async def check(self, tenant: TenantHandle, use: KeyUse) -> None:
        """Refuse a use before a key is opened for it. What passes here has to pass `run`.

        Raises:
            PolicyDeniedError: the policy denies it, or wants an approval first, for which there is a request now.
            QuotaExceededError: it wants an approval, and too many requests wait for one.
            UnavailableError: the policy cannot be read.
        """
        known = self._terms.get(tenant.placement.uid)
        if known is not None and _decided(known, use, self._now()).verdict is Verdict.ALLOWED:
            return

        async def nothing(tx: TenantTransaction, _: Permit) -> None:
            tx.unchanged()

        await self._run(tenant, use, nothing, takes=False)

    async def run(self, tenant: TenantHandle, use: KeyUse, record: Record[T]) -> T:
        """Run `record` in a transaction of the tenant's, if the use may be made at that moment. Raises like `check`."""
        return await self._run(tenant, use, record, takes=True)

    async def _run(self, tenant: TenantHandle, use: KeyUse, record: Record[T], *, takes: bool) -> T:
        async def work(tx: TenantTransaction) -> T | PolicyDeniedError:
            now = self._now()
            since = self._terms.epoch
            terms = await _read(tx)
            self._terms.put(tx.placement.uid, terms, owner=tx.placement.uid, since=since)
            decision = _decided(terms, use, now)
            if decision.unmatched is not None:
                raise _denied(tx.placement, use, decision.unmatched)
            details: dict[str, JsonValue] = {"reason_code": use.reason_code.value} if use.reason_code else {}
            if decision.verdict is Verdict.ALLOWED:
                return await record(tx, Permit(details=details))
            approval = await store.find_approval_of(tx, use)
            if approval is None or not approval.is_live(now):
                return await _request(tx, use, now)
            name = approval_name(tx.placement, approval.id)
            if approval.state is not State.APPROVED:
                raise _undecided(tx.placement, use, approval)
            if takes:
                await store.take_use(tx, approval.id)
            return await record(tx, Permit(details={**details, "approval": name}))

        passed = await tenant.run(work)
        if isinstance(passed, PolicyDeniedError):
            raise passed
        return passed


async def _read(tx: TenantTransaction) -> Terms:
    try:
        return (await store.find_policy(tx)).terms
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(error) from error


def _decided(terms: Terms, use: KeyUse, now: datetime) -> Decision:
    try:
        return decide(terms, use, now)
    except ValueError as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> UnavailableError:
    _log.error("key_policy_unreadable", exc_info=error)
    return UnavailableError("the tenant's key policy cannot be read: no key is used", reason="KEY_POLICY_UNREADABLE")


async def _request(tx: TenantTransaction, use: KeyUse, now: datetime) -> PolicyDeniedError:
    """Make the request for approval that a use needs. It is committed, and the use refused all the same."""
    await store.drop_over(tx, now)
    of_all, of_one = await store.count_waiting(tx, use.principal)
    if of_all >= MOST_WAITING or of_one >= MOST_OF_ONE_WAITING:
        text = f"{of_all} uses of keys wait for approval, and {of_one} of them are {use.principal}'s"
        raise QuotaExceededError(f"tenants/{tx.placement.tenant_id}", text)
    approval = asked(use, approval_id=new_uuid(), behind=await _behind(tx, use), now=now)
    await store.insert_approval(tx, approval)
    tx.record(Effect(resource=approval_name(tx.placement, approval.id), details=approval_details(approval)))
    return _undecided(tx.placement, use, approval)


async def _behind(tx: TenantTransaction, use: KeyUse) -> frozenset[str]:
    """Say who stands behind the credential: nobody of the tenant's behind a service's, anybody behind a lost one."""
    issuers = await tokens_store.find_issuers(tx, use.token_id) if use.token_id else None
    if issuers is not None:
        return issuers
    return frozenset() if use.role == Role.SERVICE else frozenset({ANYBODY})


def _undecided(placement: Placement, use: KeyUse, approval: Approval) -> PolicyDeniedError:
    if approval.state is State.DENIED:
        return _denied(placement, use, Unmatched.APPROVAL)
    name = approval_name(placement, approval.id)
    text = f"the key policy wants another person's consent to this: {name} waits for it"
    return PolicyDeniedError(key_name(placement, use.key), text, reason="KEY_USE_NEEDS_APPROVAL", approval=name)


def _denied(placement: Placement, use: KeyUse, unmatched: Unmatched) -> PolicyDeniedError:
    name = key_name(placement, use.key)
    text = f"the key policy of tenants/{placement.tenant_id} does not allow this use of {name}: {unmatched}"
    return PolicyDeniedError(
        name, text, reason="KEY_POLICY_DENIED", unmatched=unmatched, cause=f"KEY_POLICY_DENIED_{unmatched}"
    )


def approval_details(approval: Approval) -> dict[str, JsonValue]:
    """Say in the audit log what an approval is about."""
    return {
        "principal": approval.principal,
        "key": approval.key,
        "operation": approval.operation.value,
        "reason_code": approval.reason_code.value if approval.reason_code else "",
        "reason": approval.reason,
    }


def approval_name(placement: Placement, approval_id: UUID) -> str:
    """Name an approval as a resource."""
    return f"tenants/{placement.tenant_id}/keyUseApprovals/{approval_id}"


def key_name(placement: Placement, key: str) -> str:
    """Name a key as a resource."""
    return f"tenants/{placement.tenant_id}/keys/{key}"
