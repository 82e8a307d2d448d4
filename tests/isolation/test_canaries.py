"""What comes through a wall is noticed by its marker: among rows, and in a transaction that has become another's."""

from functools import partial
from typing import Any

import pytest
from psycopg import sql

from control_plane.canary import BreachError
from control_plane.postgres import watch
from control_plane.postgres.database import Database, Isolation, TenantHandle, TenantTransaction
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas.tenancy import create_tenant_schema
from control_plane.postgres.watch import Watch
from tests.fixtures.canaries import RawConnection, rows_of
from tests.fixtures.postgres import MakeTenant


@pytest.fixture
async def both(make_tenant: MakeTenant) -> tuple[Placement, Placement]:
    return await make_tenant("org_1"), await make_tenant("org_2")


def handle(database: Database, placement: Placement) -> TenantHandle:
    return database.tenant(placement, isolation=Isolation.READ_COMMITTED)


async def plant(tx: TenantTransaction, subject: str) -> None:
    await tx.execute(
        "INSERT INTO users (id, subject, role, state) VALUES (uuidv7(), %(subject)s, 'auditor', 'ACTIVE')",
        {"subject": subject},
    )


async def test_each_tenant_has_its_marker_where_only_it_can_see_it(
    both: tuple[Placement, Placement], database: Database
) -> None:
    for placement in both:
        rows = await handle(database, placement).run(partial(TenantTransaction.fetch_all, query=watch.WHOSE))

        assert rows == [{"marker": database.canaries.marker(placement.uid)}]


async def test_no_tenant_can_change_its_marker(both: tuple[Placement, Placement], database: Database) -> None:
    for query in (
        "UPDATE canaries SET marker = ''",
        "DELETE FROM canaries",
        "INSERT INTO canaries (marker) VALUES ('')",
    ):
        with pytest.raises(Exception, match="permission denied"):
            await handle(database, both[0]).run(partial(TenantTransaction.execute, query=query))


@pytest.mark.behaviour("S1.17")
async def test_a_row_with_another_tenants_marker_ends_the_transaction_and_nothing_of_it_stays(
    both: tuple[Placement, Placement], database: Database, superuser: RawConnection
) -> None:
    """A wall with a hole: somebody has granted what must not be granted."""
    ours, theirs = both
    await superuser.execute(
        sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(theirs.schema), sql.Identifier(ours.role))
    )
    canaries = sql.Identifier(theirs.schema, "canaries")
    await superuser.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(canaries, sql.Identifier(ours.role)))
    await superuser.execute(sql.SQL("ALTER TABLE {} DISABLE ROW LEVEL SECURITY").format(canaries))
    query = f"SELECT subject FROM users UNION ALL SELECT marker FROM {theirs.schema}.canaries"

    async def work(tx: TenantTransaction) -> list[dict[str, Any]]:
        await plant(tx, "mallory")
        return await tx.fetch_all(query)

    with pytest.raises(BreachError) as caught:
        await handle(database, ours).run(work)
    assert (caught.value.owner_uid, caught.value.channel) == (theirs.uid, "row")
    assert await rows_of(superuser, sql.SQL("SELECT FROM {}.users").format(sql.Identifier(ours.schema))) == []


@pytest.mark.behaviour("S1.17")
@pytest.mark.parametrize("kind", ["text", "bytes", "list"])
async def test_a_marker_is_found_in_any_value_of_a_row(
    kind: str, database: Database, both: tuple[Placement, Placement]
) -> None:
    ours, theirs = both
    marker = f"x {database.canaries.marker(theirs.uid)} x"
    value = {"text": marker, "bytes": marker.encode(), "list": ["a", marker]}[kind]
    look = Watch(database.canaries).look_at

    with pytest.raises(BreachError):
        look([{"a": 1, "b": value}], own=ours.uid, channel="row")
    look([{"a": 1, "b": value}], own=theirs.uid, channel="row")


@pytest.mark.behaviour("S1.17")
@pytest.mark.parametrize("isolation", list(Isolation))
async def test_a_transaction_that_has_become_another_tenants_does_not_commit(
    isolation: Isolation, both: tuple[Placement, Placement], database: Database, superuser: RawConnection
) -> None:
    """As if the session's path, role and context had been taken over: with the rights that nobody has."""
    ours, theirs = both

    async def be_taken_over(tx: TenantTransaction) -> None:
        await _become(tx, theirs)
        await plant(tx, "mallory")

    with pytest.raises(BreachError) as caught:
        # The first transaction of a process is one of those that are asked.
        await database.tenant(ours, isolation=isolation).run(be_taken_over)
    assert (caught.value.owner_uid, caught.value.channel) == (theirs.uid, "context")
    assert await rows_of(superuser, sql.SQL("SELECT FROM {}.users").format(sql.Identifier(theirs.schema))) == []


async def _become(tx: TenantTransaction, other: Placement) -> None:
    """Do what no statement of a handle can do, on its connection."""
    connection = tx._open()
    for statement in (
        "RESET ROLE",
        f"SET LOCAL search_path = pg_catalog, {other.schema}, pg_temp",
        f"SET LOCAL app.tenant_id = '{other.uid}'",
        f"SET LOCAL ROLE {other.role}",
    ):
        await connection.execute(statement.encode())


async def test_one_transaction_in_sixteen_is_asked(both: tuple[Placement, Placement], database: Database) -> None:
    due = [database._watch.is_due() for _ in range(64)]

    assert [number for number, is_due in enumerate(due) if is_due] == [0, 16, 32, 48]


async def test_an_older_tenant_gets_its_marker_with_the_table(
    both: tuple[Placement, Placement], database: Database, superuser: RawConnection
) -> None:
    ours, _ = both
    later = "DROP TABLE {0}.canaries, {0}.secret_versions, {0}.secrets, {0}.key_policies, {0}.key_use_approvals"
    columns = ("tokens DROP COLUMN issuers", "certificates DROP COLUMN authority_version")
    for statement in (f"{later}, {{0}}.audit_checkpoints", *(f"ALTER TABLE {{0}}.{column}" for column in columns)):
        await superuser.execute(sql.SQL(statement).format(sql.Identifier(ours.schema)))
    await superuser.execute("UPDATE csm_system.tenant_schemas SET version = 1 WHERE tenant_uid = %s", (ours.uid,))
    await create_tenant_schema(database, ours)

    rows = await handle(database, ours).run(partial(TenantTransaction.fetch_all, query=watch.WHOSE))
    assert rows == [{"marker": database.canaries.marker(ours.uid)}]
