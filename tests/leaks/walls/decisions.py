"""What becomes of a request at the edge."""

from typing import Final

from tests.leaks.model import Mutation

DECIDE: Final = "ext_authz/authz/decide.py"
CONTEXT: Final = "ext_authz/authz/context.py"
METHODS: Final = "ext_authz/authz/methods.py"
SERVICER: Final = "ext_authz/authz/servicer.py"
ANSWERS: Final = "ext_authz/authz/answers.py"
DECISIONS: Final = "tests/unit/ext_authz/authz/test_decide.py"
CONTEXTS: Final = "tests/unit/ext_authz/authz/test_context.py"
METHOD_TESTS: Final = "tests/unit/ext_authz/authz/test_methods.py"
ANSWER_TESTS: Final = "tests/unit/ext_authz/authz/test_answers.py"
CHECKS: Final = "tests/integration/ext_authz/check/test_check.py"

WALLS: Final = (
    Mutation(
        name="a token alone names a tenant",
        file=DECIDE,
        before="    if not asked.names_tenant:\n",
        after="    if not asked:\n",
        noticed_by=(f"{DECISIONS}::test_a_token_alone_names_no_tenant",),
    ),
    Mutation(
        name="claims may disagree",
        file=DECIDE,
        before="    if named - {policy.tenant_id}:\n",
        after="    if not named:\n",
        noticed_by=(
            f"{DECISIONS}::test_a_single_disagreement_is_the_strangers_answer_and_told_to_the_token_s_own_tenant",
        ),
    ),
    Mutation(
        name="a host may be another tenant's",
        file=DECIDE,
        before='{*asked.tenant_ids.values(), *(owner.tenant_id if owner is not None else "" for owner in owners)}',
        after="{*asked.tenant_ids.values()}",
        noticed_by=(
            f"{DECISIONS}::test_a_single_disagreement_is_the_strangers_answer_and_told_to_the_token_s_own_tenant",
        ),
    ),
    Mutation(
        name="a host may be nobody's",
        file=DECIDE,
        before='*(owner.tenant_id if owner is not None else "" for owner in owners)}',
        after="*(owner.tenant_id for owner in owners if owner is not None)}",
        noticed_by=(
            f"{DECISIONS}::test_a_single_disagreement_is_the_strangers_answer_and_told_to_the_token_s_own_tenant",
        ),
    ),
    Mutation(
        name="path and header may name another tenant",
        file=DECIDE,
        before="named = {*asked.tenant_ids.values(), *(owner",
        after="named = {*(owner",
        noticed_by=(
            f"{DECISIONS}::test_a_single_disagreement_is_the_strangers_answer_and_told_to_the_token_s_own_tenant",
        ),
    ),
    Mutation(
        name="the query names another tenant than the path",
        file=DECIDE,
        before="method.tenant_field and method.tenant_field in asked.query_names:",
        after="method.tenant_field and method.tenant_field == asked.query_names:",
        noticed_by=(f"{DECISIONS}::test_the_tenant_is_not_named_again_in_the_query",),
    ),
    Mutation(
        name="a certificate that is shown is not looked at",
        file=DECIDE,
        before=('    return _certificate_fault(evidence.certificate, policy, now=now) if asked.certificate else ""\n'),
        after='    return ""\n',
        noticed_by=(f"{DECISIONS}::test_a_certificate_that_is_shown_names_the_same_tenant_and_is_in_force",),
    ),
    Mutation(
        name="a certificate may name another tenant",
        file=DECIDE,
        before="    if claim.tenant_id != policy.tenant_id:\n",
        after="    if not claim.tenant_id:\n",
        noticed_by=(f"{DECISIONS}::test_a_certificate_that_is_shown_names_the_same_tenant_and_is_in_force",),
    ),
    Mutation(
        name="a certificate may have expired on its connection",
        file=DECIDE,
        before='return "CERTIFICATE_EXPIRED" if now >= claim.expire_time else ""',
        after='return ""',
        noticed_by=(f"{DECISIONS}::test_a_certificate_that_is_shown_names_the_same_tenant_and_is_in_force",),
    ),
    Mutation(
        name="a certificate that names nobody is passed over",
        file=DECIDE,
        before='        return "CERTIFICATE_REFUSED"\n',
        after='        return ""\n',
        noticed_by=(f"{DECISIONS}::test_a_certificate_that_is_shown_names_the_same_tenant_and_is_in_force",),
    ),
    Mutation(
        name="a request's faults are overlooked",
        file=DECIDE,
        before="    fault = asked.fault or _disagreement(",
        after="    fault = _disagreement(",
        noticed_by=(f"{DECISIONS}::test_a_fault_outweighs_a_token",),
    ),
    Mutation(
        name="an expired or revoked token goes on",
        file=DECIDE,
        before="    if token.fault:\n",
        after="    if not token:\n",
        noticed_by=(f"{DECISIONS}::test_an_expired_and_a_revoked_token_are_told_to_their_owner",),
    ),
    Mutation(
        name="the epoch is not compared",
        file=DECIDE,
        before="    if asked.epoch > policy.revision:\n",
        after="    if not asked:\n",
        noticed_by=(f"{DECISIONS}::test_routes_that_are_newer_than_the_policy_are_not_served_by_it",),
    ),
    Mutation(
        name="a policy never grows old",
        file=DECIDE,
        before="if not now - policy.max_age <= as_of <= now + _CLOCKS_APART:",
        after="if as_of > now + _CLOCKS_APART:",
        noticed_by=(f"{DECISIONS}::test_a_policy_is_good_for_as_long_as_the_tenant_says",),
    ),
    Mutation(
        name="a suspended tenant passes the edge",
        file=DECIDE,
        before="    if policy.state is not State.ACTIVE:\n",
        after="    if policy.state is None:\n",
        noticed_by=(f"{DECISIONS}::test_a_suspended_tenant_is_named_to_its_own_callers_alone",),
    ),
    Mutation(
        name="every role passes the edge",
        file=DECIDE,
        before="    if credential.role not in method.roles:\n",
        after="    if not method.roles:\n",
        noticed_by=(f"{DECISIONS}::test_a_role_that_the_rule_does_not_name_is_refused",),
    ),
    Mutation(
        name="the edge asks for no scope",
        file=DECIDE,
        before="and method.scope not in credential.scopes:",
        after="and not credential:",
        noticed_by=(f"{DECISIONS}::test_a_member_needs_the_rule_s_scope_and_an_administrator_does_not",),
    ),
    Mutation(
        name="what is no method passes the edge",
        file=METHODS,
        before="template.segments.fullmatch(segments)",
        after="template.segments.match(segments)",
        noticed_by=(f"{METHOD_TESTS}::test_anything_else_means_nothing",),
    ),
    Mutation(
        name="a method is found by any verb of HTTP",
        file=METHODS,
        before='return self._by_path.get(path) if http_method == "POST" else None',
        after="return self._by_path.get(path)",
        noticed_by=(f"{METHOD_TESTS}::test_anything_else_means_nothing",),
    ),
    Mutation(
        name="a context is made once for several policies",
        file=CONTEXT,
        before="is_current = made is not None and made.revision == admitted.policy.revision",
        after="is_current = made is not None",
        noticed_by=(f"{CONTEXTS}::test_a_context_is_made_anew_for_another_policy_and_another_token",),
    ),
    Mutation(
        name="a context outlives its token",
        file=CONTEXT,
        before="expire_time=min(now + _LIFETIME, credential.claims.expire_time)",
        after="expire_time=now + _LIFETIME",
        noticed_by=(f"{CONTEXTS}::test_a_context_ends_with_its_token",),
    ),
    Mutation(
        name="everybody has every scope behind the edge",
        file=CONTEXT,
        before="scopes=credential.scopes if credential.role in SCOPED else self._every_scope",
        after="scopes=self._every_scope",
        noticed_by=(f"{CONTEXTS}::test_a_context_says_who_asks_for_which_tenant_and_what_is_left",),
    ),
    Mutation(
        name="a suspension during a Check is overlooked",
        file=SERVICER,
        before="        if self._index is not index:\n",
        after="        if not index:\n",
        noticed_by=(f"{CHECKS}::test_a_suspension_that_is_applied_while_valkey_is_asked_holds",),
    ),
    Mutation(
        name="what nobody counts is admitted",
        file=SERVICER,
        before="            return answers.refusal(asked, _NO_RATE)\n",
        after="            return answers._ADMITTED\n",
        noticed_by=(f"{CHECKS}::test_what_cannot_be_counted_is_not_admitted",),
    ),
    Mutation(
        name="a stranger's answer is not Envoy's own",
        file=ANSWERS,
        before="denied_response=check_pb2.DeniedHttpResponse(status=check_pb2.HttpStatus(code=404)),",
        after="denied_response=check_pb2.DeniedHttpResponse(status=check_pb2.HttpStatus(code=403)),",
        noticed_by=(f"{ANSWER_TESTS}::test_strangers_are_told_nothing",),
    ),
    Mutation(
        name="a token goes on to the services",
        file=ANSWERS,
        before='("authorization", "x-tenant-id", "x-bulkhead-tenant")',
        after='("x-tenant-id", "x-bulkhead-tenant")',
        noticed_by=(f"{ANSWER_TESTS}::test_an_admitted_request_goes_on_with_its_context_alone",),
    ),
)
