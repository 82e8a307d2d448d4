"""A bucket that is a directory of this machine.

obstore has one too, but as measured it writes through a symbolic link out of its directory, and syncs nothing. Here
each path is walked part by part from an open directory, and no link is followed, so that a link planted between a check
and a write changes nothing; and an object is written beside, synced, and only then given its name.

::

    ROOT/storage/<tenant>/…     objects, 0600, in directories of 0700
    ROOT/.staging/…             objects being written; what a killed process left there has no other use

Hard links need no refusal: a write gives the name to a new file and never goes into the old one, and a read of another
object's bytes does not decrypt (`store.py`). They are how backups are often made.
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from control_plane.errors import FieldViolation, InvalidArgumentError, NotFoundError, UnavailableError
from control_plane.threads import run_to_end

T = TypeVar("T")

_STAGING: Final = ".staging"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking, or a FIFO in an object's place would hold the thread for ever.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class LocalBucket:
    """Keeps the promise of `Bucket` with files. Several processes may use one directory at once."""

    def __init__(self, root: Path) -> None:
        """Keep objects below `root`, which is made when the first one is put. It alone may be a symbolic link."""
        self._root = root

    async def put(self, key: str, data: bytes) -> None:
        """See `Bucket`. Syncs the file and its directories."""
        await _in_thread(lambda: self._put(key, data))

    async def get(self, key: str) -> bytes:
        """See `Bucket`."""
        return await _in_thread(lambda: self._get(key))

    async def delete(self, key: str) -> None:
        """See `Bucket`."""
        await _in_thread(lambda: self._delete(key))

    async def keys_below(self, folder: str) -> AsyncIterator[str]:
        """See `Bucket`. One directory's names are held at a time."""
        folders = [folder]
        while folders:
            here = folders.pop()
            for name, is_folder in await _in_thread(partial(self._names, here)):
                if is_folder:
                    folders.append(f"{here}/{name}")
                else:
                    yield f"{here}/{name}"

    def _put(self, key: str, data: bytes) -> None:
        *folders, name = key.split("/")
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _walk(self._root, folders, make=True) as way, _walk(self._root, [_STAGING], make=True) as staging:
            _refuse_all_but_a_file(name, directory=way[-1])
            staged = f"{_staging_prefix(key)}{secrets.token_hex(8)}"
            try:
                _write_synced(staged, data, directory=staging[-1])
                os.rename(staged, name, src_dir_fd=staging[-1], dst_dir_fd=way[-1])
            except BaseException:
                _unlink(staged, directory=staging[-1])
                raise
            # All of them, also those that were there: who made them may have been killed before syncing them.
            for descriptor in reversed(way):
                os.fsync(descriptor)

    def _get(self, key: str) -> bytes:
        *folders, name = key.split("/")
        try:
            with _walk(self._root, folders) as way:
                descriptor = os.open(name, _READ, dir_fd=way[-1])
        except FileNotFoundError:
            raise NotFoundError(key) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _misplaced()
        with os.fdopen(descriptor, "rb") as file:
            return file.read()

    def _delete(self, key: str) -> None:
        *folders, name = key.split("/")
        with suppress(FileNotFoundError), _walk(self._root, folders) as way:
            _unlink(name, directory=way[-1])
            os.fsync(way[-1])
        with suppress(FileNotFoundError), _walk(self._root, [_STAGING]) as staging:
            with os.scandir(staging[-1]) as entries:
                names = [entry.name for entry in entries]
            for leftover in names:
                if leftover.startswith(_staging_prefix(key)):
                    _unlink(leftover, directory=staging[-1])

    def _names(self, folder: str) -> list[tuple[str, bool]]:
        try:
            with _walk(self._root, folder.split("/")) as way, os.scandir(way[-1]) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries if _is_ours(entry)]
        except FileNotFoundError:
            return []
        return found


@contextmanager
def _walk(root: Path, folders: list[str], *, make: bool = False) -> Iterator[list[int]]:
    """Open a directory below `root` and all on the way to it, none of them through a link."""
    with ExitStack() as opened:
        way = [os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)]
        opened.callback(os.close, way[-1])
        for folder in folders:
            if make:
                _make_directory(folder, directory=way[-1])
            way.append(_open_directory(folder, directory=way[-1]))
            opened.callback(os.close, way[-1])
        yield way


def _open_directory(name: str, *, directory: int) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise _misplaced() from None
        raise


def _make_directory(name: str, *, directory: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=directory)


def _write_synced(name: str, data: bytes, *, directory: int) -> None:
    with os.fdopen(os.open(name, _WRITE, 0o600, dir_fd=directory), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _refuse_all_but_a_file(name: str, *, directory: int) -> None:
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise _misplaced()


def _unlink(name: str, *, directory: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _is_ours(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)


def _staging_prefix(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}."


def _misplaced() -> InvalidArgumentError:
    description = "leads through a link, or to something that is no object"
    return InvalidArgumentError(FieldViolation(field="path", description=description))


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await run_to_end(work)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _misplaced() from None
        raise UnavailableError("the object store is away or full", reason="STORAGE_UNAVAILABLE") from error
