"""T-E16: a tenant that is not there, is suspended, or is somebody else's: the same bytes, whatever is asked."""

import json
from collections.abc import Callable
from typing import Final
from uuid import uuid4

import pytest

from bulkhead.v1 import certificates_pb2
from tests.e2e.edge.conftest import IS_BATTERY
from tests.fixtures.edge import EdgeWorld, signing_request
from tests.fixtures.edge_wire import Answer, Door, Fields, framed, http1, http2, lines, rest

# The first one has its routes fetched, the later ones find them there.
TIMES: Final = 20 if IS_BATTERY else 3
SOME_ID: Final = str(uuid4())
CSR: Final = signing_request("stranger")
REST: Final = {
    "list": (b"GET", "/certificates", b""),
    "list with a query": (b"GET", "/certificates?page_size=1", b""),
    "get": (b"GET", f"/certificates/{SOME_ID}", b""),
    "authority": (b"GET", "/certificateAuthority", b""),
    "issue": (b"POST", "/certificates:issue", json.dumps({"csr_pem": CSR}).encode()),
    "issue with nothing": (b"POST", "/certificates:issue", b""),
    "issue with nonsense": (b"POST", "/certificates:issue", b"\0" * 60_000),
    "revoke": (b"POST", f"/certificates/{SOME_ID}:revoke", b"{}"),
    "delete": (b"DELETE", f"/certificates/{SOME_ID}", b""),
    "head": (b"HEAD", "/certificates", b""),
    "options": (b"OPTIONS", "/certificates", b""),
    "the tenant itself": (b"GET", "", b""),
    "a collection that is not served": (b"GET", "/auditEntries", b""),
    "nothing that there is": (b"PATCH", "/nothing/at/all", b"{}"),
}
GRPC: Final = {
    "ListCertificates": certificates_pb2.ListCertificatesRequest,
    "GetCertificate": certificates_pb2.GetCertificateRequest,
    "GetCertificateAuthority": certificates_pb2.GetCertificateAuthorityRequest,
    "IssueCertificate": certificates_pb2.IssueCertificateRequest,
    "RevokeCertificate": certificates_pb2.RevokeCertificateRequest,
    "NoSuchMethod": certificates_pb2.ListCertificatesRequest,
}
Ask = Callable[[str, str, Fields], Answer]


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def ask(request: pytest.FixtureRequest, plain: Door, edge_world: EdgeWorld) -> Ask:
    """Ask for one thing of one tenant, with more headers."""
    host = edge_world.authority.encode()

    def send(what: str, tenant_id: str, more: Fields) -> Answer:
        method, suffix, body = REST[what]
        path = f"/api/v1/tenants/{tenant_id}{suffix}".encode()
        if request.param == "HTTP/2":
            return http2(plain, [*rest(path, host, method=method), *more], body=body)
        return http1(plain, lines(b"%s %s HTTP/1.1" % (method, path), [(b"host", host), *more], body))

    return send


def strange_tenants(world: EdgeWorld) -> dict[str, str]:
    """Return the tenants that A's callers have nothing to do with."""
    return {
        "absent": world.absent,
        "suspended": world.suspended.tenant_id,
        "foreign": world.tenant_b.tenant_id,
        "no name of a tenant": "No-Such..Name",
    }


def bearer(token: str) -> Fields:
    return [(b"authorization", b"Bearer " + token.encode())]


@pytest.mark.behaviour("T-E16")
@pytest.mark.behaviour("E2.2")
@pytest.mark.behaviour("H14")
@pytest.mark.parametrize("credential", ["none", "another tenant's", "the platform's", "its own, suspended", "garbage"])
@pytest.mark.parametrize("what", REST)
def test_what_is_not_the_callers_is_refused_in_the_same_bytes(
    edge_world: EdgeWorld, ask: Ask, *, what: str, credential: str
) -> None:
    shown = {
        "none": [],
        "another tenant's": bearer(edge_world.tenant_a.token),
        "the platform's": bearer(edge_world.platform_token),
        "its own, suspended": bearer(edge_world.suspended.token),
        "garbage": bearer("garbage"),
    }[credential]
    answers = {
        (kind, number): ask(what, tenant_id, shown).told
        for number in range(TIMES)
        for kind, tenant_id in strange_tenants(edge_world).items()
    }
    status, headers, _ = reference = answers["absent", TIMES - 1]

    assert status == 403
    assert ("www-authenticate", "Bearer") in headers
    assert {key: told for key, told in answers.items() if told != reference} == {}


@pytest.mark.behaviour("T-E16")
@pytest.mark.behaviour("E2.2")
@pytest.mark.parametrize("what", GRPC)
def test_over_grpc_it_is_refused_in_the_same_bytes_too(edge_world: EdgeWorld, plain: Door, *, what: str) -> None:
    def send(tenant_id: str, shown: Fields) -> Answer:
        message = GRPC[what]()
        field = "parent" if hasattr(message, "parent") else "name"
        setattr(message, field, f"tenants/{tenant_id}")
        headers = rest(
            f"/bulkhead.v1.CertificateService/{what}".encode(), edge_world.authority.encode(), method=b"POST"
        )
        named = [(b"x-tenant-id", tenant_id.encode()), (b"content-type", b"application/grpc"), (b"te", b"trailers")]
        return http2(plain, [*headers, *named, *shown], body=framed(message.SerializeToString()))

    credentials: tuple[Fields, ...] = (
        [],
        bearer(edge_world.tenant_a.token),
        bearer(edge_world.platform_token),
        bearer("garbage"),
    )
    answers = {
        (kind, number, times): send(tenant_id, shown).told
        for number, shown in enumerate(credentials)
        for times in range(TIMES)
        for kind, tenant_id in strange_tenants(edge_world).items()
    }
    status, headers, body = reference = answers["absent", 0, 0]

    assert (status, body) == (200, b"")
    assert {("grpc-status", "7"), ("grpc-message", "access denied")} <= set(headers)
    assert {key: told for key, told in answers.items() if told != reference} == {}


@pytest.mark.parametrize("what", ["list", "authority", "issue"])
def test_who_does_belong_there_is_served(edge_world: EdgeWorld, ask: Ask, *, what: str) -> None:
    own = edge_world.tenant_a
    answer = ask(what, own.tenant_id, bearer(own.token))

    assert answer.status == 200, answer
    assert own.tenant_id.encode() in answer.body or own.canary.encode() in answer.body
