"""What edges have decided: counted once, however often it is reported."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from uuid import UUID

from control_plane.audit.denials import Denials
from control_plane.policies import store
from control_plane.policies.model import Report
from control_plane.policies.traffic import Traffic
from control_plane.postgres.database import Database, SystemTransaction


class Reports:
    """Takes reports."""

    def __init__(self, database: Database, denials: Denials) -> None:
        """Have `denials` write those that the edges tell."""
        self.traffic = Traffic()
        """Of what is counted here."""
        self._database = database
        self._denials = denials

    async def take(self, report: Report) -> None:
        """Count the report, unless it was counted before.

        Raises:
            UnavailableError, ConflictError: it may be counted or not; it is to come again.
        """
        if await self._database.system().run(lambda tx: store.is_counted(tx, report)):
            return
        # Each log has a transaction of its own, so these come first: what is cut short here is done again, under the
        # same ids. The usage and the note that the report is counted are one transaction.
        await self._denials.write(report.denials)
        nameless = self.traffic.nameless(report)
        ids = await self._database.system().run(lambda tx: _count(tx, report, nameless))
        if ids is not None:
            self.traffic.learn(ids)
            self.traffic.note(report, datetime.now(UTC))


async def _count(tx: SystemTransaction, report: Report, nameless: Collection[UUID]) -> Mapping[UUID, str] | None:
    """Return the ids of those that are nameless; None where the report was counted before."""
    if not await store.begin_count(tx, report):
        return None
    if report.usage:
        await store.add_usage(tx, report.usage)
    if report.accesses:
        await store.add_accesses(tx, report.accesses)
    return await store.tenant_ids(tx, nameless) if nameless else {}
