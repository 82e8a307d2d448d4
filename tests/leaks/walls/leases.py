"""What a decision that is held inside Envoy is good for, for how long, and that it was paid."""

from typing import Final

from tests.leaks.model import Mutation

GRANTS: Final = "ext_authz/leases/grants.py"
CLASSES: Final = "ext_authz/leases/classes.py"
LEASES: Final = "ext_authz/authz/leases.py"
ROUTES: Final = "ext_authz/xds/resources/routes.py"
FILTERS: Final = "ext_authz/xds/resources/filters.py"
SCRIPT: Final = "envoy/filters/tenant.lua"
STRANGERS: Final = "ext_authz/leases/strangers.py"
STRANGER_TESTS: Final = "tests/unit/ext_authz/leases/test_strangers.py"
CHECKS: Final = "tests/integration/ext_authz/check/test_check.py"
REFUSALS: Final = "tests/integration/ext_authz/envoy_edge/test_refusals.py"
GRANT_TESTS: Final = "tests/unit/ext_authz/leases/test_grants.py"
CLASS_TESTS: Final = "tests/unit/ext_authz/leases/test_classes.py"
LEASE_TESTS: Final = "tests/unit/ext_authz/authz/test_leases.py"
ROUTE_TESTS: Final = "tests/unit/ext_authz/xds/resources/test_routes.py"
FAULTS: Final = "tests/integration/ext_authz/envoy_edge/test_agent_faults.py"
LIVE: Final = "tests/integration/ext_authz/envoy_edge/test_live_config.py"
RENEWALS: Final = "tests/integration/ext_authz/envoy_edge/test_lease_renewals.py"
HELD_INSIDE: Final = "tests/integration/ext_authz/envoy_edge/test_leases.py"
OVER_TLS: Final = (
    f"{HELD_INSIDE}::test_over_tls_a_lease_is_for_the_name_that_was_asked_for_and_for_nobody_with_a_certificate"
)
DIFFERS: Final = f"{HELD_INSIDE}::test_a_request_that_differs_in_anything_is_asked_about_or_refused"

WALLS: Final = (
    Mutation(
        name="anybody takes back what another one was granted",
        file=LEASES,
        before="return told.ticket == own and abs(",
        after="return abs(",
        noticed_by=(
            f"{LEASE_TESTS}::test_what_was_leased_to_another_or_for_something_else_or_before_is_not_taken_back",
        ),
    ),
    Mutation(
        name="what is left of a lease is given back however late it is told",
        file=LEASES,
        before=" and abs(_ms(now) - asked.begun_ms) <= TOLD_WITHIN_MS",
        after="",
        noticed_by=(f"{LEASE_TESTS}::test_what_a_request_tells_that_waited_for_long_is_not_believed",),
    ),
    Mutation(
        name="more comes back than was granted",
        file=GRANTS,
        before="calls=min(int(left), int(calls))",
        after="calls=int(left)",
        noticed_by=(f"{GRANT_TESTS}::test_whatever_is_said_to_be_unspent_no_more_comes_back_than_was_granted",),
    ),
    Mutation(
        name="what was told to be unspent is spent",
        file=SCRIPT,
        before="  end\n  known.leases[class] = nil\nend\n",
        after="  end\nend\n",
        noticed_by=(f"{RENEWALS}::test_what_is_left_is_told_once_of_each_grant_in_the_order_in_which_they_are_spent",),
    ),
    Mutation(
        name="what is unspent is told again and again",
        file=SCRIPT,
        before="  known.aside[class] = nil\n",
        after="",
        noticed_by=(f"{RENEWALS}::test_what_is_left_is_told_once_of_each_grant_in_the_order_in_which_they_are_spent",),
    ),
    Mutation(
        name="what is left of a lease is spent after its renewal, and told",
        file=SCRIPT,
        before="and before.ticket == ticket and not before.is_renewed and",
        after="and before.ticket == ticket and",
        noticed_by=(f"{RENEWALS}::test_a_large_lease_is_renewed_by_one_request_while_others_go_on_with_it",),
    ),
    Mutation(
        name="more is told to be unspent than is left",
        file=SCRIPT,
        before="    local calls = math.min(grant.calls, left)\n",
        after="    local calls = grant.calls\n",
        noticed_by=(f"{RENEWALS}::test_what_is_left_is_told_once_of_each_grant_in_the_order_in_which_they_are_spent",),
    ),
    Mutation(
        name="a lease of one RPC pays for a dearer one",
        file=CLASSES,
        before="if costs.setdefault(rule.lease_class, rule.cost) != rule.cost:",
        after="if costs.setdefault(rule.lease_class, rule.cost) < 1:",
        noticed_by=(f"{CLASS_TESTS}::test_a_lease_of_one_rpc_pays_for_no_dearer_one",),
    ),
    Mutation(
        name="what changes something may be leased",
        file=CLASSES,
        before="        if not rule.lease_class:",
        after="        if not rule.scope:",
        noticed_by=(f"{CLASS_TESTS}::test_what_only_reads_may_be_leased",),
    ),
    Mutation(
        name="a lease is granted by routes of an older epoch",
        file=LEASES,
        before="calls < 1 or asked.epoch != policy.revision or ends_ms",
        after="calls < 1 or asked.epoch > policy.revision or ends_ms",
        noticed_by=(f"{LEASE_TESTS}::test_nothing_is_granted_by_routes_of_another_epoch",),
    ),
    Mutation(
        name="a lease outlives the windows that it was paid in",
        file=LEASES,
        before="LONGEST_MS, taken.until, _ms(claims",
        after="LONGEST_MS, _ms(claims",
        noticed_by=(f"{LEASE_TESTS}::test_it_ends_with_its_windows_and_with_the_news_of_the_policy",),
    ),
    Mutation(
        name="a lease outlives its token",
        file=LEASES,
        before="_ms(claims.expire_time), ",
        after="",
        noticed_by=(f"{LEASE_TESTS}::test_it_ends_with_the_token",),
    ),
    Mutation(
        name="a lease outlives the news of its policy",
        file=LEASES,
        before=", _ms(as_of + policy.max_age))",
        after=")",
        noticed_by=(f"{LEASE_TESTS}::test_it_ends_with_its_windows_and_with_the_news_of_the_policy",),
    ),
    Mutation(
        name="the request's own call is granted once more",
        file=LEASES,
        before="taken.calls - 1",
        after="taken.calls",
        noticed_by=(f"{LEASE_TESTS}::test_a_lease_holds_what_was_paid_beside_the_requests_own_call",),
    ),
    Mutation(
        name="whoever shows a certificate is leased a decision",
        file=LEASES,
        before="decision.method.lease_class or asked.certificate:",
        after="decision.method.lease_class:",
        noticed_by=(f"{LEASE_TESTS}::test_nobody_with_a_certificate_and_nothing_that_changes_anything_is_leased",),
    ),
    Mutation(
        name="a route takes leases of every epoch",
        file=ROUTES,
        before='shown.prefix = f"{policy.revision}{shown.prefix}"',
        after='shown.prefix = f"1{shown.prefix}"',
        noticed_by=(f"{ROUTE_TESTS}::test_what_passes_the_agent_by_shows_a_lease_of_this_epoch_for_exactly_this",),
    ),
    Mutation(
        name="a leased route takes any method",
        file=ROUTES,
        before='headers=[_shows(name), _is(":method", "GET"), _NO_CONTENT, _CARRIES]',
        after="headers=[_shows(name), _NO_CONTENT, _CARRIES]",
        noticed_by=(f"{ROUTE_TESTS}::test_what_passes_the_agent_by_shows_a_lease_of_this_epoch_for_exactly_this",),
    ),
    Mutation(
        name="a leased route of REST takes gRPC",
        file=ROUTES,
        before='_is(":method", "GET"), _NO_CONTENT, _CARRIES]',
        after='_is(":method", "GET"), _CARRIES]',
        noticed_by=(f"{DIFFERS}[content type of gRPC]",),
    ),
    Mutation(
        name="a leased route takes whoever shows a certificate",
        file=ROUTES,
        before="            match.tls_context = RouteMatchTlsContextMatchOptions(presented=False)\n",
        after="",
        noticed_by=(f"{ROUTE_TESTS}::test_what_passes_the_agent_by_shows_a_lease_of_this_epoch_for_exactly_this",),
    ),
    Mutation(
        name="the context of a lease that no route took goes on",
        file=FILTERS,
        before="_SHOWN: Final = (LEASE, HELD_FOR, CONTEXT)",
        after="_SHOWN: Final = (LEASE, HELD_FOR)",
        noticed_by=(f"{HELD_INSIDE}::test_what_no_route_took_does_not_stand_for_the_agents_word",),
    ),
    Mutation(
        name="what shows a lease that no route took goes on unasked",
        file=FILTERS,
        before="    wrong = (shown, ",
        after="    wrong = (",
        noticed_by=(f"{FAULTS}::test_where_nothing_asks_the_agent_nobody_goes_on[shows a lease]",),
    ),
    Mutation(
        name="a route that asks leaves the agent out",
        file=ROUTES,
        before="yield Route(name=SERVED, match=rest, route=_onwards())",
        after="yield Route(name=SERVED, match=rest, route=_onwards(), typed_per_filter_config={ASKING: unasked()})",
        noticed_by=(
            f"{ROUTE_TESTS}::test_only_what_takes_a_lease_leaves_the_agent_out",
            f"{LIVE}::test_the_agent_is_passed_by_nowhere",
        ),
    ),
    Mutation(
        name="leases are granted where nobody keeps them",
        file=LEASES,
        before="if told is None or not decision",
        after='told = told or read_told(b"0")\n        if told is None or not decision',
        noticed_by=(f"{LEASE_TESTS}::test_nothing_is_granted_where_nobody_would_keep_it",),
    ),
    Mutation(
        name="callers are told what was granted",
        file=FILTERS,
        before="    headers.append(HeaderMutation(remove=GRANT))\n",
        after="",
        noticed_by=(f"{HELD_INSIDE}::test_nobody_is_shown_what_is_granted",),
    ),
    Mutation(
        name="a lease is good for another tenant's routes",
        file=SCRIPT,
        before="lease.key == key and lease.named",
        after="lease.named",
        noticed_by=(f"{HELD_INSIDE}::test_a_lease_is_for_one_tenant_also_where_two_have_one_epoch",),
    ),
    Mutation(
        name="a lease is good for whatever x-tenant-id says",
        file=SCRIPT,
        before="lease.named == named and ",
        after="",
        noticed_by=(f"{DIFFERS}[x-tenant-id]",),
    ),
    Mutation(
        name="a lease is good for every host",
        file=SCRIPT,
        before="lease.host == host and ",
        after="",
        noticed_by=(f"{DIFFERS}[host of the tenant's own]",),
    ),
    Mutation(
        name="a lease is good for every name in the handshake",
        file=SCRIPT,
        before=" and lease.server == server\n",
        after="\n",
        noticed_by=(OVER_TLS,),
    ),
    Mutation(
        name="a lease is never spent",
        file=SCRIPT,
        before="      lease.calls = lease.calls - 1\n",
        after="",
        noticed_by=(f"{HELD_INSIDE}::test_a_lease_serves_the_same_request_until_it_is_spent",),
    ),
    Mutation(
        name="a lease is spent beyond its end",
        file=SCRIPT,
        before=" and lease.ends > now and lease.calls > 0\n",
        after=" and lease.calls > 0\n",
        noticed_by=(f"{HELD_INSIDE}::test_a_lease_ends_at_its_time_however_late_it_came",),
    ),
    Mutation(
        name="a header that was sent twice finds a lease",
        file=SCRIPT,
        before="(is_twice(credential) or is_twice(named))",
        after="(is_twice(credential) and is_twice(named))",
        noticed_by=(f"{HELD_INSIDE}::test_a_header_that_names_somebody_and_is_there_twice_never_finds_a_lease",),
    ),
    Mutation(
        name="a stranger is refused for good at the first time",
        file=STRANGERS,
        before="return times >= OFTEN or",
        after="return times >= 1 or",
        noticed_by=(f"{STRANGER_TESTS}::test_what_is_refused_seldom_is_none",),
    ),
    Mutation(
        name="a stranger's refusal never ends",
        file=LEASES,
        before="refused_header(ends_ms=now_ms + LONGEST_MS)",
        after="refused_header(ends_ms=now_ms + LONGEST_MS * 3600)",
        noticed_by=(f"{CHECKS}::test_whoever_is_refused_again_and_again_is_told_so_without_being_asked_about",),
    ),
    Mutation(
        name="strangers flood the agent",
        file=SCRIPT,
        before="    headers:replace(KEY, NOBODYS)\n",
        after="",
        noticed_by=(f"{REFUSALS}::test_strangers_are_refused_without_asking_and_cannot_tell",),
    ),
)
