"""A real Envoy takes over what it is told, and asks for what the hub expects it to ask for."""

from pathlib import Path

import grpc
import pytest

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.model import State
from ext_authz.xds.hub import Hub
from ext_authz.xds.servicer import SERVICE
from ext_authz.xds.snapshot import LISTENER, ROUTES, SCOPE
from tests.fixtures.edge_policies import change, policy
from tests.fixtures.eventually import eventually
from tests.fixtures.plain_resources import index_of
from tests.integration.ext_authz.xds.edge import TENANTS, Edge

SYNCED = policies_pb2.ResourceTypeStatus.SYNCED
NACK = policies_pb2.ResourceTypeStatus.NACK


def states(hub: Hub) -> dict[str, tuple[int, int]]:
    (status,) = hub.statuses()
    return {one.type_url: (one.state, one.resources) for one in status.types}


async def test_routes_are_fetched_with_a_tenants_first_request(edge: Edge) -> None:
    await edge.hub.applied(1)
    at_first = edge.tap.sent()
    answers = [await edge.envoy.get(scope) for scope in ("id:org_7", "id:org_7", "host:org-7.csm.example.com")]

    assert len(at_first) == 1 + 2 * 200
    assert answers == [(200, "org_7 1 ACTIVE")] * 3
    assert edge.tap.sent() == ["tenant:org_7"]


async def test_an_unknown_tenant_is_answered_without_a_word_to_the_hub(edge: Edge) -> None:
    before = len(edge.tap.requests)

    assert await edge.envoy.get("id:nobody") == (404, "")
    assert len(edge.tap.requests) == before


async def test_one_tenants_change_is_the_one_thing_that_is_sent(edge: Edge) -> None:
    for number in range(20):
        await edge.envoy.get(f"id:org_{number}")
    index = TENANTS.after(change(policy(7, revision=2), policy(150, revision=2), revision=2))

    assert await edge.use(index) == ["tenant:org_7"]
    assert await edge.envoy.get("id:org_7") == (200, "org_7 2 ACTIVE")
    assert await edge.envoy.get("id:org_8") == (200, "org_8 1 ACTIVE")
    assert states(edge.hub) | {LISTENER: (1, 1), SCOPE: (1, 400), ROUTES: (1, 20)} == states(edge.hub)


async def test_a_suspension_holds_on_an_open_connection_once_it_is_applied(edge: Edge) -> None:
    index = TENANTS
    for revision in range(2, 30):
        state = State.ACTIVE if revision % 2 else State.SUSPENDED
        before = await edge.envoy.get("id:org_7")
        index = index.after(change(policy(7, revision=revision, state=state), revision=revision))
        await edge.use(index)

        assert before[1].startswith(f"org_7 {revision - 1} ")
        assert (await edge.envoy.get("id:org_7"))[1] == f"org_7 {revision} {state}"


async def test_a_removed_tenant_disappears(edge: Edge) -> None:
    await edge.envoy.get("id:org_7")
    await edge.use(index_of(*(policy(number) for number in range(200) if number != 7), revision=2))

    assert await edge.envoy.get("id:org_7") == (404, "")
    assert await edge.envoy.get("host:org-7.csm.example.com") == (404, "")
    assert await edge.envoy.get("id:org_8") == (200, "org_8 1 ACTIVE")


async def test_a_host_that_moves_leads_to_its_new_tenant(edge: Edge) -> None:
    index = TENANTS.after(change(policy(1, revision=2, domains=["a.example"]), revision=2))
    await edge.use(index)
    before = await edge.envoy.get("host:a.example")
    moved = change(policy(1, revision=3), policy(2, revision=3, domains=["a.example"]), revision=3)
    await edge.use(index.after(moved))

    assert before == (200, "org_1 2 ACTIVE")
    assert await edge.envoy.get("host:a.example") == (200, "org_2 3 ACTIVE")


async def test_after_a_restart_of_the_hub_nothing_is_sent_again(edge: Edge) -> None:
    for number in range(20):
        await edge.envoy.get(f"id:org_{number}")
    await edge.stop()
    hub = Hub(edge.source)
    hub.use(TENANTS)
    await edge.serve(hub)
    await edge.connected()
    await hub.applied(1)

    assert edge.tap.sent() == []
    assert states(hub) | {LISTENER: (1, 1), SCOPE: (1, 400), ROUTES: (1, 20)} == states(hub)
    assert await edge.envoy.get("id:org_7") == (200, "org_7 1 ACTIVE")


async def test_what_changed_while_the_hub_was_away_is_sent_and_nothing_else(edge: Edge) -> None:
    for number in range(20):
        await edge.envoy.get(f"id:org_{number}")
    await edge.stop()
    served_meanwhile = await edge.envoy.get("id:org_7")
    tenants = [policy(number) for number in range(200) if number != 8]
    hub = Hub(edge.source)
    hub.use(index_of(*tenants).after(change(policy(7, revision=2), revision=2)))
    await edge.serve(hub)
    await edge.connected()
    await hub.applied(2)

    assert served_meanwhile == (200, "org_7 1 ACTIVE")
    assert set(edge.tap.sent()) <= {"tenant:org_7", "tenant:org_8"}
    assert await edge.envoy.get("id:org_7") == (200, "org_7 2 ACTIVE")
    assert await edge.envoy.get("id:org_8") == (404, "")


async def test_a_hub_that_knows_nothing_yet_takes_nothing_away(edge: Edge) -> None:
    await edge.envoy.get("id:org_7")
    await edge.stop()
    hub = Hub(edge.source)
    await edge.serve(hub)
    await edge.connected()
    meanwhile = await edge.envoy.get("id:org_7")
    hub.use(TENANTS.after(change(policy(7, revision=2), revision=2)))
    await hub.applied(2)

    assert meanwhile == (200, "org_7 1 ACTIVE")
    assert edge.tap.sent() == ["tenant:org_7"]
    assert await edge.envoy.get("id:org_7") == (200, "org_7 2 ACTIVE")


async def test_one_tenants_bad_routes_stay_behind_alone(edge: Edge) -> None:
    tenants = range(10)
    for number in tenants:
        await edge.envoy.get(f"id:org_{number}")
    edge.source.poisoned.add("org_4")
    index = TENANTS.after(change(*(policy(number, revision=2) for number in tenants), revision=2))
    await edge.use(index)
    answers = [(await edge.envoy.get(f"id:org_{number}"))[1] for number in tenants]
    ((error,),) = ([one.error for one in status.types if one.state == NACK] for status in edge.hub.statuses())
    edge.source.poisoned.clear()
    mended = await edge.use(index.after(change(policy(4, revision=3), revision=3)))

    assert answers == [f"org_{number} {1 if number == 4 else 2} ACTIVE" for number in tenants]
    assert "tenant:org_4" in error
    assert "wildcard domain" in error
    assert mended == ["tenant:org_4"]
    assert await edge.envoy.get("id:org_4") == (200, "org_4 3 ACTIVE")
    assert {state for state, _ in states(edge.hub).values()} == {SYNCED}


@pytest.mark.parametrize("way", ["poisoned", "unrenderable"])
async def test_a_tenant_whose_first_routes_are_bad_is_a_stranger_and_does_not_hang(edge: Edge, way: str) -> None:
    getattr(edge.source, way).add("org_4")
    spoilt = await edge.envoy.get("id:org_4")
    getattr(edge.source, way).clear()
    await edge.use(TENANTS.after(change(policy(4, revision=2), revision=2)))

    assert spoilt == (404, "")
    assert await edge.envoy.get("id:org_4") == (200, "org_4 2 ACTIVE")


async def test_a_tenant_whose_routes_cannot_be_made_is_served_by_those_before(edge: Edge) -> None:
    await edge.envoy.get("id:org_4")
    edge.source.unrenderable.add("org_4")
    await edge.use(TENANTS.after(change(policy(4, revision=2), policy(5, revision=2), revision=2)))

    assert await edge.envoy.get("id:org_4") == (200, "org_4 1 ACTIVE")
    assert states(edge.hub)[ROUTES] == (NACK, 1)


async def test_an_envoy_that_goes_is_told_of_as_gone(edge: Edge) -> None:
    await edge.hub.applied(1)
    (before,) = edge.hub.statuses()
    await edge.envoy.close()
    await eventually(lambda: not edge.hub.statuses()[0].HasField("connect_time"))
    (after,) = edge.hub.statuses()

    assert (before.node, before.version) == (after.node, after.version) == ("edge-1", "1.40.0")
    assert {one.state for one in after.types} == {policies_pb2.ResourceTypeStatus.STALE}


@pytest.mark.parametrize(
    "method",
    [
        f"/{SERVICE}/StreamAggregatedResources",
        "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
    ],
)
async def test_nothing_but_delta_discovery_is_served(edge: Edge, folder: Path, method: str) -> None:
    async with grpc.aio.insecure_channel(f"unix:{folder / 'xds.sock'}") as channel:
        stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
        # Nothing is sent: whether that fails, or the answer comes first, is a matter of chance.
        code = await stream().code()

    assert code is grpc.StatusCode.UNIMPLEMENTED
