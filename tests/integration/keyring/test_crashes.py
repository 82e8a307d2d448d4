"""`kill -9` at each step of a rotation: it is completed by another worker, and whoever reads meanwhile never fails."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from control_plane.keyring.model import STEPS
from control_plane.keys.model import KekRef
from control_plane.keys.service import TenantKeys
from control_plane.operations.jobs import JobQueue
from control_plane.postgres.database import PostgresSettings
from control_plane.postgres.placement import Placement
from tests.fixtures.keyring import Ring

_WORKER = Path(__file__).with_name("dying_rotator.py")
_POINTS = [(key, f"{when}:{step}") for key, steps in STEPS.items() for step in steps for when in ("before", "after")]
_NAME, _PLAIN = "storage/org/a.pem", b"a canary in plain sight"


@dataclass(frozen=True, slots=True)
class Workers:
    """Starts workers on the test's database."""

    settings: PostgresSettings
    vault: Path
    log: Path

    async def run(self, tenant: str, point: str) -> int | None:
        where = self.settings
        arguments = [str(part) for part in (where.socket_dir, where.port, where.dbname, self.vault, tenant, point)]
        with self.log.open("ab") as log:
            worker = await asyncio.create_subprocess_exec(
                sys.executable, str(_WORKER), *arguments, stdout=log, stderr=log
            )
            return await worker.wait()


class Reader:
    """Uses all keys of the tenants, in a process that knows them and in one that does not, until it is told to stop."""

    def __init__(self, ring: Ring, tenants: Sequence[Placement]) -> None:
        self._ring = ring
        self._tenants = tenants
        self._stop = asyncio.Event()
        self.rounds = 0

    async def run(self) -> None:
        known = self._ring.cell.keys
        sealed = {tenant.uid: await known.encrypt(tenant, _PLAIN, object_name=_NAME) for tenant in self._tenants}
        while not self._stop.is_set():
            for tenant in self._tenants:
                for keys in (known, self._ring.other_process()):
                    await self._use(keys, tenant, sealed[tenant.uid])
            self.rounds += 1

    def stop(self) -> None:
        self._stop.set()

    async def _use(self, keys: TenantKeys, tenant: Placement, sealed: bytes) -> None:
        assert await keys.decrypt(tenant, sealed, object_name=_NAME) == _PLAIN
        anew = await keys.encrypt(tenant, _PLAIN, object_name=_NAME)
        assert await self._ring.cell.keys.decrypt(tenant, anew, object_name=_NAME) == _PLAIN
        signer = await keys.token_signer(tenant)
        verifier = await self._ring.other_process().token_verifier(signer.kid)
        assert verifier is not None
        assert verifier.public_key == signer.private_key.public_key()
        assert (await keys.services_key(tenant)).private
        await keys.authority(tenant)
        await keys.derive(tenant, b"label")


@pytest.mark.behaviour("S2.5")
@pytest.mark.timeout(240)
async def test_a_killed_rotation_is_completed_and_no_reader_fails_at_any_moment(
    ring: Ring, postgres_settings: PostgresSettings, tmp_path: Path
) -> None:
    workers = Workers(postgres_settings, ring.vault._keks.parent, tmp_path / "workers.log")
    points = [*_POINTS, ("kek", "amid:destruction")]
    tenants = [await ring.cell.tenant(f"org_{index}") for index in range(len(points))]
    reader = Reader(ring, tenants)
    reading = asyncio.create_task(reader.run())
    queue = JobQueue(ring.cell.database, postgres_settings)
    async with queue.open():
        for tenant, (key, point) in zip(tenants, points, strict=True):
            begun = await ring.rotate(tenant, key)
            await queue.defer(begun.id)
            died = await workers.run(tenant.tenant_id, point)
            assert died == -signal.SIGKILL, (key, point, workers.log.read_text())
        assert await workers.run("nobody", "never") == 0, workers.log.read_text()
    reader.stop()
    await reading

    assert reader.rounds > 0
    await _check_each_is_rotated_once(ring, dict(zip([tenant.tenant_id for tenant in tenants], points, strict=True)))
    expected = {
        KekRef(tenant_uid=tenant.uid, version=2 if key == "kek" else 1)
        for tenant, (key, _) in zip(tenants, points, strict=True)
    }
    assert set(await ring.keks()) == expected
    for tenant, (key, point) in zip(tenants, points, strict=True):
        about_versions = [resource for resource, _ in await ring.log(tenant) if "/versions/" in resource]
        assert len(about_versions) == {"kek": 3, "storage": 1, "services": 1, "tokens": 2}[key], point


async def _check_each_is_rotated_once(ring: Ring, points: dict[Any, tuple[str, str]]) -> None:
    rows = await ring.cell.database.system().run(
        lambda tx: tx.fetch_all(
            """
            SELECT t.id, o.state, r.version, r.end_time IS NOT NULL AS has_ended,
                   (SELECT max(version) FROM csm_system.tenant_keys AS k
                     WHERE k.tenant_uid = t.uid AND k.purpose = r.key AND k.use_time IS NOT NULL) AS newest
              FROM csm_system.tenants AS t
              JOIN csm_system.key_rotations AS r ON r.tenant_uid = t.uid
              JOIN csm_system.operations AS o ON o.id = r.operation_id
            """
        )
    )
    newest = {tenant: None if key == "kek" else 2 for tenant, (key, _) in points.items()}

    assert {(row["state"], row["version"], row["has_ended"]) for row in rows} == {("SUCCEEDED", 2, True)}
    assert {row["id"]: row["newest"] for row in rows} == newest
