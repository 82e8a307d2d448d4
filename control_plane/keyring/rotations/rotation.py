"""How a key is rotated: the plans of `RotateKey`.

Each step may be killed at any instruction and is run again from its beginning, so each is idempotent. Nothing that was
sealed, signed or wrapped before becomes unreadable at any moment: what is new is there, and known to all who must know
it, before it is used; what is old goes when nothing needs it any more.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from typing_extensions import override

from control_plane.errors import ConflictError, UnavailableError
from control_plane.keyring import destructions, store
from control_plane.keyring.destruction import Destroyer
from control_plane.keyring.rotations.audit import AuditRotation
from control_plane.keyring.rotations.authority import AuthorityRotation
from control_plane.keyring.rotations.enrolment import EnrolmentRotation
from control_plane.keyring.rotations.plan import KeyRotation, Means
from control_plane.keyring.rotations.published import PublishedRotation
from control_plane.keyring.rotations.sealing import SealingRotation, StorageRotation
from control_plane.keys import store as keys_store
from control_plane.keys.model import KEK, KekRef, Purpose
from control_plane.operations.model import Operation
from control_plane.operations.plan import StepRun
from control_plane.postgres.database import SystemTransaction
from control_plane.postgres.placement import Placement
from control_plane.tokens.model import LONGEST_LIFETIME

# The longest that a token lives, and what clocks may differ and processes go on with what they know.
_VERIFIES_ON: Final = LONGEST_LIFETIME + timedelta(hours=1)


class TokensRotation(PublishedRotation):
    """A new key for new tokens, which every edge and every process can verify before there are any."""

    def __init__(self, means: Means) -> None:
        """Sign with the new version once no edge lags."""
        super().__init__(means, purpose=Purpose.TOKENS)
        self._lagging_edges = means.lagging_edges

    @property
    @override
    def runs(self) -> Mapping[str, StepRun]:
        return {"publication": self._publish, "edges": self._wait_for_edges, "use": self._use}

    async def _wait_for_edges(self, operation: Operation) -> None:
        revision = await self._database.system().run(lambda tx: store.edge_revision(tx, operation.tenant_uid))
        lagging = await self._lagging_edges(revision)
        if lagging:
            raise UnavailableError(f"{', '.join(lagging)} do not know the new key yet", reason="EDGES_BEHIND")

    async def _use(self, operation: Operation) -> None:
        placement, version, now = await self._placement(operation), await self._version(operation), datetime.now(UTC)

        async def work(tx: SystemTransaction) -> None:
            await store.end_rotation(tx, operation.id, now=now)
            if not await store.use(tx, placement.uid, purpose=Purpose.TOKENS, version=version):
                tx.unchanged()
                return
            tx.record(self._effect(placement, version, signs=True))
            for old in await store.retire(tx, placement.uid, purpose=Purpose.TOKENS, unused_for=_VERIFIES_ON):
                tx.record(self._effect(placement, old, state="RETIRED"))

        await self._recorded(operation).run(work)
        self._keys.look_again(placement.uid)


class KekRotation(KeyRotation):
    """A new KEK, under which every key of the tenant is wrapped anew; then the old one is destroyed."""

    def __init__(self, means: Means) -> None:
        """Sign for what is destroyed."""
        super().__init__(means, key_id=KEK)
        self._destroyer = Destroyer(
            means.database, self._wrapping, means.platform_keys, root_of_trust=means.keys.root_of_trust
        )

    @property
    @override
    def runs(self) -> Mapping[str, StepRun]:
        return {"kek": self._make, "wrapping": self._wrap, "destruction": self._destroy}

    @override
    async def _take_back(self, operation: Operation, version: int) -> None:
        """Destroy the new KEK; where keys are wrapped under it already, the old one is left for the next rotation."""
        kek = KekRef(tenant_uid=operation.tenant_uid, version=version)
        if await self._database.system().run(lambda tx: store.is_wrapped_under(tx, kek.tenant_uid, version)):
            return
        await self._wrapping.destroy_kek(kek)
        now = datetime.now(UTC)
        await self._database.system().run(
            lambda tx: destructions.note_destroyed_kek(tx, kek.tenant_uid, version=version, now=now)
        )

    async def _make(self, operation: Operation) -> None:
        placement, kek = await self._placement(operation), await self._kek(operation)
        await self._wrapping.create_kek(kek)

        async def work(tx: SystemTransaction) -> None:
            if await keys_store.note_kek(tx, kek):
                tx.record(self._effect(placement, kek.version, state="ENABLED"))
            else:
                tx.unchanged()

        await self._recorded(operation).run(work)

    async def _wrap(self, operation: Operation) -> None:
        """Wrap all keys anew, retired ones too, and put them in place at once."""
        placement, kek = await self._placement(operation), await self._kek(operation)
        stored = await self._database.system().run(lambda tx: keys_store.all_of(tx, placement.uid))
        before = [key for key in stored if key.kek != kek]
        after = [await self._wrapping.rewrapped(key, kek=kek) for key in before]

        async def work(tx: SystemTransaction) -> None:
            for old, new in zip(before, after, strict=True):
                if not await keys_store.rewrap(tx, old, new):
                    raise ConflictError("a key was changed while it was wrapped anew")
            if before:
                tx.record(self._effect(placement, kek.version, wraps=len(stored)))
            else:
                tx.unchanged()

        await self._recorded(operation).run(work)

    async def _destroy(self, operation: Operation) -> None:
        placement, kek, now = await self._placement(operation), await self._kek(operation), datetime.now(UTC)
        closed = await self._database.system().run(
            lambda tx: store.close_keks(tx, placement.uid, before=kek.version, now=now)
        )
        # Again, for a first key of its purpose that was put under the old KEK since. From now on none can be.
        await self._wrap(operation)
        for version in closed:
            await self._destroy_version(operation, placement, version)
        await self._database.system().run(lambda tx: store.end_rotation(tx, operation.id, now=datetime.now(UTC)))

    async def _destroy_version(self, operation: Operation, placement: Placement, version: int) -> None:
        # It is closed: none comes after this look.
        if await self._database.system().run(lambda tx: store.is_wrapped_under(tx, placement.uid, version)):
            message = f"a key of {placement.tenant_id} is still wrapped under version {version} of its KEK"
            raise RuntimeError(message)
        kek = KekRef(tenant_uid=placement.uid, version=version)
        receipt = await self._destroyer.destroy(kek, placement.tenant_id)

        async def work(tx: SystemTransaction) -> None:
            await destructions.sign_destruction(tx, receipt)
            if await destructions.note_destroyed_kek(tx, placement.uid, version=version, now=receipt.destroy_time):
                tx.record(self._effect(placement, version, state="DESTROYED", receipt=str(receipt.id)))
            else:
                tx.unchanged()

        await self._recorded(operation).run(work)

    async def _kek(self, operation: Operation) -> KekRef:
        return KekRef(tenant_uid=operation.tenant_uid, version=await self._version(operation))


def rotations(means: Means) -> dict[str, KeyRotation]:
    """Return the plan of each kind of rotation."""
    plans = (
        KekRotation(means),
        TokensRotation(means),
        AuthorityRotation(means),
        EnrolmentRotation(means),
        StorageRotation(means),
        SealingRotation(means, purpose=Purpose.SERVICES),
        AuditRotation(means),
    )
    return {plan.kind: plan for plan in plans}
