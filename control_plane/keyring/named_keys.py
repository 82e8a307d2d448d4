"""Keys that a tenant makes itself: how one comes into being, and how its end is announced and taken back."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm

from control_plane.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    PreconditionError,
    QuotaExceededError,
)
from control_plane.keyring import store
from control_plane.keyring.model import Key
from control_plane.keyring.service import get_key
from control_plane.keys import store as keys_store
from control_plane.keys.material import Material
from control_plane.keys.named import store as named_store
from control_plane.keys.named.material import new_material
from control_plane.keys.named.model import MOST_KEYS, Kind, NamedKey, Origin, State, refuse_built_in
from control_plane.keys.named.rsa_pool import RsaPool
from control_plane.keys.wrapping import Wrapping
from control_plane.postgres.database import SystemHandle, SystemTransaction
from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement

FIRST_VERSION: Final = 1
# The KEK that a key was wrapped under may be replaced before the key is stored; not twice in a row.
ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What keys are made with."""

    wrapping: Wrapping
    pool: RsaPool


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """A request for a key; valid."""

    placement: Placement
    key_id: str
    kind: Kind
    actor: str
    request_id: UUID | None
    request_hash: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """The key's resource name."""
        return f"tenants/{self.placement.tenant_id}/keys/{self.key_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A request to change the state of a key; valid."""

    placement: Placement
    key_id: str
    etag: str

    @property
    def name(self) -> str:
        """The key's resource name."""
        return f"tenants/{self.placement.tenant_id}/keys/{self.key_id}"


async def create_key(system: SystemHandle, creation: Creation, *, making: Making, now: datetime) -> Key:
    """Make a key with its first version, or return the one that the same request made.

    Raises:
        AlreadyExistsError: there is, or was, one of this id, or the request id was used for another request.
        PreconditionError: the tenant has ruled such keys out, or this machine cannot make them; nothing was made.
        QuotaExceededError: the tenant has as many keys as it may have.
    """
    if (earlier := await check_creation(system, creation)) is not None:
        return earlier
    material = await _material(creation, making.pool)
    key = _new_key(creation, now)
    for _ in range(ATTEMPTS - 1):
        try:
            return await _keep(system, creation, key, material=material, making=making)
        except ConflictError:
            continue
    return await _keep(system, creation, key, material=material, making=making)


async def check_creation(system: SystemHandle, creation: Creation) -> Key | None:
    """Raise what `create_key` would raise, or return what the same request has made. Changes nothing."""

    async def work(tx: SystemTransaction) -> Key | None:
        tx.unchanged()
        # Held first: the same request may be making the key at this moment.
        await check_tenant(tx, creation.placement)
        earlier = await _find_earlier(tx, creation)
        if earlier is None:
            await _check(tx, creation)
        return earlier

    return await system.run(work)


async def schedule_destruction(
    system: SystemHandle, change: Change, *, waiting: timedelta, now: datetime, validate_only: bool = False
) -> Key:
    """Have a key destroyed after a while. From the answer on it is not used.

    Raises:
        NotFoundError: the tenant has no such key.
        EtagMismatchError: the caller has seen it otherwise.
        PreconditionError: every tenant has this key, or it waits already, or is gone.
    """
    return await _changed(
        system,
        change,
        lambda named: named.scheduled(now, waiting=waiting, name=change.name),
        validate_only=validate_only,
    )


async def restore_key(system: SystemHandle, change: Change) -> Key:
    """Take back a destruction that is scheduled. Raises like `schedule_destruction`."""
    return await _changed(system, change, lambda named: named.restored(change.name))


async def check_tenant(tx: SystemTransaction, placement: Placement) -> None:
    """Keep others from making keys of the tenant until the transaction ends; raise where it is not ready, or sealed."""
    tenant = f"tenants/{placement.tenant_id}"
    if await store.hold(tx, placement.uid) in {None, "PROVISIONING"}:
        raise PreconditionError(tenant, f"{tenant} is still being created", reason="TENANT_NOT_READY")
    await keys_store.check_unsealed(tx, placement.uid)


async def check_room(tx: SystemTransaction, placement: Placement) -> None:
    """Raise QuotaExceededError where the tenant may have no further key. The caller holds the tenant."""
    if await named_store.count(tx, placement.uid) >= MOST_KEYS:
        tenant = f"tenants/{placement.tenant_id}"
        raise QuotaExceededError(tenant, f"a tenant may have {MOST_KEYS} keys of its own", reason="KEY_LIMIT_REACHED")


async def siblings(system: SystemHandle, tenant_uid: UUID) -> keys_store.Siblings:
    """Return what a new key of the tenant is wrapped beside. Changes nothing."""

    async def work(tx: SystemTransaction) -> keys_store.Siblings:
        tx.unchanged()
        return await keys_store.siblings(tx, tenant_uid)

    return await system.run(work)


async def _changed(
    system: SystemHandle, change: Change, changed: Callable[[NamedKey], NamedKey], *, validate_only: bool = False
) -> Key:
    async def work(tx: SystemTransaction) -> Key:
        before = await named_store.hold(tx, change.placement.uid, change.key_id)
        if before is None:
            # A key of the tenant's own may have been called so before every tenant had one of that name.
            refuse_built_in(change.key_id, change.name)
            raise NotFoundError(change.name)
        (await get_key(tx, change.placement, change.key_id)).check_etag(change.etag)
        after = changed(before)
        if validate_only:
            tx.unchanged()
            return await get_key(tx, change.placement, change.key_id)
        await named_store.change(tx, after)
        when = None if after.destroy_time is None else after.destroy_time.isoformat()
        details = {"state": after.state.value, "destroy_time": when}
        tx.record(Effect(resource=change.name, placement=change.placement, details=details))
        return await get_key(tx, change.placement, change.key_id)

    return await system.run(work)


async def _find_earlier(tx: SystemTransaction, creation: Creation) -> Key | None:
    """Return what the same request has made."""
    if creation.request_id is None:
        return None
    uid, actor = creation.placement.uid, creation.actor
    found = await named_store.find_by_request(tx, uid, actor=actor, request_id=creation.request_id)
    if found is None:
        return None
    if found.request_hash != creation.request_hash:
        text = "the request id was used for another request"
        raise AlreadyExistsError(creation.name, text, reason="REQUEST_ID_REUSED")
    return await get_key(tx, creation.placement, found.key_id)


async def _check(tx: SystemTransaction, creation: Creation) -> None:
    await check_tenant(tx, creation.placement)
    if await named_store.find(tx, creation.placement.uid, creation.key_id) is not None:
        raise AlreadyExistsError(creation.name)
    await check_room(tx, creation.placement)
    policy = await keys_store.certificate_policy(tx, creation.placement.uid)
    creation.kind.check_policy(policy, name=creation.name)


async def _material(creation: Creation, pool: RsaPool) -> Material:
    try:
        return await asyncio.to_thread(new_material, creation.kind, make=pool.take)
    except UnsupportedAlgorithm as error:
        text = f"keys of {creation.kind.algorithm} cannot be made here"
        raise PreconditionError(creation.name, text, reason="ALGORITHM_UNAVAILABLE") from error


async def _keep(system: SystemHandle, creation: Creation, key: NamedKey, *, material: Material, making: Making) -> Key:
    beside = await siblings(system, key.tenant_uid)
    version = await making.wrapping.named_version(key, material, version=FIRST_VERSION, beside=beside)

    async def work(tx: SystemTransaction) -> Key:
        await check_tenant(tx, creation.placement)
        earlier = await _find_earlier(tx, creation)
        if earlier is not None:
            tx.unchanged()
            return earlier
        await _check(tx, creation)
        await named_store.insert(tx, key)
        await keys_store.insert_missing(tx, [version])
        details = {"purpose": key.kind.purpose.value, "algorithm": key.kind.algorithm}
        tx.record(Effect(resource=creation.name, placement=creation.placement, details=details))
        return await get_key(tx, creation.placement, creation.key_id)

    return await system.run(work)


def _new_key(creation: Creation, now: datetime) -> NamedKey:
    return NamedKey(
        tenant_uid=creation.placement.uid,
        key_id=creation.key_id,
        kind=creation.kind,
        origin=Origin.GENERATED,
        state=State.ENABLED,
        create_time=now,
        actor=creation.actor,
        request_id=creation.request_id,
        request_hash=creation.request_hash,
    )
