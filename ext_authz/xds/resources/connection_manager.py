"""How HTTP is read: one hardened connection manager for every listener. `envoy/README.md` says why each line."""

from datetime import timedelta
from pathlib import Path
from typing import Final

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog, AccessLogFilter, HeaderFilter
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    SubstitutionFormatString,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher
from envoy_data_plane.envoy.extensions.access_loggers.file.v3 import FileAccessLog
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpConnectionManagerForwardClientCertDetails,
    HttpConnectionManagerInternalAddressConfig,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpConnectionManagerServerHeaderTransformation,
    ScopedRds,
    ScopedRoutes,
    ScopedRoutesScopeKeyBuilder,
    ScopedRoutesScopeKeyBuilderFragmentBuilder,
    ScopedRoutesScopeKeyBuilderFragmentBuilderHeaderValueExtractor,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any

from ext_authz.xds.resources import filters
from ext_authz.xds.resources.answers import local_replies
from ext_authz.xds.resources.bootstrap import ON_DEMAND, ads
from ext_authz.xds.resources.limits import Limits

NAME: Final = "envoy.filters.network.http_connection_manager"
STAT_PREFIX: Final = "edge"
TENANT_KEY: Final = "x-bulkhead-tenant"
LEASE_LINE: Final = f"%ROUTE_NAME% %REQ({filters.LEASE})% %START_TIME(%s)% %REQ(:PATH)%\n"
"""The route; the ticket; when the request began, in seconds since 1970; the RPC's path."""

# Unary calls only so far.
_LONGEST_STREAM: Final = timedelta(minutes=5)


def connection_manager(lua: str, limits: Limits, *, lease_log: Path) -> HttpConnectionManager:
    """Return it. It trusts nothing that a client says about itself, and knows routes only by tenant.

    What passes the agent by is written to `lease_log`.
    """
    return HttpConnectionManager(
        stat_prefix=STAT_PREFIX,
        codec_type=HttpConnectionManagerCodecType.AUTO,
        scoped_routes=_scoped_routes(),
        http_filters=filters.http_filters(lua, limits),
        access_log=[_lease_log(lease_log)],
        local_reply_config=local_replies(),
        # Who is there.
        use_remote_address=True,
        xff_num_trusted_hops=0,
        internal_address_config=HttpConnectionManagerInternalAddressConfig(),
        forward_client_cert_details=HttpConnectionManagerForwardClientCertDetails.SANITIZE,
        early_header_mutation_extensions=[_from_clients()],
        generate_request_id=True,
        preserve_external_request_id=False,
        always_set_request_id_in_response=True,
        server_name="bulkhead",
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.OVERWRITE,
        # What is asked for.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        strip_any_host_port=True,
        strip_trailing_host_dot=True,
        # How much, and for how long.
        max_request_headers_kb=limits.request_headers_kib,
        common_http_protocol_options=HttpProtocolOptions(
            max_headers_count=limits.request_headers,
            headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
            idle_timeout=timedelta(minutes=5),
            max_stream_duration=_LONGEST_STREAM,
        ),
        http_protocol_options=_http1(),
        http2_protocol_options=_http2(limits),
        request_headers_timeout=timedelta(seconds=5),
        request_timeout=timedelta(seconds=30),
        # Until there is a route, which has its own: so long is a request held for routes that an agent does not send.
        stream_idle_timeout=ON_DEMAND,
        delayed_close_timeout=timedelta(seconds=1),
        drain_timeout=timedelta(seconds=5),
    )


def _scoped_routes() -> ScopedRoutes:
    """Find the routes by the header that `tenant.lua` sets: no tenant, no routes."""
    key = ScopedRoutesScopeKeyBuilderFragmentBuilder(
        # No separator: the whole value.
        header_value_extractor=ScopedRoutesScopeKeyBuilderFragmentBuilderHeaderValueExtractor(name=TENANT_KEY, index=0)
    )
    return ScopedRoutes(
        name="tenants",
        scope_key_builder=ScopedRoutesScopeKeyBuilder(fragments=[key]),
        rds_config_source=ads(ON_DEMAND),
        scoped_rds=ScopedRds(scoped_rds_config_source=ads()),
    )


def _lease_log(path: Path) -> AccessLog:
    """Write a line for each request that shows a lease; by its route one sees whether it was let by."""
    shows = AccessLogFilter(header_filter=HeaderFilter(header=HeaderMatcher(name=filters.LEASE, present_match=True)))
    line = DataSource(inline_string=LEASE_LINE)
    written = FileAccessLog(path=str(path), log_format=SubstitutionFormatString(text_format_source=line))
    return AccessLog(name="envoy.access_loggers.file", filter=shows, typed_config=Any.pack(written))


def _from_clients() -> TypedExtensionConfig:
    """Remove what only we may say: before routes, filters and the connection manager's own headers."""
    prefixes = filters.removal(filters.OURS, filters.ENVOYS, "x-forwarded-")
    names = [HeaderMutation(remove=name) for name in ("forwarded", "x-request-id", "x-real-ip")]
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=Any.pack(EarlyHeaderMutation(mutations=[*prefixes, *names])),
    )


def _http1() -> Http1ProtocolOptions:
    return Http1ProtocolOptions(
        accept_http_10=False,
        enable_trailers=False,
        # A request to upgrade is served as what it is without: nothing here is upgraded to.
        ignore_http_11_upgrade=[StringMatcher(safe_regex=RegexMatcher(regex=".*"))],
    )


def _http2(limits: Limits) -> Http2ProtocolOptions:
    return Http2ProtocolOptions(
        max_concurrent_streams=limits.streams_per_connection,
        initial_stream_window_size=64 * 1024,
        initial_connection_window_size=1024 * 1024,
        hpack_table_size=4096,
        # What one client may make us hold for it, or do for nothing: half of Envoy's own bounds, or less.
        max_outbound_frames=2000,
        max_outbound_control_frames=500,
        max_consecutive_inbound_frames_with_empty_payload=1,
        max_inbound_priority_frames_per_stream=10,
        max_inbound_window_update_frames_per_data_frame_sent=10,
        allow_connect=False,
        allow_metadata=False,
    )
