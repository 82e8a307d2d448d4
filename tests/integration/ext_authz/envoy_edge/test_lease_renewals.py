"""A lease is renewed before it is used up, and what is left of one is told once."""

import asyncio

import pytest

from tests.integration.ext_authz.envoy_edge.decisions import admitted
from tests.integration.ext_authz.envoy_edge.edge import Edge
from tests.integration.ext_authz.envoy_edge.http1 import send
from tests.integration.ext_authz.envoy_edge.leasing import CREDENTIALS, ask, grant, granted, passed_by, told

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.behaviour("S3.4")
@pytest.mark.parametrize(("spent", "left"), [(0, " a:3 b:3"), (2, " a:1 b:3"), (3, " b:3"), (4, " b:2"), (6, "")])
async def test_what_is_left_is_told_once_of_each_grant_in_the_order_in_which_they_are_spent(
    edge: Edge, spent: int, left: str
) -> None:
    credential = next(CREDENTIALS)
    edge.workers.slow_s = 0.05
    edge.workers.first = [bytes(granted(name=name, calls=3)) for name in ("a", "b")]
    edge.workers.decide(admitted())
    await asyncio.gather(*(send(edge.http_port, ask(credential)) for _ in range(2)))
    edge.workers.slow_s = 0
    asked = len(edge.workers.raw)
    passed = [await passed_by(edge, ask(credential)) for _ in range(spent)]
    # It is for another host than the one that they were granted for.
    other = await passed_by(edge, ask(credential, host="acme.csm.example.com"))
    again = await passed_by(edge, ask(credential))

    assert asked == 2
    assert passed == [True] * spent
    assert told(edge, edge.workers.asked[-2]) == (6, left)
    assert (other, again) == (False, False)
    assert edge.workers.header("x-bulkhead-unspent") == [b"0"]


async def test_a_large_lease_is_renewed_by_one_request_while_others_go_on_with_it(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    grant(edge, name="a", calls=32)
    passed = [await passed_by(edge, ask(credential)) for _ in range(1 + 28)]
    edge.workers.slow_s = 0.08
    grant(edge, name="b", calls=20)
    renewing = asyncio.create_task(send(edge.http_port, ask(credential)))
    while len(edge.workers.raw) < 2:  # noqa: ASYNC110 nothing tells when
        await asyncio.sleep(0.005)
    meanwhile = [await passed_by(edge, ask(credential)) for _ in range(3)]
    await renewing
    edge.workers.slow_s = 0
    spent = 3
    while await passed_by(edge, ask(credential)):
        spent += 1

    assert passed == [False] + [True] * 28
    assert meanwhile == [True] * 3
    # Of the first one, at least the last call is left when the other one comes.
    assert 20 <= spent < 24
    # First what was used up to then; what was left of it, and was spent no more, afterwards.
    left = 4 + 20 - spent
    assert [told(edge, asked) for asked in edge.workers.asked[1:]] == [(28, ""), (4 + 20, f" a:{left}" if left else "")]


async def test_a_large_lease_is_renewed_before_it_ends(edge: Edge) -> None:
    credential = next(CREDENTIALS)
    grant(edge, calls=100, lasts_ms=500)
    passed = [await passed_by(edge, ask(credential)) for _ in range(2)]
    await asyncio.sleep(0.42)
    edge.workers.decide(admitted())
    late = await passed_by(edge, ask(credential))

    assert passed == [False, True]
    assert not late
    # On a busy machine it has ended by then.
    assert told(edge) in {(1, ""), (100, " 7:99")}
