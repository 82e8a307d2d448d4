"""`kill -9` at each step of a rotation of the key that derives: strict tenants log in all the while."""

import asyncio
import hmac
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from control_plane.keyring.model import STEPS
from control_plane.operations.jobs import JobQueue
from control_plane.postgres.database import PostgresSettings
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas import tenancy
from tests.fixtures.keyring import Ring
from tests.integration.keyring.test_crashes import Workers
from tests.integration.keyring.test_enrolment_rotation import LABEL, connections, logs_in, strict, who_logs_in

_KEY = "enrolment"
_POINTS = [*(f"{when}:{step}" for step in STEPS[_KEY] for when in ("before", "after")), "amid:login"]


class Logins:
    """Log in as each tenant, from processes that know an old password, none, or are in, until they are told to stop."""

    def __init__(self, ring: Ring, settings: PostgresSettings, tenants: Sequence[Placement]) -> None:
        self._ring = ring
        self._settings = settings
        self._tenants = tenants
        self._stop = asyncio.Event()
        self.rounds = 0

    async def run(self) -> None:
        stale = self._ring.other_process()
        handed_out = {tenant: await stale.derive(tenant, LABEL) for tenant in self._tenants}
        async with connections(self._settings, self._ring.other_process()) as kept:
            while not self._stop.is_set():
                for tenant in self._tenants:
                    fresh = self._ring.other_process()
                    assert await who_logs_in(kept, tenant) == tenant.role
                    for process in (stale, fresh):
                        assert await logs_in(self._settings, process, tenant)
                    # What one process derives now, all take; and so they do what was derived before.
                    for secret in (handed_out[tenant], await fresh.derive(tenant, LABEL)):
                        for process in (stale, fresh):
                            taken = await process.derive_each(tenant, LABEL)
                            assert any(hmac.compare_digest(secret, each) for each in taken)
                self.rounds += 1

    def stop(self) -> None:
        self._stop.set()


@pytest.mark.behaviour("S2.5")
@pytest.mark.timeout(300)
async def test_a_killed_rotation_is_completed_and_everybody_logs_in_at_any_moment(
    ring: Ring, postgres_settings: PostgresSettings, tmp_path: Path
) -> None:
    workers = Workers(postgres_settings, ring.vault._keks.parent, tmp_path / "objects", tmp_path / "workers.log")
    tenants = [await strict(ring, f"org_{index}") for index in range(len(_POINTS))]
    logins = Logins(ring, postgres_settings, tenants)
    working = asyncio.create_task(logins.run())
    queue = JobQueue(ring.cell.database, postgres_settings)
    async with queue.open():
        for tenant, point in zip(tenants, _POINTS, strict=True):
            begun = await ring.rotate(tenant, _KEY)
            await queue.defer(begun.id)
            died = await workers.run(tenant.tenant_id, point)
            assert died == -signal.SIGKILL, (point, workers.log.read_text())
        assert await workers.run("nobody", "never") == 0, workers.log.read_text()
    logins.stop()
    await working

    assert logins.rounds > 0
    for tenant in tenants:
        assert await _noted(ring, tenant) == (await ring.other_process().login(tenant)).version == 2


async def _noted(ring: Ring, tenant: Placement) -> int | None:
    return await ring.cell.database.system().run(lambda tx: tenancy.login_version(tx, tenant.uid))
