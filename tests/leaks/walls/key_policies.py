"""What a tenant has said of its keys: who passes, who changes it, and who stands behind whose consent."""

from typing import Final

from tests.leaks.model import Mutation

PROTO: Final = "proto/bulkhead/v1/key_policies.proto"
TABLES: Final = "control_plane/postgres/sql/tenant/0004_key_policies.sql"
DECIDE: Final = "control_plane/key_policies/decide.py"
COMPARE: Final = "control_plane/key_policies/compare.py"
POLICY: Final = "control_plane/key_policies/policy.py"
APPROVALS: Final = "control_plane/key_policies/approvals.py"
GATE: Final = "control_plane/key_policies/gate.py"
SERVICE: Final = "control_plane/key_policies/service.py"
STORE: Final = "control_plane/key_policies/store.py"
KEY_USES: Final = "control_plane/encryption/uses.py"
SECRETS: Final = "control_plane/secrets/service.py"
TOKENS: Final = "control_plane/tokens/service.py"
GRANTS: Final = "control_plane/tokens/servicer.py"
PEOPLE: Final = "control_plane/tokens/model.py"
ISSUERS: Final = "control_plane/tokens/store.py"
UNIT: Final = "tests/unit/key_policies"
DECIDE_TESTS: Final = f"{UNIT}/test_decide.py"
COMPARE_TESTS: Final = f"{UNIT}/test_compare.py"
POLICY_TESTS: Final = f"{UNIT}/test_policy.py"
APPROVAL_TESTS: Final = f"{UNIT}/test_approvals.py"
USES: Final = "tests/integration/key_policies/test_uses.py"
CHANGES: Final = "tests/integration/key_policies/test_changes.py"
CONSENTS: Final = "tests/integration/key_policies/test_approvals.py"
BOUNDS: Final = "tests/architecture/test_rule_bounds.py"
TABLE_TESTS: Final = "tests/architecture/test_tenant_tables.py"
LOOSER: Final = f"{COMPARE_TESTS}::test_what_lets_more_pass_is_looser"

_DECISIONS: Final = (
    Mutation(
        name="a use without a reason code passes a key policy",
        file=DECIDE,
        before="    if not rule.forbids and use.reason_code not in rule.reason_codes:\n",
        after="    if not rule.forbids and use.reason_code and use.reason_code not in rule.reason_codes:\n",
        noticed_by=(f"{DECIDE_TESTS}::test_what_no_rule_is_for_is_said",),
    ),
    Mutation(
        name="what one rule forbids another allows",
        file=DECIDE,
        before="    if any(rule.forbids for rule in matching):\n",
        after="    if matching and all(rule.forbids for rule in matching):\n",
        noticed_by=(f"{DECIDE_TESTS}::test_a_rule_without_reason_codes_denies_what_others_allow",),
    ),
    Mutation(
        name="a key policy does not ask who uses a key",
        file=DECIDE,
        before="    if not {use.principal, use.role} & rule.principals:\n",
        after="    if not {use.principal, use.role} | rule.principals:\n",
        noticed_by=(f"{DECIDE_TESTS}::test_what_no_rule_is_for_is_said",),
    ),
    Mutation(
        name="a key policy does not ask when a key is used",
        file=DECIDE,
        before="    if rule.windows and not any(window.contains(now) for window in rule.windows):\n",
        after="    if rule.windows and not [window.contains(now) for window in rule.windows]:\n",
        noticed_by=(f"{DECIDE_TESTS}::test_a_window_goes_by_the_clocks_of_its_place",),
    ),
    Mutation(
        name="dual control is got round by another rule",
        file=DECIDE,
        before="    return _NEEDS_APPROVAL if any(rule.dual_control for rule in matching) else _ALLOWED\n",
        after="    return _NEEDS_APPROVAL if all(rule.dual_control for rule in matching) else _ALLOWED\n",
        noticed_by=(f"{DECIDE_TESTS}::test_dual_control_counts_beside_a_rule_that_merely_allows",),
    ),
)
_GATE: Final = (
    Mutation(
        name="a key is opened before its policy is asked",
        file=GATE,
        before="        if known is not None and _decided(known, use, self._now()).verdict is Verdict.ALLOWED:\n",
        after="        if known is None or _decided(known, use, self._now()).verdict in Verdict:\n",
        noticed_by=(f"{USES}::test_no_key_is_opened_for_a_use_that_is_denied",),
    ),
    Mutation(
        name="what is remembered of a key policy lets a use pass",
        file=GATE,
        before="            terms = await _read(tx)\n",
        after="            terms = self._terms.get(tx.placement.uid) or await _read(tx)\n",
        noticed_by=(f"{USES}::test_what_is_remembered_lets_nothing_pass_that_the_policy_denies",),
    ),
    Mutation(
        name="a use that is denied may be consented to",
        file=GATE,
        before="            if decision.unmatched is not None:\n",
        after="            if decision.unmatched is not None and decision.verdict is Verdict.ALLOWED:\n",
        noticed_by=(f"{CONSENTS}::test_a_consent_is_worth_nothing_where_the_policy_denies",),
    ),
    Mutation(
        name="a key is used by a policy that cannot be read",
        file=GATE,
        before="        raise _unreadable(error) from error\n\n\ndef _decided(",
        after="        return Terms(locked=_unreadable(error) is None)\n\n\ndef _decided(",
        noticed_by=(f"{USES}::test_without_a_policy_that_can_be_read_no_key_is_used",),
    ),
    Mutation(
        name="a use that waits for consent passes",
        file=GATE,
        before="            if approval.state is not State.APPROVED:\n",
        after="            if approval.state not in State:\n",
        noticed_by=(f"{CONSENTS}::test_a_use_waits_for_consent_and_each_step_is_told",),
    ),
    Mutation(
        name="consent to a few uses is consent to any number",
        file=GATE,
        before="            if takes:\n",
        after="            if takes and approval is None:\n",
        noticed_by=(f"{CONSENTS}::test_of_many_uses_at_once_as_many_pass_as_were_consented_to",),
    ),
    Mutation(
        name="requests for consent are without number",
        file=GATE,
        before="    if of_all >= MOST_WAITING or",
        after="    if of_all >= MOST_WAITING << 10 or",
        noticed_by=(f"{CONSENTS}::test_so_many_requests_wait_and_no_more",),
    ),
    Mutation(
        name="consent to one reason is consent to another",
        file=STORE,
        before="           AND reason_code = %(reason_code)s\n           FOR UPDATE\n",
        after="           AND reason_code <> %(reason_code)s || '!'\n           FOR UPDATE\n",
        noticed_by=(f"{CONSENTS}::test_consent_is_to_one_principal_operation_and_reason",),
    ),
    Mutation(
        name="nobody waits for uses by the old key policy",
        file=SERVICE,
        before="        if not await system.run(",
        after="        if policy or await system.run(",
        noticed_by=(f"{USES}::test_no_use_goes_on_by_the_old_policy_once_the_new_one_was_acknowledged",),
    ),
    Mutation(
        name="keys are opened before the key policy is asked",
        file=KEY_USES,
        before="        await self._gate.check(handle, use)\n",
        after="",
        noticed_by=(f"{USES}::test_no_key_is_opened_for_a_use_that_is_denied",),
    ),
    Mutation(
        name="a use of a key is entered without its policy",
        file=KEY_USES,
        before="        await self._gate.run(handle, use, work)\n",
        after="        await handle.run(lambda tx: work(tx, Permit(details={})))\n",
        noticed_by=(f"{CONSENTS}::test_of_many_uses_at_once_as_many_pass_as_were_consented_to",),
    ),
    Mutation(
        name="secrets are read without the key policy",
        file=SECRETS,
        before="    version, sealed = await gate.run(tenant, use, work)\n",
        after="    version, sealed = await tenant.run(lambda tx: work(tx, Permit(details=dict(gate and {}))))\n",
        noticed_by=(f"{USES}::test_a_secret_is_read_where_the_policy_lets_it_be",),
    ),
)
_CHANGES: Final = (
    Mutation(
        name="the platform changes a locked key policy",
        file=POLICY,
        before="        if (self.terms.locked or terms.locked) and not by.is_tenants:\n",
        after="        if (self.terms.locked or terms.locked) and not by.name:\n",
        noticed_by=(f"{POLICY_TESTS}::test_the_platform_changes_nothing_of_a_locked_policy",),
    ),
    Mutation(
        name="one administrator loosens a locked key policy",
        file=POLICY,
        before="        if self.terms.locked and (found := loosenings(self.terms, terms)):\n",
        after="        if self.terms.locked and (found := loosenings(terms, terms)):\n",
        noticed_by=(f"{POLICY_TESTS}::test_one_administrator_makes_a_locked_policy_tighter_and_not_looser",),
    ),
    Mutation(
        name="whoever proposes a change approves it",
        file=POLICY,
        before="        check_apart(proposal.behind, by.behind, name=name)\n",
        after="",
        noticed_by=(f"{POLICY_TESTS}::test_one_person_does_not_stand_behind_both",),
    ),
    Mutation(
        name="a credential of which nobody knows who issued it approves a change",
        file=PEOPLE,
        before="    if not one or not other or one & other:\n",
        after="    if one & other:\n",
        noticed_by=(f"{POLICY_TESTS}::test_one_person_does_not_stand_behind_both",),
    ),
    Mutation(
        name="a proposal is approved for ever",
        file=POLICY,
        before="        return self.proposal if self.proposal and now < self.proposal.expire_time else None\n",
        after="        return self.proposal if self.proposal and now else None\n",
        noticed_by=(f"{POLICY_TESTS}::test_a_proposal_is_over_after_a_day_and_with_any_change",),
    ),
    Mutation(
        name="a proposal outlives what it was to change",
        file=POLICY,
        before="revision=self.revision + 1, update_time=now, proposal=None)\n",
        after="revision=self.revision + 1, update_time=now)\n",
        noticed_by=(f"{POLICY_TESTS}::test_a_proposal_is_over_after_a_day_and_with_any_change",),
    ),
    Mutation(
        name="unlocking a key policy is tighter",
        file=COMPARE,
        before="    if before.locked and not after.locked:\n",
        after="    if before.locked and not after:\n",
        noticed_by=(f"{COMPARE_TESTS}::test_unlocking_is_never_tighter",),
    ),
    Mutation(
        name="enforcing a key policy no longer is tighter",
        file=COMPARE,
        before="    if not after.enforced:\n        yield",
        after="    if not after:\n        yield",
        noticed_by=(LOOSER,),
    ),
    Mutation(
        name="a rule that allows more is tighter",
        file=COMPARE,
        before="        if not rule.forbids and not any(_is_within(",
        after="        if not rule.forbids and not any(_is_about(",
        noticed_by=(LOOSER,),
    ),
    Mutation(
        name="a rule that forbids goes unnoticed",
        file=COMPARE,
        before="        if old.forbids and not any(new.forbids and",
        after="        if old.forbids and not any(old.forbids or",
        noticed_by=(LOOSER,),
    ),
    Mutation(
        name="dual control goes unnoticed",
        file=COMPARE,
        before="        if old.dual_control and not any(_is_as_strict(new, old) for",
        after="        if old.dual_control and not any(old.dual_control or _is_as_strict(new, old) for",
        noticed_by=(LOOSER,),
    ),
    Mutation(
        name="a longer time is tighter",
        file=COMPARE,
        before="        and inner.minutes.stop <= outer.minutes.stop\n",
        after="",
        noticed_by=(LOOSER,),
    ),
    Mutation(
        name="the same clock elsewhere is the same time",
        file=COMPARE,
        before="        inner.zone == outer.zone\n        and (inner",
        after="        (inner",
        noticed_by=(LOOSER,),
    ),
)
_CONSENTS: Final = (
    Mutation(
        name="whoever uses a key consents to it",
        file=APPROVALS,
        before="        asker = self.behind | {person_of(self.principal)}\n",
        after="        asker = self.behind | {self.principal}\n",
        noticed_by=(f"{APPROVAL_TESTS}::test_nobody_consents_to_a_use_of_their_own_whatever_the_credential",),
    ),
    Mutation(
        name="a credential of which nobody knows who issued it consents to a use",
        file=APPROVALS,
        before="        if not by.behind or ANYBODY in asker or",
        after="        if ANYBODY in asker or",
        noticed_by=(f"{APPROVAL_TESTS}::test_nobody_consents_to_a_use_of_their_own_whatever_the_credential",),
    ),
    Mutation(
        name="whoever has issued a token consents to uses by it",
        file=APPROVALS,
        before="        asker = self.behind | {",
        after="        asker = self.behind & {",
        noticed_by=(f"{APPROVAL_TESTS}::test_nobody_consents_to_a_use_by_a_credential_of_their_making",),
    ),
    Mutation(
        name="the platform makes up both who use a key that is locked",
        file=APPROVALS,
        before="        passed_over = frozenset() if is_locked else frozenset({THE_PLATFORM})\n",
        after="        passed_over = frozenset({THE_PLATFORM, f'{is_locked}'})\n",
        noticed_by=(f"{APPROVAL_TESTS}::test_the_platform_makes_both_only_where_the_policy_is_not_locked",),
    ),
    Mutation(
        name="consent that is used up or has expired is good",
        file=APPROVALS,
        before="        return now < self.expire_time and (self.state is not State.APPROVED or self.uses_left > 0)\n",
        after="        return bool(now) and (self.state is not State.APPROVED or self.uses_left > 0)\n",
        noticed_by=(f"{APPROVAL_TESTS}::test_it_is_good_for_its_uses_and_its_time",),
    ),
    Mutation(
        name="a token forgets who issued its issuer's",
        file=TOKENS,
        before="    return issuers_of(request.issuer, frozenset({ANYBODY}) if behind is None else behind)\n",
        after="    return issuers_of(request.issuer, frozenset({ANYBODY}) if behind is None else frozenset())\n",
        noticed_by=(f"{CHANGES}::test_nobody_makes_up_the_second_administrator",),
    ),
    Mutation(
        name="a token that a tenant's administrator issues is the platform's",
        file=GRANTS,
        before="    return replace(wanted, issuer=principal.subject, shown=shown)\n",
        after="    return replace(wanted, request_id=wanted.request_id) if shown else wanted\n",
        noticed_by=(f"{CHANGES}::test_nobody_makes_up_the_second_administrator",),
    ),
    Mutation(
        name="of a token from before nobody has to know who issued it",
        file=ISSUERS,
        before="    behind = frozenset() if issuers is None else frozenset(issuers_of(principal.subject, issuers))\n",
        after="    behind = frozenset(issuers_of(principal.subject, issuers or frozenset()))\n",
        noticed_by=(f"{CHANGES}::test_a_token_from_before_issuers_were_kept_approves_nothing",),
    ),
    Mutation(
        name="the platform's administrators consent to a tenant's uses",
        file=PROTO,
        before=(
            '      post: "/api/v1/{name=tenants/*/keyUseApprovals/*}:approve"\n      body: "*"\n    };\n'
            '    option (google.api.method_signature) = "name";\n    option (rule) = {\n      tenant: "name"\n'
            "      roles: [ROLE_TENANT_ADMIN]\n"
        ),
        after=(
            '      post: "/api/v1/{name=tenants/*/keyUseApprovals/*}:approve"\n      body: "*"\n    };\n'
            '    option (google.api.method_signature) = "name";\n    option (rule) = {\n      tenant: "name"\n'
            "      roles: [ROLE_TENANT_ADMIN, ROLE_PLATFORM_ADMIN]\n"
        ),
        noticed_by=(f"{BOUNDS}::test_a_rule_lets_in_nobody_whom_none_may",),
    ),
    Mutation(
        name="key policies have no row-level security",
        file=TABLES,
        before="ALTER TABLE key_policies ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;\n",
        after="",
        noticed_by=(f"{TABLE_TESTS}::test_a_tenants_table_has_row_level_security_enabled_and_forced",),
    ),
)

WALLS: Final = (*_DECISIONS, *_GATE, *_CHANGES, *_CONSENTS)
