"""A bucket against a dictionary: whatever is done to it, in whatever order, it holds what was put last and whole."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from obstore.store import MemoryStore
from typing_extensions import override

from control_plane.errors import ConflictError, NotFoundError
from control_plane.objects.bucket import Bucket
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.bucket_obstore import ObstoreBucket

T = TypeVar("T")

KEYS: Final = [f"storage/org_{tenant}/{path}" for tenant in (1, 10) for path in ("a", "a@2", "b/a", "b/c/d")]
keys = st.sampled_from(KEYS)
contents = st.lists(st.binary(max_size=40), max_size=4)


class SourceError(Exception):
    """What the source of a stream raises."""


async def _source(
    parts: list[bytes], *, breaks: bool = False, waiting: asyncio.Event | None = None
) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
    if breaks:
        raise SourceError
    if waiting is not None:
        waiting.set()
        await asyncio.Event().wait()


async def _content(bucket: Bucket, key: str) -> bytes:
    whole = await bucket.get(key)
    assert b"".join([part async for part in bucket.get_stream(key)]) == whole
    return whole


class BucketModel(RuleBasedStateMachine):
    """What is done to a bucket and to a dictionary."""

    bucket: Bucket

    def __init__(self) -> None:
        super().__init__()
        self.expected: dict[str, bytes] = {}
        self.loop = asyncio.new_event_loop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @rule(key=keys, parts=contents)
    def put(self, key: str, parts: list[bytes]) -> None:
        self.run(self.bucket.put(key, b"".join(parts)))
        self.expected[key] = b"".join(parts)

    @rule(key=keys, parts=contents)
    def put_stream(self, key: str, parts: list[bytes]) -> None:
        self.run(self.bucket.put_stream(key, _source(parts)))
        self.expected[key] = b"".join(parts)

    @rule(key=keys, parts=contents)
    def break_a_stream(self, key: str, parts: list[bytes]) -> None:
        with pytest.raises(SourceError):
            self.run(self.bucket.put_stream(key, _source(parts, breaks=True)))

    @rule(key=keys, parts=contents)
    def cancel_a_stream(self, key: str, parts: list[bytes]) -> None:
        async def cancelled() -> None:
            waiting = asyncio.Event()
            putting = asyncio.create_task(self.bucket.put_stream(key, _source(parts, waiting=waiting)))
            await waiting.wait()
            putting.cancel()
            await asyncio.wait([putting])

        self.run(cancelled())

    @rule(key=keys)
    def delete(self, key: str) -> None:
        self.run(self.bucket.delete(key))
        self.expected.pop(key, None)

    @rule(folder=st.sampled_from(["storage", "storage/org_1", "storage/org_10", "storage/org_1/b", "storage/org_2"]))
    def list(self, folder: str) -> None:
        async def listed() -> set[str]:
            return {key async for key in self.bucket.keys_below(folder)}

        assert self.run(listed()) == {key for key in self.expected if key.startswith(f"{folder}/")}

    @rule(key=keys, parts=contents, meanwhile=st.sampled_from(["nothing", "put", "delete"]))
    def replace(self, key: str, parts: Any, meanwhile: str) -> None:
        async def rewritten(old: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
            async for part in old:
                yield part
            if meanwhile == "put":
                await self.bucket.put(key, b"".join(parts))
            elif meanwhile == "delete":
                await self.bucket.delete(key)
            yield b"more"

        refusals = (NotFoundError,) if key not in self.expected else (ConflictError, NotFoundError)
        if key in self.expected and meanwhile == "nothing":
            self.run(self.bucket.replace(key, rewritten))
            self.expected[key] += b"more"
            return
        with pytest.raises(refusals):
            self.run(self.bucket.replace(key, rewritten))
        if key in self.expected and meanwhile == "put":
            self.expected[key] = b"".join(parts)
        elif meanwhile == "delete":
            self.expected.pop(key, None)

    @rule(key=keys)
    def go_on_behind(self, key: str) -> None:
        async def listed(after: str) -> Any:
            return [found async for found in self.bucket.keys_below("storage", after=after)]

        assert self.run(listed(key)) == [found for found in self.run(listed("")) if found > key]

    @invariant()
    def holds_what_was_put(self) -> None:
        for key, content in self.expected.items():
            assert self.run(_content(self.bucket, key)) == content

    @override
    def teardown(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


class MemoryModel(BucketModel):
    @initialize()
    def open(self) -> None:
        self.bucket = ObstoreBucket(MemoryStore())


class LocalModel(BucketModel):
    root: Path

    @initialize()
    def open(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.bucket = LocalBucket(self.root)

    @rule()
    def open_again(self) -> None:
        self.bucket = LocalBucket(self.root)

    @invariant()
    def leaves_nothing_half_made(self) -> None:
        files = [path for path in self.root.rglob("*") if path.is_file()]

        assert {str(path.relative_to(self.root)) for path in files} == self.expected.keys()

    @override
    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.root)


TestMemory = MemoryModel.TestCase
TestMemory.settings = settings(max_examples=30, stateful_step_count=20)
TestLocal = LocalModel.TestCase
TestLocal.settings = settings(max_examples=30, stateful_step_count=20)
