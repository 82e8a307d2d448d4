"""How the key is rotated that derives what is stored nowhere, and says no version."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from typing_extensions import override

from control_plane.keyring import store
from control_plane.keyring.rotations.plan import Means
from control_plane.keyring.rotations.published import PublishedRotation
from control_plane.keys.model import Purpose
from control_plane.operations.model import Operation
from control_plane.operations.plan import StepRun
from control_plane.postgres.database import SystemTransaction
from control_plane.postgres.schemas import tenancy
from control_plane.tokens.service import ENROLMENT_LIFETIME

# The longest that a token which it derived is taken, and what clocks may differ.
_DERIVES_ON: Final = ENROLMENT_LIFETIME + timedelta(hours=1)


class EnrolmentRotation(PublishedRotation):
    """A new key for new enrolment tokens, and for the login of the tenant's own database role.

    Tokens that an older version derived are taken until they expire. The role has one password: it is changed in one
    transaction with the note of which version it comes from, and that version is never retired. Who is refused with the
    old one reads that note, and logs in again; who is logged in stays so.
    """

    def __init__(self, means: Means) -> None:
        """Derive with the new version once every process takes what it derives."""
        super().__init__(means, purpose=Purpose.ENROLMENT)

    @property
    @override
    def runs(self) -> Mapping[str, StepRun]:
        return {"publication": self._publish, "use": self._use, "login": self._change_login}

    async def _use(self, operation: Operation) -> None:
        await self._use_once_known(operation, ends=False, derives=True)

    async def _change_login(self, operation: Operation) -> None:
        placement, now = await self._placement(operation), datetime.now(UTC)
        if placement.is_strict:
            # The step before may have been another process's.
            self._keys.look_again(placement.uid)
            await tenancy.change_login(self._database, placement, await self._keys.login(placement))

        async def work(tx: SystemTransaction) -> None:
            await store.end_rotation(tx, operation.id, now=now)
            needed = await store.needed_enrolments(tx, placement.uid)
            retired = await store.retire(
                tx, placement.uid, purpose=Purpose.ENROLMENT, unused_for=_DERIVES_ON, kept=needed
            )
            for old in retired:
                tx.record(self._effect(placement, old, state="RETIRED"))
            if not retired:
                tx.unchanged()

        await self._recorded(operation).run(work)
