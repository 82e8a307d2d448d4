"""What must not be lost, or left behind, when everything is sealed anew; and what proves that all keys are gone."""

from typing import Final

from tests.leaks.model import Mutation

SEALING: Final = "control_plane/keyring/rotations/sealing.py"
RESEALING: Final = "control_plane/keyring/rotations/resealing.py"
DESTRUCTION: Final = "control_plane/keyring/destruction.py"
MODEL: Final = "control_plane/keyring/model.py"
STORE: Final = "control_plane/keyring/store.py"
SERVICE: Final = "control_plane/keyring/service.py"
OBJECTS: Final = "control_plane/objects/store.py"
OBJECT_SEAL: Final = "control_plane/keys/sealing/objects.py"
KEYS: Final = "control_plane/keys/opened/opening.py"
SECRETS: Final = "control_plane/secrets/service.py"
SECRETS_STORE: Final = "control_plane/secrets/store.py"
OPERATIONS: Final = "control_plane/operations/store.py"
TESTS: Final = "tests/integration/keyring/test_resealing.py"
MEANWHILE: Final = "tests/integration/keyring/test_resealing_meanwhile.py"
VERSION_TESTS: Final = "tests/integration/keyring/test_versions.py"
MODEL_TESTS: Final = "tests/unit/keyring/test_keyring_model.py"
SHREDDING: Final = "tests/integration/keyring/test_shredding.py"

WALLS: Final = (
    Mutation(
        name="a version is retired while other processes seal with it",
        file=SEALING,
        before="        if not await self._is_settled(placement, version):\n",
        after="        if not version:\n",
        noticed_by=(f"{TESTS}::test_a_version_is_retired_only_when_no_process_seals_with_it_any_more",),
    ),
    Mutation(
        name="a version is retired without a last look",
        file=SEALING,
        before="        if so_far.look == 1:\n",
        after="        if not so_far.look:\n",
        noticed_by=(f"{TESTS}::test_what_came_after_the_first_look_is_found_before_a_version_is_retired",),
    ),
    Mutation(
        name="a version is retired without a last look at the rows",
        file=SEALING,
        before="        await self._reseal_rows(operation)\n",
        after="",
        noticed_by=(f"{TESTS}::test_what_came_after_the_first_look_is_found_before_a_version_is_retired",),
    ),
    Mutation(
        name="a version is retired that an object cannot do without",
        file=STORE,
        before="           AND version < %(version)s AND version <> ALL (%(kept)s::integer[])\n",
        after="           AND version < %(version)s AND array_length(%(kept)s::integer[], 1) IS DISTINCT FROM -1\n",
        noticed_by=(f"{TESTS}::test_what_a_bucket_cannot_replace_keeps_its_version_enabled_and_is_told",),
    ),
    Mutation(
        name="a version of every tenant's is retired",
        file=STORE,
        before="tenant_uid = %(tenant_uid)s AND purpose = %(purpose)s AND state = 'ENABLED'\n"
        "           AND version < %(version)s",
        after="purpose = %(purpose)s AND state = 'ENABLED'\n           AND version < %(version)s",
        noticed_by=(f"{TESTS}::test_all_that_older_versions_sealed_is_sealed_by_the_new_one_and_they_are_retired",),
    ),
    Mutation(
        name="a retired version is used by a process that has it open",
        file=KEYS,
        before="                if key in self._open:\n",
        after="                if key is self._open:\n",
        noticed_by=(
            f"{TESTS}::test_what_a_retired_version_sealed_fails_with_its_name_in_every_process_until_it_is_enabled",
        ),
    ),
    Mutation(
        name="an upload is stored whose key was retired meanwhile",
        file=OBJECT_SEAL,
        before="            await self.key(key.version)\n",
        after="            await self.key(None)\n",
        noticed_by=(f"{MEANWHILE}::test_an_upload_that_outlasts_its_key_is_refused_and_what_was_there_stays",),
    ),
    Mutation(
        name="an object that was written late is left to a version that ends",
        file=OBJECTS,
        before="        if storage_version(start) < await self._keys.storage_version(self._placement):\n",
        after="        if storage_version(start) < 0:\n",
        noticed_by=(f"{MEANWHILE}::test_who_has_written_with_the_old_version_after_all_looks_seals_it_anew",),
    ),
    Mutation(
        name="a secret that was kept late is left to a version that ends",
        file=SECRETS,
        before="        if storage_version(sealed) < newest:\n",
        after="        if storage_version(sealed) < 0:\n",
        noticed_by=(f"{MEANWHILE}::test_a_secret_that_was_kept_with_the_old_version_after_all_looks_is_sealed_anew",),
    ),
    Mutation(
        name="a value that was destroyed comes back sealed anew",
        file=SECRETS_STORE,
        before=" AND number = %(number)s AND sealed = %(before)s",
        after=" AND number = %(number)s AND length(%(before)s) > 0 AND state <> ''",
        noticed_by=(f"{MEANWHILE}::test_a_value_that_is_destroyed_while_it_is_sealed_anew_stays_destroyed",),
    ),
    Mutation(
        name="a rotation that is interrupted begins at the beginning",
        file=RESEALING,
        before="own.list(after=so_far.after)",
        after="own.list()",
        noticed_by=(f"{TESTS}::test_a_rotation_works_in_parts_shows_how_far_it_is_and_goes_on_where_it_was",),
    ),
    Mutation(
        name="the parts of a step count as attempts that failed",
        file=OPERATIONS,
        before="SET attempts = greatest(attempts - 1, 0)",
        after="SET attempts = greatest(attempts, 0)",
        noticed_by=(f"{TESTS}::test_a_part_that_fails_for_a_while_is_taken_again_as_often_as_others",),
    ),
    Mutation(
        name="two rotations of one key reseal at once",
        file=STORE,
        before="           AND (r.end_time IS NULL OR (r.key = %(key)s AND o.state = 'RUNNING'))\n",
        after="           AND (r.end_time IS NULL OR (r.key = %(key)s AND o.state = ''))\n",
        noticed_by=(f"{TESTS}::test_other_keys_are_rotated_while_objects_are_sealed_anew_and_the_same_one_is_not",),
    ),
    Mutation(
        name="what seals is retired",
        file=MODEL,
        before="        if version.version >= self.primary.version and state is VersionState.RETIRED:\n",
        after="        if version.version >= self.primary.version and state is VersionState.DESTROYED:\n",
        noticed_by=(f"{MODEL_TESTS}::test_by_hand_only_that_is_retired_which_others_know_to_be_needed_no_more",),
    ),
    Mutation(
        name="any version is retired by hand",
        file=MODEL,
        before="        if self.id not in _CHANGED_BY_HAND[state]:\n",
        after="        if not _CHANGED_BY_HAND[state]:\n",
        noticed_by=(f"{MODEL_TESTS}::test_by_hand_only_that_is_retired_which_others_know_to_be_needed_no_more",),
    ),
    Mutation(
        name="a version of another tenant's is changed",
        file=STORE,
        before="         WHERE tenant_uid = %(tenant_uid)s AND purpose = %(purpose)s AND version = %(version)s\n"
        '        """,\n        {"tenant_uid": tenant_uid, "purpose": purpose.value, "version": version, "state"',
        after="         WHERE purpose = %(purpose)s AND version = %(version)s\n"
        '        """,\n        {"tenant_uid": tenant_uid, "purpose": purpose.value, "version": version, "state"',
        noticed_by=(
            f"{VERSION_TESTS}::test_a_version_that_is_retired_opens_nothing_in_any_process_until_it_is_enabled",
        ),
    ),
    Mutation(
        name="a version is changed on any etag",
        file=SERVICE,
        before="        key.check_etag(change.etag)\n",
        after="",
        noticed_by=(f"{VERSION_TESTS}::test_a_key_that_was_changed_since_it_was_read_is_left_as_it_is",),
    ),
    Mutation(
        name="the keys of a tenant in use are destroyed",
        file=DESTRUCTION,
        before="        await self._system.run(lambda tx: destructions.check_sealed(tx, uid))\n",
        after="",
        noticed_by=(f"{SHREDDING}::test_a_tenant_that_is_not_sealed_keeps_its_keys",),
    ),
    Mutation(
        name="a receipt is given for a tenant whose keys open",
        file=DESTRUCTION,
        before='        opened += [f"its {key.key_id} key {key.version}" for key in stored if '
        "not await self._wrapping.is_lost(key)]\n",
        after="",
        noticed_by=(f"{SHREDDING}::test_there_is_no_receipt_while_a_key_opens_though_no_sample_does",),
    ),
    Mutation(
        name="a receipt is given for a tenant that has a KEK",
        file=DESTRUCTION,
        before="        opened += [kek.title for kek in await self._wrapping.keks_of(tenant_uid)]\n",
        after="",
        noticed_by=(f"{SHREDDING}::test_there_is_no_receipt_while_a_kek_has_come_meanwhile",),
    ),
    Mutation(
        name="all tenants' KEKs are destroyed with one's",
        file="control_plane/keys/wrapping.py",
        before="        return [kek for kek in await self._vault.keks() if kek.tenant_uid == tenant_uid]\n",
        after="        return [kek for kek in await self._vault.keks() if kek.tenant_uid or tenant_uid]\n",
        noticed_by=(f"{SHREDDING}::test_all_keks_of_a_tenant_go_and_the_receipt_lists_every_key_that_went",),
    ),
)
