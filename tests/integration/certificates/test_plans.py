"""How the database answers our queries when a tenant has many certificates: by an index, whatever the page."""

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast
from uuid import UUID

import pytest
from psycopg import sql

from control_plane.certificates import store
from control_plane.certificates.model import first_id
from control_plane.postgres.database import TenantTransaction
from control_plane.postgres.placement import Placement
from control_plane.serving.paging import BEYOND_ALL_IDS
from tests.integration.certificates.conftest import Bench

MANY: Final = 20_000
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
NOBODY: Final = UUID(int=1)

Query = Callable[[TenantTransaction], Awaitable[object]]
QUERIES: Final[Mapping[str, Query]] = {
    "a page": lambda tx: store.list_page(tx, before=NOBODY, limit=51),
    "the first page": lambda tx: store.list_page(tx, before=BEYOND_ALL_IDS, limit=51),
    "one certificate": lambda tx: store.find(tx, NOBODY),
    "a repeated request": lambda tx: store.find_by_request(tx, NOBODY),
    "leftovers": lambda tx: store.give_up_between(tx, after=NOBODY, before=NOBODY, limit=20),
    "a revocation": lambda tx: store.revoke(tx, NOBODY, reason="", now=START),
}


class _Recorder:
    """Stands where the transaction does, and keeps the statement."""

    def __init__(self) -> None:
        self.statement = ""

    async def fetch_all(self, query: str, params: Mapping[str, object]) -> list[dict[str, Any]]:
        # As the driver sends it, with numbered parameters.
        self.statement = query % {name: f"${number}" for number, name in enumerate(params, 1)}
        return []

    async def fetch_one(self, query: str, params: Mapping[str, object]) -> None:
        await self.fetch_all(query, params)


async def _fill(bench: Bench, tenant: Placement) -> None:
    schema, table = sql.Identifier(tenant.schema), sql.Identifier("certificates")
    async with bench.superuser.transaction(), bench.superuser.cursor() as cursor:
        copy = sql.SQL(
            "COPY {}.{} (tenant_id, id, state, serial_number, subject, dns_names, profile, object_path, expire_time,"
            " request_id) FROM STDIN"
        ).format(schema, table)
        async with cursor.copy(copy) as rows:
            for number in range(MANY):
                made = first_id(START + timedelta(seconds=number))
                values: tuple[object, ...] = (number, "CN=a", [], "private", f"{made}.pem", START, made)
                await rows.write_row((tenant.uid, made, "ACTIVE", *values))
    await bench.superuser.execute(sql.SQL("ANALYZE {}.{}").format(schema, table))


async def _plan(bench: Bench, tenant: Placement, query: Query) -> str:
    recorder = _Recorder()
    await query(cast("TenantTransaction", recorder))
    async with bench.superuser.transaction():
        for name, value in (("search_path", f'pg_catalog, "{tenant.schema}"'), ("app.tenant_id", str(tenant.uid))):
            await bench.superuser.execute("SELECT set_config(%s, %s, true)", [name, value])
        await bench.superuser.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(tenant.role)))
        # The plan that is kept once a statement is prepared, with the policies of row-level security in it.
        explain = f"EXPLAIN (GENERIC_PLAN) {recorder.statement}".encode()
        rows = await (await bench.superuser.execute(explain)).fetchall()
    return "\n".join(row["QUERY PLAN"] for row in rows)


@pytest.mark.behaviour("E4.4")
async def test_no_query_reads_a_tenants_certificates_one_by_one(bench: Bench) -> None:
    tenant = await bench.cell.tenant()
    await _fill(bench, tenant)
    plans = {name: await _plan(bench, tenant, query) for name, query in QUERIES.items()}

    for name, plan in plans.items():
        assert "Seq Scan" not in plan, (name, plan)
        assert "Sort" not in plan, (name, plan)
        assert re.search(r"Index Cond: .*\b(?:request_)?id (?:=|<|>=) ", plan), (name, plan)
