"""How the keys that seal are rotated. Of those for objects, what older versions have sealed is sealed anew."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from typing_extensions import override

from bulkhead.v1 import key_requests_pb2
from control_plane.keyring import store
from control_plane.keyring.model import Resealing
from control_plane.keyring.rotations.plan import Means, RotationAtOnce
from control_plane.keyring.rotations.resealing import Resealer
from control_plane.keyring.servicer import resealing_to_proto
from control_plane.keys import store as keys_store
from control_plane.keys.model import Purpose
from control_plane.operations import store as operations_store
from control_plane.operations.model import Operation
from control_plane.operations.plan import StepPausedError, StepRun
from control_plane.postgres.database import Isolation, SystemTransaction
from control_plane.postgres.placement import Placement


class SealingRotation(RotationAtOnce):
    """A new key for what is sealed from now on. Older versions open what they sealed, for as long as it lies there."""

    def __init__(self, means: Means, *, purpose: Purpose) -> None:
        """Rotate the key of that purpose."""
        super().__init__(means, key_id=purpose.value)
        self._purpose = purpose

    @override
    async def _make(self, operation: Operation) -> None:
        placement, version, now = await self._placement(operation), await self._version(operation), datetime.now(UTC)
        made = await self._new_version(placement, self._purpose, version=version, now=now)

        async def work(tx: SystemTransaction) -> None:
            await store.end_rotation(tx, operation.id, now=now)
            if await keys_store.insert_missing(tx, [made]):
                tx.record(self._effect(placement, version, state="ENABLED"))
            else:
                tx.unchanged()

        await self._recorded(operation).run(work)
        self._keys.look_again(placement.uid)


class StorageRotation(SealingRotation):
    """The same for objects; then whatever older versions have sealed is sealed anew, and they are retired.

    Other keys of the tenant may be rotated once there is the version. A seal ends all that: what is not sealed anew by
    then the next rotation finds.
    """

    def __init__(self, means: Means) -> None:
        """Seal anew what is in the tenant's folder and in its rows."""
        super().__init__(means, purpose=Purpose.STORAGE)
        self._directory = means.directory
        self._settling = means.settling
        self._resealer = Resealer(means.objects, means.keys)

    @property
    @override
    def runs(self) -> Mapping[str, StepRun]:
        return {
            "version": self._make,
            "objects": self._reseal_objects,
            "rows": self._reseal_rows,
            "retirement": self._retire,
        }

    @override
    def metadata(self, operation: Operation) -> key_requests_pb2.RotateKeyMetadata:
        message = super().metadata(operation)
        message.resealing.CopyFrom(resealing_to_proto(Resealing.read(operation.progress)))
        return message

    async def _reseal_objects(self, operation: Operation) -> None:
        placement, so_far = await self._placement(operation), await self._so_far(operation)
        if not so_far.look:
            total = await self._resealer.begin(placement)
            so_far = await self._keep(operation, replace(so_far.next_look(), objects_total=total))
        await self._look(operation, placement, so_far)

    async def _reseal_rows(self, operation: Operation) -> None:
        placement, version = await self._placement(operation), await self._version(operation)
        # Its tables may be of an older release.
        await self._directory.find(placement.tenant_id)
        tenant = self._database.tenant(placement, isolation=Isolation.READ_COMMITTED)
        so_far = await self._so_far(operation)
        count, is_whole = await self._resealer.rows(tenant, key_version=version)
        await self._keep(operation, replace(so_far, rows_resealed=so_far.rows_resealed + count))
        if not is_whole:
            raise StepPausedError

    async def _retire(self, operation: Operation) -> None:
        """Look through everything once more when nobody seals with an older version; retire what seals nothing then."""
        placement, version = await self._placement(operation), await self._version(operation)
        if not await self._is_settled(placement, version):
            raise StepPausedError
        so_far = await self._so_far(operation)
        if so_far.look == 1:
            so_far = await self._keep(operation, so_far.next_look())
        found = await self._look(operation, placement, so_far)
        if found.look_old:
            await self._keep(operation, found.next_look())
            raise StepPausedError
        await self._reseal_rows(operation)

        async def work(tx: SystemTransaction) -> None:
            retired = await store.retire_before(
                tx, placement.uid, purpose=Purpose.STORAGE, version=version, kept=found.kept
            )
            for old in retired:
                tx.record(self._effect(placement, old, state="RETIRED"))
            if not retired:
                tx.unchanged()

        await self._recorded(operation).run(work)

    async def _look(self, operation: Operation, placement: Placement, so_far: Resealing) -> Resealing:
        """Go on with a look through the objects; return what it has found when it is whole."""
        if so_far.is_whole:
            return so_far
        version = await self._version(operation)
        after = await self._resealer.objects(placement, so_far, key_version=version)
        await self._keep(operation, after)
        if not after.is_whole:
            raise StepPausedError
        return after

    async def _is_settled(self, placement: Placement, version: int) -> bool:
        return await self._database.system().run(
            lambda tx: store.is_there_since(
                tx, placement.uid, purpose=Purpose.STORAGE, version=version, ago=self._settling, used=True
            )
        )

    async def _so_far(self, operation: Operation) -> Resealing:
        progress = await self._database.system().run(lambda tx: operations_store.progress(tx, operation.id))
        return Resealing.read(progress)

    async def _keep(self, operation: Operation, progress: Resealing) -> Resealing:
        written = progress.written()
        await self._database.system().run(lambda tx: operations_store.note_progress(tx, operation.id, written))
        return progress
