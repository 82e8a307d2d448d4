"""Files that only their owner may read, and that are there whole or not at all.

A file is created by a hard link to a finished, synced one: never half, never replaced, and of two that make it at once
one wins. Being killed leaves at most a dot file beside it, which the next call for the same name takes away. All
functions block: call them in a thread.
"""

import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_SUFFIX: Final = ".new"


class ExposedKeyError(Exception):
    """A secret lies open to others, or is not a plain file. Says what to do; the caller is an operator."""


def read(path: Path) -> bytes:
    """Return the content; raise FileNotFoundError, or ExposedKeyError where others than the owner may read it."""
    descriptor = _open_file_itself(path)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise ExposedKeyError(f"{path} is not a regular file: put the key back from your backup of it")
    with os.fdopen(descriptor, "rb") as file:
        if mode & _OTHERS:
            raise ExposedKeyError(
                f"{path} is open to others (mode {stat.S_IMODE(mode):04o}): run `chmod 600 {path}`, and find out who "
                "read it, for whoever has the key and a copy of the data can read the data"
            )
        return file.read()


def create(path: Path, content: bytes) -> bool:
    """Create the file with mode 0600 and return True, or leave the one that is there and return False.

    Either way the file is durable on return.
    """
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_SUFFIX}")
    _write_synced(staged, content)
    try:
        os.link(staged, path)
        created = True
    except FileExistsError:
        created = False
    except FileNotFoundError:
        # Another made the file meanwhile and has already taken our dot file away.
        if not path.exists():
            raise
        created = False
    _remove_staged(path)
    sync_directory(path.parent)
    return created


def replace(path: Path, content: bytes) -> None:
    """Put the content in place of what was there, with mode 0600. Readers see the old or the new; durable on return."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_SUFFIX}")
    _write_synced(staged, content)
    staged.replace(path)
    sync_directory(path.parent)


def remove(path: Path) -> None:
    """Remove the file, where it is there, and every other name of its content; durable on return."""
    path.unlink(missing_ok=True)
    _remove_staged(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_file_itself(path: Path) -> int:
    # Not blocking, or a FIFO in the file's place would hold the thread for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except OSError:
        if path.is_symlink():
            raise ExposedKeyError(f"{path} is a symbolic link: put the key itself there") from None
        raise


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _remove_staged(path: Path) -> None:
    # By now the file is there (or is not wanted), so nobody's dot file for it is of use any more.
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries]
    # Exactly ours: a file of the name `key.pub` may be in the making beside `key`.
    staged = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+{re.escape(_SUFFIX)}")
    for name in names:
        if staged.fullmatch(name):
            path.with_name(name).unlink(missing_ok=True)
