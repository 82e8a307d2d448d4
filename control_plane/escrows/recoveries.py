"""How a recovery begins, is approved, and ends before it has enough approvals.

What recipients give is sealed to a key pair of the recovery's own. Its private half lies under the KEK that the keys
will be under, which is made for that at the beginning: so it outlives a crash, and whoever writes into the database
cannot put another key in its place, since the public half is never read from there. With the recovery, both are gone.
"""

import hmac
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from control_plane.audit.recorder import Touched, operation_recorder
from control_plane.errors import (
    ConflictError,
    FieldViolation,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from control_plane.escrows import store
from control_plane.escrows.model import (
    KIND,
    OPEN_FOR,
    STEPS,
    Afterwards,
    Approval,
    Escrow,
    Recovery,
    RecoveryState,
    escrow_off,
)
from control_plane.escrows.service import escrow_name, hold, recovery_in_progress
from control_plane.ids import new_uuid
from control_plane.keyring import destructions
from control_plane.keyring import store as keyring_store
from control_plane.keys import store as keys_store
from control_plane.keys.wrapping import Wrapping
from control_plane.operations import service as operations
from control_plane.operations.model import Operation, OperationState, StepRecord, StepState
from control_plane.operations.periodic import run_every
from control_plane.operations.plan import DeferJob
from control_plane.postgres.database import Database, SystemHandle, SystemTransaction
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.postgres.placement import Placement
from control_plane.recipients import ceremony, hpke
from control_plane.tenants.store import find_placement

# A recovery that has expired is refused at once; this is how long what it was for may lie there.
_SWEPT_EVERY: Final = timedelta(minutes=1)
_CLOCK: Final = "platform:expiry"
_EXPIRY: Final = "/bulkhead.v1.EscrowService/CancelRecovery"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """A request for a recovery; valid."""

    placement: Placement
    actor: str
    reason: str
    afterwards: Afterwards
    by_platform: bool
    """Whether the caller is the platform's, and not the tenant's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandIn:
    """A recipient's share that somebody hands in; valid."""

    placement: Placement
    recovery_id: UUID
    approval: Approval
    actor: str
    call_request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A recovery, with what it is of, and the public half of its session while it has not ended."""

    recovery: Recovery
    escrow: Escrow | None
    public: bytes


class Recoveries:
    """Begins, approves and ends recoveries."""

    def __init__(self, wrapping: Wrapping) -> None:
        """Keep sessions by `wrapping`."""
        self._wrapping = wrapping

    async def check(self, system: SystemHandle, asked: Beginning) -> None:
        """Raise what `begin` would raise of the tenant. Changes nothing."""

        async def work(tx: SystemTransaction) -> None:
            tx.unchanged()
            await _beginnable(tx, asked)

        await system.run(work)

    async def begin(self, system: SystemHandle, asked: Beginning, *, now: datetime) -> Shown:
        """Begin a recovery, with a new KEK. Nothing opens by that.

        Raises:
            ConflictError: another one began at the same moment.
            PermissionDeniedError: the platform's people may not, since the tenant has not agreed to it.
            PreconditionError: there is no escrow, another recovery is open, or a key is being rotated.
        """

        async def read(tx: SystemTransaction) -> tuple[Escrow, int]:
            tx.unchanged()
            return await _beginnable(tx, asked)

        escrow, version = await system.run(read)
        key = hpke.PrivateKey.generate()
        begun = _new_recovery(asked, escrow, kek_version=version, now=now)
        # Whoever is killed after this leaves a KEK that the next one finds under the same name, and uses.
        await self._wrapping.create_kek(begun.kek)
        session = await self._wrapping.sealed_session(begun.kek, key.seed, aad=begun.aad)
        recovery = replace(begun, session=session)

        async def work(tx: SystemTransaction) -> None:
            if await _beginnable(tx, asked) != (escrow, version):
                raise ConflictError("the escrow was changed meanwhile")
            await keys_store.note_kek(tx, recovery.kek)
            await store.insert_recovery(tx, recovery)
            details: dict[str, JsonValue] = {
                "state": recovery.state,
                "escrow": str(escrow.id),
                "threshold": escrow.threshold,
                "session": hpke.fingerprint(key.public),
                "reason": recovery.reason,
                "afterwards": recovery.afterwards,
                "kek_version": version,
            }
            tx.record(_effect(asked.placement, recovery.id, details))

        await system.run(work)
        return Shown(recovery=recovery, escrow=escrow, public=key.public)

    async def get(self, system: SystemHandle, placement: Placement, recovery_id: UUID) -> Shown:
        """Return a recovery; raise NotFoundError where the tenant has none of that id."""

        async def read(tx: SystemTransaction) -> tuple[Recovery, Escrow | None]:
            recovery = await _existing(tx, placement, recovery_id)
            return recovery, await store.find(tx, placement.uid)

        return await self._shown(*await system.run(read))

    async def approve(self, system: SystemHandle, given: HandIn, *, defer: DeferJob, now: datetime) -> Shown:
        """Take a recipient's share; with enough of them, have the keys recovered.

        Raises:
            InvalidArgumentError: nobody of that name has a share, or it is not theirs, or not for this recovery.
            PreconditionError: the recovery has ended or expired, or the recipient has approved it already.
        """
        placement = given.placement

        async def read(tx: SystemTransaction) -> tuple[Recovery, Escrow]:
            tx.unchanged()
            return await _approvable(tx, given, now=now)

        recovery, escrow = await system.run(read)
        self._check_share(recovery, escrow, given.approval, key=await self.session(recovery))

        async def work(tx: SystemTransaction) -> Recovery:
            current, _ = await _approvable(tx, given, now=now)
            await store.insert_approval(tx, current.id, given.approval)
            approved = len(current.approvals) + 1
            details: dict[str, JsonValue] = {
                "approved_by": given.approval.recipient,
                "approvals": approved,
                "threshold": escrow.threshold,
            }
            tx.record(_effect(placement, current.id, details))
            if approved >= escrow.threshold:
                operation = await operations.begin(tx, _new_operation(given, now=now))
                await store.begin_recovering(tx, current.id, operation.id)
                await defer(operation.id, tx)
            return await _existing(tx, placement, current.id)

        return await self._shown(await system.run(work), escrow)

    async def cancel(self, system: SystemHandle, placement: Placement, recovery_id: UUID, *, now: datetime) -> Shown:
        """End a recovery that has too few approvals, with its session and the KEK that was made for it.

        Raises:
            PreconditionError: it has ended, or has enough of them.
        """

        async def read(tx: SystemTransaction) -> None:
            tx.unchanged()
            recovery = await _existing(tx, placement, recovery_id)
            if recovery.state is not RecoveryState.OPEN:
                recovery.check_open(recovery_name(placement, recovery_id), now=now)

        await system.run(read)
        return await self._end(system, placement, recovery_id, state=RecoveryState.CANCELLED, now=now)

    async def session(self, recovery: Recovery) -> hpke.PrivateKey:
        """Return the session's key pair.

        Raises:
            IntegrityError: somebody has put another one in its place.
            MissingKeyError: the KEK that was made for the recovery is gone.
        """
        if recovery.session is None:
            message = f"recovery {recovery.id} has ended"
            raise RuntimeError(message)
        return await self._wrapping.session(recovery.kek, recovery.session, aad=recovery.aad)

    async def forget_kek(self, system: SystemHandle, recovery: Recovery, *, now: datetime) -> None:
        """Destroy the KEK of a recovery under which no key is. Safe to call again."""
        kek = recovery.kek

        async def is_needed(tx: SystemTransaction) -> bool:
            tx.unchanged()
            return await keyring_store.is_wrapped_under(tx, kek.tenant_uid, kek.version)

        async def note(tx: SystemTransaction) -> None:
            tx.unchanged()
            await destructions.note_destroyed_kek(tx, kek.tenant_uid, version=kek.version, now=now)

        if not await system.run(is_needed):
            await self._wrapping.destroy_kek(kek)
            await system.run(note)

    async def run(self, database: Database, *, touched: Touched) -> None:
        """End what was not approved in time, each minute, until cancelled."""
        await run_every(
            _SWEPT_EVERY,
            lambda: self.expire(database, touched=touched, now=datetime.now(UTC)),
            log=_log,
            postponed="recoveries_unseen",
        )

    async def expire(self, database: Database, *, touched: Touched, now: datetime) -> None:
        """End what was not approved in time: what recipients gave is forgotten."""
        recorder = operation_recorder(actor=_CLOCK, method=_EXPIRY, request_id=new_uuid().hex, touched=touched)
        for tenant_id, recovery_id in await database.system().run(lambda tx: store.expired(tx, now=now)):
            placement = await database.system().run(partial(find_placement, tenant_id=tenant_id))
            if placement is not None:
                system = database.system(before_commit=recorder)
                await self._end(system, placement, recovery_id, state=RecoveryState.EXPIRED, now=now)

    async def _end(
        self, system: SystemHandle, placement: Placement, recovery_id: UUID, *, state: RecoveryState, now: datetime
    ) -> Shown:
        async def work(tx: SystemTransaction) -> Recovery:
            await keyring_store.hold(tx, placement.uid)
            recovery = await _existing(tx, placement, recovery_id)
            if recovery.state is not RecoveryState.OPEN or not await store.end_recovery(
                tx, recovery.id, state=state, now=now
            ):
                tx.unchanged()
                return recovery
            tx.record(_effect(placement, recovery.id, {"state": state}))
            return await _existing(tx, placement, recovery_id)

        ended = await system.run(work)
        if ended.state is state:
            await self.forget_kek(system, ended, now=now)
        return await self._shown(ended, None)

    async def _shown(self, recovery: Recovery, escrow: Escrow | None) -> Shown:
        of_it = escrow if escrow is not None and escrow.id == recovery.escrow_id else None
        public = b"" if recovery.session is None else (await self.session(recovery)).public
        return Shown(recovery=recovery, escrow=of_it, public=public)

    def _check_share(self, recovery: Recovery, escrow: Escrow, given: Approval, *, key: hpke.PrivateKey) -> None:
        """Raise InvalidArgumentError unless it is the very share that the recipient was given, for this recovery."""
        share = escrow.share_of(given.recipient)
        if share is None:
            raise _wrong("recipient", "nobody of this name has a share")
        try:
            context = ceremony.approval_context(recovery.tenant_uid, recovery.id, given.recipient)
            opened = key.open(given.sealed, context)
        except hpke.UnopenedError:
            text = "does not open: altered, or made for another recovery, recipient or tenant"
            raise _wrong("approval", text) from None
        digest = ceremony.share_digest(escrow.id, given.recipient, opened)
        if not hmac.compare_digest(digest, share.digest):
            raise _wrong("approval", "is not the share that this recipient was given for this escrow")


def recovery_name(placement: Placement, recovery_id: UUID) -> str:
    """Name a recovery as a resource."""
    return f"tenants/{placement.tenant_id}/keyRecoveries/{recovery_id}"


async def _beginnable(tx: SystemTransaction, asked: Beginning) -> tuple[Escrow, int]:
    """Return what would be recovered, and the version of the KEK that it would be under."""
    placement = asked.placement
    await hold(tx, placement)
    escrow = await store.find(tx, placement.uid)
    if asked.by_platform and (escrow is None or not escrow.platform_may_begin):
        # The same whether there is an escrow or not: that is the tenant's own affair.
        text = "the tenant has not agreed that the platform's administrator may begin a recovery"
        raise PermissionDeniedError(text, reason="ESCROW_CONSENT_MISSING")
    if escrow is None:
        raise escrow_off(escrow_name(placement))
    found = await keyring_store.open_recovery(tx, placement.uid)
    if found is not None:
        raise recovery_in_progress(placement, recovery_name(placement, found))
    return escrow, await store.next_kek_version(tx, placement.uid)


async def _approvable(tx: SystemTransaction, given: HandIn, *, now: datetime) -> tuple[Recovery, Escrow]:
    placement = given.placement
    await hold(tx, placement)
    recovery = await _existing(tx, placement, given.recovery_id)
    name = recovery_name(placement, recovery.id)
    recovery.check_open(name, now=now)
    recovery.check_first(name, given.approval.recipient)
    escrow = await store.find(tx, placement.uid)
    if escrow is None or escrow.id != recovery.escrow_id:
        raise escrow_off(escrow_name(placement))
    return recovery, escrow


async def _existing(tx: SystemTransaction, placement: Placement, recovery_id: UUID) -> Recovery:
    recovery = await store.find_recovery(tx, placement.uid, recovery_id)
    if recovery is None:
        raise NotFoundError(recovery_name(placement, recovery_id))
    return recovery


def _new_recovery(asked: Beginning, escrow: Escrow, *, kek_version: int, now: datetime) -> Recovery:
    return Recovery(
        id=new_uuid(),
        tenant_uid=asked.placement.uid,
        escrow_id=escrow.id,
        kek_version=kek_version,
        state=RecoveryState.OPEN,
        session=None,
        beginner=asked.actor,
        reason=asked.reason,
        afterwards=asked.afterwards,
        create_time=now,
        expire_time=now + OPEN_FOR,
    )


def _new_operation(given: HandIn, *, now: datetime) -> Operation:
    return Operation(
        id=new_uuid(),
        kind=KIND,
        tenant_id=given.placement.tenant_id,
        tenant_uid=given.placement.uid,
        actor=given.actor,
        call_request_id=given.call_request_id,
        state=OperationState.RUNNING,
        steps=tuple(StepRecord(name=name, state=StepState.PENDING) for name in STEPS),
        create_time=now,
    )


def _effect(placement: Placement, recovery_id: UUID, details: dict[str, JsonValue]) -> Effect:
    return Effect(resource=recovery_name(placement, recovery_id), placement=placement, details=details)


def _wrong(field: str, description: str) -> InvalidArgumentError:
    return InvalidArgumentError(FieldViolation(field=field, description=description, reason=field.upper()))
