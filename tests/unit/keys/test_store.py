"""What a wrapped key is bound to: its row, whole."""

from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import pytest

from control_plane.keys.model import Purpose, WrappedKey
from control_plane.keys.store import StoredKey

STORED: Final = StoredKey(
    id=UUID(int=1),
    tenant_uid=UUID(int=2),
    purpose=Purpose.STORAGE,
    version=3,
    algorithm="AES-256-GCM",
    kek_version=1,
    public=None,
    wrapped=WrappedKey(b"wrapped"),
)


@pytest.mark.behaviour("S2.7")
@pytest.mark.parametrize(
    "moved",
    [
        {"id": UUID(int=2)},
        {"tenant_uid": UUID(int=1)},
        {"purpose": Purpose.ENROLMENT},
        {"version": 4},
        {"algorithm": "ChaCha20"},
    ],
    ids=lambda moved: str(next(iter(moved))),
)
def test_a_wrapped_key_is_bound_to_each_column_that_says_what_it_is(moved: dict[str, Any]) -> None:
    """Whatever else keeps it from opening elsewhere, such as its tenant's KEK."""
    assert replace(STORED, **moved).binding.aad() != STORED.binding.aad()


def test_a_wrapped_key_is_bound_to_nothing_that_may_change() -> None:
    assert replace(STORED, kek_version=2, wrapped=WrappedKey(b"anew"), public=b"p").binding == STORED.binding
