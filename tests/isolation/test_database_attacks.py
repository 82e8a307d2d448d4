"""What an attacker tries with SQL smuggled into a tenant's statement: through the handle, and as the bare role."""

import contextlib
from functools import partial
from typing import Any, Final

import psycopg
import pytest
from psycopg import errors, sql

from control_plane.postgres import transactions
from control_plane.postgres.database import (
    Database,
    Isolation,
    PostgresSettings,
    SystemTransaction,
    TenantTransaction,
)
from control_plane.postgres.placement import TENANTS_PER_LOGIN
from control_plane.postgres.statements import RefusedStatementError
from tests.fixtures.canaries import Canaries, ConnectAs, RawConnection, all_rows, enter, rows_of
from tests.fixtures.postgres import MakeTenant

# Single statements of the kinds that a handle sends, so that only the database can refuse them. `{role}` and
# `{schema}` are the other tenant's.
SINGLE_STATEMENTS: Final = {
    "choose the next role": "SELECT set_config('role', '{role}', false)",
    "choose the next tenant": "SELECT set_config('app.tenant_id', '{uid}', false)",
    "the same behind a table": "SELECT subject FROM users UNION ALL SELECT set_config('role', '{role}', true)",
    "the same in a subquery": "SELECT id FROM users WHERE subject = (SELECT set_config('role', '{role}', true))",
    "the same in a write": "UPDATE users SET email = set_config('role', '{role}', true)",
    "settings are a view": "UPDATE pg_settings SET setting = '{role}' WHERE name = 'role'",
    "settings are a view, behind a WITH": "WITH s AS (SELECT 1) UPDATE pg_settings SET setting = '{role}'",
    "text run as SQL": "SELECT query_to_xml('SELECT 1', true, true, '')",
    "text run as SQL by text search": "SELECT * FROM ts_stat('SELECT to_tsvector(''x'')')",
    "a foreign table": "SELECT * FROM {schema}.users",
    "a foreign table by its name as data": "SELECT pg_relation_size('{schema}.users')",
    "the registry": "SELECT * FROM csm_system.tenants",
    "the keys": "SELECT * FROM csm_system.tenant_keys",
    "everybody's names": "SELECT nspname FROM pg_namespace",
    "everybody's roles": "SELECT rolname FROM pg_roles",
    "everybody's sessions": "SELECT query FROM pg_stat_activity",
    "everybody's tables": "SELECT * FROM information_schema.tables",
    "a table of its own": "SELECT 1 AS one INTO loot",
    "a temporary table": "SELECT 1 AS one INTO TEMP loot",
    "a file": "SELECT pg_read_file('/etc/passwd')",
    "a large object": "SELECT lo_from_bytea(0, 'loot')",
    "a notification": "SELECT pg_notify('procrastinate_any_queue_v1', '{{}}')",
    "an advisory lock": "SELECT pg_advisory_lock(1)",
    "a long sleep": "SELECT pg_sleep(3600)",
    "another's session": "SELECT pg_terminate_backend(pg_backend_pid())",
    "a message in the log of changes": "SELECT pg_logical_emit_message(true, 'x', 'y')",
    "the tenants' numbers": "SELECT nextval('csm_system.tenants_number_seq')",
    "the reference data": "UPDATE csm_shared_readonly.certificate_profiles SET minimum_rsa_bits = 1",
    "an audit entry": "UPDATE audit_entries SET actor = 'nobody'",
    "the audit log": "DELETE FROM audit_entries",
    "a forged seal": "INSERT INTO audit_seals (sequence, entry_id, entry_xact, hash) VALUES (1, uuidv7(), '1', '')",
}
COMMANDS: Final = {
    "another role": "SET ROLE {role}",
    "another role, for the transaction": "SET LOCAL ROLE {role}",
    "no role": "RESET ROLE",
    "no settings": "RESET ALL",
    "another user": "SET SESSION AUTHORIZATION csm_ddl",
    "the end of the transaction": "COMMIT",
    "the end of the transaction, undone": "ROLLBACK",
    "a savepoint": "SAVEPOINT one",
    "a block of code": "DO $$ BEGIN PERFORM set_config('role', '{role}', false); END $$",
    "a copy": "COPY users TO STDOUT",
    "a program": "COPY users FROM PROGRAM 'id'",
    "a procedure": "CALL anything()",
    "a prepared statement": "PREPARE next AS SELECT 1",
    "its use": "EXECUTE next",
    "a cursor": "DECLARE next CURSOR WITH HOLD FOR SELECT 1",
    "a channel": "LISTEN anything",
    "a message": "NOTIFY anything",
    "a lock": "LOCK TABLE users",
    "a table": "CREATE TABLE loot (id int)",
    "a policy": "ALTER TABLE users DISABLE ROW LEVEL SECURITY",
    "a right": "GRANT ALL ON users TO PUBLIC",
    "a plan": "EXPLAIN ANALYZE SELECT 1",
    "a library": "LOAD 'anything'",
    "all settings": "SHOW ALL",
    "a comment before it": "/* SELECT */ -- SELECT\nRESET ROLE",
    "a second statement": "SELECT 1; RESET ROLE",
    "a second statement after a string": "SELECT ';'; RESET ROLE",
    "a second statement behind a comment": "SELECT 1 /* /* */ ; */; RESET ROLE",
    "a second statement behind an escape": "SELECT E'\\'', '; RESET ROLE; --'; RESET ROLE",
    "an empty statement": "",
}


def aimed_at_theirs(text: str, canaries: Canaries) -> str:
    theirs = canaries.theirs
    return text.format(role=theirs.role, uid=theirs.uid, schema=theirs.schema)


async def who_is_it(tx: TenantTransaction) -> str:
    row = await tx.fetch_one("SELECT current_user AS name")
    assert row is not None
    return str(row["name"])


async def test_the_database_refuses_every_single_statement(canaries: Canaries, database: Database) -> None:
    handle = database.tenant(canaries.ours, isolation=Isolation.READ_COMMITTED)

    for attack in SINGLE_STATEMENTS.values():
        query = aimed_at_theirs(attack, canaries)
        with pytest.raises(errors.InsufficientPrivilege):
            await handle.run(partial(TenantTransaction.execute, query=query))
        assert await handle.run(who_is_it) == canaries.ours.role


async def test_the_bare_role_is_refused_every_single_statement(canaries: Canaries, connect_as: ConnectAs) -> None:
    connection = await connect_as(canaries.ours.login)
    await enter(connection, canaries.ours)

    for attack in SINGLE_STATEMENTS.values():
        with pytest.raises(errors.InsufficientPrivilege):
            await rows_of(connection, sql.SQL(aimed_at_theirs(attack, canaries)))


async def test_the_handle_sends_no_command(canaries: Canaries, database: Database) -> None:
    handle = database.tenant(canaries.ours, isolation=Isolation.READ_COMMITTED)

    for attack in COMMANDS.values():
        query = aimed_at_theirs(attack, canaries)
        for method in (TenantTransaction.fetch_all, TenantTransaction.fetch_one, TenantTransaction.execute):
            with pytest.raises(RefusedStatementError):
                await handle.run(partial(method, query=query))


async def test_the_system_handle_sends_no_command(canaries: Canaries, database: Database) -> None:
    for attack in COMMANDS.values():
        with pytest.raises(RefusedStatementError):
            await database.system().run(partial(SystemTransaction.execute, query=aimed_at_theirs(attack, canaries)))


async def test_the_protocol_refuses_a_second_statement_that_the_handle_overlooked(
    canaries: Canaries, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "check_statement", print)
    handle = database.tenant(canaries.ours, isolation=Isolation.READ_COMMITTED)
    attack = f"SELECT 1; RESET ROLE; SET LOCAL ROLE {canaries.theirs.role}"

    with pytest.raises(errors.SyntaxError, match="multiple commands"):
        await handle.run(partial(TenantTransaction.fetch_all, query=attack))
    assert await handle.run(who_is_it) == canaries.ours.role


async def test_what_an_injected_union_sets_does_not_choose_the_next_statements_tenant(
    canaries: Canaries, database: Database
) -> None:
    """The attack that a set_config open to everybody lets through: two statements, each of them a query."""
    handle = database.tenant(canaries.ours, isolation=Isolation.READ_COMMITTED)
    injected = f"SELECT subject FROM users UNION ALL SELECT set_config('role', '{canaries.theirs.role}', true)"
    seen: list[Any] = []

    async def work(tx: TenantTransaction) -> None:
        with contextlib.suppress(psycopg.Error):
            await tx.fetch_all(injected)
        seen.extend(await tx.fetch_all(f"SELECT * FROM {canaries.theirs.schema}.users"))

    with pytest.raises(errors.InsufficientPrivilege, match="set_config"):
        await handle.run(work)
    assert seen == []


async def test_a_login_role_cannot_become_a_tenant_of_another_login_role(
    canaries: Canaries, database: Database, superuser: RawConnection, connect_as: ConnectAs, make_tenant: MakeTenant
) -> None:
    await superuser.execute(
        sql.SQL("ALTER TABLE csm_system.tenants ALTER COLUMN number RESTART WITH {}").format(
            int(canaries.ours.role.removeprefix("csm_t_")) + TENANTS_PER_LOGIN
        )
    )
    far = await make_tenant("far")
    connection = await connect_as(canaries.ours.login)

    assert far.login != canaries.ours.login
    for role in (far.role, far.login, "csm_owner", "csm_ddl", "csm_control", "csm_platform", "bulkhead"):
        with pytest.raises(errors.InsufficientPrivilege):
            await connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))


async def test_a_login_role_has_no_rights_before_it_takes_on_a_tenants(
    canaries: Canaries, connect_as: ConnectAs
) -> None:
    connection = await connect_as(canaries.ours.login)

    for table in canaries.our_tables + canaries.their_tables:
        with pytest.raises(errors.InsufficientPrivilege):
            await all_rows(connection, table)


async def test_a_pooled_tenants_own_role_cannot_log_in(
    canaries: Canaries, connect_as: ConnectAs, superuser: RawConnection
) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await connect_as(canaries.ours.role)
    await superuser.execute(
        sql.SQL("ALTER ROLE {} PASSWORD {}").format(
            sql.Identifier(canaries.ours.role), sql.Literal(f"password of {canaries.ours.role}")
        )
    )
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        await connect_as(canaries.ours.role)
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        await connect_as("csm_owner")


async def test_a_login_role_reaches_no_other_database(canaries: Canaries, postgres_settings: PostgresSettings) -> None:
    settings = postgres_settings
    for dbname in ("postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            await psycopg.AsyncConnection.connect(
                host=str(settings.socket_dir), port=settings.port, dbname=dbname, user=canaries.ours.login
            )
