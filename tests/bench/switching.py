"""What it costs to be a tenant: a transaction of its handle, against the same query on a plain connection.

Warm is a tenant whose tables the backend knows; cold is one that it has never seen, or for whom it has to be started: a
strict tenant's login has a backend of its own.
"""

import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Final

import psycopg

from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.postgres.database import Database, Isolation
from control_plane.postgres.directory import Directory
from control_plane.postgres.placement import Placement
from control_plane.postgres.pools import PostgresSettings
from control_plane.settings import Settings
from tests.bench.measure import Figure, Work, by_turns, figures, timed
from tests.bench.system import System

TENANTS: Final = 10
WARM_RUNS: Final = 400
COLD_ROUNDS: Final = 10
POLICY_ROWS: Final = 300
POLICY_RUNS: Final = 1_000


async def tenant_switch(system: System) -> AsyncIterator[Figure]:
    """Measure pooled tenants and strict ones, warm and cold; and what row-level security is of it."""
    for isolation, case in (("POOLED", "tenant_switch"), ("STRICT", "tenant_switch_strict")):
        placements = await _placements(system, await system.have_tenants(TENANTS, isolation=isolation))
        async with _plain(system.settings, placements) as plain, _database(system, limit=TENANTS) as database:
            for figure in [
                *await _warm(database, placements, plain, case=f"{case}_warm"),
                *await _cold(system, placements, plain, case=f"{case}_cold"),
            ]:
                yield figure
            if isolation == "POOLED":
                for figure in await _policies(system.settings, placements[0]):
                    yield figure


async def _warm(database: Database, placements: list[Placement], plain: Work, *, case: str) -> list[Figure]:
    tenants = itertools.cycle(placements)
    for placement in placements:
        await _query(database, placement)
    taken, compared = await by_turns(lambda: _query(database, next(tenants)), plain, runs=WARM_RUNS)
    return figures(case, taken, compared, tail=0.99)


async def _cold(system: System, placements: list[Placement], plain: Work, *, case: str) -> list[Figure]:
    taken: list[float] = []
    compared: list[float] = []
    for _ in range(COLD_ROUNDS):
        # A pool of its own has a backend of its own, which knows its first tenant and none of the others.
        async with _database(system, limit=1) as database:
            await _query(database, placements[0])
            for placement in placements[1:]:
                compared.append(await timed(plain))
                taken.append(await timed(partial(_query, database, placement)))
    return figures(case, taken, compared, tail=0.99)


async def _policies(settings: Settings, placement: Placement) -> list[Figure]:
    """Read a few hundred rows by an index through the table's policy, and as one for whom there is none, by turns."""
    async with _session(settings) as owner, _session(settings) as tenant:
        tokens = psycopg.sql.Identifier(placement.schema, "tokens")
        await owner.execute(
            psycopg.sql.SQL(
                "INSERT INTO {} (tenant_id, id, subject, role, scopes, kid, expire_time)"
                " SELECT {}, uuidv7(), 'bench', 'auditor', '{{}}', uuidv7(), now() FROM generate_series(1, {})"
            ).format(tokens, str(placement.uid), POLICY_ROWS)
        )
        for setting in ("SET SESSION AUTHORIZATION {login}", "SET ROLE {role}", "SET app.tenant_id = {uid}"):
            await tenant.execute(
                psycopg.sql.SQL(setting).format(
                    login=psycopg.sql.Identifier(placement.login),
                    role=psycopg.sql.Identifier(placement.role),
                    uid=psycopg.sql.Literal(str(placement.uid)),
                )
            )
        query = psycopg.sql.SQL("SELECT count(*) FROM {} WHERE tenant_id = {} AND subject = 'bench'").format(
            tokens, psycopg.sql.Literal(str(placement.uid))
        )
        taken, compared = await by_turns(lambda: tenant.execute(query), lambda: owner.execute(query), runs=POLICY_RUNS)
    return figures("row_level_security", taken, compared, tail=0.99)


async def _query(database: Database, placement: Placement) -> None:
    handle = database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    await handle.run(lambda tx: tx.fetch_one("SELECT count(*) FROM users WHERE role = 'tenant-admin'"))


@asynccontextmanager
async def _plain(settings: Settings, placements: list[Placement]) -> AsyncIterator[Work]:
    """The query alone, as the superuser, whom nothing is checked for: by turns over the same tenants."""
    async with _session(settings) as connection:
        tables = itertools.cycle([psycopg.sql.Identifier(placement.schema, "users") for placement in placements])

        async def query() -> None:
            statement = psycopg.sql.SQL("SELECT count(*) FROM {} WHERE role = 'tenant-admin'").format(next(tables))
            cursor = await connection.execute(statement)
            await cursor.fetchone()

        for _ in placements:
            await query()
        yield query


def _session(settings: Settings) -> AbstractAsyncContextManager[psycopg.AsyncConnection[tuple[object, ...]]]:
    @asynccontextmanager
    async def session() -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
        async with await psycopg.AsyncConnection.connect(
            host=str(settings.postgres_socket_dir),
            port=settings.postgres_port,
            dbname=settings.postgres_dbname,
            user="bulkhead",
            autocommit=True,
            prepare_threshold=None,
        ) as connection:
            yield connection

    return session()


async def _placements(system: System, tenants: list[str]) -> list[Placement]:
    async with _database(system, limit=1) as database:
        directory = Directory(database)
        found = [await directory.find(tenant) for tenant in tenants]
    return [entry.placement for entry in found if entry is not None]


@asynccontextmanager
async def _database(system: System, *, limit: int) -> AsyncIterator[Database]:
    """Open the stack's database with so many connections; a strict tenant's password comes from the stack's vault."""
    settings = PostgresSettings(
        socket_dir=system.settings.postgres_socket_dir,
        port=system.settings.postgres_port,
        dbname=system.settings.postgres_dbname,
        tenant_pool_size=limit,
        system_pool_size=1,
    )

    async def password(placement: Placement, *, anew: bool = False) -> str:
        return await keys.login_password(placement, anew=anew)

    async with Database.open(settings, passwords=password) as database:
        keys = TenantKeys(await SoftwareVault.open(system.settings.vault_dir), database)
        yield database
