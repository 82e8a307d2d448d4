"""What can be done with secrets. One function, one transaction.

A value comes in as bytes, and is sealed before anything is written; it is opened after the transaction that read it has
committed its entry in the audit log. Nothing in between knows it.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from control_plane.errors import AlreadyExistsError, KeyRetiredError, NotFoundError, QuotaExceededError
from control_plane.ids import new_uuid
from control_plane.key_policies.gate import KeyGate, Permit
from control_plane.key_policies.model import KeyUse
from control_plane.keys.model import IntegrityError
from control_plane.keys.sealing.objects import storage_version
from control_plane.keys.service import TenantKeys
from control_plane.postgres.database import TenantHandle, TenantTransaction
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.postgres.placement import Placement
from control_plane.secrets import store
from control_plane.secrets.model import (
    FIRST_VERSION,
    LATEST,
    MOST_SECRETS,
    MOST_VALUES,
    Action,
    Secret,
    Settings,
    State,
    Version,
    check_etag,
    fingerprint,
    is_secret_id,
    object_name,
)

_REQUESTS_LABEL: Final = b"secrets/requests/1"
BEFORE_ALL: Final = (UUID(int=0), 0)
# 64 KiB each, at most: some MiB in memory.
_RESEALED_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """A request for a secret; valid."""

    secret_id: str
    settings: Settings
    actor: str
    request_id: UUID | None
    # Of the first version; empty where there is to be none.
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """A request for another version; valid."""

    secret_id: str
    actor: str
    request_id: UUID | None
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A value that was read, and which version's it is."""

    number: int
    payload: bytes = field(repr=False)
    sha256: bytes = field(repr=False)


async def create_secret(
    tenant: TenantHandle, creation: Creation, *, keys: TenantKeys, now: datetime, validate_only: bool = False
) -> Secret:
    """Create a secret, with a first version where there is a value; or return what the same request made.

    Raises:
        AlreadyExistsError: when there is one of this id, or the request id was used for another request.
        QuotaExceededError: when the tenant has as many secrets as it may have.
    """
    hashes = await _creation_hashes(tenant.placement, creation, keys=keys) if creation.request_id else []
    secret = _new_secret(creation, request_hash=hashes[0] if hashes else None, now=now)
    version = _new_version(secret.uid, FIRST_VERSION, now=now)
    sealed = await _sealed(tenant.placement, version, creation.payload, keys=keys) if creation.payload else None

    async def work(tx: TenantTransaction) -> Secret:
        name = secret_name(tx.placement, secret.id)
        earlier = None if secret.request_id is None else await store.find_by_request(tx, secret.request_id)
        if earlier is not None:
            tx.unchanged()
            _check_same(earlier, hashes, name=secret_name(tx.placement, earlier.id))
            return earlier
        if await store.find(tx, secret.id) is not None:
            raise AlreadyExistsError(name)
        if await store.count(tx) >= MOST_SECRETS:
            raise QuotaExceededError(_tenant_name(tx.placement), f"a tenant may have {MOST_SECRETS} secrets")
        if validate_only:
            tx.unchanged()
            return secret
        await store.insert(tx, secret)
        tx.record(Effect(resource=name, details={"uid": str(secret.uid)}))
        if sealed is not None:
            await store.insert_version(tx, version, sealed=sealed)
            tx.record(Effect(resource=version_name(tx.placement, secret.id, version.number)))
        return secret

    created = await tenant.run(work)
    await _seal_with_newest(tenant, sealed, keys=keys)
    return created


async def update_secret(
    tenant: TenantHandle, secret_id: str, change: Callable[[Secret], Secret], *, validate_only: bool = False
) -> Secret:
    """Replace a secret's description and labels by what `change` makes of them; nothing if that is the same.

    Raises:
        NotFoundError: when the tenant has no such secret.
    """

    async def work(tx: TenantTransaction) -> Secret:
        before = await _locked(tx, secret_id)
        after = change(before)
        if after == before or validate_only:
            tx.unchanged()
            return after
        await store.update(tx, after)
        changed: list[JsonValue] = [
            name
            for name in ("description", "labels")
            if getattr(after.settings, name) != getattr(before.settings, name)
        ]
        tx.record(Effect(resource=secret_name(tx.placement, secret_id), details={"changed": changed}))
        return after

    return await tenant.run(work)


async def delete_secret(tenant: TenantHandle, secret_id: str, *, etag: str) -> None:
    """Delete a secret with all its versions, for good.

    Raises:
        NotFoundError: when the tenant has no such secret.
        EtagMismatchError: when the caller has seen another one.
    """

    async def work(tx: TenantTransaction) -> None:
        secret = await _locked(tx, secret_id)
        name = secret_name(tx.placement, secret_id)
        check_etag(name, etag, current=secret.etag)
        await store.delete(tx, secret.uid)
        tx.record(Effect(resource=name, details={"uid": str(secret.uid), "latest_version": secret.latest_version}))

    await tenant.run(work)


async def add_version(
    tenant: TenantHandle, addition: Addition, *, keys: TenantKeys, now: datetime, validate_only: bool = False
) -> Version:
    """Add a version with the next number, or return the one that the same request added.

    Raises:
        NotFoundError: when the tenant has no such secret.
        AlreadyExistsError: when the request id was used for another request.
        QuotaExceededError: when the secret has as many values as it may have.
    """
    hashes = await _request_hashes(
        tenant.placement, addition.actor, addition.secret_id, payload=addition.payload, keys=keys
    )
    # The number is known only under the lock, and sealing needs it. That the vault is asked before, if at all, keeps
    # others from waiting for it.
    await keys.encrypt(tenant.placement, b"", object_name=object_name(UUID(int=0)))
    sealed: bytes | None = None

    async def work(tx: TenantTransaction) -> Version:
        secret = await _locked(tx, addition.secret_id)
        wanted = replace(
            _new_version(secret.uid, secret.latest_version + 1, now=now),
            request_id=addition.request_id,
            request_hash=hashes[0] if addition.request_id else None,
        )
        earlier = None if wanted.request_id is None else await store.find_version_by_request(tx, wanted.request_id)
        if earlier is not None:
            tx.unchanged()
            _check_same(earlier, hashes, name=secret_name(tx.placement, secret.id))
            return earlier
        if await store.count_values(tx, secret.uid) >= MOST_VALUES:
            name = secret_name(tx.placement, secret.id)
            raise QuotaExceededError(name, f"a secret may have {MOST_VALUES} versions that are not destroyed")
        if validate_only:
            tx.unchanged()
            return wanted
        nonlocal sealed
        sealed = await _sealed(tx.placement, wanted, addition.payload, keys=keys)
        await store.update(tx, secret.with_another(now))
        await store.insert_version(tx, wanted, sealed=sealed)
        tx.record(Effect(resource=version_name(tx.placement, secret.id, wanted.number)))
        return wanted

    added = await tenant.run(work)
    await _seal_with_newest(tenant, sealed, keys=keys)
    return added


async def access_version(
    tenant: TenantHandle, secret_id: str, number: int | None, *, use: KeyUse, gate: KeyGate, keys: TenantKeys
) -> Opened:
    """Read a version's value; None is the latest, whatever its state. That somebody read it goes into the audit log.

    It is opened when its entry is committed, so that no value leaves without one; and the entry is written where the
    tenant's key policy lets the use pass.

    Raises:
        PolicyDeniedError: that does not.
        NotFoundError: when there is no such version.
        PreconditionError: when it is disabled, or destroyed.
        IntegrityError: what is stored was not sealed for this tenant, secret and version.
    """

    async def work(tx: TenantTransaction, permit: Permit) -> tuple[Version, bytes]:
        found = await store.find_sealed(tx, secret_id, number) if is_secret_id(secret_id) else None
        if found is None:
            raise NotFoundError(version_name(tx.placement, secret_id, number))
        version, _ = found
        name = version_name(tx.placement, secret_id, version.number)
        version.check_readable(name=name)
        asked: dict[str, JsonValue] = {"asked": LATEST} if number is None else {}
        said: dict[str, JsonValue] = {"reason": use.reason} if use.reason else {}
        tx.record(Effect(resource=name, details={**asked, **said, **permit.details}))
        return found

    version, sealed = await gate.run(tenant, use, work)
    payload = await keys.decrypt(
        tenant.placement, sealed, object_name=object_name(version.secret_uid), object_version=version.number
    )
    return Opened(number=version.number, payload=payload, sha256=hashlib.sha256(payload).digest())


async def reseal_versions(
    tenant: TenantHandle, *, keys: TenantKeys, key_version: int, after: tuple[UUID, int] = BEFORE_ALL
) -> tuple[int, tuple[UUID, int] | None]:
    """Seal some of the values anew that older versions of the tenant's key have sealed, those behind `after`.

    Return how many that were, and behind which to go on; None at the end. What does not open stays as it is, and what
    is destroyed meanwhile stays destroyed. Whoever reads a value meanwhile is not disturbed.
    """
    found = await tenant.run(lambda tx: store.list_sealed_before(tx, key_version, after=after, limit=_RESEALED_AT_ONCE))
    resealed = [
        (uid, number, old, await _resealed(tenant.placement, uid, number, old, keys)) for uid, number, old in found
    ]

    async def work(tx: TenantTransaction) -> int:
        tx.unchanged()
        return sum(
            [
                await store.replace_sealed(tx, uid, number, before=old, after=new)
                for uid, number, old, new in resealed
                if new is not None
            ]
        )

    count = await tenant.run(work)
    last = found[-1][:2] if len(found) == _RESEALED_AT_ONCE else None
    return count, last


async def change_version(
    tenant: TenantHandle, secret_id: str, number: int, *, action: Action, etag: str, now: datetime
) -> Version:
    """Enable, disable or destroy a version; one that is there already stays as it is.

    Raises:
        NotFoundError: when there is no such version.
        EtagMismatchError: when the caller has seen another state.
        PreconditionError: when it is destroyed, and is not to be.
    """

    async def work(tx: TenantTransaction) -> Version:
        secret = await _locked(tx, secret_id)
        name = version_name(tx.placement, secret_id, number)
        before = await store.find_version(tx, secret.uid, number)
        if before is None:
            raise NotFoundError(name)
        check_etag(name, etag, current=before.etag)
        after = before.after(action, now, name=name)
        if after == before:
            tx.unchanged()
            return after
        await store.update_version(tx, after)
        tx.record(Effect(resource=name))
        return after

    return await tenant.run(work)


async def existing(tx: TenantTransaction, secret_id: str) -> Secret:
    """Return a secret. Raises NotFoundError when the tenant has none of this id."""
    secret = await store.find(tx, secret_id) if is_secret_id(secret_id) else None
    if secret is None:
        raise NotFoundError(secret_name(tx.placement, secret_id))
    return secret


def secret_name(placement: Placement, secret_id: str) -> str:
    """Name a secret as a resource."""
    return f"{_tenant_name(placement)}/secrets/{secret_id}"


def version_name(placement: Placement, secret_id: str, number: int | None) -> str:
    """Name a version as a resource; None is the latest."""
    return f"{secret_name(placement, secret_id)}/versions/{LATEST if number is None else number}"


def _tenant_name(placement: Placement) -> str:
    return f"tenants/{placement.tenant_id}"


async def _locked(tx: TenantTransaction, secret_id: str) -> Secret:
    secret = await store.find_for_update(tx, secret_id) if is_secret_id(secret_id) else None
    if secret is None:
        raise NotFoundError(secret_name(tx.placement, secret_id))
    return secret


def _check_same(earlier: Secret | Version, hashes: Sequence[bytes], *, name: str) -> None:
    if earlier.request_hash not in hashes:
        raise AlreadyExistsError(name, "the request id was used for another request", reason="REQUEST_ID_REUSED")


def _new_secret(creation: Creation, *, request_hash: bytes | None, now: datetime) -> Secret:
    return Secret(
        uid=new_uuid(),
        id=creation.secret_id,
        settings=creation.settings,
        revision=1,
        latest_version=FIRST_VERSION if creation.payload else 0,
        create_time=now,
        update_time=now,
        request_id=creation.request_id,
        request_hash=request_hash,
    )


async def _creation_hashes(placement: Placement, creation: Creation, *, keys: TenantKeys) -> list[bytes]:
    return await _request_hashes(
        placement,
        creation.actor,
        creation.secret_id,
        creation.settings.description,
        dict(creation.settings.labels),
        payload=creation.payload,
        keys=keys,
    )


def _new_version(secret_uid: UUID, number: int, *, now: datetime) -> Version:
    return Version(secret_uid=secret_uid, number=number, state=State.ENABLED, create_time=now)


async def _sealed(placement: Placement, version: Version, payload: bytes, *, keys: TenantKeys) -> bytes:
    return await keys.encrypt(
        placement, payload, object_name=object_name(version.secret_uid), object_version=version.number
    )


async def _seal_with_newest(tenant: TenantHandle, sealed: bytes | None, *, keys: TenantKeys) -> None:
    """Seal anew what was just kept, where its key was replaced meanwhile: whoever seals anew may be past it."""
    if sealed is not None:
        newest = await keys.storage_version(tenant.placement)
        if storage_version(sealed) < newest:
            await reseal_versions(tenant, keys=keys, key_version=newest)


async def _resealed(placement: Placement, secret_uid: UUID, number: int, old: bytes, keys: TenantKeys) -> bytes | None:
    name = object_name(secret_uid)
    try:
        payload = await keys.decrypt(placement, old, object_name=name, object_version=number)
    except (IntegrityError, KeyRetiredError):
        return None
    return await keys.encrypt(placement, payload, object_name=name, object_version=number)


async def _request_hashes(placement: Placement, *parts: object, payload: bytes, keys: TenantKeys) -> list[bytes]:
    """Tell the request from others: what is kept of it, and what an older version of the key would have kept."""
    derived = await keys.derive_each(placement, _REQUESTS_LABEL)
    return [fingerprint(key, *parts, payload=payload) for key in derived]
