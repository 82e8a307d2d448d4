"""Buckets that others run, through obstore: S3 and what speaks its protocol, GCS, Azure; and memory."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from control_plane.errors import NotFoundError, UnavailableError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

# obstore would otherwise retry for three minutes, while a caller waits.
_MOST_RETRIES: Final = 3
_RETRY_TIMEOUT: Final = timedelta(seconds=10)
_CONNECT_TIMEOUT: Final = timedelta(seconds=2)
_REQUEST_TIMEOUT: Final = timedelta(seconds=30)


class ObstoreBucket:
    """Keeps the promise of `Bucket` by passing on the service's own, which for those named above is as strong."""

    def __init__(self, store: ObjectStore) -> None:
        """Take an opened store: `at` opens one by its URL."""
        self._store = store

    @classmethod
    def at(cls, url: str, *, options: Mapping[str, str] | None = None) -> "ObstoreBucket":
        """Open the bucket at `url`, such as `s3://bucket/prefix`; nothing is sent yet.

        `options` are obstore's for that service (`region`, `endpoint`, …); credentials are best left to the
        environment, where the service's own tools look for them too.

        Raises:
            ValueError: there is no such kind of bucket, or no such option.
        """
        # obstore has a type of its own for each service's options; which service it is, the URL says at run time.
        config: Any = dict(options or {})
        retry: RetryConfig = {"max_retries": _MOST_RETRIES, "retry_timeout": _RETRY_TIMEOUT}
        client: ClientConfig = {
            "connect_timeout": _CONNECT_TIMEOUT,
            "timeout": _REQUEST_TIMEOUT,
            # Only where the operator wrote so: a service on the same host or network. What is sent is sealed anyway.
            "allow_http": config.get("endpoint", "").startswith("http://"),
        }
        try:
            return cls(from_url(url, config=config, client_options=client, retry_config=retry))
        except BaseError as error:
            raise ValueError(f"{url} is no bucket that can be used: {error}") from error

    async def put(self, key: str, data: bytes) -> None:
        """See `Bucket`."""
        with _as_ours(key):
            await self._store.put_async(key, data)

    async def get(self, key: str) -> bytes:
        """See `Bucket`."""
        with _as_ours(key):
            found = await self._store.get_async(key)
            return bytes(await found.bytes_async())

    async def delete(self, key: str) -> None:
        """See `Bucket`."""
        try:
            with _as_ours(key):
                await self._store.delete_async(key)
        except NotFoundError:
            return

    async def keys_below(self, folder: str) -> AsyncIterator[str]:
        """See `Bucket`. A page of names is held at a time."""
        pages = self._store.list(folder)
        while True:
            with _as_ours(folder):
                page = await anext(pages, None)
            if page is None:
                return
            for meta in page:
                yield meta["path"]


@contextmanager
def _as_ours(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(key) from None
    except (BaseError, OSError) as error:
        raise UnavailableError("the object store is away or full", reason="STORAGE_UNAVAILABLE") from error
