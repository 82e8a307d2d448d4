"""A tenant's scopes and routes: an allow-list, the same for every tenant but for its names and its epoch.

What all have in common is authored once, with Envoy's own messages, and kept as bytes; a tenant's few fields are set in
them. So a tenant costs microseconds, and whatever two tenants' routes differ in is in this file.

Served: REST below `/api/v1/tenants/{tenant}`, and gRPC to the services that `filters.SERVICES` names. A
suspended tenant has no route at all: Envoy goes the same way to refuse it as for a tenant that is not there. A route
that refuses would answer at once, before the body of a request; over HTTP/1 that ends the connection, and whoever asks
would know that there is such a tenant.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Final

from envoy_data_plane.envoy.config.route.v3 import (
    RetryPolicy,
    Route,
    RouteAction,
    RouteActionMaxStreamDuration,
    RouteConfiguration,
    RouteMatch,
    RouteMatchGrpcRouteMatchOptions,
    VirtualHost,
)

from bulkhead.envoy.v3 import routes_pb2
from control_plane.ids import tenant_id_violation
from ext_authz.policies.model import State, TenantPolicy
from ext_authz.xds.resources import clusters
from ext_authz.xds.resources.answers import SERVED
from ext_authz.xds.resources.connection_manager import TENANT_KEY
from ext_authz.xds.resources.filters import EXT_AUTHZ, SERVICES

EPOCH: Final = "epoch"
REST: Final = "/api/v1/tenants"

# What the agent has read and what only it may say again, in another form. It removes them too.
_NOT_FOR_SERVICES: Final = ["authorization", "x-tenant-id", TENANT_KEY, "x-envoy-internal"]
_PER_ROUTE: Final = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
_TIMEOUT: Final = timedelta(seconds=15)
_LONGEST_STREAM: Final = timedelta(seconds=60)
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
        self._template = _template(_served())

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
        host.routes[0].match.path_separated_prefix = f"{REST}/{policy.tenant_id}"
        settings = routes_pb2.CheckSettings(context_extensions={EPOCH: str(policy.revision)})
        asked = routes_pb2.ExtAuthzPerRoute(check_settings=settings)
        told = host.typed_per_filter_config[EXT_AUTHZ]
        told.type_url, told.value = _PER_ROUTE, asked.SerializeToString(deterministic=True)
        return made.SerializeToString(deterministic=True)

    def _check(self, policy: TenantPolicy) -> None:
        violation = tenant_id_violation(policy.tenant_id)
        if violation is not None:
            raise UnusablePolicyError(f"the id {policy.tenant_id!r} {violation}")
        for host in policy.hosts(self._domain):
            if not _HOST.fullmatch(host) or host in self._shared_hosts:
                raise UnusablePolicyError(f"{host!r} is no host name of a tenant's own")


def _template(routes: Iterator[Route]) -> bytes:
    """Return the routes of nobody: `TenantRoutes.routes` fills in whose they are, and what the agent is told."""
    # Only where the service cannot have seen the request.
    again = RetryPolicy(retry_on="connect-failure,refused-stream", num_retries=1)
    host = VirtualHost(name="tenant", routes=list(routes), retry_policy=again)
    return bytes(RouteConfiguration(virtual_hosts=[host], request_headers_to_remove=_NOT_FOR_SERVICES))


def _matches() -> Iterator[RouteMatch]:
    """Return what is served; the first is the tenant's own path.

    A service is one route and not one for each of its methods: a tenant's routes are a third of the memory that Envoy
    needs for it, and the agent knows the methods.
    """
    yield RouteMatch(path_separated_prefix=f"{REST}/-")
    for service in SERVICES:
        yield RouteMatch(path_separated_prefix=f"/{service.full_name}", grpc=RouteMatchGrpcRouteMatchOptions())


def _served() -> Iterator[Route]:
    action = RouteAction(
        cluster=clusters.CERTIFICATES,
        timeout=_TIMEOUT,
        idle_timeout=_LONGEST_STREAM,
        # What is gRPC, which REST is by then, has this limit alone; a caller's own deadline may be later.
        max_stream_duration=RouteActionMaxStreamDuration(
            max_stream_duration=_TIMEOUT, grpc_timeout_header_max=_LONGEST_STREAM
        ),
    )
    return (Route(name=SERVED, match=match, route=action) for match in _matches())
