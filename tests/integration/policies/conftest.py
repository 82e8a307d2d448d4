"""A control plane's side of the edge, over real TLS: the feed, the edges, and those who watch them."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import grpc
import pytest

from bulkhead.edge.v1 import policies_pb2_grpc
from bulkhead.v1 import edges_pb2_grpc
from control_plane.audit.denials import Denials
from control_plane.breaches.recorder import Breaches
from control_plane.errors import DomainError
from control_plane.policies import store
from control_plane.policies.feed import Publisher
from control_plane.policies.reports import Reports
from control_plane.policies.service import Edges
from control_plane.policies.servicer import EdgeServicer, PolicyServicer
from control_plane.postgres.database import Database, PostgresSettings
from control_plane.postgres.directory import Directory
from control_plane.postgres.notifications import notified
from control_plane.serving.call import Call
from control_plane.serving.interceptors.authentication import BearerAuthentication, ServiceAuthentication
from control_plane.serving.interceptors.authorization import Authorization
from control_plane.serving.interceptors.reception import Reception
from control_plane.serving.listeners import AddServicers, TlsFiles, open_listener
from control_plane.serving.principal import Principal, Role
from control_plane.serving.rules import load_rules
from tests.fixtures.authority import Identity, new_authority, tls_files

ADMIN = (("authorization", "Bearer root"),)
CONTEXT_KEY = bytes(32)


@dataclass(kw_only=True)
class Control:
    """The parts, and the ways to them."""

    database: Database
    publisher: Publisher
    edges: Edges
    authority: bytes
    issue: Callable[[str], Identity]
    ports: tuple[int, int]
    denied: list[tuple[Call, DomainError]]

    @asynccontextmanager
    async def channel(self, spiffe: str = "") -> AsyncIterator[grpc.aio.Channel]:
        """Connect: as the bearer of that certificate, or without one."""
        identity = self.issue(spiffe) if spiffe else None
        key, certificate = (identity.key, identity.certificate) if identity else (None, None)
        credentials = grpc.ssl_channel_credentials(self.authority, key, certificate)
        async with grpc.aio.secure_channel(f"localhost:{self.ports[bool(spiffe)]}", credentials) as channel:
            yield channel

    @asynccontextmanager
    async def policies(self, edge: str = "edge-1") -> AsyncIterator[Any]:
        """Connect as an edge."""
        async with self.channel(f"spiffe://bulkhead/edge/{edge}") as channel:
            yield policies_pb2_grpc.PolicyServiceStub(channel)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[Any]:
        """Connect to the service that shows the edges; a call shows ADMIN."""
        async with self.channel() as channel:
            yield edges_pb2_grpc.EdgeServiceStub(channel)

    async def write(self, query: LiteralString, **params: object) -> None:
        """Change something in the registry."""
        await self.database.system().run(lambda tx: tx.execute(query, params))

    async def suspend(self, tenant: str, *, reactivate: bool = False) -> int:
        """Change a tenant, and return its new revision."""
        state = "ACTIVE" if reactivate else "SUSPENDED"

        async def work(tx: Any) -> int:
            row = await tx.fetch_one(
                "UPDATE csm_system.tenants SET state = %(state)s WHERE id = %(id)s RETURNING edge_revision",
                {"state": state, "id": tenant},
            )
            return int(row["edge_revision"])

        return await self.database.system().run(work)


async def _record_nothing(_tx: object, _effects: object) -> None:
    return None


@pytest.fixture
async def publisher(database: Database, postgres_settings: PostgresSettings) -> AsyncIterator[Publisher]:
    made = Publisher(database, partial(notified, postgres_settings, store.CHANNEL))
    task = asyncio.create_task(made.run())
    yield made
    made.close()
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
async def control(database: Database, publisher: Publisher, tmp_path: Path) -> AsyncIterator[Control]:
    issue, authority = new_authority()
    tls = tls_files(tmp_path, issue(""), authority)
    denied: list[tuple[Call, DomainError]] = []
    directory = Directory(database)
    edges = Edges(database)
    reports = Reports(database, Denials(database, directory, touched=lambda _: None))

    reception = Reception(
        load_rules(),
        database,
        recorder=lambda _: _record_nothing,
        denied=lambda call, error: denied.append((call, error)),
        breached=Breaches(database).note_call,
        # For calls without a deadline: streams must outlive it.
        deadline=dt.timedelta(milliseconds=300),
    )

    def add(server: grpc.aio.Server) -> None:
        policies = PolicyServicer(publisher, edges, reports)
        policies_pb2_grpc.add_PolicyServiceServicer_to_server(policies, server)
        edges_pb2_grpc.add_EdgeServiceServicer_to_server(EdgeServicer(edges, reports.traffic), server)

    interceptors = (reception, Authorization(directory))
    servers, ports = await _listeners(tls, interceptors, add)
    task = asyncio.create_task(edges.run())
    yield Control(
        database=database,
        publisher=publisher,
        edges=edges,
        authority=authority,
        issue=issue,
        ports=ports,
        denied=denied,
    )
    publisher.close()
    for server in servers:
        await server.stop(None)
    task.cancel()
    await asyncio.wait([task])


async def _verify(token: str) -> Principal:
    return Principal(subject=token, role=Role.PLATFORM_ADMIN)


async def _listeners(
    tls: TlsFiles, interceptors: tuple[Reception, Authorization], add: AddServicers
) -> tuple[list[grpc.aio.Server], tuple[int, int]]:
    """Start a listener for tokens, and one for certificates."""
    reception, authorization = interceptors
    for_tokens, token_port = open_listener(
        "127.0.0.1:0",
        tls,
        interceptors=(reception, BearerAuthentication(_verify), authorization),
        add_servicers=add,
        client_certificates=False,
    )
    for_services, service_port = open_listener(
        "127.0.0.1:0",
        tls,
        interceptors=(reception, ServiceAuthentication({"billing": frozenset()}, CONTEXT_KEY), authorization),
        add_servicers=add,
        client_certificates=True,
    )
    servers = [for_tokens, for_services]
    for server in servers:
        await server.start()
    return servers, (token_port, service_port)
