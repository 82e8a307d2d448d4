"""More tenants at work than there are connections: nobody sees another's rows, and nobody is left out.

BATTERY=1 is the crowd that the specification names: 1,000 tenants, 500 of them at work, 40 connections, a minute.
"""

import asyncio
import os
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

import psutil
import pytest
from psycopg import sql

from control_plane.errors import ConflictError, UnavailableError
from control_plane.postgres.database import Database, Isolation, PostgresSettings, TenantTransaction
from control_plane.postgres.placement import Placement
from tests.fixtures.canaries import RawConnection, rows_of
from tests.fixtures.postgres import MakeTenant, login_password

IS_BATTERY: Final = bool(os.environ.get("BATTERY"))
TENANTS, ACTIVE, CAP, SECONDS = (1_000, 500, 40, 60.0) if IS_BATTERY else (100, 50, 6, 4.0)
# Of all: each has a login, and so connections, of its own.
STRICT_EVERY: Final = 10
# What a backend may be told to go at, and what it may have taken on since it was weighed last.
MOST_BYTES: Final = 128 << 20
ADD: Final = "INSERT INTO users (id, subject, role, state) VALUES (uuidv7(), %(subject)s, 'auditor', 'ACTIVE')"
SEE: Final = "SELECT current_user AS name, tenant_id AS uid, subject FROM users"
DECLARED: Final = {"DATABASE_BUSY", "CONFLICT"}


@dataclass(slots=True)
class Seen:
    """What the crowd has seen."""

    waits_s: list[float] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    put_off: Counter[str] = field(default_factory=Counter)
    foreign: list[str] = field(default_factory=list)
    most_connections: int = 0
    most_bytes: int = 0


async def work(database: Database, placement: Placement, seen: Seen, *, until: float, chance: random.Random) -> None:
    """Be a tenant at work: write something now and then, and look at everything there is."""
    expected: Counter[str] = Counter()
    number = 0
    while time.monotonic() < until:
        number += 1
        is_write = chance.random() < 0.2
        asked = time.monotonic()

        async def run(tx: TenantTransaction, *, adds: bool = is_write, subject: str = f"u{number}") -> list[str]:
            seen.waits_s.append(time.monotonic() - asked)  # noqa: B023 of this turn of the loop
            if adds:
                await tx.execute(ADD, {"subject": subject})
            rows = await tx.fetch_all(SEE)
            return [f"{row['name']} {row['uid']} {row['subject']}" for row in rows]

        try:
            rows = await database.tenant(placement, isolation=Isolation.READ_COMMITTED).run(run)
        except (UnavailableError, ConflictError) as error:
            seen.put_off[error.code] += 1
            continue
        expected.update([f"{placement.role} {placement.uid} u{number}"] * is_write)
        if Counter(rows) != expected:
            seen.foreign.append(placement.tenant_id)
        seen.served[placement.tenant_id] += 1


async def watch(superuser: RawConnection, seen: Seen) -> None:
    """Look at the tenants' backends from outside, until cancelled."""
    backends = sql.SQL(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND (usename LIKE 'csm\\_pool%' OR usename LIKE 'csm\\_t\\_%')"
    )
    while True:
        pids = [row["pid"] for row in await rows_of(superuser, backends)]
        seen.most_connections = max(seen.most_connections, len(pids))
        for pid in pids:
            try:
                seen.most_bytes = max(seen.most_bytes, psutil.Process(pid).memory_full_info().uss)
            except psutil.NoSuchProcess:
                continue
        await asyncio.sleep(0.2)


@pytest.mark.behaviour("S1.19", "T-D7", "I1")
async def test_a_crowd_shares_few_connections(
    postgres_settings: PostgresSettings,
    make_tenant: MakeTenant,
    superuser: RawConnection,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seed = random.randrange(2**32)
    levels = ["STRICT" if number % STRICT_EVERY == 0 else "POOLED" for number in range(TENANTS)]
    tenants = [await make_tenant(f"org_{number}", isolation=level) for number, level in enumerate(levels)]
    active = random.Random(seed).sample(tenants, ACTIVE)
    seen = Seen()
    settings = replace(postgres_settings, tenant_pool_size=CAP, timeout=timedelta(seconds=30))
    watching = asyncio.create_task(watch(superuser, seen))
    until = time.monotonic() + SECONDS
    async with Database.open(settings, passwords=login_password) as database:
        crowd = [
            work(database, placement, seen, until=until, chance=random.Random(seed + number))
            for number, placement in enumerate(active)
        ]
        await asyncio.gather(*crowd)
    watching.cancel()
    waits = sorted(seen.waits_s)
    counts = sorted(seen.served[placement.tenant_id] for placement in active)
    with capsys.disabled():
        print(  # noqa: T201 figures for people
            f"\n{ACTIVE} of {TENANTS} tenants on {CAP} connections for {SECONDS:.0f} s: {sum(counts)} transactions,"
            f" put off {dict(seen.put_off)}, waited p50/p99/max {waits[len(waits) // 2]:.3f}"
            f"/{waits[len(waits) * 99 // 100]:.3f}/{waits[-1]:.3f} s, a tenant's least/median/most"
            f" {counts[0]}/{statistics.median(counts):.0f}/{counts[-1]}, connections {seen.most_connections},"
            f" a backend's most private memory {seen.most_bytes / 2**20:.1f} MiB"
        )

    assert seen.foreign == [], f"seed {seed}"
    assert set(seen.put_off) <= DECLARED
    assert counts[0] > 0
    assert seen.most_connections <= CAP
    assert seen.most_bytes <= MOST_BYTES
