"""Whose key opens what, and what sealed data is bound to."""

from typing import Final

from tests.leaks.model import Mutation

MODEL: Final = "control_plane/keys/model.py"
SERVICE: Final = "control_plane/keys/service.py"
STORE: Final = "control_plane/keys/store.py"
VAULT: Final = "control_plane/keys/vault_software.py"
CACHE: Final = "control_plane/keys/opened/cache.py"
MATERIAL: Final = "control_plane/keys/material.py"
SEALING: Final = "control_plane/keys/sealing/objects.py"
SEGMENTS: Final = "control_plane/keys/sealing/segments.py"
SEALING_TESTS: Final = "tests/unit/keys/test_sealing.py"
SEGMENT_TESTS: Final = "tests/unit/keys/test_segments.py"
MODEL_TESTS: Final = "tests/unit/keys/test_model.py"
STORE_TESTS: Final = "tests/unit/keys/test_store.py"
VAULT_TESTS: Final = "tests/unit/keys/test_vault_software.py"
CACHE_TESTS: Final = "tests/unit/keys/test_cache.py"
MATERIAL_TESTS: Final = "tests/unit/keys/test_material.py"
TENANT_KEYS: Final = "tests/integration/keys/test_tenant_keys.py"
ENCRYPTION: Final = "control_plane/encryption/service.py"
ENCRYPTION_TESTS: Final = "tests/integration/encryption/test_encryption.py"
ALGORITHMS: Final = "control_plane/keys/algorithms.py"
SIGNING_REQUEST: Final = "control_plane/certificates/signing_request.py"
REQUESTS: Final = "tests/unit/certificates/test_signing_request.py"

WALLS: Final = (
    Mutation(
        name="nothing is authenticated beside the ciphertext",
        file=MODEL,
        before='return label + b"".join(',
        after='return label or b"".join(',
        noticed_by=(f"{MODEL_TESTS}::test_an_envelope_opens_for_what_it_is_bound_to_only",),
    ),
    Mutation(
        name="sealed data is bound to no tenant",
        file=MODEL,
        before="            self.tenant_uid.bytes,\n",
        after="",
        noticed_by=(f"{MODEL_TESTS}::test_an_envelope_opens_for_what_it_is_bound_to_only",),
    ),
    Mutation(
        name="sealed data is bound to no purpose",
        file=MODEL,
        before="            self.purpose.encode(),\n",
        after="",
        noticed_by=(f"{MODEL_TESTS}::test_an_envelope_opens_for_what_it_is_bound_to_only",),
    ),
    Mutation(
        name="sealed data is bound to no version of its key",
        file=MODEL,
        before='            self.version.to_bytes(8, "big"),\n',
        after="",
        noticed_by=(f"{MODEL_TESTS}::test_an_envelope_opens_for_what_it_is_bound_to_only",),
    ),
    Mutation(
        name="sealed data is bound to no object",
        file=MODEL,
        before="            self.object_name.encode(),\n",
        after="",
        noticed_by=(f"{MODEL_TESTS}::test_an_envelope_opens_for_what_it_is_bound_to_only",),
    ),
    Mutation(
        name="an envelope of any format is opened",
        file=MODEL,
        before="if (magic, layout, algorithm) != (_MAGIC, _FORMAT, _AES_256_GCM):",
        after="if not magic:",
        noticed_by=(
            f"{MODEL_TESTS}::test_a_format_or_an_algorithm_that_is_not_known_is_refused_before_any_key_is_asked_for",
        ),
    ),
    Mutation(
        name="the parts of a binding run together",
        file=MODEL,
        before='len(part).to_bytes(8, "big") + part for part',
        after="part for part",
        noticed_by=(f"{MODEL_TESTS}::test_an_envelope_of_the_first_release_still_opens",),
    ),
    Mutation(
        name="an object opens at any path",
        file=SEALING,
        before="            object_name=self.object_name,\n            object_version=object_version,\n",
        after='            object_name="",\n            object_version=object_version,\n',
        noticed_by=(
            f"{SEALING_TESTS}::test_an_object_opens_for_its_tenant_name_and_version_only_and_a_refusal_is_an_event",
        ),
    ),
    Mutation(
        name="an object opens in another version's place",
        file=SEALING,
        before="            object_version=object_version,\n",
        after="            object_version=None,\n",
        noticed_by=(
            f"{SEALING_TESTS}::test_an_object_opens_for_its_tenant_name_and_version_only_and_a_refusal_is_an_event",
        ),
    ),
    Mutation(
        name="an object in the old format opens as any version",
        file=SEALING,
        before="        if self.object_version != FIRST_OBJECT_VERSION:\n",
        after="        if not self.object_version:\n",
        noticed_by=(f"{SEALING_TESTS}::test_what_was_stored_in_format_1_is_no_other_version",),
    ),
    Mutation(
        name="an object opens for any tenant that has its key",
        file=SEALING,
        before="            tenant_uid=self.tenant_uid,\n            purpose",
        after="            tenant_uid=UUID(int=0),\n            purpose",
        noticed_by=(
            f"{SEALING_TESTS}::test_an_object_opens_for_its_tenant_name_and_version_only_and_a_refusal_is_an_event",
        ),
    ),
    Mutation(
        name="an envelope opens under several keys",
        file=SEGMENTS,
        before="        if not hmac.compare_digest(commitment, header[_START.size + SALT_BYTES :]):\n",
        after="        if not commitment:\n",
        noticed_by=(f"{SEGMENT_TESTS}::test_a_wrong_header_is_refused_before_anything_is_opened",),
    ),
    Mutation(
        name="an object that was cut opens",
        file=SEGMENTS,
        before="    return _NONCE.pack(number, last)\n",
        after="    return _NONCE.pack(number, False)\n",
        noticed_by=(f"{SEGMENT_TESTS}::test_an_envelope_has_the_documented_form",),
    ),
    Mutation(
        name="segments open in any order",
        file=SEGMENTS,
        before="    return _NONCE.pack(number, last)\n",
        after="    return _NONCE.pack(0, last)\n",
        noticed_by=(f"{SEGMENT_TESTS}::test_an_envelope_has_the_documented_form",),
    ),
    Mutation(
        name="destroying a tenant's keys destroys all tenants'",
        file=SERVICE,
        before="            if kek.tenant_uid == placement.uid:\n",
        after="            if kek.tenant_uid:\n",
        noticed_by=(f"{TENANT_KEYS}::test_destroyed_keys_are_gone_from_database_vault_and_memory",),
    ),
    Mutation(
        name="destroyed keys stay in memory",
        file=SERVICE,
        before="                await self._vault.destroy_kek(kek)\n        self.forget(placement.uid)\n",
        after="                await self._vault.destroy_kek(kek)\n",
        noticed_by=(f"{TENANT_KEYS}::test_destroyed_keys_are_gone_from_database_vault_and_memory",),
    ),
    Mutation(
        name="a KEK stays when its tenant's keys are destroyed",
        file=SERVICE,
        before="                await self._vault.destroy_kek(kek)\n",
        after="                continue\n",
        noticed_by=(f"{TENANT_KEYS}::test_destroyed_keys_are_gone_from_database_vault_and_memory",),
    ),
    Mutation(
        name="whatever is derived of a tenant's key is the same",
        file=SERVICE,
        before="return hmac.digest(key.material.private, label, hashlib.sha256)",
        after="return hmac.digest(key.material.private, _LOGIN_LABEL, hashlib.sha256)",
        noticed_by=(f"{TENANT_KEYS}::test_the_keys_of_two_tenants_have_nothing_in_common",),
    ),
    Mutation(
        name="a tenant is given another's keys",
        file=STORE,
        before="WHERE tenant_uid = %(tenant_uid)s AND key_id = %(key_id)s AND state = 'ENABLED'",
        after="WHERE key_id = %(key_id)s AND state = 'ENABLED'",
        noticed_by=(f"{TENANT_KEYS}::test_the_keys_of_two_tenants_have_nothing_in_common",),
    ),
    Mutation(
        name="a tenant's keys are deleted with another's",
        file=STORE,
        before='"DELETE FROM csm_system.tenant_keys WHERE tenant_uid = %(tenant_uid)s"',
        after='"DELETE FROM csm_system.tenant_keys"',
        noticed_by=(f"{TENANT_KEYS}::test_destroyed_keys_are_gone_from_database_vault_and_memory",),
    ),
    Mutation(
        name="any key of a tenant verifies tokens",
        file=STORE,
        before="WHERE id = %(kid)s AND purpose = %(purpose)s AND state",
        after="WHERE id = %(kid)s AND state",
        noticed_by=(f"{TENANT_KEYS}::test_no_other_id_finds_a_token_key",),
    ),
    Mutation(
        name="a wrapped key opens in another tenant's row",
        file=STORE,
        before="        return Binding(\n            tenant_uid=self.tenant_uid,\n",
        after="        return Binding(\n            tenant_uid=UUID(int=0),\n",
        noticed_by=(f"{STORE_TESTS}::test_a_wrapped_key_is_bound_to_each_column_that_says_what_it_is",),
    ),
    Mutation(
        name="a wrapped key opens for another purpose",
        file=STORE,
        before='purpose=f"key/{self.purpose}/{self.algorithm}"',
        after='purpose="key"',
        noticed_by=(f"{STORE_TESTS}::test_a_wrapped_key_is_bound_to_each_column_that_says_what_it_is",),
    ),
    Mutation(
        name="a wrapped key opens in any row",
        file=STORE,
        before="            object_name=str(self.id),\n",
        after='            object_name="key",\n',
        noticed_by=(f"{STORE_TESTS}::test_a_wrapped_key_is_bound_to_each_column_that_says_what_it_is",),
    ),
    Mutation(
        name="a KEK opens under another tenant's name",
        file=VAULT,
        before='Binding(tenant_uid=kek.tenant_uid, purpose="kek"',
        after='Binding(tenant_uid=UUID(int=0), purpose="kek"',
        noticed_by=(f"{VAULT_TESTS}::test_a_kek_moved_to_another_name_does_not_open",),
    ),
    Mutation(
        name="others may replace the vault's keys",
        file="control_plane/keys/vault.py",
        before="if directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):",
        after="if not directory:",
        noticed_by=(f"{VAULT_TESTS}::test_a_vault_that_others_may_write_to_is_refused_with_what_to_do",),
    ),
    Mutation(
        name="a lost root is replaced while there are KEKs",
        file=VAULT,
        before="    if not has_keks:\n",
        after="    if True:\n",
        noticed_by=(f"{VAULT_TESTS}::test_a_lost_root_is_never_replaced_while_there_are_keks",),
    ),
    Mutation(
        name="a key that is fetched while it is forgotten is kept",
        file=CACHE,
        before="        if since != self._epoch:\n            return\n",
        after="",
        noticed_by=(f"{CACHE_TESTS}::test_a_key_that_was_being_fetched_while_it_was_forgotten_is_not_kept",),
    ),
    Mutation(
        name="an opened key is kept for ever",
        file=CACHE,
        before="if kept.until_s <= self._clock():",
        after="if kept is None:",
        noticed_by=(f"{CACHE_TESTS}::test_a_key_is_kept_for_its_lifetime_and_no_longer_however_much_it_is_used",),
    ),
    Mutation(
        name="a public half is another key's",
        file=MATERIAL,
        before="    if private.public_key().public_bytes_raw() != material.public:\n",
        after="    if not private:\n",
        noticed_by=(f"{MATERIAL_TESTS}::test_a_public_half_that_is_not_the_keys_own_is_refused",),
    ),
    Mutation(
        name="what a tenant wants of its certificates is not asked",
        file=SIGNING_REQUEST,
        before=" or list(_policy_violations(key, policy))",
        after="",
        noticed_by=(f"{REQUESTS}::test_what_is_not_post_quantum_is_refused_where_that_is_required",),
    ),
    Mutation(
        name="what has no name passes for post-quantum",
        file=ALGORITHMS,
        before="        if required if algorithm is None else not self._is_of_its_kind(algorithm):\n",
        after="        if algorithm is not None and not self._is_of_its_kind(algorithm):\n",
        noticed_by=(
            f"{REQUESTS}::test_a_size_without_a_name_is_the_profiles_affair_unless_the_tenant_names_what_it_wants",
        ),
    ),
    Mutation(
        name="post-quantum certificates come from an authority that is none",
        file=ALGORITHMS,
        before="        if self.post_quantum is PostQuantum.REQUIRED and not self.authority.is_post_quantum:\n",
        after="        if not self.post_quantum:\n",
        noticed_by=("tests/unit/keys/test_algorithms.py::test_a_contradiction_is_told_by_its_field",),
    ),
    Mutation(
        name="what a service sealed is bound to no context",
        file="control_plane/encryption/model.py",
        before="object_name=self.binding).aad()",
        after='object_name="").aad()',
        noticed_by=(f"{ENCRYPTION_TESTS}::test_it_opens_with_its_own_context_only",),
    ),
    Mutation(
        name="a key is used and nobody is told",
        file="control_plane/encryption/uses.py",
        before="            tx.record(Effect(resource=resource",
        after="            tx.unchanged() or repr(Effect(resource=resource",
        noticed_by=(f"{ENCRYPTION_TESTS}::test_what_was_sealed_opens_and_each_use_is_told",),
    ),
    Mutation(
        name="what is opened goes out before it is told",
        file=ENCRYPTION,
        before="        await self._record(handle, purpose, opened.version, use=use)\n",
        after="",
        noticed_by=(f"{ENCRYPTION_TESTS}::test_without_its_entry_nothing_goes_out",),
    ),
)
