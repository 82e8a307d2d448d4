"""What Envoy is started with: who it is, where the agent is, what bounds it. Everything else comes from the agent."""

import json
from datetime import timedelta
from ipaddress import ip_address
from typing import Final

from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapDynamicResources,
    BootstrapStaticResources,
    LayeredRuntime,
    RuntimeLayer,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AggregatedConfigSource,
    ApiConfigSource,
    ApiConfigSourceApiType,
    ApiVersion,
    BackoffStrategy,
    ConfigSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    Node,
    RetryPolicy,
    SocketAddress,
)
from envoy_data_plane.envoy.config.metrics.v3 import StatsConfig, StatsMatcher
from envoy_data_plane.envoy.config.overload.v3 import (
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ThresholdTrigger,
    Trigger,
)
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import DownstreamConnectionsConfig
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 import FixedHeapConfig
from envoy_data_plane.envoy.type.matcher.v3 import ListStringMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any, Struct

from control_plane.config_file import SettingsError
from ext_authz.settings import EdgeSettings
from ext_authz.xds.resources import clusters
from ext_authz.xds.resources.limits import DEFAULTS, Limits

XDS: Final = "xds"
# For as long as it takes: Envoy does not listen before it has what it listens with.
WAITS: Final = timedelta(0)
# A request is held until its tenant's routes are there.
ON_DEMAND: Final = timedelta(seconds=2)

# How soon, and how late at most, Envoy asks again for an agent that is away.
_AGAIN: Final = (timedelta(milliseconds=100), timedelta(seconds=1))
_HEAP: Final = "envoy.resource_monitors.fixed_heap"
_RUNTIME: Final = {
    # A client that resets more than half of these streams at once is cut off (CVE-2023-44487).
    "overload.premature_reset_total_stream_count": 200,
    "overload.premature_reset_min_stream_lifetime_seconds": 1,
    # What one connection may start before the others have their turn.
    "http.max_requests_per_io_cycle": 10,
}


def ads(wait: timedelta = WAITS) -> ConfigSource:
    """Return the agent's stream as the source of a resource; after `wait` Envoy goes on without the resource."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3, initial_fetch_timeout=wait)


def render_bootstrap(settings: EdgeSettings, limits: Limits = DEFAULTS) -> bytes:
    """Return the bootstrap as JSON, for `envoy -c`.

    Raises:
        SettingsError: when Envoy's administration would listen to others than this machine.
    """
    made = bootstrap(settings, limits)
    return json.dumps(made.to_dict(), indent=1, sort_keys=True).encode() + b"\n"


def bootstrap(settings: EdgeSettings, limits: Limits) -> Bootstrap:
    """Return the bootstrap; see `render_bootstrap`."""
    # By itself Envoy lets up to thirty seconds pass, in which nobody whom it does not know yet is served.
    again = RetryPolicy(retry_back_off=BackoffStrategy(base_interval=_AGAIN[0], max_interval=_AGAIN[1]))
    agent = ApiConfigSource(
        api_type=ApiConfigSourceApiType.DELTA_GRPC,
        transport_api_version=ApiVersion.V3,
        grpc_services=[GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=XDS, retry_policy=again))],
        set_node_on_first_message_only=True,
    )
    return Bootstrap(
        node=Node(id=settings.node, cluster="edge"),
        admin=Admin(address=_admin_address(settings.admin_listen)),
        dynamic_resources=BootstrapDynamicResources(ads_config=agent, cds_config=ads(), lds_config=ads()),
        static_resources=BootstrapStaticResources(clusters=[clusters.agent(XDS, settings.xds_socket)]),
        layered_runtime=LayeredRuntime(
            layers=[
                RuntimeLayer(name="static", static_layer=Struct.from_dict(_RUNTIME)),
            ]
        ),
        overload_manager=_overload(limits),
        stats_config=_stats(),
    )


def _admin_address(listen: str) -> Address:
    host, port = clusters.host_and_port(listen)
    if host != "localhost" and not ip_address(host).is_loopback:
        raise SettingsError(f"admin_listen is {listen}: whoever reaches it rules this Envoy; use 127.0.0.1:PORT")
    return Address(socket_address=SocketAddress(address=host.replace("localhost", "127.0.0.1"), port_value=port))


def _overload(limits: Limits) -> OverloadManager:
    connections = DownstreamConnectionsConfig(max_active_downstream_connections=limits.connections)
    heap = FixedHeapConfig(max_heap_size_bytes=limits.heap_bytes)
    return OverloadManager(
        refresh_interval=timedelta(milliseconds=250),
        resource_monitors=[
            ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections", typed_config=Any.pack(connections)
            ),
            ResourceMonitor(name=_HEAP, typed_config=Any.pack(heap)),
        ],
        actions=[
            _beyond(0.9, "envoy.overload_actions.shrink_heap"),
            _beyond(0.95, "envoy.overload_actions.stop_accepting_requests"),
            _beyond(0.98, "envoy.overload_actions.stop_accepting_connections"),
        ],
    )


def _beyond(share: float, action: str) -> OverloadAction:
    return OverloadAction(name=action, triggers=[Trigger(name=_HEAP, threshold=ThresholdTrigger(value=share))])


def _stats() -> StatsConfig:
    """Count nothing by tenant: each tenant's routes would have statistics of their own."""
    tenants = ListStringMatcher(patterns=[StringMatcher(contains=".rds.")])
    return StatsConfig(stats_matcher=StatsMatcher(exclusion_list=tenants))
