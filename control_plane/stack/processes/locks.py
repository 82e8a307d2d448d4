"""Who holds a state directory.

Two locks tell. The first is inherited by every process of the stack, so it is free only when all are gone; the second
belongs to the supervisor alone, and the kernel tells its pid.
"""

import asyncio
import fcntl
import os
import struct
import time
from pathlib import Path
from typing import Final, Self

from control_plane.stack.failures import StackError

# `struct flock` of 64-bit Linux: type, whence, start, length, pid.
_FLOCK: Final = "hhqqi4x"
_POLL_S: Final = 0.02


class Hold:
    """Both locks, taken. They end with this process, and the first one with its last child."""

    def __init__(self, for_all: int, for_one: int) -> None:
        """Hold what these descriptors have locked."""
        self.for_all = for_all
        self._for_one = for_one

    @classmethod
    def take(cls, for_all: Path, for_one: Path) -> Self | None:
        """Become the supervisor; None when another is. Others' children may still be there: see `wait_alone`.

        The second file must not be opened by anything else in this process: closing it would give the lock back.
        """
        one = os.open(for_one, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            os.close(one)
            return None
        return cls(os.open(for_all, os.O_RDWR | os.O_CREAT, 0o600), one)

    def is_alone(self) -> bool:
        """Take the lock that children inherit. False while processes of an earlier run have it."""
        try:
            fcntl.flock(self.for_all, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    async def wait_alone(self, for_all: Path, *, within_s: float) -> None:
        """Wait until the processes of an earlier run have ended, and take their lock.

        Raises:
            StackError: when some do not end in time.
        """
        deadline = time.monotonic() + within_s
        while not self.is_alone():
            if time.monotonic() > deadline:
                others = {pid: name for pid, name in processes_with(for_all).items() if pid != os.getpid()}
                listed = ", ".join(f"{name} ({pid})" for pid, name in others.items())
                raise StackError(
                    f"processes of an earlier run still use {for_all.parent}: {listed or 'another user owns them'}",
                    remedy=f"end them with `kill -9 {' '.join(map(str, others)) or 'PID'}`, then try again",
                )
            await asyncio.sleep(_POLL_S)

    def release(self) -> None:
        """Give both back."""
        os.close(self.for_all)
        os.close(self._for_one)


def holder_of(for_one: Path) -> int | None:
    """Return the supervisor's pid; None when there is none."""
    try:
        descriptor = os.open(for_one, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else int(pid)


def is_held(for_all: Path) -> bool:
    """Whether any process of a stack lives."""
    try:
        descriptor = os.open(for_all, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def processes_with(path: Path) -> dict[int, str]:
    """Return the processes that have a file open, by pid, each with its name. Sees those of our own user."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if path in [entry.readlink() for entry in (process / "fd").iterdir()]:
                found[int(process.name)] = (process / "comm").read_text().strip()
        except OSError:
            continue
    return found
