"""Many at once on the same rows: nothing is lost, and nobody reads of it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final
from uuid import UUID

import pytest
from psycopg import errors, sql

from control_plane.errors import ConflictError, UnavailableError
from control_plane.ids import new_uuid
from control_plane.postgres.database import Database, Isolation, PostgresSettings, Retries, TenantTransaction
from control_plane.postgres.placement import Placement
from tests.fixtures.canaries import RawConnection
from tests.fixtures.postgres import MakeTenant

CLIENTS: Final = 64
ROUNDS: Final = 5
READ: Final = "SELECT count FROM counters"
INCREMENT: Final = "UPDATE counters SET count = count + 1"
SET: Final = "UPDATE counters SET count = %(count)s"


@pytest.fixture
async def counting(make_tenant: MakeTenant, superuser: RawConnection) -> Placement:
    """A tenant with one row to count in."""
    placement = await make_tenant()
    schema, role = sql.Identifier(placement.schema), sql.Identifier(placement.role)
    await superuser.execute(sql.SQL("CREATE TABLE {}.counters (count bigint)").format(schema))
    await superuser.execute(sql.SQL("GRANT SELECT, UPDATE ON {}.counters TO {}").format(schema, role))
    await superuser.execute(sql.SQL("INSERT INTO {}.counters VALUES (0)").format(schema))
    return placement


async def count(tx: TenantTransaction) -> int:
    row = await tx.fetch_one(READ)
    assert row is not None
    return int(row["count"])


async def increment(tx: TenantTransaction) -> None:
    await tx.execute(INCREMENT)


async def read_and_write(tx: TenantTransaction) -> None:
    await tx.execute(SET, {"count": await count(tx) + 1})


async def clash(
    database: Database,
    placement: Placement,
    *,
    isolation: Isolation,
    work: Callable[[TenantTransaction], Awaitable[None]],
) -> list[BaseException | None]:
    async def client() -> None:
        done = 0
        while done < ROUNDS:
            # A busy machine's lock that does not come free in five seconds: nothing was done then.
            with suppress(UnavailableError):
                await database.tenant(placement, isolation=isolation).run(work)
                done += 1

    return await asyncio.gather(*(client() for _ in range(CLIENTS)), return_exceptions=True)


@pytest.mark.behaviour("T-D9")
async def test_64_clients_on_a_hot_row_lose_no_update_and_meet_no_conflict(
    postgres_settings: PostgresSettings, counting: Placement
) -> None:
    settings = replace(postgres_settings, tenant_pool_size=CLIENTS, timeout=timedelta(seconds=60))
    async with Database.open(settings) as database:
        ends = await clash(database, counting, isolation=Isolation.READ_COMMITTED, work=increment)
        total = await database.tenant(counting, isolation=Isolation.READ_COMMITTED).run(count)

    assert ends == [None] * CLIENTS
    assert total == CLIENTS * ROUNDS


@pytest.mark.behaviour("T-D9")
async def test_64_serializable_clients_lose_no_update_and_read_of_no_serialization_failure(
    postgres_settings: PostgresSettings, counting: Placement
) -> None:
    settings = replace(postgres_settings, timeout=timedelta(seconds=60))
    done = 0

    async def client(database: Database) -> None:
        nonlocal done
        for _ in range(ROUNDS):
            try:
                await database.tenant(counting, isolation=Isolation.SERIALIZABLE).run(read_and_write)
            except ConflictError:
                continue
            done += 1

    async with Database.open(settings) as database:
        await asyncio.gather(*(client(database) for _ in range(CLIENTS)))
        total = await database.tenant(counting, isolation=Isolation.READ_COMMITTED).run(count)

    assert total == done > 0


class Pauses:
    """Keeps how long it was told to sleep, and does not."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.mark.behaviour("T-D9")
@pytest.mark.parametrize("error", [errors.SerializationFailure, errors.DeadlockDetected])
async def test_work_that_always_loses_is_tried_five_times_with_growing_pauses(
    error: type[Exception], postgres_settings: PostgresSettings, make_tenant: MakeTenant
) -> None:
    pauses = Pauses()
    retries = Retries(sleep=pauses.sleep, random=lambda: 0.5)
    tries = 0

    async def lose(tx: TenantTransaction) -> None:
        nonlocal tries
        tries += 1
        raise error

    placement = await make_tenant()
    async with Database.open(postgres_settings, retries=retries) as database:
        with pytest.raises(ConflictError):
            await database.tenant(placement, isolation=Isolation.SERIALIZABLE).run(lose)

    assert tries == 5
    assert pauses.slept == [0.01, 0.02, 0.04, 0.08]


async def test_a_real_conflict_is_repeated_in_a_new_transaction(database: Database, counting: Placement) -> None:
    handle = database.tenant(counting, isolation=Isolation.SERIALIZABLE)
    tries = 0

    async def meet(tx: TenantTransaction) -> None:
        nonlocal tries
        tries += 1
        found = await count(tx)
        if tries == 1:
            await handle.run(read_and_write)
        await tx.execute(SET, {"count": found + 1})

    await handle.run(meet)

    assert tries == 2
    assert await handle.run(count) == 2


@pytest.mark.behaviour("T-P3")
async def test_of_two_calls_with_one_request_id_the_loser_sees_the_winners_row(
    database: Database, make_tenant: MakeTenant
) -> None:
    handle = database.tenant(await make_tenant(), isolation=Isolation.SERIALIZABLE)
    request_id = new_uuid()

    async def issue(tx: TenantTransaction) -> UUID:
        found = await tx.fetch_one("SELECT id FROM tokens WHERE request_id = %(id)s", {"id": request_id})
        if found is not None:
            return UUID(str(found["id"]))
        token = new_uuid()
        await tx.execute(
            "INSERT INTO tokens (id, subject, role, scopes, kid, expire_time, request_id)"
            " VALUES (%(id)s, 'alice', 'auditor', '{}', %(id)s, now(), %(request_id)s)",
            {"id": token, "request_id": request_id},
        )
        return token

    tokens = await asyncio.gather(*(handle.run(issue) for _ in range(8)))

    assert len(set(tokens)) == 1
    rows = await handle.run(partial(TenantTransaction.fetch_all, query="SELECT id FROM tokens"))
    assert [row["id"] for row in rows] == [tokens[0]]
