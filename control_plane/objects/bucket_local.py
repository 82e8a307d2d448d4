"""A bucket that is a directory of this machine.

obstore has one too, but as measured it writes through a symbolic link out of its directory, and syncs nothing. Here
each path is walked part by part from an open directory, and no link is followed (`directories.py`); and an object is
written beside, synced, and only then given its name (`staging.py`).

::

    ROOT/storage/<tenant>/…     objects, 0600, in directories of 0700
    ROOT/.staging/…             objects being written, locked; what is not locked has no other use

Hard links need no refusal: a write gives the name to a new file and never goes into the old one, and a read of another
object's bytes does not decrypt (`store.py`). They are how backups are often made.
"""

import errno
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import ExitStack, aclosing, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

from control_plane.errors import NotFoundError, UnavailableError
from control_plane.objects.bucket import Rewriting
from control_plane.objects.directories import misplaced, open_file, unlink, walked
from control_plane.objects.staging import StagedFile, changing, sweep
from control_plane.threads import run_to_end

T = TypeVar("T")

_READ_BYTES: Final = 1024 * 1024


class LocalBucket:
    """Keeps the promise of `Bucket` with files. Several processes may use one directory at once."""

    def __init__(self, root: Path) -> None:
        """Keep objects below `root`, which is made when the first one is put. It alone may be a symbolic link."""
        self._root = root
        self._is_swept = False

    async def put(self, key: str, data: bytes) -> None:
        """See `Bucket`. Syncs the file and its directories."""
        await _in_thread(lambda: self._put(key, data))

    async def put_stream(self, key: str, parts: AsyncIterable[bytes]) -> None:
        """See `Bucket`. A turn of a thread for each part."""
        staged = StagedFile(self._root, key)
        try:
            await _in_thread(lambda: self._open(staged))
            async for part in parts:
                await _in_thread(partial(staged.write, part))
            await _in_thread(staged.publish)
        finally:
            await _in_thread(staged.discard)

    async def get(self, key: str) -> bytes:
        """See `Bucket`."""
        return await _in_thread(lambda: self._get(key))

    async def get_stream(self, key: str) -> AsyncGenerator[bytes, None]:
        """See `Bucket`. The file stays the one that was opened, whatever becomes of its name."""
        # The thread puts the file there itself: a caller that is cancelled meanwhile finds it there, and closes it.
        with ExitStack() as opened:
            file = await _in_thread(lambda: opened.enter_context(self._opened(key)))
            async with aclosing(_parts(file)) as parts:
                async for part in parts:
                    yield part

    async def beginning(self, key: str, count: int) -> bytes:
        """See `Bucket`."""
        return await _in_thread(lambda: self._beginning(key, count))

    async def replace(self, key: str, rewritten: Rewriting) -> None:
        """See `Bucket`. Takes an object of any length."""
        staged = StagedFile(self._root, key)
        with ExitStack() as opened:
            file = await _in_thread(lambda: opened.enter_context(self._opened(key)))
            try:
                await _in_thread(lambda: self._open(staged))
                async with aclosing(_parts(file)) as parts:
                    async for part in rewritten(parts):
                        await _in_thread(partial(staged.write, part))
                await _in_thread(lambda: staged.publish(instead_of=file.fileno()))
            finally:
                await _in_thread(staged.discard)

    async def delete(self, key: str) -> None:
        """See `Bucket`."""
        await _in_thread(lambda: self._delete(key))

    async def delete_folder(self, folder: str) -> None:
        """See `Bucket`. Directories that hold anything stay."""
        await _in_thread(lambda: self._delete_folder(folder))

    async def keys_below(self, folder: str, *, after: str = "") -> AsyncIterator[str]:
        """See `Bucket`. In the order of their bytes; the names of a directory, and of all above it, are held."""
        left = [f"{folder}/"]
        while left:
            here = left.pop()
            if not here.endswith("/"):
                yield here
                continue
            left += reversed([key for key in await _in_thread(partial(self._names, here)) if _is_behind(key, after)])

    def _put(self, key: str, data: bytes) -> None:
        staged = StagedFile(self._root, key)
        try:
            self._open(staged)
            staged.write(data)
            staged.publish()
        finally:
            staged.discard()

    def _open(self, staged: StagedFile) -> None:
        if not self._is_swept:
            self._is_swept = True
            with suppress(OSError):
                # What earlier processes left may be what fills the disk.
                sweep(self._root)
        staged.open()

    def _get(self, key: str) -> bytes:
        with self._opened(key) as file:
            return file.read()

    def _opened(self, key: str) -> BinaryIO:
        *folders, name = key.split("/")
        try:
            with walked(self._root, folders) as way:
                return os.fdopen(open_file(name, directory=way[-1]), "rb", buffering=0)
        except FileNotFoundError:
            raise NotFoundError(key) from None

    def _beginning(self, key: str, count: int) -> bytes:
        with self._opened(key) as file:
            return file.read(count)

    def _delete(self, key: str) -> None:
        *folders, name = key.split("/")
        with suppress(FileNotFoundError), walked(self._root, folders) as way:
            with changing(way[-1]):
                unlink(name, directory=way[-1])
            os.fsync(way[-1])
        sweep(self._root, key)

    def _delete_folder(self, folder: str) -> None:
        *above, name = folder.split("/")
        with suppress(FileNotFoundError), walked(self._root, above) as way:
            for _, names, _, inside in os.fwalk(name, topdown=False, dir_fd=way[-1]):
                for each in names:
                    _remove_empty(each, directory=inside)
            _remove_empty(name, directory=way[-1])
            os.fsync(way[-1])
        sweep(self._root)

    def _names(self, folder: str) -> list[str]:
        """List what is in a folder, in order; what is one itself ends in a slash, as the folder does."""
        try:
            with walked(self._root, folder.rstrip("/").split("/")) as way, os.scandir(way[-1]) as entries:
                return sorted(f"{folder}{_name(entry)}" for entry in entries if _is_ours(entry))
        except FileNotFoundError:
            return []


def _remove_empty(name: str, *, directory: int) -> None:
    try:
        os.rmdir(name, dir_fd=directory)
    except FileNotFoundError:
        return
    except OSError as error:
        # Something is in it, or it is a link to one.
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise


def _is_ours(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)


def _name(entry: os.DirEntry[str]) -> str:
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def _is_behind(key: str, after: str) -> bool:
    """Say whether a key, or something in a folder, comes behind another key."""
    return key > after or (key.endswith("/") and after.startswith(key))


async def _parts(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    while part := await _in_thread(lambda: file.read(_READ_BYTES)):
        yield part


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await run_to_end(work)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise misplaced() from None
        raise UnavailableError("the object store is away or full", reason="STORAGE_UNAVAILABLE") from error
