"""Which version of a key is the primary, what its etag says, and which keys are rotated."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import EtagMismatchError, NotFoundError, PreconditionError
from control_plane.keyring.model import STEPS, Found, Key, KeyVersion, Resealing, VersionState, kek_version
from control_plane.keys.model import BUILT_IN, BUILT_IN_IDS, KEK, NAMED, Purpose
from control_plane.objects.paths import ObjectName

NOW: Final = datetime(2027, 1, 2, tzinfo=UTC)
FIRST: Final = KeyVersion(version=1, state=VersionState.ENABLED, algorithm="A", create_time=NOW, kek_version=1)
SECOND: Final = replace(FIRST, version=2)


def _key(*versions: KeyVersion, key_id: str = "storage") -> Key:
    return Key(tenant_name="tenants/org_1", tenant_uid=UUID(int=1), id=key_id, versions=versions)


@pytest.mark.parametrize(
    ("newest", "primary"),
    [
        (SECOND, 2),
        (replace(SECOND, is_used=False), 1),
        (replace(SECOND, state=VersionState.RETIRED), 1),
        (replace(SECOND, state=VersionState.DESTROYED), 1),
    ],
)
def test_the_primary_version_is_the_newest_that_is_used(newest: KeyVersion, primary: int) -> None:
    assert _key(newest, FIRST).primary.version == primary


@pytest.mark.parametrize(
    "changed",
    [
        {"versions": (SECOND, FIRST)},
        {"versions": (replace(FIRST, state=VersionState.RETIRED),)},
        {"versions": (replace(FIRST, is_used=False),)},
        {"versions": (replace(FIRST, kek_version=2),)},
        {"rotation": UUID(int=3)},
        {"tenant_uid": UUID(int=2)},
        {"id": "tokens"},
    ],
)
def test_an_etag_changes_with_the_key(changed: dict[str, Any]) -> None:
    key, after = _key(FIRST), replace(_key(FIRST), **changed)

    for good in ("", key.etag):
        key.check_etag(good)
    with pytest.raises(EtagMismatchError):
        after.check_etag(key.etag)


def test_a_kek_is_primary_once_something_is_wrapped_under_it() -> None:
    def version(number: int, *, wraps: bool, destroyed: bool = False) -> KeyVersion:
        return kek_version(number, create_time=NOW, destroy_time=NOW if destroyed else None, wraps=wraps)

    assert _key(version(2, wraps=False), version(1, wraps=True), key_id=KEK).primary.version == 1
    assert _key(version(2, wraps=True), version(1, wraps=False), key_id=KEK).primary.version == 2
    assert version(1, wraps=False, destroyed=True).state is VersionState.DESTROYED


def test_every_key_that_a_tenant_has_from_the_beginning_is_rotated() -> None:
    assert set(STEPS) == set(BUILT_IN_IDS)
    for key_id in BUILT_IN_IDS:
        _key(FIRST, key_id=key_id).check_rotatable()


def test_what_something_rests_on_is_not_retired() -> None:
    key = _key(SECOND, FIRST, key_id="enrolment")
    key.check_change(FIRST, VersionState.RETIRED, needed=[2])
    key.check_change(FIRST, VersionState.ENABLED, needed=[1])

    with pytest.raises(PreconditionError) as refused:
        key.check_change(FIRST, VersionState.RETIRED, needed=[1])
    assert refused.value.code == "KEY_VERSION_NEEDED"


def test_every_purpose_has_a_name() -> None:
    assert ("kek", *(purpose.value for purpose in BUILT_IN)) == BUILT_IN_IDS
    assert {*BUILT_IN, *NAMED, Purpose.IMPORT} == set(Purpose)


@pytest.mark.parametrize(
    ("key_id", "state", "number", "reason"),
    [
        ("services", VersionState.RETIRED, "1", None),
        ("services", VersionState.RETIRED, "2", "KEY_VERSION_PRIMARY"),
        ("services", VersionState.ENABLED, "1", None),
        ("services", VersionState.ENABLED, "2", None),
        ("storage", VersionState.ENABLED, "1", None),
        ("authority", VersionState.RETIRED, "1", None),
        ("authority", VersionState.RETIRED, "2", "KEY_VERSION_PRIMARY"),
        ("authority", VersionState.ENABLED, "1", None),
        ("enrolment", VersionState.RETIRED, "1", None),
        ("enrolment", VersionState.RETIRED, "2", "KEY_VERSION_PRIMARY"),
        ("enrolment", VersionState.ENABLED, "1", None),
        *(
            (key_id, VersionState.RETIRED, "1", "KEY_VERSION_NOT_CHANGED")
            for key_id in BUILT_IN_IDS
            if key_id not in {"services", "authority", "enrolment"}
        ),
        *(
            (key_id, VersionState.ENABLED, "1", "KEY_VERSION_NOT_CHANGED")
            for key_id in BUILT_IN_IDS
            if key_id not in {"services", "storage", "authority", "enrolment"}
        ),
    ],
)
def test_by_hand_only_that_is_retired_which_others_know_to_be_needed_no_more(
    key_id: str, state: VersionState, number: str, reason: str | None
) -> None:
    key = _key(SECOND, FIRST, key_id=key_id)
    if reason is None:
        key.check_change(key.version(number), state)
        return

    with pytest.raises(PreconditionError) as refused:
        key.check_change(key.version(number), state)
    assert refused.value.code == reason


@pytest.mark.parametrize("number", ["0", "3", "01", "-1", "1.0", "", "latest", "\u0661"])
def test_a_version_has_one_name(number: str) -> None:
    with pytest.raises(NotFoundError):
        _key(SECOND, FIRST).version(number)


RESULTS: Final = st.lists(
    st.tuples(
        st.builds(ObjectName, path=st.sampled_from(["a", "b/c"]), version=st.integers(1, 3)),
        st.sampled_from(Found),
        st.integers(0, 2**40),
    )
)


@given(results=RESULTS)
def test_how_far_it_is_survives_being_written_down(results: list[tuple[ObjectName, Found, int]]) -> None:
    progress = Resealing().next_look()
    for name, found, number in results:
        size = number if found is Found.OLD else 0
        progress = progress.past(name, found, size=size, sealed_by=number % 3 + 1 if found is Found.KEPT else 0)
        progress = Resealing.read(json.loads(json.dumps(progress.written())))

    assert progress.look_done == len(results)
    assert progress.bytes_resealed == sum(number for _, found, number in results if found is Found.OLD)
    assert sum(count for _, count in progress.look_kept) == sum(found is Found.KEPT for _, found, _ in results)
    assert set(progress.kept) == {number % 3 + 1 for _, found, number in results if found is Found.KEPT}
    assert progress.after == (results[-1][0] if results else None)
    again = progress.next_look()
    assert (again.look, again.look_done, again.kept, again.after) == (2, 0, [], None)
    assert again.bytes_resealed == progress.bytes_resealed
    assert Resealing.read({}) == Resealing()
