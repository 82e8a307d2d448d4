"""How a certificate comes from its first row to being ACTIVE, so that a crash anywhere leaves it whole or unseen.

1. `claim`: insert the row, PENDING. From now on its request id is taken, and what is stored can be found and swept up.
2. `publish`: store the object, durably; then make the row ACTIVE, which is the one effect that counts.
3. `Leftovers`: what stayed PENDING for minutes is given up, its object deleted, and then its row.

Claims and sweeps run on `drafts`, a handle at READ COMMITTED without an audit hook: nobody sees what they do. The
effect runs on `effects`, at the isolation level of the rule and with its entry in the audit log.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog

from control_plane.certificates import store
from control_plane.certificates.model import (
    PENDING_IS_STUCK_AFTER,
    PENDING_IS_SWEPT_AFTER,
    Certificate,
    State,
    certificate_name,
    first_id,
)
from control_plane.errors import AlreadyExistsError, ConflictError, DomainError
from control_plane.ids import TenantId
from control_plane.objects.store import ObjectStore
from control_plane.postgres.database import TenantHandle, TenantTransaction
from control_plane.postgres.effects import Effect

_POLL_S: Final = 0.05
# Long enough for another's claim to become stuck, should it have died.
_MOST_POLLS: Final = round(1.5 * PENDING_IS_STUCK_AFTER.total_seconds() / _POLL_S)

_FIRST_ID: Final = UUID(int=0)
# So that one issue never pays for many.
_SWEPT_AT_ONCE: Final = 20
_REMEMBERED_TENANTS: Final = 10_000

_log: Final = structlog.get_logger("certificates")


async def claim(certificate: Certificate, drafts: TenantHandle, *, clock: Callable[[], datetime]) -> Certificate:
    """Insert the certificate and return it; or return the one that the same request was answered with.

    Waits while the same request is being carried out elsewhere, and takes its place when that takes too long.

    Raises:
        AlreadyExistsError: the request id belongs to another request.
        ConflictError: the same request is still being carried out.
    """

    async def work(tx: TenantTransaction) -> Certificate | None:
        if await store.insert_pending(tx, certificate) or certificate.request_id is None:
            return certificate
        other = await store.find_by_request(tx, certificate.request_id)
        if other is not None and other.is_stuck(clock()):
            await store.give_up(tx, other.id)
            return None
        return other

    for _ in range(_MOST_POLLS):
        found = await drafts.run(work)
        if found is not None and found.id != certificate.id:
            check_same_request(found, certificate.request_hash, tenant_id=drafts.placement.tenant_id)
        if found is not None and (found.id == certificate.id or found.is_visible):
            return found
        if found is not None:
            await asyncio.sleep(_POLL_S)
    raise _under_way()


async def publish(
    certificate: Certificate, *, text: str, objects: ObjectStore, drafts: TenantHandle, effects: TenantHandle
) -> Certificate:
    """Store the text of a claimed certificate, and make it ACTIVE.

    Raises:
        ConflictError, UnavailableError: it is not, or (when the database went away at the end) may be.
    """
    name = certificate_name(effects.placement.tenant_id, certificate.id)

    async def activate(tx: TenantTransaction) -> bool:
        if await store.activate(tx, certificate):
            tx.record(Effect(resource=name, details=audit_details(certificate)))
            return True
        tx.unchanged()
        return False

    active = False
    try:
        await objects.of(effects.placement).put(certificate.object_path, plaintext=text.encode())
        active = await effects.run(activate)
    finally:
        # Also on a COMMIT whose answer was lost: an active certificate cannot be given up.
        if not active:
            await withdraw(certificate, objects=objects, drafts=drafts)
    if not active:
        # This took so long that a repeated request took over, or a sweep.
        raise _under_way()
    return replace(certificate, state=State.ACTIVE)


class Leftovers:
    """What crashes left pending, in all tenants. Found by the tenant's next issue, at next to no cost.

    Remembers up to which id nothing is left of a tenant, so that only the first look goes through all its rows.
    """

    def __init__(self, objects: ObjectStore) -> None:
        """Delete what is left in `objects` too."""
        self._objects = objects
        self._clean_before: dict[UUID, UUID] = {}

    async def give_up(self, tx: TenantTransaction, *, now: datetime) -> list[Certificate]:
        """Give up what is old enough, a few at a time, and return it; to be swept when the transaction is through."""
        after = self._clean_before.get(tx.placement.uid, _FIRST_ID)
        before = first_id(now - PENDING_IS_SWEPT_AFTER)
        return await store.give_up_between(tx, after=after, before=before, limit=_SWEPT_AT_ONCE)

    async def sweep(self, given_up: Sequence[Certificate], drafts: TenantHandle, *, now: datetime) -> None:
        """Delete what `give_up` returned at `now`. Does what it can; the rest stays for the next issue."""
        if given_up:
            await delete_given_up(given_up, self._objects, drafts=drafts)
            return
        if len(self._clean_before) >= _REMEMBERED_TENANTS:
            self._clean_before.clear()
        self._clean_before[drafts.placement.uid] = first_id(now - PENDING_IS_SWEPT_AFTER)


async def delete_given_up(given_up: Sequence[Certificate], objects: ObjectStore, *, drafts: TenantHandle) -> None:
    """Delete what is left of certificates that were given up: the object first, or nobody would know of it."""
    try:
        for certificate in given_up:
            await objects.of(drafts.placement).delete(certificate.object_path)
        await drafts.run(lambda tx: store.delete_given_up(tx, [certificate.id for certificate in given_up]))
    except DomainError as error:
        _log.warning("sweep_postponed", tenant=drafts.placement.tenant_id, reason=error.code)


def check_same_request(earlier: Certificate, request_hash: bytes | None, *, tenant_id: TenantId) -> None:
    """Raise AlreadyExistsError when the request id of `earlier` came with another request."""
    if earlier.request_hash != request_hash:
        name = certificate_name(tenant_id, earlier.id)
        raise AlreadyExistsError(name, "the request id was used for another request", reason="REQUEST_ID_REUSED")


def audit_details(certificate: Certificate) -> dict[str, str]:
    """Say in the audit log which certificate it was, also when its row is gone."""
    return {"serial_number": certificate.serial_number, "subject": certificate.subject}


async def withdraw(certificate: Certificate, *, objects: ObjectStore, drafts: TenantHandle) -> None:
    """Give up a certificate that was claimed, and delete what is left of it. An active one stays as it is."""
    try:
        given_up = await drafts.run(lambda tx: store.give_up(tx, certificate.id))
    except DomainError as error:
        _log.warning("withdrawal_postponed", tenant=drafts.placement.tenant_id, reason=error.code)
        return
    if given_up:
        await delete_given_up([certificate], objects, drafts=drafts)


def _under_way() -> ConflictError:
    return ConflictError("the same request is being carried out at this moment")
