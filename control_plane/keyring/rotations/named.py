"""How a key of a tenant's own is rotated: a new version at once; older ones go on opening, and verifying."""

import asyncio
from datetime import UTC, datetime

from typing_extensions import override

from control_plane.errors import NotFoundError
from control_plane.keyring import store
from control_plane.keyring.rotations.plan import KeyRotation, Means, RotationAtOnce
from control_plane.keyring.rotations.rotation import rotations
from control_plane.keyring.service import KIND, NAMED_KIND
from control_plane.keys import store as keys_store
from control_plane.keys.named import store as named_store
from control_plane.keys.named.material import new_material
from control_plane.keys.named.model import NamedKey
from control_plane.operations.model import Operation
from control_plane.postgres.database import SystemTransaction
from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement


class NamedRotation(RotationAtOnce):
    """The plan for all keys of tenants' own; which one it is, the operation's kind says."""

    def __init__(self, means: Means) -> None:
        """Take RSA keys from the pool of the tenants' keys."""
        super().__init__(means, key_id=NAMED_KIND.removeprefix(KIND))
        self._pool = means.keys.pool

    @override
    def _id(self, operation: Operation) -> str:
        return operation.kind.removeprefix(NAMED_KIND)

    @override
    async def _make(self, operation: Operation) -> None:
        placement, version, now = await self._placement(operation), await self._version(operation), datetime.now(UTC)
        made = await self._made(operation, placement, version)

        async def work(tx: SystemTransaction) -> None:
            # A version that came after its key was destroyed would be the only one, and nobody's.
            await self._held(tx, operation)
            await store.end_rotation(tx, operation.id, now=now)
            if await keys_store.insert_missing(tx, [made]):
                name = f"tenants/{placement.tenant_id}/keys/{made.key_id}/versions/{version}"
                tx.record(Effect(resource=name, placement=placement, details={"state": "ENABLED"}))
            else:
                tx.unchanged()

        await self._recorded(operation).run(work)
        self._keys.look_again(placement.uid)

    async def _made(self, operation: Operation, placement: Placement, version: int) -> keys_store.StoredKey:
        key = await self._database.system().run(lambda tx: self._held(tx, operation))
        beside = await self._database.system().run(lambda tx: keys_store.siblings(tx, placement.uid))
        material = await asyncio.to_thread(new_material, key.kind, make=self._pool.take)
        return await self._wrapping.named_version(key, material, version=version, beside=beside)

    async def _held(self, tx: SystemTransaction, operation: Operation) -> NamedKey:
        """Keep the key as it is until the transaction ends; raise where it is not used any more."""
        key_id = self._id(operation)
        name = f"tenants/{operation.tenant_id}/keys/{key_id}"
        key = await named_store.hold(tx, operation.tenant_uid, key_id)
        if key is None:
            raise NotFoundError(name)
        key.check_enabled(name)
        return key


def all_rotations(means: Means) -> dict[str, KeyRotation]:
    """Return the plan of each kind of rotation, those of tenants' own keys too."""
    named = NamedRotation(means)
    return {**rotations(means), named.kind: named}
