"""How a key that a tenant brings along comes in: a key pair for it alone, then what was wrapped under that.

The pair's private half lies among the tenant's keys, wrapped like all of them, and is deleted in the transaction that
keeps what came in. What came in is opened, looked at and wrapped again, and nothing of it is said to anybody.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm

from control_plane.errors import (
    AlreadyExistsError,
    ConflictError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    PreconditionError,
    QuotaExceededError,
    Violations,
)
from control_plane.ids import new_uuid
from control_plane.keyring.model import Key
from control_plane.keyring.named_keys import ATTEMPTS, Making, check_room, check_tenant, siblings
from control_plane.keyring.service import get_key
from control_plane.keys import store as keys_store
from control_plane.keys.material import Material
from control_plane.keys.model import IntegrityError, MissingKeyError
from control_plane.keys.named import store as named_store
from control_plane.keys.named.imports import LIFETIME, MOST_OPEN, Import, Method, new_pair, unwrap
from control_plane.keys.named.material import FIELD, imported_material
from control_plane.keys.named.model import Kind, NamedKey, Origin, State, requires_post_quantum
from control_plane.keys.store import StoredKey
from control_plane.postgres.database import SystemHandle, SystemTransaction
from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement

_DOES_NOT_OPEN: Final = "does not open: altered, or wrapped for another import, or in another way than it says"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A request for an import; valid."""

    placement: Placement
    key_id: str
    kind: Kind
    method: Method

    @property
    def name(self) -> str:
        """The resource name of the key."""
        return f"tenants/{self.placement.tenant_id}/keys/{self.key_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A wrapped key, and the import that it is for."""

    placement: Placement
    import_id: UUID
    actor: str
    wrapped: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """The resource name of the import."""
        return f"tenants/{self.placement.tenant_id}/importJobs/{self.import_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An import, and what is to be wrapped under."""

    made: Import
    public: bytes


async def begin_import(system: SystemHandle, wanted: Wanted, *, making: Making, now: datetime) -> Begun:
    """Make a key pair for one version of one key.

    Raises:
        AlreadyExistsError: there is a key of this id that was not imported, or is of another kind.
        PreconditionError: the tenant has ruled out such keys or such wrapping, or the key is not used any more.
        QuotaExceededError: the tenant has as many keys, or open imports, as it may have.
    """
    await check_import(system, wanted, now=now)
    try:
        pair = await asyncio.to_thread(new_pair, wanted.method, make=making.pool.take)
    except UnsupportedAlgorithm as error:
        text = f"{wanted.method} is not to be had here"
        raise PreconditionError(wanted.name, text, reason="ALGORITHM_UNAVAILABLE") from error
    made = Import(
        id=new_uuid(),
        tenant_uid=wanted.placement.uid,
        key_id=wanted.key_id,
        kind=wanted.kind,
        method=wanted.method,
        create_time=now,
        expire_time=now + LIFETIME,
    )
    stored = await making.wrapping.import_key(made, pair, beside=await siblings(system, made.tenant_uid))

    async def work(tx: SystemTransaction) -> None:
        await _check(tx, wanted, now=now)
        await named_store.insert_import(tx, made)
        await keys_store.insert_missing(tx, [stored])
        name = f"tenants/{wanted.placement.tenant_id}/importJobs/{made.id}"
        tx.record(Effect(resource=name, placement=wanted.placement, details={"key": wanted.name}))

    await system.run(work)
    return Begun(made=made, public=pair.public or b"")


async def check_import(system: SystemHandle, wanted: Wanted, *, now: datetime) -> None:
    """Raise what `begin_import` would raise. Changes nothing."""

    async def work(tx: SystemTransaction) -> None:
        tx.unchanged()
        await _check(tx, wanted, now=now)

    await system.run(work)


async def import_key(system: SystemHandle, delivery: Delivery, *, making: Making, now: datetime) -> Key:
    """Keep what was wrapped as the next version of its key, once; the same again returns the key as it is by now.

    Raises:
        InvalidArgumentError: what came does not open, or is not taken: says everything that is wrong with it.
        NotFoundError: the tenant has no such import.
        PreconditionError: the import was used for something else, or has expired.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return await _import(system, delivery, making=making, now=now)
        except (ConflictError, MissingKeyError):
            # The KEK was replaced meanwhile, or somebody else imports the same key.
            continue
    return await _import(system, delivery, making=making, now=now)


async def _import(system: SystemHandle, delivery: Delivery, *, making: Making, now: datetime) -> Key:
    digest = hashlib.sha256(delivery.wrapped).digest()

    async def look(tx: SystemTransaction) -> Key | Import:
        tx.unchanged()
        return await _open_import(tx, delivery, digest, now=now)

    found = await system.run(look)
    if isinstance(found, Key):
        return found
    beside = await siblings(system, found.tenant_uid)
    material = await _opened(delivery, found, making=making, beside=beside.keys)

    async def read(tx: SystemTransaction) -> tuple[NamedKey | None, int]:
        tx.unchanged()
        return await _next(tx, delivery, found)

    known, version = await system.run(read)
    key = known or _new_key(found, actor=delivery.actor, now=now)
    row = await making.wrapping.named_version(key, material, version=version, beside=beside)

    async def work(tx: SystemTransaction) -> Key:
        await check_tenant(tx, delivery.placement)
        again = await _open_import(tx, delivery, digest, now=now)
        if isinstance(again, Key):
            tx.unchanged()
            return again
        if await _next(tx, delivery, found) != (known, version):
            raise ConflictError(f"keys/{key.key_id} was changed while a version of it came in")
        if known is None:
            await check_room(tx, delivery.placement)
            await named_store.insert(tx, key)
        await keys_store.insert_missing(tx, [row])
        await named_store.use_import(tx, found, wrapped_sha256=digest)
        name = f"tenants/{delivery.placement.tenant_id}/keys/{key.key_id}/versions/{version}"
        details = {"origin": key.origin.value, "algorithm": key.kind.algorithm, "import": str(found.id)}
        tx.record(Effect(resource=name, placement=delivery.placement, details=details))
        return await get_key(tx, delivery.placement, key.key_id)

    return await system.run(work)


async def _check(tx: SystemTransaction, wanted: Wanted, *, now: datetime) -> None:
    await check_tenant(tx, wanted.placement)
    policy = await keys_store.certificate_policy(tx, wanted.placement.uid)
    wanted.kind.check_policy(policy, name=wanted.name)
    if requires_post_quantum(policy) and not wanted.method.is_post_quantum:
        text = f"{wanted.method} is not post-quantum, which the tenant requires: import by HPKE"
        raise PreconditionError(wanted.name, text, reason="KEY_POLICY", method=wanted.method.value)
    known = await named_store.hold(tx, wanted.placement.uid, wanted.key_id)
    _check_known(known, wanted.kind, name=wanted.name)
    if known is None:
        await check_room(tx, wanted.placement)
    if await named_store.count_imports(tx, wanted.placement.uid, now=now) >= MOST_OPEN:
        tenant, text = f"tenants/{wanted.placement.tenant_id}", f"a tenant may have {MOST_OPEN} imports open"
        raise QuotaExceededError(tenant, text, reason="IMPORT_LIMIT_REACHED")


def _check_known(known: NamedKey | None, kind: Kind, *, name: str) -> None:
    """Raise where a version that is brought along cannot be one of a key that is there."""
    if known is None:
        return
    known.check_enabled(name)
    if known.origin is not Origin.IMPORTED or known.kind != kind:
        raise AlreadyExistsError(name, f"{name} exists, and was not imported as {kind.algorithm}")


async def _open_import(tx: SystemTransaction, delivery: Delivery, digest: bytes, *, now: datetime) -> Key | Import:
    """Return the import, kept as it is; or, where it has taken in the very same, the key as it is by now."""
    found = await named_store.hold_import(tx, delivery.placement.uid, delivery.import_id)
    if found is None:
        raise NotFoundError(delivery.name)
    if found.wrapped_sha256 == digest:
        return await get_key(tx, delivery.placement, found.key_id)
    found.check_open(now, name=delivery.name)
    return found


async def _opened(delivery: Delivery, found: Import, *, making: Making, beside: Sequence[StoredKey]) -> Material:
    private = await making.wrapping.opened(_pair(found, beside))
    info = found.info(delivery.placement.tenant_id)
    try:
        key = await asyncio.to_thread(unwrap, found.method, private, delivery.wrapped, info=info)
    except IntegrityError:
        raise InvalidArgumentError(
            FieldViolation(field=FIELD, description=_DOES_NOT_OPEN, reason="WRAPPED_KEY")
        ) from None
    violations = Violations()
    material = await asyncio.to_thread(imported_material, key, found.kind, violations)
    violations.check()
    if material is None:
        message = "a key that is not taken has nothing wrong with it"
        raise RuntimeError(message)
    return material


def _pair(found: Import, beside: Sequence[StoredKey]) -> StoredKey:
    for stored in beside:
        if stored.key_id == found.stored_as:
            return stored
    raise MissingKeyError(f"the key of import {found.id}")


async def _next(tx: SystemTransaction, delivery: Delivery, found: Import) -> tuple[NamedKey | None, int]:
    """Return the key that a version is brought along for, if there is one, and the number of that version."""
    known = await named_store.hold(tx, found.tenant_uid, found.key_id)
    name = f"tenants/{delivery.placement.tenant_id}/keys/{found.key_id}"
    _check_known(known, found.kind, name=name)
    if known is None:
        return None, 1
    return known, (await get_key(tx, delivery.placement, found.key_id)).versions[0].version + 1


def _new_key(found: Import, *, actor: str, now: datetime) -> NamedKey:
    return NamedKey(
        tenant_uid=found.tenant_uid,
        key_id=found.key_id,
        kind=found.kind,
        origin=Origin.IMPORTED,
        state=State.ENABLED,
        create_time=now,
        actor=actor,
    )
