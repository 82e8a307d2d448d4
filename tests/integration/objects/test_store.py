"""A tenant's objects, in a real bucket, sealed by real keys: they open where they were put, and nowhere else."""

import os
import shutil
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from control_plane.errors import InvalidArgumentError, NotFoundError, UnavailableError
from control_plane.keys.model import IntegrityError
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.objects.bucket_obstore import ObstoreBucket
from control_plane.objects.store import ObjectStore, open_bucket
from control_plane.postgres.database import Database
from tests.fixtures.faults import NOW, placement_of

ALPHA, BETA = placement_of(1), placement_of(2)
PATH, OTHER, PLAIN = "certificates/a.pem", "certificates/b.pem", b"a canary in plain sight"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
async def keys(tmp_path: Path, database: Database) -> TenantKeys:
    made = TenantKeys(await SoftwareVault.open(tmp_path / "vault"), database)
    for tenant in (ALPHA, BETA):
        await made.create(tenant, now=NOW, display_name="Example")
    return made


@pytest.fixture
def objects(root: Path, keys: TenantKeys) -> ObjectStore:
    return ObjectStore(open_bucket(root), keys)


async def _listed(objects: ObjectStore, folder: str = "") -> list[str]:
    return sorted([path async for path in objects.list(ALPHA, folder)])


def _files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


@pytest.mark.behaviour("S1.9")
async def test_an_object_is_read_back_and_lies_sealed_in_its_tenants_folder(objects: ObjectStore, root: Path) -> None:
    await objects.put(ALPHA, PATH, plaintext=PLAIN)
    stored = (root / "storage/org_1" / PATH).read_bytes()

    assert await objects.get(ALPHA, PATH) == PLAIN
    assert _files(root) == [f"storage/org_1/{PATH}"]
    assert stored.startswith(b"BHE\x01\x01")
    assert PLAIN not in stored


@pytest.mark.behaviour("S1.9")
@pytest.mark.behaviour("T-K1")
async def test_a_copied_object_opens_neither_at_another_path_nor_for_another_tenant(
    objects: ObjectStore, root: Path
) -> None:
    await objects.put(ALPHA, PATH, plaintext=PLAIN)
    await objects.put(BETA, PATH, plaintext=b"beta's own")
    own = root / "storage/org_1" / PATH
    for copy in (root / "storage/org_2" / PATH, root / "storage/org_1" / OTHER, root / "storage/org_2" / OTHER):
        shutil.copyfile(own, copy)
    os.link(own, root / "storage/org_2/certificates/hard.pem")

    assert await objects.get(ALPHA, PATH) == PLAIN
    for tenant, path in ((BETA, PATH), (ALPHA, OTHER), (BETA, OTHER), (BETA, "certificates/hard.pem")):
        with pytest.raises(IntegrityError):
            await objects.get(tenant, path)
    await objects.put(BETA, PATH, plaintext=b"beta's own")
    assert await objects.get(BETA, PATH) == b"beta's own"


@pytest.mark.behaviour("S1.9")
async def test_an_object_that_was_changed_or_cut_does_not_open(objects: ObjectStore, root: Path) -> None:
    await objects.put(ALPHA, PATH, plaintext=PLAIN)
    file = root / "storage/org_1" / PATH
    sealed = file.read_bytes()
    for changed in (
        sealed[:-1],
        b"",
        PLAIN,
        bytes([sealed[0] ^ 1]) + sealed[1:],
        sealed[:-1] + bytes([sealed[-1] ^ 1]),
    ):
        file.write_bytes(changed)

        with pytest.raises(IntegrityError):
            await objects.get(ALPHA, PATH)
    file.write_bytes(sealed)
    assert await objects.get(ALPHA, PATH) == PLAIN


@pytest.mark.behaviour("S1.8")
@pytest.mark.behaviour("T-S1")
async def test_a_path_that_leads_elsewhere_is_refused_and_nothing_is_written(
    objects: ObjectStore, root: Path, tmp_path: Path
) -> None:
    await objects.put(ALPHA, PATH, plaintext=PLAIN)
    before = _files(tmp_path)
    bad = [
        "../org_2/a",
        "%2e%2e/org_2/a",
        "a\0b",
        "/etc/passwd",
        "a/../../b",
        "\uff0e\uff0e/a",
        "Certificates/a.pem",
        "",
    ]

    for path in bad:
        for work in (objects.put(ALPHA, path, plaintext=PLAIN), objects.get(ALPHA, path), objects.delete(ALPHA, path)):
            with pytest.raises(InvalidArgumentError):
                await work
    assert _files(tmp_path) == before
    assert await objects.get(ALPHA, PATH) == PLAIN


@pytest.mark.behaviour("S1.8")
@pytest.mark.behaviour("T-S1")
async def test_a_tenants_folder_that_is_a_link_to_anothers_is_refused(objects: ObjectStore, root: Path) -> None:
    await objects.put(BETA, PATH, plaintext=PLAIN)
    (root / "storage/org_1").symlink_to(root / "storage/org_2")

    for work in (objects.put(ALPHA, PATH, plaintext=b"new"), objects.get(ALPHA, PATH), objects.delete(ALPHA, PATH)):
        with pytest.raises(InvalidArgumentError):
            await work
    assert await objects.get(BETA, PATH) == PLAIN


@pytest.mark.behaviour("S2.1")
async def test_a_copy_of_database_and_objects_opens_nothing_without_the_vault(
    objects: ObjectStore, root: Path, database: Database, tmp_path: Path
) -> None:
    await objects.put(ALPHA, PATH, plaintext=PLAIN)
    shutil.copytree(root, tmp_path / "dump")
    thief = TenantKeys(await SoftwareVault.open(tmp_path / "thief"), database)

    assert await objects.get(ALPHA, PATH) == PLAIN
    with pytest.raises(IntegrityError):
        await ObjectStore(open_bucket(tmp_path / "dump"), thief).get(ALPHA, PATH)


async def test_a_tenants_objects_are_listed_by_their_paths(objects: ObjectStore) -> None:
    for path in (PATH, OTHER, "exports/2027/a.json"):
        await objects.put(ALPHA, path, plaintext=PLAIN)
    await objects.put(BETA, PATH, plaintext=PLAIN)

    assert await _listed(objects) == [PATH, OTHER, "exports/2027/a.json"]
    assert await _listed(objects, "certificates") == [PATH, OTHER]
    with pytest.raises(InvalidArgumentError):
        await _listed(objects, "../org_2")


async def test_a_deleted_object_is_gone_for_its_tenant_only(objects: ObjectStore) -> None:
    for tenant in (ALPHA, BETA):
        await objects.put(tenant, PATH, plaintext=PLAIN)
    await objects.delete(ALPHA, PATH)
    await objects.delete(ALPHA, PATH)

    with pytest.raises(NotFoundError):
        await objects.get(ALPHA, PATH)
    assert await objects.get(BETA, PATH) == PLAIN


async def test_objects_in_anothers_bucket_are_sealed_in_the_same_way(keys: TenantKeys) -> None:
    bucket = ObstoreBucket(MemoryStore())
    objects = ObjectStore(bucket, keys)
    await objects.put(ALPHA, PATH, plaintext=PLAIN)
    sealed = await bucket.get(f"storage/org_1/{PATH}")
    await bucket.put(f"storage/org_1/{OTHER}", sealed)

    assert await objects.get(ALPHA, PATH) == PLAIN
    assert PLAIN not in sealed
    with pytest.raises(IntegrityError):
        await objects.get(ALPHA, OTHER)


async def test_without_the_vault_nothing_is_written(
    objects: ObjectStore, keys: TenantKeys, root: Path, tmp_path: Path
) -> None:
    keys.forget(ALPHA.uid)
    (tmp_path / "vault").rename(tmp_path / "away")

    with pytest.raises(UnavailableError):
        await objects.put(ALPHA, PATH, plaintext=PLAIN)
    assert _files(root) == []
    (tmp_path / "away").rename(tmp_path / "vault")
    await objects.put(ALPHA, PATH, plaintext=PLAIN)
    assert await objects.get(ALPHA, PATH) == PLAIN
