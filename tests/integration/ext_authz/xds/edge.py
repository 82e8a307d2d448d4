"""A real Envoy, and the server that tells it what to do, in one directory. What passes between them is kept."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import grpc
import httpx
from envoy_data_plane.envoy.config.core.v3 import Address, AggregatedConfigSource, ApiVersion, ConfigSource, Pipe
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.http.on_demand.v3 import OnDemand
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
    ScopedRds,
    ScopedRoutes,
    ScopedRoutesScopeKeyBuilder,
    ScopedRoutesScopeKeyBuilderFragmentBuilder,
    ScopedRoutesScopeKeyBuilderFragmentBuilderHeaderValueExtractor,
)
from envoy_data_plane.google.protobuf import Any as AnyResource
from typing_extensions import override

from bulkhead.envoy.v3 import discovery_pb2
from ext_authz.policies.model import Index
from ext_authz.xds.hub import Hub
from ext_authz.xds.servicer import SERVER_OPTIONS, AdsServicer
from ext_authz.xds.snapshot import LISTENER, ROUTES, SCOPE
from tests.fixtures.edge_policies import policy
from tests.fixtures.eventually import eventually
from tests.fixtures.plain_resources import PlainResources, index_of

TENANTS = index_of(*(policy(number) for number in range(200)))

Handler = Any  # grpc's own is generic for the type checker only


class Tap(grpc.aio.ServerInterceptor):
    """Keeps what passes."""

    def __init__(self) -> None:
        self.requests: list[discovery_pb2.DeltaDiscoveryRequest] = []
        self.responses: list[discovery_pb2.DeltaDiscoveryResponse] = []
        self.bytes_sent = 0

    @override
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None or handler.stream_stream is None:
            return handler
        return grpc.stream_stream_rpc_method_handler(
            handler.stream_stream, request_deserializer=self._request, response_serializer=self._response
        )

    def _request(self, data: bytes) -> discovery_pb2.DeltaDiscoveryRequest:
        self.requests.append(discovery_pb2.DeltaDiscoveryRequest.FromString(data))
        return self.requests[-1]

    def _response(self, response: discovery_pb2.DeltaDiscoveryResponse) -> bytes:
        self.responses.append(response)
        data = response.SerializeToString()
        self.bytes_sent += len(data)
        return data

    def sent(self) -> list[str]:
        """Return the names of the resources that were sent since the last time."""
        names = [resource.name for response in self.responses for resource in response.resources]
        self.responses.clear()
        return names

    def refused(self) -> list[str]:
        return [request.error_detail.message for request in self.requests if request.HasField("error_detail")]


class Envoy:
    """A running one."""

    def __init__(self, folder: Path, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._folder = folder
        self.log = folder / "envoy.log"
        self._tenants = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(folder / "edge.sock")))
        self._admin = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(folder / "admin.sock")))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def get(self, scope: str) -> tuple[int, str]:
        """Ask as a tenant: always on the same connection."""
        answer = await self._tenants.get("http://edge/", headers={"x-bulkhead-tenant": scope}, timeout=20)
        return answer.status_code, answer.text

    async def stat(self, name: str) -> int:
        answer = await self._admin.get("http://admin/stats", params={"filter": f"^{name}$", "format": "json"})
        stats = [stat for stat in answer.json()["stats"] if "name" in stat]
        return int(stats[0]["value"]) if stats else 0

    async def ready(self) -> None:
        """Wait until it serves."""
        while True:
            try:
                answer = await self._admin.get("http://admin/ready")
                await self._tenants.get("http://edge/")
            except httpx.TransportError:
                await asyncio.sleep(0.02)
                if self._process.returncode is not None:
                    raise AssertionError(self.log.read_text()) from None
            else:
                if answer.status_code == 200:
                    return

    async def close(self) -> None:
        await self._tenants.aclose()
        await self._admin.aclose()
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()


@asynccontextmanager
async def running_envoy(folder: Path) -> AsyncIterator[Envoy]:
    """Run an Envoy that asks the server in the folder; it need not be there yet."""
    bootstrap = folder / "bootstrap.json"
    bootstrap.write_text(json.dumps(_bootstrap(folder)))
    command = [str(Path(sys.executable).parent / "envoy"), "-c", str(bootstrap), "-l", "warn", "--disable-hot-restart"]
    with (folder / "envoy.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, "--concurrency", "1", stdout=log, stderr=log)
    envoy = Envoy(folder, process)
    try:
        yield envoy
    finally:
        await envoy.close()


class Edge:
    """The Envoy, and whatever serves it for the moment."""

    def __init__(self, folder: Path, source: PlainResources, *, envoy: Envoy) -> None:
        self.folder = folder
        self.source = source
        self.envoy = envoy
        self.tap = Tap()
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def serve(self, hub: Hub) -> None:
        """Serve the hub as the agent does."""
        self.hub, self.tap = hub, Tap()
        self._server = grpc.aio.server(interceptors=[self.tap], options=SERVER_OPTIONS)
        AdsServicer(hub).add_to(self._server)
        self._server.add_insecure_port(f"unix:{self.folder / 'xds.sock'}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def use(self, index: Index) -> list[str]:
        """Use the index, and return what was sent until it was applied."""
        self.tap.sent()
        self.hub.use(index)
        await self.hub.applied(index.revision)
        return self.tap.sent()

    async def connected(self) -> None:
        """Wait until the Envoy has asked for all that it asks for."""
        await eventually(lambda: {LISTENER, SCOPE, ROUTES} <= {request.type_url for request in self.tap.requests})


def _bootstrap(folder: Path) -> dict[str, Any]:
    http2 = {"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"}
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(folder / "xds.sock")}}}}
    services = [{"envoy_grpc": {"cluster_name": "xds"}}]
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": "edge-1", "cluster": "edge"},
        "admin": {"address": {"pipe": {"path": str(folder / "admin.sock")}}},
        "dynamic_resources": {
            "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": services},
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds",
                    "connect_timeout": "1s",
                    "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [endpoint]}]},
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            **http2,
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                }
            ]
        },
    }


def listener(folder: Path) -> bytes:
    """Return the listener of the folder's Envoy: it finds the scope by a header, and no tenant without one."""
    ads = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)
    extractor = ScopedRoutesScopeKeyBuilderFragmentBuilderHeaderValueExtractor(name="x-bulkhead-tenant", index=0)
    fragment = ScopedRoutesScopeKeyBuilderFragmentBuilder(header_value_extractor=extractor)
    filters = {"envoy.filters.http.on_demand": OnDemand(), "envoy.filters.http.router": Router()}
    manager = HttpConnectionManager(
        stat_prefix="edge",
        scoped_routes=ScopedRoutes(
            name="tenants",
            scope_key_builder=ScopedRoutesScopeKeyBuilder(fragments=[fragment]),
            rds_config_source=ads,
            scoped_rds=ScopedRds(scoped_rds_config_source=ads),
        ),
        http_filters=[HttpFilter(name=name, typed_config=AnyResource.pack(one)) for name, one in filters.items()],
    )
    chain = Filter(name="envoy.filters.network.http_connection_manager", typed_config=AnyResource.pack(manager))
    address = Address(pipe=Pipe(path=str(folder / "edge.sock")))
    return bytes(Listener(name="edge", address=address, filter_chains=[FilterChain(filters=[chain])]))
