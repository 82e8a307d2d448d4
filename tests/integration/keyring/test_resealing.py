"""What older versions of a storage key have sealed is sealed anew, and they are retired."""

import itertools
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest
from obstore.store import MemoryStore

from bulkhead.v1 import key_changes_pb2
from control_plane.errors import KeyRetiredError, PreconditionError
from control_plane.keyring.rotations.resealing import Resealer
from control_plane.keys.model import Binding, IntegrityError, seal
from control_plane.objects import bucket_obstore
from control_plane.objects.bucket_obstore import ObstoreBucket
from control_plane.objects.paths import object_key
from control_plane.objects.store import ObjectStore, TenantObjects
from control_plane.operations.model import OperationState
from control_plane.operations.service import AttemptFailedError
from control_plane.secrets import service as secrets
from control_plane.secrets.model import Action
from tests.fixtures.faults import NOW
from tests.fixtures.keyring import Ring
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
async def test_all_that_older_versions_sealed_is_sealed_by_the_new_one_and_they_are_retired(
    ring: Ring, superuser: Any
) -> None:
    tenant, neighbour = await ring.cell.tenant(), await ring.cell.tenant("org_10")
    own, others = ring.objects.of(tenant), ring.objects.of(neighbour)
    for each in (own, others):
        await fill(each)
    await add_secret(ring, tenant, "api", b"first", b"second", b"third")
    await secrets.change_version(handle_of(ring, tenant), "api", 2, action=Action.DISABLE, etag="", now=NOW)
    await secrets.change_version(handle_of(ring, tenant), "api", 3, action=Action.DESTROY, etag="", now=NOW)
    await ring.rotated(tenant, "storage")
    ended = await ring.rotated(tenant, "storage")
    shown = ring.plans[ended.kind].metadata(ended).resealing

    assert await states(ring, tenant) == [State.RETIRED, State.RETIRED, State.ENABLED]
    assert (await sealed_by(own), await sealed_by(others)) == ({3}, {1})
    assert await read(own) == await read(others) == ALL
    assert await read(ObjectStore(ring.objects.bucket, ring.other_process(), ring.objects.canaries).of(tenant)) == ALL
    assert (shown.objects_total, shown.objects_done, shown.objects_resealed, shown.rows_resealed) == (4, 4, 4, 2)
    assert shown.bytes_resealed > sum(map(len, ALL.values()))
    assert (shown.objects_kept, shown.objects_refused, shown.look) == (0, 0, 2)
    assert {envelope[5:9] for envelope in await envelopes(superuser) if envelope} == {(3).to_bytes(4, "big")}
    assert await payload_of(ring, tenant, "api", 1) == b"first"
    await secrets.change_version(handle_of(ring, tenant), "api", 2, action=Action.ENABLE, etag="", now=NOW)
    assert await payload_of(ring, tenant, "api", 2) == b"second"
    log = [entry for entry in await ring.log(tenant) if entry[0].startswith("tenants/org_1/keys/storage/")]
    assert log == [
        (f"tenants/org_1/keys/storage/versions/{version}", {"state": state})
        for version, state in ((2, "ENABLED"), (1, "RETIRED"), (3, "ENABLED"), (2, "RETIRED"))
    ]


async def test_what_lies_in_format_1_is_sealed_anew_in_format_2(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    own, name = ring.objects.of(tenant), object_key(tenant.tenant_id, "old.pem")
    key = await ring.cell.keys._storage_key(tenant.uid, 1)
    aad = Binding(tenant_uid=tenant.uid, purpose="storage", version=1, object_name=name).aad()
    await ring.objects.bucket.put(name, seal(key.private, b"old", version=1, nonce=bytes(12), aad=aad))
    await ring.rotated(tenant, "storage")

    assert (await own.get("old.pem"), await own.sealed_by("old.pem")) == (b"old", 2)
    assert (await ring.objects.bucket.get(name))[3] == 2


@pytest.mark.behaviour("S2.5")
async def test_what_a_retired_version_sealed_fails_with_its_name_in_every_process_until_it_is_enabled(
    ring: Ring,
) -> None:
    """A backup of the bucket is put back: nothing of it opens, and the error says which version it takes."""
    tenant, other = await ring.cell.tenant(), ring.other_process()
    own = ring.objects.of(tenant)
    await own.put("a.json", plaintext=b"kept")
    backup = await ring.objects.bucket.get("storage/org_1/a.json")
    name = "storage/org_1/a.json"
    assert await other.decrypt(tenant, backup, object_name=name) == b"kept"
    await ring.rotated(tenant, "storage")
    for process in (ring.cell.keys, other):
        # As `run` does twice a second.
        await process.forget_unusable()

    assert await own.get("a.json") == b"kept"
    await ring.objects.bucket.put("storage/org_1/a.json", backup)
    for process in (ring.cell.keys, other, ring.other_process()):
        with pytest.raises(KeyRetiredError, match="tenants/org_1/keys/storage/versions/1"):
            await process.decrypt(tenant, backup, object_name=name)
    with pytest.raises(KeyRetiredError) as refused:
        await own.get("a.json")
    assert refused.value.code == "KEY_VERSION_RETIRED"
    request = key_changes_pb2.EnableKeyVersionRequest(name="tenants/org_1/keys/storage/versions/1")
    context: Any = None
    await ring.calling(tenant, "EnableKeyVersion").EnableKeyVersion(request, context)
    assert await own.get("a.json") == b"kept"
    await ring.rotated(tenant, "storage")
    assert await own.sealed_by("a.json") == 3


@pytest.mark.behaviour("S2.5")
async def test_what_came_after_the_first_look_is_found_before_a_version_is_retired(
    ring: Ring, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who did not know the new version yet has written an object and a secret."""
    tenant, stale = await ring.cell.tenant(), ring.other_process()
    own = ring.objects.of(tenant)
    late = await stale.encrypt(tenant, b"late", object_name="storage/org_1/late")
    await add_secret(ring, tenant, "api", b"hunter2")
    old = await envelopes(superuser)
    begun = await ring.rotate(tenant, "storage")
    with monkeypatch.context() as patch:
        patch.setattr(ring.plans[begun.kind], "_settling", timedelta(hours=1))
        with pytest.raises(AttemptFailedError):
            await ring.runner.run(begun.id)
    assert await envelopes(superuser) != old
    await ring.objects.bucket.put("storage/org_1/late", late)
    await superuser.execute("UPDATE tenant_org_1.secret_versions SET sealed = %s", old)
    await ring.ended(begun)

    assert await states(ring, tenant) == [State.RETIRED, State.ENABLED]
    assert await sealed_by(own) == {2}
    assert await own.get("late") == b"late"
    assert await payload_of(ring, tenant, "api", 1) == b"hunter2"


async def test_a_version_is_retired_only_when_no_process_seals_with_it_any_more(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await ring.cell.tenant()
    plan: Any = ring.plans["keys.rotate.storage"]
    monkeypatch.setattr(plan, "_settling", timedelta(hours=1))
    begun = await ring.rotate(tenant, "storage")
    for _ in range(3):
        with pytest.raises(AttemptFailedError):
            await ring.runner.run(begun.id)

    assert await states(ring, tenant) == [State.ENABLED, State.ENABLED]
    steps = {step.name: (step.state, step.attempts) for step in (await ring.operation(begun.id)).steps}
    assert steps["rows"] == ("DONE", 1)
    assert steps["retirement"] == ("RUNNING", 0)


@pytest.mark.behaviour("S2.5")
async def test_a_rotation_works_in_parts_shows_how_far_it_is_and_goes_on_where_it_was(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock is a second later, so each part is one object; after each another process goes on."""
    tenant, ticks = await ring.cell.tenant(), itertools.count()
    own = ring.objects.of(tenant)
    await fill(own)
    begun = await ring.rotate(tenant, "storage")
    plan: Any = ring.plans[begun.kind]
    done, resealed = list[tuple[int, int]](), list[int]()
    while not (await ring.operation(begun.id)).is_done:
        plan._resealer = Resealer(ring.objects, ring.cell.keys, clock=lambda: float(next(ticks)))
        with pytest.raises(AttemptFailedError) if len(done) < 2 * len(ALL) else nullcontext():
            await ring.runner.run(begun.id)
        shown = plan.metadata(await ring.operation(begun.id)).resealing
        done.append((shown.look, shown.objects_done))
        resealed.append(shown.objects_resealed)
        assert await read(own) == ALL
    attempts = {step.name: step.attempts for step in (await ring.operation(begun.id)).steps}

    assert done[: len(ALL)] == [(1, number) for number in (1, 2, 3, 4)]
    assert resealed[: len(ALL)] == [1, 2, 3, 4]
    assert resealed[-1] == len(ALL)
    assert done[-1] == (2, len(ALL))
    assert attempts == {"version": 1, "objects": 1, "rows": 1, "retirement": 1}


async def test_a_part_that_fails_for_a_while_is_taken_again_as_often_as_others(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a step has had many parts does not count against it."""
    tenant, ticks = await ring.cell.tenant(), itertools.count()
    await fill(ring.objects.of(tenant))
    begun = await ring.rotate(tenant, "storage")
    plan: Any = ring.plans[begun.kind]
    plan._resealer = Resealer(ring.objects, ring.cell.keys, clock=lambda: float(next(ticks)))
    # As many as a step may fail, but for one; it has more parts than that.
    for _ in range(4):
        with pytest.raises(AttemptFailedError):
            await ring.runner.run(begun.id)

    async def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug, or a broken machine")

    with monkeypatch.context() as patch:
        patch.setattr(plan._resealer, "objects", broken)
        with pytest.raises(AttemptFailedError):
            await ring.runner.run(begun.id)
    await ring.ended(begun)


@pytest.mark.behaviour("S2.5")
async def test_what_a_bucket_cannot_replace_keeps_its_version_enabled_and_is_told(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await ring.cell.tenant()
    store = ObjectStore(ObstoreBucket(MemoryStore()), ring.cell.keys, ring.objects.canaries)
    own = store.of(tenant)
    plan: Any = ring.plans["keys.rotate.storage"]
    plan._resealer = Resealer(store, ring.cell.keys)
    await own.put("small", plaintext=b"s")
    await ring.rotated(tenant, "storage")
    await own.put("large", plaintext=bytes(1000))
    monkeypatch.setattr(bucket_obstore, "REPLACED_BYTES", 500)
    ended = await ring.rotated(tenant, "storage")
    shown = plan.metadata(ended).resealing

    assert await states(ring, tenant) == [State.RETIRED, State.ENABLED, State.ENABLED]
    assert (shown.objects_kept, shown.objects_resealed) == (1, 1)
    assert (await own.get("large"), await own.get("small")) == (bytes(1000), b"s")


async def test_a_bucket_that_knows_no_conditions_is_left_as_it_is_and_the_rotation_says_so(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await ring.cell.tenant()
    own = ring.objects.of(tenant)
    await own.put("a.json", plaintext=b"a")

    async def unconditional(*_: Any) -> None:
        raise PreconditionError("objects", "no conditions", reason="BUCKET_UNCONDITIONAL")

    monkeypatch.setattr(ring.objects.bucket, "replace", unconditional)
    begun = await ring.rotate(tenant, "storage")
    await ring.runner.run(begun.id)
    failed = await ring.operation(begun.id)

    assert (failed.state, failed.failure and failed.failure.reason) == (OperationState.FAILED, "BUCKET_UNCONDITIONAL")
    assert await states(ring, tenant) == [State.ENABLED, State.ENABLED]
    assert await own.get("a.json") == b"a"
    assert not (await ring.key(tenant, "storage")).rotation


async def test_what_does_not_open_holds_nobody_back_and_is_counted(ring: Ring, superuser: Any) -> None:
    """Anybody who reaches the bucket could keep an old version alive with a file of nonsense."""
    tenant = await ring.cell.tenant()
    own, bucket = ring.objects.of(tenant), ring.objects.bucket
    await own.put("a.json", plaintext=b"a")
    sealed = await bucket.get("storage/org_1/a.json")
    await bucket.put("storage/org_1/altered", sealed)
    await bucket.put("storage/org_1/nonsense", b"nonsense")
    await add_secret(ring, tenant, "api", b"first", b"second")
    await superuser.execute("UPDATE tenant_org_1.secret_versions SET sealed = sealed || 'x'::bytea WHERE number = 1")
    ended = await ring.rotated(tenant, "storage")
    shown = ring.plans[ended.kind].metadata(ended).resealing

    assert (shown.objects_refused, shown.objects_resealed, shown.rows_resealed) == (2, 1, 1)
    assert await bucket.get("storage/org_1/altered") == sealed
    assert await states(ring, tenant) == [State.RETIRED, State.ENABLED]
    assert await payload_of(ring, tenant, "api", 2) == b"second"
    with pytest.raises(IntegrityError):
        await own.get("nonsense")


@pytest.mark.behaviour("S2.3")
async def test_a_seal_ends_a_rotation_in_the_middle_and_the_next_one_finds_the_rest(ring: Ring, superuser: Any) -> None:
    tenant, ticks = await ring.cell.tenant(), itertools.count()
    own = ring.objects.of(tenant)
    await fill(own)
    begun = await ring.rotate(tenant, "storage")
    plan: Any = ring.plans[begun.kind]
    plan._resealer = Resealer(ring.objects, ring.cell.keys, clock=lambda: float(next(ticks)))
    with pytest.raises(AttemptFailedError):
        await ring.runner.run(begun.id)
    await superuser.execute("UPDATE csm_system.tenants SET state = 'SEALED' WHERE uid = %s", [tenant.uid])
    await ring.runner.run(begun.id)
    failed = await ring.operation(begun.id)
    await superuser.execute("UPDATE csm_system.tenants SET state = 'ACTIVE' WHERE uid = %s", [tenant.uid])

    assert (failed.state, failed.failure and failed.failure.reason) == (OperationState.FAILED, "TENANT_SEALED")
    assert await sealed_by(own) == {1, 2}
    assert await states(ring, tenant) == [State.ENABLED, State.ENABLED]
    assert await read(own) == ALL
    await ring.rotated(tenant, "storage")
    assert await sealed_by(own) == {3}
    assert await states(ring, tenant) == [State.RETIRED, State.RETIRED, State.ENABLED]


async def test_other_keys_are_rotated_while_objects_are_sealed_anew_and_the_same_one_is_not(ring: Ring) -> None:
    """A KEK that is suspected does not wait for hours."""
    tenant = await ring.cell.tenant()
    own = ring.objects.of(tenant)
    await fill(own)
    begun = await ring.rotate(tenant, "storage")
    await run_steps(ring, begun, "version")

    assert (await ring.key(tenant, "storage")).rotation == begun.name
    with pytest.raises(PreconditionError) as refused:
        await ring.rotate(tenant, "storage")
    assert (refused.value.code, refused.value.metadata) == ("ROTATION_IN_PROGRESS", {"operation": begun.name})
    for key in ("kek", "tokens", "services"):
        await ring.rotated(tenant, key)
    await ring.ended(begun)
    assert (await sealed_by(own), await read(own)) == ({2}, ALL)
    assert (await ring.key(tenant, "storage")).rotation == ""


async def test_an_object_that_went_before_it_was_reached_is_no_failure(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await ring.cell.tenant()
    own, sealed_by = ring.objects.of(tenant), TenantObjects.sealed_by
    await own.put("a.json", plaintext=b"a")

    async def gone(objects: TenantObjects, path: str, *, version: int) -> int:
        await objects.delete(path, version=version)
        return await sealed_by(objects, path, version=version)

    monkeypatch.setattr(TenantObjects, "sealed_by", gone)
    await ring.rotated(tenant, "storage")

    assert await read(own) == {}
    assert await states(ring, tenant) == [State.RETIRED, State.ENABLED]


async def test_many_values_are_sealed_anew_in_batches(
    ring: Ring, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await ring.cell.tenant()
    await add_secret(ring, tenant, "api", *(bytes([number]) for number in range(1, 8)))
    monkeypatch.setattr(secrets, "_RESEALED_AT_ONCE", 2)
    ended = await ring.rotated(tenant, "storage")

    assert ring.plans[ended.kind].metadata(ended).resealing.rows_resealed == 7
    assert {envelope[5:9] for envelope in await envelopes(superuser)} == {(2).to_bytes(4, "big")}
    assert [await payload_of(ring, tenant, "api", number) for number in range(1, 8)] == [
        bytes([number]) for number in range(1, 8)
    ]
