"""A tenant's schema and roles are made and dropped whole, once, and by many at a time."""

import asyncio
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from control_plane.errors import UnavailableError
from control_plane.ids import new_uuid
from control_plane.postgres.database import (
    Database,
    Isolation,
    PostgresSettings,
    SystemTransaction,
    TenantTransaction,
)
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas import tenancy
from control_plane.postgres.schemas.migrations import Migration
from control_plane.postgres.schemas.tenancy import (
    TENANT_VERSION,
    create_tenant_schema,
    drop_tenant_schema,
    schema_version,
)
from tests.fixtures.canaries import ConnectAs, RawConnection, insert_row, rows_of, tables_of
from tests.fixtures.postgres import MakeTenant

NEXT = TENANT_VERSION + 1
NOTES = Migration(version=NEXT, name="notes", text="ALTER TABLE users ADD COLUMN note text NOT NULL DEFAULT ''")
BROKEN = Migration(version=NEXT, name="broken", text="ALTER TABLE users ADD COLUMN note text; SELECT no_such_column")


async def census(superuser: RawConnection) -> dict[str, Any]:
    """List whatever there is of tenants of this test's database."""
    schemas = await rows_of(superuser, sql.SQL("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenant%'"))
    roles = await rows_of(
        superuser,
        sql.SQL("SELECT rolname FROM pg_roles JOIN csm_system.tenants ON rolname = role_name"),
    )
    versions = await rows_of(superuser, sql.SQL("SELECT tenant_uid, version FROM csm_system.tenant_schemas"))
    return {
        "schemas": sorted(row["nspname"] for row in schemas),
        "roles": sorted(row["rolname"] for row in roles),
        "versions": {row["tenant_uid"]: row["version"] for row in versions},
    }


def whole(placement: Placement, version: int = TENANT_VERSION) -> dict[str, Any]:
    return {"schemas": [placement.schema], "roles": [placement.role], "versions": {placement.uid: version}}


NOTHING: dict[str, Any] = {"schemas": [], "roles": [], "versions": {}}


async def test_a_schema_that_is_there_is_left_alone(
    database: Database, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    placement = await make_tenant()
    for table in await tables_of(superuser, placement):
        await insert_row(superuser, table, uid=placement.uid)

    await create_tenant_schema(database, placement)

    assert await census(superuser) == whole(placement)
    users = await rows_of(superuser, sql.SQL("SELECT FROM {}.users").format(sql.Identifier(placement.schema)))
    assert len(users) == 1
    assert await schema_version(database, placement) == TENANT_VERSION


async def test_many_at_once_make_one_schema(
    database: Database, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    placement = await make_tenant()
    await drop_tenant_schema(database, placement)

    await asyncio.gather(*(create_tenant_schema(database, placement) for _ in range(8)))

    assert await census(superuser) == whole(placement)


async def test_many_tenants_are_made_at_once(make_tenant: MakeTenant, superuser: RawConnection) -> None:
    placements = await asyncio.gather(*(make_tenant(f"org_{number}") for number in range(8)))

    assert (await census(superuser))["schemas"] == sorted(placement.schema for placement in placements)


async def test_a_dropped_schema_leaves_nothing(
    database: Database, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    placement = await make_tenant()
    for table in await tables_of(superuser, placement):
        await insert_row(superuser, table, uid=placement.uid)

    await drop_tenant_schema(database, placement)
    await drop_tenant_schema(database, placement)

    assert await census(superuser) == NOTHING
    assert await schema_version(database, placement) == 0


async def test_a_neighbour_outlives_the_drop(database: Database, make_tenant: MakeTenant) -> None:
    ours, theirs = await make_tenant("ours"), await make_tenant("theirs")

    await drop_tenant_schema(database, ours)

    read = partial(TenantTransaction.fetch_all, query="SELECT id FROM users")
    assert await database.tenant(theirs, isolation=Isolation.SERIALIZABLE).run(read) == []
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="does not exist"):
        await database.tenant(ours, isolation=Isolation.SERIALIZABLE).run(read)


@pytest.mark.behaviour("S1.20")
async def test_a_tenant_made_again_by_name_sees_nothing_of_the_former_one(
    database: Database, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    former = await make_tenant("org_1")
    await insert_row(superuser, (await tables_of(superuser, former))[-1], uid=former.uid)
    await drop_tenant_schema(database, former)
    await superuser.execute("DELETE FROM csm_system.tenants")

    later = await make_tenant("org_1")

    assert later.role != former.role
    assert later.uid != former.uid
    read = partial(TenantTransaction.fetch_all, query="SELECT id FROM users")
    assert await database.tenant(later, isolation=Isolation.SERIALIZABLE).run(read) == []


@pytest.mark.behaviour("T-P1")
@pytest.mark.parametrize("step", ["_create_role", "_migrate", "find_faults", "_grant_roles"])
async def test_a_creation_that_dies_at_a_step_leaves_nothing_and_succeeds_when_repeated(
    step: str, database: Database, make_tenant: MakeTenant, superuser: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = await make_tenant()
    await drop_tenant_schema(database, placement)
    real = getattr(tenancy, step)

    async def done_and_dead(*args: Any, **kwargs: Any) -> Any:
        await real(*args, **kwargs)
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(tenancy, step, done_and_dead)
        with pytest.raises(ConnectionResetError):
            await create_tenant_schema(database, placement)
    assert await census(superuser) == NOTHING

    await create_tenant_schema(database, placement)
    assert await census(superuser) == whole(placement)


async def test_a_drop_waits_for_an_open_transaction_and_gives_up_in_time(
    database: Database, postgres_settings: PostgresSettings, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    placement = await make_tenant()
    await superuser.execute("ALTER ROLE csm_ddl SET lock_timeout = '50ms'")

    async def hold(tx: TenantTransaction) -> None:
        await tx.fetch_all("SELECT id FROM users")
        async with Database.open(postgres_settings) as other:
            with pytest.raises(UnavailableError):
                await drop_tenant_schema(other, placement)

    await database.tenant(placement, isolation=Isolation.SERIALIZABLE).run(hold)

    assert await census(superuser) == whole(placement)
    await drop_tenant_schema(database, placement)
    assert await census(superuser) == NOTHING


async def test_an_older_schema_is_brought_up_to_date_with_its_rows(
    database: Database, make_tenant: MakeTenant, superuser: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = await make_tenant()
    handle = database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    insert = "INSERT INTO users (id, subject, role, state) VALUES (uuidv7(), 'alice', 'auditor', 'ACTIVE')"
    await handle.run(partial(TenantTransaction.execute, query=insert))
    monkeypatch.setattr(tenancy, "TENANT_MIGRATIONS", (*tenancy.TENANT_MIGRATIONS, NOTES))
    monkeypatch.setattr(tenancy, "TENANT_VERSION", NEXT)

    await create_tenant_schema(database, placement)
    await create_tenant_schema(database, placement)

    rows = await handle.run(partial(TenantTransaction.fetch_all, query="SELECT subject, note FROM users"))
    assert rows == [{"subject": "alice", "note": ""}]
    assert await census(superuser) == whole(placement, version=NEXT)


@pytest.mark.behaviour("T-D8")
async def test_a_migration_that_fails_leaves_the_old_schema(
    database: Database, make_tenant: MakeTenant, superuser: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = await make_tenant()
    monkeypatch.setattr(tenancy, "TENANT_MIGRATIONS", (*tenancy.TENANT_MIGRATIONS, BROKEN))
    monkeypatch.setattr(tenancy, "TENANT_VERSION", NEXT)

    with pytest.raises(errors.UndefinedColumn):
        await create_tenant_schema(database, placement)
    read = partial(TenantTransaction.fetch_all, query="SELECT note FROM users")
    with pytest.raises(errors.UndefinedColumn):
        await database.tenant(placement, isolation=Isolation.SERIALIZABLE).run(read)
    assert await census(superuser) == whole(placement)


@pytest.mark.behaviour("T-D5")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("id", 'a"b'),
        ("id", "org_1; DROP"),
        ("id", "Org_1"),
        ("id", "örg"),
        ("id", "o" * 42),
        ("schema_name", "csm_system"),
        ("schema_name", "public"),
        ("schema_name", "pg_temp"),
        ("schema_name", "tenant_"),
        ("schema_name", 'tenant_a"b'),
        ("schema_name", "tenant_" + "x" * 57),
        ("dns_label", "under_score"),
        ("dns_label", "-dash"),
        ("dns_label", "x" * 64),
    ],
)
async def test_the_registry_itself_refuses_names_that_could_mean_another_schema(
    column: str, value: str, database: Database
) -> None:
    row = {"id": "org_1", "schema_name": "tenant_org_1", "dns_label": "org-1", column: value}

    with pytest.raises(errors.CheckViolation):
        await database.system().run(partial(register, row=row))


@pytest.mark.behaviour("T-D5")
@pytest.mark.parametrize("column", ["id", "schema_name", "dns_label"])
async def test_two_tenants_never_share_a_name(column: str, database: Database) -> None:
    first = {"id": "org_1", "schema_name": "tenant_org_1", "dns_label": "org-1"}
    second = {"id": "org_2", "schema_name": "tenant_org_2", "dns_label": "org-2", column: first[column]}
    await database.system().run(partial(register, row=first))

    with pytest.raises(errors.UniqueViolation):
        await database.system().run(partial(register, row=second))


async def register(tx: SystemTransaction, row: dict[str, str]) -> None:
    await tx.execute(
        "INSERT INTO tenants (id, uid, display_name, state, tier, schema_name, dns_label)"
        " VALUES (%(id)s, %(uid)s, '', 'ACTIVE', 'standard', %(schema_name)s, %(dns_label)s)",
        row | {"uid": new_uuid()},
    )


async def test_only_the_platforms_ddl_role_makes_schemas_and_roles(
    make_tenant: MakeTenant, connect_as: ConnectAs
) -> None:
    placement = await make_tenant()

    for role in (placement.login, "csm_control", "csm_sealer", "csm_directory"):
        connection = await connect_as(role)
        for statement in ("CREATE SCHEMA loot", "CREATE ROLE loot", "DROP ROLE csm_owner", "SET ROLE csm_owner"):
            with pytest.raises(errors.InsufficientPrivilege):
                await connection.execute(statement.encode())


async def test_the_ddl_role_reads_no_tenants_rows(make_tenant: MakeTenant, connect_as: ConnectAs) -> None:
    placement = await make_tenant()
    connection = await connect_as("csm_ddl")

    with pytest.raises(errors.InsufficientPrivilege):
        await connection.execute(sql.SQL("SELECT FROM {}.users").format(sql.Identifier(placement.schema)))
