"""What a rotation must not do: destroy what is needed, sign with what nobody knows, or say what is not so."""

from typing import Final

from tests.leaks.model import Mutation

ROTATION: Final = "control_plane/keyring/rotations/rotation.py"
PLAN: Final = "control_plane/keyring/rotations/plan.py"
DESTRUCTION: Final = "control_plane/keyring/destruction.py"
SERVICE: Final = "control_plane/keyring/service.py"
MODEL: Final = "control_plane/keyring/model.py"
STORE: Final = "control_plane/keyring/store.py"
DESTRUCTIONS: Final = "control_plane/keyring/destructions.py"
WRAPPING: Final = "control_plane/keys/wrapping.py"
KEYS: Final = "control_plane/keys/opened/opening.py"
KEYS_STORE: Final = "control_plane/keys/store.py"
ENVELOPE: Final = "control_plane/cli/isolation/envelope.py"
ROTATION_TESTS: Final = "tests/integration/keyring/test_rotation.py"
SERVICE_TESTS: Final = "tests/integration/keyring/test_key_service.py"
RECEIPT_TESTS: Final = "tests/integration/keyring/test_receipts.py"
MODEL_TESTS: Final = "tests/unit/keyring/test_keyring_model.py"
CLI_TESTS: Final = "tests/integration/cli/test_keys.py"

WALLS: Final = (
    Mutation(
        name="a rotation of a KEK destroys what a key is wrapped under",
        file=ROTATION,
        before="if await self._database.system().run(lambda tx: store.is_wrapped_under(tx, placement.uid, version)):",
        after="if not version:",
        noticed_by=(f"{ROTATION_TESTS}::test_a_key_that_is_wrapped_under_the_old_kek_keeps_it_alive",),
    ),
    Mutation(
        name="a rotation of a KEK believes whatever the vault has wrapped",
        file=WRAPPING,
        before="if not hmac.compare_digest(opened, private):",
        after="if not opened:",
        noticed_by=(f"{ROTATION_TESTS}::test_a_key_that_does_not_open_as_it_was_is_not_put_in_place",),
    ),
    Mutation(
        name="a rotation of a KEK destroys what a key was put under at the last moment",
        file=KEYS_STORE,
        before="        await _hold_open(tx, key.kek)\n",
        after="",
        noticed_by=(
            f"{ROTATION_TESTS}::test_a_first_key_that_is_made_while_the_kek_is_replaced_is_wrapped_under_the_new_one",
        ),
    ),
    Mutation(
        name="a rotation of a KEK forgets what was put under it after all was wrapped",
        file=ROTATION,
        before="        await self._wrap(operation)\n",
        after="",
        noticed_by=(
            f"{ROTATION_TESTS}::test_a_first_key_that_is_made_while_the_kek_is_replaced_is_wrapped_under_the_new_one",
        ),
    ),
    Mutation(
        name="a rotation of a KEK puts a key in the place of another that came meanwhile",
        file=KEYS_STORE,
        before=" AND wrapped = %(before)s",
        after="",
        noticed_by=(f"{ROTATION_TESTS}::test_a_key_that_was_changed_while_it_was_wrapped_anew_stays_as_it_is",),
    ),
    Mutation(
        name="a rotation of a KEK wraps all tenants' keys",
        file=KEYS_STORE,
        before="FROM csm_system.tenant_keys WHERE tenant_uid = %(tenant_uid)s ORDER BY key_id, version DESC",
        after="FROM csm_system.tenant_keys ORDER BY key_id, version DESC",
        noticed_by=(
            f"{ROTATION_TESTS}::test_a_new_kek_wraps_every_key_and_the_old_one_is_destroyed_while_everything_opens",
        ),
    ),
    Mutation(
        name="a rotation signs tokens with what is only published",
        file=KEYS,
        before="if stored.is_used if version is None else stored.version == version:",
        after="if version in {None, stored.version}:",
        noticed_by=(f"{ROTATION_TESTS}::test_a_tokens_key_is_published_first_and_signs_once_every_edge_knows_it",),
    ),
    Mutation(
        name="a rotation waits for no edge",
        file=ROTATION,
        before="        if lagging:\n",
        after="        if lagging is None:\n",
        noticed_by=(f"{ROTATION_TESTS}::test_a_tokens_key_is_published_first_and_signs_once_every_edge_knows_it",),
    ),
    Mutation(
        name="a rotation retires what tokens in use were signed with",
        file=ROTATION,
        before="unused_for=_VERIFIES_ON",
        after="unused_for=timedelta()",
        noticed_by=(f"{ROTATION_TESTS}::test_a_tokens_key_is_retired_by_the_first_rotation_after_its_last_token",),
    ),
    Mutation(
        name="a rotation begins while another one wraps",
        file=SERVICE,
        before="    if running is not None:\n",
        after="    if running == key:\n",
        noticed_by=(
            f"{SERVICE_TESTS}::test_one_key_of_a_tenant_is_rotated_at_a_time_and_others_tenants_are_in_nobodys_way",
        ),
    ),
    Mutation(
        name="a rotation begins for a tenant in the making",
        file=SERVICE,
        before='if state in {None, "PROVISIONING"}:',
        after="if state is None:",
        noticed_by=(f"{SERVICE_TESTS}::test_a_tenant_that_is_still_being_created_is_not_rotated",),
    ),
    Mutation(
        name="a rotation takes any etag",
        file=MODEL,
        before="if etag and etag != self.etag:",
        after="if etag and not self.etag:",
        noticed_by=(f"{MODEL_TESTS}::test_an_etag_changes_with_the_key",),
    ),
    Mutation(
        name="a tenant is shown all tenants' keys",
        file=STORE,
        before="WHERE tenant_uid = %(tenant_uid)s AND purpose <> 'import' ORDER BY version DESC",
        after="WHERE purpose <> 'import' ORDER BY version DESC",
        noticed_by=(f"{SERVICE_TESTS}::test_a_tenants_keys_are_its_own",),
    ),
    Mutation(
        name="a tenant is shown another's receipts",
        file=DESTRUCTIONS,
        before="WHERE tenant_uid = %(tenant_uid)s AND id < %(before)s AND payload",
        after="WHERE id < %(before)s AND payload",
        noticed_by=(f"{RECEIPT_TESTS}::test_a_receipt_is_its_own_tenants",),
    ),
    Mutation(
        name="a tenant is given another's receipt by its id",
        file=DESTRUCTIONS,
        before="WHERE tenant_uid = %(tenant_uid)s AND id = %(id)s AND payload",
        after="WHERE id = %(id)s AND payload",
        noticed_by=(f"{RECEIPT_TESTS}::test_a_receipt_is_its_own_tenants",),
    ),
    Mutation(
        name="a receipt is given for a KEK that is still there",
        file=DESTRUCTION,
        before="if await self._wrapping.opens(kek, WrappedKey(destruction.sample)):",
        after="if not destruction.sample:",
        noticed_by=(f"{RECEIPT_TESTS}::test_what_still_opens_after_its_kek_was_destroyed_gets_no_receipt",),
    ),
    Mutation(
        name="a receipt is written over",
        file=DESTRUCTIONS,
        before="WHERE id = %(id)s AND payload IS NULL",
        after="WHERE id = %(id)s",
        noticed_by=(f"{RECEIPT_TESTS}::test_a_receipt_is_never_changed",),
    ),
    Mutation(
        name="anything that the platform signed passes for a receipt",
        file=ENVELOPE,
        before="    if found != kind:\n",
        after="    if not found:\n",
        noticed_by=(f"{CLI_TESTS}::test_a_receipt_that_was_forged_or_is_none_fails_the_check",),
    ),
    Mutation(
        name="a rotation opens a sealed tenant's keys",
        file=PLAN,
        before="        await self._database.system().run(lambda tx: keys_store.check_unsealed(tx, placement.uid))\n",
        after="",
        noticed_by=(f"{ROTATION_TESTS}::test_a_rotation_that_meets_a_seal_is_given_up_and_opens_nothing",),
    ),
)
