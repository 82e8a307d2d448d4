"""Buckets that others run, through obstore: S3 and what speaks its protocol, GCS, Azure; and memory.

A stream is sent as a multipart upload, of which nothing is seen before it is complete, and read in ranges of one object
(`If-Match`), each a request of its own: so every request is short, none is held open by a slow reader, and no two
contents mix. An upload that is given up is ended; what a killed process had sent the service keeps, unseen, until a
rule of the bucket's removes it (`docs/objects.md`).
"""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from obstore import open_writer_async
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import ObjectStore, from_url

from control_plane.errors import ConflictError, NotFoundError, UnavailableError
from control_plane.objects.credentials import read_credentials
from control_plane.threads import wait_to_end

if TYPE_CHECKING:
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

_log: Final = structlog.get_logger(__name__)


class ObstoreBucket:
    """Keeps the promise of `Bucket` by passing on the service's own, which for those named above is as strong."""

    def __init__(self, store: ObjectStore) -> None:
        """Take an opened store: `at` opens one by its URL."""
        self._store = store

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
        for begin in range(0, found["size"], _PART_BYTES):
            end = min(begin + _PART_BYTES, found["size"])
            with _as_ours(key):
                part = await self._store.get_async(key, options={"range": (begin, end), "if_match": found["e_tag"]})
                data = bytes(await part.bytes_async())
            yield data

    async def delete(self, key: str) -> None:
        """See `Bucket`."""
        try:
            with _as_ours(key):
                await wait_to_end(self._store.delete_async(key))
        except NotFoundError:
            return

    async def keys_below(self, folder: str) -> AsyncIterator[str]:
        """See `Bucket`. A page of names is held at a time."""
        pages = self._store.list(folder)
        while True:
            with _as_ours():
                page = await anext(pages, None)
            if page is None:
                return
            for meta in page:
                yield meta["path"]


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
    except PreconditionError:
        raise ConflictError(f"{key} was replaced while it was read") from None
    except (BaseError, OSError) as error:
        is_absent = isinstance(error, FileNotFoundError) and not any(text in str(error) for text in _NO_BUCKET)
        if key is not None and is_absent:
            raise NotFoundError(key) from None
        # Not what follows the service's status: it may repeat a credential that was shown to it.
        why, _, _ = str(error).partition("<")
        _log.warning("bucket_failed", kind=type(error).__name__, why=why.strip()[:_LONGEST_REASON])
        raise UnavailableError("the object store is away or full", reason="STORAGE_UNAVAILABLE") from None
