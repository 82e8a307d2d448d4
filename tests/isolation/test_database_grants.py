"""Rights around a tenant's tables and on parts of them, and what becomes known of a password that is set."""

import pytest
from psycopg import errors, sql

from tests.fixtures.canaries import Canaries, ConnectAs, RawConnection, enter, insertion, rows_of, values_for
from tests.fixtures.postgres import MakeTenant, PostgresServer, login_password


@pytest.mark.behaviour("S1.1")
async def test_a_tenants_schema_is_entered_by_its_own_role_and_the_platforms_alone(
    canaries: Canaries, superuser: RawConnection
) -> None:
    """Of all roles that there are, by what the database itself answers: groups count for their members."""
    found = await rows_of(
        superuser,
        sql.SQL(
            "SELECT rolname FROM pg_roles WHERE NOT rolsuper AND rolname NOT LIKE 'pg\\_%'"
            " AND (has_schema_privilege(oid, {0}, 'USAGE') OR has_schema_privilege(oid, {0}, 'CREATE'))"
        ).format(canaries.ours.schema),
    )

    assert {row["rolname"] for row in found} == {canaries.ours.role, "csm_control", "csm_sealer", "csm_owner"}


@pytest.mark.behaviour("S1.13")
async def test_who_writes_an_audit_entry_does_not_choose_its_place(
    canaries: Canaries, superuser: RawConnection, connect_as: ConnectAs
) -> None:
    """An entry with the number of an earlier transaction would stand before what is sealed already."""
    (table,) = (table for table in canaries.our_tables if table.name == "audit_entries")
    tenant, control = await connect_as(canaries.ours.login), await connect_as("csm_control")
    await enter(tenant, canaries.ours)
    await control.execute(sql.SQL("SET app.tenant_id = {}").format(str(canaries.ours.uid)))

    for writer in (tenant, control):
        entry = await values_for(superuser, table, uid=canaries.ours.uid)
        with pytest.raises(errors.InsufficientPrivilege):
            await writer.execute(insertion(table, placed := entry | {"xact": "1"}), placed)
        assert (await writer.execute(insertion(table, entry), entry)).rowcount == 1


async def test_a_password_is_told_to_no_log_of_statements(
    make_tenant: MakeTenant, superuser: RawConnection, postgres_server: PostgresServer
) -> None:
    database = sql.Identifier(superuser.info.dbname)
    await superuser.execute(sql.SQL("ALTER ROLE csm_ddl IN DATABASE {} SET log_statement = 'ddl'").format(database))
    placement = await make_tenant("ours", isolation="STRICT")
    logged = (postgres_server.socket_dir / "log").read_text()

    assert f'ALTER ROLE "{placement.role}" PASSWORD \'SCRAM-SHA-256$' in logged
    assert await login_password(placement) not in logged
