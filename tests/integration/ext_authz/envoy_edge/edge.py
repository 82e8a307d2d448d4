"""The whole edge but for its agent's mind: a real Envoy, told by the real hub, with real resources."""

import asyncio
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import grpc

from ext_authz.policies.model import Change, Index, State, TenantPolicy
from ext_authz.settings import EdgeSettings
from ext_authz.xds.hub import Hub
from ext_authz.xds.resources.bootstrap import render_bootstrap
from ext_authz.xds.resources.limits import DEFAULTS, Limits
from ext_authz.xds.resources.source import EnvoyResources
from ext_authz.xds.servicer import SERVER_OPTIONS, AdsServicer
from tests.fixtures.authority import new_authority
from tests.fixtures.envoy import EnvoyProcess, running_envoy
from tests.fixtures.ports import free_ports
from tests.integration.ext_authz.envoy_edge.decisions import Workers, serving_worker
from tests.integration.ext_authz.envoy_edge.upstream import Upstream, serving_upstream

DOMAIN = "csm.example.com"
SHARED = f"api.{DOMAIN}"


def policy(tenant_id: str, *, revision: int = 1, state: State = State.ACTIVE) -> TenantPolicy:
    return TenantPolicy(
        tenant_id=tenant_id,
        uid=UUID(int=sum(tenant_id.encode())),
        revision=revision,
        state=state,
        tier="standard",
        isolation_level="POOLED",
        dns_label=tenant_id.replace("_", "-"),
        domains=(f"certificates.{tenant_id}.example",),
        requests_per_minute=600,
        token_keys={},
        max_age=timedelta(minutes=15),
    )


TENANTS = (policy("acme"), policy("globex", revision=2), policy("frozen", revision=3, state=State.SUSPENDED))


@dataclass(slots=True)
class Edge:
    """Everything that a test looks at."""

    settings: EdgeSettings
    envoy: EnvoyProcess
    upstream: Upstream
    service: asyncio.Server
    workers: Workers
    servers: list[grpc.aio.Server]
    hub: Hub
    folder: Path
    index: Index

    @property
    def http_port(self) -> int:
        return int(self.settings.http_listen.rpartition(":")[2])

    @property
    def https_port(self) -> int:
        return int(self.settings.https_listen.rpartition(":")[2])

    async def loaded(self) -> set[str]:
        """Return the routes that Envoy has fetched."""
        dump = await self.envoy.ask("/config_dump?resource=dynamic_route_configs")
        return {one["route_config"]["name"] for one in dump.get("configs", []) if "route_config" in one}

    async def tell(self, *policies: TenantPolicy) -> None:
        """Have Envoy apply these policies."""
        self.index = self.index.after(_change(self.index.revision + 1, *policies))
        self.hub.use(self.index)
        await self.hub.applied(self.index.revision)


def _change(revision: int, *policies: TenantPolicy, snapshot: bool = False) -> Change:
    return Change(
        feed="f", revision=revision, snapshot=snapshot, tenants=policies, revocations={}, as_of=datetime.now(UTC)
    )


def edge_settings(folder: Path, ports: Sequence[int] = (1, 2, 3, 4)) -> EdgeSettings:
    """Lay out what an edge reads, with certificates of a new authority, and where it writes."""
    issue, authority = new_authority()
    (folder / "ca.pem").write_bytes(authority)
    names = {
        "edge": "spiffe://bulkhead/service/edge",
        "certificates": "spiffe://bulkhead/service/certificates",
        "other": "spiffe://bulkhead/service/other",
        "server": "",
        "acme": "spiffe://bulkhead/tenant/acme",
    }
    for name, spiffe in names.items():
        identity = issue(spiffe)
        (folder / f"{name}.pem").write_bytes(identity.certificate)
        (folder / f"{name}.key").write_bytes(identity.key)
    sockets, edge = folder / "s", folder / "edge"
    sockets.mkdir()
    edge.mkdir(mode=0o700)
    upstream, http, https, admin = (f"127.0.0.1:{port}" for port in ports)
    return EdgeSettings(
        state_dir=folder,
        name="edge-1",
        control_plane="127.0.0.1:1",
        ca_file=folder / "ca.pem",
        certificate=folder / "edge.pem",
        key=folder / "edge.key",
        upstream=upstream,
        upstream_certificate=folder / "edge.pem",
        upstream_key=folder / "edge.key",
        http_listen=http,
        https_listen=https,
        admin_listen=admin,
        server_certificate=folder / "server.pem",
        server_key=folder / "server.key",
        client_ca_file=folder / "ca.pem",
        domain=DOMAIN,
        shared_hosts=(SHARED, "localhost", "127.0.0.1"),
        workers=2,
        sockets_dir=sockets,
        edge_dir=edge,
        valkey_socket=folder / "valkey.sock",
        valkey_key=folder / "valkey-edge.key",
        context_key=folder / "context.key",
        copy_key=folder / "copy.key",
    )


def edge_of_its_own(stack: AsyncExitStack) -> EdgeSettings:
    """Lay one out on free ports, until the stack ends. Where it lies is short enough for a socket's path."""
    folder = Path(tempfile.mkdtemp(prefix="bh-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return edge_settings(folder, free_ports(4))


@asynccontextmanager
async def running_edge(
    *,
    limits: Limits = DEFAULTS,
    lua: str = "",
    upstream_is: str = "certificates",
    upstream_tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> AsyncIterator[Edge]:
    """Start it with three tenants; `lua` stands in for the script."""
    async with AsyncExitStack() as stack:
        settings = edge_of_its_own(stack)
        workers = Workers()
        servers = [
            await stack.enter_async_context(serving_worker(workers, settings.check_socket(number)))
            for number in range(settings.workers)
        ]
        upstream, service = await stack.enter_async_context(
            serving_upstream(settings, upstream_is, newest=upstream_tls)
        )
        hub = Hub(EnvoyResources(settings, limits, lua=lua) if lua else EnvoyResources(settings, limits))
        index = Index(domain=DOMAIN).after(_change(1, *TENANTS, snapshot=True))
        hub.use(index)
        await serving_hub(hub, settings, stack)
        envoy = await stack.enter_async_context(running_envoy(render_bootstrap(settings, limits), settings.state_dir))
        async with asyncio.timeout(30):
            await envoy.listens("edge_http", "edge_https")
        yield Edge(settings, envoy, upstream, service, workers, servers, hub, settings.state_dir, index)


async def serving_hub(hub: Hub, settings: EdgeSettings, stack: AsyncExitStack) -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    AdsServicer(hub).add_to(server)
    server.add_insecure_port(f"unix:{settings.xds_socket}")
    await server.start()
    stack.push_async_callback(server.stop, None)


def suspended(one: TenantPolicy, revision: int) -> TenantPolicy:
    return replace(one, state=State.SUSPENDED, revision=revision)
