"""How far the edges are: they say it by their certificates, and others wait for it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from bulkhead.edge.v1 import policies_pb2
from bulkhead.v1 import edges_pb2
from control_plane.ids import TenantId
from control_plane.policies import store
from control_plane.policies.model import Position
from control_plane.serving.context import HEADER, TenantContext, encode
from control_plane.serving.principal import Role
from tests.fixtures.cell import violations_of
from tests.fixtures.postgres import MakeTenant
from tests.integration.policies.conftest import ADMIN, CONTEXT_KEY

if TYPE_CHECKING:
    from control_plane.policies.model import Edge
    from tests.integration.policies.conftest import Control

SHORT = Duration(nanos=300_000_000)


async def head(control: "Control") -> Position:
    return await control.database.system().run(store.head)


async def acknowledge(control: "Control", edge: str, position: Position, **more: Any) -> None:
    async with control.policies(edge) as stub:
        request = policies_pb2.AcknowledgePoliciesRequest(feed=position.feed, revision=position.revision, **more)
        await stub.AcknowledgePolicies(request, timeout=10)


async def wait(control: "Control", revision: int = 0, within: Duration | None = None) -> edges_pb2.WaitAppliedResponse:
    async with control.watching() as stub:
        request = edges_pb2.WaitAppliedRequest(revision=revision, timeout=within)
        found: edges_pb2.WaitAppliedResponse = await stub.WaitApplied(request, metadata=ADMIN, timeout=30)
        return found


async def edges(control: "Control") -> edges_pb2.ListEdgesResponse:
    async with control.watching() as stub:
        found: edges_pb2.ListEdgesResponse = await stub.ListEdges(
            edges_pb2.ListEdgesRequest(), metadata=ADMIN, timeout=10
        )
        return found


async def test_an_edge_is_listed_as_it_says_it_is(control: "Control", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    here = await head(control)
    proxy = policies_pb2.ProxyStatus(
        node="envoy-1",
        version="1.40.0",
        types=[
            policies_pb2.ResourceTypeStatus(
                type_url="type.googleapis.com/envoy.config.listener.v3.Listener",
                state=policies_pb2.ResourceTypeStatus.NACK,
                resources=7,
                revision=3,
                error="no such\x1b[31m field",
            )
        ],
    )
    proxy.connect_time.FromDatetime(datetime(2030, 1, 2, tzinfo=UTC))
    await acknowledge(control, "edge-1", here, proxies=[proxy])
    listed = await edges(control)

    assert listed.revision == here.revision
    assert [(e.name, e.revision, e.live) for e in listed.edges] == [("edges/edge-1", here.revision, True)]
    shown = listed.edges[0].proxies[0]
    assert (shown.node, shown.version, shown.connect_time) == ("envoy-1", "1.40.0", proxy.connect_time)
    assert shown.types[0].type_url == proxy.types[0].type_url
    assert (shown.types[0].state, shown.types[0].resources, shown.types[0].revision) == (
        edges_pb2.Edge.ResourceType.NACK,
        7,
        3,
    )
    assert shown.types[0].error == r"no such\u001b[31m field"


async def test_the_certificate_says_which_edge_it_is_and_not_the_request(control: "Control") -> None:
    await acknowledge(control, "edge-1", Position(feed="", revision=0), agent="edge-2")

    assert [edge.name for edge in (await edges(control)).edges] == ["edges/edge-1"]


async def test_an_edge_of_another_history_has_applied_nothing_of_this_one(control: "Control") -> None:
    await acknowledge(control, "edge-1", Position(feed=str(uuid4()), revision=10**9))

    assert [edge.revision for edge in (await edges(control)).edges] == [0]


async def test_waiting_ends_when_the_last_edge_has_applied_the_revision(
    control: "Control", make_tenant: MakeTenant
) -> None:
    await make_tenant("org_1")
    before = await head(control)
    for edge in ("edge-1", "edge-2"):
        await acknowledge(control, edge, before)
    revision = await control.suspend("org_1")
    waiting = asyncio.create_task(wait(control, revision))
    after = Position(feed=before.feed, revision=revision)
    await acknowledge(control, "edge-1", after)
    await asyncio.wait([waiting], timeout=0.3)
    was_done = waiting.done()
    await acknowledge(control, "edge-2", after)
    found = await waiting

    assert not was_done
    assert found == edges_pb2.WaitAppliedResponse(revision=revision, applied=True, live_edges=2)


async def test_waiting_hears_of_what_was_said_to_another_process(control: "Control", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    before = await head(control)
    await acknowledge(control, "edge-1", before)
    revision = await control.suspend("org_1")
    waiting = asyncio.create_task(wait(control, revision))
    await asyncio.wait([waiting], timeout=0.2)
    await control.write("UPDATE csm_system.edges SET revision = %(revision)s", revision=revision)

    assert (await waiting).applied


async def test_waiting_in_vain_names_those_that_lag(control: "Control", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    before = await head(control)
    for edge in ("edge-1", "edge-2", "edge-3"):
        await acknowledge(control, edge, before)
    revision = await control.suspend("org_1")
    await acknowledge(control, "edge-2", Position(feed=before.feed, revision=revision))
    found = await wait(control, within=SHORT)

    assert found == edges_pb2.WaitAppliedResponse(
        revision=revision, applied=False, lagging=["edges/edge-1", "edges/edge-3"], live_edges=3
    )


async def test_whoever_waits_is_told_who_lags_before_giving_up(control: "Control", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    await acknowledge(control, "edge-1", Position(feed="", revision=0))
    async with control.watching() as stub:
        found = await stub.WaitApplied(edges_pb2.WaitAppliedRequest(), metadata=ADMIN, timeout=2)

    assert list(found.lagging) == ["edges/edge-1"]


async def test_nobody_waits_for_the_dead(control: "Control", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    await acknowledge(control, "edge-1", Position(feed="", revision=0))
    await control.write("UPDATE csm_system.edges SET last_seen = last_seen - interval '10 seconds'")
    here = await head(control)
    found = await wait(control)

    assert found == edges_pb2.WaitAppliedResponse(revision=here.revision, applied=True, live_edges=0)
    assert [edge.live for edge in (await edges(control)).edges] == [False]


async def test_an_edge_that_falls_silent_while_it_is_waited_for_still_lags(
    control: "Control", make_tenant: MakeTenant
) -> None:
    """Its proxies may decide by what they had for as long as a policy may grow old."""
    await make_tenant("org_1")
    await acknowledge(control, "edge-1", Position(feed="", revision=0))
    waiting = asyncio.create_task(wait(control, within=Duration(seconds=1)))
    await asyncio.wait([waiting], timeout=0.2)
    await control.write("UPDATE csm_system.edges SET last_seen = last_seen - interval '10 seconds'")
    found = await waiting

    assert (found.applied, list(found.lagging), found.live_edges) == (False, ["edges/edge-1"], 0)


async def test_many_who_wait_ask_the_database_once(
    control: "Control", make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_tenant("org_1")
    before = await head(control)
    await acknowledge(control, "edge-1", before)
    revision = await control.suspend("org_1")
    async with control.watching() as stub:
        request = edges_pb2.WaitAppliedRequest(revision=revision)
        calls = [stub.WaitApplied(request, metadata=ADMIN, timeout=30) for _ in range(20)]
        await asyncio.wait([asyncio.ensure_future(calls[0])], timeout=0.5)
        looks = []
        read = store.edges

        async def counted(tx: Any, *, with_proxies: bool) -> "list[Edge]":
            looks.append(with_proxies)
            return await read(tx, with_proxies=with_proxies)

        monkeypatch.setattr(store, "edges", counted)
        await asyncio.wait([asyncio.ensure_future(calls[1])], timeout=0.5)
        asked = len(looks)
        await acknowledge(control, "edge-1", Position(feed=before.feed, revision=revision))
        answers = [await call for call in calls]

    assert all(answer.applied for answer in answers)
    assert 0 < asked < 20


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (edges_pb2.WaitAppliedRequest(revision=-1), "revision"),
        (edges_pb2.WaitAppliedRequest(timeout=Duration(seconds=61)), "timeout"),
        (edges_pb2.WaitAppliedRequest(timeout=Duration(seconds=-1)), "timeout"),
    ],
)
async def test_what_cannot_be_waited_for_is_refused(
    control: "Control", request_: edges_pb2.WaitAppliedRequest, field: str
) -> None:
    async with control.watching() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.WaitApplied(request_, metadata=ADMIN, timeout=10)

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations_of(raised.value).keys() == {field}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (policies_pb2.AcknowledgePoliciesRequest(revision=-1), "revision"),
        (policies_pb2.AcknowledgePoliciesRequest(feed="x" * 65), "feed"),
        (policies_pb2.AcknowledgePoliciesRequest(feed="\0"), "feed"),
        (policies_pb2.AcknowledgePoliciesRequest(proxies=[policies_pb2.ProxyStatus()] * 101), "proxies"),
        (
            policies_pb2.AcknowledgePoliciesRequest(
                proxies=[policies_pb2.ProxyStatus(types=[policies_pb2.ResourceTypeStatus()] * 33)]
            ),
            "proxies.types",
        ),
    ],
)
async def test_what_no_edge_can_be_is_refused(
    control: "Control", request_: policies_pb2.AcknowledgePoliciesRequest, field: str
) -> None:
    async with control.policies() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.AcknowledgePolicies(request_, timeout=10)

    assert violations_of(raised.value).keys() == {field}
    assert not (await edges(control)).edges


async def test_edges_that_are_gone_are_forgotten(control: "Control") -> None:
    for edge in ("edge-1", "edge-2"):
        await acknowledge(control, edge, Position(feed="", revision=0))
    await control.write("UPDATE csm_system.edges SET last_seen = now() - interval '25 hours' WHERE name = 'edge-1'")
    pruning = asyncio.create_task(control.edges.prune())
    async with asyncio.timeout(30):
        while len((await edges(control)).edges) > 1:
            pass
    pruning.cancel()

    assert [edge.name for edge in (await edges(control)).edges] == ["edges/edge-2"]


CALLS = {
    "FollowPolicies": policies_pb2.FollowPoliciesRequest(),
    "AcknowledgePolicies": policies_pb2.AcknowledgePoliciesRequest(),
    "ReportDecisions": policies_pb2.ReportDecisionsRequest(reporter=str(uuid4()), sequence=1),
}


async def ask(channel: grpc.aio.Channel, method: str, request: Any, metadata: Any = ()) -> grpc.StatusCode:
    send: Any = channel.unary_stream(method, request_serializer=lambda message: message.SerializeToString())
    call = send(request, metadata=metadata, timeout=10)
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    call.cancel()
    return grpc.StatusCode.OK


@pytest.mark.behaviour("H1")
@pytest.mark.parametrize(
    ("spiffe", "metadata", "code"),
    [
        ("spiffe://bulkhead/edge/edge-1", (), grpc.StatusCode.OK),
        ("spiffe://bulkhead/edge/edge-1", (("x-bulkhead-context", "1.e30.x"),), grpc.StatusCode.UNAUTHENTICATED),
        ("spiffe://bulkhead/edge/edge-1", ADMIN, grpc.StatusCode.UNAUTHENTICATED),
        ("spiffe://bulkhead/edge/a,spiffe://bulkhead/edge/b", (), grpc.StatusCode.UNAUTHENTICATED),
        ("spiffe://bulkhead/edge/a,spiffe://elsewhere/b", (), grpc.StatusCode.UNAUTHENTICATED),
        ("spiffe://bulkhead/edge/Edge", (), grpc.StatusCode.UNAUTHENTICATED),
        ("spiffe://bulkhead/edge/a/b", (), grpc.StatusCode.UNAUTHENTICATED),
        ("spiffe://bulkhead/edge/" + "a" * 64, (), grpc.StatusCode.UNAUTHENTICATED),
        ("spiffe://bulkhead/edge/", (), grpc.StatusCode.UNAUTHENTICATED),
        ("spiffe://elsewhere/edge/edge-1", (), grpc.StatusCode.UNAUTHENTICATED),
        ("spiffe://bulkhead/service/edge", (), grpc.StatusCode.UNAUTHENTICATED),
        ("spiffe://bulkhead/service/billing", (), grpc.StatusCode.UNAUTHENTICATED),
        ("https://bulkhead/edge/edge-1", (), grpc.StatusCode.UNAUTHENTICATED),
        ("", ADMIN, grpc.StatusCode.PERMISSION_DENIED),
        ("", (), grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_only_an_edge_is_an_edge(
    control: "Control", spiffe: str, *, metadata: Any, code: grpc.StatusCode
) -> None:
    async with control.channel(spiffe) as channel:
        codes = {
            name: await ask(channel, f"/bulkhead.edge.v1.PolicyService/{name}", request, metadata)
            for name, request in CALLS.items()
        }

    assert set(codes.values()) == {code}
    assert len(control.denied) == (0 if code is grpc.StatusCode.OK else len(CALLS))


@pytest.mark.behaviour("H1")
async def test_a_service_is_no_edge_whomever_it_acts_for(control: "Control") -> None:
    context = TenantContext(
        tenant=TenantId("org_1"),
        tier="standard",
        isolation_level="POOLED",
        subject="alice",
        role=Role.TENANT_ADMIN,
        scopes=frozenset(),
        session=None,
        expire_time=datetime.now(UTC) + timedelta(minutes=1),
    )
    metadata = ((HEADER, encode(context, CONTEXT_KEY)),)
    async with control.channel("spiffe://bulkhead/service/billing") as channel:
        codes = {
            await ask(channel, f"/bulkhead.edge.v1.PolicyService/{name}", request, metadata)
            for name, request in CALLS.items()
        }

    assert codes == {grpc.StatusCode.PERMISSION_DENIED}
    assert {error.code for _, error in control.denied} == {"ROLE_NOT_ALLOWED"}


async def test_a_denied_edge_is_named_in_the_platforms_own_record(control: "Control") -> None:
    async with control.channel("spiffe://bulkhead/edge/edge-1") as channel:
        code = await ask(channel, "/bulkhead.v1.EdgeService/ListEdges", edges_pb2.ListEdgesRequest())
    call, error = control.denied[0]

    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert (call.actor, error.code) == ("edge:edge-1", "ROLE_NOT_ALLOWED")
