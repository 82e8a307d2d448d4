"""The promise of a bucket: bytes under keys.

`bucket_local.py` keeps it with a directory, `bucket_obstore.py` with S3, GCS, Azure or memory;
`tests/contracts/test_bucket.py` is run over each.
"""

from collections.abc import AsyncIterator
from typing import Protocol


class Bucket(Protocol):
    """Holds bytes under keys such as `storage/org_1/a.pem`, which `paths.py` has made: parts joined by `/`.

    A call that is cancelled SHOULD NOT have an effect after it has ended; over a network nobody can promise it.

    No key MAY be a folder of another: a directory cannot hold both.

    Every method MAY be called from any task at once, and MUST NOT block the loop. Every method raises UnavailableError
    when the disk or the network behind it is away or full.
    """

    async def put(self, key: str, data: bytes) -> None:
        """Store `data`, in place of what was there.

        MUST be durable on return, and seen whole or not at all, also after being killed in: never torn, never mixed
        with the older content. Of several at once, one wins. Safe to call again.
        """
        ...

    async def get(self, key: str) -> bytes:
        """Return what was put last; raise NotFoundError when there is nothing. The key's content is not judged."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the object, durably, with whatever an interrupted `put` of it left. Fine where there is none."""
        ...

    def keys_below(self, folder: str) -> AsyncIterator[str]:
        """Go through the keys below `folder`, in no promised order; what changes meanwhile MAY be missed.

        `storage/org_1` lists `storage/org_1/a` and never `storage/org_10/a`. Nothing there is an empty listing.
        """
        ...
