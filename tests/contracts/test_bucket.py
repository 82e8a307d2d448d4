"""What every bucket promises (`control_plane/objects/bucket.py`), whatever holds its bytes."""

import asyncio
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from control_plane.errors import NotFoundError
from control_plane.objects.bucket import Bucket
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.bucket_obstore import ObstoreBucket

KEY = "storage/org_1/certificates/a.pem"
SIBLING = "storage/org_1/certificates/b.pem"


@pytest.fixture(params=["local", "obstore"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    return LocalBucket(tmp_path / "objects") if request.param == "local" else ObstoreBucket(MemoryStore())


async def _listed(bucket: Bucket, folder: str) -> list[str]:
    return sorted([key async for key in bucket.keys_below(folder)])


@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 20_000])
async def test_what_was_put_is_got(bucket: Bucket, data: bytes) -> None:
    await bucket.put(KEY, data)

    assert await bucket.get(KEY) == data


async def test_the_last_put_stays(bucket: Bucket) -> None:
    for data in (b"a long first content", b"short", b""):
        await bucket.put(KEY, data)

        assert await bucket.get(KEY) == data
    assert await _listed(bucket, "storage") == [KEY]


async def test_of_many_puts_at_once_one_stays_whole(bucket: Bucket) -> None:
    contents = [bytes([n]) * 50_000 for n in range(16)]
    await asyncio.gather(*(bucket.put(KEY, data) for data in contents))

    assert await bucket.get(KEY) in contents


async def test_a_reader_never_sees_half_of_a_write(bucket: Bucket) -> None:
    contents = [bytes([n]) * 300_000 for n in range(8)]
    await bucket.put(KEY, contents[0])
    writing = asyncio.gather(*(bucket.put(KEY, data) for data in contents))
    seen = {await bucket.get(KEY) for _ in range(30)}
    await writing

    assert seen <= set(contents)


async def test_what_is_not_there_is_not_found(bucket: Bucket) -> None:
    with pytest.raises(NotFoundError):
        await bucket.get(KEY)
    await bucket.put(KEY, b"a")
    with pytest.raises(NotFoundError):
        await bucket.get(SIBLING)


async def test_a_deleted_object_is_gone_and_its_neighbour_is_not(bucket: Bucket) -> None:
    await bucket.put(KEY, b"a")
    await bucket.put(SIBLING, b"b")
    await bucket.delete(KEY)
    await bucket.delete(KEY)

    with pytest.raises(NotFoundError):
        await bucket.get(KEY)
    assert await bucket.get(SIBLING) == b"b"
    assert await _listed(bucket, "storage") == [SIBLING]


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


async def test_a_listing_of_more_than_a_page_is_whole(bucket: Bucket) -> None:
    keys = [f"storage/org_1/{n:04}" for n in range(120)]
    await asyncio.gather(*(bucket.put(key, b"") for key in keys))

    assert await _listed(bucket, "storage/org_1") == keys
