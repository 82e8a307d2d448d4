"""Files in the making: written beside, synced, and only then given their name. Everything here blocks.

A file that is being written is locked, and the kernel frees the lock of a holder that has died. So what a killed
process left is told from what another one is writing at this moment, and `sweep` takes it away.
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from control_plane.errors import ConflictError, NotFoundError
from control_plane.objects.directories import make_root, refuse_all_but_a_file, unlink, walked

_STAGING: Final = ".staging"
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TOUCH: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class StagedFile:
    """An object in the making, of which nothing is seen before `publish`.

    One call at a time, in this order: `open`, any number of `write`, `publish` or not, and `discard` in any case.
    """

    def __init__(self, root: Path, key: str) -> None:
        """Prepare the object `key` below `root`; nothing is touched yet."""
        self._root = root
        self._prefix = _prefix(key)
        *self._folders, self._name = key.split("/")
        self._opened = ExitStack()
        self._staging = self._file = -1
        self._staged = ""

    def open(self) -> None:
        """Make the directories and the file; raise InvalidArgumentError where something else lies in their way."""
        make_root(self._root)
        with walked(self._root, self._folders, make=True) as way:
            refuse_all_but_a_file(self._name, directory=way[-1])
        self._staging = self._opened.enter_context(walked(self._root, [_STAGING], make=True))[-1]
        while not self._create():
            pass

    def write(self, data: bytes) -> None:
        """Add `data` at the end."""
        left = memoryview(data)
        while left:
            left = left[os.write(self._file, left) :]

    def publish(self, *, instead_of: int | None = None) -> None:
        """Put it in the object's place, durably. Raises like `open`.

        Where it is to be there `instead_of` an open file, it is put in the place of nothing else: raises ConflictError,
        or NotFoundError, where that is not there any more.
        """
        os.fsync(self._file)
        with walked(self._root, self._folders, make=True) as way:
            with changing(way[-1], alone=instead_of is not None):
                refuse_all_but_a_file(self._name, directory=way[-1])
                if instead_of is not None:
                    self._refuse_all_but(instead_of, directory=way[-1])
                os.rename(self._staged, self._name, src_dir_fd=self._staging, dst_dir_fd=way[-1])
                self._staged = ""
            # All of them, also those that were there: who made them may have been killed before syncing them.
            for directory in reversed(way):
                os.fsync(directory)

    def discard(self) -> None:
        """Remove the file unless it was published, and give back what is open. Safe to call again; raises nothing."""
        # A file that cannot be removed is not locked any more, and the next sweep finds it.
        with self._opened, suppress(OSError):
            if self._staged:
                unlink(self._staged, directory=self._staging)

    def _refuse_all_but(self, file: int, *, directory: int) -> None:
        # While it is open, no other file is given its number.
        try:
            found = os.stat(self._name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            raise NotFoundError(self._name) from None
        if not os.path.samestat(found, os.fstat(file)):
            raise ConflictError(f"{self._name} was replaced meanwhile")

    def _create(self) -> bool:
        """Make the file and lock it; say no where a sweep was quicker than the lock."""
        self._staged = f"{self._prefix}{secrets.token_hex(8)}"
        self._file = os.open(self._staged, _CREATE, 0o600, dir_fd=self._staging)
        self._opened.callback(os.close, self._file)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return os.fstat(self._file).st_nlink > 0


@contextmanager
def changing(directory: int, *, alone: bool = False) -> Iterator[None]:
    """Be one of those who change what names in a directory stand for, or the only one of all processes.

    To be held for no longer than a change takes.
    """
    fcntl.flock(directory, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        yield
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)


def sweep(root: Path, key: str | None = None) -> None:
    """Take away what killed processes left, of the object `key` or of all; what is being written stays."""
    prefix = "" if key is None else _prefix(key)
    with suppress(FileNotFoundError), walked(root, [_STAGING]) as way, os.scandir(way[-1]) as entries:
        for name in [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]:
            if name.startswith(prefix):
                _take_away_unless_locked(name, staging=way[-1])


def _take_away_unless_locked(name: str, *, staging: int) -> None:
    with suppress(FileNotFoundError, BlockingIOError), ExitStack() as opened:
        file = os.open(name, _TOUCH, dir_fd=staging)
        opened.callback(os.close, file)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlink(name, directory=staging)


def _prefix(key: str) -> str:
    return f"{hashlib.sha256(key.encode()).hexdigest()[:32]}."
