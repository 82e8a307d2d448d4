"""Where tenants come in: over plain HTTP, for a machine's own use, and over TLS."""

from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.core.v3 import Address, ConfigSource, SocketAddress
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener, ListenerFilter
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 import TlsInspector
from envoy_data_plane.google.protobuf import Any

from ext_authz.xds.resources import connection_manager, tls
from ext_authz.xds.resources.clusters import host_and_port

EDGE_HTTP: Final = "edge_http"
EDGE_HTTPS: Final = "edge_https"

# What one connection may make us hold, each way.
_BUFFER: Final = 256 * 1024
_HANDSHAKE: Final = timedelta(seconds=5)
_TLS_INSPECTOR: Final = "envoy.filters.listener.tls_inspector"


def edge_http(listen: str, manager: Any) -> Listener:
    """Return the plain listener; `manager` is a packed connection manager."""
    return _listener(EDGE_HTTP, listen, FilterChain(filters=[_filter(manager)]))


def edge_https(listen: str, manager: Any, source: ConfigSource | None) -> Listener:
    """Return the listener that ends TLS."""
    chain = FilterChain(
        filters=[_filter(manager)],
        transport_socket=tls.downstream(source),
        transport_socket_connect_timeout=_HANDSHAKE,
    )
    made = _listener(EDGE_HTTPS, listen, chain)
    # Or nobody but the agent would know which name was asked for, and a lease is for one.
    made.listener_filters = [ListenerFilter(name=_TLS_INSPECTOR, typed_config=Any.pack(TlsInspector()))]
    made.listener_filters_timeout = _HANDSHAKE
    return made


def _listener(name: str, listen: str, chain: FilterChain) -> Listener:
    host, port = host_and_port(listen)
    return Listener(
        name=name,
        stat_prefix=name,
        address=Address(socket_address=SocketAddress(address=host, port_value=port)),
        filter_chains=[chain],
        per_connection_buffer_limit_bytes=_BUFFER,
    )


def _filter(manager: Any) -> Filter:
    return Filter(name=connection_manager.NAME, typed_config=manager)
