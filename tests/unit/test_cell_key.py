"""A key is made once, and one that may be known to others, or is half there, is not used."""

from pathlib import Path

import pytest

from control_plane.cell_key import BrokenKeyError, load_or_create, password
from control_plane.private_file import ExposedKeyError


def test_whoever_comes_first_makes_the_key(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "copy.key"
    key = load_or_create(path)

    assert len(key) == 32
    assert load_or_create(path) == key
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "copy.key"
    load_or_create(path)
    path.chmod(0o640)

    with pytest.raises(ExposedKeyError):
        load_or_create(path)


def test_a_key_that_is_too_short_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "copy.key"
    path.touch(mode=0o600)
    path.write_bytes(bytes(31))

    with pytest.raises(BrokenKeyError, match="31 bytes"):
        load_or_create(path)


def test_each_user_has_a_password_of_its_own_under_each_key() -> None:
    keys, users = (bytes(32), bytes([1] * 32)), ("edge", "control-plane", "")
    passwords = [password(key, user) for key in keys for user in users]

    assert len(set(passwords)) == len(passwords)
    assert passwords == [password(key, user) for key in keys for user in users]
    assert {len(each) for each in passwords} == {64}
