"""What can be done with keys. One function, one transaction."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from control_plane.errors import NotFoundError, PreconditionError
from control_plane.ids import new_uuid
from control_plane.keyring import store
from control_plane.keyring.model import NAMED_STEPS, STEPS, Key, KeyVersion, VersionState
from control_plane.keys import store as keys_store
from control_plane.keys.model import BUILT_IN_IDS, Purpose
from control_plane.operations import service as operations
from control_plane.operations.model import Operation, OperationState, StepRecord, StepState
from control_plane.operations.plan import DeferJob
from control_plane.postgres.database import SystemHandle, SystemTransaction
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.postgres.placement import Placement

KIND: Final = "keys.rotate."
"""What the kinds of rotations begin with; the key's id follows, behind `named.` where it is of a tenant's own."""
NAMED_KIND: Final = f"{KIND}named."


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to rotate a key; valid."""

    placement: Placement
    key_id: str
    etag: str
    actor: str
    call_request_id: str
    request_id: UUID | None
    request_hash: bytes

    @property
    def name(self) -> str:
        """The key's resource name."""
        return f"tenants/{self.placement.tenant_id}/keys/{self.key_id}"


async def list_keys(tx: SystemTransaction, placement: Placement) -> list[Key]:
    """List the tenant's keys, all versions of each."""
    return await store.keys_of(tx, placement.uid, tenant_name=f"tenants/{placement.tenant_id}")


async def get_key(tx: SystemTransaction, placement: Placement, key_id: str) -> Key:
    """Return one key with all its versions; raise NotFoundError where there is none of that name."""
    for key in await list_keys(tx, placement):
        if key.id == key_id:
            return key
    raise NotFoundError(f"tenants/{placement.tenant_id}/keys/{key_id}")


async def rotate_key(system: SystemHandle, request: Request, *, defer: DeferJob, now: datetime) -> Operation:
    """Begin a rotation, or return the operation that the same request began.

    Raises:
        AlreadyExistsError: the request id was used for another request.
        EtagMismatchError: the key is not as the caller has seen it.
        NotFoundError: there is no such key.
        PreconditionError: the tenant is still being created, the key is not rotated, or one of its keys is just now, or
            its keys are being recovered.
    """
    wanted = _new_operation(request, now)

    async def work(tx: SystemTransaction) -> Operation:
        # First, since a request that is repeated finds the key as it was changed by itself.
        operation = await operations.begin(tx, wanted)
        if operation.id != wanted.id:
            tx.unchanged()
            return operation
        key = await _check(tx, request)
        version = key.versions[0].version + 1
        await store.begin_rotation(tx, wanted.id, key=key, version=version)
        details: Mapping[str, JsonValue] = {"operation": wanted.name, "version": version}
        tx.record(Effect(resource=key.name, placement=request.placement, details=details))
        await defer(wanted.id, tx)
        return wanted

    return await system.run(work)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionChange:
    """A request to bring a version into another state; valid."""

    placement: Placement
    key_id: str
    version: str
    state: VersionState
    etag: str


async def change_version(system: SystemHandle, change: VersionChange) -> tuple[Key, KeyVersion]:
    """Retire a version, or enable it; one that is in that state stays as it is. Return it, and its key, as they are.

    Raises:
        EtagMismatchError: the key is not as the caller has seen it.
        NotFoundError: there is no such version.
        PreconditionError: it is what seals, something rests on it, or its key's versions are not changed by hand.
    """
    placement = change.placement

    async def work(tx: SystemTransaction) -> tuple[Key, KeyVersion]:
        await store.hold(tx, placement.uid)
        key = await get_key(tx, placement, change.key_id)
        version = key.version(change.version)
        key.check_etag(change.etag)
        needed = await store.needed_enrolments(tx, placement.uid) if key.id == Purpose.ENROLMENT else ()
        key.check_change(version, change.state, needed=needed)
        if version.state is change.state:
            tx.unchanged()
            return key, version
        await store.change_state(
            tx, placement.uid, purpose=Purpose(key.id), version=version.version, state=change.state
        )
        name = f"{key.name}/versions/{version.version}"
        tx.record(Effect(resource=name, placement=placement, details={"state": change.state.value}))
        changed = await get_key(tx, placement, change.key_id)
        return changed, changed.version(change.version)

    return await system.run(work)


async def check_rotation(system: SystemHandle, request: Request) -> None:
    """Raise what `rotate_key` would raise of the key. Changes nothing."""

    async def work(tx: SystemTransaction) -> None:
        tx.unchanged()
        await _check(tx, request)

    await system.run(work)


async def _check(tx: SystemTransaction, request: Request) -> Key:
    """Return the key, and keep other rotations of the tenant from beginning until the transaction ends."""
    tenant = f"tenants/{request.placement.tenant_id}"
    state = await store.hold(tx, request.placement.uid)
    if state in {None, "PROVISIONING"}:
        raise PreconditionError(tenant, f"{tenant} is still being created", reason="TENANT_NOT_READY")
    running = await store.running_rotation(tx, request.placement.uid, key=request.key_id)
    key = await get_key(tx, request.placement, request.key_id)
    key.check_rotatable()
    if key.named is not None:
        policy = await keys_store.certificate_policy(tx, request.placement.uid)
        key.named.kind.check_policy(policy, name=key.name)
    if running is not None:
        operation = f"operations/{running}"
        raise PreconditionError(
            key.name,
            f"{operation} is rotating a key of the tenant; one at a time",
            reason="ROTATION_IN_PROGRESS",
            operation=operation,
        )
    recovery = await store.open_recovery(tx, request.placement.uid)
    if recovery is not None:
        name = f"{tenant}/keyRecoveries/{recovery}"
        raise PreconditionError(
            key.name,
            f"{name} is to give the tenant's keys a new KEK: cancel it, or wait for it",
            reason="RECOVERY_IN_PROGRESS",
            recovery=name,
        )
    key.check_etag(request.etag)
    return key


def _new_operation(request: Request, now: datetime) -> Operation:
    is_built_in = request.key_id in BUILT_IN_IDS
    prefix, steps = (KIND, STEPS.get(request.key_id, ())) if is_built_in else (NAMED_KIND, NAMED_STEPS)
    return Operation(
        id=new_uuid(),
        kind=f"{prefix}{request.key_id}",
        tenant_id=request.placement.tenant_id,
        tenant_uid=request.placement.uid,
        actor=request.actor,
        call_request_id=request.call_request_id,
        state=OperationState.RUNNING,
        steps=tuple(StepRecord(name=name, state=StepState.PENDING) for name in steps),
        create_time=now,
        request_id=request.request_id,
        request_hash=request.request_hash,
    )
