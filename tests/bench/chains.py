"""Envoy with the edge's own listener four times, each with less of it: so that what a part costs is a difference.

All have the same process, the same worker thread, the same tenant's routes and the same upstream: one more listener,
which answers everything with an empty list of certificates.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import httpx
from envoy_data_plane.envoy.config.core.v3 import Address, HeaderValue, HeaderValueOption, Pipe
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    Route,
    RouteConfiguration,
    RouteMatch,
    ScopedRouteConfiguration,
    ScopedRouteConfigurationKey,
    ScopedRouteConfigurationKeyFragment,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpFilter,
    ScopedRouteConfigurationsList,
)
from envoy_data_plane.google.protobuf import Any

from ext_authz.policies.model import TenantPolicy
from ext_authz.settings import EdgeSettings
from ext_authz.xds.resources import clusters, connection_manager, filters
from ext_authz.xds.resources.bootstrap import bootstrap
from ext_authz.xds.resources.limits import Limits
from ext_authz.xds.resources.source import EnvoyResources
from ext_authz.xds.resources.validation import envoy_binary
from tests.fixtures.ports import free_ports

_ROUTER: Final = "envoy.filters.http.router"
_ASKS: Final = frozenset({filters.ASKING, filters.RBAC})
_FINDS: Final = frozenset({"envoy.filters.http.lua", "envoy.filters.http.on_demand"})
# Nothing here is measured at its limit.
_LIMITS: Final = Limits(requests_per_second=1_000_000, request_burst=1_000_000)
_LOOK_EVERY_S: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """Where the listeners are, `host:port`; and the process that they are in."""

    leased: str
    """The edge's, as it is."""
    checked: str
    """Without leases: a Check for each request."""
    unchecked: str
    """Without what asks the agent and what relies on its answer."""
    bare: str
    """Without the script, too: its routes are found by no tenant."""
    admin: str
    pid: int = 0

    async def counter(self, name: str) -> int:
        """Read one of Envoy's counters."""
        async with httpx.AsyncClient(base_url=f"http://{self.admin}") as client:
            answer = await client.get("/stats", params={"format": "json", "filter": f"^{name}$"})
        return sum(int(stat["value"]) for stat in answer.json()["stats"])


@asynccontextmanager
async def running_chains(
    edge: EdgeSettings, policy: TenantPolicy, folder: Path, *, context: str = ""
) -> AsyncIterator[Chains]:
    """Start such an Envoy beside the edge; it asks the edge's workers, and knows one tenant's routes.

    Where there is a `context`, the upstream is the real service, and the bare listener says that to it.
    """
    leased, checked, unchecked, bare, admin = (f"127.0.0.1:{port}" for port in free_ports(5))
    chains = Chains(leased=leased, checked=checked, unchecked=unchecked, bare=bare, admin=admin)
    settings = replace(edge, http_listen=chains.leased, admin_listen=admin, edge_dir=folder)
    path = folder / "chains.pb"
    path.touch(mode=0o600)
    made = await asyncio.to_thread(
        _bootstrap, settings, policy, chains=chains, upstream=folder / "up.sock", context=context
    )
    path.write_bytes(made)
    log = await asyncio.to_thread((folder / "chains.log").open, "wb")
    with log:
        command = ("-c", str(path), "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
        process = await asyncio.create_subprocess_exec(str(envoy_binary()), *command, stdout=log, stderr=log)
    try:
        await _ready(process, admin, log=folder / "chains.log")
        yield replace(chains, pid=process.pid)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _bootstrap(settings: EdgeSettings, policy: TenantPolicy, *, chains: Chains, upstream: Path, context: str) -> bytes:
    resources = EnvoyResources(settings, _LIMITS)
    made = bootstrap(settings, _LIMITS)
    static = made.static_resources
    if static is None:
        raise AssertionError("the bootstrap has no static resources")
    made.dynamic_resources = None
    real = {cluster.name: cluster for cluster in resources.clusters(None)}
    certificates = real[clusters.CERTIFICATES] if context else clusters.agent(clusters.CERTIFICATES, upstream)
    static.clusters = [certificates, real[clusters.EXT_AUTHZ]]
    static.secrets = resources.secrets()
    routes = RouteConfiguration.parse(resources.routes(policy))
    edge_http = bytes(resources.listeners(None)[0])
    without_leases = EnvoyResources(settings, _LIMITS, lua=filters.read_lua(rpcs=()))
    static.listeners = [
        _listener(Listener.parse(edge_http), "leased", routes),
        _listener(without_leases.listeners(None)[0], "checked", routes, address=chains.checked),
        _listener(Listener.parse(edge_http), "unchecked", routes, address=chains.unchecked, without=_ASKS),
        _listener(
            Listener.parse(edge_http), "bare", _saying(routes, context), address=chains.bare, without=_ASKS | _FINDS
        ),
        _upstream(upstream),
    ]
    return bytes(made)


def _saying(routes: RouteConfiguration, context: str) -> RouteConfiguration:
    """Return the routes with what the agent would add to each request."""
    made = RouteConfiguration.parse(bytes(routes))
    if context:
        made.request_headers_to_add = [HeaderValueOption(header=HeaderValue(key=filters.CONTEXT, value=context))]
    return made


def _listener(
    listener: Listener,
    name: str,
    routes: RouteConfiguration,
    *,
    address: str = "",
    without: frozenset[str] = frozenset(),
) -> Listener:
    """Give the edge's listener its routes from the start, and take filters out of it."""
    listener.name = listener.stat_prefix = name
    if address and listener.address and listener.address.socket_address:
        listener.address.socket_address.port_value = int(address.rpartition(":")[2])
    (connections,) = listener.filter_chains[0].filters
    manager = HttpConnectionManager.parse(connections.typed_config.value if connections.typed_config else b"")
    manager.http_filters = [one for one in manager.http_filters if one.name not in without]
    if manager.scoped_routes is None:
        raise AssertionError("the edge's listener has no scoped routes")
    fragment = ScopedRouteConfigurationKeyFragment(string_key=f"id:{routes.name.partition(':')[2]}")
    scope = ScopedRouteConfiguration(
        name=routes.name, route_configuration=routes, key=ScopedRouteConfigurationKey(fragments=[fragment])
    )
    if without >= _FINDS:
        manager.scoped_routes, manager.route_config = None, routes
        connections.typed_config = Any.pack(manager)
        return listener
    manager.scoped_routes.scoped_rds = None
    manager.scoped_routes.rds_config_source = None
    manager.scoped_routes.scoped_route_configurations_list = ScopedRouteConfigurationsList(
        scoped_route_configurations=[scope]
    )
    connections.typed_config = Any.pack(manager)
    return listener


def _upstream(path: Path) -> Listener:
    answer = DirectResponseAction(status=200)
    succeeded = HeaderValueOption(header=HeaderValue(key="grpc-status", value="0"))
    host = VirtualHost(
        name="all",
        domains=["*"],
        routes=[Route(match=RouteMatch(prefix="/"), direct_response=answer)],
        response_headers_to_add=[succeeded],
    )
    manager = HttpConnectionManager(
        stat_prefix="upstream",
        codec_type=HttpConnectionManagerCodecType.HTTP2,
        route_config=RouteConfiguration(name="all", virtual_hosts=[host]),
        http_filters=[HttpFilter(name=_ROUTER, typed_config=Any.pack(Router()))],
    )
    connections = Filter(name=connection_manager.NAME, typed_config=Any.pack(manager))
    return Listener(
        name="upstream", address=Address(pipe=Pipe(path=str(path))), filter_chains=[FilterChain(filters=[connections])]
    )


async def _ready(process: asyncio.subprocess.Process, admin: str, *, log: Path) -> None:
    async with httpx.AsyncClient(base_url=f"http://{admin}") as client:
        while True:
            with suppress(httpx.HTTPError):
                if (await client.get("/ready")).is_success:
                    return
            if process.returncode is not None:
                raise RuntimeError(await asyncio.to_thread(log.read_text))
            await asyncio.sleep(_LOOK_EVERY_S)
