"""An effect and its entry are committed together, or not at all."""

import asyncio
import random
from collections import Counter
from typing import Final, NoReturn

import psycopg
import pytest
from psycopg.rows import DictRow

from control_plane.audit.recorder import effects_recorder, operation_recorder
from control_plane.errors import AlreadyExistsError
from control_plane.ids import new_uuid
from control_plane.postgres.database import Isolation, SystemTransaction, TenantTransaction
from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from tests.fixtures.cell import Cell

# What a tenant's runtime role may not do to its own log; the last one chooses its place in the chain.
FORBIDDEN: Final = (
    "UPDATE audit_entries SET actor = 'nobody'",
    "DELETE FROM audit_entries",
    "UPDATE audit_seals SET sequence = 9",
    "DELETE FROM audit_seals",
    "INSERT INTO audit_seals (sequence, entry_id, entry_xact, hash) SELECT 9, id, xact, '' FROM audit_entries",
    """
    INSERT INTO audit_entries (id, xact, actor, method, resource, outcome, request_id)
    VALUES (uuidv7(), '1', 'a', 'm', 'r', 'EFFECT', '')
    """,
)
SUSPEND: Final = "/bulkhead.v1.TenantService/SuspendTenant"


async def entries(superuser: psycopg.AsyncConnection[DictRow], tenant: str = "org_1") -> list[DictRow]:
    found = await superuser.execute(f"SELECT *, xmin::text FROM tenant_{tenant}.audit_entries ORDER BY id")
    return await found.fetchall()


async def add_user(tx: TenantTransaction, subject: str) -> None:
    await tx.execute(
        "INSERT INTO users (id, subject, role, state) VALUES (%(id)s, %(subject)s, 'tenant-member', 'ACTIVE')",
        {"id": new_uuid(), "subject": subject},
    )


@pytest.mark.behaviour("T-L4")
async def test_a_call_that_names_no_effect_is_recorded_as_one_on_its_tenant(
    cell: Cell, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    placement = await cell.tenant()
    call = cell.call(placement)
    await call.tenant().run(lambda tx: add_user(tx, "bob"))
    (entry,) = await entries(superuser)
    users = await (await superuser.execute("SELECT xmin::text FROM tenant_org_1.users")).fetchall()

    assert {key: entry[key] for key in ("actor", "method", "resource", "outcome", "reason", "request_id", "count")} == {
        "actor": "tenant-admin:alice",
        "method": "/bulkhead.v1.TokenService/IssueToken",
        "resource": "tenants/org_1",
        "outcome": "EFFECT",
        "reason": "",
        "request_id": call.request_id,
        "count": 1,
    }
    assert users == [{"xmin": entry["xmin"]}]
    assert cell.touched == [placement]


async def test_each_effect_has_an_entry_with_what_it_says_of_itself(
    cell: Cell, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    async def work(tx: TenantTransaction) -> None:
        tx.record(Effect(resource="tenants/org_1/tokens/1", details={"subject": "bob"}))
        tx.record(Effect(resource="tenants/org_1/tokens/2", actor="tenant-admin:admin", method="/platform/Sweep"))

    await cell.call(await cell.tenant()).tenant().run(work)
    found = [(row["resource"], row["actor"], row["method"], row["details"]) for row in await entries(superuser)]

    assert found == [
        ("tenants/org_1/tokens/1", "tenant-admin:alice", "/bulkhead.v1.TokenService/IssueToken", {"subject": "bob"}),
        ("tenants/org_1/tokens/2", "tenant-admin:admin", "/platform/Sweep", {}),
    ]


@pytest.mark.behaviour("T-L4")
async def test_an_effect_that_is_rolled_back_leaves_no_entry(
    cell: Cell, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    async def work(tx: TenantTransaction) -> NoReturn:
        await add_user(tx, "bob")
        tx.record(Effect(resource="tenants/org_1"))
        raise AlreadyExistsError("tenants/org_1")

    with pytest.raises(AlreadyExistsError):
        await cell.call(await cell.tenant()).tenant().run(work)

    assert await entries(superuser) == []


async def test_what_says_that_it_changed_nothing_has_no_entry(
    cell: Cell, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    async def work(tx: TenantTransaction) -> None:
        tx.unchanged()

    await cell.call(await cell.tenant()).tenant().run(work)

    assert await entries(superuser) == []


@pytest.mark.behaviour("T-L3")
async def test_where_the_log_cannot_be_written_nothing_is_done(
    cell: Cell, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    placement = await cell.tenant()
    await superuser.execute("ALTER TABLE tenant_org_1.audit_entries ADD CONSTRAINT full_disk CHECK (false)")
    with pytest.raises(psycopg.errors.CheckViolation):
        await cell.call(placement).tenant().run(lambda tx: add_user(tx, "bob"))
    users = await (await superuser.execute("SELECT count(*) FROM tenant_org_1.users")).fetchone()

    assert users == {"count": 0}


@pytest.mark.behaviour("T-L4")
async def test_of_many_transactions_at_once_each_that_committed_has_one_entry(
    cell: Cell, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    """Serializable work is repeated, some fails half way: the log has neither more nor less than the users."""
    placement = await cell.tenant()
    rng = random.Random(4)

    async def add(number: int, *, fails: bool) -> None:
        async def work(tx: TenantTransaction) -> None:
            await tx.fetch_all("SELECT count(*) FROM users")
            await add_user(tx, f"user {number}")
            tx.record(Effect(resource=f"tenants/org_1/users/user {number}"))
            if fails:
                raise AlreadyExistsError("half way")

        # Those that lose each time are not committed either.
        await cell.call(placement).tenant().run(work)

    await asyncio.gather(*(add(number, fails=rng.random() < 0.3) for number in range(60)), return_exceptions=True)
    users = await (await superuser.execute("SELECT subject FROM tenant_org_1.users")).fetchall()
    recorded = Counter(row["resource"].rpartition("/")[2] for row in await entries(superuser))

    assert recorded == Counter(row["subject"] for row in users)
    assert len(recorded) > 5


@pytest.mark.behaviour("T-L5")
async def test_a_platform_call_on_a_tenant_is_in_that_tenants_log_and_no_others(
    cell: Cell, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    placement, other = await cell.tenant("org_1"), await cell.tenant("org_2")
    call = cell.call(placement, method=SUSPEND)

    async def work(tx: SystemTransaction) -> None:
        await tx.execute("UPDATE csm_system.tenants SET state = 'SUSPENDED' WHERE id = 'org_1'")
        tx.record(Effect(resource="tenants/org_1", placement=placement, details={"state": "SUSPENDED"}))

    await call.system().run(work)
    (entry,) = await entries(superuser, "org_1")

    assert (entry["method"], entry["details"], entry["tenant_id"]) == (SUSPEND, {"state": "SUSPENDED"}, placement.uid)
    assert await entries(superuser, "org_2") == []
    assert other not in cell.touched


async def test_a_platform_call_may_have_effects_on_several_tenants(
    cell: Cell, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    tenants = [await cell.tenant("org_1"), await cell.tenant("org_2")]

    async def work(tx: SystemTransaction) -> None:
        for placement in tenants:
            tx.record(Effect(resource=f"tenants/{placement.tenant_id}", placement=placement))

    await cell.call(tenants[0], method=SUSPEND).system().run(work)
    found = {name: [row["resource"] for row in await entries(superuser, name)] for name in ("org_1", "org_2")}

    assert found == {"org_1": ["tenants/org_1"], "org_2": ["tenants/org_2"]}


async def test_an_effect_without_a_tenant_is_not_committed(cell: Cell) -> None:
    async def work(tx: SystemTransaction) -> None:
        await tx.execute("UPDATE csm_system.tenants SET tier = 'x'")

    call = cell.call(await cell.tenant(), method=SUSPEND)
    call.placement = None
    with pytest.raises(RuntimeError, match="belongs to no tenant"):
        await call.system().run(work)
    row = await cell.database.system().run(lambda tx: tx.fetch_one("SELECT tier FROM csm_system.tenants"))

    assert row == {"tier": "standard"}


async def test_an_effect_on_another_tenant_than_the_transactions_is_not_committed(cell: Cell) -> None:
    ours, theirs = await cell.tenant("org_1"), await cell.tenant("org_2")

    async def work(tx: TenantTransaction) -> None:
        tx.record(Effect(resource="tenants/org_2", placement=theirs))

    with pytest.raises(RuntimeError, match="another tenant"):
        await cell.call(ours).tenant().run(work)


async def test_an_operation_records_in_the_name_of_the_call_that_began_it(
    cell: Cell, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    placement = await cell.tenant()
    touched: list[Placement] = []
    recorder = operation_recorder(
        actor="platform-admin:root",
        method="/bulkhead.v1.TenantService/CreateTenant",
        request_id="r1",
        touched=touched.append,
    )

    async def work(tx: SystemTransaction) -> None:
        tx.record(Effect(resource="tenants/org_1", placement=placement))

    await cell.database.system(before_commit=recorder).run(work)
    (entry,) = await entries(superuser)

    assert (entry["actor"], entry["method"].rpartition("/")[2], entry["request_id"]) == (
        "platform-admin:root",
        "CreateTenant",
        "r1",
    )
    assert touched == [placement]


@pytest.mark.behaviour("T-L5")
async def test_whatever_a_caller_sends_is_shown_in_the_log_and_not_obeyed(
    cell: Cell, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    placement = await cell.tenant()
    hostile = 'x\r\n2026-01-01 INFO root did it\x1b[2J\x00\u202e","outcome":"EFFECT'
    call = cell.call(placement, role=Role.TENANT_ADMIN)

    async def work(tx: TenantTransaction) -> None:
        tx.record(Effect(resource=hostile, actor=hostile, details={hostile: [hostile, {"a": hostile}]}))

    await cell.database.tenant(placement, isolation=Isolation.SERIALIZABLE, before_commit=effects_recorder(call)).run(
        work
    )
    (entry,) = await entries(superuser)
    shown = r'x\u000d\u000a2026-01-01 INFO root did it\u001b[2J\u0000\u202e","outcome":"EFFECT'

    assert (entry["resource"], entry["actor"]) == (shown, shown)
    assert entry["details"] == {shown: [shown, {"a": shown}]}


@pytest.mark.behaviour("S1.13")
async def test_the_log_is_only_ever_added_to(cell: Cell, superuser: psycopg.AsyncConnection[DictRow]) -> None:
    placement = await cell.tenant()
    await cell.call(placement).tenant().run(lambda tx: add_user(tx, "bob"))
    await cell.sealer.seal(placement)
    before = await entries(superuser)
    handle = cell.database.tenant(placement, isolation=Isolation.READ_COMMITTED)
    for statement in FORBIDDEN:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await handle.run(lambda tx, statement=statement: tx.execute(statement))  # type: ignore[misc]  # a default binds the loop's value
    for table in ("audit_entries", "audit_seals"):
        for statement in (f"UPDATE {table} SET tenant_id = tenant_id", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="never changed"):
                await superuser.execute(f"SET search_path = tenant_org_1; {statement}")

    assert await entries(superuser) == before
