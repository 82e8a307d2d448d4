"""What Envoy removes, refuses and asks the agent before a request goes on."""

from typing import Final

from tests.leaks.model import Mutation

FILTERS: Final = "ext_authz/xds/resources/filters.py"
MANAGER: Final = "ext_authz/xds/resources/connection_manager.py"
HEADERS: Final = "tests/integration/ext_authz/envoy_edge/test_headers.py"
LIVE: Final = "tests/integration/ext_authz/envoy_edge/test_live_config.py"
PATHS: Final = "tests/integration/ext_authz/envoy_edge/test_paths.py"
HOSTS: Final = "tests/integration/ext_authz/envoy_edge/test_hosts.py"
TLS_TESTS: Final = "tests/integration/ext_authz/envoy_edge/test_tls.py"
STRANGERS: Final = "tests/integration/ext_authz/envoy_edge/test_answers.py"
FAULTS: Final = "tests/integration/ext_authz/envoy_edge/test_agent_faults.py"
LIMIT: Final = "tests/integration/ext_authz/envoy_edge/test_source_limit.py"

WALLS: Final = (
    Mutation(
        name="what only we may say is not removed",
        file=MANAGER,
        before="filters.removal(filters.OURS, filters.ENVOYS,",
        after="filters.removal(filters.ENVOYS,",
        noticed_by=(f"{HEADERS}::test_what_a_client_forges_reaches_nobody",),
    ),
    Mutation(
        name="what only Envoy may say is not removed",
        file=MANAGER,
        before="filters.removal(filters.OURS, filters.ENVOYS,",
        after="filters.removal(filters.OURS,",
        noticed_by=(f"{HEADERS}::test_what_a_client_forges_reaches_nobody",),
    ),
    Mutation(
        name="who a request was forwarded for is believed",
        file=MANAGER,
        before='filters.ENVOYS, "x-forwarded-")',
        after="filters.ENVOYS)",
        noticed_by=(f"{HEADERS}::test_what_a_client_forges_reaches_nobody",),
    ),
    Mutation(
        name="a client chooses its request's id",
        file=MANAGER,
        before='("forwarded", "x-request-id", "x-real-ip")',
        after='("forwarded", "x-real-ip")',
        noticed_by=(f"{HEADERS}::test_what_a_client_forges_reaches_nobody",),
    ),
    Mutation(
        name="a client's word for its address is believed",
        file=MANAGER,
        before="        use_remote_address=True,\n",
        after="",
        noticed_by=(f"{LIVE}::test_what_is_closed_elsewhere_too_is_closed_here",),
    ),
    Mutation(
        name="paths are not made plain",
        file=MANAGER,
        before="        normalize_path=True,\n",
        after="",
        noticed_by=(f"{PATHS}::test_the_agent_is_asked_about_the_plain_path",),
    ),
    Mutation(
        name="slashes are not merged",
        file=MANAGER,
        before="        merge_slashes=True,\n",
        after="",
        noticed_by=(f"{PATHS}::test_the_agent_is_asked_about_the_plain_path",),
    ),
    Mutation(
        name="slashes may be escaped",
        file=MANAGER,
        before="PathWithEscapedSlashesAction.REJECT_REQUEST,\n        strip",
        after="PathWithEscapedSlashesAction.KEEP_UNCHANGED,\n        strip",
        noticed_by=(f"{STRANGERS}::test_what_cannot_be_read_is_a_problem_with_a_code",),
    ),
    Mutation(
        name="a header's underscore passes for a hyphen",
        file=MANAGER,
        before="HeadersWithUnderscoresAction.REJECT_REQUEST,\n            idle",
        after="HeadersWithUnderscoresAction.ALLOW,\n            idle",
        noticed_by=(f"{HEADERS}::test_a_name_with_an_underscore_is_refused",),
    ),
    Mutation(
        name="a host keeps its port",
        file=MANAGER,
        before="        strip_any_host_port=True,\n",
        after="",
        noticed_by=(f"{HOSTS}::test_a_tenant_is_served_under_its_hosts_and_under_shared_ones",),
    ),
    Mutation(
        name="a client's word for its certificate is passed on",
        file=MANAGER,
        before="ForwardClientCertDetails.SANITIZE,",
        after="ForwardClientCertDetails.ALWAYS_FORWARD_ONLY,",
        noticed_by=(f"{LIVE}::test_what_is_closed_elsewhere_too_is_closed_here",),
    ),
    Mutation(
        name="routes are found by another header",
        file=MANAGER,
        before="(name=TENANT_KEY, index=0)",
        after='(name="x-tenant-id", index=0)',
        noticed_by=(f"{HOSTS}::test_a_tenants_host_alone_says_whose_a_call_is",),
    ),
    Mutation(
        name="a header that was sent twice arrives as one",
        file=FILTERS,
        before="        encode_raw_headers=True,\n",
        after="",
        noticed_by=(f"{HEADERS}::test_the_agent_sees_every_copy_of_a_header",),
    ),
    Mutation(
        name="what cannot be decided passes",
        file=FILTERS,
        before="        failure_mode_allow=False,\n",
        after="        failure_mode_allow=True,\n",
        noticed_by=(f"{LIVE}::test_nothing_is_open_because_it_could_not_be_checked",),
    ),
    Mutation(
        name="an outage looks like a denial",
        file=FILTERS,
        before="        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),\n",
        after="",
        noticed_by=(f"{LIVE}::test_nothing_is_open_because_it_could_not_be_checked",),
    ),
    Mutation(
        name="the agent is not shown the certificate",
        file=FILTERS,
        before="        include_peer_certificate=True,\n",
        after="",
        noticed_by=(f"{TLS_TESTS}::test_the_agent_is_shown_the_clients_certificate_whole",),
    ),
    Mutation(
        name="the agent is not told the name that TLS asked for",
        file=FILTERS,
        before="        include_tls_session=True,\n",
        after="",
        noticed_by=(f"{TLS_TESTS}::test_a_client_without_a_certificate_is_served",),
    ),
    Mutation(
        name="the agent is not asked",
        file=FILTERS,
        before="        HttpFilter(name=ASKING, typed_config=Any.pack(_asking())),\n",
        after="",
        noticed_by=(f"{LIVE}::test_every_listener_has_the_same_chain",),
    ),
    Mutation(
        name="the agent is asked only where a route says so",
        file=FILTERS,
        before='Matcher(on_no_match=MatcherOnMatch(action=Action(name="ask", typed_config=always)))',
        after="Matcher()",
        noticed_by=(f"{PATHS}::test_the_agent_is_asked_about_the_plain_path",),
    ),
    Mutation(
        name="what has no context goes on",
        file=FILTERS,
        before="        HttpFilter(name=RBAC, typed_config=Any.pack(_admission())),\n",
        after="",
        noticed_by=(f"{LIVE}::test_every_listener_has_the_same_chain",),
    ),
    Mutation(
        name="an empty answer of the agent's admits",
        file=FILTERS,
        before="admitted = [context, *(Principal",
        after="admitted = [*(Principal",
        noticed_by=(f"{FAULTS}::test_what_an_agent_says_that_is_no_decision_admits_nobody",),
    ),
    Mutation(
        name="a parameter names another tenant",
        file=FILTERS,
        before='(shown, _matching(":path", _twice_bound()), untranscoded)',
        after="(shown, untranscoded)",
        noticed_by=(f"{PATHS}::test_a_parameter_cannot_name_another_tenant",),
    ),
    Mutation(
        name="a REST path passes for gRPC",
        file=FILTERS,
        before='(shown, _matching(":path", _twice_bound()), untranscoded)',
        after='(shown, _matching(":path", _twice_bound()))',
        noticed_by=(f"{PATHS}::test_a_rest_path_is_not_passed_on_as_grpc",),
    ),
    Mutation(
        name="a route is chosen again after it was authorised",
        file=FILTERS,
        before="        match_incoming_request_route=True,\n",
        after="",
        noticed_by=(f"{LIVE}::test_what_is_closed_elsewhere_too_is_closed_here",),
    ),
    Mutation(
        name="a body names another tenant",
        file=FILTERS,
        before="            reject_binding_body_field_collisions=True,\n",
        after="",
        noticed_by=(f"{PATHS}::test_a_body_cannot_name_another_tenant",),
    ),
    Mutation(
        name="strangers have routes loaded before they are counted",
        file=FILTERS,
        before=(
            'local_ratelimit", typed_config=Any.pack(_source_limit(limits))),\n'
            '        HttpFilter(name="envoy.filters.http.on_demand", typed_config=Any.pack(OnDemand())'
        ),
        after=(
            'on_demand", typed_config=Any.pack(OnDemand())),\n'
            '        HttpFilter(name="envoy.filters.http.local_ratelimit", typed_config=Any.pack(_source_limit(limits))'
        ),
        noticed_by=(f"{LIVE}::test_every_listener_has_the_same_chain",),
    ),
    Mutation(
        name="all strangers share one bucket",
        file=FILTERS,
        before="v4_prefix_mask_len=32",
        after="v4_prefix_mask_len=0",
        noticed_by=(f"{LIMIT}::test_a_source_is_one_address",),
    ),
    Mutation(
        name="a service says what only we may say",
        file=FILTERS,
        before="        response_mutations=removal(OURS, ENVOYS),\n",
        after="",
        noticed_by=(f"{HEADERS}::test_what_a_service_forges_reaches_no_client",),
    ),
    Mutation(
        name="a client's trailers go on",
        file=FILTERS,
        before=('        request_trailers_mutations=[_removal(StringMatcher(safe_regex=RegexMatcher(regex=".*")))],\n'),
        after="",
        noticed_by=(f"{HEADERS}::test_metadata_and_trailers_are_no_way_in",),
    ),
)
