"""Which requests are whose, where they go, and what is answered to those that go nowhere."""

from typing import Final

from tests.leaks.model import Mutation

ROUTES: Final = "ext_authz/xds/resources/routes.py"
TLS: Final = "ext_authz/xds/resources/tls.py"
ANSWERS: Final = "ext_authz/xds/resources/answers.py"
SNAPSHOT: Final = "ext_authz/xds/snapshot.py"
LUA: Final = "envoy/filters/tenant.lua"
LIVE: Final = "tests/integration/ext_authz/envoy_edge/test_live_config.py"
HOSTS: Final = "tests/integration/ext_authz/envoy_edge/test_hosts.py"
TLS_TESTS: Final = "tests/integration/ext_authz/envoy_edge/test_tls.py"
STRANGERS: Final = "tests/integration/ext_authz/envoy_edge/test_answers.py"
FAULTS: Final = "tests/integration/ext_authz/envoy_edge/test_agent_faults.py"
LUA_TESTS: Final = "tests/integration/ext_authz/envoy_edge/test_lua.py"
ROUTE_TESTS: Final = "tests/unit/ext_authz/xds/resources/test_routes.py"
SNAPSHOT_TESTS: Final = "tests/unit/ext_authz/xds/test_snapshot.py"

WALLS: Final = (
    Mutation(
        name="every tenant's paths are routed",
        file=ROUTES,
        before='    rest = RouteMatch(path_separated_prefix=f"{REST}/{_TENANT}")',
        after="    rest = RouteMatch(path_separated_prefix=REST)",
        noticed_by=(f"{ROUTE_TESTS}::test_routes_are_an_allow_list_under_the_tenants_own_names",),
    ),
    Mutation(
        name="a tenant is served under any host",
        file=ROUTES,
        before="(*self._shared_hosts, *policy.hosts(self._domain))",
        after='("*",)',
        noticed_by=(f"{ROUTE_TESTS}::test_routes_are_an_allow_list_under_the_tenants_own_names",),
    ),
    Mutation(
        name="a suspended tenant has routes",
        file=ROUTES,
        before="        if policy.state is not State.ACTIVE:\n",
        after="        if policy.state is None:\n",
        noticed_by=(f"{ROUTE_TESTS}::test_a_suspended_tenant_has_no_routes",),
    ),
    Mutation(
        name="the agent is not told the epoch",
        file=ROUTES,
        before="context_extensions={EPOCH: str(policy.revision)}",
        after='context_extensions={EPOCH: "0"}',
        noticed_by=(f"{ROUTE_TESTS}::test_the_agent_is_told_the_epoch",),
    ),
    Mutation(
        name="a credential goes on to the services",
        file=ROUTES,
        before='_NOT_FOR_SERVICES: Final = ["authorization", "x-tenant-id",',
        after='_NOT_FOR_SERVICES: Final = ["x-tenant-id",',
        noticed_by=(f"{ROUTE_TESTS}::test_what_says_who_the_caller_is_goes_no_further",),
    ),
    Mutation(
        name="a tenant's name means something else to Envoy",
        file=ROUTES,
        before="        self._check(policy)\n",
        after="",
        noticed_by=(f"{ROUTE_TESTS}::test_a_name_that_would_mean_something_else_to_envoy_is_refused",),
    ),
    Mutation(
        name="a tenant takes a host that all share",
        file=ROUTES,
        before="if not _HOST.fullmatch(host) or host in self._shared_hosts:",
        after="if not _HOST.fullmatch(host):",
        noticed_by=(f"{ROUTE_TESTS}::test_a_name_that_would_mean_something_else_to_envoy_is_refused",),
    ),
    Mutation(
        name="any service of the platform's is the upstream",
        file=TLS,
        before="matcher=StringMatcher(exact=identity)",
        after='matcher=StringMatcher(prefix="spiffe://bulkhead/")',
        noticed_by=(f"{TLS_TESTS}::test_who_is_not_the_service_is_not_given_requests",),
    ),
    Mutation(
        name="certificates of any authority are taken from clients",
        file=TLS,
        before="            validation_context_sds_secret_config=_secret(EDGE_CLIENT_CA, source),\n",
        after="",
        noticed_by=(f"{TLS_TESTS}::test_a_certificate_of_another_authority_ends_the_connection",),
    ),
    Mutation(
        name="old TLS is spoken",
        file=TLS,
        before="tls_params=_versions(TlsParametersTlsProtocol.TLSv1_2)",
        after="tls_params=_versions(TlsParametersTlsProtocol.TLSv1_0)",
        noticed_by=(f"{LIVE}::test_what_is_closed_elsewhere_too_is_closed_here",),
    ),
    Mutation(
        name="strangers are told apart by who refuses them",
        file=ANSWERS,
        before="    yield from _both(_status(404), _STRANGER, _STRANGERS_MESSAGE)\n",
        after="",
        noticed_by=(f"{STRANGERS}::test_all_strangers_get_the_same_bytes",),
    ),
    Mutation(
        name="an agent out of order refuses in its own words",
        file=ANSWERS,
        before="    yield from _both(_cel(_OUT_OF_ORDER), _UNAVAILABLE)\n",
        after="",
        noticed_by=(f"{FAULTS}::test_what_an_agent_says_that_is_no_decision_admits_nobody",),
    ),
    Mutation(
        name="a scope leads to another tenant's routes",
        file=SNAPSHOT,
        before="return None if policy is None else policy.tenant_id",
        after="return None if policy is None else next(iter(index.by_id))",
        noticed_by=(f"{SNAPSHOT_TESTS}::test_each_scope_leads_to_its_tenants_routes",),
    ),
    Mutation(
        name="a client says by which key its routes are found",
        file=LUA,
        before="  headers:replace(KEY, key)",
        after="  key = headers:get(KEY) or key\n  headers:replace(KEY, key)",
        noticed_by=(f"{LUA_TESTS}::test_the_script_alone_overwrites_what_a_client_says_of_its_key",),
    ),
    Mutation(
        name="the header of a tenant outweighs its path",
        file=LUA,
        before='key = "id:" .. (id or named)',
        after='key = "id:" .. (named or id)',
        noticed_by=(f"{HOSTS}::test_the_path_says_more_than_the_header_and_the_header_more_than_the_host",),
    ),
    Mutation(
        name="a host keeps its case",
        file=LUA,
        before='string.lower(headers:get(":authority") or "")',
        after='(headers:get(":authority") or "")',
        noticed_by=(f"{HOSTS}::test_a_tenants_host_alone_says_whose_a_call_is",),
    ),
    Mutation(
        name="any part of a path names a tenant",
        file=LUA,
        before="  local first = #TENANTS + 1\n  if string.sub(path, 1, first - 1) ~= TENANTS then",
        after="  local _, at = string.find(path, TENANTS, 1, true)\n  local first = (at or 0) + 1\n  if not at then",
        noticed_by=(f"{HOSTS}::test_what_a_path_holds_beyond_its_beginning_names_nobody",),
    ),
    Mutation(
        name="a script that raises lets the request go on",
        file=LUA,
        before='    handle:respond({[":status"] = "503"}, "")\n',
        after="",
        noticed_by=(f"{LUA_TESTS}::test_a_script_that_raises_at_any_line_closes[206]",),
    ),
)
