"""A decision that is held inside Envoy serves the request that it was made for, and nothing that differs from it."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import pytest
from envoy_data_plane.envoy.service.auth.v3 import CheckResponse, OkHttpResponse
from envoy_data_plane.google.rpc import Status

from tests.integration.ext_authz.envoy_edge.calls import Headers, call, grpc_headers, http2
from tests.integration.ext_authz.envoy_edge.decisions import admitted, denied
from tests.integration.ext_authz.envoy_edge.edge import TENANTS, Edge, suspended
from tests.integration.ext_authz.envoy_edge.http1 import request, send
from tests.integration.ext_authz.envoy_edge.leasing import (
    CREDENTIALS,
    GET,
    ITEM,
    LEASED,
    LIST,
    SHARED,
    ask,
    grant,
    now_ms,
    passed_by,
    told,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.behaviour("I6")
async def test_a_lease_serves_the_same_request_until_it_is_spent(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    grant(edge, calls=3)
    passed = [await passed_by(edge, ask(credential)) for _ in range(9)]

    assert passed == [False, True, True, True] * 2 + [False]
    assert told(edge) == (3, "")


OTHERS: Final[dict[str, Callable[[str], bytes]]] = {
    "credential": lambda one: ask(f"{one}x"),
    "credential in other letters": lambda one: ask(one.replace("Bearer", "bearer")),
    "credential twice": lambda one: ask(one, ("authorization", one)),
    "no credential": lambda _: request(ITEM),
    "tenant": lambda one: ask(one, path=ITEM.replace("acme", "globex")),
    "tenant that is suspended": lambda one: ask(one, path=ITEM.replace("acme", "frozen")),
    "path of another class": lambda one: ask(one, path=LIST),
    "path with a verb": lambda one: ask(one, path=f"{ITEM}:revoke"),
    "path further down": lambda one: ask(one, path=f"{ITEM}/more"),
    "path in other letters": lambda one: ask(one, path=ITEM.replace("certificates", "Certificates")),
    "path that ends with a slash": lambda one: ask(one, path=f"{ITEM}/"),
    "path with other characters": lambda one: ask(one, path=f"{ITEM};a=b"),
    "query that is not plain": lambda one: ask(one, path=f"{ITEM}?a=%20"),
    "query that names the tenant": lambda one: ask(one, path=f"{ITEM}?name=tenants/globex/certificates/1"),
    "method": lambda one: ask(one, method="DELETE"),
    "method with a body": lambda one: ask(one, ("content-length", "0"), method="POST"),
    "method HEAD": lambda one: ask(one, method="HEAD"),
    "x-tenant-id": lambda one: ask(one, ("x-tenant-id", "globex")),
    "x-tenant-id of the same tenant": lambda one: ask(one, ("x-tenant-id", "acme")),
    "x-tenant-id twice": lambda one: ask(one, ("x-tenant-id", "acme"), ("x-tenant-id", "acme")),
    "x-tenant-id that is empty": lambda one: ask(one, ("x-tenant-id", "")),
    "host of the tenant's own": lambda one: ask(one, host="acme.csm.example.com"),
    "host of nobody's": lambda one: ask(one, host="localhost"),
    "host of another tenant": lambda one: ask(one, host="globex.csm.example.com"),
    "content type of gRPC": lambda one: ask(one, ("content-type", "application/grpc")),
    "content type like gRPC's": lambda one: ask(one, ("content-type", "application/grpc+json")),
}


@pytest.mark.behaviour("I6")
async def test_what_was_granted_to_requests_that_were_asked_about_at_once_is_kept_together(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    grant(edge, calls=2)
    edge.workers.slow_s = 0.05
    await asyncio.gather(*(send(edge.http_port, ask(credential)) for _ in range(3)))
    edge.workers.slow_s = 0
    asked = len(edge.workers.raw)
    edge.workers.decide(admitted())
    passed = [await passed_by(edge, ask(credential)) for _ in range(8)]

    assert asked == 3
    assert passed == [True] * 6 + [False] * 2


@pytest.mark.behaviour("I6")
@pytest.mark.parametrize("other", OTHERS)
async def test_a_request_that_differs_in_anything_is_asked_about_or_refused(edge: Edge, other: str) -> None:
    credential = next(CREDENTIALS)
    grant(edge)
    before = [await passed_by(edge, ask(credential)) for _ in range(2)]
    edge.workers.decide(admitted())
    different = await passed_by(edge, OTHERS[other](credential))

    assert before == [False, True]
    assert not different


@pytest.mark.behaviour("I6")
@pytest.mark.parametrize(
    ("more", "twice"),
    [
        ([("x-tenant-id", "acme")], "x-tenant-id"),
        ([], "authorization"),
    ],
)
async def test_a_header_that_names_somebody_and_is_there_twice_never_finds_a_lease(
    edge: Edge, more: Headers, twice: str
) -> None:
    credential = next(CREDENTIALS)
    grant(edge)
    value = dict([*more, ("authorization", credential)])[twice]
    doubled = ask(credential, *more, (twice, value))

    # Not even after the very same request was granted one.
    assert [await passed_by(edge, one) for one in (doubled, doubled, doubled)] == [False] * 3


async def test_by_x_tenant_id_and_by_host_a_lease_is_found_as_well(edge: Edge) -> None:
    credentials = [next(CREDENTIALS) for _ in range(4)]
    asked = (
        ask(credentials[0], ("x-tenant-id", "acme")),
        ask(credentials[1], host="acme.csm.example.com"),
        ask(credentials[2], host="certificates.acme.example"),
        ask(credentials[3], path=f"{LIST}?page_size=5"),
    )
    for sent in asked:
        grant(edge, lease_class="certificates.list" if sent is asked[3] else "certificates.read")
        assert [await passed_by(edge, sent) for _ in range(3)] == [False, True, True]


@pytest.mark.behaviour("I6")
async def test_over_grpc_a_lease_is_for_the_rpcs_of_its_class(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    grant(edge)
    metadata = (("x-tenant-id", "acme"), ("authorization", credential))
    counts = []
    for path in (GET, GET, GET + "Authority", GET.replace("Get", "List"), GET.replace("Get", "Revoke"), GET):
        before = len(edge.workers.raw)
        await call(edge.http_port, *metadata, path=path)
        counts.append(len(edge.workers.raw) - before)

    assert counts == [1, 0, 0, 1, 1, 0]


@pytest.mark.behaviour("I6")
@pytest.mark.parametrize("content_type", ["application/grpc+json", "application/grpc-web", "application/json"])
async def test_over_grpc_the_messages_are_grpcs_own(edge: Edge, content_type: str) -> None:
    credential = next(CREDENTIALS)
    grant(edge)
    plain = [(name, GET if name == ":path" else value) for name, value in grpc_headers(("authorization", credential))]
    other = [(name, content_type if name == "content-type" else value) for name, value in plain]
    counts = []
    for sent in (plain, plain, other):
        before = len(edge.upstream.seen)
        await http2(edge.http_port, sent)
        seen = edge.upstream.seen[before:]
        counts.append([context for one in seen for context in one.all("x-bulkhead-context")])

    assert counts[1] == [LEASED]
    assert LEASED not in counts[2]


@pytest.mark.behaviour("I6", "T-E12")
async def test_over_tls_a_lease_is_for_the_name_that_was_asked_for_and_for_nobody_with_a_certificate(
    edge: Edge,
) -> None:
    def context(certificate: str = "") -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(edge.folder / "ca.pem"))
        made.check_hostname = False
        if certificate:
            made.load_cert_chain(edge.folder / f"{certificate}.pem", edge.folder / f"{certificate}.key")
        return made

    credential = next(CREDENTIALS)
    grant(edge)
    counts = []
    for certificate, sni in (
        ("", SHARED),
        ("", SHARED),
        ("", "globex.csm.example.com"),
        ("acme", SHARED),
        ("", SHARED),
    ):
        before = len(edge.workers.raw)
        await send(edge.https_port, ask(credential), tls=context(certificate), sni=sni)
        counts.append(len(edge.workers.raw) - before)

    assert counts == [1, 0, 1, 1, 0]


@pytest.mark.behaviour("I6")
async def test_a_lease_ends_at_its_time_however_late_it_came(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    grant(edge, calls=20, lasts_ms=400)
    first = [await passed_by(edge, ask(credential)) for _ in range(2)]
    await asyncio.sleep(0.5)
    grant(edge, calls=20, lasts_ms=-1)
    later = [await passed_by(edge, ask(credential)) for _ in range(3)]

    assert first == [False, True]
    assert later == [False] * 3


@pytest.mark.behaviour("I6")
async def test_a_new_epoch_is_the_end_of_all_leases_of_the_one_before(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    grant(edge)
    before = [await passed_by(edge, ask(credential)) for _ in range(2)]
    await edge.tell(suspended(TENANTS[0], 50))
    during = [await passed_by(edge, ask(credential)) for _ in range(3)]
    await edge.tell(TENANTS[0])
    # The old epoch is a route's again: what has not been spent of it is good once more, as it was paid for.
    again = await passed_by(edge, ask(credential))

    assert (before, during, again) == ([False, True], [False] * 3, True)


@pytest.mark.behaviour("I6")
async def test_a_lease_is_for_one_tenant_also_where_two_have_one_epoch(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    await edge.tell(replace(TENANTS[1], revision=TENANTS[0].revision))
    grant(edge)
    before = [await passed_by(edge, ask(credential)) for _ in range(2)]
    edge.workers.decide(admitted())
    other = await passed_by(edge, ask(credential, path=ITEM.replace("acme", "globex")))
    await edge.tell(TENANTS[1])

    assert (before, other) == ([False, True], False)


@pytest.mark.behaviour("I6")
@pytest.mark.parametrize("epoch", [0, 2, 11])
async def test_a_lease_of_another_epoch_is_taken_by_no_route(edge: Edge, epoch: int) -> None:
    credential = next(CREDENTIALS)
    grant(edge, epoch=epoch)

    assert [await passed_by(edge, ask(credential)) for _ in range(3)] == [False] * 3
    assert edge.workers.header("x-bulkhead-lease") == edge.workers.header("x-bulkhead-context") == []


@pytest.mark.behaviour("I6")
async def test_what_no_route_took_does_not_stand_for_the_agents_word(edge: Edge) -> None:
    """An agent that is out of order, and admits without a context, lets nobody on: nor with a lease's context."""
    credential = next(CREDENTIALS)
    grant(edge, epoch=77)
    first = await passed_by(edge, ask(credential))
    edge.workers.decide(CheckResponse(status=Status(code=0), ok_response=OkHttpResponse()))
    served = len(edge.upstream.seen)
    answer = await send(edge.http_port, ask(credential))

    assert not first
    assert answer.status == 503
    assert len(edge.upstream.seen) == served


@pytest.mark.behaviour("I6", "T-E7")
async def test_neither_a_client_nor_a_service_can_make_a_lease(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    ends = now_ms() + 60_000
    forged = f"7 1000 {ends} 1.certificates.read.uid.session {LEASED}"
    edge.upstream.answers(headers=[("x-bulkhead-grant", forged)], trailers=[("x-bulkhead-grant", forged)])
    shown = [
        ("x-bulkhead-grant", forged),
        ("x-bulkhead-lease", "1.certificates.read.uid.session"),
        ("x-bulkhead-context", LEASED),
    ]

    assert [await passed_by(edge, ask(credential, *shown)) for _ in range(3)] == [False] * 3
    assert len(edge.workers.raw) == 3


async def test_nobody_is_shown_what_is_granted(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    grant(edge)
    answers = [await send(edge.http_port, ask(credential)) for _ in range(2)]

    assert [answer.status for answer in answers] == [200, 200]
    assert all(LEASED.encode() not in answer.raw and b"grant" not in answer.raw for answer in answers)
    assert [one.starting("x-bulkhead-") for one in edge.upstream.seen] == [
        {"x-bulkhead-context": "1.context.signature"},
        {"x-bulkhead-context": LEASED, "x-bulkhead-lease": "1.certificates.read.uid.session"},
    ]
    assert [one.all("authorization") for one in edge.upstream.seen] == [[], []]


@pytest.mark.behaviour("S3.8")
async def test_a_refusal_is_held_until_its_reset_and_says_when_that_is(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    refused = f"0 0 {now_ms() + 2500} 1.held.uid.session held:{now_ms() + 41_500}"
    edge.workers.decide(denied(429, "{}", {"x-bulkhead-reason": "RATE_LIMITED", "x-bulkhead-grant": refused}))
    answers = [await send(edge.http_port, ask(credential)) for _ in range(5)]
    asked = len(edge.workers.raw)
    metadata = (("x-tenant-id", "acme"), ("authorization", credential))
    # What the agent says over gRPC is in its own words; what is held, in Envoy's.
    _, *over_grpc = [await call(edge.http_port, *metadata, path=GET) for _ in range(3)]
    other = await send(edge.http_port, ask(next(CREDENTIALS)))
    await edge.tell(suspended(TENANTS[0], 60))
    after = await send(edge.http_port, ask(credential))
    await edge.tell(TENANTS[0])

    assert [answer.status for answer in answers] == [429] * 5
    assert asked == 1
    assert {answer.header("retry-after") for answer in answers[1:]} <= {"41", "42"}
    assert {answer.header("x-bulkhead-reason") for answer in answers} == {"RATE_LIMITED"}
    assert b"RATE_LIMITED" in answers[-1].body
    assert edge.upstream.seen == []
    assert [one.code.name for one in over_grpc] == ["RESOURCE_EXHAUSTED"] * 2
    assert other.status == 429
    # What holds it is the epoch.
    assert after.status == 403
