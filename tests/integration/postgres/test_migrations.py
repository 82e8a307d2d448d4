"""The platform's schemas are brought up to date once, by one of many, and never backwards."""

import asyncio
import re
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg import sql

from control_plane.ids import new_uuid
from control_plane.postgres.database import PostgresSettings
from control_plane.postgres.schemas import migrations
from control_plane.postgres.schemas.migrations import (
    SYSTEM_MIGRATIONS,
    SYSTEM_VERSION,
    Migration,
    MigrationError,
    migrate_system,
    read_migrations,
)
from control_plane.postgres.schemas.tenancy import TENANT_MIGRATIONS
from tests.fixtures.canaries import RawConnection, rows_of
from tests.fixtures.postgres import PostgresServer

NEXT = Migration(version=SYSTEM_VERSION + 1, name="next", text="CREATE TABLE csm_system.next ()")
BROKEN = Migration(version=SYSTEM_VERSION + 2, name="broken", text="SELECT no_such_column")


@pytest.fixture
async def conninfo(postgres_server: PostgresServer, postgres_settings: PostgresSettings) -> str:
    return postgres_server.superuser_conninfo(postgres_settings.dbname)


@pytest.fixture
async def absent(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """Where a database could be."""
    name = f"absent_{new_uuid().hex}"
    yield postgres_server.superuser_conninfo(name)
    connection = await psycopg.AsyncConnection.connect(postgres_server.superuser_conninfo("postgres"), autocommit=True)
    async with connection:
        await connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


async def versions(superuser: RawConnection) -> list[int]:
    rows = await rows_of(superuser, sql.SQL("SELECT version FROM csm_system.schema_migrations ORDER BY version"))
    return [row["version"] for row in rows]


def test_the_files_are_read_in_order() -> None:
    assert [migration.version for migration in SYSTEM_MIGRATIONS] == list(range(1, SYSTEM_VERSION + 1))
    assert [migration.version for migration in TENANT_MIGRATIONS] == list(range(1, len(TENANT_MIGRATIONS) + 1))


def test_a_gap_in_the_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "_FILE", re.compile(r"(?P<version>000[13])_(?P<name>\w+)\.sql"))

    with pytest.raises(MigrationError, match="not numbered"):
        read_migrations("system")


async def test_a_database_that_is_absent_is_made(absent: str) -> None:
    await asyncio.gather(*(migrate_system(absent) for _ in range(3)))

    connection = await psycopg.AsyncConnection.connect(absent, row_factory=psycopg.rows.dict_row)
    async with connection:
        assert await versions(connection) == list(range(1, SYSTEM_VERSION + 1))


async def test_what_was_applied_is_not_applied_again(conninfo: str, superuser: RawConnection) -> None:
    before = await rows_of(superuser, sql.SQL("SELECT * FROM csm_system.schema_migrations"))

    await migrate_system(conninfo)

    assert await rows_of(superuser, sql.SQL("SELECT * FROM csm_system.schema_migrations")) == before


async def test_what_is_new_is_applied(conninfo: str, superuser: RawConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "SYSTEM_MIGRATIONS", (*SYSTEM_MIGRATIONS, NEXT))
    monkeypatch.setattr(migrations, "SYSTEM_VERSION", NEXT.version)

    await migrate_system(conninfo)

    assert (await versions(superuser))[-1] == NEXT.version
    assert await rows_of(superuser, sql.SQL("SELECT * FROM csm_system.next")) == []


@pytest.mark.behaviour("T-D8")
async def test_a_migration_that_fails_takes_the_others_back(
    conninfo: str, superuser: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "SYSTEM_MIGRATIONS", (*SYSTEM_MIGRATIONS, NEXT, BROKEN))

    with pytest.raises(psycopg.errors.UndefinedColumn):
        await migrate_system(conninfo)
    assert (await versions(superuser))[-1] == SYSTEM_VERSION
    (row,) = await rows_of(superuser, sql.SQL("SELECT to_regclass('csm_system.next') AS name"))
    assert row["name"] is None


async def test_a_database_of_a_newer_release_is_left_alone(conninfo: str, superuser: RawConnection) -> None:
    await superuser.execute(
        "INSERT INTO csm_system.schema_migrations (version, name, checksum) VALUES (%s, 'later', '')",
        (SYSTEM_VERSION + 1,),
    )

    with pytest.raises(MigrationError, match="start the newer release"):
        await migrate_system(conninfo)


async def test_a_file_that_was_changed_after_its_application_is_noticed(
    conninfo: str, superuser: RawConnection
) -> None:
    await superuser.execute("UPDATE csm_system.schema_migrations SET checksum = '' WHERE version = 2")

    with pytest.raises(MigrationError, match=r"0002_registry\.sql is not the file that was applied"):
        await migrate_system(conninfo)


async def test_a_role_that_was_given_powers_loses_them_at_the_next_start(
    conninfo: str, superuser: RawConnection
) -> None:
    await superuser.execute("ALTER ROLE csm_control SUPERUSER BYPASSRLS CREATEROLE")

    await migrate_system(conninfo)

    (role,) = await rows_of(
        superuser,
        sql.SQL(
            "SELECT rolsuper OR rolbypassrls OR rolcreaterole AS powers FROM pg_roles WHERE rolname = 'csm_control'"
        ),
    )
    assert role == {"powers": False}


async def test_the_passwords_of_strict_tenants_from_before_are_of_the_first_version(
    absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [each for each in SYSTEM_MIGRATIONS if each.version < _numbered("login_versions")]
    with monkeypatch.context() as older:
        older.setattr(migrations, "SYSTEM_MIGRATIONS", tuple(before))
        older.setattr(migrations, "SYSTEM_VERSION", len(before))
        await migrate_system(absent)
    connection = await psycopg.AsyncConnection.connect(absent, row_factory=psycopg.rows.dict_row, autocommit=True)
    async with connection:
        for name, isolation in (("one", "STRICT"), ("other", "POOLED")):
            uid = new_uuid()
            await connection.execute(
                """
                INSERT INTO csm_system.tenants (id, uid, display_name, state, tier, isolation, schema_name, dns_label)
                VALUES (%s, %s, '', 'ACTIVE', 'standard', %s, %s, %s)
                """,
                (name, uid, isolation, f"tenant_{name}", name),
            )
            await connection.execute(
                "INSERT INTO csm_system.tenant_schemas (tenant_uid, version) VALUES (%s, 1)", (uid,)
            )
        await migrate_system(absent)
        query = """
            SELECT id, login_version FROM csm_system.tenant_schemas JOIN csm_system.tenants ON uid = tenant_uid
        """
        rows = await rows_of(connection, sql.SQL(query))

    assert {row["id"]: row["login_version"] for row in rows} == {"one": 1, "other": None}


def _numbered(name: str) -> int:
    return next(each.version for each in SYSTEM_MIGRATIONS if each.name == name)
