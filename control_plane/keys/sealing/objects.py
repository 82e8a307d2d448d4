"""One object of one tenant is sealed or opened, whole or as it passes, in bounded memory.

What is sealed is in format 2 (`segments.py`). Format 1 (`model.py`), in which objects were kept before, is read: it
could not say a version, so it opens as version 1 only.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

import structlog

from control_plane.errors import ConflictError, KeyRetiredError
from control_plane.keys.model import (
    FIRST_OBJECT_VERSION,
    Binding,
    IntegrityError,
    MissingKeyError,
    Purpose,
    sealed_version,
    unseal,
)
from control_plane.keys.sealing.segments import (
    HEADER_BYTES,
    SALT_BYTES,
    Opener,
    Sealer,
    is_segmented,
    open_whole,
    seal_whole,
    segmented_version,
)

T = TypeVar("T")

# AES-GCM of less is quicker than handing it to a thread, and writing less is not worth a thread either.
_WORTH_A_THREAD: Final = 256 * 1024
# What is worked on at once, however much a source hands over at once.
_PORTION: Final = 1024 * 1024
# Format 1 opens whole or not at all, so it could be used to fill the memory of a reader of streams. No object that was
# kept in it is a thousandth of this.
_LONGEST_STREAM_IN_FORMAT_1: Final = 64 * 1024 * 1024

_log: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageKey:
    """A version of a tenant's key for objects, opened."""

    version: int
    private: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSeal:
    """Seals one version of one object, and opens what was sealed for it and for nothing else.

    Every refusal is one IntegrityError, whatever was wrong, and an event in the log.
    """

    tenant_uid: UUID
    object_name: str
    object_version: int
    key: Callable[[int | None], Awaitable[StorageKey]] = field(repr=False)
    """Finds the tenant's key of a version, or the newest for None. Raises MissingKeyError."""

    async def seal(self, plaintext: bytes) -> bytes:
        """Return the envelope."""
        key, salt = await self.key(None), secrets.token_bytes(SALT_BYTES)
        work = partial(seal_whole, key.private, plaintext, version=key.version, salt=salt, aad=self._aad(key))
        return await _computed(work, size=len(plaintext))

    async def seal_stream(self, plaintext: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """Give out the envelope as its plaintext comes, in parts of about a MiB at most. `plaintext` is not closed.

        Raises ConflictError before its end where the key was retired since the beginning: nobody could open it.
        """
        key, salt = await self.key(None), secrets.token_bytes(SALT_BYTES)
        sealer = Sealer(key.private, version=key.version, salt=salt, aad=self._aad(key))
        ready = sealer.header
        async for portion in _portions(plaintext):
            ready += await _computed(partial(sealer.seal, portion), size=len(portion))
            if len(ready) > _WORTH_A_THREAD:
                yield ready
                ready = b""
        try:
            await self.key(key.version)
        except KeyRetiredError:
            raise ConflictError(f"the key was replaced while {self.object_name} was written") from None
        yield ready + sealer.end()

    async def reseal_stream(self, envelope: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """Give out the envelope under the newest key that has in it what is in this one. Raises like `open_stream`."""
        async with aclosing(self.open_stream(envelope)) as opened, aclosing(self.seal_stream(opened)) as sealed:
            async for portion in sealed:
                yield portion

    async def open(self, envelope: bytes) -> bytes:
        """Return what was sealed."""
        try:
            if not is_segmented(envelope):
                return await self._open_format_1(envelope)
            key = await self.key(segmented_version(envelope))
            work = partial(open_whole, key.private, envelope, version=key.version, aad=self._aad(key))
            return await _computed(work, size=len(envelope))
        except (IntegrityError, MissingKeyError) as error:
            raise self._refusal(error) from None

    async def open_stream(self, envelope: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """Give out what was sealed as it comes, nothing of it before it is authenticated. `envelope` is not closed.

        That the end is missing is known at the end: only what a stream gave that ended without an error was whole.
        """
        coming = _portions(envelope)
        try:
            start = b""
            while len(start) < HEADER_BYTES and (portion := await anext(coming, b"")):
                start += portion
            opened = self._segments(start, coming) if is_segmented(start) else self._format_1(start, coming)
            async with aclosing(opened):
                async for portion in opened:
                    yield portion
        except (IntegrityError, MissingKeyError) as error:
            raise self._refusal(error) from None

    async def _segments(self, start: bytes, coming: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        key = await self.key(segmented_version(start))
        opener = Opener(key.private, start[:HEADER_BYTES], version=key.version, aad=self._aad(key))
        portion = start[HEADER_BYTES:] or await anext(coming, b"")
        while portion:
            opened = await _computed(partial(opener.open, portion), size=len(portion))
            if opened:
                yield opened
            portion = await anext(coming, b"")
        last = opener.end()
        if last:
            yield last

    async def _format_1(self, start: bytes, coming: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        whole = bytearray(start)
        async for portion in coming:
            whole += portion
            if len(whole) > _LONGEST_STREAM_IN_FORMAT_1:
                raise IntegrityError
        yield await self._open_format_1(bytes(whole))

    async def _open_format_1(self, envelope: bytes) -> bytes:
        if self.object_version != FIRST_OBJECT_VERSION:
            raise IntegrityError
        key = await self.key(sealed_version(envelope))
        aad = self._binding(key, object_version=None).aad()
        work = partial(unseal, key.private, envelope, version=key.version, aad=aad)
        return await _computed(work, size=len(envelope))

    def _aad(self, key: StorageKey) -> bytes:
        return self._binding(key, object_version=self.object_version).aad()

    def _binding(self, key: StorageKey, *, object_version: int | None) -> Binding:
        return Binding(
            tenant_uid=self.tenant_uid,
            purpose=Purpose.STORAGE.value,
            version=key.version,
            object_name=self.object_name,
            object_version=object_version,
        )

    def _refusal(self, error: Exception) -> IntegrityError:
        _log.warning(
            "sealed_data_refused",
            tenant_uid=str(self.tenant_uid),
            object_name=self.object_name,
            object_version=self.object_version,
            why=str(error),
        )
        return IntegrityError(self.object_name)


def storage_version(envelope: bytes) -> int:
    """Read from the first `HEADER_BYTES` of an object which version of the key it asks for. Not authenticated.

    Raises IntegrityError for what is no envelope.
    """
    return segmented_version(envelope) if is_segmented(envelope) else sealed_version(envelope)


async def _computed(work: Callable[[], T], *, size: int) -> T:
    """Run `work` on `size` bytes: at once, or in a thread where it would hold up the loop."""
    return await asyncio.to_thread(work) if size > _WORTH_A_THREAD else work()


async def _portions(source: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Go through what a source gives in portions of a bounded size, none of them empty."""
    async for portion in source:
        for begin in range(0, len(portion), _PORTION):
            yield portion[begin : begin + _PORTION]
