"""Who writes, deletes or destroys while things are sealed anew is neither overwritten nor left behind."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from control_plane.errors import ConflictError
from control_plane.keyring.rotations.resealing import Resealer
from control_plane.keys.service import TenantKeys
from control_plane.objects.paths import ObjectName
from control_plane.objects.store import ObjectStore, TenantObjects
from control_plane.secrets import service as secrets
from control_plane.secrets.model import Action
from tests.fixtures.faults import NOW
from tests.fixtures.keyring import Ring
from tests.fixtures.s3 import S3Server
from tests.fixtures.stored import (
    ALL,
    State,
    add_secret,
    envelopes,
    fill,
    handle_of,
    payload_of,
    read,
    run_steps,
    sealed_by,
    states,
)


@pytest.mark.behaviour("S2.5")
@pytest.mark.parametrize("change", ["put", "put_stream", "delete"])
async def test_a_write_or_a_deletion_that_comes_while_an_object_is_sealed_anew_stays(
    ring: Ring, monkeypatch: pytest.MonkeyPatch, *, change: str
) -> None:
    tenant = await ring.cell.tenant()
    own, reseal = ring.objects.of(tenant), TenantKeys.reseal_stream
    await own.put("a.json", plaintext=b"stale")
    await own.put("b.json", plaintext=b"other")
    changes = 0

    async def meanwhile(keys: TenantKeys, *arguments: Any, **options: Any) -> AsyncIterator[bytes]:
        nonlocal changes
        async for part in reseal(keys, *arguments, **options):
            yield part
        if not changes:
            changes += 1
            await _change(own, change)

    monkeypatch.setattr(TenantKeys, "reseal_stream", meanwhile)
    await ring.rotated(tenant, "storage")
    found = await read(own)

    assert changes == 1
    assert found.pop(ObjectName(path="b.json")) == b"other"
    assert found == ({} if change == "delete" else {ObjectName(path="a.json"): b"newer"})
    assert await sealed_by(own) == {2}
    assert await states(ring, tenant) == [State.RETIRED, State.ENABLED]


async def _change(own: TenantObjects, change: str) -> None:
    match change:
        case "put":
            await own.put("a.json", plaintext=b"newer")
        case "put_stream":
            await own.put_stream("a.json", plaintext=_parts(b"newer"))
        case _:
            await own.delete("a.json")


async def _parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_value_that_is_destroyed_while_it_is_sealed_anew_stays_destroyed(
    ring: Ring, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await ring.cell.tenant()
    await add_secret(ring, tenant, "api", b"first", b"second")
    resealed = secrets._resealed

    async def meanwhile(*arguments: Any) -> bytes | None:
        await secrets.change_version(handle_of(ring, tenant), "api", 1, action=Action.DESTROY, etag="", now=NOW)
        return await resealed(*arguments)

    monkeypatch.setattr(secrets, "_resealed", meanwhile)
    ended = await ring.rotated(tenant, "storage")

    # Nor is it tried: the table would refuse it.
    assert max(step.attempts for step in ended.steps) == 1
    assert (await envelopes(superuser))[0] is None
    assert await payload_of(ring, tenant, "api", 2) == b"second"


@pytest.mark.behaviour("S2.5")
async def test_who_has_written_with_the_old_version_after_all_looks_seals_it_anew(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the sealing of an object and its being stored the whole rotation takes place."""
    tenant = await ring.cell.tenant()
    own, put = ring.objects.of(tenant), ring.objects.bucket.put

    async def slow(key: str, data: bytes) -> None:
        monkeypatch.setattr(ring.objects.bucket, "put", put)
        await ring.rotated(tenant, "storage")
        await put(key, data)

    monkeypatch.setattr(ring.objects.bucket, "put", slow)
    await own.put("a.json", plaintext=b"late")

    assert await states(ring, tenant) == [State.RETIRED, State.ENABLED]
    assert (await own.sealed_by("a.json"), await own.get("a.json")) == (2, b"late")


@pytest.mark.behaviour("S2.5")
async def test_an_upload_that_outlasts_its_key_is_refused_and_what_was_there_stays(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    own = ring.objects.of(tenant)
    await own.put("a.json", plaintext=b"as it was")

    async def slow() -> AsyncIterator[bytes]:
        yield b"the beginning of a long upload"
        await ring.rotated(tenant, "storage")
        await ring.cell.keys.forget_unusable()

    with pytest.raises(ConflictError):
        await own.put_stream("a.json", plaintext=slow())
    assert await own.get("a.json") == b"as it was"


@pytest.mark.behaviour("S2.5")
async def test_an_upload_that_outlasts_a_rotation_is_sealed_anew_by_its_writer(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    own = ring.objects.of(tenant)
    begun = None

    async def slow() -> AsyncIterator[bytes]:
        nonlocal begun
        yield b"a long "
        begun = await ring.rotate(tenant, "storage")
        await run_steps(ring, begun, "version", "objects")
        yield b"upload"

    await own.put_stream("a.json", plaintext=slow())

    assert (await own.sealed_by("a.json"), await own.get("a.json")) == (2, b"a long upload")
    assert begun is not None
    await ring.ended(begun)


async def test_a_secret_that_was_kept_with_the_old_version_after_all_looks_is_sealed_anew(
    ring: Ring, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await ring.cell.tenant()
    sealed = secrets._sealed

    async def slow(*arguments: Any, **options: Any) -> bytes:
        monkeypatch.setattr(secrets, "_sealed", sealed)
        old = await sealed(*arguments, **options)
        await ring.rotated(tenant, "storage")
        return old

    monkeypatch.setattr(secrets, "_sealed", slow)
    await add_secret(ring, tenant, "api", b"late")

    assert [envelope[5:9] for envelope in await envelopes(superuser)] == [(2).to_bytes(4, "big")]
    assert await payload_of(ring, tenant, "api", 1) == b"late"


@pytest.mark.behaviour("S2.5")
async def test_objects_in_s3_are_sealed_anew_while_some_are_written_and_deleted(
    ring: Ring, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await ring.cell.tenant()
    store = ObjectStore(s3_server.bucket(), ring.cell.keys, ring.objects.canaries)
    own, reseal = store.of(tenant), TenantKeys.reseal_stream
    plan: Any = ring.plans["keys.rotate.storage"]
    plan._resealer = Resealer(store, ring.cell.keys)
    await fill(own)
    for path in ("written", "deleted"):
        await own.put(path, plaintext=b"stale")
    done = set[str]()

    async def meanwhile(keys: TenantKeys, *arguments: Any, object_name: str, **options: Any) -> AsyncIterator[bytes]:
        async for part in reseal(keys, *arguments, object_name=object_name, **options):
            yield part
        path = object_name.rpartition("/")[2]
        if path == "written" and path not in done:
            await own.put(path, plaintext=b"newer")
        elif path == "deleted":
            await own.delete(path)
        done.add(path)

    monkeypatch.setattr(TenantKeys, "reseal_stream", meanwhile)
    await ring.rotated(tenant, "storage")

    assert await read(own) == {**ALL, ObjectName(path="written"): b"newer"}
    assert await sealed_by(own) == {2}
    assert await states(ring, tenant) == [State.RETIRED, State.ENABLED]
