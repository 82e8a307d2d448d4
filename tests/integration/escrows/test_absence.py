"""Without an escrow there is nothing of one: in no table, in no dump."""

import subprocess
from typing import Any, Final
from uuid import UUID

import psycopg
import pytest

from control_plane.keys.model import BUILT_IN
from control_plane.postgres.database import PostgresSettings
from control_plane.stack.processes.binaries import postgres_binary
from tests.fixtures.escrow import Ceremony

# By what they are called. A table of another name that has to do with escrows is found by its foreign keys, or here.
WORDS: Final = ("escrow", "recover", "share", "copies", "approval")


def _dump(settings: PostgresSettings) -> str:
    arguments = ["-h", str(settings.socket_dir), "-p", str(settings.port), "-U", "bulkhead", settings.dbname]
    done = subprocess.run([postgres_binary("pg_dump"), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


async def _tables(superuser: psycopg.AsyncConnection[dict[str, Any]]) -> dict[str, int]:
    """Count the rows of every table of an escrow, whoever's."""
    cursor = await superuser.execute(
        "SELECT c.oid::regclass::text AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND starts_with(n.nspname, 'csm') AND c.relname ~ %(words)s",
        {"words": "|".join(WORDS)},
    )
    counted = {}
    for row in await cursor.fetchall():
        (found,) = await (await superuser.execute(f"SELECT count(*) AS n FROM {row['name']}".encode())).fetchall()
        counted[row["name"]] = found["n"]
    return counted


async def _secrets(escrow: Ceremony) -> list[str]:
    """Return, as a dump writes them, all bytes that have to do with opening keys from escrow."""
    found = []
    for query in (
        "SELECT public AS bytes FROM csm_system.tenant_escrows",
        "SELECT sealed AS bytes FROM csm_system.escrow_shares",
        "SELECT digest AS bytes FROM csm_system.escrow_shares",
        "SELECT sealed AS bytes FROM csm_system.escrow_copies",
        "SELECT session AS bytes FROM csm_system.key_recoveries WHERE session IS NOT NULL",
        "SELECT sealed AS bytes FROM csm_system.recovery_approvals",
    ):
        rows = await escrow.execute(query)
        assert rows, query
        found += [bytes(row["bytes"]).hex() for row in rows]
    return found


@pytest.mark.behaviour("S2.13")
async def test_an_escrow_that_is_off_has_no_row_and_one_that_was_disabled_has_none_again(
    escrow: Ceremony, postgres_settings: PostgresSettings
) -> None:
    tenant = await escrow.cell.tenant()
    at_first = await _tables(escrow.superuser)
    # With all that there can be.
    await escrow.enable(tenant)
    recovery = await escrow.begin(tenant)
    await escrow.hand_in(tenant, recovery, "ann")
    secrets = await _secrets(escrow)
    during = _dump(postgres_settings)
    await escrow.cancel(tenant, recovery.name)
    await escrow.disable(tenant)
    after, dump = await _tables(escrow.superuser), _dump(postgres_settings)

    assert len(at_first) == 6
    assert set(at_first.values()) == {0}
    assert all(secret in during for secret in secrets), "otherwise that they are not there later would prove nothing"
    assert [secret for secret in secrets if secret in dump] == []
    # What is left is that there was one: its entries, and the recovery, whose session and approvals are gone.
    assert {name: rows for name, rows in after.items() if rows} == {"csm_system.key_recoveries": 1}
    assert recovery.session_fingerprint not in dump.replace(recovery.session_fingerprint, "", 1)


@pytest.mark.behaviour("S2.13")
async def test_what_one_tenant_has_in_escrow_is_no_other_tenants(escrow: Ceremony) -> None:
    tenant, other = await escrow.cell.tenant(), await escrow.cell.tenant("org_2")
    await escrow.enable(tenant)
    rows = await escrow.execute("SELECT tenant_uid, count(*) AS n FROM csm_system.escrow_copies GROUP BY 1")

    assert rows == [{"tenant_uid": tenant.uid, "n": len(BUILT_IN)}]
    assert sum((await escrow.rows(other)).values()) == 0


async def test_the_certificate_service_sees_nothing_of_escrows(
    escrow: Ceremony, postgres_settings: PostgresSettings
) -> None:
    tables = list(await _tables(escrow.superuser))
    for role in ("csm_directory", "csm_sealer", "csm_publisher", "csm_ddl", "csm_owner"):
        for table in tables:
            query = f"SELECT has_table_privilege('{role}', '{table}', 'SELECT, INSERT, UPDATE, DELETE') AS may"
            assert await escrow.execute(query) == [{"may": False}], (role, table)


async def test_no_private_half_of_an_escrow_is_stored(escrow: Ceremony, postgres_settings: PostgresSettings) -> None:
    """Put together by recipients, it is known; and nowhere else."""
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    recovery = await escrow.begin(tenant)
    begun = await escrow.approved(tenant, recovery)
    case = await escrow.plan._case(begun)
    key = await escrow.plan._escrow_key(case, await escrow.plan._escrow(case))
    session = await escrow.recoveries.session(case.recovery)
    dump = _dump(postgres_settings)

    assert isinstance(UUID(recovery.tenant_uid), UUID)
    assert [seed.hex() for seed in (key.seed, session.seed) if seed.hex() in dump] == []
