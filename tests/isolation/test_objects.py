"""A tenant's handle on objects reaches nothing of another's, whatever name it is given, in whichever bucket."""

import asyncio
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore
from typing_extensions import override

from control_plane.canary import BreachError
from control_plane.errors import InvalidArgumentError, NotFoundError
from control_plane.keys.model import IntegrityError
from control_plane.keys.service import TenantKeys
from control_plane.objects.bucket import Bucket
from control_plane.objects.bucket_local import LocalBucket
from control_plane.objects.bucket_obstore import ObstoreBucket
from control_plane.objects.paths import ObjectName, path_violation
from control_plane.objects.store import ObjectStore, TenantObjects
from tests.fixtures.objects import ALPHA, ALPHA_0, BETA, CANARIES, keys, root
from tests.fixtures.s3 import S3Server
from tests.isolation.object_names import names

__all__ = ["keys", "root"]

NAMES: Final = 1000
SEED: Final = 20_261_126
PATHS: Final = ("kept.pem", "kept/certificates/a.pem", "kept/c/d")


async def _source(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _drain(parts: AsyncIterable[bytes]) -> None:
    async for _ in parts:
        pass


async def _all_listed(objects: TenantObjects, folder: str = "") -> list[ObjectName]:
    return sorted([name async for name in objects.list(folder)])


def uses(objects: TenantObjects, path: str) -> list[Callable[[], Awaitable[object]]]:
    """List everything that can be done with a path."""

    async def get_stream() -> None:
        await _drain(objects.get_stream(path))

    return [
        lambda: objects.put(path, plaintext=b"new"),
        lambda: objects.put_stream(path, plaintext=_source(b"new")),
        lambda: objects.get(path),
        get_stream,
        lambda: objects.delete(path),
    ]


@pytest.fixture(params=["local", "memory", "s3"])
def bucket(request: pytest.FixtureRequest, root: Path) -> Bucket:
    if request.param == "local":
        return LocalBucket(root)
    if request.param == "memory":
        return ObstoreBucket(MemoryStore())
    server: S3Server = request.getfixturevalue("s3_server")
    return server.bucket()


@pytest.fixture
async def filled(bucket: Bucket, keys: TenantKeys) -> ObjectStore:
    """Give each of three tenants the same paths, with contents that say whose they are."""
    store = ObjectStore(bucket, keys, CANARIES)
    for tenant in (ALPHA, ALPHA_0, BETA):
        for path in PATHS:
            await store.of(tenant).put(path, plaintext=f"{tenant.tenant_id} {path}".encode())
            await store.of(tenant).put(path, plaintext=b"second", version=2)
    return store


async def _stored(bucket: Bucket) -> dict[str, bytes]:
    return {key: await bucket.get(key) async for key in bucket.keys_below("storage")}


@pytest.mark.behaviour("T-S1")
async def test_a_listing_shows_nothing_of_a_tenant_whose_id_begins_alike(filled: ObjectStore) -> None:
    own = sorted(ObjectName(path=path, version=version) for path in PATHS for version in (1, 2))
    for tenant in (ALPHA, ALPHA_0, BETA):
        objects = filled.of(tenant)

        assert await _all_listed(objects) == own
        assert await _all_listed(objects, "kept/certificates") == [name for name in own if name.path == PATHS[1]]
        for path in PATHS:
            assert await objects.get(path) == f"{tenant.tenant_id} {path}".encode()


@pytest.mark.behaviour("T-S1")
async def test_deleting_all_that_a_listing_shows_leaves_all_others(filled: ObjectStore, bucket: Bucket) -> None:
    before = await _stored(bucket)
    alpha = filled.of(ALPHA)
    for name in await _all_listed(alpha):
        await alpha.delete(name.path, version=name.version)

    assert await _all_listed(alpha) == []
    others = {key: content for key, content in before.items() if not key.startswith("storage/org_1/")}
    assert await _stored(bucket) == others
    assert len(others) == 12


@pytest.mark.behaviour("S1.9")
@pytest.mark.behaviour("T-K1")
async def test_whatever_lies_in_the_place_of_whatever_only_the_right_one_opens(
    filled: ObjectStore, bucket: Bucket
) -> None:
    """Each ciphertext of the bucket is put in each place, and opens in its own one only."""
    before = await _stored(bucket)
    for place, own in before.items():
        _, tenant_id, rest = place.split("/", 2)
        (tenant,) = (each for each in (ALPHA, ALPHA_0, BETA) if each.tenant_id == tenant_id)
        path, _, version = rest.partition("@")
        for content in before.values():
            await bucket.put(place, content)
            if content == own:
                await filled.of(tenant).get(path, version=int(version or 1))
            else:
                with pytest.raises(IntegrityError):
                    await filled.of(tenant).get(path, version=int(version or 1))
        await bucket.put(place, own)


@pytest.mark.behaviour("S1.8")
@pytest.mark.behaviour("T-S1")
async def test_a_thousand_names_are_refused_or_stay_in_their_tenants_folder(
    filled: ObjectStore, bucket: Bucket, tmp_path: Path
) -> None:
    alpha, beta = filled.of(ALPHA), filled.of(BETA)
    before, disk = await _stored(bucket), await asyncio.to_thread(_snapshot, tmp_path)
    drawn = list(names(NAMES, seed=SEED))
    accepted = [name for name in drawn if path_violation(name) is None]
    for name in drawn:
        if name not in accepted:
            await _refused_everywhere(alpha, name)

    assert len(accepted) > NAMES / 100
    assert len(drawn) - len(accepted) > NAMES * 0.9
    assert await _stored(bucket) == before
    assert await asyncio.to_thread(_snapshot, tmp_path) == disk
    # A directory holds no file and folder of one name.
    folders = {name[:end] for name in accepted for end in range(len(name)) if name[end] == "/"}
    for name in accepted:
        if name in folders:
            continue
        await _stays_inside(alpha, name, bucket=bucket)
        with pytest.raises(NotFoundError):
            await beta.get(name)
        await alpha.delete(name)
    assert await _stored(bucket) == before


async def _refused_everywhere(objects: TenantObjects, name: str) -> None:
    for use in uses(objects, name):
        with pytest.raises(InvalidArgumentError):
            await use()
    if name:
        with pytest.raises(InvalidArgumentError):
            await _all_listed(objects, name)


async def _stays_inside(objects: TenantObjects, name: str, *, bucket: Bucket) -> None:
    before = {key async for key in bucket.keys_below("storage")}
    await objects.put_stream(name, plaintext=_source(b"new"))
    after = {key async for key in bucket.keys_below("storage")}

    assert after - before == {f"storage/org_1/{name}"}
    assert before <= after
    assert await objects.get(name) == b"new"


def _snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Say what there is, and when it was last changed: also of directories, in which anything made would show."""
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    return {str(path): (state.st_ino, state.st_size, state.st_mtime_ns) for path, state in found}


# Of all characters, and more often of those that paths are led astray with.
strange_text = st.text(alphabet=st.sampled_from("a0._-/\\%2eE@~\0 \n\u2024\uff0e\u2215\u0301é"), max_size=24) | st.text(
    max_size=60
)


@pytest.mark.behaviour("S1.8")
@pytest.mark.behaviour("T-S1")
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=strange_text)
async def test_any_name_is_refused_or_stays_in_its_tenants_folder(name: str, keys: TenantKeys, root: Path) -> None:
    # A directory of its own: one that held `0/a` keeps the folder `0`, and a file of that name has no place there.
    root = root / secrets.token_hex(8)
    bucket = LocalBucket(root)
    alpha = ObjectStore(bucket, keys, CANARIES).of(ALPHA)
    if path_violation(name) is not None:
        before = await asyncio.to_thread(_snapshot, root)
        await _refused_everywhere(alpha, name)
        assert await asyncio.to_thread(_snapshot, root) == before
    else:
        await _stays_inside(alpha, name, bucket=bucket)
        await alpha.delete(name)


class RogueBucket(ObstoreBucket):
    """A bucket that lists more than it is asked for, as one does that takes a prefix for a folder."""

    @override
    async def keys_below(self, folder: str, *, after: str = "") -> AsyncIterator[str]:
        async for key in super().keys_below("", after=after):
            yield key


@pytest.mark.behaviour("T-S1")
async def test_a_bucket_that_lists_too_much_shows_a_tenant_nothing_of_another(keys: TenantKeys) -> None:
    bucket = RogueBucket(MemoryStore())
    for key in (
        "storage/org_10/a",
        "storage/org_2/a",
        "storage/org_1",
        "org_1/a",
        "storage/a",
        "a",
        "storage/org_1/a@3",
    ):
        await bucket.put(key, b"")
    alpha = ObjectStore(bucket, keys, CANARIES).of(ALPHA)
    await alpha.put("a", plaintext=b"")

    assert await _all_listed(alpha) == [ObjectName(path="a"), ObjectName(path="a", version=3)]


@pytest.mark.behaviour("S1.17")
@pytest.mark.parametrize("before", [0, 100, 1024 * 1024 - 40, 3 * 1024 * 1024])
async def test_another_tenants_marker_in_an_object_is_held_back(before: int, keys: TenantKeys, root: Path) -> None:
    """However it came there: the object is the tenant's own, sealed by its own key. A stream's parts may cut it."""
    alpha = ObjectStore(LocalBucket(root), keys, CANARIES).of(ALPHA)
    content = b"x" * before + CANARIES.marker(BETA.uid).encode() + b"y" * 100
    await alpha.put("small", plaintext=content)
    await alpha.put_stream("large", plaintext=_in_parts(content))
    with pytest.raises(BreachError) as caught:
        await alpha.get("small")
    with pytest.raises(BreachError):
        async for _ in alpha.get_stream("large"):
            pass

    assert (caught.value.owner_uid, caught.value.finder_uid, caught.value.channel) == (BETA.uid, ALPHA.uid, "object")


async def test_a_tenants_own_marker_in_an_object_is_its_own(keys: TenantKeys, root: Path) -> None:
    alpha = ObjectStore(LocalBucket(root), keys, CANARIES).of(ALPHA)
    content = CANARIES.marker(ALPHA.uid).encode()
    await alpha.put("a", plaintext=content)

    assert await alpha.get("a") == content


async def _in_parts(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]
