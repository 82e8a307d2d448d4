"""What an escrow must not do: be decided by one, open for less than enough people, or give in what is not ours."""

from pathlib import Path
from typing import Final

from tests.leaks.model import Mutation

HPKE: Final = "control_plane/recipients/hpke.py"
CEREMONY: Final = "control_plane/recipients/ceremony.py"
MODEL: Final = "control_plane/escrows/model.py"
STORE: Final = "control_plane/escrows/store.py"
RECOVERING: Final = "control_plane/escrows/recovering.py"
RECOVERIES: Final = "control_plane/escrows/recoveries.py"
SERVICE: Final = "control_plane/escrows/service.py"
SERVICER: Final = "control_plane/escrows/servicer.py"
PEOPLE: Final = "control_plane/tokens/model.py"
COPIES: Final = "control_plane/keys/escrow.py"
WRAPPING: Final = "control_plane/keys/wrapping.py"
KEYS_STORE: Final = "control_plane/keys/store.py"
DESTRUCTION: Final = "control_plane/keyring/destruction.py"
ROTATIONS: Final = "control_plane/keyring/service.py"
RECIPIENT: Final = "control_plane/cli/escrow/recipient.py"
SYSTEM: Final = "control_plane/postgres/sql/system"
# By its name: migrations are numbered as they come.
SQL: Final = f"{SYSTEM}/{next((Path(__file__).parents[3] / SYSTEM).glob('*_escrows.sql')).name}"
PROTO: Final = "proto/bulkhead/v1/escrows.proto"
HPKE_TESTS: Final = "tests/unit/recipients/test_hpke.py"
CEREMONY_TESTS: Final = "tests/unit/recipients/test_ceremony.py"
MODEL_TESTS: Final = "tests/unit/escrows/test_escrows_model.py"
APART_TESTS: Final = "tests/unit/tokens/test_apart.py"
COPIES_TESTS: Final = "tests/unit/keys/test_escrow.py"
ENABLING: Final = "tests/integration/escrows/test_enabling.py"
RECOVERY: Final = "tests/integration/escrows/test_recovery.py"
FORGERIES: Final = "tests/integration/escrows/test_forgeries.py"
BOUNDS: Final = "tests/architecture/test_rule_bounds.py"

_SEALED: Final = (
    Mutation(
        name="what is sealed to a public key opens for anything",
        file=HPKE,
        before="said = (_HEAD, self.purpose.encode(), *self.parts)",
        after="said = (_HEAD, self.purpose[:0].encode(), *self.parts[:0])",
        noticed_by=(f"{HPKE_TESTS}::test_a_part_that_moves_from_one_place_to_the_next_is_another_context",),
    ),
    Mutation(
        name="a share is bound to no recipient",
        file=CEREMONY,
        before='purpose="escrow/share/1", parts=(tenant_uid.bytes, escrow_id.bytes, recipient.encode())',
        after='purpose="escrow/share/1", parts=(tenant_uid.bytes, escrow_id.bytes, recipient[:0].encode())',
        noticed_by=(f"{CEREMONY_TESTS}::test_shares_and_approvals_are_bound_to_tenant_ceremony_and_recipient",),
    ),
    Mutation(
        name="an approval is good for every recovery",
        file=CEREMONY,
        before='purpose="escrow/approval/1", parts=(tenant_uid.bytes, recovery_id.bytes, recipient.encode())',
        after='purpose="escrow/approval/1", parts=(tenant_uid.bytes, tenant_uid.bytes, recipient.encode())',
        noticed_by=(f"{CEREMONY_TESTS}::test_shares_and_approvals_are_bound_to_tenant_ceremony_and_recipient",),
    ),
    Mutation(
        name="a copy in escrow is bound to no row",
        file=COPIES,
        before="parts=(escrow_id.bytes, binding.aad()))",
        after="parts=(escrow_id.bytes, binding.aad()[:0]))",
        noticed_by=(f"{COPIES_TESTS}::test_a_copy_opens_for_no_other_tenant_purpose_version_or_row",),
    ),
    Mutation(
        name="whatever is sealed to an escrow is taken for a copy of ours",
        file=WRAPPING,
        before="            check(_copy_of(one), one.binding, private[one.id], check_key=check_key)\n",
        after="",
        noticed_by=(f"{FORGERIES}::test_a_recovery_puts_nothing_in_place_that_is_not_ours",),
    ),
    Mutation(
        name="a copy in escrow vouches for itself",
        file=WRAPPING,
        before="if not hmac.compare_digest(root_check(key, check_key), root):",
        after="if not root_check(key, check_key):",
        noticed_by=(f"{FORGERIES}::test_a_recovery_puts_nothing_in_place_that_is_not_ours",),
    ),
    Mutation(
        name="a key comes back beside another's public half",
        file=WRAPPING,
        before="            _check_public_half(one, private[one.id])\n",
        after="",
        noticed_by=(f"{FORGERIES}::test_a_recovery_puts_nothing_in_place_that_is_not_ours",),
    ),
    Mutation(
        name="new keys are sealed to whatever public key is in the database",
        file=COPIES,
        before="if not hmac.compare_digest(escrow.voucher, voucher(escrow, check_key=check_key)):",
        after="if not voucher(escrow, check_key=check_key):",
        noticed_by=(f"{FORGERIES}::test_new_keys_are_not_sealed_to_a_public_key_that_somebody_else_has_put_there",),
    ),
    Mutation(
        name="an escrow is made anew for whoever is named in the database",
        file=MODEL,
        before="if self.terms.digest != self.terms_digest:",
        after="if not self.terms.digest:",
        noticed_by=(f"{FORGERIES}::test_new_shares_go_to_nobody_whom_somebody_else_has_named",),
    ),
)
_DECIDED: Final = (
    Mutation(
        name="one administrator enables an escrow alone",
        file=MODEL,
        before="        check_apart(self.behind, behind, name=name)\n",
        after="",
        noticed_by=(f"{MODEL_TESTS}::test_one_person_does_not_stand_behind_who_proposed_it_and_who_confirms_it",),
    ),
    Mutation(
        name="whoever has issued both administrators' tokens enables an escrow alone",
        file=PEOPLE,
        before="    if not one or not other or one & other:\n",
        after="    if not one or not other or one == other:\n",
        noticed_by=(
            f"{APART_TESTS}::test_credentials_that_one_person_could_have_made_are_one",
            f"{ENABLING}::test_nobody_makes_up_who_confirms_their_escrow",
            f"{ENABLING}::test_the_platform_does_not_make_up_both_who_enable_an_escrow",
        ),
    ),
    Mutation(
        name="a proposal of an escrow forgets who stands behind it",
        file=SERVICE,
        before="        behind=wish.behind,\n",
        after="        behind=frozenset({wish.actor}),\n",
        noticed_by=(f"{ENABLING}::test_nobody_makes_up_who_confirms_their_escrow",),
    ),
    Mutation(
        name="who confirms an escrow stands behind their token alone",
        file=SERVICER,
        before="digest=request.digest,\n            behind=await service.who_stands_behind(",
        after="digest=request.digest,\n            behind=(lambda *_: frozenset({call.actor}))(",
        noticed_by=(f"{ENABLING}::test_nobody_makes_up_who_confirms_their_escrow",),
    ),
    Mutation(
        name="whoever can write into the database says who stands behind a proposal of an escrow",
        file=MODEL,
        before="            _digest(*(one.encode() for one in sorted(self.behind))),\n",
        after="",
        noticed_by=(
            f"{MODEL_TESTS}::test_a_proposals_digest_is_over_all_that_it_says",
            f"{ENABLING}::test_what_was_swapped_in_the_database_after_it_was_proposed_is_not_confirmed",
        ),
    ),
    Mutation(
        name="an escrow is confirmed in whatever words",
        file=MODEL,
        before="if digest != self.digest:",
        after="if not self.digest:",
        noticed_by=(f"{MODEL_TESTS}::test_other_words_than_those_that_were_proposed_are_not_confirmed",),
    ),
    Mutation(
        name="an escrow is confirmed with other recipients' keys",
        file=MODEL,
        before="parts += [one.name.encode(), one.public]",
        after="parts += [one.name.encode()]",
        noticed_by=(f"{MODEL_TESTS}::test_a_proposals_digest_is_over_all_that_it_says",),
    ),
    Mutation(
        name="a proposal of an escrow holds for ever",
        file=MODEL,
        before="if now >= self.expire_time:\n            raise no_proposal(name)",
        after="if not name:\n            raise no_proposal(name)",
        noticed_by=(f"{MODEL_TESTS}::test_a_proposal_expires",),
    ),
    Mutation(
        name="the platform confirms a tenant's escrow",
        file=PROTO,
        before="roles: [ROLE_TENANT_ADMIN]\n      cost: 20",
        after="roles: [ROLE_TENANT_ADMIN, ROLE_PLATFORM_ADMIN]\n      cost: 20",
        noticed_by=(f"{BOUNDS}::test_a_rule_lets_in_nobody_whom_none_may",),
    ),
    Mutation(
        name="the platform begins a recovery without the tenant's consent",
        file=RECOVERIES,
        before="if asked.by_platform and (escrow is None or not escrow.platform_may_begin):",
        after="if asked.by_platform and escrow is None:",
        noticed_by=(f"{RECOVERY}::test_the_provider_begins_no_recovery_unless_the_tenant_has_agreed_to_it",),
    ),
    Mutation(
        name="the platform begins a recovery as if it were the tenant",
        file=SERVICER,
        before="by_platform=call.principal is None or call.principal.role not in TENANT_BOUND",
        after="by_platform=call.principal is None or not TENANT_BOUND",
        noticed_by=(f"{RECOVERY}::test_the_provider_begins_no_recovery_unless_the_tenant_has_agreed_to_it",),
    ),
)
_APPROVED: Final = (
    Mutation(
        name="one share recovers a tenant's keys",
        file=RECOVERIES,
        before="if approved >= escrow.threshold:",
        after="if approved >= escrow.threshold - 1:",
        noticed_by=(f"{RECOVERY}::test_one_share_of_two_recovers_nothing",),
    ),
    Mutation(
        name="a recipient counts as often as they like",
        file=MODEL,
        before="if any(one.recipient == recipient for one in self.approvals):",
        after="if any(one.recipient == name for one in self.approvals):",
        noticed_by=(f"{MODEL_TESTS}::test_a_recipient_counts_once",),
    ),
    Mutation(
        name="whatever is sealed to a recovery counts as a share",
        file=RECOVERIES,
        before="if not hmac.compare_digest(digest, share.digest):",
        after="if not digest:",
        noticed_by=(f"{RECOVERY}::test_what_is_sealed_to_the_session_and_is_not_the_recipients_share_is_refused",),
    ),
    Mutation(
        name="a recovery is approved after it has expired",
        file=MODEL,
        before='if now >= self.expire_time:\n            raise PreconditionError(name, f"{name} has expired',
        after='if not name:\n            raise PreconditionError(name, f"{name} has expired',
        noticed_by=(f"{MODEL_TESTS}::test_a_recovery_expires",),
    ),
    Mutation(
        name="a recovery is approved after it has ended",
        file=MODEL,
        before="if self.state is not RecoveryState.OPEN:",
        after="if not self.state:",
        noticed_by=(f"{MODEL_TESTS}::test_only_an_open_recovery_is_approved",),
    ),
    Mutation(
        name="a recovery takes another's session",
        file=MODEL,
        before='object_name=f"{self.id}/{self.escrow_id}",',
        after='object_name="session",',
        noticed_by=(f"{MODEL_TESTS}::test_a_session_is_bound_to_its_tenant_escrow_recovery_and_kek",),
    ),
    Mutation(
        name="a recipient seals to a session that they were not told of",
        file=RECIPIENT,
        before="if hpke.fingerprint(public) != session.strip().lower():",
        after="if not session.strip().lower():",
        noticed_by=(f"{RECOVERY}::test_a_recipient_seals_to_no_other_session_than_the_one_they_were_told_of",),
    ),
    Mutation(
        name="a recovery goes on after the tenant was sealed",
        file=RECOVERING,
        before="keys_store.check_unsealed(tx, case.placement.uid)",
        after="keys_store.all_of(tx, case.placement.uid)",
        noticed_by=(f"{RECOVERY}::test_a_recovery_that_meets_a_seal_is_given_up_and_opens_nothing",),
    ),
    Mutation(
        name="a recovery leaves a key under the KEK that it destroys",
        file=RECOVERING,
        before="        await self._wrap_late(case)\n",
        after="",
        noticed_by=(f"{RECOVERY}::test_a_key_that_was_put_under_the_old_kek_at_the_last_moment_comes_along",),
    ),
    Mutation(
        name="what recipients gave is kept after a recovery",
        file=STORE,
        before='"DELETE FROM csm_system.recovery_approvals WHERE recovery_id = %(id)s"',
        after='"DELETE FROM csm_system.recovery_approvals WHERE recovery_id = %(id)s AND recipient IS NULL"',
        noticed_by=(f"{RECOVERY}::test_a_cancelled_recovery_leaves_nothing_that_opens_what_recipients_gave",),
    ),
    Mutation(
        name="what opens what recipients gave is kept after a recovery",
        file=RECOVERIES,
        before="            await self._wrapping.destroy_kek(kek)\n",
        after="",
        noticed_by=(f"{RECOVERY}::test_a_cancelled_recovery_leaves_nothing_that_opens_what_recipients_gave",),
    ),
    Mutation(
        name="a recovery is found by its id alone",
        file=STORE,
        before="FROM csm_system.key_recoveries WHERE tenant_uid = %(tenant_uid)s AND id = %(id)s",
        after="FROM csm_system.key_recoveries WHERE %(tenant_uid)s::uuid IS NOT NULL AND id = %(id)s",
        noticed_by=(f"{RECOVERY}::test_another_tenants_recovery_is_as_good_as_none",),
    ),
    Mutation(
        name="a key is rotated while its KEK is being replaced by a recovery",
        file=ROTATIONS,
        before="    if recovery is not None:\n",
        after="    if recovery == key:\n",
        noticed_by=(f"{RECOVERY}::test_one_recovery_at_a_time_and_no_rotation_beside_it",),
    ),
)
_KEPT: Final = (
    Mutation(
        name="a key is stored without its copy in escrow",
        file=KEYS_STORE,
        before="        await _check_escrowed(tx, key)\n",
        after="",
        noticed_by=(f"{ENABLING}::test_a_copy_for_an_escrow_that_is_gone_is_not_stored",),
    ),
    Mutation(
        name="the database keeps a key without its copy in escrow",
        file=SQL,
        before="SELECT FROM csm_system.escrow_copies AS c WHERE c.key_id = k.id AND c.escrow_id = e.id)",
        after="SELECT FROM csm_system.tenant_keys AS c WHERE c.id = k.id)",
        noticed_by=(f"{ENABLING}::test_the_database_keeps_no_key_of_an_escrow_without_its_copy",),
    ),
    Mutation(
        name="an escrow is stored without the key that came meanwhile",
        file=STORE,
        before="await keys_store.all_of(tx, escrow.tenant_uid)} != {key.id for key in made.keys}:",
        after="await keys_store.all_of(tx, escrow.tenant_uid)} == set():",
        noticed_by=(f"{ENABLING}::test_a_key_that_is_made_while_an_escrow_is_has_its_copy_or_is_not_stored",),
    ),
    Mutation(
        name="an escrow does not wait for who is storing a key",
        file=STORE,
        before=" ORDER BY version FOR UPDATE",
        after=" ORDER BY version",
        noticed_by=(f"{ENABLING}::test_a_key_that_is_made_while_an_escrow_is_has_its_copy_or_is_not_stored",),
    ),
    Mutation(
        name="an escrow outlives its tenant's keys",
        file=KEYS_STORE,
        before='"DELETE FROM csm_system.tenant_escrows WHERE tenant_uid = %(uid)s"',
        after='"DELETE FROM csm_system.tenant_escrows WHERE tenant_uid = %(uid)s AND threshold = 0"',
        noticed_by=(f"{ENABLING}::test_destroying_all_of_a_tenants_keys_destroys_their_escrow",),
    ),
    Mutation(
        name="a disabled escrow still opens",
        file=SERVICE,
        before="        await store.delete(tx, placement.uid)\n",
        after="",
        noticed_by=(f"{ENABLING}::test_disabling_deletes_copies_and_shares_at_once_and_says_what_went",),
    ),
    Mutation(
        name="a receipt does not say that copies are in escrow",
        file=DESTRUCTION,
        before="            escrow_id=await self._escrow_id(kek.tenant_uid),\n",
        after="            escrow_id=None,\n",
        noticed_by=(f"{ENABLING}::test_a_receipt_says_whether_what_the_kek_wrapped_is_in_escrow",),
    ),
)

WALLS: Final = (*_SEALED, *_DECIDED, *_APPROVED, *_KEPT)
