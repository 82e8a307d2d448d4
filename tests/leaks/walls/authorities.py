"""What the rotation of an authority must not do: sign unseen, forget what is valid, or show what is retired."""

from typing import Final

from tests.leaks.model import Mutation

ROTATION: Final = "control_plane/keyring/rotations/authority.py"
PUBLISHED: Final = "control_plane/keyring/rotations/published.py"
MODEL: Final = "control_plane/keyring/model.py"
AUTHORITIES: Final = "control_plane/keys/authorities.py"
KEYS_STORE: Final = "control_plane/keys/store.py"
ISSUE: Final = "control_plane/certificates/service.py"
ROWS: Final = "control_plane/certificates/store.py"
TESTS: Final = "tests/integration/certificates/test_authorities.py"
PURE_TESTS: Final = "tests/unit/keys/test_authorities.py"

WALLS: Final = (
    Mutation(
        name="an authority signs before every process has shown it",
        file=PUBLISHED,
        before="        if not await self._is_known(placement, version):\n",
        after="        if not version:\n",
        noticed_by=(f"{TESTS}::test_a_new_authority_waits_until_every_process_has_asked_again",),
    ),
    Mutation(
        name="an authority is used at once when it is made",
        file=PUBLISHED,
        before="[replace(made, is_used=False)]",
        after="[replace(made, is_used=True)]",
        noticed_by=(f"{TESTS}::test_a_new_authority_is_shown_by_every_process_before_it_signs",),
    ),
    Mutation(
        name="an authority is retired that signed what is valid",
        file=ROTATION,
        before="kept=needed",
        after="kept=()",
        noticed_by=(f"{TESTS}::test_an_old_authority_is_retired_once_nothing_that_it_signed_is_valid",),
    ),
    Mutation(
        name="an authority is retired that signs what is being issued",
        file=ROWS,
        before="WHERE expire_time > %(now)s AND state <> 'REVOKED' AND sha256 IS NOT NULL",
        after="WHERE expire_time > %(now)s AND state = 'ACTIVE'",
        noticed_by=(f"{TESTS}::test_what_is_being_issued_keeps_its_authority",),
    ),
    Mutation(
        name="a certificate is issued by an authority that was replaced",
        file=ISSUE,
        before="signs = await self._keys.signs(drafts.placement, authority)",
        after="signs = authority is not None",
        noticed_by=(f"{TESTS}::test_who_has_not_heard_of_a_new_authority_signs_with_it_all_the_same",),
    ),
    Mutation(
        name="a retired authority is trusted on",
        file=KEYS_STORE,
        before="WHERE tenant_uid = %(tenant_uid)s AND key_id = %(key_id)s AND state = 'ENABLED'",
        after="WHERE tenant_uid = %(tenant_uid)s AND key_id = %(key_id)s",
        noticed_by=(
            f"{TESTS}::test_what_a_suspected_authority_has_signed_is_trusted_by_nobody_who_asks_a_second_later",
        ),
    ),
    Mutation(
        name="an authority that is about to sign is retired",
        file=MODEL,
        before="version.version >= self.primary.version and",
        after="version is self.primary and",
        noticed_by=(f"{TESTS}::test_what_signs_is_not_retired_nor_what_is_about_to",),
    ),
    Mutation(
        name="whatever lies there passes for an authority's certificate by the one before",
        file=AUTHORITIES,
        before="    if cross.public_key() != own.public_key() or cross.subject != own.subject:\n",
        after="    if not cross.subject:\n",
        noticed_by=(f"{PURE_TESTS}::test_a_certificate_by_the_one_before_is_of_the_same_key_and_name_or_refused",),
    ),
)
