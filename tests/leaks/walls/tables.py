"""Who there is in the database, what each may do, and what a tenant's tables are like."""

from typing import Final

from tests.leaks.model import Mutation

TENANT: Final = "control_plane/postgres/sql/tenant/0001_tables.sql"
ROLES: Final = "control_plane/postgres/sql/system/roles.sql"
PUBLIC: Final = "control_plane/postgres/sql/system/0001_public_has_nothing.sql"
REGISTRY: Final = "control_plane/postgres/sql/system/0002_registry.sql"
REFERENCE: Final = "control_plane/postgres/sql/system/0003_reference_data.sql"
EDGE: Final = "control_plane/postgres/sql/system/0004_edge.sql"
LEVELS: Final = "control_plane/postgres/sql/system/0006_isolation_levels.sql"
TENANCY: Final = "control_plane/postgres/schemas/tenancy.py"
LINT: Final = "control_plane/postgres/schemas/lint.py"
CATALOGUE: Final = "control_plane/postgres/schemas/catalogue.py"
MIGRATIONS: Final = "control_plane/postgres/schemas/migrations.py"
SERVER: Final = "control_plane/stack/postgres.py"
TABLES: Final = "tests/architecture/test_tenant_tables.py"
RIGHTS: Final = "tests/isolation/test_database_rights.py"
ATTACKS: Final = "tests/isolation/test_database_attacks.py"
STRICT: Final = "tests/isolation/test_strict_sessions.py"
REVOCATIONS: Final = "tests/integration/edge_feed/test_revocations.py"
REVISIONS: Final = "tests/integration/edge_feed/test_revisions.py"
GRANTS: Final = "tests/isolation/test_database_grants.py"

WALLS: Final = (
    Mutation(
        name="row-level security is not forced",
        file=TENANT,
        before="ALTER TABLE tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;",
        after="ALTER TABLE tokens ENABLE ROW LEVEL SECURITY;",
        noticed_by=(f"{TABLES}::test_a_tenants_table_has_row_level_security_enabled_and_forced",),
    ),
    Mutation(
        name="row-level security is not enabled",
        file=TENANT,
        before="ALTER TABLE tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;",
        after="ALTER TABLE tokens FORCE ROW LEVEL SECURITY;",
        noticed_by=(f"{TABLES}::test_a_tenants_table_has_row_level_security_enabled_and_forced",),
    ),
    Mutation(
        name="a policy shows every row",
        file=TENANT,
        before=(
            "CREATE POLICY tenant_isolation ON users\n"
            "  USING (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid)"
        ),
        after="CREATE POLICY tenant_isolation ON users\n  USING (true)",
        noticed_by=(f"{TABLES}::test_a_tenants_table_shows_and_takes_the_rows_of_the_context_only",),
    ),
    Mutation(
        name="a policy takes every row",
        file=TENANT,
        before=(
            "  WITH CHECK (tenant_id = nullif(current_setting('app.tenant_id', true), '')::uuid);\n"
            "ALTER TABLE enrolments"
        ),
        after="  WITH CHECK (true);\nALTER TABLE enrolments",
        noticed_by=(f"{RIGHTS}::test_the_catalogue_shows_no_weakness",),
    ),
    Mutation(
        name="a key tells whether another tenant has the value",
        file=TENANT,
        before="CONSTRAINT users_subject_key UNIQUE (subject, tenant_id)",
        after="CONSTRAINT users_subject_key UNIQUE (subject)",
        noticed_by=(f"{TABLES}::test_a_row_of_a_tenant_is_keyed_within_the_tenant_and_filled_in_from_the_context",),
    ),
    Mutation(
        name="all tenants may read a table",
        file=TENANT,
        before="GRANT SELECT ON audit_seals TO {role};",
        after="GRANT SELECT ON audit_seals TO csm_tenant;",
        noticed_by=(f"{RIGHTS}::test_the_catalogue_shows_no_weakness",),
    ),
    Mutation(
        name="all tenants may enter a schema",
        file=TENANT,
        before="GRANT USAGE ON SCHEMA {schema} TO {role},",
        after="GRANT USAGE ON SCHEMA {schema} TO {role}, csm_tenant,",
        noticed_by=(f"{GRANTS}::test_a_tenants_schema_is_entered_by_its_own_role_and_the_platforms_alone",),
    ),
    Mutation(
        name="a tenant changes its audit log",
        file=TENANT,
        before="GRANT SELECT ON audit_entries TO {role};",
        after="GRANT SELECT, UPDATE ON audit_entries TO {role};",
        noticed_by=(f"{RIGHTS}::test_a_tenants_role_has_rights_on_its_own_schema_only",),
    ),
    Mutation(
        name="the writer of an entry chooses its place",
        file=TENANT,
        before="(tenant_id, id, create_time, actor, method, resource, outcome, reason, request_id, count, details)",
        after="",
        noticed_by=(f"{GRANTS}::test_who_writes_an_audit_entry_does_not_choose_its_place",),
    ),
    Mutation(
        name="audit entries can be deleted",
        file=TENANT,
        before="BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries",
        after="BEFORE UPDATE OR TRUNCATE ON audit_entries",
        noticed_by=(f"{RIGHTS}::test_an_audit_log_is_changed_by_nobody_the_superuser_included",),
    ),
    Mutation(
        name="replication settings open the audit log",
        file=TENANT,
        before="ALTER TABLE audit_entries ENABLE ALWAYS TRIGGER refuse_change;\n",
        after="",
        noticed_by=(f"{RIGHTS}::test_an_audit_log_is_changed_by_nobody_the_superuser_included",),
    ),
    Mutation(
        name="the database is open to everybody",
        file=ROLES,
        before="  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());\n",
        after="",
        noticed_by=(f"{RIGHTS}::test_the_catalogue_shows_no_weakness",),
    ),
    Mutation(
        name="the other databases are open to everybody",
        file=ROLES,
        before="REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;",
        after="SELECT 1;",
        noticed_by=(f"{ATTACKS}::test_a_login_role_reaches_no_other_database",),
    ),
    Mutation(
        name="a role keeps the powers that it was given",
        file=ROLES,
        before="NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB",
        after="NOLOGIN NOSUPERUSER NOCREATEDB",
        noticed_by=(
            "tests/integration/postgres/test_migrations.py::test_a_role_that_was_given_powers_loses_them_at_the_next_start",
        ),
    ),
    Mutation(
        name="who makes schemas has the owner's rights",
        file=ROLES,
        before="GRANT csm_owner TO csm_ddl WITH INHERIT FALSE, SET TRUE;",
        after="GRANT csm_owner TO csm_ddl WITH INHERIT TRUE, SET TRUE;",
        noticed_by=("tests/integration/postgres/test_tenancy.py::test_the_ddl_role_reads_no_tenants_rows",),
    ),
    Mutation(
        name="the public schema is open to everybody",
        file=PUBLIC,
        before="REVOKE ALL ON SCHEMA public FROM PUBLIC;",
        after="",
        noticed_by=(f"{RIGHTS}::test_the_catalogue_shows_no_weakness",),
    ),
    Mutation(
        name="everybody may set the role by a function",
        file=PUBLIC,
        before="    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', routine.signature);\n",
        after="",
        noticed_by=(f"{RIGHTS}::test_the_catalogue_shows_no_weakness",),
    ),
    Mutation(
        name="everybody reads the catalogues",
        file=PUBLIC,
        before="    EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', relation);\n",
        after="",
        noticed_by=(f"{RIGHTS}::test_the_catalogue_shows_no_weakness",),
    ),
    Mutation(
        name="the control plane points a tenant at another's rows",
        file=REGISTRY,
        before="GRANT SELECT, INSERT, DELETE ON csm_system.tenants TO csm_control;",
        after="GRANT SELECT, INSERT, UPDATE, DELETE ON csm_system.tenants TO csm_control;",
        noticed_by=(f"{RIGHTS}::test_the_control_plane_cannot_point_a_tenant_at_another_ones_rows",),
    ),
    Mutation(
        name="tenants write the reference data",
        file=REFERENCE,
        before="GRANT SELECT ON csm_shared_readonly.certificate_profiles TO csm_tenant,",
        after="GRANT SELECT, UPDATE ON csm_shared_readonly.certificate_profiles TO csm_tenant,",
        noticed_by=(f"{RIGHTS}::test_the_catalogue_shows_no_weakness",),
    ),
    Mutation(
        name="a tenant revokes another's tokens",
        file=EDGE,
        before="t.role_name = current_setting('role') AND ",
        after="",
        noticed_by=(f"{REVOCATIONS}::test_a_revocation_is_the_callers_own_whatever_it_says",),
    ),
    Mutation(
        name="the context of a revocation is not compared",
        file=EDGE,
        before=" AND t.uid::text = current_setting('app.tenant_id', true);",
        after=";",
        noticed_by=(f"{REVOCATIONS}::test_a_revocation_is_the_callers_own_whatever_it_says",),
    ),
    Mutation(
        name="one tenant's revocation is in another's way",
        file=EDGE,
        before="CONSTRAINT edge_revocations_pkey PRIMARY KEY (token_id, tenant_uid)",
        after="CONSTRAINT edge_revocations_pkey PRIMARY KEY (token_id)",
        noticed_by=(f"{REVOCATIONS}::test_what_another_tenant_publishes_is_in_nobodys_way",),
    ),
    Mutation(
        name="a host belongs to several tenants",
        file=EDGE,
        before="  domain text CONSTRAINT tenant_domains_pkey PRIMARY KEY,",
        after="  domain text,",
        noticed_by=(f"{REVISIONS}::test_a_domain_belongs_to_one_tenant",),
    ),
    Mutation(
        name="a tenant's change frees another's host",
        file=EDGE,
        before="WHERE tenant_uid = NEW.uid AND domain <> ALL (NEW.domains);",
        after="WHERE domain <> ALL (NEW.domains);",
        noticed_by=(f"{REVISIONS}::test_a_domain_belongs_to_one_tenant",),
    ),
    Mutation(
        name="a strict tenant logs in as many others",
        file=LEVELS,
        before="CASE WHEN isolation = 'STRICT' THEN 'csm_t_' || number ELSE 'csm_pool_' || number / 200 END",
        after="'csm_pool_' || number / 200",
        noticed_by=(f"{STRICT}::test_a_strict_tenants_session_serves_nobody_else",),
    ),
    Mutation(
        name="a login role has its tenants' rights",
        file=TENANCY,
        before="WITH INHERIT FALSE, SET TRUE",
        after="WITH INHERIT TRUE, SET TRUE",
        noticed_by=(f"{ATTACKS}::test_a_login_role_has_no_rights_before_it_takes_on_a_tenants",),
    ),
    Mutation(
        name="a strict tenant may become a group",
        file=TENANCY,
        before='sql.SQL("GRANT csm_tenant TO {} WITH INHERIT TRUE, SET FALSE")',
        after='sql.SQL("GRANT csm_tenant TO {} WITH INHERIT TRUE, SET TRUE")',
        noticed_by=(f"{STRICT}::test_a_strict_tenants_role_is_a_member_of_no_other_tenants",),
    ),
    Mutation(
        name="a pooled tenant's own role logs in",
        file=TENANCY,
        before='"CREATE ROLE {} NOLOGIN"',
        after='"CREATE ROLE {} LOGIN"',
        noticed_by=(f"{ATTACKS}::test_a_pooled_tenants_own_role_cannot_log_in",),
    ),
    Mutation(
        name="a strict tenant is made without a password",
        file=TENANCY,
        before="    if login is None or not login.password:\n",
        after="    if login == '':\n",
        noticed_by=(f"{STRICT}::test_a_strict_tenant_without_a_password_is_not_made",),
    ),
    Mutation(
        name="a password is sent to the server's log",
        file=TENANCY,
        before="sql.Literal(verifier.decode())",
        after="sql.Literal(login.password)",
        noticed_by=(f"{GRANTS}::test_a_password_is_told_to_no_log_of_statements",),
    ),
    Mutation(
        name="tables are made as one who logs in",
        file=TENANCY,
        before='    await connection.execute("SET LOCAL ROLE csm_owner")\n    if version',
        after="    if version",
        noticed_by=(f"{RIGHTS}::test_a_tenants_tables_belong_to_a_role_that_cannot_log_in",),
    ),
    Mutation(
        name="a new tenant's tables are not judged",
        file=TENANCY,
        before="    if weaknesses := await find_faults(connection, placement.schema):",
        after="    if weaknesses := []:",
        noticed_by=(f"{RIGHTS}::test_a_migration_that_leaves_a_table_unguarded_makes_nothing",),
    ),
    Mutation(
        name="a database is started as it is",
        file=MIGRATIONS,
        before="        if weaknesses := await find_weaknesses(connection):",
        after="        if weaknesses := []:",
        noticed_by=(f"{RIGHTS}::test_a_database_that_does_not_keep_tenants_apart_is_not_started",),
    ),
    Mutation(
        name="unforced row-level security is not found",
        file=LINT,
        before="    AND c.relforcerowsecurity\n",
        after="",
        noticed_by=(f"{RIGHTS}::test_every_weakness_is_found",),
    ),
    Mutation(
        name="a second policy is not found",
        file=LINT,
        before="      SELECT count(*) = 1 AND bool_and(",
        after="      SELECT count(*) >= 1 AND bool_or(",
        noticed_by=(f"{RIGHTS}::test_every_weakness_is_found",),
    ),
    Mutation(
        name="a policy that takes everything is not found",
        file=LINT,
        before=("pg_catalog.pg_get_expr(p.polqual, p.polrelid) = pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)\n"),
        after="true\n",
        noticed_by=(f"{RIGHTS}::test_every_weakness_is_found",),
    ),
    Mutation(
        name="other roles' rights are not found",
        file=LINT,
        before="_OF_NO_USE, _RIGHTS)",
        after="_OF_NO_USE)",
        noticed_by=(f"{RIGHTS}::test_every_weakness_is_found",),
    ),
    Mutation(
        name="a role that passes row-level security is not found",
        file=CATALOGUE,
        before="(r.rolsuper OR r.rolbypassrls)",
        after="r.rolsuper",
        noticed_by=(f"{RIGHTS}::test_every_weakness_is_found",),
    ),
    Mutation(
        name="everybody's rights are not found",
        file=CATALOGUE,
        before="WHERE granted.grantee = 0)",
        after="WHERE granted.grantee = 1)",
        noticed_by=(f"{RIGHTS}::test_every_weakness_is_found",),
    ),
    Mutation(
        name="a strict tenant's password is not asked for",
        file=SERVER,
        before='local all "/^csm_t_[0-9]+$" scram-sha-256',
        after='local all "/^csm_t_[0-9]+$" trust',
        noticed_by=(f"{STRICT}::test_a_strict_tenants_role_needs_its_own_password",),
    ),
    Mutation(
        name="the database's socket is open to everybody",
        file=SERVER,
        before='    "unix_socket_permissions": "0700",\n',
        after="",
        noticed_by=("tests/integration/stack/test_postgres.py::test_only_we_reach_the_socket_and_no_port_is_open",),
    ),
)
