"""The chain has neither a gap nor a fork, whoever commits late, whoever seals at once, and whatever dies."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import DictRow

from control_plane.audit import store
from control_plane.audit.model import Chain, Verification
from control_plane.audit.sealer import Sealer
from control_plane.audit.service import verify_log
from control_plane.errors import ConflictError, UnavailableError
from control_plane.postgres.database import Database, Isolation, PostgresSettings, TenantTransaction
from control_plane.postgres.directory import Directory
from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement
from tests.fixtures.cell import Cell

Superuser = psycopg.AsyncConnection[DictRow]


class Opened(NamedTuple):
    """A transaction that has written its entry and waits."""

    commit: asyncio.Event
    done: Awaitable[Any]


async def write(cell: Cell, placement: Placement, number: int = 0) -> None:
    async def work(tx: TenantTransaction) -> None:
        tx.record(Effect(resource=f"tenants/{placement.tenant_id}/{number}"))

    await cell.call(placement).tenant().run(work)


@asynccontextmanager
async def open_write(database: Database, placement: Placement, resource: str) -> AsyncIterator[Opened]:
    """Write an entry in a transaction that commits when it is told to."""
    commit, written = asyncio.Event(), asyncio.Event()

    async def work(tx: TenantTransaction) -> None:
        await tx.execute(
            "INSERT INTO audit_entries (id, actor, method, resource, outcome, request_id)"
            " VALUES (uuidv7(), '', '', %(resource)s, 'EFFECT', '')",
            {"resource": resource},
        )
        written.set()
        await commit.wait()

    handle = database.tenant(placement, isolation=Isolation.READ_COMMITTED)
    task = asyncio.create_task(handle.run(work))
    await written.wait()
    try:
        yield Opened(commit, task)
    finally:
        commit.set()
        await task


async def verified(cell: Cell, placement: Placement) -> Verification:
    return await cell.database.tenant(placement, isolation=Isolation.SERIALIZABLE).run(verify_log)


async def sealed_resources(superuser: Superuser) -> list[str]:
    found = await superuser.execute(
        "SELECT resource FROM tenant_org_1.audit_seals"
        " JOIN tenant_org_1.audit_entries ON entry_id = id ORDER BY sequence"
    )
    return [row["resource"] for row in await found.fetchall()]


@pytest.mark.behaviour("T-L1")
async def test_entries_are_linked_in_order_and_the_chain_holds(cell: Cell, superuser: Superuser) -> None:
    placement = await cell.tenant()
    for number in range(5):
        await write(cell, placement, number)
    before = await verified(cell, placement)
    has_more = await cell.sealer.seal(placement)
    after = await verified(cell, placement)

    assert (before.sealed, before.unsealed, before.head, before.first_broken) == (0, 5, b"", 0)
    assert not has_more
    assert (after.sealed, after.unsealed, after.first_broken) == (5, 0, 0)
    assert len(after.head) == 32
    assert await sealed_resources(superuser) == [f"tenants/org_1/{number}" for number in range(5)]


async def test_sealing_again_changes_nothing(cell: Cell) -> None:
    placement = await cell.tenant()
    await write(cell, placement)
    await cell.sealer.seal(placement)
    before = await verified(cell, placement)
    await cell.sealer.seal(placement)

    assert await verified(cell, placement) == before


@pytest.mark.behaviour("T-L1")
async def test_an_entry_waits_for_every_transaction_that_may_still_come_before_it(
    cell: Cell, superuser: Superuser
) -> None:
    placement = await cell.tenant()
    async with open_write(cell.database, placement, "early, commits late"):
        async with open_write(cell.database, placement, "late, commits early"):
            pass
        has_more = await cell.sealer.seal(placement)
        sealed_meanwhile = await sealed_resources(superuser)
    await cell.sealer.seal(placement)

    assert has_more
    assert sealed_meanwhile == []
    assert await sealed_resources(superuser) == ["early, commits late", "late, commits early"]


async def test_entries_are_in_the_order_of_their_transactions_and_not_of_their_ids(
    cell: Cell, superuser: Superuser
) -> None:
    """An id is made some time before the transaction that it is written in."""
    placement = await cell.tenant()
    handle = cell.database.tenant(placement, isolation=Isolation.READ_COMMITTED)
    for number in (3, 1, 2):
        await handle.run(
            lambda tx, number=number: tx.execute(  # type: ignore[misc]  # a default binds the loop's value
                "INSERT INTO audit_entries (id, actor, method, resource, outcome, request_id)"
                " VALUES (%(id)s, '', '', %(resource)s, 'EFFECT', '')",
                {"id": UUID(int=number), "resource": str(number)},
            )
        )
    await cell.sealer.seal(placement)

    assert await sealed_resources(superuser) == ["3", "1", "2"]


async def test_a_log_longer_than_a_batch_is_sealed_in_one_go(cell: Cell, superuser: Superuser) -> None:
    placement = await cell.tenant()
    handle = cell.database.tenant(placement, isolation=Isolation.READ_COMMITTED)
    await handle.run(
        lambda tx: tx.execute(
            "INSERT INTO audit_entries (id, actor, method, resource, outcome, request_id)"
            " SELECT uuidv7(), '', '', '', 'EFFECT', '' FROM generate_series(1, 450)"
        )
    )
    await cell.sealer.seal(placement)

    assert (await verified(cell, placement)).sealed == 450


async def test_of_two_sealers_at_one_batch_the_second_does_nothing(cell: Cell) -> None:
    placement = await cell.tenant()
    await write(cell, placement)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: TenantTransaction) -> None:
        chain = Chain(placement.uid, await store.last_seal(tx))
        seals = [chain.extend(record) for record in await store.sealable(tx, chain.position, limit=10)]
        reached.set()
        await go_on.wait()
        await store.insert_seals(tx, seals)

    slower = asyncio.create_task(cell.database.sealer(placement).run(slow))
    await reached.wait()
    await cell.sealer.seal(placement)
    before = await verified(cell, placement)
    go_on.set()
    with pytest.raises(ConflictError):
        await slower

    assert await verified(cell, placement) == before


@dataclass(kw_only=True)
class Storm:
    """Everything that happens to a log at once, until it is told to stop."""

    cell: Cell
    placement: Placement
    superuser: Superuser
    rng: random.Random = field(default_factory=lambda: random.Random(13))
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    heads: list[tuple[int, bytes]] = field(default_factory=list)

    written: int = 0

    async def write(self) -> None:
        """Go on until the chain was seen to grow several times, or for a while on a machine that is busy."""
        begin = time.monotonic()
        while self.written < 60 or (len(set(self.heads)) < 4 and time.monotonic() < begin + 5):
            self.written += 1
            async with open_write(self.cell.database, self.placement, str(self.written)):
                await asyncio.sleep(self.rng.choice((0, 0, 0.001, 0.02)))

    async def seal(self, database: Database) -> None:
        """Be killed half way, at any await, again and again."""
        sealer = Sealer(database, Directory(database))
        while not self.stop.is_set():
            with suppress(ConflictError, UnavailableError, TimeoutError):
                seconds = self.rng.choice((0.002, 0.005, 0.02, 1))
                await asyncio.wait_for(sealer.seal(self.placement), seconds)
            await asyncio.sleep(0)

    async def kill_connections(self) -> None:
        while not self.stop.is_set():
            await asyncio.sleep(self.rng.uniform(0, 0.3))
            await self.superuser.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'csm_sealer'"
            )

    async def watch(self) -> None:
        while not self.stop.is_set():
            found = await verified(self.cell, self.placement)
            assert found.first_broken == 0
            if found.sealed:
                self.heads.append((found.sealed, found.head))
            await asyncio.sleep(0.02)


@pytest.mark.behaviour("T-L1")
@pytest.mark.behaviour("T-L4")
async def test_the_chain_holds_with_late_commits_several_sealers_and_deaths(
    cell: Cell, superuser: Superuser, postgres_settings: PostgresSettings
) -> None:
    placement = await cell.tenant()
    storm = Storm(cell=cell, placement=placement, superuser=superuser)
    async with (
        Database.open(postgres_settings) as one,
        Database.open(postgres_settings) as two,
        asyncio.TaskGroup() as group,
    ):
        for task in (storm.seal(one), storm.seal(two), storm.kill_connections(), storm.watch()):
            group.create_task(task)
        await asyncio.gather(*(storm.write() for _ in range(6)))
        storm.stop.set()
    await cell.sealer.seal(placement)
    end = await verified(cell, placement)
    seals = await (await superuser.execute("SELECT * FROM tenant_org_1.audit_seals ORDER BY sequence")).fetchall()

    assert (end.sealed, end.unsealed, end.first_broken) == (storm.written, 0, 0)
    assert seals == sorted(seals, key=lambda row: (int(row["entry_xact"]), row["entry_id"]))
    # What was once the head is still where it was: nothing was put in before it, or sealed twice.
    assert {row["sequence"]: row["hash"] for row in seals}.items() >= set(storm.heads)


async def test_a_touched_log_is_sealed_within_a_second_or_so(cell: Cell) -> None:
    placement = await cell.tenant()
    running = asyncio.create_task(cell.sealer.run())
    await asyncio.sleep(0.1)
    await write(cell, placement)
    cell.sealer.touch(placement)
    async with asyncio.timeout(5):
        found = await verified(cell, placement)
        while not found.sealed:
            await asyncio.sleep(0.05)
            found = await verified(cell, placement)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert (found.sealed, found.unsealed) == (1, 0)


async def test_a_log_is_looked_at_again_until_what_was_touched_can_be_sealed(cell: Cell) -> None:
    placement = await cell.tenant()
    now = [0.0]
    sealer = Sealer(cell.database, cell.directory, monotonic_s=lambda: now[0])
    async with open_write(cell.database, placement, "touched before its commit"):
        sealer.touch(placement)
        await sealer.round()
        for second in (1, 3, 7, 15, 23):
            now[0] = second
            async with open_write(cell.database, placement, "behind"):
                pass
            await sealer.round()
        waiting = len(sealer._dirty)
    now[0] = 31
    await sealer.round()
    found = await verified(cell, placement)
    now[0] = 60
    await sealer.round()

    assert waiting == 1
    assert (found.sealed, found.unsealed) == (6, 0)
    assert sealer._dirty == {}


async def test_a_sweep_seals_every_tenant_and_a_broken_one_does_not_stop_it(cell: Cell, superuser: Superuser) -> None:
    placements = [await cell.tenant(f"org_{number}") for number in range(1, 5)]
    for placement in placements:
        await write(cell, placement)
    await superuser.execute("DROP TABLE tenant_org_2.audit_seals")
    await cell.sealer.sweep()
    found = [await verified(cell, placement) for placement in placements if placement.tenant_id != "org_2"]

    assert [(verification.sealed, verification.unsealed) for verification in found] == [(1, 0)] * 3
