"""What shows that a log was replaced by another: its checkpoints, and the keys that sign them."""

from typing import Final

from tests.leaks.model import Mutation

PROOF: Final = "control_plane/proofs/audit_log.py"
SERVICE: Final = "control_plane/audit/service.py"
NOTARY: Final = "control_plane/audit/notary.py"
PUBLICATION: Final = "control_plane/audit/publication.py"
EXPORT: Final = "control_plane/cli/audit/export.py"
KEYS: Final = "control_plane/keys/service.py"
PLATFORM_KEYS: Final = "control_plane/keys/platform.py"
CHECKPOINTS_SQL: Final = "control_plane/postgres/sql/tenant/0006_audit_checkpoints.sql"
PUBLISHED_SQL: Final = "control_plane/postgres/sql/system/0025_audit_keys.sql"
PROOFS: Final = "tests/unit/proofs/test_audit_log.py"
CHECKPOINTS: Final = "tests/integration/audit/test_checkpoints.py"
FORGERIES: Final = "tests/integration/audit/test_forgeries.py"
AUDIT_KEYS: Final = "tests/integration/audit/test_audit_keys.py"
EXPORTS: Final = "tests/integration/cli/test_audit_export.py"
NOT_VOUCHED: Final = f"{PROOFS}::test_a_version_that_is_not_vouched_for_is_named_and_ends_what_is_believed"
OTHERS: Final = f"{PROOFS}::test_a_checkpoint_of_another_key_tenant_or_place_is_forged"
OUT_OF_TIME: Final = f"{PROOFS}::test_a_checkpoint_of_a_time_at_which_its_key_did_not_sign_is_forged"
ON_TOP: Final = f"{FORGERIES}::test_nothing_is_signed_on_top_of_a_checkpoint_that_is_forged"

WALLS: Final = (
    Mutation(
        name="a checkpoint is believed whoever signed it",
        file=PROOF,
        before="        if not signed.is_signed_by(key.public):\n",
        after="        if not signed.signature:\n",
        noticed_by=(OTHERS, f"{FORGERIES}::test_a_checkpoint_of_one_tenants_key_is_none_of_anothers"),
    ),
    Mutation(
        name="a checkpoint is believed of another tenant",
        file=PROOF,
        before="        if checkpoint.tenant_uid != self.tenant_uid:\n",
        after="        if not checkpoint.tenant_uid:\n",
        noticed_by=(OTHERS,),
    ),
    Mutation(
        name="a checkpoint is believed at another place",
        file=PROOF,
        before="        if checkpoint.sequence != signed.sequence:\n",
        after="        if not checkpoint.sequence:\n",
        noticed_by=(OTHERS,),
    ),
    Mutation(
        name="a checkpoint may name another key than the one that signed",
        file=PROOF,
        before="        if key is None or key.key_id != checkpoint.key_id:\n",
        after="        if key is None:\n",
        noticed_by=(OTHERS,),
    ),
    Mutation(
        name="a key signs before its time",
        file=PROOF,
        before="        if checkpoint.time < key.start_time or (end_time",
        after="        if (end_time",
        noticed_by=(OUT_OF_TIME,),
    ),
    Mutation(
        name="a key signs for ever",
        file=PROOF,
        before=" or (end_time is not None and checkpoint.time >= end_time):\n",
        after=":\n",
        noticed_by=(OUT_OF_TIME,),
    ),
    Mutation(
        name="a head that was not signed passes",
        file=PROOF,
        before="        if checkpoint.head != head:\n",
        after="        if not checkpoint.head:\n",
        noticed_by=(f"{PROOFS}::test_a_head_that_was_not_signed_is_told_from_a_checkpoint_that_is_forged",),
    ),
    Mutation(
        name="a key is published by whoever likes",
        file=PROOF,
        before="                or not any(one.is_signed_by(public) for public in vouchers)\n",
        after="",
        noticed_by=(NOT_VOUCHED, f"{PROOFS}::test_without_keys_nothing_is_believed"),
    ),
    Mutation(
        name="a key is published that does not sign for itself",
        file=PROOF,
        before="                or not one.is_signed_by(key.public)\n",
        after="",
        noticed_by=(NOT_VOUCHED,),
    ),
    Mutation(
        name="a key is published that the one before it does not know",
        file=PROOF,
        before="                or (before is not None and not one.is_signed_by(before.public))\n",
        after="",
        noticed_by=(NOT_VOUCHED,),
    ),
    Mutation(
        name="a stolen version makes the next one",
        file=PROOF,
        before="            vouchers |= set() if roots else {key.public}\n",
        after="            vouchers |= {key.public}\n",
        noticed_by=(f"{PROOFS}::test_a_stolen_version_makes_no_newer_one_for_who_asks_the_platform",),
    ),
    Mutation(
        name="a key of another tenant's log is published",
        file=PROOF,
        before="            return self.tenant_uid == tenant_uid and not self.previous_version\n",
        after="            return not self.previous_version\n",
        noticed_by=(NOT_VOUCHED,),
    ),
    Mutation(
        name="a version of a log's key may be left out",
        file=PROOF,
        before="            and self.version > before.version == self.previous_version\n",
        after="            and self.version > before.version\n",
        noticed_by=(NOT_VOUCHED,),
    ),
    Mutation(
        name="a version begins before the one before it",
        file=PROOF,
        before="            and self.start_time > before.start_time\n",
        after="",
        noticed_by=(NOT_VOUCHED,),
    ),
    Mutation(
        name="what was signed as one thing passes for another",
        file="control_plane/proofs/envelope.py",
        before='    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)\n',
        after='    return b"DSSEv1 %d %s" % (len(payload), payload)\n',
        noticed_by=(f"{PROOFS}::test_a_signature_over_another_kind_of_payload_is_none",),
    ),
    Mutation(
        name="a chain that was made anew is verified",
        file=SERVICE,
        before="            if not _holds(signatures, signed, chain):\n",
        after="            if not _holds(signatures, signed, chain) and not signed:\n",
        noticed_by=(
            f"{CHECKPOINTS}::test_a_chain_that_was_made_anew_is_found_where_the_last_checkpoint_ends_that_holds",
        ),
    ),
    Mutation(
        name="a tail that was signed may be cut off",
        file=SERVICE,
        before='        if not all(signatures.hold(signed[sequence], head=b"") for',
        after="        if not all(sequence for",
        noticed_by=(f"{CHECKPOINTS}::test_a_tail_that_was_cut_off_shows_where_its_checkpoint_is_left",),
    ),
    Mutation(
        name="a log is signed that is not the one that was signed",
        file=NOTARY,
        before="    if last.sequence and (seal is None or seal.hash != last.head):\n",
        after="    if last.sequence and seal is None:\n",
        noticed_by=(f"{CHECKPOINTS}::test_a_chain_that_was_made_anew_is_never_signed",),
    ),
    Mutation(
        name="a chain is signed that does not hold",
        file=NOTARY,
        before="            if not chain.accepts(each, record):\n",
        after="            if not chain.accepts(each, record) and record is None:\n",
        noticed_by=(f"{CHECKPOINTS}::test_an_entry_that_was_changed_before_it_was_signed_stays_unsigned",),
    ),
    Mutation(
        name="a checkpoint goes on from a forged one",
        file=NOTARY,
        before=" or not stored.is_signed_by(public):\n",
        after=":\n",
        noticed_by=(ON_TOP,),
    ),
    Mutation(
        name="a checkpoint goes on from another log's",
        file=NOTARY,
        before="        if (said.tenant_uid, said.sequence) != (tenant_uid, stored.sequence) or not",
        after="        if not",
        noticed_by=(ON_TOP,),
    ),
    Mutation(
        name="a checkpoint that was taken away is not missed",
        file=NOTARY,
        before="        if (0 if stored is None else stored.sequence) < self.last.sequence:\n",
        after="        if self.last.sequence < 0:\n",
        noticed_by=(
            f"{CHECKPOINTS}::test_who_takes_the_newest_checkpoints_away_gets_no_new_ones_from_who_has_made_them",
        ),
    ),
    Mutation(
        name="a checkpoint that was replaced is not missed",
        file=NOTARY,
        before=" and _read(stored).head != self.last.head:\n",
        after=" and not stored.payload:\n",
        noticed_by=(ON_TOP,),
    ),
    Mutation(
        name="a log is signed with a key that is not published",
        file=NOTARY,
        before="        if log.published.version != signer.version:\n            raise",
        after="        if not log.published.version:\n            raise",
        noticed_by=(f"{AUDIT_KEYS}::test_a_version_that_is_not_published_signs_nothing",),
    ),
    Mutation(
        name="a log is signed with another key than the published one",
        file=NOTARY,
        before="        if (log.published.key_id, log.published.public) != (signer.key_id, signer.public):\n",
        after="        if not log.published.public:\n",
        noticed_by=(f"{AUDIT_KEYS}::test_a_key_that_is_published_and_is_not_the_vaults_signs_nothing",),
    ),
    Mutation(
        name="a log is signed before its key begins",
        file=NOTARY,
        before="        if now < log.published.start_time:\n",
        after="        if not log.published.start_time:\n",
        noticed_by=(f"{AUDIT_KEYS}::test_a_new_version_begins_after_the_one_before_whatever_the_clocks_say",),
    ),
    Mutation(
        name="a key is published on top of a forged one",
        file=PUBLICATION,
        before="        if keys.first_forged or not keys.keys:\n",
        after="        if not keys.first_forged and not keys.keys:\n",
        noticed_by=(f"{FORGERIES}::test_a_published_key_that_was_changed_is_named_and_nothing_of_it_is_believed",),
    ),
    Mutation(
        name="a new version begins whenever a clock says",
        file=PUBLICATION,
        before="max(now, previous.start_time + timedelta.resolution) if previous else now,",
        after="now,",
        noticed_by=(f"{AUDIT_KEYS}::test_a_new_version_begins_after_the_one_before_whatever_the_clocks_say",),
    ),
    Mutation(
        name="a tenant's own key signs its log",
        file=KEYS,
        before="        if opened.purpose is not Purpose.AUDIT:",
        after="        if not opened.purpose:",
        noticed_by=(f"{AUDIT_KEYS}::test_a_key_that_the_tenant_had_called_so_before_stays_its_own_and_signs_no_log",),
    ),
    Mutation(
        name="whoever writes into the database is the platform",
        file=PLATFORM_KEYS,
        before="            opened = [ed25519_pair(await self._opened(key)) for key in await self._stored()]\n"
        "            self._vouchers = [pair.public_key() for pair in opened]\n",
        after="            self._vouchers = [key.public_key for key in await self.attestation_keys()]\n",
        noticed_by=(f"{FORGERIES}::test_the_platforms_key_is_the_vaults_and_not_the_databases",),
    ),
    Mutation(
        name="checkpoints are changed",
        file=CHECKPOINTS_SQL,
        before="ALTER TABLE audit_checkpoints ENABLE ALWAYS TRIGGER refuse_change;\n",
        after="ALTER TABLE audit_checkpoints DISABLE TRIGGER refuse_change;\n",
        noticed_by=(f"{FORGERIES}::test_checkpoints_are_refused_a_change_as_they_are_made",),
    ),
    Mutation(
        name="a tenant writes checkpoints itself",
        file=CHECKPOINTS_SQL,
        before="GRANT SELECT ON audit_checkpoints TO {role};\n",
        after="GRANT SELECT, INSERT ON audit_checkpoints TO {role};\n",
        noticed_by=(f"{FORGERIES}::test_checkpoints_are_only_ever_added_and_by_the_sealer_alone",),
    ),
    Mutation(
        name="what is published is taken back",
        file=PUBLISHED_SQL,
        before="GRANT SELECT, INSERT ON csm_system.audit_keys TO csm_control;\n",
        after="GRANT SELECT, INSERT, UPDATE, DELETE ON csm_system.audit_keys TO csm_control;\n",
        noticed_by=(f"{FORGERIES}::test_nobody_takes_back_what_is_published",),
    ),
    Mutation(
        name="the sealer reads what keys there are",
        file=PUBLISHED_SQL,
        before="GRANT SELECT ON csm_system.audit_keys TO csm_directory;\n",
        after="GRANT SELECT ON csm_system.audit_keys TO csm_directory, csm_sealer;\n",
        noticed_by=(f"{FORGERIES}::test_the_sealers_role_reaches_no_key",),
    ),
    Mutation(
        name="an exported entry is not hashed",
        file=EXPORT,
        before='    return 0 if link(head, rfc8785.dumps(entry)) == bytes.fromhex(said["link"]) else sequence\n',
        after="    return 0\n",
        noticed_by=(f"{EXPORTS}::test_what_was_changed_in_an_export_is_named",),
    ),
    Mutation(
        name="an export is checked against any key",
        file=EXPORT,
        before="    if first is None or keys.first_forged:\n",
        after="    if first is None:\n",
        noticed_by=(f"{EXPORTS}::test_keys_that_nobody_vouches_for_are_told_from_a_log_that_is_broken",),
    ),
    Mutation(
        name="an export that was made anew passes",
        file=EXPORT,
        before="            if not signatures.hold(signed,",
        after="            if not sequence and not signatures.hold(signed,",
        noticed_by=(f"{EXPORTS}::test_what_was_changed_in_an_export_is_named",),
    ),
    Mutation(
        name="an export without a signature proves something",
        file="control_plane/cli/audit/commands.py",
        before='    if answer["signed_entries"] == "0":\n',
        after='    if not answer["signed_entries"]:\n',
        noticed_by=(f"{EXPORTS}::test_a_log_that_is_not_signed_proves_nothing",),
    ),
)
