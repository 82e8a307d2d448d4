"""Which token a KEK is in, and how it is named there."""

import json
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.keys.model import KekRef
from control_plane.keys.pkcs11 import layout
from control_plane.keys.pkcs11.layout import Layout, LayoutFile, UnknownLayoutError, kek_of, object_id, object_label
from control_plane.private_file import ExposedKeyError

KEKS = st.builds(KekRef, tenant_uid=st.uuids(), version=st.integers(1, 2**32 - 1))
LAYOUT = Layout(tokens=tuple("abcdefg"), is_made=True)


@pytest.mark.parametrize(
    ("uid", "token"),
    [
        (UUID(int=0), "c"),
        (UUID(int=1), "f"),
        (UUID("01a20aa4-e39e-7256-9624-d9e5939bc9d0"), "b"),
        (UUID("ffffffff-ffff-ffff-ffff-ffffffffffff"), "e"),
    ],
)
def test_a_tenants_token_is_the_same_in_every_release(uid: UUID, token: str) -> None:
    assert LAYOUT.token_of(uid) == token


def test_tenants_are_spread_over_all_tokens() -> None:
    counts = dict.fromkeys(LAYOUT.tokens, 0)
    for number in range(7000):
        counts[LAYOUT.token_of(UUID(int=number))] += 1

    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150


@given(kek=KEKS)
def test_a_kek_is_known_by_what_its_object_is_called(kek: KekRef) -> None:
    assert kek_of(object_id(kek), object_label(kek)) == kek


@given(one=KEKS, other=KEKS)
def test_no_two_keks_share_a_name(one: KekRef, other: KekRef) -> None:
    assert (object_id(one) == object_id(other)) == (one == other)


@given(kek=KEKS, other=KEKS)
def test_an_object_whose_names_disagree_is_no_kek(kek: KekRef, other: KekRef) -> None:
    assert (kek_of(object_id(kek), object_label(other)) is None) == (kek != other)
    assert kek_of(object_id(kek)[1:], object_label(kek)) is None


def test_a_layout_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"

    assert layout.read(path) is None
    layout.write(path, LAYOUT)
    assert layout.read(path) == LAYOUT
    path.chmod(0o640)
    with pytest.raises(ExposedKeyError):
        layout.read(path)


@pytest.mark.behaviour("I8")
def test_a_token_of_a_tenants_own_is_that_tenants_alone(tmp_path: Path) -> None:
    path, own = tmp_path / "tokens.json", UUID(int=1)
    layout.write(path, replace(LAYOUT, own={own: "own"}))
    again = layout.read(path)

    assert again is not None
    assert again.token_of(own) == "own"
    assert again.labels == (*LAYOUT.tokens, "own")
    assert {again.token_of(UUID(int=n)) for n in range(2, 500)} == set(LAYOUT.tokens)
    assert again.witness_label("own") not in {again.witness_label(label) for label in LAYOUT.tokens}


def test_a_layout_that_was_changed_is_read_again(tmp_path: Path) -> None:
    path, own = tmp_path / "tokens.json", UUID(int=1)
    layout.write(path, LAYOUT)
    file = LayoutFile(path, LAYOUT)
    before = file.now()
    layout.write(path, replace(LAYOUT, own={own: "own"}))

    assert before == LAYOUT
    assert file.known is before
    assert file.now().token_of(own) == "own"
    assert file.known.token_of(own) == "own"
    path.unlink()
    with pytest.raises(FileNotFoundError):
        file.now()


@pytest.mark.parametrize(
    "said", ["", "[]", "7", json.dumps({"format": 3, "tokens": ["a"], "is_made": True}), '{"format": 1, "tokens": []}']
)
def test_a_layout_that_is_not_understood_is_not_guessed(tmp_path: Path, said: str) -> None:
    path = tmp_path / "tokens.json"
    path.touch(mode=0o600)
    path.write_text(said)

    with pytest.raises(UnknownLayoutError):
        layout.read(path)
