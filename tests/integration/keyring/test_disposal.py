"""The end of a tenant's own key: announced, taken back or carried out, and proven."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from psycopg.rows import DictRow

from bulkhead.v1 import key_requests_pb2, keys_pb2, receipts_pb2
from control_plane.errors import (
    AlreadyExistsError,
    EtagMismatchError,
    InvalidArgumentError,
    PreconditionError,
    UnavailableError,
)
from control_plane.keyring import disposal, store
from control_plane.keys import store as keys_store
from control_plane.keys.model import BUILT_IN_IDS, MissingKeyError
from control_plane.operations.model import OperationState
from control_plane.postgres.placement import Placement
from tests.fixtures.keyring import Ring

CONTEXT: Any = None
DAY: Final = timedelta(days=1)
Lifecycle = key_requests_pb2.KeyLifecycle
Superuser = psycopg.AsyncConnection[DictRow]


async def receipts(ring: Ring, tenant: Placement) -> list[receipts_pb2.DestructionReceipt]:
    request = receipts_pb2.ListDestructionReceiptsRequest(parent=f"tenants/{tenant.tenant_id}")
    answer = await ring.calling(tenant, "ListDestructionReceipts").ListDestructionReceipts(request, CONTEXT)
    return list(answer.destruction_receipts)


async def ended(ring: Ring, tenant: Placement, key_id: str = "invoices") -> None:
    """Have a key destroyed, to the end."""
    await ring.schedule(tenant, key_id)
    ring.later += timedelta(days=7, seconds=1)
    await ring.disposal.look()
    await ring.run_deferred()


@pytest.mark.behaviour("S2.16")
async def test_a_destruction_waits_for_seven_days_and_can_be_taken_back(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    made = await ring.create(tenant, "invoices", "ENCRYPTION")
    waiting = await ring.schedule(tenant, "invoices", etag=made.etag)
    ring.later = timedelta(days=7) - timedelta(minutes=1)
    await ring.disposal.look()
    still = await ring.key(tenant, "invoices")
    restored = await ring.restore(tenant, "invoices", etag=waiting.etag)
    ring.later = timedelta(days=8)
    await ring.disposal.look()

    wait = waiting.lifecycle.destroy_time.ToDatetime() - made.create_time.ToDatetime()
    assert timedelta(days=7) <= wait < timedelta(days=7, minutes=1)
    assert (waiting.lifecycle.state, still.lifecycle.state) == (Lifecycle.DESTROY_SCHEDULED,) * 2
    assert restored.lifecycle.state == Lifecycle.ENABLED
    assert not restored.lifecycle.HasField("destroy_time")
    assert (await ring.cell.keys.named_key(tenant, "invoices")).version == 1
    assert [details.get("state") for _, details in await ring.log(tenant)] == [None, "DESTROY_SCHEDULED", "ENABLED"]
    assert ring.deferred == []


@pytest.mark.parametrize(
    ("seconds", "accepted"),
    [(86_399, False), (86_400, True), (30 * 86_400, True), (30 * 86_400 + 1, False), (-1, False), (2**62, False)],
)
async def test_it_waits_for_one_to_thirty_days(seconds: int, accepted: bool, ring: Ring) -> None:  # noqa: FBT001 a fact
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    period = Duration(seconds=seconds)
    if accepted:
        key = await ring.schedule(tenant, "invoices", waiting_period=period, validate_only=True)
        assert key.lifecycle.state == Lifecycle.ENABLED
        key = await ring.schedule(tenant, "invoices", waiting_period=period)
        assert key.lifecycle.state == Lifecycle.DESTROY_SCHEDULED
        return
    with pytest.raises(InvalidArgumentError, match="waiting_period"):
        await ring.schedule(tenant, "invoices", waiting_period=period)

    assert (await ring.key(tenant, "invoices")).lifecycle.state == Lifecycle.ENABLED


@pytest.mark.parametrize("key_id", BUILT_IN_IDS)
async def test_what_every_tenant_has_is_not_destroyed_and_the_message_says_why(key_id: str, ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    for call in (ring.schedule, ring.restore):
        with pytest.raises(PreconditionError, match=r"is what .*: it goes with its tenant") as refused:
            await call(tenant, key_id)
        assert refused.value.code == "KEY_BUILT_IN"


async def test_a_state_that_does_not_allow_it_is_named(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    made = await ring.create(tenant, "invoices", "ENCRYPTION")
    with pytest.raises(PreconditionError) as in_use:
        await ring.restore(tenant, "invoices")
    await ring.schedule(tenant, "invoices")
    with pytest.raises(EtagMismatchError):
        await ring.restore(tenant, "invoices", etag=made.etag)
    codes = []
    for call in (ring.schedule, ring.rotate):
        with pytest.raises(PreconditionError) as waits:
            await call(tenant, "invoices")
        codes.append(waits.value.code)
    ring.later = timedelta(days=8)
    await ring.disposal.look()
    for call in (ring.schedule, ring.restore, ring.rotate):
        with pytest.raises(PreconditionError) as gone:
            await call(tenant, "invoices")
        codes.append(gone.value.code)

    assert in_use.value.code == "KEY_IN_USE"
    assert codes == ["KEY_DESTROY_SCHEDULED"] * 2 + ["KEY_DESTROYED"] * 3


@pytest.mark.behaviour("S2.15", "S2.16")
async def test_a_key_that_is_due_goes_from_database_and_backups_and_the_receipt_of_its_kek_lists_it(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    await ring.create(tenant, "signer", "SIGNING", "EC_P256")
    await ring.rotated(tenant, "invoices")
    backup = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))
    await ended(ring, tenant)
    rows = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))
    (receipt,) = await receipts(ring, tenant)
    said = json.loads(receipt.payload)["destroyed"]
    key, versions = await ring.key(tenant, "invoices"), await ring.versions(tenant, "invoices")

    assert {row.key_id for row in rows} == {*BUILT_IN_IDS, "signer"} - {"kek"}
    assert {row.kek_version for row in rows} == {2}
    for row in backup:
        with pytest.raises(MissingKeyError):
            await ring.vault.unwrap(row.kek, row.wrapped, aad=row.binding.aad())
    assert [(each["key"], each["version"], each["algorithm"]) for each in said] == [
        ("kek", 1, "AES-256-GCM"),
        ("invoices", 2, "AES-256-GCM"),
        ("invoices", 1, "AES-256-GCM"),
    ]
    assert receipt.key_version == "tenants/org_1/keys/kek/versions/1"
    assert list(receipt.destroyed_key_versions) == [
        f"tenants/org_1/keys/invoices/versions/{version}" for version in (2, 1)
    ]
    assert key.lifecycle.state == Lifecycle.DESTROYED
    assert [version.state for version in versions] == [keys_pb2.KeyVersion.DESTROYED] * 2
    assert ("tenants/org_1/keys/invoices", {"state": "DESTROYED", "versions": [1, 2]}) in await ring.log(tenant)
    with pytest.raises(MissingKeyError):
        await ring.cell.keys.named_key(tenant, "invoices")
    assert (await ring.cell.keys.named_key(tenant, "signer")).version == 1


async def test_what_is_done_is_not_done_again_and_a_name_is_not_given_again(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    await ended(ring, tenant)
    begun = list(ring.deferred)
    await ring.disposal.look()
    with pytest.raises(AlreadyExistsError):
        await ring.create(tenant, "invoices", "ENCRYPTION")

    assert ring.deferred == begun
    assert len(await receipts(ring, tenant)) == 1


async def test_each_receipt_lists_what_went_with_its_own_kek(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    for key_id in ("first", "second"):
        await ring.create(tenant, key_id, "ENCRYPTION")
    await ended(ring, tenant, "first")
    await ended(ring, tenant, "second")
    await ring.rotated(tenant, "kek")

    assert [list(receipt.destroyed_key_versions) for receipt in await receipts(ring, tenant)] == [
        [],
        ["tenants/org_1/keys/second/versions/1"],
        ["tenants/org_1/keys/first/versions/1"],
    ]


async def test_another_rotation_is_waited_for_and_looks_at_once_begin_one(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    await ring.schedule(tenant, "invoices")
    running = await ring.rotate(tenant, "storage")
    ring.later = timedelta(days=8)
    await ring.disposal.look()
    waiting = list(ring.deferred)
    await ring.runner.run(running.id)
    await asyncio.gather(*(ring.disposal.look() for _ in range(4)))
    await ring.run_deferred()

    assert waiting == [running.id]
    assert len(ring.deferred) == 2
    assert len(await receipts(ring, tenant)) == 1


async def test_a_key_that_is_being_rotated_gets_no_version_after_its_end(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    rotation = await ring.rotate(tenant, "invoices")
    await ring.schedule(tenant, "invoices")
    ring.later = timedelta(days=8)
    await ring.disposal.look()
    await ring.runner.run(rotation.id)
    await ring.disposal.look()
    await ring.run_deferred()
    rows = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))

    assert (await ring.operation(rotation.id)).state is OperationState.FAILED
    assert "invoices" not in {row.key_id for row in rows}
    assert len(await receipts(ring, tenant)) == 1


@pytest.mark.behaviour("S2.3")
async def test_the_keys_of_a_sealed_tenant_wait_until_it_is_unsealed(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    await ring.schedule(tenant, "invoices")
    ring.later = timedelta(days=8)

    async def become(state: str) -> None:
        await ring.cell.database.system().run(
            lambda tx: tx.execute(
                "UPDATE csm_system.tenants SET state = %(state)s WHERE uid = %(uid)s",
                {"state": state, "uid": tenant.uid},
            )
        )

    await become("SEALED")
    await ring.disposal.look()
    rows = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))
    await become("SUSPENDED")
    await ring.disposal.look()
    await ring.run_deferred()

    assert "invoices" in {row.key_id for row in rows}
    assert (await ring.key(tenant, "invoices")).lifecycle.state == Lifecycle.DESTROYED
    assert len(await receipts(ring, tenant)) == 1


async def test_the_keys_of_a_sealed_tenant_are_not_even_looked_for(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    await ring.schedule(tenant, "invoices")
    await ring.cell.database.system().run(
        lambda tx: tx.execute("UPDATE csm_system.tenants SET state = 'SEALED' WHERE uid = %(uid)s", {"uid": tenant.uid})
    )
    later = datetime.now(UTC) + timedelta(days=8)

    assert await ring.cell.database.system().run(lambda tx: store.tenants_with_due_keys(tx, now=later)) == []


async def test_a_restoration_that_is_faster_than_the_end_keeps_the_key(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disposal has seen that a key is due, and waits for whoever is just restoring it."""
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    await ring.schedule(tenant, "invoices")
    ring.later = timedelta(days=8)
    own = store.due_keys

    async def slow(*arguments: Any, **more: Any) -> list[str]:
        due = await own(*arguments, **more)
        await ring.restore(tenant, "invoices")
        return due

    monkeypatch.setattr(store, "due_keys", slow)
    await ring.disposal.look()

    assert (await ring.key(tenant, "invoices")).lifecycle.state == Lifecycle.ENABLED
    assert (await ring.other_process().named_key(tenant, "invoices")).version == 1


async def test_a_key_that_ends_while_a_version_of_it_is_made_gets_none(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await ring.cell.tenant()
    await ring.create(tenant, "invoices", "ENCRYPTION")
    rotation = await ring.rotate(tenant, "invoices")
    plan: Any = ring.plans["keys.rotate.named."]
    own = plan._made

    async def slow(*arguments: Any) -> keys_store.StoredKey:
        made: keys_store.StoredKey = await own(*arguments)
        await ring.schedule(tenant, "invoices")
        ring.later = timedelta(days=8)
        await ring.disposal.look()
        return made

    monkeypatch.setattr(plan, "_made", slow)
    await ring.runner.run(rotation.id)
    rows = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))

    assert (await ring.operation(rotation.id)).state is OperationState.FAILED
    assert "invoices" not in {row.key_id for row in rows}


async def test_a_tenant_that_is_broken_keeps_nobody_elses_key_alive(ring: Ring, superuser: Superuser) -> None:
    broken, other = await ring.cell.tenant(), await ring.cell.tenant("org_2")
    for each in (broken, other):
        await ring.create(each, "invoices", "ENCRYPTION")
        await ring.schedule(each, "invoices")
    await superuser.execute("ALTER TABLE tenant_org_1.audit_entries RENAME TO elsewhere")
    ring.later = timedelta(days=8)
    await ring.disposal.look()
    await superuser.execute("ALTER TABLE tenant_org_1.elsewhere RENAME TO audit_entries")

    # Without its entry nothing is deleted.
    assert (await ring.key(broken, "invoices")).lifecycle.state == Lifecycle.DESTROY_SCHEDULED
    assert (await ring.key(other, "invoices")).lifecycle.state == Lifecycle.DESTROYED


async def test_it_looks_again_after_the_database_was_away(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disposal, "_EVERY", timedelta(milliseconds=1))
    looks, seen = 0, asyncio.Event()

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise UnavailableError("the database is away")
        seen.set()

    monkeypatch.setattr(ring.disposal, "look", look)
    running = asyncio.create_task(ring.disposal.run())
    async with asyncio.timeout(10):
        await seen.wait()
    running.cancel()

    assert looks >= 2


async def test_a_neighbours_keys_stay(ring: Ring) -> None:
    tenant, neighbour = await ring.cell.tenant(), await ring.cell.tenant("org_2")
    for each in (tenant, neighbour):
        await ring.create(each, "invoices", "ENCRYPTION")
    await ended(ring, tenant)

    assert (await ring.other_process().named_key(neighbour, "invoices")).version == 1
    assert (await ring.key(neighbour, "invoices")).lifecycle.state == Lifecycle.ENABLED
    assert await receipts(ring, neighbour) == []


async def test_a_restoration_and_the_end_at_once_leave_the_one_or_the_other(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    for number in range(6):
        key_id = f"key-{number}"
        await ring.create(tenant, key_id, "ENCRYPTION")
        await ring.schedule(tenant, key_id)
    ring.later = timedelta(days=8)
    restored = [ring.restore(tenant, f"key-{number}") for number in range(6)]
    done = await asyncio.gather(ring.disposal.look(), *restored, return_exceptions=True)
    for number, outcome in enumerate(done[1:]):
        state = (await ring.key(tenant, f"key-{number}")).lifecycle.state
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, PreconditionError)
            assert state == Lifecycle.DESTROYED
        else:
            assert state == Lifecycle.ENABLED
            assert (await ring.other_process().named_key(tenant, f"key-{number}")).version == 1
