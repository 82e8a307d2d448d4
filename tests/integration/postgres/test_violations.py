"""What the database refuses by name, and what callers read of it."""

from typing import Any, Final

import psycopg
import pytest
from psycopg import errors, sql

from control_plane.errors import AlreadyExistsError
from control_plane.postgres import violations
from control_plane.postgres.database import Database, SystemTransaction
from control_plane.postgres.violations import CONSTRAINTS, domain_error, is_worth_a_retry
from tests.fixtures.canaries import RawConnection, rows_of
from tests.fixtures.postgres import MakeTenant

INSERT: Final = (
    "INSERT INTO tenants (id, uid, display_name, state, tier, schema_name, dns_label)"
    " VALUES (%(id)s, gen_random_uuid(), '', 'ACTIVE', 'standard', %(schema)s, %(label)s)"
)


async def test_every_constraint_that_the_code_names_is_there(make_tenant: MakeTenant, superuser: RawConnection) -> None:
    await make_tenant()
    rows = await rows_of(superuser, sql.SQL("SELECT DISTINCT conname FROM pg_constraint"))

    assert set(CONSTRAINTS) | violations._WON_BY_ANOTHER <= {row["conname"] for row in rows}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "org_1", "schema": "tenant_other", "label": "other"}, "ALREADY_EXISTS"),
        ({"id": "other", "schema": "tenant_other", "label": "org-1"}, "DNS_LABEL_TAKEN"),
    ],
)
async def test_a_name_that_is_taken_is_told_as_such(
    row: dict[str, Any], reason: str, database: Database, make_tenant: MakeTenant
) -> None:
    await make_tenant("org_1")

    async def insert(tx: SystemTransaction) -> None:
        await tx.execute(INSERT, row)

    with pytest.raises(psycopg.IntegrityError) as caught:
        await database.system().run(insert)
    error = domain_error(caught.value, "tenants/org_1")
    assert isinstance(error, AlreadyExistsError)
    assert error.code == reason
    assert error.resource == "tenants/org_1"


def test_what_has_no_name_is_a_mistake_of_ours() -> None:
    assert domain_error(errors.UniqueViolation("no details"), "tenants/org_1") is None
    assert not is_worth_a_retry(errors.UniqueViolation("no details"))
