"""Every change that has an effect at the edge has a revision, and revisions are committed in their order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import psycopg
import pytest
from psycopg import errors, sql

from control_plane.ids import new_uuid
from control_plane.postgres.placement import Placement
from tests.fixtures.canaries import ConnectAs, RawConnection, rows_of
from tests.fixtures.postgres import MakeTenant

WRITERS: Final = 6
CHANGES: Final = 8
# Of all that the edge reads; ordered as it was committed if every reading begins with the one before.
REVISIONS: Final = sql.SQL(
    "SELECT edge_revision AS revision FROM csm_system.tenants WHERE edge_revision > 0"
    " UNION ALL SELECT revision FROM csm_system.edge_revocations ORDER BY 1"
)
ASK_FOR_ONE: Final = "UPDATE csm_system.tenants SET edge_revision = 0 WHERE id = 'org_1'"

RELEVANT: Final = {
    "state": "state = 'SUSPENDED'",
    "tier": "tier = 'business'",
    "isolation": "isolation = 'DEDICATED'",
    "dns_label": "dns_label = 'other'",
    "requests_per_minute": "requests_per_minute = 7",
    "domains": "domains = '{api.acme.example}'",
    "max_policy_age": "max_policy_age = '1 minute'",
    **{f"units_per_{each}": f"units_per_{each} = 5" for each in ("second", "minute", "hour", "day", "month")},
    "billing_day": "billing_day = 2",
    "time_zone": "time_zone = 'Europe/Berlin'",
    "the revision itself": "edge_revision = 0",
}
IRRELEVANT: Final = {
    "display_name": "display_name = 'Other'",
    "labels": """labels = '{"a": "b"}'""",
    "admin_email": "admin_email = 'a@b.example'",
    "suspend_reason": "suspend_reason = 'unpaid'",
    "update_time": "update_time = now(), revision = revision + 1",
    "the same again": "state = state, tier = tier, domains = domains, max_policy_age = max_policy_age",
}


async def revision_of(connection: RawConnection, tenant_id: str = "org_1") -> int:
    cursor = await connection.execute("SELECT edge_revision FROM csm_system.tenants WHERE id = %s", (tenant_id,))
    row = await cursor.fetchone()
    assert row is not None
    return int(row["edge_revision"])


async def revisions(connection: RawConnection) -> list[int]:
    return [row["revision"] for row in await rows_of(connection, REVISIONS)]


async def insert_key(connection: RawConnection, placement: Placement, *, purpose: str = "tokens") -> None:
    await connection.execute(
        "INSERT INTO csm_system.tenant_keys"
        " (id, tenant_uid, purpose, key_id, version, algorithm, kek_version, wrapped, public, state)"
        " VALUES (%s, %s, %s, %s, 1, 'Ed25519', 1, 'wrapped', 'public', 'ENABLED')",
        (new_uuid(), placement.uid, purpose, purpose),
    )


@pytest.mark.parametrize("change", RELEVANT.values(), ids=RELEVANT)
async def test_what_has_an_effect_at_the_edge_has_a_new_revision(
    change: str, org_1: Placement, superuser: RawConnection
) -> None:
    before = await revision_of(superuser)
    await superuser.execute("ALTER TABLE csm_system.tenants DROP CONSTRAINT tenants_isolation_check")
    await superuser.execute(f"UPDATE csm_system.tenants SET {change}")

    assert await revision_of(superuser) > before > 0


@pytest.mark.parametrize("change", IRRELEVANT.values(), ids=IRRELEVANT)
async def test_what_has_none_keeps_its_revision(change: str, org_1: Placement, control: RawConnection) -> None:
    before = await revision_of(control)
    await control.execute(f"UPDATE csm_system.tenants SET {change}")

    assert await revision_of(control) == before


async def test_a_tenant_has_no_revision_before_it_is_made(org_1: Placement, superuser: RawConnection) -> None:
    known = await revision_of(superuser)
    new = (
        "INSERT INTO csm_system.tenants (id, uid, display_name, state, tier, schema_name, dns_label, edge_revision)"
        " VALUES ('org_2', %s, '', 'PROVISIONING', 'standard', 'tenant_org_2', 'org-2', 9)"
    )
    await superuser.execute(new, (new_uuid(),))
    await superuser.execute("UPDATE csm_system.tenants SET tier = 'business', edge_revision = 9 WHERE id = 'org_2'")
    in_the_making = await revision_of(superuser, "org_2")
    await superuser.execute("UPDATE csm_system.tenants SET state = 'ACTIVE' WHERE id = 'org_2'")

    assert in_the_making == 0
    assert await revision_of(superuser, "org_2") == known + 1
    assert await revision_of(superuser) == known


async def test_a_tenant_that_the_edge_knows_is_not_made_once_more(org_1: Placement, control: RawConnection) -> None:
    with pytest.raises(errors.CheckViolation, match="never provisioned again"):
        await control.execute("UPDATE csm_system.tenants SET state = 'PROVISIONING'")


async def test_keys_for_tokens_are_a_part_of_their_tenant(org_1: Placement, control: RawConnection) -> None:
    found = [await revision_of(control)]
    await insert_key(control, org_1)
    found.append(await revision_of(control))
    for change in (
        "UPDATE csm_system.tenant_keys SET state = 'RETIRED'",
        "UPDATE csm_system.tenant_keys SET public = 'another'",
        "UPDATE csm_system.tenant_keys SET purpose = 'storage'",
    ):
        await control.execute(change)
        found.append(await revision_of(control))

    assert found == sorted(set(found))


async def test_other_keys_and_other_wrappings_of_a_key_are_not(org_1: Placement, control: RawConnection) -> None:
    await insert_key(control, org_1)
    before = await revision_of(control)
    await insert_key(control, org_1, purpose="storage")
    await control.execute("UPDATE csm_system.tenant_keys SET wrapped = 'rewrapped', kek_version = 2")
    await control.execute("DELETE FROM csm_system.tenant_keys WHERE purpose = 'storage'")
    unchanged = await revision_of(control)
    await control.execute("DELETE FROM csm_system.tenant_keys")

    assert unchanged == before
    assert await revision_of(control) > before


async def test_what_was_rolled_back_leaves_nothing(org_1: Placement, control: RawConnection) -> None:
    before = await revision_of(control)
    async with control.transaction(force_rollback=True):
        await control.execute("UPDATE csm_system.tenants SET state = 'SUSPENDED'")
        within = await revision_of(control)

    assert within > before
    assert await revision_of(control) == before


async def test_a_revision_is_announced_when_it_is_committed(
    org_1: Placement, control: RawConnection, connect_as: ConnectAs
) -> None:
    listener = await connect_as("csm_control")
    await listener.execute("LISTEN bulkhead_revision")
    async with control.transaction(force_rollback=True):
        await control.execute(ASK_FOR_ONE)
    async with control.transaction():
        await control.execute(ASK_FOR_ONE)
        before_the_commit = [heard async for heard in listener.notifies(timeout=0.1)]
    announced = [heard.payload async for heard in listener.notifies(timeout=30, stop_after=1)]

    assert before_the_commit == []
    assert announced == [str(await revision_of(control))]


async def test_a_revision_waits_for_the_one_before_to_be_committed(
    org_1: Placement,
    make_tenant: MakeTenant,
    control: RawConnection,
    connect_as: ConnectAs,
    superuser: RawConnection,
) -> None:
    """Without that a reader could see the second, go on from there, and miss the first."""
    await make_tenant("org_2")
    other, reader = await connect_as("csm_control"), await connect_as("csm_control")
    async with control.transaction():
        await control.execute(ASK_FOR_ONE)
        held = await revision_of(control)
        waiting = asyncio.create_task(
            other.execute("UPDATE csm_system.tenants SET tier = 'business' WHERE id = 'org_2'")
        )
        await is_waiting(superuser, other.info.backend_pid)
        seen_meanwhile = await revisions(reader)
    await waiting

    assert max(seen_meanwhile) < held
    assert await revision_of(reader) == held
    assert await revision_of(reader, "org_2") == held + 1


async def is_waiting(observer: RawConnection, pid: int) -> None:
    while True:
        rows = await rows_of(
            observer,
            sql.SQL("SELECT FROM pg_locks WHERE pid = {} AND locktype = 'advisory' AND NOT granted").format(pid),
        )
        if rows:
            return
        await asyncio.sleep(0.01)


@asynccontextmanager
async def writers(make_tenant: MakeTenant, connect_as: ConnectAs) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Change a tenant each, some of them in vain; as they wait for each other, they commit in no order of ours."""

    async def write(number: int) -> None:
        connection = await connect_as("csm_control")
        for change in range(CHANGES):
            async with connection.transaction(force_rollback=change % 4 == number % 4):
                await connection.execute(
                    "UPDATE csm_system.tenants SET requests_per_minute = %s WHERE id = %s",
                    (change + 1, f"writer_{number}"),
                )
                await asyncio.sleep(0.001 * (number % 3))

    for number in range(WRITERS):
        await make_tenant(f"writer_{number}")
    async with AsyncExitStack() as stack:
        tasks = [asyncio.create_task(write(number)) for number in range(WRITERS)]
        stack.push_async_callback(lambda: asyncio.gather(*tasks))
        yield tasks


async def test_no_reader_sees_a_revision_before_all_smaller_ones(
    make_tenant: MakeTenant, connect_as: ConnectAs, control: RawConnection
) -> None:
    """Followers of deltas alone, who begin at any time, end with what there is."""
    known: dict[str, int] = {}
    head = 0

    async def follow() -> None:
        nonlocal head
        cursor = await control.execute(
            "SELECT id, requests_per_minute, edge_revision FROM csm_system.tenants WHERE edge_revision > %s", (head,)
        )
        rows: list[dict[str, Any]] = await cursor.fetchall()
        known.update({row["id"]: row["requests_per_minute"] for row in rows})
        head = max([head, *(row["edge_revision"] for row in rows)])

    async with writers(make_tenant, connect_as) as tasks:
        while not all(task.done() for task in tasks):
            await follow()
    await follow()
    rows = await rows_of(control, sql.SQL("SELECT id, requests_per_minute FROM csm_system.tenants"))

    assert known == {row["id"]: row["requests_per_minute"] for row in rows}
    assert head == max(await revisions(control))
    assert len(set(await revisions(control))) == WRITERS


async def test_a_domain_belongs_to_one_tenant(
    org_1: Placement, make_tenant: MakeTenant, control: RawConnection
) -> None:
    await make_tenant("org_2")
    claim = "UPDATE csm_system.tenants SET domains = %s WHERE id = %s"
    await control.execute(claim, (["a.example.org", "b.example.org"], "org_1"))
    with pytest.raises(errors.UniqueViolation) as refused:
        await control.execute(claim, (["b.example.org", "c.example.org"], "org_2"))
    await control.execute(claim, (["a.example.org", "d.example.org"], "org_1"))
    await control.execute(claim, (["b.example.org", "c.example.org"], "org_2"))
    owners = await rows_of(
        control,
        sql.SQL("SELECT domain, t.id FROM csm_system.tenant_domains JOIN csm_system.tenants t ON uid = tenant_uid"),
    )

    assert refused.value.diag.constraint_name == "tenant_domains_pkey"
    assert {row["domain"][0]: row["id"] for row in owners} == {"a": "org_1", "b": "org_2", "c": "org_2", "d": "org_1"}


async def test_the_domains_of_a_tenant_that_is_gone_are_free(org_1: Placement, control: RawConnection) -> None:
    await control.execute("UPDATE csm_system.tenants SET domains = '{a.example.org}'")
    await control.execute("DELETE FROM csm_system.tenants")

    assert await rows_of(control, sql.SQL("SELECT FROM csm_system.tenant_domains")) == []


async def test_nobody_writes_domains_past_their_tenant(org_1: Placement, control: RawConnection) -> None:
    for statement in (
        "INSERT INTO csm_system.tenant_domains VALUES ('a.example.org', %(uid)s)",
        "UPDATE csm_system.tenant_domains SET tenant_uid = %(uid)s",
        "DELETE FROM csm_system.tenant_domains WHERE tenant_uid = %(uid)s",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            await control.execute(statement, {"uid": org_1.uid})


@pytest.mark.parametrize(
    "value",
    [
        "requests_per_minute = -1",
        "requests_per_minute = 1000001",
        "max_policy_age = '0.9 seconds'",
        "max_policy_age = '1441 minutes'",
        "units_per_second = 0",
        "units_per_minute = 0",
        "units_per_hour = -1",
        "units_per_day = 9007199254740993",
        "units_per_month = 0",
        "billing_day = 0",
        "billing_day = 32",
        "time_zone = ''",
        "time_zone = '../x'",
        "domains = array_fill('a.example'::text, ARRAY[17])",
        "domains = ARRAY[NULL]::text[]",
    ],
)
async def test_what_no_tenant_can_have_is_refused(value: str, org_1: Placement, control: RawConnection) -> None:
    with pytest.raises(errors.CheckViolation):
        await control.execute(f"UPDATE csm_system.tenants SET {value}")


async def test_a_database_names_its_history_once(control: RawConnection, superuser: RawConnection) -> None:
    (first,) = await rows_of(control, sql.SQL("SELECT id FROM csm_system.edge_feed"))
    with pytest.raises(errors.UniqueViolation):
        await superuser.execute("INSERT INTO csm_system.edge_feed DEFAULT VALUES")
    with pytest.raises(errors.CheckViolation):
        await superuser.execute("INSERT INTO csm_system.edge_feed (one) VALUES (false)")
    with pytest.raises(errors.InsufficientPrivilege):
        await control.execute("UPDATE csm_system.edge_feed SET id = gen_random_uuid()")

    assert await rows_of(control, sql.SQL("SELECT id FROM csm_system.edge_feed")) == [first]


@pytest.mark.parametrize("table", ["edge_feed", "edge_revocations", "tenant_domains", "edge_revisions"])
async def test_the_certificate_service_has_no_part_in_it(table: str, connect_as: ConnectAs) -> None:
    directory = await connect_as("csm_directory")

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await rows_of(directory, sql.SQL("SELECT * FROM {}").format(sql.Identifier("csm_system", table)))
