"""A tenant's scopes and routes: an allow-list, the same for every tenant but for its names and its epoch.

What all have in common is authored once, with Envoy's own messages, and kept as bytes; a tenant's few fields are set in
them. So a tenant costs microseconds, and whatever two tenants' routes differ in is in this file.

Served: REST below `/api/v1/tenants/{tenant}`, and gRPC to the services that `filters.SERVICES` names. Before these
stand the routes that take a lease, and pass the agent by: for requests of exactly the class, on exactly the epoch, that
its ticket names. A new epoch is the end of all leases of the one before, in the moment in which it is applied. A
suspended tenant has no route at all: Envoy goes the same way to refuse it as for a tenant that is not there. A route
that refuses would answer at once, before the body of a request; over HTTP/1 that ends the connection, and whoever asks
would know that there is such a tenant.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    RouteActionMaxStreamDuration,
    RouteConfiguration,
    RouteMatch,
    RouteMatchGrpcRouteMatchOptions,
    RouteMatchTlsContextMatchOptions,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import LuaPerRoute
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import RbacPerRoute
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any

from bulkhead.envoy.v3 import routes_pb2
from control_plane.ids import tenant_id_violation
from ext_authz.leases.classes import LeasedRpc
from ext_authz.leases.grants import HELD, REPEATED, UNSPENT
from ext_authz.leases.lines import LEASED, SERVED
from ext_authz.policies.model import State, TenantPolicy
from ext_authz.xds.resources import clusters
from ext_authz.xds.resources.connection_manager import TENANT_KEY
from ext_authz.xds.resources.filters import (
    ASKING,
    CONTEXT,
    LEASE,
    LEASED_RPCS,
    LUA,
    RBAC,
    SERVICES,
    unasked,
)

EPOCH: Final = "epoch"
REST: Final = "/api/v1/tenants"

# What the agent has read and what only it may say again, in another form. It removes them too.
_NOT_FOR_SERVICES: Final = ["authorization", "x-tenant-id", TENANT_KEY, UNSPENT, REPEATED, "x-envoy-internal"]
_PER_ROUTE: Final = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
_TIMEOUT: Final = timedelta(seconds=15)
_LONGEST_STREAM: Final = timedelta(seconds=60)
# In a path of the template: the tenant, whose id has none of these characters.
_TENANT: Final = "<tenant>"
# Of an item, as `tenant.lua` reads it.
_ITEM: Final = "[A-Za-z0-9_-]+"
_CARRIES: Final = HeaderMatcher(name=CONTEXT, present_match=True)
# Nor any that is gRPC's.
_NO_CONTENT: Final = HeaderMatcher(name="content-type", present_match=False)
_PLAIN_GRPC: Final = r"application/grpc(\+proto)?"
_HOST: Final = re.compile(
    r"(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)+"
)


class UnusablePolicyError(ValueError):
    """No routes can be made of this policy: a name in it would mean something else to Envoy."""


def scope(name: str, tenant_id: str) -> bytes:
    """Return the serialized scope: requests whose key is `name` are matched against the tenant's routes."""
    key = routes_pb2.ScopedRouteConfiguration.Key
    made = routes_pb2.ScopedRouteConfiguration(
        name=name,
        route_configuration_name=f"tenant:{tenant_id}",
        key=key(fragments=[key.Fragment(string_key=name)]),
        on_demand=True,
    )
    return made.SerializeToString(deterministic=True)


class TenantRoutes:
    """Makes tenants' routes at one edge."""

    def __init__(self, *, domain: str, shared_hosts: Sequence[str]) -> None:
        self._domain = domain
        self._shared_hosts = tuple(host.lower() for host in shared_hosts)
        self._template = _template([*_leased(), _held(), *_served()])

    def routes(self, policy: TenantPolicy) -> bytes:
        """Return the serialized `RouteConfiguration` of the tenant, by state.

        Raises:
            UnusablePolicyError: when the policy's names are not what such names are.
        """
        self._check(policy)
        name = f"tenant:{policy.tenant_id}"
        if policy.state is not State.ACTIVE:
            return routes_pb2.RouteConfiguration(name=name).SerializeToString(deterministic=True)
        made = routes_pb2.RouteConfiguration.FromString(self._template)
        made.name = name
        (host,) = made.virtual_hosts
        host.domains.extend(dict.fromkeys((*self._shared_hosts, *policy.hosts(self._domain))))
        for route in host.routes:
            _fill_in(route.match, policy)
        settings = routes_pb2.CheckSettings(context_extensions={EPOCH: str(policy.revision)})
        asked = routes_pb2.ExtAuthzPerRoute(check_settings=settings)
        told = host.typed_per_filter_config[ASKING]
        told.type_url, told.value = _PER_ROUTE, asked.SerializeToString(deterministic=True)
        return made.SerializeToString(deterministic=True)

    def _check(self, policy: TenantPolicy) -> None:
        violation = tenant_id_violation(policy.tenant_id)
        if violation is not None:
            raise UnusablePolicyError(f"the id {policy.tenant_id!r} {violation}")
        for host in policy.hosts(self._domain):
            if not _HOST.fullmatch(host) or host in self._shared_hosts:
                raise UnusablePolicyError(f"{host!r} is no host name of a tenant's own")


def _fill_in(match: routes_pb2.RouteMatch, policy: TenantPolicy) -> None:
    """Say whose requests it is for, and where it takes a lease, of which epoch."""
    if match.path_separated_prefix:
        match.path_separated_prefix = match.path_separated_prefix.replace(_TENANT, policy.tenant_id)
    if match.HasField("safe_regex"):
        match.safe_regex.regex = match.safe_regex.regex.replace(_TENANT, policy.tenant_id)
    if match.headers:
        shown = match.headers[0].string_match
        shown.prefix = f"{policy.revision}{shown.prefix}"


def _template(routes: list[Route]) -> bytes:
    """Return the routes of nobody: `TenantRoutes.routes` fills in whose they are, and what the agent is told."""
    # Only where the service cannot have seen the request.
    again = RetryPolicy(retry_on="connect-failure,refused-stream", num_retries=1)
    host = VirtualHost(name="tenant", routes=routes, retry_policy=again)
    return bytes(RouteConfiguration(virtual_hosts=[host], request_headers_to_remove=_NOT_FOR_SERVICES))


def _served() -> Iterator[Route]:
    """Yield what the agent is asked about.

    A service is one route and not one for each of its methods: a tenant's routes are a third of the memory that Envoy
    needs for it, and the agent knows the methods.
    """
    rest = RouteMatch(path_separated_prefix=f"{REST}/{_TENANT}")
    yield Route(name=SERVED, match=rest, route=_onwards())
    for service in SERVICES:
        match = RouteMatch(path_separated_prefix=f"/{service.full_name}", grpc=RouteMatchGrpcRouteMatchOptions())
        yield Route(name=SERVED, match=match, route=_onwards())


def _leased() -> Iterator[Route]:
    """Yield what passes the agent by: one route for each class and wire."""
    by_class: dict[str, list[LeasedRpc]] = defaultdict(list)
    for rpc in LEASED_RPCS:
        by_class[rpc.lease_class].append(rpc)
    for name, rpcs in by_class.items():
        collections = [one.replace("*", _ITEM) for rpc in rpcs for one in rpc.collections]
        rest = RouteMatch(
            safe_regex=RegexMatcher(regex=f"{REST}/{_TENANT}/({'|'.join(collections)})"),
            headers=[_shows(name), _is(":method", "GET"), _NO_CONTENT, _CARRIES],
        )
        grpc = RouteMatch(
            safe_regex=RegexMatcher(regex="|".join(re.escape(rpc.path) for rpc in rpcs)),
            headers=[_shows(name), _is(":method", "POST"), _matches("content-type", _PLAIN_GRPC), _CARRIES],
            grpc=RouteMatchGrpcRouteMatchOptions(),
        )
        for match in (rest, grpc):
            # What a client certificate says, and until when, is read each time.
            match.tls_context = RouteMatchTlsContextMatchOptions(presented=False)
            yield Route(name=LEASED, match=match, route=_onwards(), typed_per_filter_config=_without_the_agent())


def _held() -> Route:
    """Return what is refused as the agent has refused it a moment ago."""
    services = "|".join(re.escape(service.full_name) for service in SERVICES)
    match = RouteMatch(safe_regex=RegexMatcher(regex=f"({REST}/{_TENANT}|/({services}))(/.*)?"), headers=[_shows(HELD)])
    settings = {ASKING: unasked(), RBAC: Any.pack(RbacPerRoute())}
    refused = DirectResponseAction(status=429)
    return Route(name=HELD, match=match, direct_response=refused, typed_per_filter_config=settings)


def _without_the_agent() -> dict[str, Any]:
    """Leave the agent out; the context is the lease's, which the script has added."""
    return {
        ASKING: unasked(),
        # What it would look for, the route has: a context, and what REST and gRPC read alike. A query is a page's size.
        RBAC: Any.pack(RbacPerRoute()),
        # There is no grant in the answer.
        LUA: Any.pack(LuaPerRoute(disabled=True)),
    }


def _shows(name: str) -> HeaderMatcher:
    """Match tickets of this class; the epoch is filled in before the first dot."""
    return HeaderMatcher(name=LEASE, string_match=StringMatcher(prefix=f".{name}."))


def _is(header: str, value: str) -> HeaderMatcher:
    return HeaderMatcher(name=header, string_match=StringMatcher(exact=value))


def _matches(header: str, regex: str) -> HeaderMatcher:
    return HeaderMatcher(name=header, string_match=StringMatcher(safe_regex=RegexMatcher(regex=regex)))


def _onwards() -> RouteAction:
    return RouteAction(
        cluster=clusters.CERTIFICATES,
        timeout=_TIMEOUT,
        idle_timeout=_LONGEST_STREAM,
        # What is gRPC, which REST is by then, has this limit alone; a caller's own deadline may be later.
        max_stream_duration=RouteActionMaxStreamDuration(
            max_stream_duration=_TIMEOUT, grpc_timeout_header_max=_LONGEST_STREAM
        ),
    )
