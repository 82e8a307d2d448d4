"""That no tenant's role reaches anything of another's is proven from the catalogue, and each hole in it is found."""

from typing import Final

import pytest
from psycopg import sql

from control_plane.postgres.database import Database
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas.reach import Proof, prove_apart
from tests.fixtures.canaries import RawConnection
from tests.fixtures.postgres import MakeTenant

# What somebody could do by mistake, and what is found. `{role}`, `{login}` and `{schema}` are a pooled tenant's;
# `{strict}` and `{other}` are a strict one's role and schema.
HOLES: Final = {
    "a right on another's table": ("GRANT SELECT ON {other}.users TO {role}", "{role} may SELECT table {other}.users"),
    "a right on another's column": (
        "GRANT UPDATE (email) ON {other}.users TO {role}",
        "{role} may UPDATE column email of table {other}.users",
    ),
    "another's schema": ("GRANT USAGE ON SCHEMA {other} TO {role}", "{role} may USAGE schema {other}"),
    "a right of the strict one's": (
        "GRANT DELETE ON {schema}.users TO {strict}",
        "{strict} may DELETE table {schema}.users",
    ),
    "a right of all tenants": (
        "GRANT SELECT ON {other}.users TO csm_tenant",
        "csm_tenant may SELECT table {other}.users",
    ),
    "a right of all logins": ("GRANT SELECT ON {other}.users TO csm_login", "csm_login may SELECT table {other}.users"),
    "a right of a pool": ("GRANT SELECT ON {other}.users TO {login}", "{login} may SELECT table {other}.users"),
    "the registry": ("GRANT SELECT ON csm_system.tenants TO {role}", "{role} may SELECT table tenants"),
    "more of the reference data": (
        "GRANT INSERT ON csm_shared_readonly.certificate_profiles TO csm_tenant",
        "csm_tenant may INSERT table csm_shared_readonly.certificate_profiles",
    ),
    "a function": (
        "GRANT EXECUTE ON FUNCTION pg_catalog.set_config TO csm_tenant",
        "csm_tenant may EXECUTE function set_config(text,text,boolean)",
    ),
    "a language": ("GRANT USAGE ON LANGUAGE plpgsql TO {role}", "{role} may USAGE language plpgsql"),
    "what will be made later": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE csm_owner GRANT SELECT ON TABLES TO {role}",
        "{role} may SELECT default privileges on new relations belonging to role csm_owner",
    ),
    "another tenant's role": (
        "GRANT {role} TO {strict}",
        "{strict} may become, or has the rights of, {role}",
    ),
    "a strict tenant's role, by the pool": (
        "GRANT {strict} TO {login}",
        "{login} may become, or has the rights of, {strict}",
    ),
    "its own login with its rights at once": (
        "GRANT {role} TO {login} WITH INHERIT TRUE",
        "{login} may become, or has the rights of, {role}",
    ),
    "its own login as its administrator": (
        "GRANT {role} TO {login} WITH ADMIN TRUE",
        "{login} may become, or has the rights of, {role}",
    ),
    "the owner": ("GRANT csm_owner TO {role}", "{role} is a member of csm_owner"),
    "the platform": ("GRANT csm_platform TO {login}", "{login} is a member of csm_platform"),
    "a group to become": ("GRANT csm_tenant TO {role} WITH SET TRUE", "{role} is a member of csm_tenant"),
    "a reader of everything": ("GRANT pg_read_all_data TO {strict}", "{strict} is a member of pg_read_all_data"),
    "the maker of roles as a tenant": (
        "GRANT {role} TO csm_ddl WITH SET TRUE",
        "csm_ddl may become, or has the rights of, {role}",
    ),
    "a table of its own": ("ALTER TABLE {schema}.users OWNER TO {role}", "{role} owns table {schema}.users"),
    "a schema of its own": ("ALTER SCHEMA {schema} OWNER TO {role}", "{role} owns schema {schema}"),
    "a large object": (
        "SELECT lo_create(4711); ALTER LARGE OBJECT 4711 OWNER TO {strict}",
        "{strict} owns large object 4711",
    ),
    "a power": ("ALTER ROLE {login} CREATEROLE", "{login} has powers of the cluster"),
    "all powers": ("ALTER ROLE {strict} BYPASSRLS", "{strict} has powers of the cluster"),
    "a door of its own": ("ALTER ROLE {role} LOGIN", "{role} can log in"),
}


@pytest.fixture
async def both(make_tenant: MakeTenant) -> tuple[Placement, Placement]:
    return await make_tenant("ours"), await make_tenant("other", isolation="STRICT")


async def proof(database: Database) -> Proof:
    return await database.system().run(prove_apart)


@pytest.mark.behaviour("S1.2")
async def test_tenants_are_apart_and_it_is_said_of_how_many(
    both: tuple[Placement, Placement], make_tenant: MakeTenant, database: Database
) -> None:
    for number in range(6):
        await make_tenant(f"org_{number}", isolation="STRICT" if number % 2 else "POOLED")
    shown = await proof(database)

    assert shown.findings == []
    assert (shown.tenants, shown.pairs) == (8, 56)
    assert shown.relations == 8 * 12


@pytest.mark.parametrize(("hole", "finding"), HOLES.values(), ids=HOLES)
async def test_every_hole_is_found(
    hole: str, finding: str, both: tuple[Placement, Placement], database: Database, superuser: RawConnection
) -> None:
    ours, other = both
    names = {
        "role": ours.role,
        "login": ours.login,
        "schema": ours.schema,
        "strict": other.role,
        "other": other.schema,
    }
    await superuser.execute(hole.format(**names).encode())
    found = await proof(database)
    await _mend(superuser, both)

    assert finding.format(**names) in found.findings


async def _mend(superuser: RawConnection, both: tuple[Placement, Placement]) -> None:
    """Roles belong to the whole server: what this test made of them must not be found by the next one."""
    for placement in both:
        for statement in (
            "ALTER ROLE {} NOCREATEROLE NOBYPASSRLS",
            "REVOKE csm_owner, csm_platform, pg_read_all_data FROM {}",
        ):
            for name in {placement.role, placement.login}:
                await superuser.execute(sql.SQL(statement).format(sql.Identifier(name)))
