"""Tenants' tables are brought up to date one by one, those first that are used; who cannot be, keeps nobody waiting."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
from psycopg import sql

from control_plane.errors import UnavailableError
from control_plane.postgres import directory as directories
from control_plane.postgres.database import Database, Isolation, PostgresSettings, TenantTransaction
from control_plane.postgres.directory import Directory
from control_plane.postgres.notifications import notified
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas import tenancy, upgrades
from control_plane.postgres.schemas.lint import find_faults
from control_plane.postgres.schemas.migrations import Migration
from control_plane.postgres.schemas.tenancy import TENANT_MIGRATIONS, TENANT_VERSION
from control_plane.postgres.schemas.upgrades import CHANNEL, Elsewhere, SchemaUpgrades
from tests.fixtures.canaries import RawConnection, rows_of, tables_of
from tests.fixtures.postgres import MakeTenant, login

NEXT = TENANT_VERSION + 1
NOTES = Migration(version=NEXT, name="notes", text="ALTER TABLE users ADD COLUMN note text NOT NULL DEFAULT ''")


@pytest.fixture
def reconciler(database: Database, postgres_settings: PostgresSettings) -> SchemaUpgrades:
    return SchemaUpgrades(database, logins=login, notified=partial(notified, postgres_settings, CHANNEL))


def release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenancy, "TENANT_MIGRATIONS", (*TENANT_MIGRATIONS, NOTES))
    monkeypatch.setattr(tenancy, "TENANT_VERSION", NEXT)


async def versions(superuser: RawConnection) -> dict[str, int]:
    rows = await rows_of(
        superuser,
        sql.SQL(
            "SELECT t.id, s.version FROM csm_system.tenants t JOIN csm_system.tenant_schemas s ON s.tenant_uid = t.uid"
        ),
    )
    return {row["id"]: row["version"] for row in rows}


@asynccontextmanager
async def running(reconciler: SchemaUpgrades) -> AsyncIterator[None]:
    task = asyncio.create_task(reconciler.run())
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def has_notes(database: Database, placement: Placement) -> bool:
    handle = database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    rows = await handle.run(partial(TenantTransaction.fetch_all, query="SELECT note FROM users"))
    return rows == []


async def test_all_tenants_are_upgraded_strict_ones_too(
    database: Database,
    make_tenant: MakeTenant,
    superuser: RawConnection,
    reconciler: SchemaUpgrades,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    levels = ("POOLED", "STRICT") * 3
    tenants = [await make_tenant(f"org_{number}", isolation=level) for number, level in enumerate(levels)]
    release(monkeypatch)
    async with running(reconciler):
        while set((await versions(superuser)).values()) != {NEXT}:  # noqa: ASYNC110 it tells nobody when
            await asyncio.sleep(0.01)

    for placement in tenants:
        assert await has_notes(database, placement)


@pytest.mark.behaviour("I3")
async def test_where_nothing_is_to_be_done_a_thousand_tenants_are_one_query(
    database: Database, superuser: RawConnection, reconciler: SchemaUpgrades, monkeypatch: pytest.MonkeyPatch
) -> None:
    await superuser.execute(
        sql.SQL(
            "INSERT INTO csm_system.tenants (id, uid, display_name, state, tier, schema_name, dns_label)"
            " SELECT 'org_' || n, gen_random_uuid(), '', 'ACTIVE', 'standard', 'tenant_org_' || n, 'org-' || n"
            " FROM generate_series(1, 1000) AS n"
        )
    )
    await superuser.execute(
        sql.SQL(
            "INSERT INTO csm_system.tenant_schemas (tenant_uid, version) SELECT uid, {} FROM csm_system.tenants"
        ).format(TENANT_VERSION)
    )
    asked = []
    real = upgrades._due

    async def due(*args: object) -> list[Placement]:
        asked.append(args)
        return await real(*args)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(upgrades, "_due", due)
    monkeypatch.setattr(tenancy, "create_tenant_schema", None)

    assert await reconciler.round() == 0
    assert len(asked) == 1


@pytest.mark.behaviour("T-D8")
async def test_one_that_fails_keeps_nobody_waiting_and_says_why(
    database: Database,
    make_tenant: MakeTenant,
    superuser: RawConnection,
    reconciler: SchemaUpgrades,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tenants = [await make_tenant(f"org_{number}") for number in range(5)]
    await superuser.execute(
        sql.SQL("ALTER TABLE {}.users ADD COLUMN note int").format(sql.Identifier(tenants[1].schema))
    )
    release(monkeypatch)

    assert [await reconciler.round(), await reconciler.round()] == [5, 0]
    assert await versions(superuser) == {
        f"org_{number}": NEXT if number != 1 else TENANT_VERSION for number in range(5)
    }
    (row,) = await rows_of(
        superuser, sql.SQL("SELECT failure, failures FROM csm_system.tenant_schemas WHERE failures > 0")
    )
    assert row["failures"] == 1
    assert 'column "note" of relation "users" already exists' in row["failure"]


@pytest.mark.behaviour("T-D8")
async def test_nobodys_tables_are_looked_at_but_the_tenants_own(
    database: Database, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    """To look at a table is to lock it, and another tenant's may be in the middle of its own migration."""
    ours, theirs = await make_tenant("org_1"), await make_tenant("org_2")
    async with superuser.transaction(), database.ddl() as connection:
        for table in await tables_of(superuser, theirs):
            await superuser.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table.qualified))
        await connection.execute("SET LOCAL lock_timeout = '1ms'")
        assert await find_faults(connection, ours.schema) == []


async def test_one_that_failed_is_tried_again_and_ever_more_seldom(
    make_tenant: MakeTenant, superuser: RawConnection, reconciler: SchemaUpgrades, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = await make_tenant()
    users = sql.Identifier(placement.schema, "users")
    await superuser.execute(sql.SQL("ALTER TABLE {} ADD COLUMN note int").format(users))
    release(monkeypatch)
    waits = []
    for _ in range(3):
        await reconciler.round()
        (row,) = await rows_of(
            superuser, sql.SQL("SELECT extract(epoch FROM retry_time - now()) AS wait FROM csm_system.tenant_schemas")
        )
        waits.append(float(row["wait"]))
        await superuser.execute("UPDATE csm_system.tenant_schemas SET retry_time = now()")
    await superuser.execute(sql.SQL("ALTER TABLE {} DROP COLUMN note").format(users))
    await reconciler.round()

    assert waits[0] < waits[1] < waits[2]
    assert await versions(superuser) == {"org_1": NEXT}
    (row,) = await rows_of(superuser, sql.SQL("SELECT failure, failures FROM csm_system.tenant_schemas"))
    assert row == {"failure": "", "failures": 0}


@pytest.mark.behaviour("T-D8")
async def test_a_tenant_that_is_at_work_is_not_kept_waiting_for_long(
    database: Database,
    make_tenant: MakeTenant,
    superuser: RawConnection,
    reconciler: SchemaUpgrades,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever changes a table has all later transactions queue up behind it: so it gives up soon, and comes again."""
    placement = await make_tenant()
    release(monkeypatch)

    async def hold(tx: TenantTransaction) -> None:
        await tx.fetch_all("SELECT id FROM users")
        assert await reconciler.round() == 1
        assert await versions(superuser) == {"org_1": TENANT_VERSION}

    await database.tenant(placement, isolation=Isolation.SERIALIZABLE).run(hold)
    await reconciler.ensure(placement)

    assert await versions(superuser) == {"org_1": NEXT}


async def test_a_tenant_that_is_used_is_upgraded_before_it_is_found(
    database: Database, make_tenant: MakeTenant, reconciler: SchemaUpgrades, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = await make_tenant()
    release(monkeypatch)
    directory = Directory(database, version=NEXT, upgrade=reconciler.ensure)
    entry = await directory.find("org_1")

    assert entry is not None
    assert entry.schema_version == NEXT
    assert await has_notes(database, placement)


async def test_who_may_not_change_tables_has_it_done_elsewhere(
    database: Database,
    postgres_settings: PostgresSettings,
    make_tenant: MakeTenant,
    reconciler: SchemaUpgrades,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placement = await make_tenant()
    # Nothing is due in the ordinary way: it is the call that brings it about.
    monkeypatch.setattr(upgrades, "_PAGE", 0)
    release(monkeypatch)
    async with running(reconciler), Database.open(replace(postgres_settings, system_role="csm_directory")) as other:
        directory = Directory(other, version=NEXT, upgrade=Elsewhere(other).ensure)
        entry = await directory.find_uid(placement.uid)

    assert entry is not None
    assert entry.schema_version == NEXT


async def test_who_waits_in_vain_is_told_to_come_again(
    database: Database, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "_UPGRADE_LOOK_S", 0)
    await make_tenant()
    directory = Directory(database, version=NEXT, upgrade=Elsewhere(database).ensure)

    with pytest.raises(UnavailableError) as caught:
        await directory.find("org_1")
    assert caught.value.code == "SCHEMA_UPGRADING"


async def test_a_tenant_that_has_no_tables_yet_is_found_as_it_is(
    database: Database, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    await make_tenant()
    await superuser.execute("DELETE FROM csm_system.tenant_schemas")
    entry = await Directory(database, version=NEXT).find("org_1")

    assert entry is not None
    assert entry.schema_version == 0
