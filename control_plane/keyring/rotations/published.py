"""What the rotations have whose new version is published first: known to all who must know it, before it is used."""

from dataclasses import replace
from datetime import UTC, datetime

from typing_extensions import override

from control_plane.keyring import store
from control_plane.keyring.rotations.plan import KeyRotation, Means
from control_plane.keys import store as keys_store
from control_plane.keys.model import Purpose
from control_plane.operations.model import Operation
from control_plane.operations.plan import StepPausedError
from control_plane.postgres.database import SystemTransaction
from control_plane.postgres.effects import JsonValue
from control_plane.postgres.placement import Placement


class PublishedRotation(KeyRotation):
    """A new version that is enabled, and not used yet: what it made is taken already, and what it makes is not made."""

    def __init__(self, means: Means, *, purpose: Purpose) -> None:
        """Rotate the key of that purpose."""
        super().__init__(means, key_id=purpose.value)
        self._purpose = purpose
        self._settling = means.settling

    @override
    async def _take_back(self, operation: Operation, version: int) -> None:
        withdrawn = operation.tenant_uid
        await self._database.system().run(
            lambda tx: store.withdraw(tx, withdrawn, purpose=self._purpose, version=version)
        )

    async def _publish(self, operation: Operation) -> None:
        placement, version = await self._placement(operation), await self._version(operation)
        made = await self._made(placement, version, now=datetime.now(UTC))

        async def work(tx: SystemTransaction) -> None:
            if await keys_store.insert_missing(tx, [replace(made, is_used=False)]):
                tx.record(self._effect(placement, version, state="ENABLED"))
            else:
                tx.unchanged()

        await self._recorded(operation).run(work)

    async def _made(self, placement: Placement, version: int, *, now: datetime) -> keys_store.StoredKey:
        return await self._new_version(placement, self._purpose, version=version, now=now)

    async def _is_known(self, placement: Placement, version: int) -> bool:
        """Say whether every process has had the time to ask again since it was published."""
        return await self._database.system().run(
            lambda tx: store.is_there_since(
                tx, placement.uid, purpose=self._purpose, version=version, ago=self._settling, used=False
            )
        )

    async def _use_once_known(self, operation: Operation, *, ends: bool, **details: JsonValue) -> None:
        """Use it for what is new when every process has had the time to know it; `ends` lets other rotations begin."""
        placement, version, now = await self._placement(operation), await self._version(operation), datetime.now(UTC)
        if not await self._is_known(placement, version):
            raise StepPausedError

        async def work(tx: SystemTransaction) -> None:
            if ends:
                await store.end_rotation(tx, operation.id, now=now)
            if await store.use(tx, placement.uid, purpose=self._purpose, version=version):
                tx.record(self._effect(placement, version, **details))
            else:
                tx.unchanged()

        await self._recorded(operation).run(work)
        self._keys.look_again(placement.uid)
