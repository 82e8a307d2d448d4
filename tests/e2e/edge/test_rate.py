"""A tenant's rate at the edge: admitted exactly up to the limit, whoever asks how, and the answer says until when."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from bulkhead.v1 import certificates_pb2, tenants_pb2
from tests.fixtures.edge import EdgeTenant, EdgeWorld
from tests.fixtures.edge_wire import Answer, Door, framed, http1, http2, lines, rest

LIMIT: Final = 10
# Of a list, as its rule says.
COST: Final = 2
SENT: Final = 40
MINUTE_S: Final = 60
FIELD: Final = re.compile(r'"minute";r=(\d+);t=(\d+)')


@pytest.fixture
def limited(edge_world: EdgeWorld) -> Iterator[EdgeTenant]:
    """A tenant of ten requests a minute that has asked for nothing yet."""
    founder = edge_world.founder
    tenant = founder.found("slow", requests_per_minute=LIMIT)
    founder.applied()
    yield tenant
    founder.suspend(tenant.tenant_id)


def ask(world: EdgeWorld, tenant: EdgeTenant, wire: str) -> Answer:
    door = Door(address=world.http)
    path, host = tenant.certificates.encode(), world.authority.encode()
    named = [(b"authorization", b"Bearer " + tenant.token.encode()), (b"x-tenant-id", tenant.tenant_id.encode())]
    if wire == "HTTP/1.1":
        return http1(door, lines(b"GET %s HTTP/1.1" % path, [(b"host", host), *named]))
    if wire == "HTTP/2":
        return http2(door, [*rest(path, host), *named])
    message = certificates_pb2.ListCertificatesRequest(parent=f"tenants/{tenant.tenant_id}").SerializeToString()
    called = rest(b"/bulkhead.v1.CertificateService/ListCertificates", host, method=b"POST")
    grpc = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
    return http2(door, [*called, *grpc, *named], body=framed(message))


def begin_a_window(least_s: float) -> None:
    """Wait until the minute has so much to go, so that what follows falls into one."""
    left = MINUTE_S - time.time() % MINUTE_S
    if left < least_s:
        time.sleep(left + 0.1)


def is_admitted(answer: Answer) -> bool:
    # Envoy adds the gRPC status to REST answers too; over HTTP/2 as a trailer once more.
    return answer.status == 200 and set(answer.header("grpc-status").split(",")) <= {"", "0"}


@pytest.mark.behaviour("S3.8")
@pytest.mark.behaviour("H11")
def test_of_forty_at_once_over_every_protocol_ten_are_admitted(edge_world: EdgeWorld, limited: EdgeTenant) -> None:
    begin_a_window(least_s=20)
    sent = edge_world.upstream_requests()
    wires = [("HTTP/1.1", "HTTP/2", "gRPC")[number % 3] for number in range(SENT)]
    with ThreadPoolExecutor(SENT) as pool:
        answers = list(pool.map(lambda wire: ask(edge_world, limited, wire), wires))
    told_at = time.time()
    admitted = [answer for answer in answers if is_admitted(answer)]
    refused = [(wire, answer) for wire, answer in zip(wires, answers, strict=True) if not is_admitted(answer)]

    assert Counter(answer.header("x-bulkhead-reason") for _, answer in refused) == {"RATE_LIMITED": SENT - LIMIT}
    assert len(admitted) == LIMIT
    assert edge_world.upstream_requests() - sent == LIMIT
    # A refusal that is held in Envoy says when there is more, and no more than that.
    assert {answer.header("ratelimit-policy") for answer in answers} - {""} == {f'"minute";q={LIMIT};w=60'}
    found = [FIELD.fullmatch(answer.header("ratelimit")) for answer in answers]
    remaining = sorted(int(field[1]) for field in found if field)
    assert remaining[-LIMIT:] == list(range(LIMIT))
    assert set(remaining[:-LIMIT]) == {0}
    for wire, answer in refused:
        if wire == "gRPC":
            assert (answer.status, answer.header("grpc-status")) == (200, "8")
        else:
            assert (answer.status, json.loads(answer.body)["code"]) == (429, "RATE_LIMITED")
        retry_after = int(answer.header("retry-after"))
        left = MINUTE_S - told_at % MINUTE_S
        # Rounded up, and told a moment before.
        assert left - 1 <= retry_after <= left + 10
        assert retry_after <= MINUTE_S


def test_another_tenants_callers_do_not_spend_it(edge_world: EdgeWorld) -> None:
    """Nor anybody's who only says to be the tenant's own: what is counted is what was verified."""
    founder, other = edge_world.founder, edge_world.tenant_b
    tenant = founder.found("slow", requests_per_minute=LIMIT)
    founder.applied()
    begin_a_window(least_s=20)
    path, host = tenant.certificates.encode(), edge_world.authority.encode()
    for token in [other.token, tenant.revoked, tenant.expired(), "garbage"] * LIMIT:
        fields = [(b"host", host), (b"authorization", b"Bearer " + token.encode())]
        answer = http1(Door(address=edge_world.http), lines(b"GET %s HTTP/1.1" % path, fields))
        assert answer.status in {401, 403}
    first = ask(edge_world, tenant, "HTTP/1.1")

    assert first.header("ratelimit").startswith(f'"minute";r={LIMIT - 1};')


@pytest.mark.timeout(180)
def test_when_the_time_is_over_that_was_named_there_is_more(edge_world: EdgeWorld, limited: EdgeTenant) -> None:
    # Late in a window, so that not much of it has to be waited for.
    left = MINUTE_S - time.time() % MINUTE_S
    if left > 12:
        time.sleep(left - 12)
    answers = [ask(edge_world, limited, "HTTP/1.1") for _ in range(LIMIT + 1)]
    refused = answers[-1]
    assert refused.status == 429
    time.sleep(int(refused.header("retry-after")))
    again = ask(edge_world, limited, "HTTP/1.1")

    assert again.status == 200
    assert again.header("ratelimit").startswith(f'"minute";r={LIMIT - 1};')


@pytest.mark.behaviour("S3.5")
@pytest.mark.behaviour("S3.19")
def test_what_requests_cost_is_counted_in_windows_of_its_own(edge_world: EdgeWorld) -> None:
    founder, windows = edge_world.founder, tenants_pb2.Tenant.RateLimit
    limits = [windows(window=windows.DAY, units=1_000), windows(window=windows.MONTH, units=COST * LIMIT + 1)]
    tenant = founder.found("costly", rate_limits=limits)
    founder.applied()
    answers = [ask(edge_world, tenant, "HTTP/1.1") for _ in range(LIMIT + 2)]
    founder.suspend(tenant.tenant_id)
    problem = json.loads(answers[-2].body)

    assert [answer.status for answer in answers] == [200] * LIMIT + [429] * 2
    # The last one is held in Envoy, and says when there is more, no more than that; or another worker is asked.
    *told, last = [answer.header("ratelimit").partition(";t=")[0] for answer in answers]
    assert told == [
        *(f'"units-month";r={COST * left + 1}' for left in reversed(range(LIMIT))),
        '"units-month";r=1',
    ]
    assert last in {"", '"units-month";r=1'}
    assert f"the tenant's {COST * LIMIT + 1} units of this month are used up" in problem["detail"]
    assert 0 < int(answers[-1].header("retry-after")) <= 31 * 86_400
