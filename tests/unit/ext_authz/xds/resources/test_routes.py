"""A tenant's routes: what is served, under which names, and what a policy may not call itself."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration, ScopedRouteConfiguration
from envoy_data_plane.envoy.extensions.filters.http.composite.v3 import CompositePerRoute
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import ExtAuthzPerRoute
from envoy_data_plane.xds.type.matcher.v3 import Matcher

from ext_authz.leases.grants import HELD
from ext_authz.leases.lines import LEASED, SERVED
from ext_authz.policies.model import State, TenantPolicy
from ext_authz.xds.resources.filters import ASKING
from ext_authz.xds.resources.routes import TenantRoutes, UnusablePolicyError, scope

POLICY = TenantPolicy(
    tenant_id="acme_2",
    uid=UUID(int=7),
    revision=41,
    state=State.ACTIVE,
    tier="standard",
    isolation_level="POOLED",
    dns_label="acme-2",
    domains=("certificates.acme.example",),
    requests_per_minute=600,
    token_keys={},
    max_age=timedelta(minutes=15),
)
SUSPENDED = replace(POLICY, state=State.SUSPENDED, revision=42)
ROUTES = TenantRoutes(domain="csm.example.com", shared_hosts=("api.csm.example.com", "localhost"))


def _made(policy: TenantPolicy) -> RouteConfiguration:
    return RouteConfiguration.parse(ROUTES.routes(policy))


def _per_route(packed: object) -> ExtAuthzPerRoute:
    made = packed.unpack()  # type: ignore[attr-defined]  # an Any
    assert isinstance(made, ExtAuthzPerRoute)
    return made


def test_routes_are_an_allow_list_under_the_tenants_own_names() -> None:
    made = _made(POLICY)
    (host,) = made.virtual_hosts
    matches = [route.match for route in host.routes if route.match]

    assert made.name == "tenant:acme_2"
    assert host.domains == [
        "api.csm.example.com",
        "localhost",
        "acme-2.csm.example.com",
        "certificates.acme.example",
    ]
    assert [(match.path_separated_prefix, match.grpc is not None) for match in matches if not match.headers] == [
        ("/api/v1/tenants/acme_2", False),
        ("/bulkhead.v1.CertificateService", True),
    ]


def test_what_passes_the_agent_by_shows_a_lease_of_this_epoch_for_exactly_this() -> None:
    (host,) = _made(POLICY).virtual_hosts
    own = [route for route in host.routes if route.match and route.match.headers]
    service = r"/bulkhead\.v1\.CertificateService/"
    rest = "/api/v1/tenants/acme_2/"

    assert [_shown(route) for route in own] == [
        ("leased", "41.certificates.read.", f"{rest}(certificates/[A-Za-z0-9_-]+|certificateAuthority)"),
        ("leased", "41.certificates.read.", f"{service}GetCertificate|{service}GetCertificateAuthority"),
        ("leased", "41.certificates.list.", f"{rest}(certificates)"),
        ("leased", "41.certificates.list.", f"{service}ListCertificates"),
        ("held", "41.held.", r"(/api/v1/tenants/acme_2|/(bulkhead\.v1\.CertificateService))(/.*)?"),
    ]
    assert [[header.name for header in route.match.headers[1:]] for route in own if route.match] == [
        [":method", "content-type", "x-bulkhead-context"],
    ] * 4 + [[]]
    contexts = [route.match.tls_context for route in own[:4] if route.match]
    assert [context is not None and context.presented for context in contexts] == [False] * 4
    assert None not in contexts
    # They stand before what the agent is asked about, which would take them all.
    assert list(host.routes[: len(own)]) == own
    assert [route.route is None for route in own] == [False] * 4 + [True]


def test_routes_are_called_as_the_log_is_read() -> None:
    (host,) = _made(POLICY).virtual_hosts

    assert {route.name for route in host.routes} == {SERVED, LEASED, HELD}


def _shown(route: Route) -> tuple[str, str, str]:
    assert route.match is not None
    lease, *_ = route.match.headers
    assert lease.name == "x-bulkhead-lease"
    assert lease.string_match is not None
    assert lease.string_match.prefix is not None
    assert route.match.safe_regex is not None
    return route.name, lease.string_match.prefix, route.match.safe_regex.regex


def test_the_agent_is_told_the_epoch() -> None:
    (host,) = _made(POLICY).virtual_hosts
    (asked,) = map(_per_route, host.typed_per_filter_config.values())

    assert asked.check_settings is not None
    assert asked.check_settings.context_extensions == {"epoch": "41"}
    served = [route for route in host.routes if route.name == "served"]
    assert served
    assert all(route.route and not route.typed_per_filter_config for route in served)


def test_only_what_takes_a_lease_leaves_the_agent_out() -> None:
    (host,) = _made(POLICY).virtual_hosts
    out = [route for route in host.routes if ASKING in route.typed_per_filter_config]
    told = [route.typed_per_filter_config[ASKING] for route in out]

    assert [route.name for route in out] == [LEASED] * 4 + [HELD]
    # A matcher of nothing: whatever is in the request, nothing is made that would ask.
    assert {one.type_url.rpartition(".")[2] for one in told} == {"CompositePerRoute"}
    assert {one.value for one in told} == {bytes(CompositePerRoute(matcher=Matcher()))}


def test_a_suspended_tenant_has_no_routes() -> None:
    made = _made(SUSPENDED)

    assert (made.name, made.virtual_hosts) == ("tenant:acme_2", [])


def test_what_says_who_the_caller_is_goes_no_further() -> None:
    assert {"authorization", "x-tenant-id", "x-bulkhead-tenant"} <= set(_made(POLICY).request_headers_to_remove)


def test_routes_depend_on_the_policy_alone() -> None:
    again = TenantRoutes(domain="csm.example.com", shared_hosts=("api.csm.example.com", "localhost"))

    assert ROUTES.routes(POLICY) == ROUTES.routes(replace(POLICY, requests_per_minute=1)) == again.routes(POLICY)
    assert ROUTES.routes(POLICY) != ROUTES.routes(replace(POLICY, revision=43))


@pytest.mark.parametrize(
    "unusable",
    [
        {"tenant_id": "acme/../globex"},
        {"tenant_id": ""},
        {"tenant_id": "a*"},
        {"dns_label": "*"},
        {"dns_label": ""},
        {"dns_label": "a.b/"},
        {"dns_label": "api"},
        {"domains": ("*",)},
        {"domains": ("*.acme.example",)},
        {"domains": ("acme.example:443",)},
        {"domains": ("ACME.example",)},
        {"domains": ("localhost",)},
        {"domains": ("acme",)},
        {"domains": ("a" * 64 + ".example",)},
        {"domains": ("acme.example\n",)},
    ],
)
def test_a_name_that_would_mean_something_else_to_envoy_is_refused(unusable: dict[str, object]) -> None:
    with pytest.raises(UnusablePolicyError):
        ROUTES.routes(replace(POLICY, **unusable))  # type: ignore[arg-type]  # each of its field's type


def test_a_host_that_is_there_twice_is_named_once() -> None:
    (host,) = _made(replace(POLICY, domains=("acme-2.csm.example.com",) * 2)).virtual_hosts

    assert host.domains.count("acme-2.csm.example.com") == 1


def test_a_scope_is_fetched_when_it_is_asked_for() -> None:
    made = ScopedRouteConfiguration.parse(scope("host:acme.example", "acme_2"))

    assert (made.name, made.route_configuration_name, made.on_demand) == ("host:acme.example", "tenant:acme_2", True)
    assert made.key is not None
    assert [fragment.string_key for fragment in made.key.fragments] == ["host:acme.example"]
