"""`kill -9` at each step of a recovery: another worker completes it."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from bulkhead.v1 import recoveries_pb2
from control_plane.escrows.model import STEPS
from control_plane.keys.model import KekRef
from control_plane.operations.jobs import JobQueue
from control_plane.postgres.database import PostgresSettings
from tests.fixtures.escrow import Ceremony

WORKER = Path(__file__).with_name("dying_recoverer.py")
POINTS = [f"{when}:{step}" for step in STEPS for when in ("before", "after")]
NAME, PLAIN = "storage/org/a.pem", b"a canary in plain sight"


async def _worked(settings: PostgresSettings, vault: Path, tenant: str, *, point: str, log: Path) -> int | None:
    arguments = [str(part) for part in (settings.socket_dir, settings.port, settings.dbname, vault, tenant, point)]
    with log.open("ab") as file:
        worker = await asyncio.create_subprocess_exec(sys.executable, str(WORKER), *arguments, stdout=file, stderr=file)
        return await worker.wait()


@pytest.mark.behaviour("S2.13")
@pytest.mark.timeout(240)
async def test_a_killed_recovery_is_completed_and_all_that_was_sealed_opens(
    escrow: Ceremony, postgres_settings: PostgresSettings, tmp_path: Path
) -> None:
    log, vault = tmp_path / "workers.log", escrow.ring.vault._keks.parent
    tenants = {point: await escrow.cell.tenant(f"org_{index}") for index, point in enumerate(POINTS)}
    sealed = {
        point: await escrow.cell.keys.encrypt(tenant, PLAIN, object_name=NAME) for point, tenant in tenants.items()
    }
    queue = JobQueue(escrow.cell.database, postgres_settings)
    recoveries = {}
    async with queue.open():
        for point, tenant in tenants.items():
            await escrow.enable(tenant)
            await escrow.lose_keks(tenant)
            recoveries[point] = await escrow.begin(tenant)
            begun = await escrow.approved(tenant, recoveries[point])
            await queue.defer(begun.id)
            died = await _worked(postgres_settings, vault, tenant.tenant_id, point=point, log=log)
            assert died == -signal.SIGKILL, (point, log.read_text())
        assert await _worked(postgres_settings, vault, "nobody", point="never", log=log) == 0, log.read_text()

    for point, tenant in tenants.items():
        ended = await escrow.recovery(tenant, recoveries[point].name)
        states = [details.get("state") for _, details in await escrow.ring.log(tenant)]
        assert ended.state == recoveries_pb2.KeyRecovery.SUCCEEDED, point
        assert await escrow.ring.other_process().decrypt(tenant, sealed[point], object_name=NAME) == PLAIN
        assert await escrow.keks(tenant) == [KekRef(tenant_uid=tenant.uid, version=2)]
        # Each once, whatever was done twice: made, made anew, lost, and the end.
        assert [states.count(state) for state in ("ON", "OFF", "LOST", "SUCCEEDED")] == [2, 1, 1, 1], point
        assert (await escrow.get(tenant)).escrow_id != ended.escrow_id
    assert await escrow.execute("SELECT 1 FROM csm_system.recovery_approvals") == []


async def test_whoever_is_killed_while_a_recovery_begins_leaves_nothing_in_the_way(escrow: Ceremony) -> None:
    """The KEK is there, and nobody has written it down."""
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    await escrow.wrapping.create_kek(KekRef(tenant_uid=tenant.uid, version=2))
    await escrow.recovered(tenant)

    assert await escrow.keks(tenant) == [KekRef(tenant_uid=tenant.uid, version=2)]
