"""A copy is read as it was written, or not at all."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ext_authz.policies.last_good import POLICIES, VOUCHED, LastGoodCopy
from ext_authz.policies.ledger import Ledger
from ext_authz.policies.model import Index
from tests.fixtures.edge_policies import DOMAIN, NOW, change, policy, token

KEY = bytes(range(32))
REVOKED = {token(9): NOW + timedelta(days=1)}


@pytest.fixture
def ledger() -> Ledger:
    first = change(policy(1), policy(2), revision=7, snapshot=True, revocations=REVOKED)
    return Ledger(Index(domain=DOMAIN).after(first))


async def test_a_copy_is_read_as_it_was_written(tmp_path: Path, ledger: Ledger) -> None:
    await LastGoodCopy(tmp_path, KEY).write(ledger)
    read = LastGoodCopy(tmp_path, KEY).read()

    assert read == change(policy(1), policy(2), revision=7, snapshot=True, revocations=REVOKED)
    assert (tmp_path / POLICIES).stat().st_mode & 0o777 == 0o600


async def test_a_copy_says_until_when_it_was_the_newest(tmp_path: Path, ledger: Ledger) -> None:
    copy = LastGoodCopy(tmp_path, KEY)
    await copy.write(ledger)
    ledger.take(change(revision=7, as_of=NOW + timedelta(seconds=30)))
    await copy.write(ledger)
    read = copy.read()

    assert read
    assert read.as_of == NOW + timedelta(seconds=30)


async def test_a_later_word_is_none_about_another_revision(tmp_path: Path, ledger: Ledger) -> None:
    copy = LastGoodCopy(tmp_path, KEY)
    await copy.write(ledger)
    ledger.take(change(revision=7, as_of=NOW + timedelta(seconds=30)))
    await copy.write(ledger)
    later = (tmp_path / VOUCHED).read_bytes()
    ledger.take(change(policy(3, revision=8), revision=8, as_of=NOW + timedelta(seconds=20)))
    await copy.write(ledger)
    read = copy.read()

    assert (tmp_path / VOUCHED).read_bytes() == later
    assert read
    assert read.as_of == NOW + timedelta(seconds=20)


def _corruptions(whole: bytes) -> Iterator[bytes]:
    yield from (whole[:length] for length in range(len(whole)))
    yield from (
        whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :] for at in range(len(whole)) for bit in range(8)
    )
    yield whole + b"\0"


async def test_no_truncated_or_changed_copy_is_read(tmp_path: Path) -> None:
    small = Ledger(Index(domain=DOMAIN).after(change(policy(1), revision=1, snapshot=True)))
    copy = LastGoodCopy(tmp_path, KEY)
    await copy.write(small)
    path = tmp_path / POLICIES
    for corrupted in _corruptions(path.read_bytes()):
        path.write_bytes(corrupted)

        assert copy.read() is None


async def test_no_truncated_or_changed_word_makes_a_copy_fresher(tmp_path: Path, ledger: Ledger) -> None:
    copy = LastGoodCopy(tmp_path, KEY)
    await copy.write(ledger)
    ledger.take(change(revision=7, as_of=NOW + timedelta(seconds=30)))
    await copy.write(ledger)
    path = tmp_path / VOUCHED
    for corrupted in _corruptions(path.read_bytes()):
        path.write_bytes(corrupted)
        read = copy.read()

        assert read
        assert read.as_of == NOW


async def test_a_copy_of_another_key_or_a_file_in_the_others_place_is_refused(tmp_path: Path, ledger: Ledger) -> None:
    copy = LastGoodCopy(tmp_path, KEY)
    await copy.write(ledger)
    ledger.take(change(revision=7, as_of=NOW + timedelta(seconds=30)))
    await copy.write(ledger)
    other = LastGoodCopy(tmp_path, bytes(32)).read()
    (tmp_path / POLICIES).write_bytes((tmp_path / VOUCHED).read_bytes())

    assert other is None
    assert copy.read() is None


async def test_without_news_nothing_is_written(tmp_path: Path) -> None:
    copy = LastGoodCopy(tmp_path, KEY)
    await copy.write(Ledger(Index(domain=DOMAIN)))

    assert copy.read() is None
    assert not (tmp_path / POLICIES).exists()
    assert not (tmp_path / VOUCHED).exists()


async def test_a_folder_that_cannot_be_written_keeps_the_copy_before(tmp_path: Path, ledger: Ledger) -> None:
    copy = LastGoodCopy(tmp_path / "absent", KEY)
    await copy.write(ledger)
    (tmp_path / "absent").mkdir()
    await copy.write(ledger)

    assert copy.read() is not None


def test_what_was_left_half_written_is_taken_away(tmp_path: Path) -> None:
    half = tmp_path / f".{POLICIES}.00ff.new"
    half.write_bytes(b"half")
    LastGoodCopy(tmp_path, KEY).prepare()

    assert not half.exists()
