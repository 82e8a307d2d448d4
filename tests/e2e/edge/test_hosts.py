"""T-E6: a host is one tenant's, nobody's, or unknown; how it is written, and what TLS was told, opens no other door."""

import ssl
from collections.abc import Callable
from typing import Final
from uuid import uuid4

import pytest

from tests.e2e.edge.conftest import trusting
from tests.fixtures.edge import DOMAIN, EdgeTenant, EdgeWorld
from tests.fixtures.edge_mirror import PROBE, Mirror
from tests.fixtures.edge_wire import Answer, Asking, Door, Fields, Http2, http1, http2, lines, rest

# `{a}` is the caller's own host, `{b}` another tenant's; `{ca}` and `{cb}` are their custom domains.
OWN: Final = {
    "its host": "{a}",
    "its custom domain": "{ca}",
    "in capitals": "{A}",
    "with a port": "{a}:7448",
    "with a trailing dot": "{a}.",
    "with both": "{a}.:7448",
    "nobody's": "api.csm.example.com",
}
FOREIGN: Final = {
    "another tenant's": "{b}",
    "another's custom domain": "{cb}",
    "another's in capitals": "{B}",
    "another's with a port": "{b}:443",
    "another's with a trailing dot": "{b}.",
    "below its own": "x.{a}",
    "above its own": "csm.example.com",
    "a label of nobody's": "nobody-here.csm.example.com",
    "an address": "127.0.0.2",
    "an address of version 6": "[::1]",
    "an address as a number": "2130706433",
    "elsewhere": "evil.example.net",
    "as a prefix of elsewhere": "{a}.evil.example.net",
    "a wildcard": "*.csm.example.com",
    "two": "{a},{b}",
    "two with a space": "{a} {b}",
    "with a user": "{a}@{b}",
    "a user of its name": "{b}@{a}",
    "punycode": "xn--{a}",
    "two trailing dots": "{a}..",
    "two ports": "{a}:80:{b}",
    "an encoded dot": "{enc}",
    "two with a tab": "{a}\t{b}",
    "with a slash": "{a}/",
    "with a NUL": "{a}\0.{b}",
    "not ASCII": "ä{a}",
    "a wide dot": "{wide}",
    "a long one": "a" * 300 + ".csm.example.com",
}


def written(host: str, world: EdgeWorld) -> bytes:
    a, b = world.tenant_a, world.tenant_b
    text = host.format(
        a=a.host, A=a.host.upper(), b=b.host, B=b.host.upper(), ca=a.custom, cb=b.custom,
        enc=a.host.replace(".", "%2e"), wide=a.host.replace(".", "\u3002"),
    )  # fmt: skip
    return text.encode()


def bearer(tenant: EdgeTenant) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + tenant.token.encode()


Ask = Callable[[bytes, Fields], tuple[Answer, bool]]


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def ask(request: pytest.FixtureRequest, mirror: Mirror) -> Ask:
    """List A's certificates at a host, by A's caller; return the answer, and whether the service was reached."""
    own = mirror.world.tenant_a
    path = own.certificates.encode()

    def send(host: bytes, more: Fields) -> tuple[Answer, bool]:
        probe = uuid4().hex
        fields = [(PROBE.encode(), probe.encode()), bearer(own), *more]
        if request.param == "HTTP/2":
            answer = http2(mirror.door, [*rest(path, host), *fields])
        else:
            answer = http1(mirror.door, lines(b"GET %s HTTP/1.1" % path, [(b"host", host), *fields]))
        seen = mirror.seen(probe)
        assert all(mirror.context(one).tenant == one.tenant == own.tenant_id for one in seen)
        return answer, bool(seen)

    return send


@pytest.mark.parametrize("how", OWN)
def test_a_tenants_own_hosts_lead_to_it_however_they_are_written(mirror: Mirror, ask: Ask, *, how: str) -> None:
    answer, reached = ask(written(OWN[how], mirror.world), [])

    assert (answer.status, reached) == (200, True), answer


@pytest.mark.behaviour("T-E6")
@pytest.mark.behaviour("E2.1")
@pytest.mark.parametrize("how", FOREIGN)
def test_every_other_host_is_refused(mirror: Mirror, ask: Ask, *, how: str) -> None:
    answer, reached = ask(written(FOREIGN[how], mirror.world), [])

    assert not reached
    assert answer.status in {0, 400, 403, 421}, answer


def test_a_request_without_a_host_is_refused(mirror: Mirror, ask: Ask) -> None:
    answer, reached = ask(b"", [])

    assert not reached
    assert answer.status in {0, 400, 403}, answer


@pytest.mark.parametrize("order", ["own first", "own last", "own twice"])
def test_two_hosts_are_one_too_many(mirror: Mirror, ask: Ask, *, order: str) -> None:
    own, other = mirror.world.tenant_a.host.encode(), mirror.world.tenant_b.host.encode()
    first, second = {"own first": (own, other), "own last": (other, own), "own twice": (own, own)}[order]
    before = len(mirror.recorder.seen)
    answer, reached = ask(first, [(b"host", second)])

    if reached:
        # In HTTP/2 `:authority` counts. A `host` beside it is dropped by Envoy, for the agent and for the service.
        (seen,) = mirror.recorder.seen[before:]
        assert seen.values("host") == []
        assert seen.values(":authority") == [own.decode()]
        return
    assert answer.status in {0, 400, 403}, answer


@pytest.mark.parametrize(("target", "host"), [("{a}", "{b}"), ("{b}", "{a}"), ("{b}", "{b}")])
def test_an_address_in_full_names_the_host(mirror: Mirror, *, target: str, host: str) -> None:
    own = mirror.world.tenant_a
    probe = uuid4().hex
    full = b"http://" + written(target, mirror.world) + own.certificates.encode()
    fields = [(b"host", written(host, mirror.world)), (PROBE.encode(), probe.encode()), bearer(own)]
    answer = http1(mirror.door, lines(b"GET %s HTTP/1.1" % full, fields))

    if target == "{a}" and mirror.seen(probe):
        # RFC 9112, 3.2.2: what the target says counts, and the Host is as if it were not there.
        assert answer.status == 200
        return
    assert mirror.seen(probe) == []
    assert answer.status in {400, 403}


@pytest.fixture
def tls(edge_world: EdgeWorld) -> ssl.SSLContext:
    return trusting(edge_world)


@pytest.mark.behaviour("T-E6")
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize(
    ("server_name", "host", "served"),
    [
        ("{a}", "{a}", True),
        ("{a}", "api.csm.example.com", True),
        ("localhost", "{a}", True),
        ("{a}", "{ca}", True),
        ("{b}", "{a}", False),
        ("{b}", "api.csm.example.com", False),
        ("{cb}", "{a}", False),
        ("{a}", "{b}", False),
        ("nobody-here.csm.example.com", "{a}", False),
        ("evil.example.net", "{a}", False),
    ],
)
def test_what_tls_was_told_has_to_agree(
    edge_world: EdgeWorld, tls: ssl.SSLContext, *, server_name: str, host: str, served: bool, second: bool
) -> None:
    own = edge_world.tenant_a
    door = Door(address=edge_world.https, tls=tls, server_name=written(server_name, edge_world).decode())
    authority = written(host, edge_world)
    path = own.certificates.encode()
    if second:
        answer = http2(door, [*rest(path, authority), bearer(own)])
    else:
        answer = http1(door, lines(b"GET %s HTTP/1.1" % path, [(b"host", authority), bearer(own)]))

    assert answer.status == (200 if served else 403), answer
    assert (own.canary.encode() in answer.body) is served


@pytest.mark.behaviour("T-E6")
def test_a_connection_that_serves_one_tenant_serves_no_other(edge_world: EdgeWorld, tls: ssl.SSLContext) -> None:
    """Browsers use one connection for every name of its certificate, which is a wildcard's."""
    a, b = edge_world.tenant_a, edge_world.tenant_b
    door = Door(address=edge_world.https, tls=tls, server_name=a.host)
    told = []
    with Http2(door) as connection:
        for tenant, host in (
            (a, a.host),
            (b, b.host),
            (a, b.host),
            (b, a.host),
            (b, edge_world.authority),
            (a, a.host),
        ):
            headers = [*rest(tenant.certificates.encode(), host.encode()), bearer(tenant)]
            answer = connection.ask(Asking(headers=headers))
            told.append((answer.status, a.canary.encode() in answer.body, b.canary.encode() in answer.body))

    refused = (403, False, False)
    assert told == [(200, True, False), refused, refused, refused, refused, (200, True, False)]


def test_a_shared_connection_without_a_tenants_name_keeps_its_tenants_apart(edge_world: EdgeWorld) -> None:
    a, b = edge_world.tenant_a, edge_world.tenant_b
    door = Door(address=edge_world.http)
    with Http2(door) as connection:
        for tenant, other in ((a, b), (b, a)) * 5:
            answer = connection.ask(
                Asking(headers=[*rest(tenant.certificates.encode(), tenant.host.encode()), bearer(tenant)])
            )
            crossed = connection.ask(
                Asking(headers=[*rest(tenant.certificates.encode(), other.host.encode()), bearer(tenant)])
            )
            assert answer.status == 200
            assert tenant.canary.encode() in answer.body
            assert other.canary.encode() not in answer.body
            assert crossed.status == 403


def test_the_platforms_domain_itself_is_no_tenants(edge_world: EdgeWorld) -> None:
    own = edge_world.tenant_a
    door = Door(address=edge_world.http)
    answer = http2(door, [*rest(own.certificates.encode(), DOMAIN.encode()), bearer(own)])

    assert answer.status == 403
