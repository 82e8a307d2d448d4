"""Who may do what in the database, read from its catalogue: every role, table, function and database there is."""

from typing import Any, Final

import pytest
from psycopg import errors, sql

from control_plane.postgres.database import PostgresSettings
from control_plane.postgres.schemas import tenancy
from control_plane.postgres.schemas.catalogue import find_weaknesses
from control_plane.postgres.schemas.lint import find_faults
from control_plane.postgres.schemas.migrations import Migration, MigrationError, migrate_system
from tests.fixtures.canaries import Canaries, ConnectAs, RawConnection, all_rows, enter, insertion, rows_of, values_for
from tests.fixtures.postgres import MakeTenant, PostgresServer

RIGHTS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")

# What somebody could do to the database by mistake, and what the audit of the catalogue calls it.
MISTAKES: Final = {
    "a table without a guard": (
        "CREATE TABLE {schema}.loot (tenant_id uuid PRIMARY KEY)",
        "{schema}.loot has no forced row-level security by tenant",
    ),
    "a guard that is off": (
        "ALTER TABLE {schema}.users DISABLE ROW LEVEL SECURITY",
        "{schema}.users has no forced row-level security by tenant",
    ),
    "a guard that lets the owner pass": (
        "ALTER TABLE {schema}.users NO FORCE ROW LEVEL SECURITY",
        "{schema}.users has no forced row-level security by tenant",
    ),
    "a guard with a door": (
        "CREATE POLICY door ON {schema}.users USING (true)",
        "{schema}.users has no forced row-level security by tenant",
    ),
    "a guard that looks elsewhere": (
        "ALTER POLICY tenant_isolation ON {schema}.users USING (true)",
        "{schema}.users has no forced row-level security by tenant",
    ),
    "a guard that lets everything in": (
        "ALTER POLICY tenant_isolation ON {schema}.users WITH CHECK (true)",
        "{schema}.users has no forced row-level security by tenant",
    ),
    "rows of nobody": (
        (
            "ALTER TABLE {schema}.users RENAME tenant_id TO id_of_tenant;"
            "ALTER TABLE {schema}.users ADD tenant_id uuid; CREATE INDEX ON {schema}.users (tenant_id);"
            "ALTER POLICY tenant_isolation ON {schema}.users"
            " USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)"
            " WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)"
        ),
        "{schema}.users has rows that name no tenant",
    ),
    "rows that are found by reading all": (
        (
            "CREATE TABLE {schema}.loot (tenant_id uuid NOT NULL, id uuid PRIMARY KEY);"
            "ALTER TABLE {schema}.loot ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
            "CREATE POLICY tenant_isolation ON {schema}.loot"
            " USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)"
            " WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)"
        ),
        "{schema}.loot has no index that begins with tenant_id",
    ),
    "a sequence": (
        "CREATE SEQUENCE {schema}.loot",
        "{schema}.loot is a sequence, which stays behind when the tenant moves",
    ),
    "a right of another role": (
        "GRANT SELECT ON {schema}.users TO csm_directory",
        "csm_directory has rights on table {schema}.users",
    ),
    "a right of all tenants on a column": (
        "GRANT SELECT (email) ON {schema}.users TO csm_tenant",
        "csm_tenant has rights on column email of table {schema}.users",
    ),
    "reference data that tenants may write": (
        "GRANT UPDATE ON csm_shared_readonly.certificate_profiles TO csm_tenant",
        "csm_tenant may do more than read csm_shared_readonly.certificate_profiles",
    ),
    "reference data that tenants may write in part": (
        "GRANT UPDATE (name) ON csm_shared_readonly.certificate_profiles TO csm_tenant",
        "csm_tenant may do more than read csm_shared_readonly.certificate_profiles",
    ),
    "reference data of a tenant": (
        "ALTER TABLE csm_shared_readonly.certificate_profiles ADD tenant_uid uuid",
        "csm_shared_readonly.certificate_profiles names tenants, and all of them read it",
    ),
    "a copy of the rows": (
        "CREATE MATERIALIZED VIEW {schema}.loot AS SELECT * FROM {schema}.users",
        "{schema}.loot has no forced row-level security by tenant",
    ),
    "a view with its owner's rights": (
        "CREATE VIEW {schema}.loot AS SELECT * FROM {schema}.users",
        "{schema}.loot reads with its owner's rights",
    ),
    "a right of everybody": (
        "GRANT SELECT ON {schema}.users TO PUBLIC",
        "PUBLIC has rights on table {schema}.users",
    ),
    "a right of everybody on one column": (
        "GRANT SELECT (email) ON {schema}.users TO PUBLIC",
        "PUBLIC has rights on column email of table {schema}.users",
    ),
    "a schema for everybody": ("GRANT USAGE ON SCHEMA {schema} TO PUBLIC", "PUBLIC has rights on schema {schema}"),
    "the public schema for everybody": (
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "PUBLIC has rights on schema public",
    ),
    "settings for everybody": (
        "GRANT EXECUTE ON FUNCTION set_config TO PUBLIC",
        "PUBLIC has rights on function set_config(text,text,boolean)",
    ),
    "the database for everybody": (
        "DO $$ BEGIN EXECUTE format('GRANT TEMP ON DATABASE %I TO PUBLIC', current_database()); END $$",
        "PUBLIC has rights on database {dbname}",
    ),
    "a language for everybody": (
        "GRANT USAGE ON LANGUAGE plpgsql TO PUBLIC",
        "PUBLIC has rights on language plpgsql",
    ),
    "a function of its owner": (
        "CREATE FUNCTION {schema}.loot() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        "{schema}.loot() runs as its owner with its caller's search path",
    ),
    "an extension": ("CREATE EXTENSION citext SCHEMA csm_system", "nobody has reviewed the extension citext"),
    "a role above the guards": ("ALTER ROLE csm_sealer BYPASSRLS", "csm_sealer may bypass row-level security"),
    "a role above everything": ("ALTER ROLE csm_sealer SUPERUSER", "csm_sealer may bypass row-level security"),
}


@pytest.mark.behaviour("T-D1")
async def test_the_catalogue_shows_no_weakness(canaries: Canaries, superuser: RawConnection) -> None:
    assert await find_weaknesses(superuser) == []


@pytest.mark.behaviour("S1.5")
@pytest.mark.behaviour("T-D1")
async def test_every_weakness_is_found(canaries: Canaries, superuser: RawConnection) -> None:
    for mistake, weakness in MISTAKES.values():
        schema = canaries.ours.schema
        async with superuser.transaction(force_rollback=True):
            await superuser.execute(mistake.format(schema=schema))

            assert await find_weaknesses(superuser) == [weakness.format(schema=schema, dbname=superuser.info.dbname)]


@pytest.mark.behaviour("S1.5")
async def test_a_migration_that_leaves_a_table_unguarded_makes_nothing(
    superuser: RawConnection, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    loot = Migration(version=2, name="loot", text="CREATE TABLE loot (tenant_id uuid PRIMARY KEY)")
    monkeypatch.setattr(tenancy, "TENANT_MIGRATIONS", (*tenancy.TENANT_MIGRATIONS, loot))

    with pytest.raises(MigrationError, match=r"tenant_org_1\.loot has no forced row-level security"):
        await make_tenant("org_1")
    schemas = await rows_of(superuser, sql.SQL("SELECT FROM pg_namespace WHERE nspname = 'tenant_org_1'"))
    assert schemas == []


async def test_a_database_that_does_not_keep_tenants_apart_is_not_started(
    superuser: RawConnection, postgres_server: PostgresServer, postgres_settings: PostgresSettings
) -> None:
    await superuser.execute("GRANT EXECUTE ON FUNCTION set_config TO PUBLIC")

    with pytest.raises(MigrationError, match="set_config"):
        await migrate_system(postgres_server.superuser_conninfo(postgres_settings.dbname))


@pytest.mark.behaviour("S1.1")
async def test_a_tenants_tables_belong_to_a_role_that_cannot_log_in(
    canaries: Canaries, superuser: RawConnection
) -> None:
    owners = await rows_of(
        superuser,
        sql.SQL(
            "SELECT DISTINCT o.rolname, o.rolcanlogin FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner"
            " WHERE c.relnamespace IN ({}::regnamespace, {}::regnamespace)"
        ).format(canaries.ours.schema, canaries.theirs.schema),
    )

    assert owners == [{"rolname": "csm_owner", "rolcanlogin": False}]


@pytest.mark.behaviour("S1.1")
@pytest.mark.behaviour("S1.7")
async def test_a_tenants_role_has_rights_on_its_own_schema_only(canaries: Canaries, superuser: RawConnection) -> None:
    """Of all relations of the database, the catalogues included, by what the database itself answers."""
    tables = await rows_of(
        superuser,
        sql.SQL(
            "SELECT DISTINCT n.nspname, string_agg(DISTINCT r.name, ' ' ORDER BY r.name) AS rights"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, unnest({}::text[]) AS r (name)"
            " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT LIKE 'pg\\_toast%'"
            " AND has_table_privilege({}, c.oid, r.name) GROUP BY n.nspname, c.oid"
        ).format(list(RIGHTS), canaries.ours.role),
    )
    rights = {(row["nspname"], row["rights"]) for row in tables}

    assert rights == {
        (canaries.ours.schema, "INSERT SELECT UPDATE"),
        (canaries.ours.schema, "DELETE INSERT SELECT UPDATE"),
        # The audit log among them takes INSERT too, of every column but the one that decides an entry's place.
        (canaries.ours.schema, "SELECT"),
        ("csm_shared_readonly", "SELECT"),
    }


@pytest.mark.behaviour("S1.1")
async def test_a_tenants_role_may_call_one_function_of_ours(canaries: Canaries, superuser: RawConnection) -> None:
    functions = await rows_of(
        superuser,
        sql.SQL(
            "SELECT p.oid::regprocedure::text, p.prosecdef, o.rolname, o.rolcanlogin FROM pg_proc p"
            " JOIN pg_roles o ON o.oid = p.proowner JOIN pg_namespace n ON n.oid = p.pronamespace"
            " WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND has_schema_privilege({0}, n.oid, 'USAGE')"
            " AND has_function_privilege({0}, p.oid, 'EXECUTE')"
        ).format(canaries.ours.role),
    )

    assert [tuple(row.values()) for row in functions] == [
        ("csm_edge.publish_revocation(uuid,timestamp with time zone)", True, "csm_publisher", False)
    ]


async def test_who_publishes_for_tenants_reads_none_of_their_rows(canaries: Canaries, superuser: RawConnection) -> None:
    tables = await rows_of(
        superuser,
        sql.SQL(
            "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')"
            " AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)"
            " AND has_table_privilege('csm_publisher', c.oid, 'SELECT, INSERT, UPDATE, DELETE') ORDER BY 1"
        ),
    )

    assert [row["name"] for row in tables] == ["csm_system.edge_revocations", "csm_system.tenant_domains"]


@pytest.mark.behaviour("S1.1")
async def test_no_role_of_ours_has_powers_of_the_cluster(canaries: Canaries, superuser: RawConnection) -> None:
    roles = await rows_of(
        superuser,
        sql.SQL(
            "SELECT rolname, rolcreaterole FROM pg_roles WHERE oid <> 10 AND rolname NOT LIKE 'pg\\_%'"
            " AND (rolsuper OR rolbypassrls OR rolcreatedb OR rolreplication OR rolcreaterole)"
        ),
    )

    assert roles == [{"rolname": "csm_ddl", "rolcreaterole": True}]


@pytest.mark.behaviour("S1.7")
async def test_reference_data_is_read_by_tenants_and_written_by_nobody(
    canaries: Canaries, superuser: RawConnection, connect_as: ConnectAs
) -> None:
    tables = await rows_of(
        superuser,
        sql.SQL(
            "SELECT relname FROM pg_class WHERE relnamespace = 'csm_shared_readonly'::regnamespace AND relkind = 'r'"
        ),
    )
    tenant = await connect_as(canaries.ours.login)
    await enter(tenant, canaries.ours)
    control = await connect_as("csm_control")

    assert tables != []
    for name in (sql.Identifier("csm_shared_readonly", table["relname"]) for table in tables):
        assert await rows_of(tenant, sql.SQL("SELECT * FROM {}").format(name)) != []
        for statement in (
            sql.SQL("DELETE FROM {}").format(name),
            sql.SQL("TRUNCATE {}").format(name),
            sql.SQL("INSERT INTO {} DEFAULT VALUES").format(name),
            sql.SQL("UPDATE {} SET name = name").format(name),
        ):
            for connection in (tenant, control):
                with pytest.raises(errors.InsufficientPrivilege):
                    await connection.execute(statement)


@pytest.mark.behaviour("S1.7")
async def test_reference_data_says_nothing_of_tenants(superuser: RawConnection) -> None:
    columns = await rows_of(
        superuser,
        sql.SQL(
            "SELECT attrelid::regclass::text, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
            " WHERE c.relnamespace = 'csm_shared_readonly'::regnamespace AND attname ~ 'tenant|owner|organi[sz]ation'"
        ),
    )

    assert columns == []


@pytest.mark.behaviour("S1.13")
@pytest.mark.parametrize("table", ["audit_entries", "audit_seals"])
async def test_an_audit_log_is_changed_by_nobody_the_superuser_included(
    table: str, canaries: Canaries, superuser: RawConnection
) -> None:
    (audit,) = [candidate for candidate in canaries.our_tables if candidate.name == table]
    before = await all_rows(superuser, audit)
    await superuser.execute("SET session_replication_role = replica")  # silences ordinary triggers

    for statement in (
        "UPDATE {} SET tenant_id = tenant_id",
        "DELETE FROM {}",
        "DELETE FROM {} WHERE false",
        "TRUNCATE {}",
    ):
        with pytest.raises(errors.InsufficientPrivilege, match="audit logs are never changed"):
            await superuser.execute(sql.SQL(statement).format(audit.qualified))
    assert await all_rows(superuser, audit) == before


@pytest.mark.behaviour("S1.13")
async def test_an_audit_log_is_written_by_its_tenant_and_sealed_by_the_sealer(
    canaries: Canaries, superuser: RawConnection, connect_as: ConnectAs
) -> None:
    tables = {table.name: table for table in canaries.our_tables}
    tenant, sealer = await connect_as(canaries.ours.login), await connect_as("csm_sealer")
    await enter(tenant, canaries.ours)
    await sealer.execute(sql.SQL("SET app.tenant_id = {}").format(str(canaries.ours.uid)))
    entry = await values_for(superuser, tables["audit_entries"], uid=canaries.ours.uid)
    seal = await values_for(superuser, tables["audit_seals"], uid=canaries.ours.uid) | {"sequence": 2}

    await tenant.execute(insertion(tables["audit_entries"], entry), entry)
    await sealer.execute(insertion(tables["audit_seals"], seal), seal)
    for connection, table, row in ((tenant, "audit_seals", seal), (sealer, "audit_entries", entry)):
        with pytest.raises(errors.InsufficientPrivilege):
            await connection.execute(insertion(tables[table], row), row)
    assert len(await all_rows(sealer, tables["audit_entries"])) == 2
    assert len(await all_rows(tenant, tables["audit_seals"])) == 2


async def test_the_control_plane_writes_audit_entries_and_reads_no_tenants_rows(
    canaries: Canaries, superuser: RawConnection, connect_as: ConnectAs
) -> None:
    control = await connect_as("csm_control")
    await control.execute(sql.SQL("SET app.tenant_id = {}").format(str(canaries.ours.uid)))

    for table in canaries.our_tables:
        with pytest.raises(errors.InsufficientPrivilege):
            await all_rows(control, table)
        row = await values_for(superuser, table, uid=canaries.ours.uid)
        await _insert(control, insertion(table, row), row=row, allowed=table.name == "audit_entries")


async def _insert(connection: RawConnection, statement: sql.Composed, *, row: dict[str, Any], allowed: bool) -> None:
    if allowed:
        assert (await connection.execute(statement, row)).rowcount == 1
        return
    with pytest.raises(errors.InsufficientPrivilege):
        await connection.execute(statement, row)


async def test_no_tenants_table_has_a_sequence(canaries: Canaries, superuser: RawConnection) -> None:
    sequences = await rows_of(
        superuser,
        sql.SQL(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S' AND relnamespace = {}::regnamespace"
        ).format(canaries.ours.schema),
    )

    assert sequences == []


async def test_no_name_means_a_table_of_the_registry_and_a_tenants_table(
    canaries: Canaries, superuser: RawConnection
) -> None:
    """A system transaction that has entered a tenant sees both by unqualified names."""
    rows = await rows_of(
        superuser,
        sql.SQL(
            "SELECT relname FROM pg_class"
            " WHERE relnamespace IN ('csm_system'::regnamespace, 'csm_jobs'::regnamespace, 'pg_catalog'::regnamespace)"
        ),
    )

    assert {row["relname"] for row in rows} & {table.name for table in canaries.our_tables} == set()


async def test_the_control_plane_cannot_point_a_tenant_at_another_ones_rows(
    canaries: Canaries, connect_as: ConnectAs
) -> None:
    control = await connect_as("csm_control")

    for column in ("id", "uid", "schema_name", "dns_label"):
        statement = sql.SQL("UPDATE tenants SET {0} = {0}").format(sql.Identifier(column))
        with pytest.raises(errors.InsufficientPrivilege):
            await control.execute(statement)


async def test_the_tables_of_one_schema_are_found_without_reading_all(
    canaries: Canaries, superuser: RawConnection
) -> None:
    await superuser.execute(sql.SQL("CREATE TABLE {}.loot ()").format(sql.Identifier(canaries.theirs.schema)))

    assert await find_faults(superuser, canaries.ours.schema) == []
    assert len(await find_faults(superuser, canaries.theirs.schema)) == 3
