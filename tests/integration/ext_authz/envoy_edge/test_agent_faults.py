"""An agent that is lost, slow or out of order: closed, and it says so."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from envoy_data_plane.envoy.extensions.filters.http.composite.v3 import Composite
from envoy_data_plane.envoy.service.auth.v3 import CheckResponse, OkHttpResponse
from envoy_data_plane.google.rpc import Status
from envoy_data_plane.xds.type.matcher.v3 import Matcher

from ext_authz.xds.resources import filters
from ext_authz.xds.stream import Stream
from tests.integration.ext_authz.envoy_edge.calls import call
from tests.integration.ext_authz.envoy_edge.decisions import CONTEXT, denied, headers, serving_worker
from tests.integration.ext_authz.envoy_edge.edge import Edge, running_edge
from tests.integration.ext_authz.envoy_edge.http1 import request, send

CERTIFICATES = "/api/v1/tenants/acme/certificates"


def _admitted(*, onward: dict[str, str] | None = None, back: dict[str, str] | None = None) -> bytes:
    """Admit, and set more headers of the request or of its answer."""
    ok = OkHttpResponse(
        headers=headers({"x-bulkhead-context": CONTEXT, **(onward or {})}), response_headers_to_add=headers(back or {})
    )
    return bytes(CheckResponse(status=Status(code=0), ok_response=ok))


GARBAGE = {
    "no message": b"\xff\xff\xff\xff",
    "nothing": b"",
    "admitted, by nobody": bytes(CheckResponse(status=Status(code=0))),
    "admitted, with nothing": bytes(CheckResponse(status=Status(code=0), ok_response=OkHttpResponse())),
    "denied, without a reason": bytes(denied(403, "the inside")),
    "admitted, with a header that is none": _admitted(onward={"bad name": "x"}),
    "admitted, with two headers in one": _admitted(onward={"x-bad": "a\r\nx-bulkhead-other: b"}),
    "admitted, with two headers of the answer in one": _admitted(back={"x-bad": "a\r\nx-more: b"}),
}


@pytest_asyncio.fixture
async def edge() -> AsyncIterator[Edge]:
    async with running_edge() as edge:
        yield edge


@pytest.mark.behaviour("T-E13")
async def test_what_an_agent_says_that_is_no_decision_admits_nobody(edge: Edge) -> None:
    statuses = {}
    for name, raw in GARBAGE.items():
        edge.workers.answer = raw
        answers = [await send(edge.http_port, request(CERTIFICATES)) for _ in range(3)]
        statuses[name] = {answer.status for answer in answers}

    assert edge.upstream.seen == []
    assert statuses == {name: {503} for name in GARBAGE}


# One that no route takes.
SHOWS_A_LEASE = f"""
function envoy_on_request(handle)
  handle:headers():replace("x-bulkhead-tenant", "id:acme")
  handle:headers():add("x-bulkhead-lease", "77.certificates.list.uid.session")
  handle:headers():add("x-bulkhead-context", "{CONTEXT}")
  handle:clearRouteCache()
end
"""


@pytest.mark.behaviour("T-E13")
@pytest.mark.parametrize("lua", [pytest.param("", id="shows nothing"), pytest.param(SHOWS_A_LEASE, id="shows a lease")])
async def test_where_nothing_asks_the_agent_nobody_goes_on(monkeypatch: pytest.MonkeyPatch, lua: str) -> None:
    """What asks is made for each request. Should it not be, there is no context; or a lease, which nobody took away."""
    monkeypatch.setattr(filters, "_asking", lambda: Composite(matcher=Matcher()))
    async with running_edge(lua=lua) as edge:
        answer = await send(edge.http_port, request(CERTIFICATES, ("x-bulkhead-context", CONTEXT)))
        over_grpc = await call(edge.http_port, ("x-tenant-id", "acme"))

        assert (answer.status, json.loads(answer.body)["code"]) == (503, "UNAVAILABLE")
        assert over_grpc.code.name == "UNAVAILABLE"
        assert (edge.workers.raw, edge.upstream.seen) == ([], [])


@pytest.mark.behaviour("T-E13")
async def test_an_agent_that_takes_too_long_is_not_waited_for(edge: Edge) -> None:
    edge.workers.slow_s = 5
    answer = await send(edge.http_port, request(CERTIFICATES))
    over_grpc = await call(edge.http_port, ("x-tenant-id", "acme"))

    assert (answer.status, answer.header("retry-after")) == (503, "1")
    assert json.loads(answer.body)["code"] == "UNAVAILABLE"
    assert (over_grpc.code.name, over_grpc.message) == ("UNAVAILABLE", "service unavailable")
    assert edge.upstream.seen == []


@pytest.mark.behaviour("T-E13")
async def test_a_first_request_is_not_held_for_routes_that_do_not_come(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stream, "turns", lambda _: iter(()))
    answer = await send(edge.http_port, request(CERTIFICATES))
    over_grpc = await call(edge.http_port, ("x-tenant-id", "globex"))

    assert (answer.status, answer.header("retry-after")) == (503, "1")
    assert json.loads(answer.body)["code"] == "UNAVAILABLE"
    assert (over_grpc.code.name, over_grpc.message) == ("UNAVAILABLE", "service unavailable")
    assert (edge.workers.asked, edge.upstream.seen) == ([], [])


@pytest.mark.behaviour("T-E13")
async def test_nobody_notices_that_one_worker_is_lost(edge: Edge) -> None:
    await send(edge.http_port, request(CERTIFICATES))
    await edge.servers[0].stop(None)

    assert {(await send(edge.http_port, request(CERTIFICATES))).status for _ in range(50)} == {200}


@pytest.mark.behaviour("T-E13")
async def test_nobody_notices_that_one_worker_hangs(edge: Edge) -> None:
    await send(edge.http_port, request(CERTIFICATES))
    edge.workers.hung.add(edge.settings.check_socket(0))

    assert {(await send(edge.http_port, request(CERTIFICATES))).status for _ in range(50)} == {200}


@pytest.mark.behaviour("T-E13")
async def test_without_any_worker_everything_is_closed_and_a_suspended_tenant_still_refused(edge: Edge) -> None:
    for server in edge.servers:
        await server.stop(None)
    answer = await send(edge.http_port, request(CERTIFICATES))
    suspended = await send(edge.http_port, request("/api/v1/tenants/frozen/certificates"))
    async with serving_worker(edge.workers, edge.settings.check_socket(1)):
        statuses = [(await send(edge.http_port, request(CERTIFICATES))).status for _ in range(10)]

    assert (answer.status, json.loads(answer.body)["code"]) == (503, "UNAVAILABLE")
    assert suspended.status == 403
    assert statuses[-1] == 200


async def test_a_service_that_has_seen_a_request_is_not_asked_again(edge: Edge) -> None:
    edge.upstream.status = "503"
    await send(edge.http_port, request(CERTIFICATES))

    assert len(edge.upstream.seen) == 1


async def test_without_its_service_a_request_is_told_nothing_of_the_inside(edge: Edge) -> None:
    edge.service.close()
    await edge.service.wait_closed()
    answer = await send(edge.http_port, request(CERTIFICATES))
    over_grpc = await call(edge.http_port, ("x-tenant-id", "acme"))

    assert (answer.status, answer.header("retry-after")) == (503, "1")
    assert answer.header("content-type") == "application/problem+json"
    assert json.loads(answer.body)["code"] == "UNAVAILABLE"
    assert (over_grpc.code.name, over_grpc.message) == ("UNAVAILABLE", "service unavailable")
