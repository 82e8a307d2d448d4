"""A tenant's objects, in a real bucket, sealed by real keys: they open where they were put, and nowhere else."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from control_plane.errors import InvalidArgumentError, NotFoundError, UnavailableError
from control_plane.ids import TenantId
from control_plane.keys.model import Binding, IntegrityError, seal
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.objects.bucket_obstore import ObstoreBucket
from control_plane.objects.paths import ObjectName
from control_plane.objects.store import ObjectStore, TenantObjects, open_bucket
from control_plane.postgres.database import Database
from tests.fixtures.objects import ALPHA, BETA, CANARIES

PATH, OTHER, PLAIN = "certificates/a.pem", "certificates/b.pem", b"a canary in plain sight"
# More than a segment, so that there is one that could be taken from or put elsewhere.
LARGE = PLAIN * 10_000


@pytest.fixture
def alpha(objects: ObjectStore) -> TenantObjects:
    return objects.of(ALPHA)


@pytest.fixture
def beta(objects: ObjectStore) -> TenantObjects:
    return objects.of(BETA)


async def _parts(data: bytes, *, size: int = 70_000) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), size):
        yield data[begin : begin + size]


async def _all(parts: AsyncIterable[bytes]) -> bytes:
    return b"".join([part async for part in parts])


async def _listed(objects: TenantObjects, folder: str = "") -> list[tuple[str, int]]:
    return sorted([(name.path, name.version) async for name in objects.list(folder)])


def _files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


async def _refused(objects: TenantObjects, path: str = PATH, *, version: int = 1) -> None:
    """See that what lies there opens neither whole nor as a stream."""
    with pytest.raises(IntegrityError):
        await objects.get(path, version=version)
    with pytest.raises(IntegrityError):
        await _all(objects.get_stream(path, version=version))


@pytest.mark.behaviour("S1.9")
async def test_an_object_is_read_back_and_lies_sealed_in_its_tenants_folder(alpha: TenantObjects, root: Path) -> None:
    await alpha.put(PATH, plaintext=PLAIN)
    await alpha.put_stream(OTHER, plaintext=_parts(LARGE))

    for path, plaintext in ((PATH, PLAIN), (OTHER, LARGE)):
        stored = (root / "storage/org_1" / path).read_bytes()
        assert await alpha.get(path) == plaintext
        assert await _all(alpha.get_stream(path)) == plaintext
        assert stored.startswith(b"BHE\x02\x01")
        assert PLAIN not in stored
    assert _files(root) == [f"storage/org_1/{PATH}", f"storage/org_1/{OTHER}"]


async def test_what_the_first_release_stored_is_still_read(alpha: TenantObjects, keys: TenantKeys, root: Path) -> None:
    await alpha.put(PATH, plaintext=b"")
    key = await keys._storage_key(ALPHA.uid, None)
    name = f"storage/org_1/{PATH}"
    aad = Binding(tenant_uid=ALPHA.uid, purpose="storage", version=key.version, object_name=name).aad()
    (root / name).write_bytes(seal(key.private, PLAIN, version=key.version, nonce=bytes(12), aad=aad))

    assert await alpha.get(PATH) == PLAIN
    assert await _all(alpha.get_stream(PATH)) == PLAIN


@pytest.mark.behaviour("S1.9")
@pytest.mark.behaviour("T-K1")
async def test_a_copied_object_opens_neither_at_another_path_nor_for_another_tenant(
    alpha: TenantObjects, beta: TenantObjects, root: Path
) -> None:
    await beta.put(PATH, plaintext=b"beta's own")
    own = root / "storage/org_1" / PATH
    for content in (PLAIN, LARGE):
        await alpha.put_stream(PATH, plaintext=_parts(content))
        for copy in (root / "storage/org_2" / PATH, root / "storage/org_1" / OTHER, root / "storage/org_2" / OTHER):
            shutil.copyfile(own, copy)
        hard = root / "storage/org_2/certificates/hard.pem"
        hard.unlink(missing_ok=True)
        os.link(own, hard)

        assert await alpha.get(PATH) == content
        for tenant, path in ((beta, PATH), (alpha, OTHER), (beta, OTHER), (beta, "certificates/hard.pem")):
            await _refused(tenant, path)
    await beta.put(PATH, plaintext=b"beta's own")
    assert await beta.get(PATH) == b"beta's own"


@pytest.mark.behaviour("S1.9")
@pytest.mark.behaviour("T-K1")
async def test_no_version_of_an_object_opens_in_the_place_of_another(alpha: TenantObjects, root: Path) -> None:
    contents = {1: b"first", 2: LARGE, 3: b"third"}
    for version, content in contents.items():
        await alpha.put_stream(PATH, plaintext=_parts(content), version=version)
        await alpha.put(OTHER, plaintext=content, version=version)
    for path in (PATH, OTHER):
        files = {n: root / "storage/org_1" / (path if n == 1 else f"{path}@{n}") for n in contents}
        sealed = {n: file.read_bytes() for n, file in files.items()}

        assert {n: await alpha.get(path, version=n) for n in contents} == contents
        for place, file in files.items():
            for version in contents.keys() - {place}:
                file.write_bytes(sealed[version])
                await _refused(alpha, path, version=place)
            file.write_bytes(sealed[place])
            assert await _all(alpha.get_stream(path, version=place)) == contents[place]


async def test_versions_come_and_go_by_themselves(alpha: TenantObjects) -> None:
    for version in (1, 2, 2**63 - 1):
        await alpha.put(PATH, plaintext=str(version).encode(), version=version)
    await alpha.delete(PATH)
    await alpha.put(PATH, plaintext=b"anew", version=2)

    assert await _listed(alpha) == [(PATH, 2), (PATH, 2**63 - 1)]
    assert await alpha.get(PATH, version=2) == b"anew"
    with pytest.raises(NotFoundError):
        await alpha.get(PATH)


@pytest.mark.parametrize("version", [0, -1, 2**63])
async def test_a_version_that_cannot_be_is_refused_and_nothing_is_written(
    alpha: TenantObjects, root: Path, version: int
) -> None:
    for work in (
        alpha.put(PATH, plaintext=PLAIN, version=version),
        alpha.put_stream(PATH, plaintext=_parts(PLAIN), version=version),
        alpha.get(PATH, version=version),
        alpha.delete(PATH, version=version),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            await work
        assert [violation.field for violation in refused.value.violations] == ["version"]
    with pytest.raises(InvalidArgumentError):
        alpha.get_stream(PATH, version=version)
    assert _files(root) == []


@pytest.mark.behaviour("S1.9")
async def test_an_object_that_was_changed_or_cut_does_not_open(alpha: TenantObjects, root: Path) -> None:
    await alpha.put_stream(PATH, plaintext=_parts(LARGE))
    file = root / "storage/org_1" / PATH
    sealed = file.read_bytes()
    for changed in (
        sealed[:-1],
        # Between two segments.
        sealed[: 73 + 65_552],
        sealed[:73],
        sealed + b"\0",
        b"",
        PLAIN,
        bytes([sealed[0] ^ 1]) + sealed[1:],
        sealed[:-1] + bytes([sealed[-1] ^ 1]),
    ):
        file.write_bytes(changed)

        await _refused(alpha)
    file.write_bytes(sealed)
    assert await alpha.get(PATH) == LARGE


async def test_a_stream_whose_source_breaks_stores_nothing_and_says_what_broke(
    alpha: TenantObjects, root: Path
) -> None:
    error = UnavailableError("what the plaintext comes from is away")

    async def source() -> AsyncIterator[bytes]:
        yield LARGE
        raise error

    await alpha.put(PATH, plaintext=PLAIN)
    for path in (PATH, OTHER):
        with pytest.raises(UnavailableError) as raised:
            await alpha.put_stream(path, plaintext=source())
        assert raised.value is error

    assert await alpha.get(PATH) == PLAIN
    assert _files(root) == [f"storage/org_1/{PATH}"]


async def test_a_stream_that_is_cancelled_stores_nothing(alpha: TenantObjects, root: Path) -> None:
    waiting = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        yield LARGE
        waiting.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(alpha.put_stream(PATH, plaintext=source()))
    await waiting.wait()
    putting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await putting
    assert _files(root) == []


async def test_an_object_is_copied_as_it_is_read(alpha: TenantObjects, beta: TenantObjects) -> None:
    await alpha.put(PATH, plaintext=LARGE)
    async with aclosing(alpha.get_stream(PATH)) as parts:
        await beta.put_stream(OTHER, plaintext=parts)

    assert await beta.get(OTHER) == LARGE


@pytest.mark.behaviour("S2.1")
async def test_a_copy_of_database_and_objects_opens_nothing_without_the_vault(
    alpha: TenantObjects, root: Path, database: Database, tmp_path: Path
) -> None:
    await alpha.put(PATH, plaintext=PLAIN)
    shutil.copytree(root, tmp_path / "dump")
    thief = TenantKeys(await SoftwareVault.open(tmp_path / "thief"), database)

    assert await alpha.get(PATH) == PLAIN
    await _refused(ObjectStore(open_bucket(tmp_path / "dump"), thief, CANARIES).of(ALPHA))


async def test_a_tenants_objects_are_listed_by_their_names(alpha: TenantObjects, beta: TenantObjects) -> None:
    for path in (PATH, OTHER, "exports/2027/a.json"):
        await alpha.put(path, plaintext=PLAIN)
    await beta.put(PATH, plaintext=PLAIN)

    assert await _listed(alpha) == [(PATH, 1), (OTHER, 1), ("exports/2027/a.json", 1)]
    assert await _listed(alpha, "certificates") == [(PATH, 1), (OTHER, 1)]
    with pytest.raises(InvalidArgumentError):
        await _listed(alpha, "../org_2")


async def test_what_nobody_put_is_not_listed(alpha: TenantObjects, root: Path) -> None:
    await alpha.put(PATH, plaintext=PLAIN)
    for stray in ("A.pem", "a.pem@1", "a.pem@02", "a.pem@", "a@b", ".hidden", "a.pem~", f"a@{2**63}"):
        (root / "storage/org_1/certificates" / stray).touch()

    assert [name async for name in alpha.list()] == [ObjectName(path=PATH)]


async def test_a_deleted_object_is_gone_for_its_tenant_only(alpha: TenantObjects, beta: TenantObjects) -> None:
    for tenant in (alpha, beta):
        await tenant.put(PATH, plaintext=PLAIN)
    await alpha.delete(PATH)
    await alpha.delete(PATH)

    with pytest.raises(NotFoundError):
        await alpha.get(PATH)
    with pytest.raises(NotFoundError):
        await _all(alpha.get_stream(PATH))
    assert await beta.get(PATH) == PLAIN


async def test_objects_in_anothers_bucket_are_sealed_in_the_same_way(keys: TenantKeys) -> None:
    bucket = ObstoreBucket(MemoryStore())
    alpha = ObjectStore(bucket, keys, CANARIES).of(ALPHA)
    await alpha.put(PATH, plaintext=PLAIN)
    sealed = await bucket.get(f"storage/org_1/{PATH}")
    await bucket.put(f"storage/org_1/{OTHER}", sealed)

    assert await alpha.get(PATH) == PLAIN
    assert PLAIN not in sealed
    await _refused(alpha, OTHER)


async def test_without_the_vault_nothing_is_written(
    alpha: TenantObjects, keys: TenantKeys, root: Path, tmp_path: Path
) -> None:
    keys.forget(ALPHA.uid)
    (tmp_path / "vault").rename(tmp_path / "away")

    for work in (alpha.put(PATH, plaintext=PLAIN), alpha.put_stream(PATH, plaintext=_parts(LARGE))):
        with pytest.raises(UnavailableError):
            await work
    assert _files(root) == []
    (tmp_path / "away").rename(tmp_path / "vault")
    await alpha.put(PATH, plaintext=PLAIN)
    assert await alpha.get(PATH) == PLAIN


@pytest.mark.parametrize("tenant_id", ["..", "org_1/../org_2", "", "Org_1", "org_2/certificates"])
async def test_there_are_no_objects_of_what_is_no_tenants_id(objects: ObjectStore, tenant_id: str) -> None:
    with pytest.raises(InvalidArgumentError):
        objects.of(replace(ALPHA, tenant_id=TenantId(tenant_id)))
