"""How the key of a tenant's audit log is rotated: a new version signs from now on, and older ones verify for ever."""

from datetime import UTC, datetime

from typing_extensions import override

from control_plane.audit import store as audit_store
from control_plane.audit.publication import Publication, published_key
from control_plane.keyring import store
from control_plane.keyring.rotations.plan import Means, RotationAtOnce
from control_plane.keys import store as keys_store
from control_plane.keys.material import AuditSigner, Material, ed25519_pair
from control_plane.keys.model import Purpose
from control_plane.operations.model import Operation
from control_plane.postgres.database import SystemTransaction


class AuditRotation(RotationAtOnce):
    """A new key, published with the signatures of the platform, of itself and of the version before it."""

    def __init__(self, means: Means) -> None:
        """Publish what the platform's keys vouch for."""
        super().__init__(means, key_id=Purpose.AUDIT.value)
        self._publication = Publication(means.database, means.keys, means.platform_keys)

    @override
    async def _make(self, operation: Operation) -> None:
        placement, version, now = await self._placement(operation), await self._version(operation), datetime.now(UTC)
        before = await self._publication.ensure(placement, now=now)
        # It may be the new one, where whoever made that was killed before it was known.
        previous = await self._keys.audit_signer(placement, version=before.version)
        made = await self._new_version(placement, Purpose.AUDIT, version=version, now=now)
        private = ed25519_pair(Material(private=await self._wrapping.opened(made), public=made.public))
        own = AuditSigner(version=version, key_id=made.id, private_key=private)
        # Now, since a key begins later than the one before it, which may have been published just above.
        key = published_key(placement, own, now=datetime.now(UTC), previous=before)
        signed = await self._publication.signed(key, own, previous=previous)

        async def work(tx: SystemTransaction) -> None:
            await store.end_rotation(tx, operation.id, now=now)
            if await keys_store.insert_missing(tx, [made]):
                await audit_store.insert_published_key(tx, placement.uid, version=version, key=signed)
                tx.record(self._effect(placement, version, state="ENABLED", public_key=key.public.hex()))
            else:
                tx.unchanged()

        await self._recorded(operation).run(work)
        self._keys.look_again(placement.uid)
