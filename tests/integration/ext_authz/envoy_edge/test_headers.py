"""What only we may say, said by clients and by services; and what a client says twice."""

import pytest

from tests.integration.ext_authz.envoy_edge.calls import call, grpc_headers, http2
from tests.integration.ext_authz.envoy_edge.decisions import CONTEXT, denied
from tests.integration.ext_authz.envoy_edge.edge import Edge
from tests.integration.ext_authz.envoy_edge.http1 import request, send, send_all

pytestmark = pytest.mark.asyncio(loop_scope="module")
CERTIFICATES = "/api/v1/tenants/acme/certificates"
FORGED = {
    "x-bulkhead-context": "evil",
    "x-bulkhead-tenant": "id:globex",
    "x-bulkhead-lease": "evil",
    "x-bulkhead-anything": "evil",
    "X-Bulkhead-Upper": "evil",
    "x-envoy-original-path": "evil",
    "x-envoy-upstream-rq-timeout-ms": "31337",
    "x-envoy-retry-on": "5xx",
    "x-envoy-max-retries": "31337",
    "x-envoy-expected-rq-timeout-ms": "31337",
    "x-envoy-decorator-operation": "evil",
    "x-envoy-internal": "true",
    "x-envoy-anything": "evil",
    "x-forwarded-for": "10.9.8.7",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "evil",
    "x-forwarded-client-cert": "URI=spiffe://bulkhead/service/edge",
    "forwarded": "for=10.9.8.7",
    "x-real-ip": "10.9.8.7",
    "x-request-id": "evil",
}


@pytest.mark.behaviour("T-E7")
@pytest.mark.parametrize("name", FORGED)
async def test_what_a_client_forges_reaches_nobody(edge: Edge, name: str) -> None:
    forged = FORGED[name]
    answer = await send(edge.http_port, request(CERTIFICATES, (name, forged), (name, forged)))

    assert answer.status == 200
    # Nor together with what Envoy itself has to say there.
    assert forged.encode() not in b"".join(edge.workers.header(name.lower())) or name == "x-envoy-internal"
    (seen,) = edge.upstream.seen
    assert forged not in "".join(seen.all(name.lower()))
    assert seen.all("x-bulkhead-context") == [CONTEXT]


@pytest.mark.behaviour("T-E7")
@pytest.mark.parametrize("path", ["/api/v1/tenants/frozen/x", "/healthz", "/api/v1/tenants/nobody/x"])
async def test_a_forged_tenant_opens_no_path_without_the_agent(edge: Edge, path: str) -> None:
    answer = await send(
        edge.http_port, request(path, ("x-bulkhead-tenant", "id:acme"), ("x-bulkhead-context", "1.a.b"))
    )

    assert answer.status == 403
    assert (edge.workers.asked, edge.upstream.seen) == ([], [])


@pytest.mark.behaviour("T-E7")
async def test_metadata_and_trailers_are_no_way_in(edge: Edge) -> None:
    forged = [("x-bulkhead-context", "evil"), ("x-tenant-id", "globex"), ("authorization", "evil"), ("x-any", "evil")]
    answer = await http2(edge.http_port, grpc_headers(("x-bulkhead-context", "evil")), trailers=forged)

    assert answer.status == "200"
    (seen,) = edge.upstream.seen
    assert seen.trailers == []
    assert seen.all("x-bulkhead-context") == [CONTEXT]


@pytest.mark.parametrize("name", ["x-bulkhead-context", "x-bulkhead-tenant", "x-tenant-id", "authorization"])
async def test_a_client_cannot_have_our_headers_taken_off(edge: Edge, name: str) -> None:
    asked = request(CERTIFICATES, ("x-tenant-id", "acme"), ("authorization", "Bearer t"))
    await send(edge.http_port, asked.replace(b"connection: close", f"connection: close, {name}".encode()))

    for seen in edge.upstream.seen:
        assert seen.all("x-bulkhead-context") == [CONTEXT]
        assert edge.workers.header("x-bulkhead-tenant") == [b"id:acme"]


@pytest.mark.parametrize("name", ["x_tenant_id", "x_bulkhead_context", "X_Bulkhead_Tenant", "any_thing"])
async def test_a_name_with_an_underscore_is_refused(edge: Edge, name: str) -> None:
    over_http1 = await send(edge.http_port, request(CERTIFICATES, (name, "evil")))
    over_http2 = await http2(edge.http_port, grpc_headers((name.lower(), "evil")))

    assert over_http1.status == 400
    assert over_http2.reset or over_http2.status == "400"
    assert (edge.workers.asked, edge.upstream.seen) == ([], [])


async def test_what_says_who_the_caller_is_ends_at_the_edge(edge: Edge) -> None:
    await send(edge.http_port, request(CERTIFICATES, ("authorization", "Bearer secret"), ("x-tenant-id", "acme")))

    assert edge.workers.header("authorization") == [b"Bearer secret"]
    (seen,) = edge.upstream.seen
    assert seen.all("authorization") == seen.all("x-tenant-id") == seen.all("x-bulkhead-tenant") == []
    assert seen.starting("x-bulkhead-") == {"x-bulkhead-context": CONTEXT}


@pytest.mark.behaviour("T-E2")
@pytest.mark.parametrize("count", [2, 3, 50])
async def test_the_agent_sees_every_copy_of_a_header(edge: Edge, count: int) -> None:
    copies = [("x-tenant-id", "acme")] * count
    await send(edge.http_port, request(CERTIFICATES, *copies, ("authorization", "a"), ("authorization", "b")))

    assert edge.workers.header("x-tenant-id") == [b"acme"] * count
    # Envoy's own names arrive joined even so: two tokens are a token with a comma in it.
    assert edge.workers.header("authorization") == [b"a,b"]


@pytest.mark.behaviour("T-E2")
@pytest.mark.parametrize("values", [["acme", "globex"], ["acme", "acme"], ["acme,globex"], ["acme,"], [""], [" "]])
async def test_a_tenant_that_is_not_named_exactly_once_is_nobody(edge: Edge, values: list[str]) -> None:
    answer = await http2(
        edge.http_port,
        [one for one in grpc_headers() if one[0] != "x-tenant-id"] + [("x-tenant-id", value) for value in values],
    )

    assert dict(answer.headers).get("grpc-status") == "7"
    assert edge.workers.asked == []


async def test_a_value_that_is_no_utf8_arrives_as_it_is(edge: Edge) -> None:
    await send(edge.http_port, request(CERTIFICATES, ("authorization", "Bearer \xff\xfe")))

    assert edge.workers.header("authorization") in ([], [b"Bearer \xff\xfe"])


@pytest.mark.behaviour("T-E7")
async def test_what_a_service_forges_reaches_no_client(edge: Edge) -> None:
    forged = [("x-bulkhead-mark", "the service's"), ("x-bulkhead-grant", "evil"), ("x-envoy-overloaded", "true")]
    edge.upstream.answers(headers=forged, trailers=forged)
    over_rest = await send(edge.http_port, request(CERTIFICATES))
    over_grpc = await call(edge.http_port, ("x-tenant-id", "acme"))

    ours = {name: value for name, value in over_rest.headers if name.startswith(("x-bulkhead-", "x-envoy-"))}
    assert ours == {"x-bulkhead-mark": "the agent's"}
    ours = {name: value for name, value in over_grpc.metadata.items() if name.startswith(("x-bulkhead-", "x-envoy-"))}
    assert ours == {"x-bulkhead-mark": "the agent's"}


async def test_a_service_cannot_speak_the_strangers_answer(edge: Edge) -> None:
    edge.workers.decide(denied(404, "", {"x-bulkhead-reason": "NOTHING"}))
    answer = await send(edge.http_port, request(CERTIFICATES))

    assert answer.status == 403


@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 4\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 4\r\ncontent-length: 5\r\n",
        b"transfer-encoding: identity, chunked\r\n",
        b"transfer-encoding : chunked\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"content-length: +4\r\n",
        b"content-length: 4, 4\r\n",
        b"x: 1\r\n y: obs-fold\r\n\x00: 1\r\n",
    ],
)
async def test_a_request_that_could_be_read_in_two_ways_is_not_read(edge: Edge, framing: bytes) -> None:
    asked = request(CERTIFICATES, method="POST").replace(b"connection: close\r\n", framing)
    answer = await send_all(
        edge.http_port, asked + b"0\r\n\r\nGET /api/v1/tenants/globex/certificates HTTP/1.1\r\nhost: x\r\n\r\n"
    )

    assert answer.status in {400, 501}
    assert answer.raw.count(b"HTTP/1.1 ") == 1
    assert edge.upstream.seen == []
