"""What can be done with tenants. One function, one transaction."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from control_plane.errors import AlreadyExistsError, NotFoundError, UnavailableError
from control_plane.ids import TenantId, dns_label, new_uuid, schema_name
from control_plane.operations import service as operations
from control_plane.operations.model import Operation, OperationState, StepRecord, StepState
from control_plane.operations.plan import DeferJob
from control_plane.postgres.database import SystemHandle, SystemTransaction
from control_plane.postgres.directory import MAXIMUM_AGE
from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement
from control_plane.tenants import store
from control_plane.tenants.model import Action, Settings, State, Tenant

KIND: Final = "tenants.create"
# What the transaction of CreateTenant does itself, and what the operation does afterwards.
FIRST_STEPS: Final = ("identity", "registry")
LATER_STEPS: Final = ("keys", "schema", "cache", "administrator", "verification", "activation")

# From when an answer is found to be allowed until the last byte of it has left the process.
_ON_ITS_WAY: Final = timedelta(milliseconds=250)
# A backend that is told to end does so in a few milliseconds.
_LOOKS: Final = 100
_LOOK_EVERY: Final = timedelta(milliseconds=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """A request for a tenant; valid."""

    tenant_id: TenantId
    settings: Settings
    actor: str
    call_request_id: str
    request_id: UUID | None
    request_hash: bytes


async def create_tenant(system: SystemHandle, creation: Creation, *, defer: DeferJob, now: datetime) -> Operation:
    """Register the tenant and begin its provisioning, or return the operation that the same request began.

    Raises:
        AlreadyExistsError: when the id or a domain is taken, or the request id was used for another request.
    """
    tenant = _new_tenant(creation, now)
    wanted = _new_operation(creation, tenant, now)

    async def work(tx: SystemTransaction) -> Operation:
        # The tenant has no audit log yet; the activation writes the entry, in the caller's name.
        tx.unchanged()
        operation = await operations.begin(tx, wanted)
        if operation.id == wanted.id:
            await _check_domains(tx, tenant)
            if not await store.insert(tx, tenant):
                raise AlreadyExistsError(tenant.name)
            await defer(operation.id, tx)
        return operation

    return await system.run(work)


async def check_available(system: SystemHandle, creation: Creation, *, now: datetime) -> None:
    """Raise AlreadyExistsError when the id or a domain is taken. Changes nothing."""

    async def work(tx: SystemTransaction) -> None:
        tx.unchanged()
        if (tenant := await store.find(tx, creation.tenant_id)) is not None:
            raise AlreadyExistsError(tenant.name)
        await _check_domains(tx, _new_tenant(creation, now))

    await system.run(work)


async def change_tenant(
    system: SystemHandle, tenant_id: TenantId, change: Callable[[Tenant], Tenant], *, validate_only: bool = False
) -> Tenant:
    """Replace the tenant by what `change` makes of it, with an entry in its audit log; nothing if that is the same.

    Raises:
        NotFoundError: when there is no such tenant.
        AlreadyExistsError: when another tenant has one of its domains.
    """

    async def work(tx: SystemTransaction) -> Tenant:
        before = await store.find_for_update(tx, tenant_id)
        placement = await store.find_placement(tx, tenant_id)
        if before is None or placement is None:
            raise NotFoundError(f"tenants/{tenant_id}")
        after = change(before)
        await _check_domains(tx, after)
        if after == before or validate_only:
            tx.unchanged()
            return after
        after = await store.update(tx, after)
        tx.record(Effect(resource=after.name, placement=placement, details=_differences(before, after)))
        return after

    return await system.run(work)


async def restrict_tenant(system: SystemHandle, tenant_id: TenantId, *, now: datetime) -> None:
    """Make an active tenant read-only; leave any other as it is. Raises NotFoundError when there is no such tenant."""
    await change_tenant(
        system, tenant_id, lambda tenant: tenant.after(Action.RESTRICT, now) if tenant.state is State.ACTIVE else tenant
    )


async def await_seal(
    system: SystemHandle, placement: Placement, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> None:
    """Return once nothing that began before the tenant was sealed can succeed any more, in whichever process.

    By then no process takes the tenant for a served one, and its transactions from before have ended or are ended here.

    Raises:
        UnavailableError: the tenant is sealed, but it cannot be told whether all of that has ended.
    """

    async def look(tx: SystemTransaction) -> datetime:
        tx.unchanged()
        return await store.read_clock(tx)

    async def end(tx: SystemTransaction) -> int:
        tx.unchanged()
        return await store.end_transactions(tx, placement, begun=begun)

    begun = await system.run(look)
    await sleep((MAXIMUM_AGE + _ON_ITS_WAY).total_seconds())
    for _ in range(_LOOKS):
        if not await system.run(end):
            return
        await sleep(_LOOK_EVERY.total_seconds())
    raise UnavailableError("the tenant is sealed, but what it was doing has not ended yet", reason="SEAL_UNCONFIRMED")


async def _check_domains(tx: SystemTransaction, tenant: Tenant) -> None:
    """Raise AlreadyExistsError when another tenant has one of the domains. Who takes it later, the database refuses."""
    taken = await store.find_taken_domain(tx, tenant) if tenant.settings.domains else None
    if taken is not None:
        raise AlreadyExistsError(tenant.name, f"{taken} is another tenant's", reason="DOMAIN_TAKEN")


def _new_tenant(creation: Creation, now: datetime) -> Tenant:
    return Tenant(
        id=creation.tenant_id,
        uid=new_uuid(),
        state=State.PROVISIONING,
        settings=creation.settings,
        schema=schema_name(creation.tenant_id),
        dns_label=dns_label(creation.tenant_id),
        revision=1,
        create_time=now,
        update_time=now,
    )


def _new_operation(creation: Creation, tenant: Tenant, now: datetime) -> Operation:
    done = [
        StepRecord(name=name, state=StepState.DONE, attempts=1, start_time=now, end_time=now) for name in FIRST_STEPS
    ]
    later = [StepRecord(name=name, state=StepState.PENDING) for name in LATER_STEPS]
    return Operation(
        id=new_uuid(),
        kind=KIND,
        tenant_id=tenant.id,
        tenant_uid=tenant.uid,
        actor=creation.actor,
        call_request_id=creation.call_request_id,
        state=OperationState.RUNNING,
        steps=(*done, *later),
        create_time=now,
        request_id=creation.request_id,
        request_hash=creation.request_hash,
    )


def _differences(before: Tenant, after: Tenant) -> dict[str, str]:
    pairs = {
        "state": (before.state, after.state),
        "display_name": (before.settings.display_name, after.settings.display_name),
        "tier": (before.settings.tier, after.settings.tier),
        "labels": (str(dict(before.settings.labels)), str(dict(after.settings.labels))),
        "admin_email": (before.settings.admin_email, after.settings.admin_email),
        "suspend_reason": (before.suspend_reason, after.suspend_reason),
        "purge_time": (before.purge_time, after.purge_time),
        "requests_per_minute": (before.settings.requests_per_minute, after.settings.requests_per_minute),
        "domains": (", ".join(before.settings.domains), ", ".join(after.settings.domains)),
        "max_policy_age": (before.settings.max_policy_age, after.settings.max_policy_age),
        "connection_pooling": (asdict(before.settings.connection_pooling), asdict(after.settings.connection_pooling)),
        "cache_bytes": (before.settings.cache_bytes, after.settings.cache_bytes),
        "rate_limits": (_rates(before), _rates(after)),
        "billing_day": (before.settings.billing_day, after.settings.billing_day),
        "time_zone": (before.settings.time_zone, after.settings.time_zone),
        "certificate_policy": (_certificates(before), _certificates(after)),
        "token_algorithm": (before.settings.token_algorithm, after.settings.token_algorithm),
    }
    return {name: str(new) for name, (old, new) in pairs.items() if old != new}


def _rates(tenant: Tenant) -> str:
    return ", ".join(f"{limit.window}={limit.units}" for limit in tenant.settings.rate_limits)


def _certificates(tenant: Tenant) -> str:
    policy = tenant.settings.certificate_policy
    keys = ", ".join(sorted(policy.keys)) or "as the profile has it"
    return f"authority {policy.authority}, keys {keys}, post-quantum {policy.post_quantum}"
