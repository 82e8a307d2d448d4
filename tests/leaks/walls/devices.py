"""What a device with the tenants' keys is trusted with, and what is believed of it."""

from typing import Final

from tests.leaks.model import Mutation

PROMISE: Final = "control_plane/keys/vault.py"
DEVICE: Final = "control_plane/keys/vault_pkcs11.py"
KEKS: Final = "control_plane/keys/pkcs11/keks.py"
TOKENS: Final = "control_plane/keys/pkcs11/tokens.py"
LIBRARY: Final = "control_plane/keys/pkcs11/library.py"
FAULT_TESTS: Final = "tests/integration/keys/pkcs11/test_faults.py"
TOKEN_TESTS: Final = "tests/integration/keys/pkcs11/test_tokens.py"
OWN_TESTS: Final = "tests/integration/keys/pkcs11/test_own_tokens.py"
PROCESS_TESTS: Final = "tests/integration/keys/pkcs11/test_processes.py"
ATTRIBUTES: Final = f"{TOKEN_TESTS}::test_a_kek_never_leaves_its_token_and_does_nothing_but_encrypt_and_decrypt"

WALLS: Final = (
    Mutation(
        name="a cell is opened with the other kind of vault",
        file=PROMISE,
        before="if (directory / others).exists():",
        after="if not others:",
        noticed_by=(f"{FAULT_TESTS}::test_a_vault_is_never_opened_as_the_other_kind",),
    ),
    Mutation(
        name="software takes a device's place",
        file="control_plane/app/vaults.py",
        before="if settings.hsm is not None:",
        after="if not settings:",
        noticed_by=(f"{TOKEN_TESTS}::test_a_cell_with_a_device_has_no_software_vault_whatever_becomes_of_the_device",),
    ),
    Mutation(
        name="SoftHSM is called a device",
        file=DEVICE,
        before="is_device = not seen.model.startswith(softhsm.MODEL)",
        after="is_device = bool(seen.model)",
        noticed_by=(
            "tests/unit/keys/pkcs11/test_root_of_trust.py::test_software_in_the_place_of_a_device_is_called_software",
        ),
    ),
    Mutation(
        name="the library of PKCS#11 uses no mutexes",
        file="control_plane/keys/pkcs11/cryptoki.py",
        before="_InitializeArgs(flags=OS_LOCKING_OK)",
        after="_InitializeArgs(flags=0)",
        noticed_by=(f"{PROCESS_TESTS}::test_the_library_is_told_to_use_mutexes_before_anything_else",),
    ),
    Mutation(
        name="a KEK may leave its token",
        file=TOKENS,
        before="Attribute.EXTRACTABLE: False,",
        after="Attribute.EXTRACTABLE: True,",
        noticed_by=(ATTRIBUTES,),
    ),
    Mutation(
        name="a KEK can be read in its token",
        file=TOKENS,
        before="Attribute.SENSITIVE: True,",
        after="Attribute.SENSITIVE: False,",
        noticed_by=(ATTRIBUTES,),
    ),
    Mutation(
        name="whoever opens a token sees its KEKs",
        file=TOKENS,
        before="Attribute.PRIVATE: True,",
        after="Attribute.PRIVATE: False,",
        noticed_by=(ATTRIBUTES,),
    ),
    Mutation(
        name="a KEK may be changed",
        file=TOKENS,
        before="Attribute.MODIFIABLE: False,",
        after="Attribute.MODIFIABLE: True,",
        noticed_by=(ATTRIBUTES,),
    ),
    Mutation(
        name="a KEK takes other keys out of its token",
        file=TOKENS,
        before="Attribute.WRAP: False,",
        after="Attribute.WRAP: True,",
        noticed_by=(ATTRIBUTES,),
    ),
    Mutation(
        name="whatever a kept handle names by now wraps a tenant's keys",
        file=KEKS,
        before="if named == object_id(kek) and len(sealed)",
        after="if named and len(sealed)",
        noticed_by=(f"{FAULT_TESTS}::test_a_kept_handle_that_names_another_kek_by_now_wraps_and_opens_nothing",),
    ),
    Mutation(
        name="whatever a kept handle names by now opens a tenant's keys",
        file=KEKS,
        before="return head + object_id(kek) + aad",
        after="return head + aad",
        noticed_by=(f"{FAULT_TESTS}::test_a_kept_handle_that_names_another_kek_by_now_wraps_and_opens_nothing",),
    ),
    Mutation(
        name="a key that is wrapped in a device is bound to nothing",
        file=KEKS,
        before="return head + object_id(kek) + aad",
        after="return head + object_id(kek) + aad[:0]",
        noticed_by=("tests/contracts/test_key_vault.py::test_a_key_opens_with_its_own_aad_only",),
    ),
    Mutation(
        name="handles outlive the library that gave them",
        file=KEKS,
        before="if known is None or known[0] != epoch:",
        after="if known is None:",
        noticed_by=(
            "tests/unit/keys/pkcs11/test_handles.py::test_handles_are_those_of_the_library_as_it_was_opened_last",
        ),
    ),
    Mutation(
        name="what a token hides does not exist",
        file=KEKS,
        before="if not tokens.find_witness(self._cryptoki, session):",
        after="if not label:",
        noticed_by=(f"{FAULT_TESTS}::test_a_token_that_was_emptied_is_unavailable_and_its_keys_are_not_missing",),
    ),
    Mutation(
        name="a token that hides its keys has none",
        file=KEKS,
        before="if WITNESS not in {identity for identity, _ in named}:",
        after="if session is None:",
        noticed_by=(f"{FAULT_TESTS}::test_a_token_that_was_emptied_is_unavailable_and_its_keys_are_not_missing",),
    ),
    Mutation(
        name="a fault of the device is called an alteration",
        file=KEKS,
        before="                self._prove(session, handle)\n",
        after="                continue\n",
        noticed_by=(f"{FAULT_TESTS}::test_a_fault_of_the_device_is_never_called_an_alteration",),
    ),
    Mutation(
        name="an object of another name is a tenant's KEK",
        file="control_plane/keys/pkcs11/layout.py",
        before="return kek if object_label(kek) == label else None",
        after="return kek",
        noticed_by=("tests/unit/keys/pkcs11/test_layout.py::test_an_object_whose_names_disagree_is_no_kek",),
    ),
    Mutation(
        name="a token of another place in the layout is taken",
        file=TOKENS,
        before="if cryptoki.attributes(session, handle, [Attribute.LABEL]) != [label]:",
        after="if not label:",
        noticed_by=(f"{TOKEN_TESTS}::test_a_devices_tokens_are_used_as_they_are_and_their_order_is_settled",),
    ),
    Mutation(
        name="a tenant's KEKs are looked for in another token",
        file=DEVICE,
        before="if written is not None and place.made_by_us is None and written.tokens != place.tokens:",
        after="if not place:",
        noticed_by=(f"{TOKEN_TESTS}::test_a_devices_tokens_are_used_as_they_are_and_their_order_is_settled",),
    ),
    Mutation(
        name="a lost token is replaced by an empty one",
        file=DEVICE,
        before="if written is not None and written.is_made:",
        after="if written is not None and not written.tokens:",
        noticed_by=(f"{FAULT_TESTS}::test_a_token_that_is_lost_is_not_made_again",),
    ),
    Mutation(
        name="a lost layout is made anew while there are KEKs",
        file=DEVICE,
        before="if written is None and place.made_by_us is not None and softhsm.has_tokens(place.directory):",
        after="if not place:",
        noticed_by=(f"{FAULT_TESTS}::test_a_lost_layout_is_not_guessed_anew",),
    ),
    Mutation(
        name="a PIN that others may read is used",
        file=TOKENS,
        before="return private_file.read(path).strip()",
        after="return path.read_bytes().strip()",
        noticed_by=(f"{FAULT_TESTS}::test_a_pin_that_is_open_to_others_is_not_used",),
    ),
    Mutation(
        name="a refused PIN is shown until the token is locked",
        file=LIBRARY,
        before="if self._refused.get(label) == shown:",
        after="if not shown:",
        noticed_by=(f"{FAULT_TESTS}::test_a_wrong_pin_is_tried_once_and_another_as_soon_as_it_is_there",),
    ),
    Mutation(
        name="a stranger's token of the same name is shown the PIN",
        file=LIBRARY,
        before="if len(slots) > 1:",
        after="if not label:",
        noticed_by=(f"{TOKEN_TESTS}::test_a_second_token_of_a_name_is_not_shown_the_pin",),
    ),
    Mutation(
        name="a fork's child works in its parent's library",
        file=LIBRARY,
        before="if os.getpid() != self._pid:",
        after="if not self._pid:",
        noticed_by=(f"{PROCESS_TESTS}::test_a_fork_at_any_moment_leaves_parent_and_child_a_vault_that_works",),
    ),
    Mutation(
        name="a state directory changes its kind of vault",
        file="control_plane/stack/addresses.py",
        before='if wanted not in {"", kind}:',
        after="if not kind:",
        noticed_by=("tests/integration/stack/test_addresses.py::test_the_kind_of_vault_is_settled_by_the_first_start",),
    ),
    Mutation(
        name="a token that has other keys is given to a tenant for itself",
        file=TOKENS,
        before="if not is_spare(library.cryptoki, session):",
        after="if not session:",
        noticed_by=(f"{OWN_TESTS}::test_a_devices_tokens_are_given_out_one_by_one_and_none_that_has_keys",),
    ),
    Mutation(
        name="two tenants have one token to themselves",
        file=TOKENS,
        before="        if label in whole.labels:\n",
        after="        if not label:\n",
        noticed_by=(f"{OWN_TESTS}::test_a_token_that_is_given_out_is_nobody_elses_before_it_has_a_kek",),
    ),
    Mutation(
        name="a tenant whose keys are among others' is said to have a token to itself",
        file=DEVICE,
        before="if self._keks.is_in_use(tenant_uid):",
        after="if not tenant_uid:",
        noticed_by=(f"{OWN_TESTS}::test_who_has_keks_among_others_gets_no_token_to_itself",),
    ),
    Mutation(
        name="a tenant that is to have a token to itself is among others",
        file=DEVICE,
        before="                if own_token:\n",
        after="                if not kek:\n",
        noticed_by=(
            "tests/contracts/test_key_vault.py::test_a_token_to_oneself_is_had_or_refused_and_never_replaced_by_a_shared_one",
        ),
    ),
    Mutation(
        name="files take the place of a token to oneself",
        file="control_plane/keys/vault_software.py",
        before="        if own_token:\n",
        after="        if not kek:\n",
        noticed_by=(
            "tests/contracts/test_key_vault.py::test_a_token_to_oneself_is_had_or_refused_and_never_replaced_by_a_shared_one",
        ),
    ),
    Mutation(
        name="a tenant that is to have a token to itself is made without",
        file="control_plane/tenants/provisioning.py",
        before="own_token=tenant.settings.hsm_tier == DEDICATED_HSM",
        after="own_token=not tenant",
        noticed_by=("tests/e2e/test_vault_pkcs11.py::test_a_tenant_may_have_a_token_to_itself",),
    ),
)
