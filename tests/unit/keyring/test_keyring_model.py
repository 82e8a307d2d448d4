"""Which version of a key is the primary, what its etag says, and which keys are rotated."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import pytest

from control_plane.errors import EtagMismatchError, PreconditionError
from control_plane.keyring.model import STEPS, Key, KeyVersion, VersionState, kek_version
from control_plane.keys.model import BUILT_IN, BUILT_IN_IDS, KEK, NAMED, ROTATED, Purpose

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


def test_exactly_the_keys_with_several_versions_are_rotated_and_the_others_say_what_it_would_take() -> None:
    assert set(STEPS) == {KEK, *(purpose.value for purpose in ROTATED)}
    for key_id in BUILT_IN_IDS:
        if key_id in STEPS:
            _key(FIRST, key_id=key_id).check_rotatable()
            continue
        with pytest.raises(PreconditionError, match="it would take") as refused:
            _key(FIRST, key_id=key_id).check_rotatable()
        assert refused.value.code == "ROTATION_NOT_SUPPORTED"


def test_every_purpose_has_a_name() -> None:
    assert ("kek", *(purpose.value for purpose in BUILT_IN)) == BUILT_IN_IDS
    assert {*BUILT_IN, *NAMED, Purpose.IMPORT} == set(Purpose)
