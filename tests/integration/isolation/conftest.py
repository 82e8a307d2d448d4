"""A verifier on a real database, with a real vault, that asks a real certificate service over mutual TLS."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
import pytest
from psycopg import sql

from bulkhead.v1 import certificates_pb2_grpc, isolation_pb2, isolation_pb2_grpc
from control_plane.audit.recorder import effects_recorder
from control_plane.cache.handles import Caches
from control_plane.cache.probing import Prober
from control_plane.cache.users import CacheUsers
from control_plane.certificates.servicer import CertificateServicer
from control_plane.isolation.model import Attestation
from control_plane.isolation.probes.api import CertificatesApi
from control_plane.isolation.schedule import Schedule
from control_plane.isolation.service import Verifier, read_only
from control_plane.isolation.servicer import IsolationServicer, to_proto
from control_plane.isolation.walls import Walls
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.objects.store import ObjectStore, open_bucket
from control_plane.postgres.placement import Placement
from control_plane.serving.interceptors.authentication import BearerAuthentication, ServiceAuthentication
from control_plane.serving.interceptors.authorization import Authorization
from control_plane.serving.interceptors.outgoing import OutgoingGuard
from control_plane.serving.interceptors.reception import Reception
from control_plane.serving.listeners import TlsFiles, open_listener
from control_plane.serving.paging import PageTokens
from control_plane.serving.rules import load_rules
from tests.fixtures.authority import new_authority, tls_files
from tests.fixtures.cache import admit
from tests.fixtures.canaries import RawConnection
from tests.fixtures.cell import Cell, cell
from tests.integration.ext_authz.limiter.valkey_servers import Server, valkey_server

__all__ = ["cell"]

CONTEXT_KEY: Final = bytes(range(32))
SERVICE: Final = "spiffe://bulkhead/service/control-plane"
# Quoted, since only the stubs know it.
IsolationStub: TypeAlias = "isolation_pb2_grpc.IsolationServiceAsyncStub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """Looks at the walls of `cell`, and has a channel to who tells of it."""

    cell: Cell
    verifier: Verifier
    keys: PlatformKeys
    schedule: Schedule
    stub: IsolationStub
    objects: ObjectStore
    certificates: grpc.aio.Server
    valkey: Server

    async def verify(self, placement: Placement) -> isolation_pb2.Attestation:
        attestation = await self.verifier.verify_tenant(placement, self.cell.database.system())
        return to_proto(attestation, f"tenants/{placement.tenant_id}")

    async def verify_cell(self) -> Attestation:
        return await self.verifier.verify_cell(self.cell.database.system())


async def begin_tenant(superuser: RawConnection, tenant_id: str) -> None:
    """Leave a tenant in the middle of its creation."""
    await superuser.execute(
        sql.SQL(
            "INSERT INTO csm_system.tenants (id, uid, display_name, state, tier, schema_name, dns_label)"
            " VALUES ({0}, uuidv7(), '', 'PROVISIONING', 'standard', 'tenant_' || {0}, replace({0}, '_', '-'))"
        ).format(sql.Literal(tenant_id))
    )


def outcomes(attestation: isolation_pb2.Attestation) -> dict[str, str]:
    return {
        probe.name: isolation_pb2.IsolationProbe.Outcome.Name(probe.outcome)
        for probe in attestation.probes
        if probe.outcome != isolation_pb2.IsolationProbe.PASSED
    }


@pytest.fixture
async def vault(tmp_path: Path) -> SoftwareVault:
    return await SoftwareVault.open(tmp_path / "vault")


def _reception(cell: Cell) -> Reception:
    return Reception(
        load_rules(),
        cell.database,
        recorder=partial(effects_recorder, touched=cell.sealer.touch),
        denied=cell.denials.note,
        breached=cell.breaches.note_call,
    )


@pytest.fixture
def objects(cell: Cell, tmp_path: Path) -> ObjectStore:
    return ObjectStore(open_bucket(tmp_path / "objects"), cell.keys, cell.database.canaries)


@pytest.fixture
async def valkey(cell: Cell) -> AsyncIterator[Server]:
    """Run a Valkey that knows each tenant which `cell` makes from now on."""
    async with valkey_server() as server, CacheUsers.open(server.socket, server.secret) as users:
        await admit(server, [])
        make_tenant = cell.make_tenant

        async def make_and_admit(*names: Any, **settings: Any) -> Placement:
            placement = await make_tenant(*names, **settings)
            await users.make(placement)
            return placement

        cell.make_tenant = make_and_admit
        yield server


@pytest.fixture
async def caches(cell: Cell, valkey: Server) -> AsyncIterator[Caches]:
    async with Caches.open(valkey.socket, cell.keys.derive, valkey.secret) as opened:
        yield opened


@pytest.fixture
async def certificates(
    cell: Cell, objects: ObjectStore, caches: Caches, tmp_path: Path
) -> AsyncIterator[tuple[grpc.aio.Server, str, TlsFiles]]:
    """Serve certificates to internal services."""
    issue, authority = new_authority()
    tls = tls_files(tmp_path, issue(SERVICE), authority)
    servicer = CertificateServicer(cell.keys, objects, caches, page_tokens=PageTokens(bytes(32)))
    authentication = ServiceAuthentication({"control-plane": frozenset({"certificates.read"})}, CONTEXT_KEY)
    server, port = open_listener(
        "127.0.0.1:0",
        tls,
        interceptors=(
            _reception(cell),
            authentication,
            Authorization(cell.directory),
            OutgoingGuard(cell.database.canaries),
        ),
        add_servicers=partial(certificates_pb2_grpc.add_CertificateServiceServicer_to_server, servicer),
        client_certificates=True,
    )
    await server.start()
    yield server, f"127.0.0.1:{port}", tls
    await server.stop(None)


@pytest.fixture
async def tower(
    cell: Cell,
    vault: SoftwareVault,
    objects: ObjectStore,
    certificates: tuple[grpc.aio.Server, str, TlsFiles],
    valkey: Server,
) -> AsyncIterator[Tower]:
    certificate_server, address, tls = certificates
    platform_keys = PlatformKeys(vault, cell.database)
    async with (
        CertificatesApi.open(address, tls, CONTEXT_KEY) as api,
        Prober.open(valkey.socket, cell.keys.derive, valkey.secret) as cache,
    ):
        walls = Walls(
            database=cell.database,
            directory=cell.directory,
            keys=cell.keys,
            tokens=cell.verifier,
            objects=objects,
            cache=cache,
            api=api,
        )
        restrict = read_only(cell.database, touched=cell.touched.append)
        verifier = Verifier(cell.database, platform_keys, walls, restrict=restrict, breached=cell.breaches.note)
        authentication = BearerAuthentication(cell.verifier.verify)
        server = grpc.aio.server(interceptors=(_reception(cell), authentication, Authorization(cell.directory)))
        servicer = IsolationServicer(verifier, platform_keys, PageTokens(bytes(32)))
        isolation_pb2_grpc.add_IsolationServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Tower(
                cell=cell,
                verifier=verifier,
                keys=platform_keys,
                schedule=Schedule(
                    cell.database, cell.directory, verifier=verifier, keys=platform_keys, random=lambda: 0.5
                ),
                stub=isolation_pb2_grpc.IsolationServiceStub(channel),
                objects=objects,
                certificates=certificate_server,
                valkey=valkey,
            )
        await server.stop(None)
