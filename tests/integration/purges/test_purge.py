"""A deleted tenant is purged when its time has come: nothing of it is left anywhere, but what proves that."""

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest

from control_plane.audit import service as audit
from control_plane.audit import store as audit_store
from control_plane.errors import TenantSealedError
from control_plane.keyring import destructions
from control_plane.keys.model import KekRef, WrappedKey
from control_plane.keys.wrapping import Wrapping
from control_plane.operations import service as operations
from control_plane.operations.model import OperationState
from control_plane.policies import store as policies_store
from control_plane.policies.model import Access, Usage
from control_plane.postgres.database import SystemTransaction
from control_plane.postgres.placement import Placement
from control_plane.purges import plan, schedule
from control_plane.purges.plan import TenantPurge
from control_plane.tenants import store
from control_plane.tenants.model import DEFAULT_WAITING, State
from tests.fixtures.cell import Cell
from tests.fixtures.faults import NOW
from tests.fixtures.keyring import Ring
from tests.fixtures.purges import LOG, PROOFS, Purges, delete, is_role, tables_of, tables_with_rows_of, undelete
from tests.fixtures.stored import add_secret, fill
from tests.integration.ext_authz.limiter.valkey_servers import Server

EACH_KIND: Final = pytest.mark.parametrize("isolation", ["POOLED", "STRICT"])
A_SECOND: Final = timedelta(seconds=1)


async def furnished(ring: Ring, purges: Purges, name: str, *, isolation: str = "POOLED") -> Placement:
    """Make a tenant that has something of everything."""
    tenant = await ring.cell.tenant(name, isolation=isolation)
    await fill(ring.objects.of(tenant))
    await add_secret(ring, tenant, "crm", b"a", b"b")
    await ring.cell.token(tenant)
    await ring.create(tenant, "signer", "SIGNING", "ED25519")
    await ring.rotated(tenant, "tokens")
    await purges.means.cache_users.make(tenant)
    await report(ring, tenant)
    return tenant


async def report(ring: Ring, tenant: Placement) -> None:
    """Report what the tenant has used at an edge."""
    usage = Usage(tenant_uid=tenant.uid, method="/a.B/C", minute=NOW, admitted=1, limited=0, cost=1)
    access = Access(tenant_uid=tenant.uid, credential=UUID(int=7), lease_class="", minute=NOW, admitted=1)

    async def work(tx: SystemTransaction) -> None:
        await policies_store.add_usage(tx, [usage])
        await policies_store.add_accesses(tx, [access])

    await ring.cell.database.system().run(work)


def _after(first: Callable[[], Awaitable[None]], then: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def run(*arguments: Any) -> Any:
        with suppress(psycopg.errors.UniqueViolation):
            await first()
        return await then(*arguments)

    return run


@EACH_KIND
@pytest.mark.behaviour("S4.11")
@pytest.mark.behaviour("T-P6")
async def test_nothing_is_left_of_a_purged_tenant_but_its_log_and_its_proofs(
    ring: Ring, purges: Purges, superuser: Any, valkey: Server, tmp_path: Path, *, isolation: str
) -> None:
    gone = await furnished(ring, purges, "org_1", isolation=isolation)
    neighbour = await furnished(ring, purges, "org_10")
    before = await tables_with_rows_of(superuser, neighbour)
    tables = await tables_of(superuser, neighbour)
    await purges.purged(gone)

    assert await tables_with_rows_of(superuser, gone) <= PROOFS
    assert await tables_of(superuser, gone) == LOG
    assert not await is_role(superuser, gone)
    assert await ring.keks() == [KekRef(tenant_uid=neighbour.uid, version=1)]
    assert valkey.tenants_known() == {str(neighbour.uid)}
    assert {path.name for path in (tmp_path / "objects" / "storage").iterdir()} == {"org_10"}
    # And nothing else.
    assert await tables_with_rows_of(superuser, neighbour) == before
    assert await tables_of(superuser, neighbour) == tables
    assert await is_role(superuser, neighbour)
    assert await ring.objects.of(neighbour).get("a.json") == b"one"


@pytest.mark.behaviour("S2.15")
@pytest.mark.behaviour("S4.11")
async def test_the_receipt_lists_every_key_and_a_sample_that_was_kept_opens_no_more(ring: Ring, purges: Purges) -> None:
    tenant = await furnished(ring, purges, "org_1")
    kek = KekRef(tenant_uid=tenant.uid, version=1)
    sample = await Wrapping(ring.vault).sample(kek)
    await purges.purged(tenant)
    database = ring.cell.database
    (receipt,) = await database.system().run(
        lambda tx: destructions.receipts(tx, tenant.uid, before=UUID(int=2**128 - 1), limit=10)
    )

    assert {each["key"] for each in json.loads(receipt.payload)["lost"]} >= {"signer", "storage", "tokens", "authority"}
    assert not await Wrapping(ring.vault).opens(kek, WrappedKey(sample))


@EACH_KIND
@pytest.mark.behaviour("S4.11")
async def test_the_audit_log_stays_whole_and_says_how_the_tenant_went(
    ring: Ring, purges: Purges, *, isolation: str
) -> None:
    tenant = await furnished(ring, purges, "org_1", isolation=isolation)
    await purges.purged(tenant)
    await ring.cell.sealer.seal(tenant)
    log = ring.cell.database.sealer(tenant)
    found = await log.run(audit.verify_log)
    entries = await log.run(lambda tx: audit_store.list_page(tx, UUID(int=2**128 - 1), limit=1000))
    told = [dict(sealed.entry.details) for sealed in reversed(entries) if sealed.entry.resource == "tenants/org_1"]

    assert (found.first_broken, found.unsealed) == (0, 0)
    assert [each.get("state") for each in told] == ["PURGING", None, "PURGED"]
    assert told[-1]["receipt"] == told[-2]["receipt"]
    assert told[-1]["deleted_objects"] == 4


@pytest.mark.behaviour("S4.10")
async def test_a_tenant_is_purged_when_its_waiting_period_is_over_and_not_before(ring: Ring, purges: Purges) -> None:
    tenant = await furnished(ring, purges, "org_1")
    deleted = await delete(ring.cell.database, tenant)
    purges.later = DEFAULT_WAITING - A_SECOND * 60
    await purges.schedule.look()
    early = list(purges.deferred)
    purges.later = DEFAULT_WAITING + A_SECOND
    await purges.schedule.look()
    await purges.schedule.look()

    assert (deleted.state, early, len(purges.deferred)) == (State.PENDING_DELETION, [], 1)
    assert (await purges.tenant(tenant)).state is State.PURGING


@pytest.mark.behaviour("S4.10")
async def test_a_deletion_that_was_taken_back_leaves_everything_as_it_was(ring: Ring, purges: Purges) -> None:
    tenant = await furnished(ring, purges, "org_1")
    await delete(ring.cell.database, tenant)
    with pytest.raises(TenantSealedError):
        await ring.objects.of(tenant).put("b.json", plaintext=b"")
    undeleted = await undelete(ring.cell.database, tenant)
    purges.later = DEFAULT_WAITING + A_SECOND
    await purges.schedule.look()

    assert (undeleted.state, undeleted.delete_time, undeleted.purge_time) == (State.SEALED, None, None)
    assert purges.deferred == []
    assert len(await ring.keks()) == 1


async def test_what_is_left_in_the_registry_says_nothing_of_anybody(ring: Ring, purges: Purges) -> None:
    tenant = await ring.cell.tenant()
    before = await purges.tenant(tenant)
    left = await purges.purged(tenant)
    database = ring.cell.database
    shown = await database.system().run(lambda tx: store.list_page(tx, after="", limit=9, with_purged=False))
    all_of_them = await database.system().run(lambda tx: store.list_page(tx, after="", limit=9, with_purged=True))

    assert (left.settings.display_name, left.settings.admin_email, left.suspend_reason) == ("", "", "")
    assert (left.settings.labels, left.settings.domains) == ({}, ())
    assert ([each.id for each in shown], [each.id for each in all_of_them]) == ([], ["org_1"])
    assert left.uid == before.uid
    assert left.edge_revision > before.edge_revision


async def test_the_id_of_a_purged_tenant_is_nobody_elses(ring: Ring, purges: Purges) -> None:
    tenant = await ring.cell.tenant()
    await purges.purged(tenant)
    taken = replace(await purges.tenant(tenant), state=State.PROVISIONING)

    assert not await ring.cell.database.system().run(lambda tx: store.insert(tx, taken))


async def test_what_an_edge_reports_late_of_a_purged_tenant_is_not_kept(
    ring: Ring, purges: Purges, superuser: Any
) -> None:
    tenant = await ring.cell.tenant()
    await purges.purged(tenant)
    await report(ring, tenant)

    assert await tables_with_rows_of(superuser, tenant) <= PROOFS


@pytest.mark.parametrize("place", ["bucket", "vault", "cache", "registry"])
@pytest.mark.behaviour("S4.11")
async def test_a_tenant_is_not_called_purged_while_something_of_it_is_left(
    ring: Ring, purges: Purges, superuser: Any, monkeypatch: pytest.MonkeyPatch, *, place: str
) -> None:
    """What a step has missed, the last one finds; ten minutes later, another purge is begun."""
    tenant = await furnished(ring, purges, "org_1")
    await delete(ring.cell.database, tenant)
    await superuser.execute("UPDATE csm_system.tenants SET purge_time = now() WHERE uid = %s", [tenant.uid])
    await purges.schedule.look()

    async def and_more() -> None:
        if place == "bucket":
            await ring.objects.bucket.put("storage/org_1/late", b"")
        elif place == "vault":
            await ring.vault.create_kek(KekRef(tenant_uid=tenant.uid, version=9))
        elif place == "cache":
            await purges.means.cache_users.make(tenant)
        else:
            statement = "INSERT INTO csm_system.tenant_keks (tenant_uid, version, create_time) VALUES (%s, 9, now())"
            await superuser.execute(statement, [tenant.uid])

    with monkeypatch.context() as patch:
        patch.setattr(TenantPurge, "_residue", _after(and_more, TenantPurge._residue))
        (failed,) = await purges.run()
    still = await purges.tenant(tenant)
    await purges.schedule.look()
    too_soon = list(purges.deferred)
    purges.later += timedelta(minutes=11)
    await purges.schedule.look()
    if place == "vault":
        # A KEK from nowhere is for people to look at: the receipt says that all were destroyed.
        await ring.vault.destroy_kek(KekRef(tenant_uid=tenant.uid, version=9))
    (again,) = await purges.run()

    assert (failed.state, still.state, too_soon) == (OperationState.FAILED, State.PURGING, [])
    assert (again.state, (await purges.tenant(tenant)).state) == (OperationState.SUCCEEDED, State.PURGED)


@pytest.mark.behaviour("S4.12")
async def test_a_purge_that_meets_a_tenant_which_is_not_being_purged_does_nothing(ring: Ring, purges: Purges) -> None:
    tenant = await ring.cell.tenant()
    deleted = await delete(ring.cell.database, tenant)

    async def begin(tx: SystemTransaction) -> None:
        tx.unchanged()
        operation = await operations.begin(tx, schedule._new_operation(deleted, NOW))
        purges.deferred.append(operation.id)

    await ring.cell.database.system().run(begin)
    (ended,) = await purges.run()

    assert ended.failure is not None
    assert (ended.state, ended.failure.reason) == (OperationState.FAILED, "TENANT_NOT_PURGING")
    assert len(await ring.keks()) == 1


async def test_few_are_purged_at_once(ring: Ring, purges: Purges) -> None:
    for number in range(4):
        await delete(ring.cell.database, await ring.cell.tenant(f"org_{number}"))
    purges.later = DEFAULT_WAITING + A_SECOND
    await purges.schedule.look()
    await purges.schedule.look()
    begun = len(purges.deferred)
    await purges.run()
    await purges.schedule.look()

    assert (begun, len(purges.deferred)) == (2, 2)


async def test_many_objects_go_in_parts_and_are_counted(
    ring: Ring, purges: Purges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_OBJECTS", 3)
    tenant = await ring.cell.tenant()
    for number in range(7):
        await ring.objects.of(tenant).put(f"many/{number}", plaintext=b"")
    await delete(ring.cell.database, tenant)
    purges.later = DEFAULT_WAITING + A_SECOND
    await purges.schedule.look()
    (ended,) = await purges.run()

    assert ended.progress["deleted_objects"] == 7
    assert purges.plan.metadata(ended).deleted_objects == 7


@pytest.mark.behaviour("S4.12")
async def test_the_database_lets_nobody_back_in(ring: Ring, purges: Purges, superuser: Any) -> None:
    tenant, other = await ring.cell.tenant(), await ring.cell.tenant("org_2")
    await purges.purged(tenant)
    for change in (
        "state = 'ACTIVE'",
        "deletion = NULL, delete_time = NULL, purge_time = NULL",
        "deletion = 'PENDING_DELETION'",
        "deletion = 'PURGING'",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            await superuser.execute(f"UPDATE csm_system.tenants SET {change} WHERE uid = %s", [tenant.uid])
    with pytest.raises(psycopg.errors.CheckViolation):
        await superuser.execute("DELETE FROM csm_system.tenants WHERE uid = %s", [tenant.uid])
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await ring.cell.database.system().run(
            lambda tx: tx.execute("SELECT csm_system.purge_rows(%(uid)s)", {"uid": other.uid})
        )
    assert len(await ring.keks()) == 1


async def test_a_purged_tenant_opens_nothing_and_is_let_into_no_cache(cell: Cell, ring: Ring, purges: Purges) -> None:
    tenant = await ring.cell.tenant()
    await purges.purged(tenant)

    with pytest.raises(TenantSealedError):
        await ring.cell.keys.encrypt(tenant, b"", object_name="a")
    assert [placement async for placement in cell.directory.everyone()] == []
