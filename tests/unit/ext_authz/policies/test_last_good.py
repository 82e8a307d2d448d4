"""A copy is read as it was written, or not at all."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from control_plane import private_file
from ext_authz.policies import last_good
from ext_authz.policies.last_good import POLICIES, VOUCHED, LastGoodCopy
from ext_authz.policies.ledger import Ledger
from ext_authz.policies.model import Index
from tests.fixtures.edge_policies import DOMAIN, FEED, NOW, change, policy, token

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


@pytest.mark.parametrize(("feed", "revision"), [(FEED, 8), ("feed-2", 7)])
async def test_a_later_word_is_none_about_another_revision(
    feed: str, revision: int, tmp_path: Path, ledger: Ledger
) -> None:
    copy = LastGoodCopy(tmp_path, KEY)
    await copy.write(ledger)
    ledger.take(change(revision=7, as_of=NOW + timedelta(seconds=30)))
    await copy.write(ledger)
    later = (tmp_path / VOUCHED).read_bytes()
    as_of = NOW + timedelta(seconds=20)
    ledger.take(change(policy(3), feed=feed, revision=revision, snapshot=feed != FEED, as_of=as_of))
    await copy.write(ledger)
    read = copy.read()

    assert (tmp_path / VOUCHED).read_bytes() == later
    assert read
    assert read.as_of == as_of


async def test_an_earlier_word_makes_no_copy_older(tmp_path: Path, ledger: Ledger) -> None:
    copy = LastGoodCopy(tmp_path, KEY)
    for seconds, writer in ((0, copy), (30, copy), (60, LastGoodCopy(tmp_path, KEY))):
        ledger.take(change(revision=7, as_of=NOW + timedelta(seconds=seconds)))
        await writer.write(ledger)
    read = copy.read()

    assert read
    assert read.as_of == NOW + timedelta(seconds=60)


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


async def test_what_is_signed_is_of_which_format_it_is(tmp_path: Path, ledger: Ledger) -> None:
    copy = LastGoodCopy(tmp_path, KEY)
    await copy.write(ledger)
    ledger.take(change(revision=7, as_of=NOW + timedelta(seconds=30)))
    await copy.write(ledger)
    signed = (tmp_path / POLICIES).read_bytes().removeprefix(last_good._POLICIES_FORMAT)
    (tmp_path / VOUCHED).write_bytes(last_good._VOUCHED_FORMAT + signed)

    with pytest.raises(last_good.ForgedCopyError, match="signature"):
        copy._open(VOUCHED, last_good._VOUCHED_FORMAT)


async def test_a_copy_that_others_may_read_is_refused(tmp_path: Path, ledger: Ledger) -> None:
    copy = LastGoodCopy(tmp_path, KEY)
    await copy.write(ledger)
    (tmp_path / POLICIES).chmod(0o640)

    assert copy.read() is None


@pytest.mark.parametrize("parts", [[], [b""], list(Ledger(Index(domain=DOMAIN, feed=FEED, as_of=NOW)).since(0))])
def test_a_signed_file_without_all_policies_is_no_copy(parts: list[bytes], tmp_path: Path) -> None:
    copy = LastGoodCopy(tmp_path, KEY)
    copy._write(POLICIES, last_good._POLICIES_FORMAT, parts=parts)

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


async def test_a_slow_disk_counts_as_no_work(tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_file, "replace", lambda *_: time.sleep(1))
    spent_s = await LastGoodCopy(tmp_path, KEY).write(ledger)

    assert 0 < spent_s < 0.5


def test_what_was_left_half_written_is_taken_away(tmp_path: Path) -> None:
    half = tmp_path / f".{POLICIES}.00ff.new"
    half.write_bytes(b"half")
    LastGoodCopy(tmp_path, KEY).prepare()

    assert not half.exists()
