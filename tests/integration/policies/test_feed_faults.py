"""Following the policies when somebody is slow, gone or away."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import psutil
import psycopg
import pytest

from control_plane.errors import UnavailableError
from control_plane.policies import feed
from control_plane.policies.model import Position
from tests.fixtures.cell import reason_of
from tests.fixtures.postgres import MakeTenant, PostgresServer
from tests.integration.policies.following import following

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from control_plane.policies.feed import Publisher
    from control_plane.postgres.database import PostgresSettings
    from tests.integration.policies.conftest import Control


async def test_another_history_ends_the_streams(control: "Control", make_tenant: MakeTenant, superuser: Any) -> None:
    await make_tenant("org_1")
    async with following(control) as stream:
        await stream.change()
        await superuser.execute("UPDATE csm_system.edge_feed SET id = gen_random_uuid()")
        ended = await stream.end()

    assert (ended.code(), reason_of(ended)) == (grpc.StatusCode.UNAVAILABLE, "FEED_REPLACED")


@pytest.mark.behaviour("E4.5")
async def test_a_slow_follower_is_cut_off_and_holds_nobody_up(
    publisher: "Publisher", control: "Control", *, make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_QUEUE", 3)
    await make_tenant("org_1")
    slow = publisher.follow(Position(feed="", revision=0))
    told = (await anext(slow)).head
    async with following(control) as quick:
        await quick.change()
        for turn in range(6):
            await quick.until(await control.suspend("org_1", reactivate=bool(turn % 2)))
        followers = publisher.followers
        with pytest.raises(UnavailableError) as raised:
            await anext(slow)
        resumed_at = [t.head.revision async for t in _first(publisher, told)]

    assert followers == 1
    assert raised.value.code == "FOLLOWER_TOO_SLOW"
    assert resumed_at == [quick.messages[-1].revision]


async def _first(publisher: "Publisher", known: Position) -> "AsyncIterator[Any]":
    stream = publisher.follow(known)
    yield await anext(stream)
    await stream.aclose()


async def test_the_times_alone_fill_no_queue(
    publisher: "Publisher", make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_QUEUE", 1)
    monkeypatch.setattr(feed, "_EVERY", timedelta(milliseconds=1))
    await make_tenant("org_1")
    slow = publisher.follow(Position(feed="", revision=0))
    first = await anext(slow)
    await asyncio.sleep(0.2)
    followers = publisher.followers
    later = [await anext(slow) for _ in range(3)]
    await slow.aclose()

    assert followers == 1
    assert first.as_of <= later[0].as_of < later[1].as_of < later[2].as_of
    assert [changes.is_empty for changes in later] == [True] * 3


async def test_who_goes_is_forgotten(control: "Control", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    async with following(control) as stream:
        await stream.change()
        assert control.publisher.followers == 1
    async with asyncio.timeout(30):
        while control.publisher.followers:  # noqa: ASYNC110 nobody is told of it
            await asyncio.sleep(0.02)


async def test_a_process_that_drains_ends_its_streams(control: "Control", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    async with following(control) as stream:
        await stream.change()
        control.publisher.close()
        ended = await stream.end()
    async with following(control) as late:
        refused = await late.end()

    assert (ended.code(), reason_of(ended)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert reason_of(refused) == "DRAINING"


@asynccontextmanager
async def frozen(server: PostgresServer) -> "AsyncIterator[None]":
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    try:
        for process in processes:
            process.suspend()
        yield
    finally:
        for process in reversed(processes):
            process.resume()


async def test_a_frozen_database_makes_streams_silent_and_then_they_go_on(
    control: "Control", make_tenant: MakeTenant, postgres_server: PostgresServer
) -> None:
    await make_tenant("org_1")
    async with following(control) as stream:
        await stream.change()
        async with frozen(postgres_server):
            # What was asked before the frost may still come.
            while not await stream.is_silent(for_s=1.5):
                pass
            froze = stream.messages[-1].as_of_time.ToDatetime(tzinfo=UTC)
        async with asyncio.timeout(30):
            await stream.message()
        revision = await control.suspend("org_1")
        change = await stream.change()

    assert change.revision == revision
    assert change.as_of_time.ToDatetime(tzinfo=UTC) > froze + timedelta(seconds=1)
    assert sum(m.snapshot for m in stream.messages) == 1


async def test_a_database_that_dies_and_comes_back_costs_silence_alone(
    control: "Control",
    make_tenant: MakeTenant,
    *,
    postgres_server: PostgresServer,
    postgres_settings: "PostgresSettings",
) -> None:
    await make_tenant("org_1")
    dbname = psycopg.sql.Identifier(postgres_settings.dbname)
    connection = await psycopg.AsyncConnection.connect(postgres_server.superuser_conninfo("postgres"), autocommit=True)
    async with connection, following(control) as stream:
        await stream.change()
        await connection.execute(psycopg.sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(dbname))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (postgres_settings.dbname,)
        )
        while not await stream.is_silent(for_s=1.5):
            pass
        async with following(control, edge="edge-2") as late:
            silent = await late.is_silent(for_s=0.5)
            await connection.execute(psycopg.sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(dbname))
            async with asyncio.timeout(30):
                await stream.message()
                await late.message()
        revision = await control.suspend("org_1")
        change = await stream.change()

    assert silent
    assert late.messages[0].snapshot
    assert change.revision == revision
