"""A tenant's objects. Nothing reaches a bucket, nor leaves it, but through the tenant's own key."""

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from control_plane.keys.service import TenantKeys
from control_plane.objects.bucket import Bucket
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.bucket_obstore import ObstoreBucket
from control_plane.objects.paths import folder_key, object_key
from control_plane.postgres.placement import Placement

_URL: Final = "://"
_FILE_URL: Final = "file://"


def open_bucket(location: str | Path, *, options: Mapping[str, str] | None = None) -> Bucket:
    """Open the bucket at a directory, or at a URL such as `s3://bucket/prefix` with obstore's `options` for it.

    Nothing is read, written or sent yet. Raises ValueError for a URL of no known kind.
    """
    place = str(location)
    if place.startswith(_FILE_URL):
        place = place.removeprefix(_FILE_URL)
    if _URL in place:
        return ObstoreBucket.at(place, options=options)
    return LocalBucket(Path(place))


class ObjectStore:
    """Objects under `/storage/{tenant_id}/`, sealed for their tenant and their path.

    A copy of an object does not open under another path, nor for another tenant, nor without the vault. Paths are those
    of `paths.py`; any other raises InvalidArgumentError before anything is touched. All methods raise UnavailableError
    when the bucket, the vault or the database is away.
    """

    def __init__(self, bucket: Bucket, keys: TenantKeys) -> None:
        """Keep objects in `bucket`, sealed by `keys`."""
        self._bucket = bucket
        self._keys = keys

    async def put(self, placement: Placement, path: str, *, plaintext: bytes) -> None:
        """Store the object, in place of what was there; durable on return, whole or not at all."""
        key = object_key(placement.tenant_id, path)
        await self._bucket.put(key, await self._keys.encrypt(placement, plaintext, object_name=key))

    async def get(self, placement: Placement, path: str) -> bytes:
        """Return the object.

        Raises:
            NotFoundError: there is none at this path.
            IntegrityError: what lies there is not what this tenant stored at this path.
        """
        key = object_key(placement.tenant_id, path)
        return await self._keys.decrypt(placement, await self._bucket.get(key), object_name=key)

    async def delete(self, placement: Placement, path: str) -> None:
        """Remove the object, durably. Safe to call again, and where there was none."""
        await self._bucket.delete(object_key(placement.tenant_id, path))

    async def list(self, placement: Placement, folder: str = "") -> AsyncIterator[str]:
        """Go through the paths of the tenant's objects below `folder`, in no promised order."""
        whole = folder_key(placement.tenant_id, "")
        async for key in self._bucket.keys_below(folder_key(placement.tenant_id, folder)):
            yield key.removeprefix(f"{whole}/")
