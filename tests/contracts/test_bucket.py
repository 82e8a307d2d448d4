"""What every bucket promises (`control_plane/objects/bucket.py`), whatever holds its bytes."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from control_plane.errors import ConflictError, NotFoundError
from control_plane.objects.bucket import Bucket
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.bucket_obstore import ObstoreBucket
from tests.fixtures.s3 import S3Server

KEY = "storage/org_1/certificates/a.pem"
SIBLING = "storage/org_1/certificates/b.pem"
MIB = 1024 * 1024
# The last of these is more than one part of a multipart upload, and more than one range of a read.
SIZES = [0, 1, MIB, MIB + 1, 20 * MIB + 7]


class SourceError(Exception):
    """What the source of a stream raises."""


@pytest.fixture(params=["local", "memory", "s3"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    if request.param == "local":
        return LocalBucket(tmp_path / "objects")
    if request.param == "memory":
        return ObstoreBucket(MemoryStore())
    server: S3Server = request.getfixturevalue("s3_server")
    return server.bucket()


async def _listed(bucket: Bucket, folder: str) -> list[str]:
    return sorted([key async for key in bucket.keys_below(folder)])


def _content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


async def _parts(data: bytes, *, size: int = 300_000) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


async def _read(bucket: Bucket, key: str = KEY) -> bytes:
    async with aclosing(bucket.get_stream(key)) as parts:
        return b"".join([part async for part in parts])


@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 20_000])
async def test_what_was_put_is_got(bucket: Bucket, data: bytes) -> None:
    await bucket.put(KEY, data)

    assert await bucket.get(KEY) == data


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_put_is_got_whole_or_in_parts_however_it_was_put(bucket: Bucket, size: int) -> None:
    data = _content(size)
    await bucket.put(KEY, data)
    await bucket.put_stream(SIBLING, _parts(data))

    for key in (KEY, SIBLING):
        assert await bucket.get(key) == data
        assert await _read(bucket, key) == data


async def test_the_last_put_stays(bucket: Bucket) -> None:
    for data in (b"a long first content", b"short", b""):
        await bucket.put(KEY, data)

        assert await bucket.get(KEY) == data
        await bucket.put_stream(KEY, _parts(data + b"streamed"))
        assert await bucket.get(KEY) == data + b"streamed"
    assert await _listed(bucket, "storage") == [KEY]


async def test_of_many_puts_at_once_one_stays_whole(bucket: Bucket) -> None:
    contents = [bytes([n]) * 50_000 for n in range(16)]
    await asyncio.gather(
        *(bucket.put(KEY, data) for data in contents[:8]),
        *(bucket.put_stream(KEY, _parts(data, size=9_000)) for data in contents[8:]),
    )

    assert await bucket.get(KEY) in contents
    assert await _listed(bucket, "storage") == [KEY]


async def test_a_reader_never_sees_half_of_a_write(bucket: Bucket) -> None:
    contents = [bytes([n]) * 300_000 for n in range(8)]
    await bucket.put(KEY, contents[0])
    writing = asyncio.gather(
        *(bucket.put(KEY, data) for data in contents[:4]),
        *(bucket.put_stream(KEY, _parts(data, size=50_000)) for data in contents[4:]),
    )
    seen = {await bucket.get(KEY) for _ in range(30)}
    await writing

    assert seen <= set(contents)


@pytest.mark.parametrize("replaced", [False, True])
async def test_the_parts_of_a_stream_are_of_one_put(bucket: Bucket, *, replaced: bool) -> None:
    """A reader that goes on after the object was replaced, or deleted, has its rest or is told."""
    old = _content(20 * MIB)
    await bucket.put(KEY, old)
    got = list[bytes]()

    async def read() -> None:
        async with aclosing(bucket.get_stream(KEY)) as parts:
            got.append(await anext(parts))
            await (bucket.put(KEY, bytes(20 * MIB)) if replaced else bucket.delete(KEY))
            got.extend([part async for part in parts])

    result = (await asyncio.gather(read(), return_exceptions=True))[0]

    assert type(result) in {type(None), ConflictError if replaced else NotFoundError}
    assert got[0]
    assert old.startswith(b"".join(got))
    assert result is not None or len(b"".join(got)) == len(old)


async def _doubled(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    async for part in parts:
        yield part + part


@pytest.mark.parametrize("size", [0, 1, MIB, 10 * MIB + 7])
async def test_an_object_is_replaced_by_what_is_made_of_it(bucket: Bucket, size: int) -> None:
    await bucket.put(KEY, _content(size))
    await bucket.put(SIBLING, b"b")
    await bucket.replace(KEY, lambda parts: _aside(parts, lambda: None))

    assert await bucket.get(KEY) == _content(size)
    await bucket.replace(SIBLING, _doubled)
    assert await bucket.get(SIBLING) == b"bb"
    assert await _listed(bucket, "storage") == [KEY, SIBLING]


Meanwhile = Callable[[], Awaitable[object] | None]


async def _aside(parts: AsyncIterable[bytes], meanwhile: Meanwhile) -> AsyncIterator[bytes]:
    """Go on with what was read when something else has happened."""
    whole = [part async for part in parts]
    happened = meanwhile()
    if happened is not None:
        await happened
    for part in whole:
        yield part


@pytest.mark.behaviour("S2.5")
@pytest.mark.parametrize("content", [b"newer", b"older"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_a_write_that_comes_while_an_object_is_replaced_stays(
    bucket: Bucket, *, content: bytes, streamed: bool
) -> None:
    """Also one that is as long as what was there."""
    await bucket.put(KEY, b"stale")

    def write() -> Awaitable[None]:
        return bucket.put_stream(KEY, _parts(content)) if streamed else bucket.put(KEY, content)

    with pytest.raises(ConflictError):
        await bucket.replace(KEY, lambda parts: _aside(parts, write))
    assert await bucket.get(KEY) == content
    assert await _listed(bucket, "storage") == [KEY]


@pytest.mark.behaviour("S2.5")
async def test_what_is_deleted_while_it_is_replaced_stays_gone(bucket: Bucket) -> None:
    await bucket.put(KEY, b"stale")

    with pytest.raises((ConflictError, NotFoundError)):
        await bucket.replace(KEY, lambda parts: _aside(parts, lambda: bucket.delete(KEY)))
    assert await _listed(bucket, "storage") == []
    with pytest.raises(NotFoundError):
        await bucket.replace(KEY, _doubled)


@pytest.mark.behaviour("S2.5")
async def test_of_many_that_replace_and_write_at_once_no_write_is_lost(bucket: Bucket) -> None:
    """A counter that each adds to: whoever was told that it did has."""
    await bucket.put(KEY, b"")

    async def add(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        yield b"".join([part async for part in parts]) + b"+"

    added = 0

    async def adder() -> None:
        nonlocal added
        for _ in range(8):
            with suppress(ConflictError):
                await bucket.replace(KEY, add)
                added += 1

    await asyncio.gather(*(adder() for _ in range(6)))

    assert added > 0
    assert await bucket.get(KEY) == b"+" * added


async def test_a_replacement_that_raises_or_is_cancelled_changes_nothing(bucket: Bucket) -> None:
    await bucket.put(KEY, b"what was there")
    waiting = asyncio.Event()

    async def breaks(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for part in parts:
            yield part
        raise SourceError

    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    with pytest.raises(SourceError):
        await bucket.replace(KEY, breaks)
    replacing = asyncio.create_task(bucket.replace(KEY, lambda parts: _aside(parts, wait)))
    await waiting.wait()
    replacing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replacing
    await _holds(bucket, b"what was there")


@pytest.mark.parametrize("size", [0, 5, 1000])
async def test_the_beginning_of_an_object_is_read_without_the_rest(bucket: Bucket, size: int) -> None:
    with pytest.raises(NotFoundError):
        await bucket.beginning(KEY, 73)
    await bucket.put(KEY, _content(size))

    assert await bucket.beginning(KEY, 73) == _content(size)[:73]


async def test_who_goes_on_behind_a_key_sees_the_rest_and_nothing_twice(bucket: Bucket) -> None:
    names = ["a-b/c", "a.pem", "a/b", "a/b@2", "a/c/d", "a/c.e", "b@10", "b@2", "z"]
    for name in names:
        await bucket.put(f"storage/org_1/{name}", b"")
    await bucket.put("storage/org_10/a", b"")
    order = [key async for key in bucket.keys_below("storage/org_1")]

    assert sorted(order) == sorted(f"storage/org_1/{name}" for name in names)
    for index, key in enumerate(order):
        assert [each async for each in bucket.keys_below("storage/org_1", after=key)] == order[index + 1 :]
        await bucket.delete(key)
        assert [each async for each in bucket.keys_below("storage/org_1", after=key)] == order[index + 1 :]


@pytest.mark.parametrize("before", [None, b"what was there"])
@pytest.mark.parametrize("after", [0, 1, 25])
@pytest.mark.parametrize("error", [SourceError("broken"), OSError("broken"), NotFoundError("broken")], ids=repr)
async def test_a_source_that_raises_is_heard_and_changes_nothing(
    bucket: Bucket, *, before: bytes | None, after: int, error: Exception
) -> None:
    async def source() -> AsyncIterator[bytes]:
        for _ in range(after):
            yield bytes(MIB)
        raise error

    if before is not None:
        await bucket.put(KEY, before)

    with pytest.raises(type(error)) as raised:
        await bucket.put_stream(KEY, source())
    assert raised.value is error
    await _holds(bucket, before)


@pytest.mark.parametrize("before", [None, b"what was there"])
@pytest.mark.parametrize("after", [0, 1, 25])
async def test_a_stream_that_is_cancelled_in_the_middle_changes_nothing(
    bucket: Bucket, *, before: bytes | None, after: int
) -> None:
    waiting = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        for _ in range(after):
            yield bytes(MIB)
        waiting.set()
        await asyncio.Event().wait()

    if before is not None:
        await bucket.put(KEY, before)
    putting = asyncio.create_task(bucket.put_stream(KEY, source()))
    await waiting.wait()
    putting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await putting
    await _holds(bucket, before)


async def test_a_stream_that_is_cancelled_anywhere_is_stored_whole_or_not_at_all(bucket: Bucket) -> None:
    data = _content(12 * MIB)
    for turns in range(0, 60, 3):
        putting = asyncio.create_task(bucket.put_stream(KEY, _parts(data, size=MIB)))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        putting.cancel()
        await asyncio.wait([putting])
        found = await _listed(bucket, "storage")

        assert found in ([], [KEY])
        if found:
            assert await bucket.get(KEY) == data
        await bucket.delete(KEY)
        assert await _listed(bucket, "storage") == []


async def _holds(bucket: Bucket, content: bytes | None) -> None:
    assert await _listed(bucket, "storage") == ([] if content is None else [KEY])
    if content is not None:
        assert await bucket.get(KEY) == content


async def test_what_is_not_there_is_not_found(bucket: Bucket) -> None:
    for get in (bucket.get, lambda key: _read(bucket, key)):
        with pytest.raises(NotFoundError):
            await get(KEY)
    await bucket.put(KEY, b"a")
    for get in (bucket.get, lambda key: _read(bucket, key)):
        with pytest.raises(NotFoundError):
            await get(SIBLING)


async def test_a_reader_that_stops_early_leaves_nothing_open(bucket: Bucket) -> None:
    await bucket.put(KEY, bytes(20 * MIB))
    for _ in range(3):
        async with aclosing(bucket.get_stream(KEY)) as parts:
            await anext(parts)
    reading = asyncio.create_task(_read(bucket))
    await asyncio.sleep(0)
    reading.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await bucket.get(KEY) == bytes(20 * MIB)


async def test_a_deleted_object_is_gone_and_its_neighbour_is_not(bucket: Bucket) -> None:
    await bucket.put(KEY, b"a")
    await bucket.put(SIBLING, b"b")
    for _ in range(2):
        await bucket.delete(KEY)
        await bucket.delete_folder("storage")

    with pytest.raises(NotFoundError):
        await bucket.get(KEY)
    assert await bucket.get(SIBLING) == b"b"
    assert await _listed(bucket, "storage") == [SIBLING]
    await bucket.put(KEY, b"again")


async def test_deleting_where_nothing_ever_was_is_fine(bucket: Bucket) -> None:
    await bucket.delete(KEY)
    assert await _listed(bucket, "storage") == []


async def test_a_listing_has_all_below_a_folder_and_nothing_of_one_with_a_longer_name(bucket: Bucket) -> None:
    keys = ["storage/org_1/a", "storage/org_1/b/c", "storage/org_1/b/d/e", "storage/org_10/a", "storage/org_2/a"]
    for key in keys:
        await bucket.put(key, b"")

    assert await _listed(bucket, "storage/org_1") == keys[:3]
    assert await _listed(bucket, "storage/org_1/b") == keys[1:3]
    assert await _listed(bucket, "storage/org_3") == []
    assert await _listed(bucket, "storage") == keys


async def test_two_versions_of_an_object_lie_side_by_side(bucket: Bucket) -> None:
    keys = ["storage/org_1/a", "storage/org_1/a@2", "storage/org_1/a@9223372036854775807"]
    for key in keys:
        await bucket.put(key, key.encode())
    await bucket.delete(keys[1])

    assert await _listed(bucket, "storage/org_1") == [keys[0], keys[2]]
    assert [await bucket.get(key) for key in (keys[0], keys[2])] == [keys[0].encode(), keys[2].encode()]


async def test_the_longest_key_is_taken(bucket: Bucket) -> None:
    key = f"storage/{'o' * 41}/{'/'.join(['x' * 127] * 4)}@9223372036854775807"
    await bucket.put(key, b"a")

    assert await _listed(bucket, "storage") == [key]
    assert await bucket.get(key) == b"a"


async def test_a_listing_of_more_than_a_page_is_whole(bucket: Bucket) -> None:
    keys = [f"storage/org_1/{n:04}" for n in range(120)]
    await asyncio.gather(*(bucket.put(key, b"") for key in keys))

    assert await _listed(bucket, "storage/org_1") == keys
