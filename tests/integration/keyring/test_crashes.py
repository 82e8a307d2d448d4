"""`kill -9` at each step of a rotation: it is completed by another worker, and whoever reads meanwhile never fails."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from control_plane.cache.handles import Caches
from control_plane.certificates.model import Asked
from control_plane.certificates.service import Certificates, Issued
from control_plane.keyring.model import STEPS
from control_plane.keys.model import KekRef
from control_plane.keys.service import TenantKeys
from control_plane.objects.store import ObjectStore, TenantObjects
from control_plane.operations.jobs import JobQueue
from control_plane.postgres.database import Isolation, PostgresSettings
from control_plane.postgres.placement import Placement
from tests.fixtures.keyring import Ring
from tests.fixtures.stored import ALL, State, add_secret, fill, payload_of, states
from tests.unit.certificates.signing_requests import signing_request

_WORKER = Path(__file__).with_name("dying_rotator.py")
_POINTS = [(key, f"{when}:{step}") for key, steps in STEPS.items() for step in steps for when in ("before", "after")]
_NAME, _PLAIN = "storage/org/a.pem", b"a canary in plain sight"
_WRITTEN, _DELETED = "written", "deleted"


@dataclass(frozen=True, slots=True)
class Workers:
    """Starts workers on the test's database."""

    settings: PostgresSettings
    vault: Path
    objects: Path
    log: Path

    async def run(self, tenant: str, point: str) -> int | None:
        where = self.settings
        arguments = [
            str(part) for part in (where.socket_dir, where.port, where.dbname, self.vault, self.objects, tenant, point)
        ]
        with self.log.open("ab") as log:
            worker = await asyncio.create_subprocess_exec(
                sys.executable, str(_WORKER), *arguments, stdout=log, stderr=log
            )
            return await worker.wait()


class Reader:
    """Uses all keys of the tenants, and reads all that they have stored, until it is told to stop.

    In a process that knows the keys, and in one that does not.
    """

    def __init__(self, ring: Ring, tenants: Sequence[Placement]) -> None:
        self._ring = ring
        self._tenants = tenants
        self._stop = asyncio.Event()
        self.rounds = 0

    async def run(self) -> None:
        while not self._stop.is_set():
            for tenant in self._tenants:
                for keys in (self._ring.cell.keys, self._ring.other_process()):
                    await self._use(keys, tenant)
                    await self._read(keys, tenant)
            self.rounds += 1

    def stop(self) -> None:
        self._stop.set()

    async def _use(self, keys: TenantKeys, tenant: Placement) -> None:
        anew = await keys.encrypt(tenant, _PLAIN, object_name=_NAME)
        assert await self._ring.cell.keys.decrypt(tenant, anew, object_name=_NAME) == _PLAIN
        signer = await keys.token_signer(tenant)
        verifier = await self._ring.other_process().token_verifier(signer.kid)
        assert verifier is not None
        assert verifier.public_key == signer.private_key.public_key()
        assert (await keys.services_key(tenant)).private
        await keys.authorities(tenant)
        await keys.derive(tenant, b"label")

    async def _read(self, keys: TenantKeys, tenant: Placement) -> None:
        own = ObjectStore(self._ring.objects.bucket, keys, self._ring.objects.canaries).of(tenant)
        for name, content in ALL.items():
            assert await own.get(name.path, version=name.version) == content
            async with aclosing(own.get_stream(name.path, version=name.version)) as parts:
                assert b"".join([part async for part in parts]) == content
        assert await payload_of(self._ring, tenant, "api", 1) == b"hunter2"
        # Whichever it is at this moment.
        assert (await own.get(_WRITTEN)).isdigit()


class Issuer:
    """Issues certificates of the tenants, and verifies all that there are by what processes show, until it is told."""

    def __init__(self, ring: Ring, caches: Caches, tenants: Sequence[Placement]) -> None:
        self._ring = ring
        self._caches = caches
        self._stop = asyncio.Event()
        self.issued: dict[Placement, list[Issued]] = {tenant: [] for tenant in tenants}

    async def run(self) -> None:
        while not self._stop.is_set():
            for tenant, issued in self.issued.items():
                for keys in (self._ring.cell.keys, self._ring.other_process()):
                    issued.append(await self._issue(keys, tenant))
                    roots = (await keys.authorities(tenant)).trusted
                    for each in issued:
                        _verify(each, roots)
                    # One that knows the first authority alone.
                    _verify(issued[-1], x509.load_pem_x509_certificates(issued[0].pem_chain.encode())[-1:])
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stop.set()

    async def _issue(self, keys: TenantKeys, tenant: Placement) -> Issued:
        certificates = Certificates(keys, self._ring.objects, self._caches)
        database, method = self._ring.cell.database, "/bulkhead.v1.CertificateService/IssueCertificate"
        return await certificates.issue(
            Asked(csr_pem=signing_request()),
            drafts=database.tenant(tenant, isolation=Isolation.READ_COMMITTED),
            effects=self._ring.cell.call(tenant, method=method).tenant(),
        )


def _verify(issued: Issued, roots: list[x509.Certificate]) -> None:
    leaf, *others = x509.load_pem_x509_certificates(issued.pem_chain.encode())
    verifier = PolicyBuilder().store(Store(roots)).time(datetime.now(UTC) + timedelta(seconds=1))
    verifier.build_server_verifier(x509.DNSName("a.example")).verify(leaf, others)


class Writer:
    """Overwrites an object of each tenant, and deletes another one, until it is told to stop."""

    def __init__(self, ring: Ring, tenants: Sequence[Placement]) -> None:
        self._own = {tenant.tenant_id: ring.objects.of(tenant) for tenant in tenants}
        self._stop = asyncio.Event()
        self.written: dict[str, int] = dict.fromkeys(self._own, 0)

    async def run(self) -> None:
        while not self._stop.is_set():
            for tenant_id, own in self._own.items():
                number = self.written[tenant_id] + 1
                await self._write(own, number)
                self.written[tenant_id] = number
                assert await own.get(_WRITTEN) == b"%d" % number
                await own.put(_DELETED, plaintext=b"x" * 100_000)
                await own.delete(_DELETED)
                # So that nobody waits for its turn.
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stop.set()

    async def check(self) -> None:
        """See that the last write of each is what is there, and that nothing came back."""
        for tenant_id, own in self._own.items():
            assert await own.get(_WRITTEN) == b"%d" % self.written[tenant_id], tenant_id
            assert _DELETED not in {name.path async for name in own.list()}
            assert {await own.sealed_by(name.path, version=name.version) async for name in own.list()} in ({1}, {2})

    async def _write(self, own: TenantObjects, number: int) -> None:
        async def slow() -> AsyncIterator[bytes]:
            for digit in b"%d" % number:
                yield bytes([digit])

        if number % 2:
            await own.put(_WRITTEN, plaintext=b"%d" % number)
        else:
            await own.put_stream(_WRITTEN, plaintext=slow())


@pytest.mark.behaviour("S2.5")
@pytest.mark.timeout(300)
async def test_a_killed_rotation_is_completed_and_no_reader_fails_and_no_write_is_lost_at_any_moment(
    ring: Ring, postgres_settings: PostgresSettings, tmp_path: Path
) -> None:
    workers = Workers(postgres_settings, ring.vault._keks.parent, tmp_path / "objects", tmp_path / "workers.log")
    points = [*_POINTS, ("kek", "amid:destruction"), ("storage", "amid:objects"), ("storage", "amid:replacement")]
    tenants = [await ring.cell.tenant(f"org_{index}") for index in range(len(points))]
    for tenant in tenants:
        await fill(ring.objects.of(tenant))
        await ring.objects.of(tenant).put(_WRITTEN, plaintext=b"0")
        await add_secret(ring, tenant, "api", b"hunter2")
    reader, writer = Reader(ring, tenants), Writer(ring, tenants)
    queue = JobQueue(ring.cell.database, postgres_settings)
    async with queue.open(), Caches.open(tmp_path / "none.sock", ring.cell.keys.derive, bytes(32)) as caches:
        issuer = Issuer(
            ring, caches, [tenant for tenant, (key, _) in zip(tenants, points, strict=True) if key == "authority"]
        )
        working = [asyncio.create_task(each.run()) for each in (reader, writer, issuer)]
        for tenant, (key, point) in zip(tenants, points, strict=True):
            begun = await ring.rotate(tenant, key)
            await queue.defer(begun.id)
            died = await workers.run(tenant.tenant_id, point)
            assert died == -signal.SIGKILL, (key, point, workers.log.read_text())
        assert await workers.run("nobody", "never") == 0, workers.log.read_text()
        for each in (reader, writer, issuer):
            each.stop()
        await asyncio.gather(*working)

    assert reader.rounds > 0
    assert min(writer.written.values()) > 0
    assert {each.certificate.authority_version for issued in issuer.issued.values() for each in issued} == {1, 2}
    await writer.check()
    await _check_each_is_rotated_once(ring, dict(zip([tenant.tenant_id for tenant in tenants], points, strict=True)))
    expected = {
        KekRef(tenant_uid=tenant.uid, version=2 if key == "kek" else 1)
        for tenant, (key, _) in zip(tenants, points, strict=True)
    }
    assert set(await ring.keks()) == expected
    for tenant, (key, point) in zip(tenants, points, strict=True):
        about_versions = [
            resource for resource, _ in await ring.log(tenant) if "/keys/" in resource and "/versions/" in resource
        ]
        assert (
            len(about_versions)
            == {"kek": 3, "storage": 2, "services": 1, "tokens": 2, "authority": 2, "enrolment": 2, "audit": 1}[key]
        ), point
        sealed = {await ring.objects.of(tenant).sealed_by(name.path, version=name.version) for name in ALL}
        assert sealed == {2 if key == "storage" else 1}, point
        assert (State.RETIRED in await states(ring, tenant)) is (key == "storage"), point


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
