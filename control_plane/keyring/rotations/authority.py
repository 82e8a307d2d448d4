"""How a tenant's certificate authority is rotated: a second one beside the first, until that is needed no more."""

from collections.abc import Mapping
from datetime import UTC, datetime

from typing_extensions import override

from control_plane.certificates import store as certificates_store
from control_plane.keyring import store
from control_plane.keyring.rotations.plan import Means
from control_plane.keyring.rotations.published import PublishedRotation
from control_plane.keys import store as keys_store
from control_plane.keys.model import MissingKeyError, Purpose
from control_plane.operations.model import Operation
from control_plane.operations.plan import StepRun
from control_plane.postgres.database import Isolation, SystemTransaction
from control_plane.postgres.placement import Placement


class AuthorityRotation(PublishedRotation):
    """A new authority, of the same name and algorithm, that every process shows before it signs.

    No edge is waited for: none trusts a tenant's authority in anything. The old one certifies the new one, so that who
    verifies against it alone takes what the new one signs.
    """

    def __init__(self, means: Means) -> None:
        """Look into the tenant's certificates for what still needs an old version."""
        super().__init__(means, purpose=Purpose.AUTHORITY)
        self._directory = means.directory

    @property
    @override
    def runs(self) -> Mapping[str, StepRun]:
        return {"publication": self._publish, "use": self._use, "retirement": self._retire}

    @override
    async def _made(self, placement: Placement, version: int, *, now: datetime) -> keys_store.StoredKey:
        system = self._database.system()
        enabled = await system.run(lambda tx: keys_store.enabled_of(tx, placement.uid, Purpose.AUTHORITY))
        before = next((each for each in enabled if each.is_used), None)
        if before is None:
            raise MissingKeyError(f"{Purpose.AUTHORITY} key of tenant {placement.uid}")
        beside = await system.run(lambda tx: keys_store.siblings(tx, placement.uid))
        return await self._wrapping.next_authority(placement, before, version=version, beside=beside, now=now)

    async def _use(self, operation: Operation) -> None:
        """Sign with it when every process has had the time to show it to those who verify."""
        await self._use_once_known(operation, ends=True, signs=True)

    async def _retire(self, operation: Operation) -> None:
        """Retire what has signed no certificate that is valid still.

        None comes after this look: who issues one keeps its row before it asks, once more, which version signs.
        """
        placement, version, now = await self._placement(operation), await self._version(operation), datetime.now(UTC)
        # Its tables may be of an older release.
        await self._directory.find(placement.tenant_id)
        tenant = self._database.tenant(placement, isolation=Isolation.READ_COMMITTED)
        needed = await tenant.run(lambda tx: certificates_store.needed_authorities(tx, now=now))

        async def work(tx: SystemTransaction) -> None:
            retired = await store.retire_before(
                tx, placement.uid, purpose=Purpose.AUTHORITY, version=version, kept=needed
            )
            for old in retired:
                tx.record(self._effect(placement, old, state="RETIRED"))
            if not retired:
                tx.unchanged()

        await self._recorded(operation).run(work)
        self._keys.look_again(placement.uid)
