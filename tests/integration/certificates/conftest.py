"""The certificate service on a real database, with a real vault and a real bucket."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from psycopg.rows import DictRow

from bulkhead.v1 import certificates_pb2_grpc
from control_plane.audit.recorder import effects_recorder
from control_plane.cache.handles import Caches
from control_plane.certificates.model import Asked
from control_plane.certificates.service import Certificates, Issued
from control_plane.certificates.servicer import CertificateServicer
from control_plane.keys.vault_software import SoftwareVault
from control_plane.objects.store import ObjectStore, open_bucket
from control_plane.postgres.database import Isolation, TenantHandle
from control_plane.postgres.placement import Placement
from control_plane.serving.interceptors.authentication import BearerAuthentication
from control_plane.serving.interceptors.authorization import Authorization
from control_plane.serving.interceptors.outgoing import OutgoingGuard
from control_plane.serving.interceptors.reception import Reception
from control_plane.serving.paging import PageTokens
from control_plane.serving.rules import load_rules
from tests.fixtures.cell import Cell, cell
from tests.fixtures.keyring import ring
from tests.unit.certificates.signing_requests import signing_request

__all__ = ["cell", "ring"]

METHOD = "/bulkhead.v1.CertificateService/IssueCertificate"


@dataclass(slots=True, kw_only=True)
class Bench:
    """Issues certificates as the servicer does, and looks behind the scenes."""

    cell: Cell
    objects: ObjectStore
    caches: Caches
    bucket_dir: Path
    vault_dir: Path
    certificates: Certificates
    superuser: psycopg.AsyncConnection[DictRow]

    async def issue(self, tenant: Placement, asked: Asked | None = None) -> Issued:
        return await self.certificates.issue(
            asked or Asked(csr_pem=signing_request()), drafts=self.drafts(tenant), effects=self.effects(tenant)
        )

    def drafts(self, tenant: Placement) -> TenantHandle:
        return self.cell.database.tenant(tenant, isolation=Isolation.READ_COMMITTED)

    def effects(self, tenant: Placement) -> TenantHandle:
        return self.cell.call(tenant, method=METHOD).tenant()

    async def rows(self, tenant: Placement, table: str = "certificates") -> list[dict[str, Any]]:
        query = psycopg.sql.SQL("SELECT * FROM {} ORDER BY id").format(psycopg.sql.Identifier(tenant.schema, table))
        return await (await self.superuser.execute(query)).fetchall()

    async def paths(self, tenant: Placement) -> list[str]:
        return sorted([name.path async for name in self.objects.of(tenant).list()])

    def stored_files(self) -> list[Path]:
        return [path for path in self.bucket_dir.rglob("*") if path.is_file()]


@pytest.fixture
async def vault(tmp_path: Path) -> SoftwareVault:
    return await SoftwareVault.open(tmp_path / "vault")


@pytest.fixture
async def bench(cell: Cell, tmp_path: Path, superuser: psycopg.AsyncConnection[DictRow]) -> AsyncIterator[Bench]:
    """Without a Valkey, which nothing here needs."""
    objects = ObjectStore(open_bucket(tmp_path / "objects"), cell.keys, cell.database.canaries)
    async with Caches.open(tmp_path / "none.sock", cell.keys.derive, bytes(32)) as caches:
        yield Bench(
            cell=cell,
            objects=objects,
            caches=caches,
            bucket_dir=tmp_path / "objects",
            vault_dir=tmp_path / "vault",
            certificates=Certificates(cell.keys, objects, caches),
            superuser=superuser,
        )


@pytest.fixture
async def stub(bench: Bench) -> "AsyncIterator[certificates_pb2_grpc.CertificateServiceAsyncStub]":
    """Connect to the service behind the interceptors that it has in production."""
    cell = bench.cell
    reception = Reception(
        load_rules(),
        cell.database,
        recorder=partial(effects_recorder, touched=cell.sealer.touch),
        denied=cell.denials.note,
        breached=cell.breaches.note_call,
    )
    authentication = BearerAuthentication(cell.verifier.verify)
    guard = OutgoingGuard(cell.database.canaries)
    server = grpc.aio.server(interceptors=(reception, authentication, Authorization(cell.directory), guard))
    servicer = CertificateServicer(cell.keys, bench.objects, bench.caches, page_tokens=PageTokens(bytes(32)))
    certificates_pb2_grpc.add_CertificateServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield certificates_pb2_grpc.CertificateServiceStub(channel)
    await server.stop(None)
