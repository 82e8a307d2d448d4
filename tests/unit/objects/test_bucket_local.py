"""What is particular to a bucket that is a directory: links, odd files, full disks and killed writers."""

import asyncio
import ctypes
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from control_plane.errors import InvalidArgumentError, NotFoundError, UnavailableError
from control_plane.objects.bucket_local import LocalBucket

KEY: Final = "storage/org_1/certificates/a.pem"

# Puts in children, the n-th of which is killed before its n-th call to the file system, until one survives.
KILLED_EVERYWHERE: Final = """
import os, signal, sys
from pathlib import Path
from control_plane.objects.bucket_local import LocalBucket

root, key, old, new = Path(sys.argv[1]), "storage/org_1/a/b.pem", b"old" * 1000, b"new" * 2000
calls = 0

def count(event, _):
    global calls
    if event in {"open", "os.mkdir", "os.rename", "os.remove", "os.scandir"}:
        if calls == limit:
            os.kill(os.getpid(), signal.SIGKILL)
        calls += 1

for limit in range(100):
    bucket = LocalBucket(root / str(limit))
    if limit % 2:
        bucket._put(key, old)
    child = os.fork()
    if not child:
        sys.addaudithook(count)
        bucket._put(key, new)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    path = root / str(limit) / key
    assert (path.read_bytes() if path.exists() else None) in ((old, new) if limit % 2 else (None, new)), limit
    bucket._delete(key)
    assert [each for each in (root / str(limit)).rglob("*") if each.is_file()] == [], limit
    if os.waitstatus_to_exitcode(status) == 0:
        break
print(limit)
"""


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

    for work in (bucket.put(KEY, b"new"), bucket.get(KEY), bucket.delete(KEY)):
        with pytest.raises(InvalidArgumentError):
            await work
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

    with pytest.raises(InvalidArgumentError):
        await bucket.put(KEY, b"new")
    with pytest.raises(InvalidArgumentError):
        await bucket.get(KEY)
    assert _files(outside) == {"a.pem": b"foreign"}
    await bucket.delete(KEY)
    await bucket.put(KEY, b"new")
    assert await bucket.get(KEY) == b"new"
    assert _files(outside) == {"a.pem": b"foreign"}


@pytest.mark.behaviour("T-S1")
async def test_a_write_never_goes_into_a_file_that_has_another_name_too(
    bucket: LocalBucket, root: Path, outside: Path
) -> None:
    os.link(outside / "a.pem", root / KEY)
    await bucket.put(KEY, b"new")

    assert await bucket.get(KEY) == b"new"
    assert _files(outside) == {"a.pem": b"foreign"}


@pytest.mark.behaviour("T-S1")
async def test_what_is_no_file_is_refused_and_never_waited_for(bucket: LocalBucket, root: Path) -> None:
    os.mkfifo(root / KEY)
    folder = "storage/org_1/folder"
    (root / folder).mkdir()

    for key in (KEY, folder, f"{KEY}/below"):
        for work in (bucket.put(key, b"new"), bucket.get(key)):
            with pytest.raises(InvalidArgumentError):
                await asyncio.wait_for(work, 5)
    assert [key async for key in bucket.keys_below("storage")] == ["storage/org_1/certificates/other.pem"]


@pytest.mark.behaviour("T-S1")
async def test_a_link_that_appears_while_objects_are_written_is_never_followed(
    bucket: LocalBucket, root: Path, outside: Path
) -> None:
    """The folder and a link to the outside change places as fast as they can, while objects are put."""
    before, objects = _files(outside), root / "storage/org_1"
    (objects / "link").symlink_to(outside)
    swapping = True

    def swap() -> None:
        while swapping:
            _exchange(objects / "link", objects / "certificates")

    swapper = asyncio.create_task(asyncio.to_thread(swap))
    done = await asyncio.gather(
        *(bucket.put(f"storage/org_1/certificates/{n}", b"own") for n in range(300)), return_exceptions=True
    )
    swapping = False
    await swapper

    assert _files(outside) == before
    assert {type(result) for result in done} <= {type(None), InvalidArgumentError, UnavailableError}
    assert None in done


async def test_a_listing_shows_no_links_and_does_not_follow_them(
    bucket: LocalBucket, root: Path, outside: Path
) -> None:
    (root / "storage/org_1/link").symlink_to(outside)
    (root / "storage/org_1/a.pem").symlink_to(outside / "a.pem")

    assert [key async for key in bucket.keys_below("storage/org_1")] == ["storage/org_1/certificates/other.pem"]


@pytest.mark.behaviour("T-S6")
async def test_a_full_disk_leaves_the_object_as_it_was(root: Path) -> None:
    """A limit on the size of files fails a write half-way, as a full disk does."""
    await LocalBucket(root).put(KEY, b"old")
    program = (
        "import asyncio, resource, sys; from pathlib import Path\n"
        "from control_plane.objects.bucket_local import LocalBucket\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "asyncio.run(LocalBucket(Path(sys.argv[1])).put(sys.argv[2], bytes(range(256))))"
    )
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(root), KEY, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    _, said = await run.communicate()

    assert b"UnavailableError: the object store is away or full" in said
    assert _files(root) == {"a.pem": b"old"}


def test_being_killed_anywhere_leaves_the_old_or_the_new_object_and_a_delete_clears_up(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr
    assert int(run.stdout) >= 5


async def test_a_put_that_was_cancelled_is_over_before_a_delete_clears_up(bucket: LocalBucket, root: Path) -> None:
    for n in range(20):
        putting = asyncio.create_task(bucket.put(KEY, bytes(1_000_000)))
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
