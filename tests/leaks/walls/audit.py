"""Whose log an entry is in, and what shows when a log was changed."""

from typing import Final

from tests.leaks.model import Mutation

PROOF: Final = "control_plane/proofs/audit_log.py"
MODEL: Final = "control_plane/audit/model.py"
STORE: Final = "control_plane/audit/store.py"
SERVICE: Final = "control_plane/audit/service.py"
RECORDER: Final = "control_plane/audit/recorder.py"
DENIALS: Final = "control_plane/audit/denials.py"
CHAIN: Final = "tests/unit/audit/test_chain.py"
RECORDS: Final = "tests/integration/audit/test_recorder.py"
VERIFICATION: Final = "tests/integration/audit/test_verification.py"
DENIAL_TESTS: Final = "tests/integration/audit/test_denials.py"
SEALER: Final = "tests/integration/audit/test_sealer.py"
VERIFIER_TESTS: Final = "tests/integration/tokens/test_verifier.py"

WALLS: Final = (
    Mutation(
        name="an entry goes into another tenant's log",
        file=RECORDER,
        before="        if effect.placement not in {None, tx.placement}:\n",
        after="        if effect is None:\n",
        noticed_by=(f"{RECORDS}::test_an_effect_on_another_tenant_than_the_transactions_is_not_committed",),
    ),
    Mutation(
        name="an effect belongs to nobody's log",
        file=RECORDER,
        before="    if placement is None:\n        raise RuntimeError",
        after="    if placement is None:\n        RuntimeError",
        noticed_by=(f"{RECORDS}::test_an_effect_without_a_tenant_is_not_committed",),
    ),
    Mutation(
        name="a link covers no link before it",
        file=PROOF,
        before="hashlib.sha256(head + canonical)",
        after="hashlib.sha256(canonical)",
        noticed_by=(f"{CHAIN}::test_a_link_covers_the_link_before_and_the_canonical_entry",),
    ),
    Mutation(
        name="a chain may be another tenant's",
        file=PROOF,
        before="hashlib.sha256(_GENESIS + tenant_uid.bytes).digest()",
        after="hashlib.sha256(_GENESIS).digest()",
        noticed_by=(f"{CHAIN}::test_a_link_covers_the_link_before_and_the_canonical_entry",),
    ),
    Mutation(
        name="an entry may be of another tenant's log",
        file=MODEL,
        before='        "tenant": str(tenant_uid),\n',
        after="",
        noticed_by=(f"{CHAIN}::test_the_canonical_form_is_jcs_over_every_column",),
    ),
    Mutation(
        name="an entry is sealed without its reason",
        file=MODEL,
        before='        "reason": record.reason,\n',
        after="",
        noticed_by=(f"{CHAIN}::test_the_canonical_form_is_jcs_over_every_column",),
    ),
    Mutation(
        name="a link is not compared",
        file=MODEL,
        before="        return self.extend(record) == seal\n",
        after="        return self.extend(record) is not None\n",
        noticed_by=(f"{CHAIN}::test_a_change_of_any_column_breaks_the_chain_there",),
    ),
    Mutation(
        name="entries are sealed in any order",
        file=MODEL,
        before="        if record is None or record.position <= self.position:\n",
        after="        if record is None:\n",
        noticed_by=(f"{VERIFICATION}::test_of_five_hundred_edits_the_verifier_names_the_first_bad_entry_of_each",),
    ),
    Mutation(
        name="an entry that was put in is not found",
        file=SERVICE,
        before="    return min((found for found in (overtaken, wrong) if found), default=0)",
        after="    return wrong",
        noticed_by=(f"{VERIFICATION}::test_of_five_hundred_edits_the_verifier_names_the_first_bad_entry_of_each",),
    ),
    Mutation(
        name="an entry is sealed before its elders are there",
        file=STORE,
        before="           AND e.xact < pg_snapshot_xmin(pg_current_snapshot())\n",
        after="",
        noticed_by=(f"{SEALER}::test_an_entry_waits_for_every_transaction_that_may_still_come_before_it",),
    ),
    Mutation(
        name="who is merely told of a denial reads what was asked for",
        file=DENIALS,
        before='        yield replace(kind, tenant=name, resource=f"tenants/{name}")\n',
        after="        yield replace(kind, tenant=name)\n",
        noticed_by=(f"{VERIFIER_TESTS}::test_a_mix_up_of_tenants_is_told_to_both_and_names_neither_to_the_other",),
    ),
    Mutation(
        name="a denial is told to the tenant that was asked for",
        file=DENIALS,
        before="    tenant = call.principal.tenant if call.principal else None\n",
        after='    tenant = TenantId(call.tenant_name.removeprefix("tenants/")) if call.principal else None\n',
        noticed_by=(
            f"{DENIAL_TESTS}::test_a_call_that_was_denied_is_in_the_log_of_its_callers_tenant_and_not_of_the_one_it_asked_for",
        ),
    ),
)
