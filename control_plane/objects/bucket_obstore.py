"""Buckets that others run, through obstore: S3 and what speaks its protocol, GCS, Azure; and memory.

A stream is sent as a multipart upload, of which nothing is seen before it is complete, and read in ranges of one object
(`If-Match`), each a request of its own: so every request is short, none is held open by a slow reader, and no two
contents mix. An upload that is given up is ended; what a killed process had sent the service keeps, unseen, until a
rule of the bucket's removes it (`docs/objects.md`).
"""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import structlog
from obstore import open_writer_async
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import ObjectStore, from_url

from control_plane.errors import ConflictError, NotFoundError, UnavailableError
from control_plane.errors import PreconditionError as RefusedError
from control_plane.objects.bucket import REPLACED_BYTES, Rewriting
from control_plane.objects.credentials import read_credentials
from control_plane.threads import wait_to_end

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

# obstore would otherwise retry for three minutes, while a caller waits.
_MOST_RETRIES: Final = 3
_RETRY_TIMEOUT: Final = timedelta(seconds=10)
_CLIENT_DEFAULTS: Final = {"connect_timeout": "2s", "timeout": "30s"}
# S3 takes 10,000 parts of an object: 78 GiB of these. Each has to pass within the time of a request.
_PART_BYTES: Final = 8 * 1024 * 1024
_PARTS_AT_ONCE: Final = 2
# obstore asks for credentials again when they have five minutes left: so a new file is read a minute after it is there.
_CREDENTIALS_LAST: Final = timedelta(minutes=6)

# What S3, GCS and Azure say where not the object is missing, but all of them.
_NO_BUCKET: Final = ("NoSuchBucket", "ContainerNotFound")

_LONGEST_REASON: Final = 2000
# Where nobody's objects lie.
_TRIED: Final = "conditions"

_log: Final = structlog.get_logger(__name__)


class ObstoreBucket:
    """Keeps the promise of `Bucket` by passing on the service's own, which for those named above is as strong."""

    def __init__(self, store: ObjectStore) -> None:
        """Take an opened store: `at` opens one by its URL."""
        self._store = store
        self._is_conditional = False

    @classmethod
    def at(
        cls, url: str, *, options: Mapping[str, str] | None = None, credentials_file: Path | None = None
    ) -> "ObstoreBucket":
        """Open the bucket at `url`, such as `s3://bucket/prefix`; nothing is sent yet.

        `options` are obstore's for that service (`region`, `endpoint`, …), and `timeout` and `connect_timeout` of a
        request. Credentials are in the file, which is read each minute, or in the environment, where the service's own
        tools look for them too.

        Raises:
            ValueError: there is no such kind of bucket, or no such option.
            UnusableCredentialsError: the file of credentials cannot be used.
        """
        # obstore has a type of its own for each service's options; which service it is, the URL says at run time.
        given: Any = _CLIENT_DEFAULTS | dict(options or {})
        client: ClientConfig = {
            "connect_timeout": given.pop("connect_timeout"),
            "timeout": given.pop("timeout"),
            # Only where the operator wrote so: a service on the same host or network. What is sent is sealed anyway.
            "allow_http": given.get("endpoint", "").startswith("http://"),
        }
        retry: RetryConfig = {"max_retries": _MOST_RETRIES, "retry_timeout": _RETRY_TIMEOUT}
        provider = None
        if credentials_file is not None:
            read_credentials(credentials_file)
            provider = partial(_s3_credential, credentials_file)
        try:
            return cls(
                from_url(url, config=given, client_options=client, retry_config=retry, credential_provider=provider)
            )
        except BaseError as error:
            said, _, _ = str(error).partition("\n")
            raise ValueError(f"{url} is no bucket that can be used: {said}") from None

    async def put(self, key: str, data: bytes) -> None:
        """See `Bucket`. What is longer than 5 MiB is a multipart upload too."""
        with _as_ours():
            # Cancelled in the middle it would leave its parts there, or be done after all.
            await wait_to_end(self._store.put_async(key, data))

    async def put_stream(self, key: str, parts: AsyncIterable[bytes]) -> None:
        """See `Bucket`. What is shorter than a part of 8 MiB is one request, all else a multipart upload."""
        writer = open_writer_async(self._store, key, buffer_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
        try:
            async for part in parts:
                with _as_ours():
                    await wait_to_end(writer.write(part))
            with _as_ours():
                await wait_to_end(writer.close())
        except BaseException as error:
            await _give_up(writer, error)
            raise

    async def get(self, key: str) -> bytes:
        """See `Bucket`."""
        with _as_ours(key):
            found = await self._store.get_async(key)
            return bytes(await found.bytes_async())

    async def get_stream(self, key: str) -> AsyncGenerator[bytes, None]:
        """See `Bucket`. One request for what it is, and one for each 8 MiB of it."""
        with _as_ours(key):
            found = await self._store.head_async(key)
        async with aclosing(self._ranges(key, found)) as parts:
            async for part in parts:
                yield part

    async def beginning(self, key: str, count: int) -> bytes:
        """See `Bucket`. One request, and another one for what is empty."""
        with _as_ours(key):
            try:
                found = await self._store.get_range_async(key, start=0, end=count)
            except BaseError:
                # An empty object has no range.
                if (await self._store.head_async(key))["size"]:
                    raise
                return b""
            return bytes(found)

    async def replace(self, key: str, rewritten: Rewriting) -> None:
        """See `Bucket`. Holds the whole of what it puts: no upload in parts can be made on a condition here."""
        await self._check_conditions()
        with _as_ours(key):
            before: ObjectMeta = await self._store.head_async(key)
        if before["size"] > REPLACED_BYTES:
            raise RefusedError(key, f"{key} is too long to be replaced on a condition", reason="OBJECT_TOO_LARGE")
        after = bytearray()
        async with aclosing(self._ranges(key, before)) as parts:
            async for part in rewritten(parts):
                after += part
        with _as_ours(key):
            await wait_to_end(self._put_instead(key, bytes(after), of=before))

    async def delete(self, key: str) -> None:
        """See `Bucket`."""
        try:
            with _as_ours(key):
                await wait_to_end(self._store.delete_async(key))
        except NotFoundError:
            return

    async def delete_folder(self, folder: str) -> None:
        """See `Bucket`. There are no folders, and nobody can tell whose the uploads are that were interrupted."""

    async def keys_below(self, folder: str, *, after: str = "") -> AsyncIterator[str]:
        """See `Bucket`. In the service's order; a page of names is held at a time."""
        pages = self._store.list(folder, offset=after or None)
        while True:
            with _as_ours():
                page = await anext(pages, None)
            if page is None:
                return
            for meta in page:
                yield meta["path"]

    async def _ranges(self, key: str, found: "ObjectMeta") -> AsyncGenerator[bytes, None]:
        """Read it in parts, all of them of the one content that was found."""
        for begin in range(0, found["size"], _PART_BYTES):
            end = min(begin + _PART_BYTES, found["size"])
            with _as_ours(key):
                part = await self._store.get_async(key, options={"range": (begin, end), "if_match": found["e_tag"]})
                data = bytes(await part.bytes_async())
            yield data

    async def _put_instead(self, key: str, data: bytes, *, of: "ObjectMeta") -> None:
        condition = {name: value for name in ("e_tag", "version") if (value := of.get(name)) is not None}
        # Its type wants both, though each service has its own of them.
        mode: Any = condition
        await self._store.put_async(key, data, mode=mode, use_multipart=False)

    async def _check_conditions(self) -> None:
        """Try, once, whether the service replaces only what is still there: some take a condition and forget it."""
        if self._is_conditional:
            return
        key = f"{_TRIED}/{uuid4()}"
        with _as_ours():
            await wait_to_end(self._store.put_async(key, b"1"))
            before = await self._store.head_async(key)
            await wait_to_end(self._store.put_async(key, b"22"))
            refused = [await self._refuses(key, before)]
            await wait_to_end(self._store.delete_async(key))
            refused.append(await self._refuses(key, before))
            await self._taken_back(key)
        if not all(refused):
            raise RefusedError(
                "objects", "the bucket's service replaces objects on no condition", reason="BUCKET_UNCONDITIONAL"
            )
        self._is_conditional = True

    async def _refuses(self, key: str, before: "ObjectMeta") -> bool:
        try:
            await wait_to_end(self._put_instead(key, b"333", of=before))
        except (PreconditionError, AlreadyExistsError, FileNotFoundError):
            return True
        return False

    async def _taken_back(self, key: str) -> None:
        with suppress(FileNotFoundError):
            await wait_to_end(self._store.delete_async(key))


async def _give_up(writer: AbstractAsyncContextManager[object], error: BaseException) -> None:
    """End an upload, so that the service keeps nothing of it. Where that fails too, a rule of the bucket's does it."""
    with suppress(BaseError, OSError):
        await wait_to_end(writer.__aexit__(type(error), error, error.__traceback__))


def _s3_credential(file: Path) -> Any:
    """Return what obstore calls an S3Credential, a type that is there for type checkers alone."""
    found = read_credentials(file)
    return {
        "access_key_id": found.access_key_id,
        "secret_access_key": found.secret_access_key,
        "token": found.session_token,
        "expires_at": datetime.now(UTC) + _CREDENTIALS_LAST,
    }


@contextmanager
def _as_ours(key: str | None = None) -> Iterator[None]:
    """Turn obstore's errors into ours; with a `key`, it may be that what has it is not there."""
    try:
        yield
    except (PreconditionError, AlreadyExistsError):
        raise ConflictError(f"{key} was replaced meanwhile") from None
    except (BaseError, OSError) as error:
        is_absent = isinstance(error, FileNotFoundError) and not any(text in str(error) for text in _NO_BUCKET)
        if key is not None and is_absent:
            raise NotFoundError(key) from None
        # Not what follows the service's status: it may repeat a credential that was shown to it.
        why, _, _ = str(error).partition("<")
        _log.warning("bucket_failed", kind=type(error).__name__, why=why.strip()[:_LONGEST_REASON])
        raise UnavailableError("the object store is away or full", reason="STORAGE_UNAVAILABLE") from None
