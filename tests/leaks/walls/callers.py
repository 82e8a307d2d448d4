"""Who calls the platform's services, and what each may do there."""

from typing import Final

from tests.leaks.model import Mutation

AUTHENTICATION: Final = "control_plane/serving/interceptors/authentication.py"
AUTHORIZATION: Final = "control_plane/serving/interceptors/authorization.py"
PRINCIPAL: Final = "control_plane/serving/principal.py"
STATUS: Final = "control_plane/serving/status.py"
LISTENERS: Final = "control_plane/serving/listeners.py"
INTERCEPTION: Final = "control_plane/serving/interception.py"
CALL: Final = "control_plane/serving/call.py"
RULES: Final = "control_plane/serving/rules.py"
INTERCEPTORS: Final = "tests/integration/serving/test_interceptors.py"
RULE_TESTS: Final = "tests/unit/serving/test_authorization.py"
QUEUEING: Final = "tests/integration/serving/test_queueing.py"
EDGES: Final = "tests/integration/policies/test_edges.py"

WALLS: Final = (
    Mutation(
        name="the caller's tenant is not compared",
        file=AUTHORIZATION,
        before="                check_tenant(call.principal, tenant_id)\n",
        after="                pass\n",
        noticed_by=(f"{INTERCEPTORS}::test_a_foreign_tenant_and_an_absent_one_look_alike",),
    ),
    Mutation(
        name="every tenant is the caller's",
        file=AUTHORIZATION,
        before="principal.role in TENANT_BOUND and principal.tenant != tenant_id",
        after="principal.role in TENANT_BOUND and not principal.tenant",
        noticed_by=(f"{RULE_TESTS}::test_a_tenants_caller_is_refused_at_any_other_tenant",),
    ),
    Mutation(
        name="the caller's role is not checked",
        file=AUTHORIZATION,
        before="            check_role(call.rule, call.principal)\n",
        after="            pass\n",
        noticed_by=(f"{INTERCEPTORS}::test_a_provider_has_no_way_to_a_tenants_data",),
    ),
    Mutation(
        name="every role may call",
        file=AUTHORIZATION,
        before="if role_number(principal.role) not in rule.roles:",
        after="if not rule.roles:",
        noticed_by=(f"{RULE_TESTS}::test_a_role_that_the_rule_does_not_name_is_refused",),
    ),
    Mutation(
        name="scopes are not asked for",
        file=AUTHORIZATION,
        before="if rule.scope and principal.role in SCOPED and rule.scope not in principal.scopes:",
        after="if rule.scope and principal.role in SCOPED and not principal.scopes:",
        noticed_by=(f"{RULE_TESTS}::test_a_member_needs_the_rules_scope",),
    ),
    Mutation(
        name="a name may have any form",
        file=AUTHORIZATION,
        before="            names.check_form(self._templates[method], name, field=call.rule.tenant)\n",
        after="",
        noticed_by=("tests/integration/audit/test_audit_service.py::test_a_parent_is_a_tenant_and_nothing_below_it",),
    ),
    Mutation(
        name="a suspended tenant is served",
        file=AUTHORIZATION,
        before='if entry.state == "SUSPENDED" and not rule.serves_suspended:',
        after='if entry.state == "SUSPENDED" and rule.serves_suspended:',
        noticed_by=(f"{RULE_TESTS}::test_a_suspended_tenant_is_served_only_where_the_rule_says_so",),
    ),
    Mutation(
        name="a read-only tenant is changed",
        file=AUTHORIZATION,
        before='if entry.state == "READ_ONLY" and changes_data(rule):',
        after='if entry.state == "READ_ONLY" and not rule:',
        noticed_by=(f"{RULE_TESTS}::test_a_read_only_tenant_is_served_but_for_what_changes_its_data",),
    ),
    Mutation(
        name="a tenant is served while it is made",
        file=AUTHORIZATION,
        before='if entry.state == "PROVISIONING" and not',
        after='if entry.state == "PROVISIONED" and not',
        noticed_by=(f"{RULE_TESTS}::test_a_tenant_that_is_being_created_is_not_served",),
    ),
    Mutation(
        name="who needs no credential learns which tenants there are",
        file=AUTHORIZATION,
        before="            if rule.unauthenticated:\n",
        after="            if not rule.unauthenticated:\n",
        noticed_by=(
            "tests/integration/tokens/test_enrolment.py::test_a_wrong_token_and_a_tenant_that_is_not_there_are_refused_alike",
        ),
    ),
    Mutation(
        name="services need no scope",
        file=PRINCIPAL,
        before="SCOPED = frozenset({Role.TENANT_MEMBER, Role.AUDITOR, Role.SERVICE})",
        after="SCOPED = frozenset({Role.TENANT_MEMBER, Role.AUDITOR})",
        noticed_by=(f"{INTERCEPTORS}::test_a_service_has_no_more_scopes_than_its_context_whatever_its_own_are",),
    ),
    Mutation(
        name="a service acts for any tenant",
        file=PRINCIPAL,
        before="TENANT_BOUND = frozenset({Role.TENANT_ADMIN, Role.TENANT_MEMBER, Role.AUDITOR, Role.SERVICE})",
        after="TENANT_BOUND = frozenset({Role.TENANT_ADMIN, Role.TENANT_MEMBER, Role.AUDITOR})",
        noticed_by=(f"{INTERCEPTORS}::test_a_service_cannot_reach_past_its_contexts_tenant",),
    ),
    Mutation(
        name="one of two tokens is believed",
        file=AUTHENTICATION,
        before='if len(values) != 1 or scheme.lower() != "bearer" or not token:',
        after='if scheme.lower() != "bearer" or not token:',
        noticed_by=(f"{INTERCEPTORS}::test_a_caller_without_one_good_token_is_not_known",),
    ),
    Mutation(
        name="anybody may show a signed context",
        file=AUTHENTICATION,
        before="            if _values(context, tenant_context.HEADER):\n",
        after="            if not context:\n",
        noticed_by=(f"{INTERCEPTORS}::test_a_caller_without_one_good_token_is_not_known",),
    ),
    Mutation(
        name="one of two contexts is believed",
        file=AUTHENTICATION,
        before="if len(headers) != 1:",
        after="if not headers:",
        noticed_by=(f"{INTERCEPTORS}::test_a_service_without_one_good_context_is_refused",),
    ),
    Mutation(
        name="a service shows a token, too",
        file=AUTHENTICATION,
        before='        if _values(context, "authorization"):\n',
        after="        if not context:\n",
        noticed_by=(f"{INTERCEPTORS}::test_a_service_without_one_good_context_is_refused",),
    ),
    Mutation(
        name="an edge acts for a tenant",
        file=AUTHENTICATION,
        before="            if headers:\n",
        after="            if not edge:\n",
        noticed_by=(f"{EDGES}::test_only_an_edge_is_an_edge",),
    ),
    Mutation(
        name="an edge may call what administrators may",
        file=AUTHENTICATION,
        before="return Principal(subject=edge, role=Role.EDGE)",
        after="return Principal(subject=edge, role=Role.PLATFORM_ADMIN)",
        noticed_by=(f"{EDGES}::test_an_edge_is_listed_as_it_says_it_is",),
    ),
    Mutation(
        name="a service has the scopes that its context says",
        file=AUTHENTICATION,
        before="scopes=self._scopes[service] & signed.scopes",
        after="scopes=signed.scopes",
        noticed_by=(f"{INTERCEPTORS}::test_a_service_has_no_more_scopes_than_its_own_whatever_its_context_says",),
    ),
    Mutation(
        name="a service has all its scopes for everybody",
        file=AUTHENTICATION,
        before="scopes=self._scopes[service] & signed.scopes",
        after="scopes=self._scopes[service]",
        noticed_by=(f"{INTERCEPTORS}::test_a_service_has_no_more_scopes_than_its_context_whatever_its_own_are",),
    ),
    Mutation(
        name="a certificate may name several services",
        file=AUTHENTICATION,
        before="_IDENTITY.fullmatch(ours[0]) if len(ours) == 1 else None",
        after="_IDENTITY.fullmatch(ours[0]) if ours else None",
        noticed_by=(f"{INTERCEPTORS}::test_a_certificate_speaks_for_exactly_the_service_that_it_names",),
    ),
    Mutation(
        name="a certificate's name is read in part",
        file=AUTHENTICATION,
        before="_IDENTITY.fullmatch(ours[0])",
        after="_IDENTITY.match(ours[0])",
        noticed_by=(f"{INTERCEPTORS}::test_a_certificate_speaks_for_exactly_the_service_that_it_names",),
    ),
    Mutation(
        name="services need no certificate",
        file=LISTENERS,
        before="        require_client_auth=client_certificates,\n",
        after="        require_client_auth=False,\n",
        noticed_by=(f"{INTERCEPTORS}::test_the_listener_of_services_demands_a_client_certificate",),
    ),
    Mutation(
        name="one listener's callers are known as the other's are",
        file=INTERCEPTION,
        before="if wrapped is None or behind is not handler:",
        after="if wrapped is None:",
        noticed_by=(f"{INTERCEPTORS}::test_each_listener_keeps_to_its_own_way_of_knowing_callers",),
    ),
    Mutation(
        name="anybody chooses a request's id",
        file=AUTHENTICATION,
        before="values[0] if len(values) == 1 and _UUID.fullmatch(values[0])",
        after="values[0] if values",
        noticed_by=(f"{INTERCEPTORS}::test_a_request_keeps_the_id_that_a_service_has_told_its_caller",),
    ),
    Mutation(
        name="strangers read why they are refused",
        file=STATUS,
        before="    if code in _TO_STRANGERS and",
        after="    if code in CODES and",
        noticed_by=(
            "tests/unit/serving/test_status.py::test_a_stranger_reads_a_reason_and_a_request_id_and_nothing_else",
        ),
    ),
    Mutation(
        name="a bug's text is told to the caller",
        file=STATUS,
        before='_status(grpc.StatusCode.INTERNAL, "internal error", request_id)',
        after="_status(grpc.StatusCode.INTERNAL, str(error), request_id)",
        noticed_by=("tests/unit/serving/test_status.py::test_a_bug_is_an_internal_error_without_its_text",),
    ),
    Mutation(
        name="effects are not recorded",
        file=CALL,
        before="return self.recorder(self) if self.rule.audit == rules_pb2.AUDIT_EFFECTS else None",
        after="return None",
        noticed_by=(
            "tests/integration/audit/test_recorder.py::test_each_effect_has_an_entry_with_what_it_says_of_itself",
        ),
    ),
    Mutation(
        name="a process starts with an RPC without a rule",
        file=RULES,
        before='        yield "has no rule"\n        return\n',
        after="        return\n",
        noticed_by=("tests/architecture/test_rules.py::test_nothing_starts_with_an_rpc_that_was_added_with",),
    ),
    Mutation(
        name="a process starts with a rule that nobody is named in",
        file=RULES,
        before="    if rule.unauthenticated == bool(rule.roles):\n",
        after="    if rule.unauthenticated and rule.roles:\n",
        noticed_by=("tests/architecture/test_rules.py::test_nothing_starts_with_an_rpc_that_was_added_with",),
    ),
    Mutation(
        name="a tenant's calls are all worked on at once",
        file="control_plane/serving/turns.py",
        before="        if not caller.waiting and (not caller.turns or self._is_alone(tenant)):\n",
        after="        if True:\n",
        noticed_by=(f"{QUEUEING}::test_a_tenants_calls_are_worked_on_one_by_one_while_others_call",),
    ),
)
