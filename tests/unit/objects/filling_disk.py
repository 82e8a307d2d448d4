"""Puts objects on a disk that fills up at each point, in a process of its own whose limits are its own.

Run with two arguments: the directory, and `put` or `put_stream`. The n-th call that makes, writes, names or syncs
something fails with ENOSPC; then there is space again. Prints how many calls there are.
"""

import asyncio
import errno
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from control_plane.errors import UnavailableError
from control_plane.objects.bucket_local import LocalBucket

KEY: Final = "storage/org_1/a/b.pem"
FOREIGN: Final = "storage/org_2/a/b.pem"
OLD, NEW, OTHERS = b"old" * 1000, b"new" * 20_000, b"another tenant's"
# What takes space, or may find only now that there is none.
CALLS: Final = ("mkdir", "open", "write", "fsync", "rename")


class FullDisk:
    """The calls of this process, of which one fails."""

    def __init__(self) -> None:
        self.left = -1
        for name in CALLS:
            setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def checked(path: Any, *args: Any, **kwargs: Any) -> Any:
            if call.__name__ == "open" and not args[0] & os.O_CREAT:
                return call(path, *args, **kwargs)
            # A directory that is there already is told before there is no space for it.
            made = call(path, *args, **kwargs) if call.__name__ == "mkdir" else None
            self.left -= 1
            if self.left == 0:
                if call.__name__ == "mkdir":
                    os.rmdir(path, dir_fd=kwargs.get("dir_fd"))
                raise OSError(errno.ENOSPC, "No space left on device")
            return made if call.__name__ == "mkdir" else call(path, *args, **kwargs)

        return checked


async def source() -> AsyncIterator[bytes]:
    for begin in range(0, len(NEW), 10_000):
        yield NEW[begin : begin + 10_000]


async def put(bucket: LocalBucket, how: str) -> None:
    await (bucket.put(KEY, NEW) if how == "put" else bucket.put_stream(KEY, source()))


async def outcome(bucket: LocalBucket, how: str) -> str:
    """Put, and return the reason why that was not done."""
    try:
        await put(bucket, how)
    except UnavailableError as error:
        return error.code
    return ""


async def fail_everywhere(root: Path, how: str) -> int:
    disk = FullDisk()
    for strike in range(1, 200):
        struck = False
        for before in (None, OLD):
            bucket = LocalBucket(root / f"{strike}-{before is None}")
            await bucket.put(FOREIGN, OTHERS)
            if before is not None:
                await bucket.put(KEY, before)
            disk.left = strike
            said = await outcome(bucket, how)
            was_struck, disk.left = disk.left <= 0, -1
            struck |= was_struck
            assert said == ("STORAGE_UNAVAILABLE" if was_struck else ""), (strike, said)
            await check(bucket, before, was_struck=was_struck)
            await put(bucket, how)
            assert await bucket.get(KEY) == NEW
        if not struck:
            return strike - 1
    raise AssertionError("it has no end")


async def check(bucket: LocalBucket, before: bytes | None, *, was_struck: bool) -> None:
    """See that the object is what it was, or what it became; that the other tenant's is read; and that none is left."""
    keys = sorted([key async for key in bucket.keys_below("storage")])
    if KEY in keys:
        # Where only the directory could not be synced, it may be the new one: it is whole then.
        assert await bucket.get(KEY) in ((before, NEW) if was_struck else (NEW,))
    else:
        assert before is None
        assert was_struck
    assert await bucket.get(FOREIGN) == OTHERS
    assert list((bucket._root / ".staging").iterdir()) == []


async def fail_by_size(root: Path, how: str) -> None:
    """Let the kernel cut the write itself, as a disk does whose last blocks are taken."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1, 100, len(NEW) // 2, len(NEW) - 1):
        bucket = LocalBucket(root / f"limit-{limit}")
        await bucket.put(FOREIGN, OTHERS)
        await bucket.put(KEY, OLD)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        assert await outcome(bucket, how) == "STORAGE_UNAVAILABLE", limit
        await check(bucket, OLD, was_struck=True)
        assert await bucket.get(KEY) == OLD
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        await put(bucket, how)
        assert await bucket.get(KEY) == NEW


if __name__ == "__main__":
    directory, kind = Path(sys.argv[1]), sys.argv[2]
    asyncio.run(fail_by_size(directory, kind))
    print(asyncio.run(fail_everywhere(directory, kind)))  # noqa: T201 the result
