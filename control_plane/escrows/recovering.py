"""How keys come back from their escrow: the plan of an approved recovery.

Each step may be killed at any instruction and is run again from its beginning, so each is idempotent. The escrow's
private key is put together in a step's memory, from what recipients gave, and is never stored. Until the keys are
wrapped under the new KEK nothing of them has changed; in that transaction all of them do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from bulkhead.v1 import recoveries_pb2
from control_plane.audit.recorder import Touched, operation_recorder
from control_plane.errors import ConflictError, PreconditionError
from control_plane.escrows import shares, store
from control_plane.escrows.making import make
from control_plane.escrows.model import KIND, STEPS, Afterwards, Escrow, Recovery, RecoveryState, escrow_off
from control_plane.escrows.recoveries import Recoveries, Shown, recovery_name
from control_plane.escrows.service import escrow_name, gone, overview
from control_plane.escrows.servicer import recovery_to_proto
from control_plane.keyring import destructions
from control_plane.keyring import store as keyring_store
from control_plane.keyring.destruction import Destroyer
from control_plane.keys import store as keys_store
from control_plane.keys.model import IntegrityError, KekRef, MissingKeyError
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.service import TenantKeys
from control_plane.keys.wrapping import Wrapping
from control_plane.operations.model import Operation
from control_plane.operations.plan import Step
from control_plane.operations.servicer import steps_to_proto
from control_plane.postgres.database import Database, SystemHandle, SystemTransaction
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.postgres.placement import Placement
from control_plane.recipients import ceremony, hpke
from control_plane.tenants.store import find_placement

_APPROVE_METHOD: Final = "/bulkhead.v1.EscrowService/ApproveRecovery"


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What recoveries are carried out with."""

    database: Database
    keys: TenantKeys
    wrapping: Wrapping
    platform_keys: PlatformKeys
    """Sign for KEKs that are destroyed."""
    touched: Touched
    """Told whose audit log grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A recovery that is under way, and whose it is."""

    placement: Placement
    recovery: Recovery
    operation: Operation

    @property
    def name(self) -> str:
        return recovery_name(self.placement, self.recovery.id)


class KeyRecovery:
    """The plan; see `operations.plan.Plan`."""

    kind = KIND

    def __init__(self, means: Means) -> None:
        """Recover with these."""
        runs = (self._combine, self._restore, self._renew, self._end)
        self.steps: Sequence[Step] = [Step(name, run) for name, run in zip(STEPS, runs, strict=True)]
        self._database = means.database
        self._keys = means.keys
        self._wrapping = means.wrapping
        self._recoveries = Recoveries(means.wrapping)
        self._touched = means.touched
        self._destroyer = Destroyer(
            means.database, means.wrapping, means.platform_keys, root_of_trust=means.keys.root_of_trust
        )

    async def undo(self, operation: Operation) -> None:
        """Forget what recipients gave; and the new KEK, unless the keys are under it already."""
        case = await self._find(operation)
        if case is None:
            return
        now = datetime.now(UTC)

        async def work(tx: SystemTransaction) -> None:
            if await store.end_recovery(tx, case.recovery.id, state=RecoveryState.FAILED, now=now):
                tx.record(_effect(case, state=RecoveryState.FAILED))
            else:
                tx.unchanged()

        await self._recorded(operation).run(work)
        await self._recoveries.forget_kek(self._database.system(), case.recovery, now=now)

    def metadata(self, operation: Operation) -> recoveries_pb2.RecoverKeysMetadata:
        """Show the steps."""
        message = recoveries_pb2.RecoverKeysMetadata(
            tenant=f"tenants/{operation.tenant_id}", steps=steps_to_proto(operation)
        )
        message.create_time.FromDatetime(operation.create_time)
        return message

    async def response(self, operation: Operation) -> recoveries_pb2.KeyRecovery:
        """Show the recovery as it is now; nothing of it where the tenant is gone."""
        case = await self._find(operation)
        if case is None:
            return recoveries_pb2.KeyRecovery()
        return recovery_to_proto(Shown(recovery=case.recovery, escrow=None, public=b""), case.placement)

    async def _combine(self, operation: Operation) -> None:
        """See that the shares give the escrow's private key, before anything is changed."""
        case = await self._case(operation)
        await self._escrow_key(case, await self._escrow(case))

    async def _restore(self, operation: Operation) -> None:
        """Open every copy, wrap each key under the new KEK, and put all of them in place at once."""
        case = await self._case(operation)
        system, kek = self._database.system(), case.recovery.kek
        stored = await system.run(lambda tx: keys_store.all_of(tx, case.placement.uid))
        if all(key.kek == kek for key in stored):
            return
        escrow = await self._escrow(case)
        escrow.check_terms()
        private = await self._escrow_key(case, escrow)
        copies = await system.run(lambda tx: store.copies(tx, case.placement.uid))
        before = [replace(key, copy=copies.get(key.id)) for key in stored]
        after = await self._wrapping.restored(before, private, escrow=escrow.key, root=escrow.root_check, kek=kek)

        async def work(tx: SystemTransaction) -> None:
            for old, new in zip(before, after, strict=True):
                if not await keys_store.rewrap(tx, old, new):
                    raise ConflictError("a key was changed while it was recovered")
            tx.record(_effect(case, recovered=len(after), kek_version=kek.version))

        await self._recorded(operation).run(work)
        self._keys.forget(case.placement.uid)

    async def _renew(self, operation: Operation) -> None:
        """Make the escrow anew, with the same recipients, or end it: the old shares are good for nothing after that."""
        case = await self._case(operation)
        placement, now = case.placement, datetime.now(UTC)
        system = self._database.system()
        escrow = await system.run(lambda tx: store.find(tx, placement.uid))
        if escrow is None or escrow.id != case.recovery.escrow_id:
            return
        made = None
        if case.recovery.afterwards is Afterwards.REKEY:
            stored = await system.run(lambda tx: keys_store.all_of(tx, placement.uid))
            # Again: from here on new shares go to whoever is named there.
            escrow.check_terms()
            await self._wrapping.check_escrow(stored, escrow.key)
            made = await make(self._wrapping, placement.uid, terms=escrow.terms, stored=stored, now=now)

        async def work(tx: SystemTransaction) -> None:
            await keyring_store.hold(tx, placement.uid)
            tx.record(gone(await overview(tx, placement, now=now), placement))
            await store.delete(tx, placement.uid)
            if made is not None:
                await store.insert(tx, made)
                details: dict[str, JsonValue] = {
                    "state": "ON",
                    "escrow": str(made.escrow.id),
                    "keys": len(made.keys),
                }
                tx.record(Effect(resource=escrow_name(placement), placement=placement, details=details))

        await self._recorded(operation).run(work)

    async def _end(self, operation: Operation) -> None:
        """Destroy the KEKs of before, as far as they are there, and forget the session and what recipients gave."""
        case = await self._case(operation)
        placement, recovery, now = case.placement, case.recovery, datetime.now(UTC)
        closed = await self._database.system().run(
            lambda tx: keyring_store.close_keks(tx, placement.uid, before=recovery.kek_version, now=now)
        )
        await self._wrap_late(case)
        for version in closed:
            await self._destroy(case, KekRef(tenant_uid=placement.uid, version=version))

        async def work(tx: SystemTransaction) -> None:
            if await store.end_recovery(tx, recovery.id, state=RecoveryState.SUCCEEDED, now=now):
                tx.record(_effect(case, state=RecoveryState.SUCCEEDED))
            else:
                tx.unchanged()

        await self._recorded(operation).run(work)

    async def _wrap_late(self, case: _Case) -> None:
        """Wrap what was put under an older KEK since the rest was: it was there, and is closed. No more comes."""
        system, kek = self._database.system(), case.recovery.kek
        stored = await system.run(lambda tx: keys_store.all_of(tx, case.placement.uid))
        for late in [key for key in stored if key.kek != kek]:
            after = await self._wrapping.rewrapped(late, kek=kek)
            if not await system.run(partial(keys_store.rewrap, before=late, after=after)):
                raise ConflictError("a key was changed while it was wrapped anew")

    async def _destroy(self, case: _Case, kek: KekRef) -> None:
        placement = case.placement
        if await self._database.system().run(
            lambda tx: keyring_store.is_wrapped_under(tx, kek.tenant_uid, kek.version)
        ):
            message = f"a key of {placement.tenant_id} is still wrapped under version {kek.version} of its KEK"
            raise RuntimeError(message)
        try:
            receipt = await self._destroyer.destroy(kek, placement.tenant_id)
        except (MissingKeyError, IntegrityError):
            receipt = None
            await self._wrapping.destroy_kek(kek)
        now = datetime.now(UTC) if receipt is None else receipt.destroy_time

        async def work(tx: SystemTransaction) -> None:
            if receipt is not None:
                await destructions.sign_destruction(tx, receipt)
            if not await destructions.note_destroyed_kek(tx, kek.tenant_uid, version=kek.version, now=now):
                tx.unchanged()
                return
            said: dict[str, JsonValue] = (
                {"state": "LOST"} if receipt is None else {"state": "DESTROYED", "receipt": str(receipt.id)}
            )
            name = f"tenants/{placement.tenant_id}/keys/kek/versions/{kek.version}"
            tx.record(Effect(resource=name, placement=placement, details=said))

        await self._recorded(case.operation).run(work)

    async def _escrow(self, case: _Case) -> Escrow:
        escrow = await self._database.system().run(lambda tx: store.find(tx, case.placement.uid))
        if escrow is None or escrow.id != case.recovery.escrow_id:
            raise escrow_off(escrow_name(case.placement))
        return escrow

    async def _escrow_key(self, case: _Case, escrow: Escrow) -> hpke.PrivateKey:
        """Put the escrow's private key together.

        Raises:
            PreconditionError: what recipients gave does not give it.
        """
        recovery = case.recovery
        session = await self._recoveries.session(recovery)
        try:
            given = [
                session.open(one.sealed, ceremony.approval_context(recovery.tenant_uid, recovery.id, one.recipient))
                for one in recovery.approvals
            ]
            key = hpke.PrivateKey(seed=shares.combine(given))
        except (hpke.UnopenedError, shares.SharesError, ValueError):
            raise _useless(case) from None
        if key.public != escrow.public:
            raise _useless(case)
        return key

    async def _case(self, operation: Operation) -> _Case:
        case = await self._find(operation)
        if case is None:
            name = f"tenants/{operation.tenant_id}"
            raise PreconditionError(name, f"{name} is gone", reason="TENANT_GONE")
        await self._database.system().run(lambda tx: keys_store.check_unsealed(tx, case.placement.uid))
        return case

    async def _find(self, operation: Operation) -> _Case | None:
        async def read(tx: SystemTransaction) -> _Case | None:
            placement = await find_placement(tx, operation.tenant_id)
            recovery = await store.recovery_of(tx, operation.tenant_uid, operation.id)
            if placement is None or recovery is None or placement.uid != operation.tenant_uid:
                return None
            return _Case(placement=placement, recovery=recovery, operation=operation)

        return await self._database.system().run(read)

    def _recorded(self, operation: Operation) -> SystemHandle:
        recorder = operation_recorder(
            actor=operation.actor, request_id=operation.call_request_id, method=_APPROVE_METHOD, touched=self._touched
        )
        return self._database.system(before_commit=recorder)


def _useless(case: _Case) -> PreconditionError:
    text = "what the recipients gave does not give the escrow's private key"
    return PreconditionError(case.name, text, reason="SHARES_DO_NOT_COMBINE")


def _effect(case: _Case, **details: JsonValue) -> Effect:
    return Effect(resource=case.name, placement=case.placement, details=details)
