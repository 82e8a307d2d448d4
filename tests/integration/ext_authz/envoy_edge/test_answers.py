"""What Envoy answers by itself: one answer for strangers, and a problem with a code for everything else."""

import json

import grpc
import pytest

from tests.integration.ext_authz.envoy_edge.calls import call
from tests.integration.ext_authz.envoy_edge.decisions import denied
from tests.integration.ext_authz.envoy_edge.edge import Edge
from tests.integration.ext_authz.envoy_edge.http1 import Answer, request, send

pytestmark = pytest.mark.asyncio(loop_scope="module")
CERTIFICATES = "/api/v1/tenants/acme/certificates"
STRANGERS = [
    pytest.param(request(CERTIFICATES), id="the agent knows the caller not"),
    pytest.param(request("/api/v1/tenants/frozen/certificates"), id="suspended"),
    pytest.param(request("/api/v1/tenants/nobody/certificates"), id="absent"),
    pytest.param(request("/api/v1/tenants/acme/certificates", host="globex.csm.example.com"), id="another's host"),
    pytest.param(request("/healthz"), id="no tenant at all"),
    pytest.param(request("/healthz", ("x-tenant-id", "acme")), id="no such path"),
    pytest.param(request(CERTIFICATES, host="evil.example.org"), id="no such host"),
    pytest.param(request("/", host="acme.csm.example.com"), id="the root of a tenant's host"),
    pytest.param(request("/healthz", ("x-tenant-id", "acme"), ("x-tenant-id", "globex")), id="two tenants"),
    pytest.param(request("/bulkhead.v1.CertificateService/ListCertificates", ("x-tenant-id", "acme")), id="no gRPC"),
]


async def _stranger(edge: Edge) -> Answer:
    return await send(edge.http_port, request("/api/v1/tenants/never_heard_of/certificates"))


@pytest.mark.behaviour("T-E16")
@pytest.mark.parametrize("asked", STRANGERS)
async def test_all_strangers_get_the_same_bytes(edge: Edge, asked: bytes) -> None:
    edge.workers.decide(denied(404))
    answer = await send(edge.http_port, asked)

    assert answer.normalised == (await _stranger(edge)).normalised
    assert edge.upstream.seen == []


@pytest.mark.behaviour("T-E16")
@pytest.mark.parametrize("tenant", ["acme", "frozen", "nobody"])
@pytest.mark.parametrize("body", ["garbage", '{"parent":"tenants/globex"}', "x" * 100_000])
async def test_a_strangers_body_is_not_looked_at(edge: Edge, tenant: str, body: str) -> None:
    edge.workers.decide(denied(404))
    length = ("content-length", str(len(body)))
    asked = request(f"/api/v1/tenants/{tenant}/certificates:issue", length, method="POST") + body.encode()
    answer = await send(edge.http_port, asked)

    assert answer.normalised == (await _stranger(edge)).normalised


async def test_the_strangers_answer_is_a_problem_that_names_the_request(edge: Edge) -> None:
    answer = await _stranger(edge)

    assert answer.status == 403
    assert answer.header("content-type") == "application/problem+json"
    assert answer.header("www-authenticate") == "Bearer"
    assert json.loads(answer.body) == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "code": "ACCESS_DENIED",
        "instance": answer.header("x-request-id"),
    }


async def test_the_right_tenant_is_served(edge: Edge) -> None:
    answer = await send(edge.http_port, request(CERTIFICATES))

    assert answer.status == 200
    assert json.loads(answer.body) == {"certificates": [], "nextPageToken": ""}
    assert answer.header("x-content-type-options") == "nosniff"
    assert answer.header("cache-control") == "no-store"
    assert [edge.workers.epoch()] == ["1"]


@pytest.mark.parametrize("tenant", ["acme", "frozen", "nobody"])
async def test_strangers_over_grpc_get_the_same_status(edge: Edge, tenant: str) -> None:
    edge.workers.decide(denied(404))
    answer = await call(edge.http_port, ("x-tenant-id", tenant))
    of_another = await call(edge.http_port, ("x-tenant-id", "never_heard_of"))

    assert (answer.code, answer.message) == (grpc.StatusCode.PERMISSION_DENIED, "access denied")
    assert set(answer.metadata) == set(of_another.metadata)


async def test_a_suspended_tenant_is_refused_without_the_agent(edge: Edge) -> None:
    await send(edge.http_port, request("/api/v1/tenants/frozen/certificates"))
    await call(edge.http_port, ("x-tenant-id", "frozen"))

    assert edge.workers.asked == []


async def test_a_tenants_own_callers_are_told_what_the_agent_says(edge: Edge) -> None:
    problem = '{"code":"SCOPE_MISSING"}'
    more = {"content-type": "application/problem+json", "x-bulkhead-reason": "SCOPE_MISSING"}
    edge.workers.decide(denied(403, problem, more))
    answer = await send(edge.http_port, request(CERTIFICATES))

    assert (answer.status, answer.body) == (403, problem.encode())
    assert answer.header("content-type") == "application/problem+json"
    assert answer.header("x-bulkhead-reason") == "SCOPE_MISSING"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, grpc.StatusCode.UNAUTHENTICATED),
        (403, grpc.StatusCode.PERMISSION_DENIED),
        (429, grpc.StatusCode.UNAVAILABLE),
        (503, grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_over_grpc_the_agents_text_is_the_message(edge: Edge, status: int, code: grpc.StatusCode) -> None:
    edge.workers.decide(denied(status, "the reason", {"x-bulkhead-reason": "CODE", "retry-after": "7"}))
    answer = await call(edge.http_port, ("x-tenant-id", "acme"))

    assert (answer.code, answer.message) == (code, "the reason")
    assert answer.metadata["x-bulkhead-reason"] == "CODE"
    assert answer.metadata["retry-after"] == "7"


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        (request(CERTIFICATES, version="HTTP/1.0"), 426, "HTTP_VERSION_NOT_SUPPORTED"),
        (request("/api/v1/tenants/acme%2fcertificates"), 400, "REQUEST_MALFORMED"),
        (request(CERTIFICATES, *[(f"x-{n}", "1") for n in range(65)]), 431, "HEADERS_TOO_LARGE"),
        (request(CERTIFICATES, ("x-large", "1" * 20_000)), 431, "HEADERS_TOO_LARGE"),
        (request("acme:443", method="CONNECT"), 403, "ACCESS_DENIED"),
    ],
)
async def test_what_cannot_be_read_is_a_problem_with_a_code(edge: Edge, asked: bytes, status: int, code: str) -> None:
    answer = await send(edge.http_port, asked)

    assert (answer.status, json.loads(answer.body)["code"]) == (status, code)
    assert json.loads(answer.body)["status"] == status
    assert edge.workers.asked == []


async def test_a_body_that_is_too_large_reaches_no_service(edge: Edge) -> None:
    body = b'{"csrPem":"' + b"x" * 64 * 1024 + b'"}'
    headers = (("content-type", "application/json"), ("content-length", str(len(body))))
    answer = await send(edge.http_port, request(f"{CERTIFICATES}:issue", *headers, method="POST") + body)

    assert (answer.status, json.loads(answer.body)["code"]) == (413, "REQUEST_TOO_LARGE")
    assert edge.upstream.seen == []


async def test_what_a_service_refuses_is_told_in_json(edge: Edge) -> None:
    edge.upstream.grpc_status, edge.upstream.body = "9", b""
    edge.upstream.answers(trailers=[("grpc-message", "not now")])
    answer = await send(edge.http_port, request(CERTIFICATES))

    assert answer.status == 400
    assert json.loads(answer.body) == {"code": 9, "message": "not now", "details": []}


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "tcp"])
async def test_nothing_is_upgraded_to(edge: Edge, protocol: str) -> None:
    asked = request(CERTIFICATES, ("upgrade", protocol), ("connection", "upgrade"))
    answer = await send(edge.http_port, asked)

    assert answer.status == 200
    assert edge.upstream.seen[0].all("upgrade") == []
