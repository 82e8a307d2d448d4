"""What is particular to a bucket that is a directory: links, odd files, and who else is in it."""

import asyncio
import ctypes
import os
import stat
import threading
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Final

import pytest

from control_plane.errors import InvalidArgumentError, NotFoundError, UnavailableError
from control_plane.objects import directories
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.staging import StagedFile

KEY: Final = "storage/org_1/certificates/a.pem"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
async def bucket(root: Path) -> LocalBucket:
    opened = LocalBucket(root)
    await opened.put("storage/org_1/certificates/other.pem", b"own")
    return opened


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "a.pem").write_bytes(b"foreign")
    return folder


@pytest.mark.behaviour("S2.5")
@pytest.mark.parametrize("change", ["put", "delete"])
async def test_nobody_changes_an_object_between_the_last_look_at_it_and_its_replacement(
    bucket: LocalBucket, root: Path, monkeypatch: pytest.MonkeyPatch, *, change: str
) -> None:
    """A write, or a deletion, that comes at that very moment waits, and has the last word."""
    await bucket.put(KEY, b"stale")
    look, other = StagedFile._refuse_all_but, LocalBucket(root)
    changing = threading.Thread(target=lambda: other._put(KEY, b"newer") if change == "put" else other._delete(KEY))

    def looked(staged: StagedFile, file: int, *, directory: int) -> None:
        look(staged, file, directory=directory)
        changing.start()
        # Time enough for it, were it not to wait.
        changing.join(0.5)

    async def stale(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for part in parts:
            yield part

    monkeypatch.setattr(StagedFile, "_refuse_all_but", looked)
    await bucket.replace(KEY, stale)
    await asyncio.to_thread(changing.join)

    if change == "put":
        assert await bucket.get(KEY) == b"newer"
    else:
        with pytest.raises(NotFoundError):
            await bucket.get(KEY)


async def _source(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def _read(bucket: LocalBucket, key: str) -> bytes:
    async with aclosing(bucket.get_stream(key)) as parts:
        return b"".join([part async for part in parts])


async def _listed(bucket: LocalBucket) -> list[str]:
    return [key async for key in bucket.keys_below("storage")]


def _modes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in root.rglob("*")}


def _exchange(one: Path, other: Path) -> None:
    """Let two names change places at once, so that there is no moment without either."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), "renameat2")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_objects_lie_where_their_key_says_and_are_their_owners_only(root: Path) -> None:
    await LocalBucket(root).put(KEY, b"a")

    assert _modes(root) == {
        ".staging": 0o700,
        "storage": 0o700,
        "storage/org_1": 0o700,
        "storage/org_1/certificates": 0o700,
        KEY: 0o600,
    }


@pytest.mark.behaviour("S1.8")
@pytest.mark.behaviour("T-S1")
@pytest.mark.parametrize("folder", ["storage", "storage/org_1", "storage/org_1/certificates"])
async def test_a_link_on_the_way_is_refused_and_nothing_is_written_through_it(
    bucket: LocalBucket, root: Path, outside: Path, folder: str
) -> None:
    await bucket.put(KEY, b"own")
    assert await bucket.get(KEY) == b"own"
    (root / folder).rename(root / "aside")
    (root / folder).symlink_to(outside)
    (outside / "org_1" / "certificates").mkdir(parents=True)
    (outside / "certificates").mkdir()
    before = _files(outside)

    for work in (
        bucket.put(KEY, b"new"),
        bucket.put_stream(KEY, _source(b"new")),
        bucket.get(KEY),
        _read(bucket, KEY),
        bucket.delete(KEY),
    ):
        with pytest.raises(InvalidArgumentError):
            await work
    with pytest.raises(InvalidArgumentError):
        await anext(bucket.keys_below("storage/org_1/certificates"))
    assert _files(outside) == before
    (root / folder).unlink()
    (root / "aside").rename(root / folder)
    assert await bucket.get(KEY) == b"own"


@pytest.mark.behaviour("S1.8")
@pytest.mark.behaviour("T-S1")
async def test_a_link_in_an_objects_place_is_refused_and_nothing_is_written_through_it(
    bucket: LocalBucket, root: Path, outside: Path
) -> None:
    (root / KEY).symlink_to(outside / "a.pem")

    for work in (
        bucket.put(KEY, b"new"),
        bucket.put_stream(KEY, _source(b"new")),
        bucket.get(KEY),
        _read(bucket, KEY),
    ):
        with pytest.raises(InvalidArgumentError):
            await work
    assert _files(outside) == {"a.pem": b"foreign"}
    await bucket.delete(KEY)
    await bucket.put(KEY, b"new")
    assert await bucket.get(KEY) == b"new"
    assert _files(outside) == {"a.pem": b"foreign"}


@pytest.mark.behaviour("T-S1")
async def test_a_write_never_goes_into_a_file_that_has_another_name_too(
    bucket: LocalBucket, root: Path, outside: Path
) -> None:
    for put in (bucket.put(KEY, b"new"), bucket.put_stream(KEY, _source(b"n", b"ew"))):
        (root / KEY).unlink(missing_ok=True)
        os.link(outside / "a.pem", root / KEY)
        await put

        assert await bucket.get(KEY) == b"new"
        assert _files(outside) == {"a.pem": b"foreign"}


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.behaviour("T-S1")
@pytest.mark.parametrize("make", [_fifo, _socket, _folder])
async def test_what_is_no_file_is_refused_and_never_waited_for(
    bucket: LocalBucket, root: Path, make: Callable[[Path], None]
) -> None:
    make(root / KEY)

    for work in (
        bucket.put(KEY, b"new"),
        bucket.put_stream(KEY, _source(b"new")),
        bucket.get(KEY),
        _read(bucket, KEY),
    ):
        with pytest.raises(InvalidArgumentError):
            await asyncio.wait_for(work, 5)
    if make is not _folder:
        with pytest.raises(InvalidArgumentError):
            await bucket.get(f"{KEY}/below")
    assert [key async for key in bucket.keys_below("storage")] == ["storage/org_1/certificates/other.pem"]


def _link(path: Path) -> None:
    path.symlink_to(path.with_name("other.pem"))


@pytest.mark.behaviour("T-S1")
@pytest.mark.parametrize("make", [_fifo, _link])
async def test_what_becomes_no_file_while_it_is_opened_is_refused(
    bucket: LocalBucket, root: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look before the opening is told nothing bad; the opening itself, and what was opened, are what counts."""
    monkeypatch.setattr(directories, "refuse_all_but_a_file", lambda *_, **__: None)
    make(root / KEY)

    for work in (bucket.get(KEY), _read(bucket, KEY)):
        with pytest.raises(InvalidArgumentError):
            await asyncio.wait_for(work, 5)


@pytest.mark.behaviour("T-S1")
async def test_what_comes_into_an_objects_place_while_it_is_written_is_left_there(
    bucket: LocalBucket, root: Path, outside: Path
) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"n"
        (root / KEY).symlink_to(outside / "a.pem")
        yield b"ew"

    with pytest.raises(InvalidArgumentError):
        await bucket.put_stream(KEY, source())
    assert (root / KEY).is_symlink()
    assert _files(outside) == {"a.pem": b"foreign"}


@pytest.mark.behaviour("T-S1")
async def test_a_link_that_appears_while_objects_are_used_is_never_followed(
    bucket: LocalBucket, root: Path, outside: Path
) -> None:
    """The folder and a link to the outside change places as fast as they can, while all is done that can be."""
    objects = root / "storage/org_1"
    # What would be found by going through the link.
    for n in range(0, 300, 2):
        (outside / str(n)).write_bytes(b"foreign")
        (outside / f"foreign-{n}").write_bytes(b"foreign")
    before = _files(outside)
    (objects / "link").symlink_to(outside)
    swapping = True

    def swap() -> None:
        while swapping:
            _exchange(objects / "link", objects / "certificates")

    async def use(number: int) -> list[object]:
        key = f"storage/org_1/certificates/{number}"
        works: list[Callable[[], Awaitable[object]]] = [
            lambda: bucket.put_stream(key, _source(b"o", b"wn")) if number % 2 else bucket.put(key, b"own"),
            lambda: bucket.get(key),
            lambda: _read(bucket, key),
            lambda: _listed(bucket),
            lambda: bucket.delete(key),
        ]
        return [(await asyncio.gather(work(), return_exceptions=True))[0] for work in works]

    swapper = asyncio.create_task(asyncio.to_thread(swap))
    done = await asyncio.gather(*(use(number) for number in range(300)))
    swapping = False
    await swapper
    put, got, read, listed, _ = zip(*done, strict=True)
    failed = {type(result) for results in done for result in results if isinstance(result, BaseException)}

    assert _files(outside) == before
    assert failed <= {InvalidArgumentError, UnavailableError, NotFoundError}
    assert None in put
    assert b"foreign" not in got + read
    assert "foreign" not in str(listed)


async def test_a_listing_shows_no_links_and_does_not_follow_them(
    bucket: LocalBucket, root: Path, outside: Path
) -> None:
    (root / "storage/org_1/link").symlink_to(outside)
    (root / "storage/org_1/a.pem").symlink_to(outside / "a.pem")

    assert [key async for key in bucket.keys_below("storage/org_1")] == ["storage/org_1/certificates/other.pem"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_put_that_was_cancelled_is_over_before_a_delete_clears_up(
    bucket: LocalBucket, root: Path, *, streamed: bool
) -> None:
    for n in range(20):
        work = (
            bucket.put_stream(KEY, _source(*[bytes(100_000)] * 10)) if streamed else bucket.put(KEY, bytes(1_000_000))
        )
        putting = asyncio.create_task(work)
        await asyncio.sleep(n / 10_000)
        putting.cancel()
        await asyncio.wait([putting])
        await bucket.delete(KEY)

        assert _files(root) == {"other.pem": b"own"}


async def test_a_disk_that_may_not_be_written_is_unavailable_and_its_path_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UnavailableError) as refused:
        await LocalBucket(tmp_path / "file").put(KEY, b"a")
    assert str(tmp_path) not in str(refused.value)
    with pytest.raises(NotFoundError):
        await LocalBucket(tmp_path / "absent").get(KEY)
