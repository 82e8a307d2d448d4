"""The promise of a bucket: bytes under keys.

`bucket_local.py` keeps it with a directory, `bucket_obstore.py` with S3, GCS, Azure or memory;
`tests/contracts/test_bucket.py` is run over each.
"""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from typing import Final, Protocol

Rewriting = Callable[[AsyncIterable[bytes]], AsyncIterable[bytes]]
"""Makes a new content of an old one, as it comes."""

REPLACED_BYTES: Final = 32 * 1024 * 1024
"""What every bucket replaces; one may refuse what is longer."""


class Bucket(Protocol):
    """Holds bytes under keys such as `storage/org_1/a.pem`, which `paths.py` has made: parts joined by `/`.

    A call that is cancelled SHOULD NOT have an effect after it has ended; over a network nobody can promise it.

    No key MAY be a folder of another: a directory cannot hold both.

    Every method MAY be called from any task at once, and MUST NOT block the loop. Every method raises UnavailableError
    when the disk or the network behind it is away or full, and within a bounded time.
    """

    async def put(self, key: str, data: bytes) -> None:
        """Store `data`, in place of what was there.

        MUST be durable on return, and seen whole or not at all, also after being killed in: never torn, never mixed
        with the older content. Of several at once, one wins. Safe to call again.
        """
        ...

    async def put_stream(self, key: str, parts: AsyncIterable[bytes]) -> None:
        """Do what `put` does with what the parts are together, while holding a bounded number of them: 64 MiB at most.

        Where `parts` raises, that error MUST be raised as it is. Then, and where the call is cancelled, what was there
        MUST stay, and nothing of the new content: what was sent of it SHOULD be taken back. `parts` is not closed.
        Every bucket takes 64 GiB; what is longer MAY be refused.
        """
        ...

    async def get(self, key: str) -> bytes:
        """Return what was put last; raise NotFoundError when there is nothing. The key's content is not judged."""
        ...

    def get_stream(self, key: str) -> AsyncGenerator[bytes, None]:
        """Give out what `get` returns in parts, while holding a bounded number of them: 64 MiB at most.

        All parts MUST be of one put. Where the object is replaced or deleted meanwhile, the rest of it MAY be gone:
        ConflictError or NotFoundError says so. Who stops early closes it.
        """
        ...

    async def beginning(self, key: str, count: int) -> bytes:
        """Return the first `count` bytes of what was put last, or all where there are fewer.

        Raises NotFoundError when there is nothing.
        """
        ...

    async def replace(self, key: str, rewritten: Rewriting) -> None:
        """Put what `rewritten` makes of the content in its place, as `put_stream` does, unless somebody was faster.

        Where the key was put or deleted since the content was read, that MUST stay as it is, and ConflictError or
        NotFoundError says so: no moment is there between the last look and the change. A bucket whose service does not
        keep this promise MUST find out, and raise PreconditionError (`BUCKET_UNCONDITIONAL`) before anything is
        changed. What is longer than `REPLACED_BYTES` MAY be refused (PreconditionError, `OBJECT_TOO_LARGE`).
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove the object, durably, with whatever an interrupted put of it left. Fine where there is none."""
        ...

    async def delete_folder(self, folder: str) -> None:
        """Remove what is left of a folder of which all objects are deleted, and of puts that were interrupted there.

        MUST NOT remove an object. Fine where nothing is left; a bucket that has no folders has nothing to do.
        """
        ...

    def keys_below(self, folder: str, *, after: str = "") -> AsyncIterator[str]:
        """Go through the keys below `folder`, those behind `after` only; what changes meanwhile MAY be missed.

        Their order is the bucket's own, and MUST be the same each time: who goes on behind the last key that it has
        seen, present still or not, misses none that was there all the while.
        `storage/org_1` lists `storage/org_1/a` and never `storage/org_10/a`. Nothing there is an empty listing.
        """
        ...
