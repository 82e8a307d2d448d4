"""What the agent has refused again and again, Envoy refuses by itself for a while: strangers, in the same bytes."""

import asyncio
import re
from typing import Any

import pytest
from envoy_data_plane.envoy.service.auth.v3 import CheckRequest, CheckResponse

from tests.integration.ext_authz.envoy_edge.calls import call
from tests.integration.ext_authz.envoy_edge.decisions import admitted, denied
from tests.integration.ext_authz.envoy_edge.edge import Edge
from tests.integration.ext_authz.envoy_edge.http1 import send
from tests.integration.ext_authz.envoy_edge.leasing import CREDENTIALS, GET, ask, granted, now_ms, passed_by

pytestmark = pytest.mark.asyncio(loop_scope="module")


def refused(*, lasts_ms: int = 60_000) -> CheckResponse:
    """Return the agent's answer that is to be repeated for a while."""
    return denied(404, more={"x-bulkhead-grant": f"refused 0 {now_ms() + lasts_ms} - refused"})


def repeated(edge: Edge, asked: CheckRequest) -> int:
    """Return how often that was said to be repeated."""
    return sum(int(one) for one in edge.workers.header("x-bulkhead-repeated", asked))


def without_what_differs(raw: bytes) -> bytes:
    return re.sub(rb"[0-9a-f]{8}-[0-9a-f-]{27}|date: [^\r]*", b"", raw)


@pytest.mark.behaviour("T-E16", "S7.2")
async def test_strangers_are_refused_without_asking_and_cannot_tell(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    edge.workers.decide(refused())
    answers = [await send(edge.http_port, ask(credential)) for _ in range(5)]
    asked = len(edge.workers.raw)
    metadata = (("x-tenant-id", "acme"), ("authorization", credential))
    over_grpc = [await call(edge.http_port, *metadata, path=GET) for _ in range(3)]

    assert asked == 1
    assert {answer.status for answer in answers} == {403}
    assert len({without_what_differs(answer.raw) for answer in answers}) == 1
    assert {(one.code.name, one.message) for one in over_grpc} == {("PERMISSION_DENIED", "access denied")}
    # What names the tenant by a header is another request than what names it by its path.
    assert len(edge.workers.raw) == 2
    assert edge.upstream.seen == []


@pytest.mark.behaviour("T-E16")
@pytest.mark.parametrize(
    "other",
    [
        {"credential": "Bearer another"},
        {"path": "/api/v1/tenants/globex/certificates/0195a1"},
        {"path": "/api/v1/tenants/acme/certificates?page_size=7&page_token=x"},
        {"host": "acme.csm.example.com"},
        {"more": ("x-tenant-id", "acme")},
        {"method": "DELETE"},
    ],
    ids=["credential", "tenant", "query", "host", "header", "method"],
)
async def test_whoever_asks_for_anything_else_is_asked_about(edge: Edge, other: dict[str, Any]) -> None:
    credential = next(CREDENTIALS)
    edge.workers.decide(refused())
    statuses = [(await send(edge.http_port, ask(credential))).status for _ in range(2)]
    asked = len(edge.workers.raw)
    edge.workers.decide(admitted())
    more = [other["more"]] if "more" in other else []
    how = {key: value for key, value in other.items() if key in {"path", "host", "method"}}
    await send(edge.http_port, ask(other.get("credential", credential), *more, **how))

    assert (statuses, asked) == ([403, 403], 1)
    assert len(edge.workers.raw) == 2


@pytest.mark.behaviour("T-E16")
async def test_a_refusal_ends_and_how_often_it_was_repeated_is_told_once(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    edge.workers.decide(refused(lasts_ms=400))
    for _ in range(4):
        await send(edge.http_port, ask(credential))
    await asyncio.sleep(0.5)
    edge.workers.decide(admitted())
    answers = [await send(edge.http_port, ask(credential)) for _ in range(2)]
    told = [repeated(edge, one) for one in edge.workers.asked]

    assert [answer.status for answer in answers] == [200, 200]
    # On a busy machine, one of the four may have come too late to be repeated.
    assert sum(told) == 6 - len(told) > 0
    assert told[-1] == 0
    assert all(one.all("x-bulkhead-repeated") == [] for one in edge.upstream.seen)


async def test_of_several_that_were_asked_about_at_once_each_counts(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    edge.workers.first = [bytes(refused(lasts_ms=600)) for _ in range(2)]
    edge.workers.decide(admitted())
    edge.workers.slow_s = 0.1
    late = asyncio.create_task(send(edge.http_port, ask(credential)))
    while not edge.workers.raw:  # noqa: ASYNC110 nothing tells when
        await asyncio.sleep(0.005)
    edge.workers.slow_s = 0
    early = [(await send(edge.http_port, ask(credential))).status for _ in range(5)]
    later = (await late).status
    await asyncio.sleep(0.7)
    last = (await send(edge.http_port, ask(credential))).status
    told = [repeated(edge, one) for one in edge.workers.asked]

    assert (early, later, last) == ([403] * 5, 403, 200)
    assert told == [0, 0, 4]


async def test_a_lease_is_spent_before_a_refusal_is_repeated(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    edge.workers.slow_s = 0.05
    edge.workers.first = [bytes(granted(calls=2)), bytes(refused())]
    edge.workers.decide(admitted())
    both = await asyncio.gather(*(send(edge.http_port, ask(credential)) for _ in range(2)))
    edge.workers.slow_s = 0
    kept = [await passed_by(edge, ask(credential)) for _ in range(3)]

    assert {answer.status for answer in both} == {200, 403}
    # Whichever answer came first: a lease takes a refusal's place, and a refusal no lease's.
    assert kept == [True, True, False]


@pytest.mark.behaviour("T-E7")
async def test_nobody_else_says_how_often(edge: Edge) -> None:
    await send(edge.http_port, ask(next(CREDENTIALS), ("x-bulkhead-repeated", "9")))

    assert edge.workers.header("x-bulkhead-repeated") == []
