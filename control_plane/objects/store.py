"""A tenant's objects. Nothing reaches a bucket, nor leaves it, but through the tenant's own key."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog

from control_plane.canary import MARKER_BYTES, Canaries
from control_plane.config_file import CONFIG_FILE, SettingsError
from control_plane.errors import ConflictError, NotFoundError
from control_plane.keys.model import FIRST_OBJECT_VERSION
from control_plane.keys.sealing.objects import storage_version
from control_plane.keys.sealing.segments import HEADER_BYTES
from control_plane.keys.service import TenantKeys
from control_plane.objects.bucket import Bucket
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.bucket_obstore import ObstoreBucket
from control_plane.objects.paths import ObjectName, folder_key, object_key, object_name
from control_plane.postgres.placement import Placement
from control_plane.settings import ObjectsSettings

_SCHEMES: Final = frozenset({"s3", "gs", "az"})
# Where a bucket is, and how it is reached. Others of obstore's are credentials, or weaken what we rely on.
_OPTIONS: Final = frozenset({
    "account_name", "authority_host", "checksum_algorithm", "connect_timeout", "disable_bulk_delete", "endpoint",
    "region", "request_payer", "server_side_encryption", "sse_bucket_key_enabled", "sse_kms_key_id", "timeout",
    "virtual_hosted_style_request",
})  # fmt: skip
# obstore panics at what is no address, and there might be a secret in what has more.
_ENDPOINT: Final = re.compile(
    r"https?://(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._/-]*)?",
    re.ASCII,
)

_CHANNEL: Final = "object"
_DELETED_AT_ONCE: Final = 16
_log: Final = structlog.get_logger(__name__)


def open_bucket(
    location: str | Path, *, options: Mapping[str, str] | None = None, credentials_file: Path | None = None
) -> Bucket:
    """Open the bucket at a directory, or at a URL such as `s3://bucket/prefix` with `options` for its service.

    Nothing is written or sent yet. Credentials are in the file or in the environment, and nowhere else.

    Raises:
        ValueError: the URL is of no kind that can be used, or has more than a bucket and a prefix; or an option is not
            one of where the bucket is.
        UnusableCredentialsError: the file of credentials cannot be used.
    """
    place = str(location)
    url = urlsplit(place)
    if "://" not in place or (url.scheme == "file" and not url.netloc):
        if options or credentials_file:
            raise ValueError("a directory takes no options, and no credentials")
        return LocalBucket(Path(url.path if url.scheme == "file" else place))
    if url.scheme not in _SCHEMES or url.query or url.fragment or "@" in url.netloc:
        # Not repeated: there may be a secret in it.
        raise ValueError(f"no bucket: its URL has one of {sorted(_SCHEMES)}, a bucket and a prefix, and nothing else")
    strange = sorted(set(options or {}) - _OPTIONS)
    if strange:
        raise ValueError(f"no bucket has {strange}: its options are {sorted(_OPTIONS)}, and credentials go elsewhere")
    if not _ENDPOINT.fullmatch((options or {}).get("endpoint", "https://default")):
        raise ValueError("no bucket is at such an endpoint: it has http:// or https://, a host, a port and a path")
    if credentials_file is not None and url.scheme != "s3":
        raise ValueError("only an s3:// bucket takes a file of credentials; others find theirs in the environment")
    return ObstoreBucket.at(place, options=options, credentials_file=credentials_file)


def bucket_of(settings: ObjectsSettings) -> Bucket:
    """Open the bucket that a process is told; raise SettingsError where it is none."""
    try:
        return open_bucket(settings.location, options=settings.options, credentials_file=settings.credentials_file)
    except ValueError as error:
        message = f"`objects` in {CONFIG_FILE} cannot be used: {error}"
        raise SettingsError(message) from None


class ObjectStore:
    """The objects of all tenants of a cell; each context works on those of one tenant, which `of` gives it."""

    def __init__(self, bucket: Bucket, keys: TenantKeys, canaries: Canaries) -> None:
        """Keep objects in `bucket`, sealed by `keys`; hold back those with another tenant's marker of `canaries`."""
        self.bucket = bucket
        self.canaries = canaries
        self._keys = keys

    def of(self, placement: Placement) -> "TenantObjects":
        """Return the objects of one tenant. Nothing is read yet.

        Raises:
            InvalidArgumentError: the tenant's id is not of the form that leads to a folder of its own.
        """
        return TenantObjects(self, self._keys, placement)


class TenantObjects:
    """The objects of one tenant, under `/storage/{tenant_id}/`, and of no other, whatever is passed.

    An object has versions, each a content of its own that lies beside the others until it is deleted; who knows of one
    version only needs no others. Each is sealed for its tenant, its path and its version, and opens in no other's
    place, nor without the vault.

    Paths are those of `paths.py`; any other raises InvalidArgumentError before anything is touched. All methods raise
    UnavailableError when the bucket, the vault or the database is away.
    """

    def __init__(self, store: ObjectStore, keys: TenantKeys, placement: Placement) -> None:
        """Take what `ObjectStore.of` has."""
        self._bucket = store.bucket
        self._canaries = store.canaries
        self._keys = keys
        self._placement = placement
        # Refused here already, should it be no tenant's id.
        folder_key(placement.tenant_id, "")

    async def put(self, path: str, *, plaintext: bytes, version: int = FIRST_OBJECT_VERSION) -> None:
        """Store this version of the object, in place of what was there; durable on return, whole or not at all."""
        key = self._key(path, version)
        sealed = await self._keys.encrypt(
            self._placement, plaintext, object_name=self._name(path), object_version=version
        )
        await self._bucket.put(key, sealed)
        await self._seal_with_newest(path, version, sealed[:HEADER_BYTES])

    async def put_stream(
        self, path: str, *, plaintext: AsyncIterable[bytes], version: int = FIRST_OBJECT_VERSION
    ) -> None:
        """Do what `put` does with what is too large for it, in bounded memory, as `plaintext` comes.

        Where `plaintext` raises, its error is raised as it is. Then, and on a cancellation, what was there stays.

        Raises:
            ConflictError: it took so long that its key was retired meanwhile; what was there stays.
        """
        key = self._key(path, version)
        sealed = self._keys.encrypt_stream(
            self._placement, plaintext, object_name=self._name(path), object_version=version
        )
        start = bytearray()

        async def seen() -> AsyncIterator[bytes]:
            async for part in sealed:
                start.extend(part[: HEADER_BYTES - len(start)])
                yield part

        async with aclosing(sealed):
            await self._bucket.put_stream(key, seen())
        await self._seal_with_newest(path, version, bytes(start))

    async def get(self, path: str, *, version: int = FIRST_OBJECT_VERSION) -> bytes:
        """Return this version of the object, however it was put.

        Raises:
            NotFoundError: there is none at this path.
            IntegrityError: what lies there is not what this tenant stored at this path as this version.
            KeyRetiredError: it is sealed by a version of the tenant's key that is not used any more.
            BreachError: another tenant's marker is in it.
        """
        sealed = await self._bucket.get(self._key(path, version))
        plaintext = await self._keys.decrypt(
            self._placement, sealed, object_name=self._name(path), object_version=version
        )
        self._canaries.check(plaintext, own=self._placement.uid, channel=_CHANNEL)
        return plaintext

    def get_stream(self, path: str, *, version: int = FIRST_OBJECT_VERSION) -> AsyncGenerator[bytes, None]:
        """Give out what `get` returns in parts, in bounded memory, as they are read and found to be in order.

        No part is ever given out that is not authenticated, in its place. That the object was cut is known at its end
        only: until the stream has ended without an error, what it gave may be a mere beginning. Who stops early closes
        it (`contextlib.aclosing`).

        Raises:
            NotFoundError, IntegrityError, KeyRetiredError, BreachError: as `get` does, those of what is in it at any
                part or at the end.
            ConflictError: the version was replaced while it was read.
        """
        return self._opened(self._key(path, version), self._name(path), version)

    async def delete(self, path: str, *, version: int = FIRST_OBJECT_VERSION) -> None:
        """Remove this version of the object, durably. Safe to call again, and where there was none."""
        await self._bucket.delete(self._key(path, version))

    async def clear(self, *, most: int) -> int:
        """Delete up to so many of all that lies in the tenant's folder, whatever it is called; return how many it was.

        Fewer than `most` are all that there were. Safe to call again.
        """
        folder, deleted = folder_key(self._placement.tenant_id, ""), 0
        batch: list[str] = []
        async for key in self._bucket.keys_below(folder):
            batch.append(key)
            deleted += 1
            if len(batch) == _DELETED_AT_ONCE or deleted == most:
                await self._delete_all(batch)
                batch = []
            if deleted == most:
                return deleted
        await self._delete_all(batch)
        await self._bucket.delete_folder(folder)
        return deleted

    async def is_empty(self) -> bool:
        """Say whether nothing lies in the tenant's folder."""
        async for _ in self._bucket.keys_below(folder_key(self._placement.tenant_id, "")):
            return False
        return True

    async def sealed_by(self, path: str, *, version: int = FIRST_OBJECT_VERSION) -> int:
        """Say which version of the tenant's key this version of the object asks for. What it says is not proven.

        Raises:
            NotFoundError: there is none at this path.
            IntegrityError: what lies there is no object.
        """
        return storage_version(await self._bucket.beginning(self._key(path, version), HEADER_BYTES))

    async def reseal(self, path: str, *, version: int = FIRST_OBJECT_VERSION) -> int:
        """Seal this version of the object anew, under the newest key; return how many bytes that took.

        It can be read at every moment. Who writes or deletes it meanwhile is not overwritten.

        Raises:
            NotFoundError, ConflictError: it was deleted, or written, meanwhile.
            IntegrityError, KeyRetiredError: as `get` does; then it stays as it is.
            PreconditionError: the bucket cannot do this (`Bucket.replace`); then it stays as it is.
        """
        key, name, count = self._key(path, version), self._name(path), 0

        async def resealed(old: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
            nonlocal count
            sealed = self._keys.reseal_stream(self._placement, old, object_name=name, object_version=version)
            async with aclosing(sealed):
                async for part in sealed:
                    count += len(part)
                    yield part

        await self._bucket.replace(key, resealed)
        return count

    async def list(self, folder: str = "", *, after: ObjectName | None = None) -> AsyncIterator[ObjectName]:
        """Go through all versions of the tenant's objects below `folder`, those behind `after`, in the bucket's order.

        What has no name that an object can have, or lies elsewhere, is left out: nobody put it there through here.
        """
        tenant_id = self._placement.tenant_id
        behind = "" if after is None else self._key(after.path, after.version)
        async for key in self._bucket.keys_below(folder_key(tenant_id, folder), after=behind):
            name = object_name(tenant_id, key)
            if name is None:
                _log.warning("stray_object", tenant=tenant_id, key=key)
            else:
                yield name

    async def _delete_all(self, keys: Sequence[str]) -> None:
        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(self._bucket.delete(key))

    async def _seal_with_newest(self, path: str, version: int, start: bytes) -> None:
        """Seal anew what was just written, where its key was replaced meanwhile: whoever seals anew may be past it."""
        if storage_version(start) < await self._keys.storage_version(self._placement):
            # Whoever was faster has done the same, or looks himself.
            with suppress(ConflictError, NotFoundError):
                await self.reseal(path, version=version)

    async def _opened(self, key: str, name: str, version: int) -> AsyncGenerator[bytes, None]:
        async with (
            aclosing(self._bucket.get_stream(key)) as sealed,
            aclosing(
                self._keys.decrypt_stream(self._placement, sealed, object_name=name, object_version=version)
            ) as opened,
        ):
            # A marker may lie across two parts.
            last = b""
            async for part in opened:
                self._canaries.check(last + part, own=self._placement.uid, channel=_CHANNEL)
                last = (last + part)[-MARKER_BYTES:]
                yield part

    def _key(self, path: str, version: int) -> str:
        return object_key(self._placement.tenant_id, path, version=version)

    def _name(self, path: str) -> str:
        """Name the object as all its versions are named: what its seal is bound to, beside the version."""
        return object_key(self._placement.tenant_id, path)
