"""What an agent knows reaches its workers, and what they have applied is known."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest

from bulkhead.edge.v1 import policies_pb2, policies_pb2_grpc
from ext_authz.policies.acknowledger import Acknowledger
from ext_authz.policies.feed import FOLLOWER, Feed, socket_channel
from ext_authz.policies.ledger import Ledger
from ext_authz.policies.model import Index
from ext_authz.policies.relay import Relay
from ext_authz.sockets import bind
from ext_authz.worker import Deciding
from tests.fixtures.edge_policies import DOMAIN, NOW, change, policy
from tests.fixtures.eventually import eventually


class Checks:
    """Decides nothing, but may take its time with what it began before."""

    def __init__(self) -> None:
        self.indexes: list[int] = []
        self.busy = asyncio.Event()
        self.busy.set()

    def use(self, index: Index) -> None:
        self.indexes.append(index.revision)

    async def settled(self) -> None:
        await self.busy.wait()

    def add_to(self, server: grpc.aio.Server) -> None:
        pass


class Scene:
    def __init__(self, path: Path, ledger: Ledger) -> None:
        self.path = path
        self.ledger = ledger
        self.reports: list[policies_pb2.ReportDecisionsRequest] = []
        self.relay = Relay(ledger, report=self.reports.append)

    @asynccontextmanager
    async def worker(self, name: str) -> AsyncIterator[tuple[Deciding, Checks]]:
        checks = Checks()
        deciding = Deciding(checks, name=name, domain=DOMAIN)
        feed = Feed(partial(socket_channel, self.path), name=name)
        acknowledger = Acknowledger(feed, deciding.state)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(feed.follow(lambda: deciding.index, deciding.take)),
                group.create_task(acknowledger.run()),
                group.create_task(deciding.settle(acknowledger)),
            ]
            yield deciding, checks
            for task in tasks:
                task.cancel()

    async def ready(self, workers: int) -> None:
        await eventually(lambda: self.relay.ready(self.ledger.index) == workers)


@asynccontextmanager
async def serving(relay: Relay, path: Path) -> AsyncIterator[None]:
    server = grpc.aio.server()
    relay.add_to(server)
    bind(server, path)
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    ledger = Ledger(Index(domain=DOMAIN).after(change(policy(1), revision=5, snapshot=True)))
    with TemporaryDirectory(prefix="relay-") as folder:
        at = Scene(Path(folder) / "sockets" / "policies.sock", ledger)
        async with serving(at.relay, at.path):
            yield at


@asynccontextmanager
async def follower(at: Scene) -> AsyncIterator[tuple[Callable[[], Any], Callable[[str, int], Any]]]:
    """Follow as worker-0; return what opens the stream anew, and what acknowledges."""
    async with socket_channel(at.path) as channel:
        stub: policies_pb2_grpc.PolicyServiceAsyncStub = policies_pb2_grpc.PolicyServiceStub(channel)

        async def follow() -> None:
            await stub.FollowPolicies(policies_pb2.FollowPoliciesRequest(), metadata=((FOLLOWER, "worker-0"),)).read()

        async def acknowledge(feed: str, revision: int) -> None:
            told = policies_pb2.AcknowledgePoliciesRequest(agent="worker-0", feed=feed, revision=revision)
            await stub.AcknowledgePolicies(told)

        await follow()
        yield follow, acknowledge


async def test_workers_have_everything_and_then_each_change() -> None:
    async with scene() as at, at.worker("worker-0") as (zero, _), at.worker("worker-1") as (one, _):
        await at.ready(2)
        at.ledger.take(change(policy(2, revision=6), revision=6))
        await at.relay.applied(at.ledger.index)

        assert zero.index.by_id == one.index.by_id == at.ledger.index.by_id


async def test_time_goes_on_for_workers_where_nothing_changes_and_stands_still_where_nothing_is_heard() -> None:
    later = NOW + timedelta(seconds=30)
    async with scene() as at, at.worker("worker-0") as (zero, _):
        await at.ready(1)
        at.ledger.take(change(revision=5, as_of=later))
        await eventually(lambda: zero.index.as_of == later)
        heard = at.relay.heard("worker-0")
        await eventually(lambda: at.relay.heard("worker-0") > heard + 1)

        assert zero.index.as_of == later


async def test_a_worker_acknowledges_when_what_it_began_before_has_ended() -> None:
    async with scene() as at, at.worker("worker-0") as (_, checks):
        await at.ready(1)
        checks.busy.clear()
        at.ledger.take(change(policy(2, revision=6), revision=6))
        await eventually(lambda: 6 in checks.indexes)
        heard = at.relay.heard("worker-0")
        await eventually(lambda: at.relay.heard("worker-0") > heard)
        while_busy = at.relay.lagging(at.ledger.index)
        checks.busy.set()
        await at.relay.applied(at.ledger.index)

        assert while_busy == ["worker-0"]


async def test_a_worker_without_its_stream_is_waited_for_until_its_process_has_ended() -> None:
    async with scene() as at:
        async with at.worker("worker-0"):
            await at.ready(1)
        at.ledger.take(change(policy(2, revision=6), revision=6))
        waiting = asyncio.create_task(at.relay.applied(at.ledger.index))
        await asyncio.sleep(0.05)
        waited = not waiting.done()
        at.relay.forget("worker-0")
        await waiting

        assert waited


async def test_a_revision_of_another_feed_is_not_applied() -> None:
    async with scene() as at, follower(at) as (_, acknowledge):
        lagging, before = [], at.ledger.index
        await acknowledge("feed-1", 5)
        lagging.append(at.relay.lagging(before))
        at.ledger.take(change(policy(1), feed="feed-2", revision=4, snapshot=True))
        lagging.append(at.relay.lagging(at.ledger.index))
        await acknowledge("feed-2", 4)
        lagging.append(at.relay.lagging(at.ledger.index))

        assert lagging == [[], ["worker-0"], []]
        # Nobody is waited for to apply what is no more.
        assert at.relay.lagging(before) == []
        assert at.relay.ready(before) == 0


async def test_a_worker_that_opens_its_stream_anew_has_what_it_had() -> None:
    async with scene() as at, follower(at) as (follow, acknowledge):
        await acknowledge("feed-1", 5)
        await follow()

        assert at.relay.ready(at.ledger.index) == 1


async def test_an_acknowledgement_of_a_worker_that_is_gone_brings_it_back_for_nobody() -> None:
    async with scene() as at, socket_channel(at.path) as channel:
        stub: policies_pb2_grpc.PolicyServiceAsyncStub = policies_pb2_grpc.PolicyServiceStub(channel)
        await stub.AcknowledgePolicies(policies_pb2.AcknowledgePoliciesRequest(agent="worker-0", revision=4))

        assert at.relay.heard("worker-0") == 1
        assert at.relay.lagging(at.ledger.index) == []


async def test_a_worker_goes_on_by_what_it_has_while_its_agent_is_away() -> None:
    ledger = Ledger(Index(domain=DOMAIN).after(change(policy(1), revision=5, snapshot=True)))
    with TemporaryDirectory(prefix="relay-") as folder:
        at = Scene(Path(folder) / "policies.sock", ledger)
        async with at.worker("worker-0") as (zero, _):
            async with serving(at.relay, at.path):
                await at.ready(1)
            await asyncio.sleep(0.1)
            while_away = zero.index.revision
            ledger.take(change(policy(2, revision=6), revision=6))
            async with serving(at.relay, at.path):
                await at.ready(1)

            assert while_away == 5
            assert zero.index.revision == 6


async def test_a_follower_says_its_name() -> None:
    async with scene() as at, socket_channel(at.path) as channel:
        stub: policies_pb2_grpc.PolicyServiceAsyncStub = policies_pb2_grpc.PolicyServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.FollowPolicies(policies_pb2.FollowPoliciesRequest()).read()

        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_workers_report_is_handed_on() -> None:
    async with scene() as at, socket_channel(at.path) as channel:
        stub: policies_pb2_grpc.PolicyServiceAsyncStub = policies_pb2_grpc.PolicyServiceStub(channel)
        report = policies_pb2.ReportDecisionsRequest(reporter="r", sequence=1)
        await stub.ReportDecisions(report)

        assert at.reports == [report]


async def test_the_socket_is_for_the_agents_own_user() -> None:
    async with scene() as at:
        modes = [path.stat().st_mode & 0o777 for path in (at.path.parent, at.path)]

        assert modes == [0o700, 0o600]


async def test_a_ledger_without_news_makes_nobody_ready() -> None:
    with TemporaryDirectory(prefix="relay-") as folder:
        at = Scene(Path(folder) / "policies.sock", Ledger(Index(domain=DOMAIN)))
        async with serving(at.relay, at.path), at.worker("worker-0") as (zero, _):
            await eventually(lambda: at.relay.heard("worker-0"))
            before = zero.index.as_of
            at.ledger.take(change(policy(1), revision=5, snapshot=True))
            await at.ready(1)

            assert before is None
            assert zero.index.by_id.keys() == {"org_1"}


async def test_many_changes_reach_a_worker_in_order() -> None:
    async with scene() as at, at.worker("worker-0") as (zero, checks):
        await at.ready(1)
        for revision in range(6, 300):
            at.ledger.take(change(policy(revision % 7 + 1, revision=revision), revision=revision))
            if revision % 50 == 0:
                await asyncio.sleep(0.01)
        await at.relay.applied(at.ledger.index)

        assert checks.indexes == sorted(checks.indexes)
        assert zero.index.by_id == at.ledger.index.by_id
