"""Strangers are stopped before they cost: neither the agent nor the tenants' routes are asked for them."""

import json
from collections.abc import AsyncIterator

import pytest_asyncio

from ext_authz.xds.resources.limits import Limits
from tests.integration.ext_authz.envoy_edge.calls import call, streams_at_once
from tests.integration.ext_authz.envoy_edge.edge import Edge, running_edge
from tests.integration.ext_authz.envoy_edge.http1 import request, send

BURST = 5


@pytest_asyncio.fixture
async def edge() -> AsyncIterator[Edge]:
    async with running_edge(limits=Limits(requests_per_second=1, request_burst=BURST)) as edge:
        yield edge


async def test_a_source_that_asks_too_much_is_stopped_whatever_it_asks_for(edge: Edge) -> None:
    stranger = request("/api/v1/tenants/nobody/certificates")
    statuses = [(await send(edge.http_port, stranger)).status for _ in range(2 * BURST)]
    answer = await send(edge.http_port, request("/api/v1/tenants/acme/certificates"))
    over_grpc = await call(edge.http_port, ("x-tenant-id", "globex"))

    assert statuses[:BURST] == [403] * BURST
    assert 429 in statuses
    assert (answer.status, answer.header("retry-after")) == (429, "1")
    assert answer.header("content-type") == "application/problem+json"
    assert json.loads(answer.body)["code"] == "SOURCE_RATE_LIMITED"
    assert (over_grpc.code.name, over_grpc.message) == ("RESOURCE_EXHAUSTED", "too many requests")
    assert edge.workers.asked == []
    assert "tenant:acme" not in await edge.loaded()
    assert "tenant:globex" not in await edge.loaded()


async def test_a_connection_has_room_for_so_many_requests_at_once(edge: Edge) -> None:
    assert await streams_at_once(edge.http_port) == 100


async def test_a_source_is_one_address(edge: Edge) -> None:
    stranger = request("/api/v1/tenants/nobody/certificates")
    statuses = {(await send(edge.http_port, stranger)).status for _ in range(4 * BURST)}
    other = await send(edge.http_port, stranger, source="127.0.0.2")

    assert statuses == {403, 429}
    assert other.status == 403


async def test_a_tenants_routes_are_loaded_when_they_are_asked_for(edge: Edge) -> None:
    before = await edge.loaded()
    await send(edge.http_port, request("/api/v1/tenants/acme/certificates"))

    assert before == set()
    assert await edge.loaded() == {"tenant:acme"}
