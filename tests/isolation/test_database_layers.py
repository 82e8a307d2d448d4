"""Role, row-level security and handle each keep tenants apart alone: every test takes the other two away."""

from typing import Any, cast

import pytest
from psycopg import errors, sql

from control_plane.ids import new_uuid
from control_plane.postgres.database import Database, Isolation, TenantTransaction
from control_plane.postgres.handles import TenantHandle
from control_plane.postgres.placement import Placement
from tests.fixtures.canaries import (
    Canaries,
    ConnectAs,
    RawConnection,
    all_rows,
    enter,
    insertion,
    values_for,
)


async def remove_row_level_security(superuser: RawConnection, canaries: Canaries) -> None:
    for table in canaries.our_tables + canaries.their_tables:
        await superuser.execute(
            sql.SQL("ALTER TABLE {} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY").format(table.qualified)
        )


async def grant_everything(superuser: RawConnection, canaries: Canaries) -> None:
    for placement in (canaries.ours, canaries.theirs):
        schema = sql.Identifier(placement.schema)
        await superuser.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO PUBLIC").format(schema))
        await superuser.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA {} TO PUBLIC").format(schema))


async def session_in(connect_as: ConnectAs, placement: Placement, **context: Any) -> RawConnection:
    connection = await connect_as(placement.login)
    await enter(connection, placement, **context)
    return connection


async def assert_denied(connection: RawConnection, statement: sql.Composed, row: dict[str, Any]) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        await connection.execute(statement, row)


def test_the_catalogue_names_the_tables_that_there_are(canaries: Canaries) -> None:
    names = {table.name for table in canaries.their_tables}

    assert names >= {"users", "enrolments", "tokens", "certificates", "audit_entries", "audit_seals"}


@pytest.mark.behaviour("S1.2")
@pytest.mark.behaviour("S1.6")
async def test_the_role_alone_refuses_every_foreign_table(
    canaries: Canaries, superuser: RawConnection, connect_as: ConnectAs
) -> None:
    await remove_row_level_security(superuser, canaries)
    # The context is the foreign tenant's own: nothing but the role says that these rows are not ours.
    connection = await session_in(connect_as, canaries.ours, uid=canaries.theirs.uid)

    for table in canaries.their_tables:
        row = await values_for(superuser, table, uid=canaries.theirs.uid)
        await assert_denied(connection, sql.SQL("SELECT FROM {}").format(table.qualified), {})
        await assert_denied(connection, insertion(table, row), row)
        await assert_denied(connection, sql.SQL("UPDATE {} SET tenant_id = tenant_id").format(table.qualified), {})
        await assert_denied(connection, sql.SQL("DELETE FROM {}").format(table.qualified), {})
        await assert_denied(connection, sql.SQL("TRUNCATE {}").format(table.qualified), {})


@pytest.mark.behaviour("S1.2")
async def test_a_handle_with_row_level_security_off_is_refused_every_qualified_foreign_table(
    canaries: Canaries, superuser: RawConnection, database: Database
) -> None:
    await remove_row_level_security(superuser, canaries)
    handle = database.tenant(canaries.ours, isolation=Isolation.SERIALIZABLE)

    for table in canaries.their_tables:
        query = f"SELECT * FROM {table.qualified.as_string()}"
        with pytest.raises(errors.InsufficientPrivilege):
            await handle.run(lambda tx, query=query: tx.fetch_all(query))  # type: ignore[misc]  # bound in the loop


@pytest.mark.behaviour("S1.6")
@pytest.mark.parametrize("uid", [None, "", new_uuid()], ids=["own", "empty", "nobody's"])
async def test_row_level_security_alone_shows_nothing_foreign_with_all_rights(
    uid: Any, canaries: Canaries, superuser: RawConnection, connect_as: ConnectAs
) -> None:
    await grant_everything(superuser, canaries)
    connection = await session_in(connect_as, canaries.ours, uid=uid)

    for table in canaries.their_tables:
        assert await all_rows(connection, table) == []
    for table in canaries.our_tables:
        assert len(await all_rows(connection, table)) == (1 if uid is None else 0)


@pytest.mark.behaviour("S1.4")
@pytest.mark.behaviour("T-D3")
async def test_row_level_security_alone_shows_nothing_without_any_context(
    canaries: Canaries, superuser: RawConnection, connect_as: ConnectAs
) -> None:
    await grant_everything(superuser, canaries)
    connection = await connect_as(canaries.ours.login)

    for table in canaries.our_tables + canaries.their_tables:
        assert await all_rows(connection, table) == []


@pytest.mark.behaviour("T-D3")
async def test_a_context_that_is_no_uuid_is_an_error(
    canaries: Canaries, superuser: RawConnection, connect_as: ConnectAs
) -> None:
    await grant_everything(superuser, canaries)
    connection = await session_in(connect_as, canaries.ours, uid="NULL")

    for table in canaries.our_tables + canaries.their_tables:
        with pytest.raises(errors.InvalidTextRepresentation):
            await all_rows(connection, table)


@pytest.mark.behaviour("S1.6")
async def test_row_level_security_alone_changes_nothing_foreign_with_all_rights(
    canaries: Canaries, superuser: RawConnection, connect_as: ConnectAs
) -> None:
    await grant_everything(superuser, canaries)
    before = [await all_rows(superuser, table) for table in canaries.their_tables]
    connection = await session_in(connect_as, canaries.ours)

    for table in canaries.their_tables:
        row = await values_for(superuser, table, uid=canaries.theirs.uid)
        await assert_denied(connection, insertion(table, row), row)
        for statement in ("UPDATE {} SET tenant_id = tenant_id", "DELETE FROM {}"):
            await _try(connection, sql.SQL(cast("Any", statement)).format(table.qualified))
    assert [await all_rows(superuser, table) for table in canaries.their_tables] == before


async def _try(connection: RawConnection, statement: sql.Composed) -> None:
    try:
        cursor = await connection.execute(statement)
    except errors.InsufficientPrivilege:
        return  # an audit table's trigger, which refuses even what matches no row
    assert cursor.rowcount == 0


@pytest.mark.behaviour("S1.6")
async def test_row_level_security_alone_binds_the_owner_of_the_tables(
    canaries: Canaries, superuser: RawConnection
) -> None:
    await superuser.execute("SET ROLE csm_owner")
    await superuser.execute(sql.SQL("SET app.tenant_id = {}").format(str(canaries.ours.uid)))

    for table in canaries.their_tables:
        assert await all_rows(superuser, table) == []
    for table in canaries.our_tables:
        assert len(await all_rows(superuser, table)) == 1


@pytest.mark.behaviour("S1.2")
@pytest.mark.behaviour("S1.6")
async def test_the_handle_alone_reads_its_own_tenant_by_every_unqualified_name(
    canaries: Canaries, superuser: RawConnection, database: Database
) -> None:
    await remove_row_level_security(superuser, canaries)
    await grant_everything(superuser, canaries)
    handle = database.tenant(canaries.ours, isolation=Isolation.SERIALIZABLE)

    for table in canaries.our_tables:
        assert await handle.run(lambda tx, name=table.name: _tenants_in(tx, name)) == [canaries.ours.uid]  # type: ignore[misc]  # bound in the loop


async def _tenants_in(tx: TenantTransaction, table: str) -> list[Any]:
    return [row["tenant_id"] for row in await tx.fetch_all(f"SELECT tenant_id FROM {table}")]


@pytest.mark.behaviour("S1.4")
@pytest.mark.parametrize("placement", [None, "org_1", object()])
def test_a_handle_cannot_be_made_without_a_tenant(placement: Any, database: Database) -> None:
    with pytest.raises(TypeError, match="placement"):
        database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    with pytest.raises(TypeError, match="placement"):
        TenantHandle(placement=placement, _runner=cast("Any", None))
    with pytest.raises(TypeError, match="placement"):
        database.sealer(placement)


@pytest.mark.behaviour("S1.4")
async def test_a_transaction_cannot_be_used_after_its_end(canaries: Canaries, database: Database) -> None:
    kept: list[TenantTransaction] = []

    async def keep(tx: TenantTransaction) -> None:
        kept.append(tx)

    await database.tenant(canaries.ours, isolation=Isolation.SERIALIZABLE).run(keep)

    (transaction,) = kept
    for use in (transaction.fetch_all, transaction.fetch_one, transaction.execute):
        with pytest.raises(RuntimeError, match="over"):
            await use("SELECT 1")
    with pytest.raises(RuntimeError, match="over"):
        transaction.record(cast("Any", None))
    with pytest.raises(RuntimeError, match="over"):
        transaction.unchanged()
