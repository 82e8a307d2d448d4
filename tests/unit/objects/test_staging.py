"""Files in the making: whole or unseen, wherever a writer stops, and gone once nobody is writing them."""

import asyncio
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from control_plane.errors import InvalidArgumentError
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.staging import StagedFile, sweep

KEY: Final = "storage/org_1/certificates/a.pem"
OTHER: Final = "storage/org_1/certificates/b.pem"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _staged(root: Path) -> list[Path]:
    return list((root / ".staging").iterdir())


def _run(program: str, *arguments: str) -> int:
    script = Path(__file__).with_name(program)
    run = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


@pytest.mark.parametrize("how", ["put", "put_stream"])
def test_being_killed_anywhere_leaves_the_old_or_the_new_object_and_nothing_else(tmp_path: Path, how: str) -> None:
    assert _run("killed_writers.py", str(tmp_path), how) >= 10


@pytest.mark.behaviour("T-S6")
@pytest.mark.parametrize("how", ["put", "put_stream"])
def test_a_disk_that_is_full_at_any_point_leaves_the_object_as_it_was_and_others_as_they_are(
    tmp_path: Path, how: str
) -> None:
    assert _run("filling_disk.py", str(tmp_path), how) >= 8


def _stage(root: Path, key: str, content: bytes = b"") -> StagedFile:
    staged = StagedFile(root, key)
    staged.open()
    staged.write(content)
    return staged


def test_what_is_being_written_is_not_swept_and_what_nobody_writes_is(root: Path) -> None:
    alive, other = _stage(root, KEY, b"new"), _stage(root, OTHER)
    abandoned = root / ".staging" / "left by an earlier process"
    abandoned.touch()
    sweep(root)

    assert len(_staged(root)) == 2
    other.discard()
    assert len(_staged(root)) == 1
    alive.publish()
    alive.discard()
    assert _staged(root) == []
    assert _files(root) == {"a.pem": b"new"}


def test_a_sweep_for_an_object_leaves_all_others(root: Path) -> None:
    staged = {key: _stage(root, key)._staged for key in (KEY, OTHER)}
    # As when both writers had been killed.
    for path in _staged(root):
        path.rename(path.with_name(f"{path.name}0"))
        path.with_name(path.name).touch()
        path.with_name(f"{path.name}0").unlink()
    sweep(root, KEY)

    assert [path.name for path in _staged(root)] == [staged[OTHER]]


def test_a_file_that_was_swept_before_it_was_locked_is_made_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock
    swept = list[int]()

    def late(file: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        sweep(root)
        swept.append(file)
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    staged = _stage(root, KEY, b"new")
    staged.publish()
    staged.discard()

    assert len(swept) == 1
    assert _files(root) == {"a.pem": b"new"}


def test_nothing_is_seen_before_it_is_published_and_nothing_is_left_of_what_is_not(root: Path) -> None:
    staged = _stage(root, KEY, b"new")
    assert not (root / KEY).exists()
    staged.discard()
    staged.discard()

    assert _files(root) == {}


def test_an_object_is_on_the_disk_before_its_name_is_and_its_name_before_it_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, sync, rename = list[object](), os.fsync, os.rename

    def synced(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").resolve())
        sync(descriptor)

    def renamed(*args: Any, **kwargs: Any) -> None:
        done.append("rename")
        rename(*args, **kwargs)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    staged = _stage(root, "storage/org_1/a", b"new")
    file = root / ".staging" / staged._staged
    staged.publish()
    staged.discard()

    # That the directory is there first of all, then the file, its name, and the names of all directories on the way.
    assert done == [root.parent, file, "rename", root / "storage/org_1", root / "storage", root]


def test_a_link_in_place_of_the_staging_directory_is_refused(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root.mkdir()
    (root / ".staging").symlink_to(outside)
    (outside / "kept").touch()

    with pytest.raises(InvalidArgumentError):
        _stage(root, KEY)
    with pytest.raises(InvalidArgumentError):
        sweep(root)
    assert _files(outside) == {"kept": b""}


def test_a_link_among_the_staged_files_is_neither_followed_nor_taken_away(root: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"kept")
    _stage(root, KEY).discard()
    (root / ".staging" / "link").symlink_to(tmp_path / "kept")
    sweep(root)

    assert (tmp_path / "kept").read_bytes() == b"kept"


async def test_a_stream_is_asked_for_nothing_where_it_could_not_be_put(root: Path) -> None:
    asked = list[str]()

    async def source() -> AsyncIterator[bytes]:
        asked.append("a part")
        yield b"new"

    (root / KEY).mkdir(parents=True)
    with pytest.raises(InvalidArgumentError):
        await LocalBucket(root).put_stream(KEY, source())
    assert asked == []


async def test_a_stream_outlives_the_deletion_of_its_object(root: Path) -> None:
    """Whoever deletes at the same time takes away what others left, and not what is on its way."""
    bucket, begun, may_end = LocalBucket(root), asyncio.Event(), asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield b"n"
        begun.set()
        await may_end.wait()
        yield b"ew"

    putting = asyncio.create_task(bucket.put_stream(KEY, source()))
    await begun.wait()
    await LocalBucket(root).delete(KEY)
    await LocalBucket(root).put(OTHER, b"other")
    may_end.set()
    await putting

    assert _files(root) == {"a.pem": b"new", "b.pem": b"other"}


async def test_what_earlier_processes_left_goes_with_the_first_put(root: Path) -> None:
    (root / ".staging").mkdir(parents=True)
    (root / ".staging" / "left").write_bytes(b"x")
    await LocalBucket(root).put(KEY, b"new")

    assert _files(root) == {"a.pem": b"new"}


async def test_a_sweep_that_fails_stops_no_put(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "a fault")

    monkeypatch.setattr("control_plane.objects.bucket_local.sweep", fail)
    await LocalBucket(root).put(KEY, b"new")

    assert await LocalBucket(root).get(KEY) == b"new"
