"""Keys that tenants make themselves: who uses them, when they are not used, how they come in, and how they end."""

from typing import Final

from tests.leaks.model import Mutation

MODEL: Final = "control_plane/keys/named/model.py"
MATERIAL: Final = "control_plane/keys/named/material.py"
IMPORTS: Final = "control_plane/keys/named/imports.py"
STORE: Final = "control_plane/keys/named/store.py"
KEYS_STORE: Final = "control_plane/keys/store.py"
POOL: Final = "control_plane/keys/named/rsa_pool.py"
USES: Final = "control_plane/encryption/uses.py"
SEALING: Final = "control_plane/encryption/service.py"
SEALING_MODEL: Final = "control_plane/encryption/model.py"
SIGNING: Final = "control_plane/signing/service.py"
MAKING: Final = "control_plane/keyring/named_keys.py"
ROTATION: Final = "control_plane/keyring/rotations/named.py"
DISPOSAL: Final = "control_plane/keyring/disposal.py"
IMPORT: Final = "control_plane/keyring/imports.py"
KEYRING_STORE: Final = "control_plane/keyring/store.py"
KEYRING_MODEL: Final = "control_plane/keyring/model.py"
DESTRUCTION: Final = "control_plane/keyring/destruction.py"
SERVICE: Final = "control_plane/keyring/service.py"
RECORDER: Final = "control_plane/audit/recorder.py"
PROTO: Final = "proto/bulkhead/v1/signing.proto"
BOUNDS: Final = "tests/architecture/test_rule_bounds.py"
MODEL_TESTS: Final = "tests/unit/keys/test_named_model.py"
MATERIAL_TESTS: Final = "tests/unit/keys/test_named_material.py"
BINDING_TESTS: Final = "tests/unit/keys/test_named_imports.py"
POOL_TESTS: Final = "tests/unit/keys/test_rsa_pool.py"
NAME_TESTS: Final = "tests/unit/encryption/test_named_keys.py"
NAMED: Final = "tests/integration/keyring/test_named_keys.py"
ENDS: Final = "tests/integration/keyring/test_disposal.py"
BROUGHT: Final = "tests/integration/keyring/test_key_imports.py"
SEALED: Final = "tests/integration/encryption/test_named_keys.py"
SIGNED: Final = "tests/integration/signing/test_signing.py"

WALLS: Final = (
    Mutation(
        name="the platform's administrators sign with tenants' keys",
        file=PROTO,
        before=':sign"\n      body: "*"\n    };\n    option (rule) = {\n      tenant: "name"\n      roles: [\n',
        after=':sign"\n      body: "*"\n    };\n    option (rule) = {\n      tenant: "name"\n      roles: [\n'
        "        ROLE_PLATFORM_ADMIN,\n",
        noticed_by=(f"{BOUNDS}::test_a_rule_lets_in_nobody_whom_none_may",),
    ),
    Mutation(
        name="a key is sealed with that waits for its destruction",
        file=SEALING,
        before=(
            "        await self._uses.authorise(use, handle)\n"
            "        sealed = await self._sealed(plaintext, purpose, handle, use=use)\n"
        ),
        after="        sealed = await self._sealed(plaintext, purpose, handle, use=use)\n",
        noticed_by=(f"{SEALED}::test_while_its_destruction_waits_and_after_it_nothing_is_sealed_or_opened",),
    ),
    Mutation(
        name="a key is used that waits for its destruction",
        file=USES,
        before="        named.check_enabled(name)\n        return named\n",
        after="        return named\n",
        noticed_by=(f"{SIGNED}::test_while_its_destruction_waits_each_use_is_refused_and_raises_an_alert",),
    ),
    Mutation(
        name="a key is used that waits, and nobody is told",
        file=USES,
        before="            await _raise_alert(use, named, handle=handle)\n",
        after="            named.check_enabled(name)\n",
        noticed_by=(f"{SIGNED}::test_while_its_destruction_waits_each_use_is_refused_and_raises_an_alert",),
    ),
    Mutation(
        name="a refused use stands in the log as an effect",
        file=RECORDER,
        before="outcome=Outcome.DENIED if effect.refusal else Outcome.EFFECT,",
        after="outcome=Outcome.EFFECT,",
        noticed_by=(f"{SIGNED}::test_while_its_destruction_waits_each_use_is_refused_and_raises_an_alert",),
    ),
    Mutation(
        name="a key is used for something else",
        file=USES,
        before="        if named.kind.purpose is not _purpose(use.operation):\n",
        after="        if not named.kind.purpose:\n",
        noticed_by=(f"{SIGNED}::test_a_key_for_something_else_signs_nothing[invoices]",),
    ),
    Mutation(
        name="a built-in key is used like a tenant's own",
        file=USES,
        before="        if named is None:\n            raise _other_purpose(name, use) if use.key in BUILT_IN_IDS else",
        after="        if named is None:\n            raise",
        noticed_by=(f"{SIGNED}::test_a_key_for_something_else_signs_nothing[tokens]",),
    ),
    Mutation(
        name="what a key sealed is bound to no key",
        file=SEALING_MODEL,
        before='purpose = SERVICES if key_id == SERVICES else f"encryption/{key_id}"',
        after="purpose = SERVICES",
        noticed_by=(f"{NAME_TESTS}::test_what_is_sealed_is_bound_to_the_name_of_its_key",),
    ),
    Mutation(
        name="a key of another tenant's is named",
        file=SEALING_MODEL,
        before='if parent != tenant_name or not key_id or "/" in key_id:',
        after='if not parent or not key_id or "/" in key_id:',
        noticed_by=(f"{NAME_TESTS}::test_what_is_none_of_the_tenants_is_refused",),
    ),
    Mutation(
        name="a signature goes out without its entry",
        file=SIGNING,
        before="        await self._record(handle, asked, key.version, details={})\n",
        after="",
        noticed_by=(f"{SIGNED}::test_without_its_entry_no_signature_goes_out",),
    ),
    Mutation(
        name="a tenant's own key opens under another name",
        file=KEYS_STORE,
        before='(f"/{self.named}" if self.named else "")',
        after='("" if self.named else "")',
        noticed_by=(f"{NAMED}::test_a_wrapped_key_does_not_open_under_another_name",),
    ),
    Mutation(
        name="a tenant meets another's own key of the same name",
        file=STORE,
        before="FROM csm_system.named_keys WHERE tenant_uid = %(tenant_uid)s AND key_id = %(key_id)s\n",
        after="FROM csm_system.named_keys WHERE key_id = %(key_id)s\n",
        noticed_by=(f"{ENDS}::test_a_neighbours_keys_stay",),
    ),
    Mutation(
        name="a tenant announces the end of all keys of that name",
        file=STORE,
        before="destroy_time = %(destroy_time)s\n         WHERE tenant_uid = %(tenant_uid)s AND key_id",
        after="destroy_time = %(destroy_time)s\n         WHERE key_id",
        noticed_by=(f"{ENDS}::test_a_neighbours_keys_stay",),
    ),
    Mutation(
        name="a key ends with all keys of that name",
        file=STORE,
        before="DELETE FROM csm_system.tenant_keys\n           WHERE tenant_uid = %(tenant_uid)s AND key_id",
        after="DELETE FROM csm_system.tenant_keys\n           WHERE key_id",
        noticed_by=(f"{ENDS}::test_a_neighbours_keys_stay",),
    ),
    Mutation(
        name="a key is made that its tenant has ruled out",
        file=MAKING,
        before="    creation.kind.check_policy(policy, name=creation.name)\n",
        after="    del policy\n",
        noticed_by=(f"{NAMED}::test_what_the_tenant_rules_out_is_refused_and_not_made",),
    ),
    Mutation(
        name="a key gets another version that its tenant has ruled out",
        file=SERVICE,
        before="        key.named.kind.check_policy(policy, name=key.name)\n",
        after="        del policy\n",
        noticed_by=(f"{NAMED}::test_a_policy_that_has_changed_is_asked_again_before_a_rotation",),
    ),
    Mutation(
        name="a tenant makes as many keys as it likes",
        file=MAKING,
        before="    if await named_store.count(tx, placement.uid) >= MOST_KEYS:\n",
        after="    if await named_store.count(tx, placement.uid) < 0:\n",
        noticed_by=(f"{NAMED}::test_a_tenant_has_so_many_keys_and_a_check_makes_none",),
    ),
    Mutation(
        name="a tenant's own key is called like a built-in one",
        file=MODEL,
        before="    if key_id in BUILT_IN_IDS:\n        violations",
        after="    if not key_id:\n        violations",
        noticed_by=(f"{MODEL_TESTS}::test_a_bad_name_is_refused",),
    ),
    Mutation(
        name="of a sealed tenant keys are made",
        file=MAKING,
        before="    await keys_store.check_unsealed(tx, placement.uid)\n",
        after="",
        noticed_by=(f"{NAMED}::test_of_a_sealed_tenant_no_key_is_made",),
    ),
    Mutation(
        name="a key that every tenant needs is destroyed",
        file=MODEL,
        before="    if key_id in BUILT_IN_IDS:\n        text",
        after="    if not key_id:\n        text",
        noticed_by=(f"{MODEL_TESTS}::test_what_every_tenant_has_says_what_it_is_needed_for",),
    ),
    Mutation(
        name="a key is destroyed at once",
        file=MODEL,
        before="self.destroy_time is not None and self.destroy_time <= now",
        after="self.destroy_time is not None and now is not None",
        noticed_by=(f"{MODEL_TESTS}::test_it_is_due_when_the_time_has_come_and_not_before",),
    ),
    Mutation(
        name="a key is destroyed that was restored",
        file=DISPOSAL,
        before="                if key is None or not key.is_due(now):\n",
        after="                if key is None:\n",
        noticed_by=(f"{ENDS}::test_a_restoration_that_is_faster_than_the_end_keeps_the_key",),
    ),
    Mutation(
        name="a tenant that is broken keeps others' keys alive",
        file=DISPOSAL,
        before="        except Exception:  # noqa: BLE001",
        after="        except ZeroDivisionError:  # noqa: BLE001",
        noticed_by=(f"{ENDS}::test_a_tenant_that_is_broken_keeps_nobody_elses_key_alive",),
    ),
    Mutation(
        name="the keys of a sealed tenant are destroyed",
        file=KEYRING_STORE,
        before="k.destroy_time <= %(now)s AND t.state NOT IN ('SEALED', 'PROVISIONING')",
        after="k.destroy_time <= %(now)s",
        noticed_by=(f"{ENDS}::test_the_keys_of_a_sealed_tenant_are_not_even_looked_for",),
    ),
    Mutation(
        name="a key that is destroyed gets another version",
        file=ROTATION,
        before="            await self._held(tx, operation)\n",
        after="",
        noticed_by=(f"{ENDS}::test_a_key_that_ends_while_a_version_of_it_is_made_gets_none",),
    ),
    Mutation(
        name="of a destroyed key a backup still opens",
        file=DISPOSAL,
        before="            await self._for_one(tenant_id, uid, self._rotate)\n",
        after="            del tenant_id, uid\n",
        noticed_by=(
            f"{ENDS}::test_a_key_that_is_due_goes_from_database_and_backups_and_the_receipt_of_its_kek_lists_it",
        ),
    ),
    Mutation(
        name="a receipt does not say what went with its KEK",
        file=DESTRUCTION,
        before="            with_it=with_it,\n",
        after="",
        noticed_by=(
            f"{ENDS}::test_a_key_that_is_due_goes_from_database_and_backups_and_the_receipt_of_its_kek_lists_it",
        ),
    ),
    Mutation(
        name="a receipt says that what went with another KEK went with its own",
        file="control_plane/keyring/destructions.py",
        before="if each.kek_version == version]",
        after="if each.kek_version]",
        noticed_by=(f"{ENDS}::test_each_receipt_lists_what_went_with_its_own_kek",),
    ),
    Mutation(
        name="what was wrapped for one import comes in by another",
        file=IMPORTS,
        before="return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, aead).decrypt(wrapped, key, info=info)",
        after="return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, aead).decrypt(wrapped, key, info=info[:0])",
        noticed_by=(f"{BINDING_TESTS}::test_a_wrapped_key_is_bound_to_each_part_of_its_import",),
    ),
    Mutation(
        name="an import takes in several keys",
        file=IMPORTS,
        before="        if self.wrapped_sha256 is not None:\n",
        after="        if not name:\n",
        noticed_by=(f"{BINDING_TESTS}::test_an_import_takes_something_in_once_and_in_time",),
    ),
    Mutation(
        name="an import is open for ever",
        file=IMPORTS,
        before="        if self.expire_time <= now:\n",
        after="        if self.expire_time is now:\n",
        noticed_by=(f"{BINDING_TESTS}::test_an_import_takes_something_in_once_and_in_time",),
    ),
    Mutation(
        name="what a key was brought along under stays",
        file=STORE,
        before='"DELETE FROM csm_system.tenant_keys WHERE tenant_uid = %(tenant_uid)s AND key_id = %(key_id)s"',
        after='"SELECT FROM csm_system.tenant_keys WHERE tenant_uid = %(tenant_uid)s AND key_id = %(key_id)s"',
        noticed_by=(f"{BROUGHT}::test_a_key_comes_in_as_it_was_by_each_method",),
    ),
    Mutation(
        name="a key comes in under what is not post-quantum, where that is required",
        file=IMPORT,
        before="    if requires_post_quantum(policy) and not wanted.method.is_post_quantum:\n",
        after="    if requires_post_quantum(policy) and not wanted.method:\n",
        noticed_by=(
            f"{BROUGHT}::test_where_post_quantum_is_required_nothing_weaker_wraps_and_nothing_weaker_comes_in",
        ),
    ),
    Mutation(
        name="an import of another tenant's is used",
        file=STORE,
        before="FROM csm_system.key_imports WHERE tenant_uid = %(tenant_uid)s AND id = %(id)s FOR UPDATE",
        after="FROM csm_system.key_imports WHERE id = %(id)s FOR UPDATE",
        noticed_by=(f"{BROUGHT}::test_what_was_wrapped_for_one_import_comes_in_by_no_other",),
    ),
    Mutation(
        name="a key that we have made gets a version from elsewhere",
        file=IMPORT,
        before="if known.origin is not Origin.IMPORTED or known.kind != kind:",
        after="if known.kind != kind:",
        noticed_by=(f"{BROUGHT}::test_the_next_version_is_brought_along_too_and_is_not_made_here",),
    ),
    Mutation(
        name="short RSA keys come in",
        file=MATERIAL,
        before="        if key.key_size < _LEAST_RSA_BITS:\n",
        after="        if key.key_size < 0:\n",
        noticed_by=(f"{MATERIAL_TESTS}::test_a_weak_or_wrong_key_is_refused_with_everything_that_is_wrong",),
    ),
    Mutation(
        name="RSA keys with any exponent come in",
        file=MATERIAL,
        before="        if key.public_key().public_numbers().e != _EXPONENT:\n",
        after="        if key.public_key().public_numbers().e < 0:\n",
        noticed_by=(f"{MATERIAL_TESTS}::test_a_weak_or_wrong_key_is_refused_with_everything_that_is_wrong",),
    ),
    Mutation(
        name="a key comes in as another algorithm's",
        file=MATERIAL,
        before="    if algorithm_of(key.public_key()) is not kind.signs_with:\n",
        after="    if not kind.signs_with:\n",
        noticed_by=(f"{MATERIAL_TESTS}::test_a_key_of_another_algorithm_than_announced_is_refused",),
    ),
    Mutation(
        name="one RSA key is given to two",
        file=POOL,
        before="                return keys.popleft()\n",
        after="                return keys[0]\n",
        noticed_by=(f"{POOL_TESTS}::test_no_key_is_given_to_two",),
        may_hang=True,
    ),
)
