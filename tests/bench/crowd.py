"""How many transactions a cell of ten thousand tenants does, of whom a few are busy and most are not (Zipf).

Not among the cases that run when none is named: to make the tenants takes half an hour.
"""

import asyncio
import itertools
import random
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Final

import psycopg
from psycopg import sql

from control_plane.ids import TenantId, dns_label, new_uuid, schema_name
from control_plane.postgres.database import Database, Isolation, PostgresSettings, SystemTransaction
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas.tenancy import Login, create_tenant_schema
from control_plane.settings import Settings
from tests.bench.measure import Figure, quantile
from tests.bench.system import System

TENANTS: Final = {"POOLED": 8_000, "STRICT": 2_000}
CONNECTIONS: Final = 40
CALLERS: Final = 80
SECONDS: Final = 20.0
MAKERS: Final = 2
PROGRESS: Final = 1_000
PASSWORD: Final = "of every tenant that is measured"
QUERY: Final = "SELECT count(*) FROM users WHERE role = 'tenant-admin'"

Call = Callable[[Placement], Awaitable[object]]


async def crowd(system: System) -> AsyncIterator[Figure]:
    """Measure pooled tenants, then strict ones, each against the query alone on as many plain connections."""
    settings, tenants = _settings(system.settings), dict[str, list[Placement]]()
    for isolation in TENANTS:
        async with Database.open(settings, passwords=_password) as database:
            tenants[isolation] = await _make(database, isolation)
    for isolation in TENANTS:
        async with Database.open(settings, passwords=_password) as database, AsyncExitStack() as stack:
            compared = await _load(tenants[isolation], await _plain(stack, system.settings))
            taken = await _load(tenants[isolation], lambda placement: _transaction(database, placement))
        case = f"crowd_{isolation.lower()}"
        yield Figure(
            case=f"{case}_rate",
            value=round(len(taken) / SECONDS, 1),
            unit="tx/s",
            baseline=round(len(compared) / SECONDS, 1),
            runs=len(taken),
        )
        for share in (0.5, 0.99):
            value, baseline = (round(quantile(samples, share), 3) for samples in (taken, compared))
            yield Figure(
                case=f"{case}_p{round(share * 100)}", value=value, unit="ms", baseline=baseline, runs=len(taken)
            )


async def _load(tenants: list[Placement], call: Call) -> list[float]:
    """Call for tenants by Zipf's law, the n-th with 1/n of the first one's share; return what each took, in ms."""
    chance = random.Random(1)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(tenants) + 1)))
    taken: list[float] = []
    until = time.monotonic() + SECONDS

    async def caller() -> None:
        while time.monotonic() < until:
            (placement,) = chance.choices(tenants, cum_weights=weights)
            begun = time.perf_counter()
            await call(placement)
            taken.append((time.perf_counter() - begun) * 1000)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return taken


async def _transaction(database: Database, placement: Placement) -> None:
    await database.tenant(placement, isolation=Isolation.READ_COMMITTED).run(lambda tx: tx.fetch_one(QUERY))


async def _plain(stack: AsyncExitStack, settings: Settings) -> Call:
    """Return the query alone, as the superuser, whom nothing is checked for, on connections that are never closed."""
    idle: asyncio.Queue[psycopg.AsyncConnection[tuple[object, ...]]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        connection = await psycopg.AsyncConnection.connect(
            host=str(settings.postgres_socket_dir),
            port=settings.postgres_port,
            dbname=settings.postgres_dbname,
            user="bulkhead",
            autocommit=True,
            prepare_threshold=None,
        )
        stack.push_async_callback(connection.close)
        idle.put_nowait(connection)

    async def call(placement: Placement) -> None:
        connection = await idle.get()
        users = sql.Identifier(placement.schema, "users")
        cursor = await connection.execute(sql.SQL("SELECT count(*) FROM {} WHERE role = 'tenant-admin'").format(users))
        await cursor.fetchone()
        idle.put_nowait(connection)

    return call


async def _make(database: Database, isolation: str) -> list[Placement]:
    """Register the tenants, and make their tables; nothing else of a tenant is measured here."""
    made: list[Placement] = []
    by_login: defaultdict[str, list[Placement]] = defaultdict(list)
    for number in range(TENANTS[isolation]):
        name = f"crowd_{isolation.lower()}_{number}"
        placement = await database.system().run(partial(_register, name=name, isolation=isolation))
        by_login[placement.login].append(placement)
    # Those of one login wait for each other.
    logins = iter(by_login.values())

    async def maker() -> None:
        for placement in itertools.chain.from_iterable(logins):
            await create_tenant_schema(database, placement, login=Login(version=1, password=PASSWORD))
            made.append(placement)
            if len(made) % PROGRESS == 0:
                sys.stderr.write(f"{len(made)} of {TENANTS[isolation]} {isolation} tenants made\n")

    await asyncio.gather(*(maker() for _ in range(MAKERS)))
    return made


async def _register(tx: SystemTransaction, *, name: str, isolation: str) -> Placement:
    row = await tx.fetch_one(
        """
        INSERT INTO csm_system.tenants (id, uid, display_name, state, tier, isolation, schema_name, dns_label)
        VALUES (%(id)s, %(uid)s, '', 'ACTIVE', 'standard', %(isolation)s, %(schema)s, %(label)s)
        RETURNING *
        """,
        {
            "id": name,
            "uid": new_uuid(),
            "isolation": isolation,
            "schema": schema_name(TenantId(name)),
            "label": dns_label(TenantId(name)),
        },
    )
    if row is None:
        message = "an insertion without a row"
        raise RuntimeError(message)
    # Its isolation is not verified meanwhile: that would be another measurement.
    await tx.execute(
        "INSERT INTO csm_system.verifications (tenant_uid, due_time) VALUES (%(uid)s, now() + interval '1 day')",
        {"uid": row["uid"]},
    )
    return Placement.of(row)


async def _password(placement: Placement, *, anew: bool = False) -> str:
    return PASSWORD


def _settings(settings: Settings) -> PostgresSettings:
    return PostgresSettings(
        socket_dir=settings.postgres_socket_dir,
        port=settings.postgres_port,
        dbname=settings.postgres_dbname,
        tenant_pool_size=CONNECTIONS,
        system_pool_size=MAKERS,
        timeout=timedelta(seconds=60),
    )
