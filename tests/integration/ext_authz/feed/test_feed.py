"""A follower comes back whatever happens to its server, and never goes back behind what it has."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from typing_extensions import override

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.feed import AwayError, Feed, RefusedError, secure_channel
from ext_authz.policies.messages import policy_to
from ext_authz.policies.model import Change, Index
from tests.fixtures.authority import new_authority, tls_files
from tests.fixtures.edge_policies import DOMAIN, FEED, NOW, change, policy
from tests.fixtures.eventually import eventually
from tests.fixtures.policy_server import ControlPlane, ScriptedServer, serving


class Follower:
    def __init__(self, open_channel: Callable[[], grpc.aio.Channel], **options: Any) -> None:
        self.index = Index(domain=DOMAIN)
        self.revisions: list[tuple[str, int]] = []
        self.feed = Feed(open_channel, name="edge-1", **options)

    def take(self, news: Change) -> None:
        self.index = self.index.after(news)
        self.revisions.append((self.index.feed, self.index.revision))

    async def has(self, revision: int, feed: str = FEED) -> None:
        await eventually(lambda: (self.index.feed, self.index.revision) == (feed, revision))


@asynccontextmanager
async def following(address: str, **options: Any) -> AsyncIterator[Follower]:
    follower = Follower(lambda: grpc.aio.insecure_channel(address), **options)
    task = asyncio.create_task(follower.feed.follow(lambda: follower.index, follower.take))
    yield follower
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def response(revision: int, **fields: Any) -> policies_pb2.FollowPoliciesResponse:
    filled: dict[str, Any] = {"feed": FEED, "revision": revision} | fields
    message = policies_pb2.FollowPoliciesResponse(**filled)
    message.as_of_time.FromDatetime(NOW)
    return message


def control_plane() -> ControlPlane:
    server = ControlPlane()
    server.ledger.take(change(policy(1), policy(2), revision=5, snapshot=True))
    return server


async def test_a_follower_has_everything_and_then_each_change() -> None:
    server = control_plane()
    async with serving(server) as address, following(address) as follower:
        await follower.has(5)
        await eventually(lambda: server.streams)
        server.take(change(policy(3, revision=6), revision=6))
        await follower.has(6)

        assert follower.index.by_id.keys() == {"org_1", "org_2", "org_3"}
        assert server.names == ["edge-1"]


async def test_a_follower_comes_back_for_what_it_lacks_when_the_server_does() -> None:
    server = control_plane()
    async with serving(server) as address, following(address) as follower:
        await follower.has(5)
        server.say(None)
        server.ledger.take(change(policy(3, revision=6), revision=6))
        await follower.has(6)

        assert [request.revision for request in server.requests] == [0, 5]


async def test_a_server_that_was_away_is_followed_again() -> None:
    server = control_plane()
    async with serving(server) as address:
        pass
    async with following(address) as follower:
        await asyncio.sleep(0.2)
        async with serving(server, address):
            await follower.has(5)


async def test_a_server_that_is_silent_is_given_up_and_asked_anew() -> None:
    server = control_plane()
    async with serving(server) as address, following(address, silence=timedelta(milliseconds=100)) as follower:
        await follower.has(5)
        await eventually(lambda: len(server.requests) >= 3)

        assert follower.revisions == [(FEED, 5)] * len(follower.revisions)


async def test_a_change_that_goes_back_is_dropped_and_the_stream_opened_anew() -> None:
    server = control_plane()
    async with serving(server) as address, following(address) as follower:
        await follower.has(5)
        await eventually(lambda: len(server.streams) == 1)
        server.say(response(4, snapshot=True, tenants=[policy_to(policy(9))]), response(6))
        await eventually(lambda: len(server.streams) == 2)

        assert follower.index.by_id.keys() == {"org_1", "org_2"}
        assert set(follower.revisions) == {(FEED, 5)}


async def test_another_feed_replaces_everything_even_at_a_lower_revision() -> None:
    server = control_plane()
    async with serving(server) as address, following(address) as follower:
        await follower.has(5)
        await eventually(lambda: server.streams)
        server.say(response(1, feed="feed-2", snapshot=True, tenants=[policy_to(policy(9))]))
        await follower.has(1, "feed-2")

        assert follower.index.by_id.keys() == {"org_9"}


async def test_a_delta_of_another_feed_is_dropped() -> None:
    server = control_plane()
    async with serving(server) as address, following(address) as follower:
        await follower.has(5)
        await eventually(lambda: len(server.streams) == 1)
        server.say(response(9, feed="feed-2", tenants=[policy_to(policy(9))]))
        await eventually(lambda: len(server.streams) == 2)

        assert set(follower.revisions) == {(FEED, 5)}
        assert "org_9" not in follower.index.by_id


async def test_half_a_change_is_none() -> None:
    server = ScriptedServer()
    async with serving(server) as address, following(address) as follower:
        await eventually(lambda: server.streams)
        server.say(response(1, snapshot=True, continues=True, tenants=[policy_to(policy(1))]), None)
        await eventually(lambda: len(server.streams) == 2)
        server.say(response(1, snapshot=True, tenants=[policy_to(policy(2))]))
        await follower.has(1)

        assert follower.index.by_id.keys() == {"org_2"}


async def test_a_tenant_that_cannot_be_read_keeps_its_last_policy_and_no_other_back() -> None:
    server = control_plane()
    bad = policy_to(policy(1, revision=6))
    bad.domains.append("*")
    async with serving(server) as address, following(address) as follower:
        await follower.has(5)
        await eventually(lambda: server.streams)
        server.say(response(6, tenants=[bad, policy_to(policy(2, revision=6))]))
        await follower.has(6)

        assert follower.index.by_id["org_1"].revision == 1
        assert follower.index.by_id["org_2"].revision == 6
        assert len(server.requests) == 1


async def test_whoever_tells_a_server_that_is_away_is_told_so() -> None:
    feed = Feed(lambda: grpc.aio.insecure_channel("127.0.0.1:1"), name="edge-1")

    with pytest.raises(AwayError):
        await feed.report(policies_pb2.ReportDecisionsRequest())


async def test_whoever_tells_a_server_that_went_is_told_so() -> None:
    server = control_plane()
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(server))
        async with following(address) as follower:
            await follower.has(5)
            await follower.feed.report(policies_pb2.ReportDecisionsRequest())
            await stack.aclose()
            await asyncio.sleep(0.2)

            with pytest.raises(AwayError):
                await follower.feed.report(policies_pb2.ReportDecisionsRequest())


class Refusing(ControlPlane):
    """Finds each report malformed."""

    @override
    async def ReportDecisions(self, request: Any, context: Any) -> policies_pb2.ReportDecisionsResponse:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        raise AssertionError


async def test_whoever_tells_what_will_never_be_taken_is_told_so() -> None:
    server = Refusing()
    server.ledger.take(change(policy(1), revision=5, snapshot=True))
    async with serving(server) as address, following(address) as follower:
        await follower.has(5)

        with pytest.raises(RefusedError):
            await follower.feed.report(policies_pb2.ReportDecisionsRequest())


class Hanging(ControlPlane):
    """Takes a report, and never answers."""

    @override
    async def ReportDecisions(self, request: Any, context: Any) -> policies_pb2.ReportDecisionsResponse:
        self.reports.append(request)
        await asyncio.sleep(60)
        raise AssertionError


async def test_a_call_under_which_the_stream_breaks_is_an_error_and_no_cancellation() -> None:
    server = Hanging()
    server.ledger.take(change(policy(1), revision=5, snapshot=True))
    async with serving(server) as address, following(address) as follower:
        await follower.has(5)
        telling = asyncio.create_task(follower.feed.report(policies_pb2.ReportDecisionsRequest()))
        await eventually(lambda: server.reports)
        server.say(None)

        with pytest.raises(AwayError):
            await telling


async def test_the_control_plane_is_followed_with_certificates_of_the_cell(tmp_path: Path) -> None:
    issue, authority = new_authority()
    tls = tls_files(tmp_path, issue("spiffe://bulkhead/edge/local"), authority)
    credentials = grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())], authority, require_client_auth=True
    )
    channel = partial(secure_channel, authority=tls.authority, certificate=tls.certificate, key=tls.key)
    async with serving(control_plane(), credentials=credentials) as address:
        follower = Follower(lambda: channel(address))
        task = asyncio.create_task(follower.feed.follow(lambda: follower.index, follower.take))
        await follower.has(5)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_certificate_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    def missing() -> grpc.aio.Channel:
        absent = tmp_path / "absent.pem"
        return secure_channel("127.0.0.1:1", authority=absent, certificate=absent, key=absent)

    follower = Follower(missing)
    task = asyncio.create_task(follower.feed.follow(lambda: follower.index, follower.take))
    await asyncio.sleep(0.2)

    assert not task.done()

    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
