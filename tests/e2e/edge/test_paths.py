"""T-E4: a path means one tenant to the agent, to Envoy's routes and to the service, or nothing to anybody."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pprint import pformat
from typing import Final
from uuid import uuid4

import pytest

from tests.e2e.edge.conftest import IS_BATTERY, PATIENCE_S
from tests.fixtures.edge import EdgeTenant, EdgeWorld
from tests.fixtures.edge_mirror import PROBE, Mirror
from tests.fixtures.edge_wire import Answer, Fields, http1, http2, lines, rest

COUNT: Final = 10_000 if IS_BATTERY else 2_000
# Ways in which somebody, somewhere, writes a slash, a dot or nothing at all.
SLASHES: Final = (
    b"/", b"//", b"///", b"%2f", b"%2F", b"\\", b"%5c", b"%5C", b"/./", b"/.//", b"/%2e/", b"%252f", b"%c0%af",
    b"%e0%80%af", b"%ef%bc%8f", b";/", b"/;/", b"/;x=y/", b"%00/", b"/%09", b"/%20/", b"/..;/", b"\xef\xbc\x8f",
)  # fmt: skip
DOTS: Final = (
    b"..", b"%2e%2e", b".%2e", b"%2E.", b"%252e%252e", b"..;", b"..%00", b"%c0%ae%c0%ae", b"...", b"..%2f", b"..%5c",
    b"%uff0e%uff0e", b".", b"%2e",
)  # fmt: skip
ENDS: Final = (
    b"", b"/", b"//", b"/.", b"/..", b"?", b"?x", b"?page_size=1", b"#", b"#/api", b"%23", b"%3f", b";", b";x=y",
    b"%00", b"%20", b"%0d%0a", b".", b"%2e", b":", b":issue", b"%3aissue", b",", b"&", b"?parent=", b"?%70arent=",
    b"?parent%3d", b"%26", b"+",
)  # fmt: skip
WIRES: Final = ("HTTP/1.1", "HTTP/2")


def paths(chance: random.Random, world: EdgeWorld) -> Iterator[bytes]:
    """Write paths that have to do with two tenants, each with something about it."""
    a, b = world.tenant_a.tenant_id.encode(), world.tenant_b.tenant_id.encode()
    suspended, absent = world.suspended.tenant_id.encode(), world.absent.encode()
    while True:
        yield chance.choice((_spelled, _climbed, _ended))(chance, chance.choice((a, a, b, suspended, absent)), b)


def _segments(chance: random.Random, tenant: bytes) -> list[bytes]:
    return [b"api", b"v1", chance.choice((b"tenants",) * 6 + (b"Tenants", b"tenants;", b"%74enants")), tenant]


def _spelled(chance: random.Random, tenant: bytes, _: bytes) -> bytes:
    """One of its slashes, or letters, written in another way."""
    path = b""
    strange = chance.randrange(6)
    for number, segment in enumerate([*_segments(chance, tenant), b"certificates"]):
        path += chance.choice(SLASHES) if number == strange else b"/"
        path += _recoded(chance, segment) if chance.random() < 0.1 else segment
    return path + (chance.choice(ENDS) if chance.random() < 0.2 else b"")


def _climbed(chance: random.Random, tenant: bytes, other: bytes) -> bytes:
    """Out of one tenant's folder and into another's."""
    slash, climb = chance.choice(SLASHES), [chance.choice(DOTS) for _ in range(chance.randint(1, 4))]
    begin = chance.choice((b"/api/v1/tenants/" + tenant, b"/public", b"", b"/bulkhead.v1.CertificateService"))
    rest_of = chance.choice((b"/certificates", b"/api/v1/tenants/" + other + b"/certificates", b"/tenants/" + other))
    return begin + slash + slash.join(climb) + chance.choice((b"/", slash)) + other + rest_of


def _ended(chance: random.Random, tenant: bytes, other: bytes) -> bytes:
    """With something after the id, or after everything, which may be another tenant's."""
    path = b"/" + b"/".join(_segments(chance, tenant))
    value = chance.choice((b"", b"tenants/" + other, other, b"/api/v1/tenants/" + other + b"/certificates"))
    if chance.random() < 0.5:
        return path + chance.choice(ENDS) + b"/certificates" + chance.choice((b"", chance.choice(ENDS) + value))
    return path + b"/certificates" + chance.choice(ENDS) + value


def _recoded(chance: random.Random, segment: bytes) -> bytes:
    """One letter of it as a client may encode it, once or twice, or in capitals."""
    at = chance.randrange(len(segment))
    letter = segment[at : at + 1]
    strange = chance.choice((b"%%%02x" % letter[0], b"%%%02X" % letter[0], b"%%25%02x" % letter[0], letter.upper()))
    return segment[:at] + strange + segment[at + 1 :]


def ask(mirror: Mirror, wire: str, path: bytes, fields: Fields) -> Answer:
    host = mirror.world.authority.encode()
    if wire == "HTTP/2":
        return http2(mirror.door, [*rest(path, host), *fields])
    # Some are asked for in full, which is another way to name the host.
    target = b"http://" + host + path if fields[0][1].startswith(b"0") else path
    return http1(mirror.door, lines(b"GET %s HTTP/1.1" % target, [(b"host", host), *fields]))


@pytest.mark.behaviour("T-E4")
@pytest.mark.behaviour("E2.1")
@pytest.mark.behaviour("H2")
@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("wire", WIRES)
def test_what_a_path_says_to_the_agent_it_says_to_the_service(
    mirror: Mirror, chance: random.Random, *, wire: str
) -> None:
    world = mirror.world
    wrong, served = [], 0

    def send(asked: tuple[bytes, EdgeTenant, bytes]) -> Answer:
        path, tenant, probe = asked
        return ask(
            mirror, wire, path, [(PROBE.encode(), probe), (b"authorization", b"Bearer " + tenant.token.encode())]
        )

    tenants = (world.tenant_a, world.tenant_b)
    asked = [
        (path, chance.choice(tenants), f"{chance.getrandbits(128):032x}".encode())
        for path in islice(paths(chance, world), COUNT // len(WIRES))
    ]
    # Side by side: of what is no HTTP/2, Envoy takes leave for a second.
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, asked))
    for (path, tenant, probe), answer in zip(asked, answers, strict=True):
        seen = mirror.seen(probe.decode())
        served += len(seen)
        if any(mirror.context(one).tenant != one.tenant or one.tenant != tenant.tenant_id for one in seen):
            wrong.append((path, answer, seen))
        # Nothing answers but the service, and those who refuse.
        if not seen and answer.status not in {0, 400, 403, 431}:
            wrong.append((path, answer, seen))

    assert not wrong, f"{len(wrong)} of {COUNT}, first of all {pformat(wrong[:3])}"
    assert served > 10


@pytest.mark.behaviour("T-E4")
@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "path",
    [
        "/public/../api/v1/tenants/{b}/certificates",
        "/public/%2e%2e/api/v1/tenants/{b}/certificates",
        "/public/..%2fapi/v1/tenants/{b}/certificates",
        "/api/v1/tenants/{a}/../{b}/certificates",
        "/api/v1/tenants/{a}/%2e%2e/{b}/certificates",
        "/api/v1/tenants/{a}/..%2f{b}/certificates",
        "/api/v1/tenants/{a}/..;/{b}/certificates",
        "/api/v1/tenants/{a}/certificates/../../{b}/certificates",
        "/api/v1/tenants/{a}%2f..%2f{b}/certificates",
        "/api/v1/tenants/{a}\\..\\{b}\\certificates",
        "//api/v1/tenants/{b}/certificates",
        "/API/v1/tenants/{b}/certificates",
        "/api/v1/tenants/{a}/certificates?parent=tenants/{b}",
        "/api/v1/tenants/{a}/certificates?%70arent=tenants/{b}",
        "/api/v1/tenants/{a}/certificates?page_size=1&parent=tenants/{b}",
        "/api/v1/tenants/{a}/certificates?page_size=1;parent=tenants/{b}",
        "/api/v1/tenants/{b}%00/certificates",
        "/api/v1/tenants/{a},{b}/certificates",
    ],
)
def test_no_way_of_writing_it_leads_to_another_tenant(mirror: Mirror, *, wire: str, path: str) -> None:
    world = mirror.world
    probe = uuid4().hex
    written = path.format(a=world.tenant_a.tenant_id, b=world.tenant_b.tenant_id).encode()
    token = b"Bearer " + world.tenant_a.token.encode()
    answer = ask(mirror, wire, written, [(PROBE.encode(), b"1" + probe.encode()), (b"authorization", token)])

    assert mirror.seen("1" + probe) == []
    assert answer.status in {0, 400, 403}
    assert world.tenant_b.tenant_id.encode() not in answer.body


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/tenants/{a}/certificates",
        "//api//v1/tenants/{b}/../{a}/./certificates",
        "/x/../api/v1/tenants/{a}/certificates",
    ],
)
def test_what_is_the_same_path_in_the_end_is_served_as_that(mirror: Mirror, *, wire: str, path: str) -> None:
    """The positive twin: the agent, the routes and the service all see the path that Envoy made of it."""
    world = mirror.world
    probe = uuid4().hex
    written = path.format(a=world.tenant_a.tenant_id, b=world.tenant_b.tenant_id).encode()
    token = b"Bearer " + world.tenant_a.token.encode()
    answer = ask(mirror, wire, written, [(PROBE.encode(), b"1" + probe.encode()), (b"authorization", token)])
    (seen,) = mirror.seen("1" + probe)

    assert answer.status == 200
    assert seen.tenant == mirror.context(seen).tenant == world.tenant_a.tenant_id
