"""What a rotation does to those who seal, open, sign and verify meanwhile, and afterwards."""

import asyncio
from typing import Any

import pytest

from bulkhead.v1 import keys_pb2
from control_plane.errors import ConflictError, UnavailableError
from control_plane.keyring import store
from control_plane.keys import store as keys_store
from control_plane.keys.model import KekRef, MissingKeyError, Purpose
from control_plane.keys.service import TenantKeys
from control_plane.operations.model import Operation, OperationState
from control_plane.operations.service import AttemptFailedError
from control_plane.postgres.placement import Placement
from control_plane.tokens.model import LONGEST_LIFETIME
from tests.fixtures.faults import NOW
from tests.fixtures.keyring import Ring

NAME, PLAIN = "storage/org_1/a.pem", b"a canary in plain sight"
State = keys_pb2.KeyVersion.State


def _version(sealed: bytes) -> int:
    """Read which version of the key an envelope in format 2 asks for."""
    return int.from_bytes(sealed[5:9], "big")


async def _sealed_by(keys: TenantKeys, tenant: Placement) -> int:
    return _version(await keys.encrypt(tenant, PLAIN, object_name=NAME))


async def _until_asked_again(keys: TenantKeys, tenant: Placement, version: int) -> None:
    """Wait until a process seals with the version; a test that hangs here has found one that never does."""
    while await _sealed_by(keys, tenant) != version:  # noqa: ASYNC110 there is nothing that could tell
        await asyncio.sleep(0.05)


@pytest.mark.behaviour("S2.5")
async def test_new_objects_are_sealed_with_the_new_version_and_old_ones_open(ring: Ring) -> None:
    tenant, keys, other = await ring.cell.tenant(), ring.cell.keys, ring.other_process()
    sealed = await keys.encrypt(tenant, PLAIN, object_name=NAME)
    assert (_version(sealed), await _sealed_by(other, tenant)) == (1, 1)
    begun = await ring.rotate(tenant, "storage")
    await ring.plans[begun.kind].runs["version"](begun)

    assert await _sealed_by(keys, tenant) == 2
    await _until_asked_again(other, tenant, 2)
    for reader in (keys, other, ring.other_process()):
        assert await reader.decrypt(tenant, sealed, object_name=NAME) == PLAIN
    assert [(version.state, version.primary) for version in await ring.versions(tenant, "storage")] == [
        (State.ENABLED, True),
        (State.ENABLED, False),
    ]


@pytest.mark.behaviour("S2.5")
async def test_what_services_seal_is_sealed_with_the_new_version_and_what_they_sealed_opens(ring: Ring) -> None:
    tenant, keys = await ring.cell.tenant(), ring.cell.keys
    before = await keys.services_key(tenant)
    await ring.rotated(tenant, "services")
    after = await keys.services_key(tenant)

    assert (before.version, after.version) == (1, 2)
    assert after.private != before.private
    assert [await ring.other_process().services_key(tenant, version=one.version) for one in (before, after)] == [
        before,
        after,
    ]


@pytest.mark.parametrize("moment", ["before the old KEK is closed", "after it"])
async def test_a_first_key_that_is_made_while_the_kek_is_replaced_is_wrapped_under_the_new_one(
    ring: Ring, superuser: Any, *, moment: str
) -> None:
    """A tenant from before there were keys for services is given one when they seal first, whenever that is."""
    tenant = await ring.cell.tenant()
    await superuser.execute("DELETE FROM csm_system.tenant_keys WHERE purpose = 'services'")
    late = await ring.plans["keys.rotate.services"]._new_version(tenant, Purpose.SERVICES, version=1, now=NOW)
    begun = await ring.rotate(tenant, "kek")
    plan, system = ring.plans[begun.kind], ring.cell.database.system()
    for step in ("kek", "wrapping"):
        await plan.runs[step](begun)
    if moment == "after it":
        await system.run(lambda tx: store.close_keks(tx, tenant.uid, before=2, now=NOW))
        with pytest.raises(ConflictError):
            await system.run(lambda tx: keys_store.insert_missing(tx, [late]))
    else:
        await system.run(lambda tx: keys_store.insert_missing(tx, [late]))
    await plan.runs["destruction"](begun)
    used = await ring.other_process().services_key(tenant)

    assert await ring.keks() == [KekRef(tenant_uid=tenant.uid, version=2)]
    assert await ring.other_process().services_key(tenant, version=1) == used
    assert {version.kek_version for version in await ring.versions(tenant, "services")} == {2}


@pytest.mark.behaviour("S2.5")
@pytest.mark.behaviour("S2.9")
async def test_a_tokens_key_is_published_first_and_signs_once_every_edge_knows_it(ring: Ring) -> None:
    tenant, keys = await ring.cell.tenant(), ring.cell.keys
    old = await keys.token_signer(tenant)
    revision = await _edge_revision(ring, tenant)
    begun = await ring.rotate(tenant, "tokens")
    ring.lagging = ["edge-1"]
    for _ in range(2):
        with pytest.raises(AttemptFailedError) as postponed:
            await ring.runner.run(begun.id)
        assert isinstance(postponed.value.__cause__, UnavailableError)
        assert postponed.value.__cause__.code == "EDGES_BEHIND"
    new = next(version for version in await ring.versions(tenant, "tokens") if not version.primary)

    assert min(ring.waited_for) > revision
    for process in (keys, ring.other_process()):
        assert (await process.token_signer(tenant)).kid == old.kid
        assert {str(kid) async for kid in _verified(process, old.kid, new.kid)} == {str(old.kid), new.kid}
    ring.lagging = []
    await ring.runner.run(begun.id)
    assert str((await keys.token_signer(tenant)).kid) == new.kid
    assert str((await ring.other_process().token_signer(tenant)).kid) == new.kid
    assert {str(kid) async for kid in _verified(keys, old.kid, new.kid)} == {str(old.kid), new.kid}


async def _verified(keys: TenantKeys, *kids: Any) -> Any:
    for kid in kids:
        found = await keys.token_verifier(kid)
        if found is not None:
            yield found.kid


async def _edge_revision(ring: Ring, tenant: Placement) -> int:
    return await ring.cell.database.system().run(lambda tx: store.edge_revision(tx, tenant.uid))


async def test_a_token_that_was_signed_before_is_good_afterwards_and_so_is_one_from_after(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    before = await ring.cell.token(tenant)
    await ring.rotated(tenant, "tokens")
    after = await ring.cell.token(tenant)

    for token in (before, after):
        assert (await ring.cell.verifier.verify(token)).tenant == tenant.tenant_id


async def test_a_tokens_key_is_retired_by_the_first_rotation_after_its_last_token(ring: Ring, superuser: Any) -> None:
    tenant = await ring.cell.tenant()
    first = (await ring.cell.keys.token_signer(tenant)).kid
    for _ in range(2):
        await ring.rotated(tenant, "tokens")
    assert [version.state for version in await ring.versions(tenant, "tokens")] == [State.ENABLED] * 3
    # As if the second version had been in use for as long as a token of the first one lives, and the third for less.
    await superuser.execute(
        "UPDATE csm_system.tenant_keys"
        " SET use_time = now() - %s - interval '2 hours' * (3 - version) + interval '1 hour'"
        " WHERE purpose = 'tokens' AND version IN (2, 3)",
        [LONGEST_LIFETIME],
    )
    before = await _edge_revision(ring, tenant)
    await ring.rotated(tenant, "tokens")

    assert [version.state for version in await ring.versions(tenant, "tokens")] == [
        State.ENABLED,
        State.ENABLED,
        State.ENABLED,
        State.RETIRED,
    ]
    assert await ring.other_process().token_verifier(first) is None
    assert await _edge_revision(ring, tenant) > before
    assert ("tenants/org_1/keys/tokens/versions/1", {"state": "RETIRED"}) in await ring.log(tenant)


@pytest.mark.behaviour("S2.6")
async def test_a_new_kek_wraps_every_key_and_the_old_one_is_destroyed_while_everything_opens(ring: Ring) -> None:
    tenant, neighbour = await ring.cell.tenant(), await ring.cell.tenant("org_2")
    sealed = await ring.cell.keys.encrypt(tenant, PLAIN, object_name=NAME)
    signer = await ring.cell.keys.token_signer(tenant)
    await ring.rotated(tenant, "services")
    await ring.rotated(tenant, "kek")
    process = ring.other_process()

    assert await ring.keks() == sorted(
        [KekRef(tenant_uid=tenant.uid, version=2), KekRef(tenant_uid=neighbour.uid, version=1)]
    )
    assert await process.decrypt(tenant, sealed, object_name=NAME) == PLAIN
    assert (await process.token_signer(tenant)).kid == signer.kid
    assert await process.derive(tenant, b"label") == await ring.cell.keys.derive(tenant, b"label")
    one, other = [(await keys.authorities(tenant)).signing for keys in (process, ring.cell.keys)]
    assert one.certificate == other.certificate
    assert {version.kek_version for version in await ring.versions(tenant, "services")} == {2}
    destroyed = (await ring.versions(tenant, "kek"))[1]
    assert (destroyed.state, destroyed.HasField("destroy_time")) == (State.DESTROYED, True)
    await ring.rotated(tenant, "tokens")
    assert {version.kek_version for version in await ring.versions(tenant, "tokens")} == {2}


@pytest.mark.behaviour("S2.6")
@pytest.mark.behaviour("S2.15")
async def test_rows_of_before_open_nothing_once_the_old_kek_is_destroyed(ring: Ring, superuser: Any) -> None:
    tenant = await ring.cell.tenant()
    sealed = await ring.cell.keys.encrypt(tenant, PLAIN, object_name=NAME)
    await superuser.execute("CREATE TABLE public.backup AS SELECT * FROM csm_system.tenant_keys")
    await ring.rotated(tenant, "kek")
    assert await ring.other_process().decrypt(tenant, sealed, object_name=NAME) == PLAIN
    await superuser.execute("DELETE FROM csm_system.tenant_keys")
    await superuser.execute("INSERT INTO csm_system.tenant_keys SELECT * FROM public.backup")

    with pytest.raises(MissingKeyError):
        await ring.other_process().token_signer(tenant)


async def test_who_read_a_wrapped_key_before_it_was_wrapped_anew_opens_it_all_the_same(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the reading of the row and its opening the whole rotation takes place."""
    tenant, process = await ring.cell.tenant(), ring.other_process()
    sealed = await ring.cell.keys.encrypt(tenant, PLAIN, object_name=NAME)
    unwrapped, rotations = process._unwrapped, 0

    async def slow(stored: keys_store.StoredKey) -> Any:
        nonlocal rotations
        if not rotations:
            rotations += 1
            await ring.rotated(tenant, "kek")
        return await unwrapped(stored)

    monkeypatch.setattr(process, "_unwrapped", slow)

    assert await process.decrypt(tenant, sealed, object_name=NAME) == PLAIN
    assert rotations == 1


async def test_a_key_that_is_wrapped_under_the_old_kek_keeps_it_alive(
    ring: Ring, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever put it there: nothing is destroyed that something still needs."""
    tenant = await ring.cell.tenant()

    async def nothing(_: Operation) -> None:
        return

    sealed = await ring.cell.keys.encrypt(tenant, PLAIN, object_name=NAME)
    begun = await ring.rotate(tenant, "kek")
    plan = ring.plans[begun.kind]
    await plan.runs["kek"](begun)
    before = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))
    await plan.runs["wrapping"](begun)
    stray = next(key for key in before if key.purpose is Purpose.STORAGE)
    await superuser.execute(
        "UPDATE csm_system.tenant_keys SET wrapped = %s, kek_version = 1 WHERE id = %s", [stray.wrapped, stray.id]
    )

    monkeypatch.setattr(plan, "_wrap", nothing)
    with pytest.raises(RuntimeError, match="still wrapped"):
        await plan.runs["destruction"](begun)
    assert len(await ring.keks()) == 2
    assert await ring.other_process().decrypt(tenant, sealed, object_name=NAME) == PLAIN


async def test_a_key_that_was_changed_while_it_was_wrapped_anew_stays_as_it_is(
    ring: Ring, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await ring.cell.tenant()
    begun = await ring.rotate(tenant, "kek")
    plan = ring.plans[begun.kind]
    rewrapped = plan._wrapping.rewrapped
    await plan.runs["kek"](begun)

    async def meanwhile(stored: keys_store.StoredKey, *, kek: KekRef) -> keys_store.StoredKey:
        if stored.purpose is Purpose.STORAGE:
            await superuser.execute("UPDATE csm_system.tenant_keys SET wrapped = 'x' WHERE id = %s", [stored.id])
        return await rewrapped(stored, kek=kek)

    monkeypatch.setattr(plan._wrapping, "rewrapped", meanwhile)
    with pytest.raises(ConflictError):
        await plan.runs["wrapping"](begun)
    stored = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))

    assert {key.kek_version for key in stored} == {1}
    assert next(key.wrapped for key in stored if key.purpose is Purpose.STORAGE) == b"x"


async def test_a_key_that_does_not_open_as_it_was_is_not_put_in_place(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vault that wraps something else than it was given loses nothing: the old KEK is there, and what it wraps."""
    tenant = await ring.cell.tenant()
    sealed = await ring.cell.keys.encrypt(tenant, PLAIN, object_name=NAME)
    wrap = ring.vault.wrap

    async def lying(kek: KekRef, key: bytes, *, aad: bytes) -> Any:
        return await wrap(kek, bytes(len(key)), aad=aad)

    monkeypatch.setattr(ring.vault, "wrap", lying)
    begun = await ring.rotate(tenant, "kek")
    while not (await ring.operation(begun.id)).is_done:
        await asyncio.gather(ring.runner.run(begun.id), return_exceptions=True)

    assert await ring.keks() == [KekRef(tenant_uid=tenant.uid, version=1)]
    assert await ring.other_process().decrypt(tenant, sealed, object_name=NAME) == PLAIN


async def test_a_purpose_that_is_new_is_given_under_the_kek_that_there_is(ring: Ring, superuser: Any) -> None:
    tenant = await ring.cell.tenant()
    await ring.rotated(tenant, "kek")
    await superuser.execute("DELETE FROM csm_system.tenant_keys WHERE purpose = 'enrolment'")
    await ring.other_process().create(tenant, now=NOW, display_name="Alpha")

    assert {version.kek_version for version in await ring.versions(tenant, "enrolment")} == {2}
    assert await ring.keks() == [KekRef(tenant_uid=tenant.uid, version=2)]


async def test_while_the_database_is_away_a_process_goes_on_with_what_it_knows(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant, process = await ring.cell.tenant(), ring.other_process()
    assert await _sealed_by(process, tenant) == 1

    async def away(*_: Any, **__: Any) -> Any:
        raise UnavailableError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(process, "_usable", away)
        patch.setattr(process._newest, "get", lambda _: None)
        assert await _sealed_by(process, tenant) == 1
        with pytest.raises(UnavailableError):
            await process.token_signer(tenant)


@pytest.mark.behaviour("S2.3")
@pytest.mark.parametrize("key", ["kek", "storage", "services", "tokens", "audit"])
async def test_a_rotation_that_meets_a_seal_is_given_up_and_opens_nothing(
    ring: Ring, superuser: Any, monkeypatch: pytest.MonkeyPatch, *, key: str
) -> None:
    tenant = await ring.cell.tenant()
    sealed = await ring.cell.keys.encrypt(tenant, PLAIN, object_name=NAME)
    begun = await ring.rotate(tenant, key)
    opened, unwrap = [], ring.vault.unwrap

    async def noted(kek: KekRef, wrapped: Any, *, aad: bytes) -> bytes:
        opened.append(kek)
        return await unwrap(kek, wrapped, aad=aad)

    monkeypatch.setattr(ring.vault, "unwrap", noted)
    await superuser.execute("UPDATE csm_system.tenants SET state = 'SEALED' WHERE uid = %s", [tenant.uid])
    await ring.runner.run(begun.id)
    ended = await ring.operation(begun.id)
    await superuser.execute("UPDATE csm_system.tenants SET state = 'ACTIVE' WHERE uid = %s", [tenant.uid])

    assert (ended.state, ended.failure and ended.failure.reason) == (OperationState.FAILED, "TENANT_SEALED")
    assert opened == []
    assert await ring.keks() == [KekRef(tenant_uid=tenant.uid, version=1)]
    assert await ring.other_process().decrypt(tenant, sealed, object_name=NAME) == PLAIN
    await ring.rotated(tenant, key)
