"""Where Envoy connects to: the certificate service, and the workers that decide."""

from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    ClusterLbPolicy,
    OutlierDetection,
    UpstreamConnectionOptions,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    ConfigSource,
    Http2ProtocolOptions,
    Pipe,
    SocketAddress,
    TcpKeepalive,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.route.v3 import (
    RetryPolicy,
    RetryPolicyRetryBackOff,
    RetryPolicyRetryHostPredicate,
)
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import PreviousHostsPredicate
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.google.protobuf import Any

from ext_authz.xds.resources import tls

CERTIFICATES: Final = "certificates"
EXT_AUTHZ: Final = "ext_authz"
TRY_TIMEOUT_MS: Final = 120
"""How long one of the workers is waited for. Each question says so: Envoy does not go by the cluster's policy there."""

# What the service's own certificate says.
_IDENTITY: Final = "spiffe://bulkhead/service/certificates"
_PROTOCOL: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_WINDOW: Final = 1024 * 1024
_SHORTLY: Final = timedelta(milliseconds=5)


def certificates(upstream: str, source: ConfigSource | None) -> Cluster:
    """Return the certificate service, over mutual TLS.

    No answer of its own takes it out of service: one tenant that provokes errors would do so for all. Only an address
    that cannot be reached is left alone for a while, where there is another.
    """
    host, port = host_and_port(upstream)
    return Cluster(
        name=CERTIFICATES,
        type=ClusterDiscoveryType.STATIC if _is_ip(host) else ClusterDiscoveryType.STRICT_DNS,
        connect_timeout=timedelta(seconds=1),
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        load_assignment=_endpoints(CERTIFICATES, [_socket(host, port)]),
        transport_socket=tls.upstream(_IDENTITY, source),
        typed_extension_protocol_options={_PROTOCOL: _http2()},
        circuit_breakers=_breakers(connections=64, requests=2048, retries=32),
        outlier_detection=OutlierDetection(
            split_external_local_origin_errors=True,
            consecutive_local_origin_failure=3,
            enforcing_consecutive_local_origin_failure=100,
            enforcing_local_origin_success_rate=0,
            enforcing_consecutive_5xx=0,
            enforcing_consecutive_gateway_failure=0,
            enforcing_success_rate=0,
            interval=timedelta(seconds=1),
            base_ejection_time=timedelta(seconds=1),
            max_ejection_time=timedelta(seconds=5),
            max_ejection_percent=50,
        ),
        per_connection_buffer_limit_bytes=_WINDOW,
        upstream_connection_options=UpstreamConnectionOptions(
            tcp_keepalive=TcpKeepalive(keepalive_probes=3, keepalive_time=30, keepalive_interval=5)
        ),
    )


def ext_authz(sockets: Sequence[Path]) -> Cluster:
    """Return the agent's workers.

    Whichever has the fewest Checks under way is asked, so that one that hangs is soon asked no more; one that fails is
    left alone for a second or two, no longer: it may have been replaced, and be the one to ask when another fails. When
    all are left alone, all are asked.
    """
    return Cluster(
        name=EXT_AUTHZ,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(milliseconds=100),
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        # At once: by itself Envoy tells its threads at most once a second who is left alone.
        common_lb_config=ClusterCommonLbConfig(update_merge_window=timedelta(0)),
        load_assignment=_endpoints(EXT_AUTHZ, [_pipe(path) for path in sockets]),
        typed_extension_protocol_options={_PROTOCOL: _http2(retry_policy=_another_worker())},
        circuit_breakers=_breakers(connections=1024, requests=8192, retries=8192),
        outlier_detection=OutlierDetection(
            # Not answering in time counts like not answering at all.
            consecutive_gateway_failure=2,
            enforcing_consecutive_gateway_failure=100,
            consecutive_5xx=5,
            enforcing_consecutive_5xx=100,
            enforcing_success_rate=0,
            # Also how often it is looked whether one may come back.
            interval=timedelta(milliseconds=200),
            base_ejection_time=timedelta(seconds=1),
            max_ejection_time=timedelta(seconds=2),
            max_ejection_percent=100,
        ),
    )


def agent(name: str, path: Path) -> Cluster:
    """Return the agent itself.

    It is not pinged: gRPC's servers end a connection whose client pings more often than they like, a unix socket tells
    of an agent that ends, and one that hangs has nothing better to give.
    """
    return Cluster(
        name=name,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=1),
        load_assignment=_endpoints(name, [_pipe(path)]),
        typed_extension_protocol_options={_PROTOCOL: _http2()},
    )


def host_and_port(address: str) -> tuple[str, int]:
    """Split `host:port`; an IPv6 host stands in brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _http2(retry_policy: RetryPolicy | None = None) -> Any:
    """Return the settings of a cluster that speaks HTTP/2 and nothing else."""
    options = Http2ProtocolOptions(
        max_concurrent_streams=100, initial_stream_window_size=256 * 1024, initial_connection_window_size=_WINDOW
    )
    explicit = HttpProtocolOptionsExplicitHttpConfig(http2_protocol_options=options)
    return Any.pack(HttpProtocolOptions(explicit_http_config=explicit, retry_policy=retry_policy))


def _another_worker() -> RetryPolicy:
    """Ask another worker where one is lost or hangs, within the same 250 ms.

    It belongs to the cluster: what the filter says of its service Envoy compares for each request, also for one that
    asks nobody, and this would be most of that (7 of 120 µs).
    """
    elsewhere = RetryPolicyRetryHostPredicate(
        name="envoy.retry_host_predicates.previous_hosts", typed_config=Any.pack(PreviousHostsPredicate())
    )
    return RetryPolicy(
        retry_on="connect-failure,refused-stream,reset,unavailable",
        num_retries=1,
        retry_back_off=RetryPolicyRetryBackOff(base_interval=_SHORTLY),
        retry_host_predicate=[elsewhere],
        # Workers are drawn by lot: of two, another one is all but surely drawn.
        host_selection_retry_max_attempts=16,
    )


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _socket(host: str, port: int) -> Address:
    return Address(socket_address=SocketAddress(address=host, port_value=port))


def _pipe(path: Path) -> Address:
    return Address(pipe=Pipe(path=str(path)))


def _endpoints(name: str, addresses: Sequence[Address]) -> ClusterLoadAssignment:
    endpoints = [LbEndpoint(endpoint=Endpoint(address=address)) for address in addresses]
    return ClusterLoadAssignment(cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=endpoints)])


def _breakers(*, connections: int, requests: int, retries: int) -> CircuitBreakers:
    return CircuitBreakers(
        thresholds=[
            CircuitBreakersThresholds(
                max_connections=connections,
                max_pending_requests=requests,
                max_requests=requests,
                max_retries=retries,
                track_remaining=True,
            )
        ]
    )
