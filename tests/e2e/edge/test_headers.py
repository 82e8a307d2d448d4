"""T-E2 and T-E7: a header that says who, is there once and is ours; what the service behind the edge sees proves it."""

import random
from collections.abc import Callable, Iterator
from pprint import pformat
from typing import Final
from uuid import uuid4

import pytest

from bulkhead.v1 import certificates_pb2
from tests.e2e.edge.conftest import IS_BATTERY, PATIENCE_S
from tests.fixtures.edge import EdgeTenant, EdgeWorld
from tests.fixtures.edge_mirror import PROBE, Mirror, Seen
from tests.fixtures.edge_wire import Answer, Fields, framed, http1, http2, lines, rest

COUNT: Final = 2_000 if IS_BATTERY else 150
EVIL: Final = b"EVIL"
# What the service, Envoy or a library behind it could believe of a client.
INTERNAL: Final = (
    "x-bulkhead-context", "x-bulkhead-tenant", "x-bulkhead-reason", "x-bulkhead-grant", "x-bulkhead-anything",
    "x-envoy-original-path", "x-envoy-original-method", "x-envoy-original-host",
    "x-envoy-internal", "x-envoy-external-address", "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node", "x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-retry-on", "x-envoy-retry-grpc-on", "x-envoy-max-retries", "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-force-trace", "x-envoy-ip-tags", "x-envoy-expected-rq-timeout-ms", "x-envoy-attempt-count",
    "x-envoy-peer-metadata", "x-envoy-decorator-operation", "x-envoy-original-dst-host", "x-forwarded-for",
    "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-client-cert", "x-forwarded-user",
    "x-forwarded-prefix", "x-forwarded-path", "forwarded", "x-request-id", "x-real-ip",
)  # fmt: skip
# As a library that merges `-` and `_` would read them.
UNDERSCORED: Final = ("x_tenant_id", "x_bulkhead_context", "X_Tenant-Id", "x-bulkhead_context", "x_forwarded_for")
Send = Callable[[Fields], tuple[Answer, list[Seen]]]


def wires(mirror: Mirror, tenant: EdgeTenant) -> dict[str, Send]:
    """Return ways to list the tenant's certificates with just these headers, on each wire."""
    host = mirror.world.authority.encode()
    path = tenant.certificates.encode()
    message = certificates_pb2.ListCertificatesRequest(parent=f"tenants/{tenant.tenant_id}").SerializeToString()
    called = rest(b"/bulkhead.v1.CertificateService/ListCertificates", host, method=b"POST")
    grpc = [*called, (b"content-type", b"application/grpc"), (b"te", b"trailers")]

    def probed(send: Callable[[Fields], Answer]) -> Send:
        def ask(fields: Fields) -> tuple[Answer, list[Seen]]:
            probe = uuid4().hex
            return send([(PROBE.encode(), probe.encode()), *fields]), mirror.seen(probe)

        return ask

    first = lines(b"GET %s HTTP/1.1" % path, [(b"host", host)]).removesuffix(b"\r\n")
    return {
        "HTTP/1.1": probed(lambda fields: http1(mirror.door, first + lines(b"", fields).removeprefix(b"\r\n"))),
        "HTTP/2": probed(lambda fields: http2(mirror.door, [*rest(path, host), *fields])),
        "gRPC": probed(lambda fields: http2(mirror.door, [*grpc, *fields], body=framed(message))),
    }


@pytest.fixture(params=["HTTP/1.1", "HTTP/2", "gRPC"])
def send(request: pytest.FixtureRequest, mirror: Mirror) -> Send:
    return wires(mirror, mirror.world.tenant_a)[request.param]


def bearer(token: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + token.encode()


@pytest.fixture
def own(edge_world: EdgeWorld) -> Fields:
    """The tenant's header and its caller's token, each once."""
    tenant = edge_world.tenant_a
    return [(b"x-tenant-id", tenant.tenant_id.encode()), bearer(tenant.token)]


def test_the_service_sees_one_verified_tenant_and_no_credential(send: Send, own: Fields, mirror: Mirror) -> None:
    answer, seen = send(own)
    tenant = mirror.world.tenant_a

    assert answer.status == 200, answer
    assert [(one.tenant, mirror.context(one).tenant) for one in seen] == [(tenant.tenant_id, tenant.tenant_id)]
    assert not {"x-tenant-id", "authorization", "x-bulkhead-tenant"} & {name for name, _ in seen[0].headers}
    assert {name for name, _ in seen[0].headers if "bulkhead" in name} <= {"x-bulkhead-context", "x-bulkhead-lease"}


def repeated(chance: random.Random, spellings: list[bytes], values: list[bytes]) -> Fields:
    """Write a header of several values in some way: line by line, joined, mixed, in any case and with any space."""
    fields: Fields = []
    while values:
        taken = chance.randint(1, len(values)) if chance.random() < 0.3 else 1
        joined = chance.choice([b",", b", ", b" , ", b"\t,", b";"]).join(values[:taken])
        values = values[taken:]
        spaced = chance.choice([b"", b"", b" ", b"\t"]) + joined + chance.choice([b"", b" ", b"\t "])
        fields.append((chance.choice(spellings), spaced))
    return fields


def duplicates(chance: random.Random, world: EdgeWorld, *, any_case: bool) -> Iterator[Fields]:
    """Write one of the two headers that say who, 2 to 50 times, and the other one once; in any order."""

    def spellings(name: bytes) -> list[bytes]:
        return [name, name.upper(), name.title()] if any_case else [name]

    a, b = world.tenant_a, world.tenant_b
    for _ in range(COUNT):
        count = chance.choice([2, 2, 2, 3, 5, 50])
        named, shown = (b"x-tenant-id", a.tenant_id.encode()), bearer(a.token)
        if chance.random() < 0.6:
            pool = [a.tenant_id, a.tenant_id, b.tenant_id, "", world.absent, a.tenant_id.upper()]
            values = [named[1], *(chance.choice(pool).encode() for _ in range(count - 1))]
            fields = [*repeated(chance, spellings(named[0]), chance.sample(values, count)), shown]
        else:
            pool = [a.token, a.token, b.token, "", "garbage"]
            values = [shown[1], *(b"Bearer " + chance.choice(pool).encode() for _ in range(min(count, 5) - 1))]
            fields = [named, *repeated(chance, spellings(shown[0]), chance.sample(values, len(values)))]
        chance.shuffle(fields)
        yield fields


@pytest.mark.behaviour("T-E2")
@pytest.mark.behaviour("E2.1")
@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("wire", ["HTTP/1.1", "HTTP/2", "gRPC"])
def test_what_is_there_more_than_once_counts_for_nothing(mirror: Mirror, chance: random.Random, *, wire: str) -> None:
    send = wires(mirror, mirror.world.tenant_a)[wire]
    passed = []
    # Upper case ends a connection of HTTP/2, at leisure: see below.
    for fields in duplicates(chance, mirror.world, any_case=wire == "HTTP/1.1"):
        answer, seen = send(fields)
        if seen or (answer.status not in {403, 431} and answer.header("grpc-status") not in {"7", "8"}):
            passed.append((fields, answer))

    assert not passed, f"{len(passed)} of {COUNT} passed, first of all {pformat(passed[:3])}"


@pytest.mark.parametrize("name", ["X-Tenant-ID", "Authorization", "X-Bulkhead-Context"])
def test_over_http2_a_header_in_capitals_ends_the_connection(mirror: Mirror, own: Fields, *, name: str) -> None:
    answer, seen = wires(mirror, mirror.world.tenant_a)["HTTP/2"]([*own, (name.encode(), EVIL)])

    assert (answer.status, seen) == (0, [])


@pytest.mark.behaviour("T-E2")
@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        ("x-tenant-id", "once more"),
        ("x-tenant-id", "empty"),
        ("x-tenant-id", "joined"),
        ("x-tenant-id", "of another"),
        ("x-tenant-id", "first of another"),
        # Beside a value, Envoy takes an empty one for absent: it names nobody.
        ("authorization", "once more"),
        ("authorization", "joined"),
        ("authorization", "of another"),
        ("authorization", "first of another"),
    ],
)
def test_each_way_of_saying_it_twice_is_the_strangers_answer(
    send: Send, own: Fields, mirror: Mirror, *, name: str, spelling: str
) -> None:
    world = mirror.world
    mine = dict(own)[name.encode()]
    theirs = {"x-tenant-id": world.tenant_b.tenant_id.encode(), "authorization": bearer(world.tenant_b.token)[1]}[name]
    others = [field for field in own if field[0] != name.encode()]
    values = {
        "once more": [mine, mine],
        "empty": [mine, b""],
        "joined": [mine + b"," + mine],
        "of another": [mine, theirs],
        "first of another": [theirs, mine],
    }[spelling]
    answer, seen = send([*others, *((name.encode(), value) for value in values)])

    assert seen == []
    assert answer.status == 403 or answer.header("grpc-status") == "7", answer
    assert answer.header("x-bulkhead-reason") == ""


@pytest.mark.behaviour("T-E7")
@pytest.mark.behaviour("E2.1")
@pytest.mark.parametrize("name", INTERNAL)
def test_what_only_we_may_say_never_arrives_with_a_clients_value(send: Send, own: Fields, *, name: str) -> None:
    spelled = name.encode()
    _, seen = send([*own, (spelled, EVIL), (spelled, EVIL)])
    told = [value for one in seen for key, value in one.headers if key.lower() == name.lower()]

    assert [value for value in told if EVIL.decode() in value] == []
    # Where the request was served in spite of it, what is ours is there once, or not at all.
    assert len(told) <= 1


@pytest.mark.parametrize("name", UNDERSCORED)
def test_names_with_underscores_are_refused(send: Send, own: Fields, *, name: str) -> None:
    answer, seen = send([*own, (name.lower().encode(), EVIL)])

    assert seen == []
    assert answer.status in {0, 400} or answer.header("grpc-status") not in {"", "0"}, answer


@pytest.mark.parametrize(
    "nominated", ["x-tenant-id", "authorization", "x-bulkhead-context", "x-bulkhead-tenant", "x-request-id", "host"]
)
def test_connection_takes_no_header_of_ours_away(mirror: Mirror, own: Fields, *, nominated: str) -> None:
    world = mirror.world
    send = wires(mirror, world.tenant_a)["HTTP/1.1"]
    answer, seen = send([(b"connection", nominated.encode()), *own])

    assert answer.status in {200, 400, 403}
    assert all(mirror.context(one).tenant == one.tenant == world.tenant_a.tenant_id for one in seen)
    if nominated == "authorization":
        assert seen == []


@pytest.mark.behaviour("T-E7")
@pytest.mark.parametrize("name", ["x-tenant-id", "authorization", "x-bulkhead-context", "x-probe", ":path", "te"])
@pytest.mark.parametrize("wire", ["REST", "gRPC"])
def test_trailers_of_clients_go_no_further(mirror: Mirror, own: Fields, *, name: str, wire: str) -> None:
    world = mirror.world
    probe = uuid4().hex
    tenant = world.tenant_a
    message = certificates_pb2.ListCertificatesRequest(parent=f"tenants/{tenant.tenant_id}").SerializeToString()
    host = world.authority.encode()
    called = rest(b"/bulkhead.v1.CertificateService/ListCertificates", host, method=b"POST")
    grpc = [*called, (b"content-type", b"application/grpc"), (b"te", b"trailers")]
    start, body = (rest(tenant.certificates.encode(), host), b"") if wire == "REST" else (grpc, framed(message))
    answer = http2(
        mirror.door, [*start, (PROBE.encode(), probe.encode()), *own], body=body, trailers=[(name.encode(), EVIL)]
    )

    assert [one.trailers for one in mirror.seen(probe) if one.trailers] == []
    assert all(mirror.context(one).tenant == tenant.tenant_id for one in mirror.seen(probe))
    assert answer.status in {0, 200, 400}


@pytest.mark.parametrize("state", ["suspended", "foreign", "absent"])
def test_no_forged_header_opens_somebody_elses_routes(mirror: Mirror, *, state: str) -> None:
    """Where routes refuse by themselves, nothing is asked, and nothing is sent on either."""
    world = mirror.world
    tenants = {"suspended": world.suspended.tenant_id, "foreign": world.tenant_b.tenant_id, "absent": world.absent}
    path = f"/api/v1/tenants/{tenants[state]}/certificates".encode()
    before = len(mirror.recorder.seen)
    key = [(b"x-bulkhead-tenant", f"id:{world.tenant_a.tenant_id}".encode()), bearer(world.tenant_a.token)]
    answers = [
        http2(mirror.door, [*rest(path, world.authority.encode()), *key, (name.lower().encode(), EVIL)])
        for name in INTERNAL
    ]

    assert {answer.status for answer in answers} == {403}
    assert len(mirror.recorder.seen) == before
