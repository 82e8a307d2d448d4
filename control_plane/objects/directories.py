"""Directories that are walked part by part, through no link, so that a link planted on the way changes nothing.

Everything here blocks, and speaks of an open directory by its descriptor.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from control_plane.errors import FieldViolation, InvalidArgumentError

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking, or a FIFO in an object's place would hold the thread for ever.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def walked(root: Path, folders: Sequence[str], *, make: bool = False) -> Iterator[list[int]]:
    """Open a directory below `root`, and all on the way to it, none of them through a link. `root` alone may be one."""
    with ExitStack() as opened:
        way = [os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)]
        opened.callback(os.close, way[-1])
        for folder in folders:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o700, dir_fd=way[-1])
            way.append(_open_directory(folder, directory=way[-1]))
            opened.callback(os.close, way[-1])
        yield way


def make_root(root: Path) -> None:
    """Make `root`, durably, where it is not there."""
    missing = [path for path in (root, *root.parents) if not path.exists()]
    if missing:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in missing:
        with walked(path.parent, []) as (parent,):
            os.fsync(parent)


def open_file(name: str, *, directory: int) -> int:
    """Open a plain file to read; raise FileNotFoundError, or InvalidArgumentError for all that is no plain file."""
    # Asked first: opening a device may do something already.
    refuse_all_but_a_file(name, directory=directory)
    descriptor = os.open(name, _READ, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise misplaced()
    return descriptor


def refuse_all_but_a_file(name: str, *, directory: int) -> None:
    """Raise InvalidArgumentError when there is something of this name that is no plain file."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise misplaced()


def unlink(name: str, *, directory: int) -> None:
    """Remove a name, where it is there."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def misplaced() -> InvalidArgumentError:
    """Say what is wrong with a path on which something else was found than directories and an object."""
    description = "leads through a link, or to something that is no object"
    return InvalidArgumentError(FieldViolation(field="path", description=description))


def _open_directory(name: str, *, directory: int) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise misplaced() from None
        raise
