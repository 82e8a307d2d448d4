"""What the rotation of the key that derives must not do: derive what nobody takes, or lock a tenant's own role out."""

from typing import Final

from tests.leaks.model import Mutation

ROTATION: Final = "control_plane/keyring/rotations/enrolment.py"
PUBLISHED: Final = "control_plane/keyring/rotations/published.py"
MODEL: Final = "control_plane/keyring/model.py"
KEYS: Final = "control_plane/keys/service.py"
TENANCY: Final = "control_plane/postgres/schemas/tenancy.py"
TESTS: Final = "tests/integration/keyring/test_enrolment_rotation.py"
ESCROWS: Final = "tests/integration/escrows/test_enabling.py"

WALLS: Final = (
    Mutation(
        name="what is derived anew is refused by processes that have not asked",
        file=PUBLISHED,
        before="        if not await self._is_known(placement, version):\n",
        after="        if not version:\n",
        noticed_by=(f"{TESTS}::test_a_new_version_derives_once_every_process_has_asked_again",),
    ),
    Mutation(
        name="open enrolments end with a rotation",
        file=ROTATION,
        before="unused_for=_DERIVES_ON",
        after="unused_for=timedelta()",
        noticed_by=(f"{TESTS}::test_an_old_version_is_retired_by_the_first_rotation_after_its_last_token",),
    ),
    Mutation(
        name="a rotation retires what vouches for an escrow",
        file=ROTATION,
        before="kept=needed",
        after="kept=()",
        noticed_by=(f"{ESCROWS}::test_a_key_that_vouches_for_an_escrow_is_kept_as_long_as_that",),
    ),
    Mutation(
        name="a version is retired that a role logs in with",
        file=MODEL,
        before="        if version.version in needed and",
        after="        if version.version in () and",
        noticed_by=(
            f"{TESTS}::test_between_two_steps_the_role_logs_in_and_what_it_logs_in_with_is_not_retired",
            f"{ESCROWS}::test_a_key_that_vouches_for_an_escrow_is_kept_as_long_as_that",
        ),
    ),
    Mutation(
        name="a role logs in with whatever is the newest",
        file=KEYS,
        before="await self._opened(placement.uid, Purpose.ENROLMENT, version=version), _LOGIN_LABEL",
        after="await self._opened(placement.uid, Purpose.ENROLMENT), _LOGIN_LABEL",
        noticed_by=(f"{TESTS}::test_between_two_steps_the_role_logs_in_and_what_it_logs_in_with_is_not_retired",),
    ),
    Mutation(
        name="who has not heard of a rotation sets an old password back",
        file=TENANCY,
        before=" AND coalesce(login_version, 0) <= %(version)s",
        after="",
        noticed_by=(f"{TESTS}::test_who_has_not_heard_of_a_new_password_does_not_set_the_old_one_back",),
    ),
)
