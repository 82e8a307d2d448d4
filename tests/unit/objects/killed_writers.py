"""Puts objects in children, the n-th of which is killed before its n-th call to the file system, until one survives.

Run with two arguments: the directory, and `put` or `put_stream`. Prints how many calls there are.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from control_plane.objects.bucket_local import LocalBucket

KEY: Final = "storage/org_1/a/b.pem"
OLD, NEW = b"old" * 1000, b"new" * 2000
# Also each part that is asked for, so that one dies while it writes.
CALLS: Final = {"open", "os.mkdir", "os.rename", "os.remove", "os.scandir", "fcntl.flock", "part"}


def die_before(limit: int) -> None:
    """Kill this process before its call of that number."""
    calls = 0

    def count(event: str, _: object) -> None:
        nonlocal calls
        if event in CALLS:
            if calls == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1

    sys.addaudithook(count)


async def source() -> AsyncIterator[bytes]:
    for begin in range(0, len(NEW), 1500):
        sys.audit("part")
        yield NEW[begin : begin + 1500]


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def kill_everywhere(root: Path, how: str) -> int:
    for limit in range(200):
        bucket = LocalBucket(root / str(limit))
        before = OLD if limit % 2 else None
        if before is not None:
            bucket._put(KEY, before)
        child = os.fork()
        if not child:
            die_before(limit)
            asyncio.run(bucket.put(KEY, NEW) if how == "put" else bucket.put_stream(KEY, source()))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        path = root / str(limit) / KEY
        assert (path.read_bytes() if path.exists() else None) in {before, NEW}, limit
        # What is left of it goes with the object, or with the first put of another process.
        if limit % 4 < 2:
            bucket._delete(KEY)
            assert files(root / str(limit)) == [], limit
        else:
            LocalBucket(root / str(limit))._put(KEY, NEW)
            assert files(root / str(limit)) == [path], limit
        if os.waitstatus_to_exitcode(status) == 0:
            return limit
    raise AssertionError("it has no end")


if __name__ == "__main__":
    print(kill_everywhere(Path(sys.argv[1]), sys.argv[2]))  # noqa: T201 the result
