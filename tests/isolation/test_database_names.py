"""A name means the tenant's own table and PostgreSQL's own function, whatever else is called so."""

from functools import partial
from typing import Final

import pytest
from psycopg import sql

from control_plane.postgres.database import Database, Isolation, SystemTransaction, TenantTransaction
from control_plane.postgres.placement import Placement
from tests.fixtures.canaries import RawConnection
from tests.fixtures.postgres import MakeTenant

# What an injected query could make, with a right that no tenant has: rows that a later one would take for the tenant's.
SHADOW: Final = "SELECT 'forged' AS subject INTO TEMP users"


@pytest.fixture
async def ours(make_tenant: MakeTenant, superuser: RawConnection) -> Placement:
    """A tenant that may make temporary tables."""
    placement = await make_tenant("ours")
    grant = sql.SQL("GRANT TEMP ON DATABASE {} TO PUBLIC")
    await superuser.execute(grant.format(sql.Identifier(superuser.info.dbname)))
    return placement


@pytest.mark.behaviour("T-D2")
async def test_a_temporary_table_does_not_stand_before_the_tenants(ours: Placement, database: Database) -> None:
    async def work(tx: TenantTransaction) -> list[object]:
        await tx.execute(SHADOW)
        return [row["subject"] for row in await tx.fetch_all("SELECT subject FROM users")]

    assert await database.tenant(ours, isolation=Isolation.READ_COMMITTED).run(work) == []


@pytest.mark.behaviour("T-D2")
async def test_a_temporary_table_does_not_stand_before_the_registrys_or_an_entered_tenants(
    ours: Placement, database: Database
) -> None:
    async def work(tx: SystemTransaction) -> list[dict[str, object]]:
        await tx.execute("SELECT 'forged' AS subject INTO TEMP audit_entries")
        await tx.execute("SELECT 'forged' AS id INTO TEMP tenants")
        await tx.enter(ours)
        await tx.execute(
            "INSERT INTO audit_entries (id, actor, method, resource, outcome, request_id)"
            " VALUES (uuidv7(), 'a', 'm', 'r', 'EFFECT', 'q')"
        )
        return await tx.fetch_all("SELECT id FROM tenants")

    assert await database.system().run(work) == [{"id": "ours"}]


async def test_a_function_of_the_tenants_schema_does_not_stand_before_the_catalogues(
    ours: Placement, database: Database, superuser: RawConnection
) -> None:
    schema, role = sql.Identifier(ours.schema), sql.Identifier(ours.role)
    make = "CREATE FUNCTION {}.upper(text) RETURNS text LANGUAGE sql AS 'SELECT ''hijacked'''"
    await superuser.execute(sql.SQL(make).format(schema))
    await superuser.execute(sql.SQL("GRANT EXECUTE ON FUNCTION {}.upper(text) TO {}").format(schema, role))
    query = partial(TenantTransaction.fetch_one, query="SELECT upper('a'::text) AS said")

    assert await database.tenant(ours, isolation=Isolation.READ_COMMITTED).run(query) == {"said": "A"}
