"""A revoked token is told to the edge in the transaction that revokes it, by its own tenant and by nobody else."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest
from psycopg import errors, sql

from control_plane.errors import NotFoundError
from control_plane.ids import TenantId, new_uuid
from control_plane.postgres.database import Database, Isolation, PostgresSettings, Retries, TenantTransaction
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas import migrations
from control_plane.postgres.schemas.migrations import SYSTEM_MIGRATIONS, migrate_system
from control_plane.postgres.schemas.tenancy import TENANT_MIGRATIONS
from control_plane.tokens import service, store
from control_plane.tokens.model import Token
from tests.fixtures.canaries import ConnectAs, RawConnection, enter, rows_of
from tests.fixtures.postgres import MakeTenant, PostgresServer

TENANTS: Final = 12
PUBLISH: Final = "SELECT csm_edge.publish_revocation(%s, %s) AS revision"
PUBLISHED: Final = sql.SQL("SELECT * FROM csm_system.edge_revocations ORDER BY revision")


def in_an_hour() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)


async def issue(database: Database, placement: Placement, *, expire_time: datetime | None = None) -> Token:
    now = datetime.now(UTC).replace(microsecond=0)
    token = Token(
        id=new_uuid(),
        subject="alice",
        role="tenant-member",
        scopes=(),
        kid=new_uuid(),
        create_time=now,
        expire_time=expire_time or in_an_hour(),
    )
    await database.tenant(placement, isolation=Isolation.SERIALIZABLE).run(lambda tx: store.insert(tx, token))
    return token


async def revoke(database: Database, placement: Placement, token_id: UUID) -> service.Revocation:
    handle = database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    return await service.revoke_token(handle, token_id, now=datetime.now(UTC))


async def publish(connection: RawConnection, token_id: UUID, expire_time: datetime) -> int:
    cursor = await connection.execute(PUBLISH, (token_id, expire_time))
    row = await cursor.fetchone()
    assert row is not None
    return int(row["revision"])


async def test_a_revocation_has_a_revision_and_keeps_it(
    database: Database, org_1: Placement, control: RawConnection
) -> None:
    token, other = await issue(database, org_1), await issue(database, org_1)
    first = await revoke(database, org_1, token.id)
    between = await revoke(database, org_1, other.id)
    again = await revoke(database, org_1, token.id)
    published = await rows_of(control, PUBLISHED)

    assert again == first
    assert 0 < first.edge_revision < between.edge_revision
    assert published[0] == {
        "token_id": token.id,
        "tenant_uid": org_1.uid,
        "expire_time": token.expire_time,
        "revision": first.edge_revision,
    }
    assert [row["token_id"] for row in published] == [token.id, other.id]


async def test_of_many_revocations_of_one_token_there_is_one(
    database: Database, org_1: Placement, control: RawConnection
) -> None:
    token = await issue(database, org_1)
    revocations = await asyncio.gather(*(revoke(database, org_1, token.id) for _ in range(5)))

    assert len({revocation.edge_revision for revocation in revocations}) == 1
    assert len(await rows_of(control, PUBLISHED)) == 1


async def test_tenants_that_revoke_at_once_do_not_make_each_other_fail(
    postgres_settings: PostgresSettings, make_tenant: MakeTenant, control: RawConnection
) -> None:
    """With one attempt each: where one lost against another, its call would fail."""
    placements = [await make_tenant(f"org_{number}") for number in range(TENANTS)]
    async with Database.open(postgres_settings, retries=Retries(attempts=1)) as database:
        tokens = [(placement, await issue(database, placement)) for placement in placements for _ in range(3)]
        for round_of in (tokens[0::3], tokens[1::3], tokens[2::3]):
            await asyncio.gather(*(revoke(database, placement, token.id) for placement, token in round_of))

    assert len(await rows_of(control, PUBLISHED)) == TENANTS * 3


async def test_what_was_rolled_back_is_not_published(
    database: Database, org_1: Placement, control: RawConnection
) -> None:
    token = await issue(database, org_1)

    async def work(tx: TenantTransaction) -> None:
        assert await store.revoke(tx, token.id, now=datetime.now(UTC)) is not None
        message = "and then something fails"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="something fails"):
        await database.tenant(org_1, isolation=Isolation.SERIALIZABLE).run(work)
    assert await rows_of(control, PUBLISHED) == []


async def test_a_token_that_has_expired_is_not_told_of(
    database: Database, org_1: Placement, control: RawConnection
) -> None:
    token = await issue(database, org_1, expire_time=datetime.now(UTC) - timedelta(seconds=1))
    revocation = await revoke(database, org_1, token.id)

    assert (revocation.edge_revision, await rows_of(control, PUBLISHED)) == (0, [])
    assert revocation.token.revoke_time is not None


async def test_a_token_that_is_not_there_is_not_told_of(
    database: Database, org_1: Placement, control: RawConnection
) -> None:
    with pytest.raises(NotFoundError):
        await revoke(database, org_1, new_uuid())
    assert await rows_of(control, PUBLISHED) == []


async def test_a_revocation_is_the_callers_own_whatever_it_says(
    make_tenant: MakeTenant, org_1: Placement, control: RawConnection, connect_as: ConnectAs
) -> None:
    """Who it is, is the role; a context that says something else is refused."""
    other, token_id = await make_tenant("org_2"), new_uuid()
    tenant = await connect_as(org_1.login)
    await enter(tenant, org_1)
    mine = await publish(tenant, token_id, in_an_hour())
    await tenant.execute("RESET ROLE")
    for context in (str(other.uid), ""):
        await enter(tenant, org_1, uid=context)
        with pytest.raises(errors.InsufficientPrivilege, match="only a tenant can revoke"):
            await publish(tenant, new_uuid(), in_an_hour())
        await tenant.execute("RESET ROLE")

    assert [(row["tenant_uid"], row["revision"]) for row in await rows_of(control, PUBLISHED)] == [(org_1.uid, mine)]


async def test_what_another_tenant_publishes_is_in_nobodys_way(
    make_tenant: MakeTenant, org_1: Placement, connect_as: ConnectAs, database: Database, control: RawConnection
) -> None:
    token = await issue(database, org_1)
    tenant = await connect_as((other := await make_tenant("org_2")).login)
    await enter(tenant, other)
    theirs = await publish(tenant, token.id, in_an_hour())
    ours = await revoke(database, org_1, token.id)
    published = {row["tenant_uid"]: row["revision"] for row in await rows_of(control, PUBLISHED)}

    assert published == {other.uid: theirs, org_1.uid: ours.edge_revision}


@pytest.mark.parametrize("role", ["csm_control", "csm_directory", "csm_sealer", "csm_ddl"])
async def test_nobody_but_a_tenant_publishes(role: str, org_1: Placement, connect_as: ConnectAs) -> None:
    connection = await connect_as(role)
    await connection.execute(sql.SQL("SET app.tenant_id = {}").format(sql.Literal(str(org_1.uid))))

    with pytest.raises(errors.InsufficientPrivilege):
        await publish(connection, new_uuid(), in_an_hour())


async def test_a_tenant_gets_at_nothing_of_the_edge_but_by_that_function(
    org_1: Placement, connect_as: ConnectAs
) -> None:
    tenant = await connect_as(org_1.login)
    await enter(tenant, org_1)

    for statement in (
        "SELECT * FROM csm_system.edge_revocations",
        "INSERT INTO csm_system.edge_revocations VALUES (gen_random_uuid(), gen_random_uuid(), now(), 1)",
        "DELETE FROM csm_system.edge_revocations",
        "SELECT csm_system.next_edge_revision()",
        "SELECT nextval('csm_system.edge_revisions')",
    ):
        with pytest.raises(errors.InsufficientPrivilege):
            await tenant.execute(statement)


async def test_what_has_expired_is_cleared_away_by_the_control_plane(
    org_1: Placement, control: RawConnection, connect_as: ConnectAs, superuser: RawConnection
) -> None:
    tenant = await connect_as(org_1.login)
    await enter(tenant, org_1)
    for _ in range(3):
        await publish(tenant, new_uuid(), in_an_hour())
    await superuser.execute("UPDATE csm_system.edge_revocations SET expire_time = now() - interval '1 second'")
    with pytest.raises(errors.InsufficientPrivilege):
        await control.execute("UPDATE csm_system.edge_revocations SET expire_time = now()")

    # The newest stays: the greatest revision that there is must not become smaller.
    cursor = await control.execute(
        "DELETE FROM csm_system.edge_revocations"
        " WHERE expire_time < now() AND revision < (SELECT max(revision) FROM csm_system.edge_revocations)"
    )

    assert (cursor.rowcount, len(await rows_of(control, PUBLISHED))) == (2, 1)


async def test_a_database_of_the_time_before_brings_its_tenants_and_revocations_along(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PostgresSettings(
        socket_dir=postgres_server.socket_dir, port=postgres_server.port, dbname=f"before_{new_uuid().hex}"
    )
    conninfo = postgres_server.superuser_conninfo(settings.dbname)
    with monkeypatch.context() as before:
        before.setattr(migrations, "SYSTEM_MIGRATIONS", SYSTEM_MIGRATIONS[:3])
        await migrate_system(conninfo)
    connection: RawConnection = await psycopg.AsyncConnection.connect(
        conninfo, autocommit=True, row_factory=psycopg.rows.dict_row
    )
    async with connection:
        placement = await tenant_of_the_time_before(connection)
        await migrate_system(conninfo)
        (published,) = await rows_of(connection, PUBLISHED)
        tenants = await rows_of(connection, sql.SQL("SELECT id, edge_revision FROM csm_system.tenants ORDER BY id"))
        await connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(placement.role)))
    async with await psycopg.AsyncConnection.connect(
        postgres_server.superuser_conninfo("postgres"), autocommit=True
    ) as maintenance:
        await maintenance.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(settings.dbname)))

    assert (published["token_id"], published["tenant_uid"]) == (UUID(int=2), placement.uid)
    assert [row["edge_revision"] > 0 for row in tenants] == [True, False]


async def tables_of_the_time_before(superuser: RawConnection, placement: Placement) -> None:
    """Make what the code of that time made."""
    schema, role, login = map(sql.Identifier, (placement.schema, placement.role, placement.login))
    for statement in (
        sql.SQL("CREATE ROLE {} LOGIN NOINHERIT").format(login),
        sql.SQL("CREATE ROLE {} NOLOGIN").format(role),
        sql.SQL("CREATE SCHEMA {} AUTHORIZATION csm_owner").format(schema),
        sql.SQL("SET search_path = {}").format(schema),
        sql.SQL("SET ROLE csm_owner"),
        sql.SQL(TENANT_MIGRATIONS[0].text).format(schema=schema, role=role),
        sql.SQL("RESET ROLE"),
        sql.SQL("RESET search_path"),
        sql.SQL("INSERT INTO csm_system.tenant_schemas (tenant_uid, version) VALUES ({}, 1)").format(
            sql.Literal(placement.uid)
        ),
    ):
        await superuser.execute(statement)


async def tenant_of_the_time_before(superuser: RawConnection) -> Placement:
    """Make a tenant with a token that is good, one that is revoked, and one that is revoked and has expired."""
    await superuser.execute("ALTER TABLE csm_system.tenants ALTER COLUMN number RESTART WITH 900000000")
    insert = (
        "INSERT INTO csm_system.tenants (id, uid, display_name, state, tier, schema_name, dns_label)"
        " VALUES (%s, %s, '', %s, 'standard', %s, %s) RETURNING role_name, login_role"
    )
    uid = new_uuid()
    cursor = await superuser.execute(insert, ("org_1", uid, "ACTIVE", "tenant_org_1", "org-1"))
    row: dict[str, Any] | None = await cursor.fetchone()
    await superuser.execute(insert, ("org_2", new_uuid(), "PROVISIONING", "tenant_org_2", "org-2"))
    assert row is not None
    placement = Placement(
        tenant_id=TenantId("org_1"), uid=uid, schema="tenant_org_1", role=row["role_name"], login=row["login_role"]
    )
    await tables_of_the_time_before(superuser, placement)
    for number, is_revoked, hours in ((1, False, 1), (2, True, 1), (3, True, -1)):
        await superuser.execute(
            "INSERT INTO tenant_org_1.tokens (tenant_id, id, subject, role, scopes, kid, expire_time, revoke_time)"
            " VALUES (%s, %s, '', '', '{}', %s, %s, %s)",
            (
                uid,
                UUID(int=number),
                new_uuid(),
                datetime.now(UTC) + timedelta(hours=hours),
                datetime.now(UTC) if is_revoked else None,
            ),
        )
    return placement
