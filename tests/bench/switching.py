"""What it costs to be a tenant: a transaction of its handle, against the same query on a plain connection.

Warm is a tenant whose tables the backend knows; cold is one that it has never seen.
"""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import psycopg

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


async def tenant_switch(system: System) -> AsyncIterator[Figure]:
    """Measure warm and cold."""
    placements = await _placements(system, await system.have_tenants(TENANTS))
    async with _plain(system.settings, placements) as plain:
        for figure in [*await _warm(system, placements, plain), *await _cold(system, placements, plain)]:
            yield figure


async def _warm(system: System, placements: list[Placement], plain: Work) -> list[Figure]:
    async with Database.open(_settings(system.settings)) as database:
        tenants = itertools.cycle(placements)
        for placement in placements:
            await _query(database, placement)
        taken, compared = await by_turns(lambda: _query(database, next(tenants)), plain, runs=WARM_RUNS)
    return figures("tenant_switch_warm", taken, compared, tail=0.99)


async def _cold(system: System, placements: list[Placement], plain: Work) -> list[Figure]:
    taken: list[float] = []
    compared: list[float] = []
    for _ in range(COLD_ROUNDS):
        # A pool of its own has a backend of its own, which knows its first tenant and none of the others.
        async with Database.open(_settings(system.settings)) as database:
            await _query(database, placements[0])
            for placement in placements[1:]:
                compared.append(await timed(plain))
                taken.append(await timed(partial(_query, database, placement)))
    return figures("tenant_switch_cold", taken, compared, tail=0.99)


async def _query(database: Database, placement: Placement) -> None:
    handle = database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    await handle.run(lambda tx: tx.fetch_one("SELECT count(*) FROM users WHERE role = 'tenant-admin'"))


@asynccontextmanager
async def _plain(settings: Settings, placements: list[Placement]) -> AsyncIterator[Work]:
    """The query alone, as the superuser, whom nothing is checked for: by turns over the same tenants."""
    async with await psycopg.AsyncConnection.connect(
        host=str(settings.postgres_socket_dir),
        port=settings.postgres_port,
        dbname=settings.postgres_dbname,
        user="bulkhead",
        autocommit=True,
        prepare_threshold=None,
    ) as connection:
        tables = itertools.cycle([psycopg.sql.Identifier(placement.schema, "users") for placement in placements])

        async def query() -> None:
            statement = psycopg.sql.SQL("SELECT count(*) FROM {} WHERE role = 'tenant-admin'").format(next(tables))
            cursor = await connection.execute(statement)
            await cursor.fetchone()

        for _ in placements:
            await query()
        yield query


async def _placements(system: System, tenants: list[str]) -> list[Placement]:
    async with Database.open(_settings(system.settings)) as database:
        directory = Directory(database)
        found = [await directory.find(tenant) for tenant in tenants]
    return [entry.placement for entry in found if entry is not None]


def _settings(settings: Settings) -> PostgresSettings:
    return PostgresSettings(
        socket_dir=settings.postgres_socket_dir,
        port=settings.postgres_port,
        dbname=settings.postgres_dbname,
        tenant_pool_size=1,
        system_pool_size=1,
    )
