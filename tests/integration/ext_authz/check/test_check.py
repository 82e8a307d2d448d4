"""Check over the wire: what Envoy is answered, what is told to others, and what holds while Valkey is asked."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from bulkhead.envoy.v3 import check_pb2
from control_plane.serving.context import decode
from ext_authz.authz import answers, servicer
from ext_authz.authz.methods import Wire
from ext_authz.budgets.reserves import Budgets
from ext_authz.leases.strangers import OFTEN
from ext_authz.policies.model import Index, Period, RateLimit
from ext_authz.reports.model import Denial, Usage
from tests.integration.ext_authz.check.servers import KEY, Edge, HeldLimiter, edge, refusal
from tests.integration.ext_authz.limiter.valkey_servers import valkey_server
from tests.unit.ext_authz.authz.checks import (
    DOMAIN,
    GET,
    INDEX,
    ISSUE,
    METHODS,
    NOW,
    SUSPENDED,
    A,
    Ask,
    B,
    grpc_ask,
    index_of,
    tenant,
)

SUSPENDED_A = tenant(1, state=SUSPENDED.policy.state, revision=10)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bh-") as name:
        yield Path(name)


@pytest.fixture
async def limiter() -> HeldLimiter:
    return HeldLimiter()


@pytest.fixture
async def served(folder: Path, limiter: HeldLimiter) -> AsyncIterator[Edge]:
    async with edge(folder, limiter) as served:
        yield served


async def test_the_right_request_goes_on_with_a_context_that_the_service_believes(served: Edge) -> None:
    answer = await served.check(Ask().check())
    (context,) = answer.ok_response.headers
    signed = decode(context.header.value, KEY, now=NOW)

    assert answer.status.code == 0
    assert (str(signed.tenant), signed.subject, set(signed.scopes)) == ("org_1", "alice", {"certificates.read"})
    assert signed.quota is not None
    assert (signed.quota.remaining, signed.quota.as_of) == (599, NOW)
    assert served.usages == [
        Usage(
            tenant_uid=A.policy.uid,
            method=GET,
            cost=1,
            admitted=True,
            credential=A.claims().token_id,
            lease_class="certificates.read",
        )
    ]
    assert served.denials == []


async def test_the_limit_is_admitted_and_not_one_more(folder: Path) -> None:
    few = tenant(1, requests_per_minute=3)
    async with (
        valkey_server() as valkey,
        Budgets.open(valkey.socket, valkey.edge_key) as budgets,
        edge(folder, budgets) as served,
    ):
        served.servicer.use(index_of(few))
        responses = [await served.check(Ask(request_id=f"request-{n}").check()) for n in range(9)]
    admitted = [usage.admitted for usage in served.usages]

    # The minute may have ended meanwhile.
    assert admitted in ([True] * 3 + [False] * 6, *([*[True] * 3, *[False] * n, *[True] * 3] for n in range(4)))
    assert {refusal(response) for response in responses if response.status.code} == {(429, "RATE_LIMITED")}


@pytest.mark.behaviour("S3.19")
async def test_a_call_costs_what_its_rule_says(served: Edge, limiter: HeldLimiter) -> None:
    token = A.token(scopes=("certificates.read", "certificates.write"))
    await served.check(Ask(token=token).check())
    await served.check(Ask(token=token, http_method="POST", path="/api/v1/tenants/org_1/certificates:issue").check())
    costs = [METHODS.find(Wire.GRPC, "POST", path) for path in (GET, ISSUE)]

    assert limiter.costs == [method.cost for method in costs if method]
    assert limiter.costs[0] < limiter.costs[1]


@pytest.mark.behaviour("S3.8")
async def test_the_tightest_window_is_told_and_signed(folder: Path) -> None:
    limits = (RateLimit(period=Period.DAY, units=12), RateLimit(period=Period.MONTH, units=1_000))
    few = tenant(1, rate_limits=limits, time_zone="Asia/Tokyo")
    async with (
        valkey_server() as valkey,
        Budgets.open(valkey.socket, valkey.edge_key) as budgets,
        edge(folder, budgets) as served,
    ):
        served.servicer.use(index_of(few))
        first, *_, last = [await served.check(Ask(request_id=f"request-{n}").check()) for n in range(13)]
    (context,) = first.ok_response.headers
    signed = decode(context.header.value, KEY, now=NOW)
    fields = {each.header.key: each.header.value for each in last.denied_response.headers}

    assert signed.quota is not None
    assert signed.quota.remaining == 11
    assert refusal(last) == (429, "RATE_LIMITED")
    assert fields["ratelimit-policy"] == '"units-day";q=12;w=86400'
    assert fields["ratelimit"] == f'"units-day";r=0;t={fields["retry-after"]}'
    assert "the tenant's 12 units of this day are used up" in last.denied_response.body


async def test_a_request_that_envoy_asks_about_twice_is_counted_once(folder: Path) -> None:
    few = tenant(1, requests_per_minute=1)
    async with (
        valkey_server() as valkey,
        Budgets.open(valkey.socket, valkey.edge_key) as budgets,
        edge(folder, budgets) as served,
    ):
        served.servicer.use(index_of(few))
        codes = [(await served.check(Ask().check())).status.code for _ in range(2)]

    assert codes == [0, 0]


async def test_strangers_are_all_answered_alike(served: Edge) -> None:
    paths = (
        "/api/v1/tenants/org_1/certificates",
        "/api/v1/tenants/org_404/certificates",
        "/api/v1/tenants/org_3/x",
        "/",
    )
    asks = [Ask(token=token, path=path) for token in (None, B.token(), "x") for path in paths]
    found = {await served.send(ask.check().SerializeToString()) for ask in asks}

    assert found == {answers.STRANGER}
    assert len(served.denials) == len(asks)


@pytest.mark.behaviour("E2.3")
async def test_a_denial_says_whose_caller_asked_for_what(served: Edge) -> None:
    await served.check(Ask(tenant="org_2").check())
    await served.check(grpc_ask(host=b"org-2.csm.example.com", tenant=None).check())
    await served.check(Ask(token=None).check())
    await served.check(Ask(path="/api/v1/tenants/org_1/nothing").check())
    common: dict[str, Any] = {"peer": "192.0.2.7", "request_id": "request-1", "method": GET}

    assert served.denials == [
        Denial(
            tenant_id="org_1",
            actor="tenant-member:alice",
            resource="tenants/org_1",
            reason="TENANT_MISMATCH",
            **common,
        ),
        # Whose the host is, is not told to A.
        Denial(
            tenant_id="org_1",
            actor="tenant-member:alice",
            resource="tenants/org_1",
            reason="TENANT_MISMATCH",
            **common,
        ),
        Denial(tenant_id="", actor="anonymous", resource="tenants/org_1", reason="TOKEN_MISSING", **common),
        Denial(
            tenant_id="org_1",
            actor="tenant-member:alice",
            resource="tenants/org_1",
            reason="METHOD_UNKNOWN",
            **{**common, "method": ""},
        ),
    ]


@pytest.mark.behaviour("T-E16")
async def test_whoever_is_refused_again_and_again_is_told_so_without_being_asked_about(
    served: Edge,
) -> None:
    kept = ("x-bulkhead-unspent", b"0")
    ask = Ask(token=B.token(), more=(kept,))
    told = [await served.send(ask.check().SerializeToString()) for _ in range(OFTEN)]
    (repeated,) = check_pb2.CheckResponse.FromString(told.pop()).denied_response.headers
    other = await served.send(Ask(token=None, more=(kept,)).check().SerializeToString())
    unkept = await served.send(replace(ask, more=()).check().SerializeToString())
    await served.send(replace(ask, more=(kept, ("x-bulkhead-repeated", b"41"))).check().SerializeToString())

    assert {*told, other, unkept} == {answers.STRANGER}
    ends_ms = int(NOW.timestamp() * 1000) + 1000
    assert (repeated.header.key, repeated.header.value) == ("x-bulkhead-grant", f"refused 0 {ends_ms} - refused")
    assert [denial.count for denial in served.denials[-3:]] == [1, 1, 42]


@pytest.mark.behaviour("T-E10")
async def test_a_mix_up_is_told_to_both_tenants(served: Edge) -> None:
    await served.check(Ask(token=A.token(tenant_id="org_2"), path="/api/v1/tenants/org_2/certificates").check())

    assert [(denial.tenant_id, denial.reason) for denial in served.denials] == [
        ("org_1", "TOKEN_OF_ANOTHER_TENANT"),
        ("org_2", "TOKEN_OF_ANOTHER_TENANT"),
    ]


async def test_what_cannot_be_counted_is_not_admitted(served: Edge, limiter: HeldLimiter) -> None:
    limiter.is_away = True
    answer = await served.check(Ask().check())

    assert refusal(answer) == (503, "RATE_UNAVAILABLE")
    assert (served.usages, served.denials) == ([], [])


async def test_a_worker_that_knows_nothing_yet_says_so(served: Edge) -> None:
    served.servicer.use(Index(domain=DOMAIN))

    assert refusal(await served.check(Ask().check())) == (503, "POLICY_MISSING")
    assert served.denials == []


async def test_an_outage_is_no_denial(served: Edge) -> None:
    assert refusal(await served.check(Ask(epoch="6").check())) == (503, "EPOCH_BEHIND")
    assert served.denials == []


async def test_a_suspension_that_is_applied_while_valkey_is_asked_holds(served: Edge, limiter: HeldLimiter) -> None:
    limiter.go.clear()
    waiting = asyncio.create_task(served.check(Ask().check()))
    await limiter.holds(1)
    served.servicer.use(index_of(SUSPENDED_A, B, revision=10))
    limiter.go.set()

    assert refusal(await waiting) == (403, "TENANT_SUSPENDED")
    assert served.usages == []


async def test_a_revocation_that_is_applied_while_valkey_is_asked_holds(served: Edge, limiter: HeldLimiter) -> None:
    limiter.go.clear()
    waiting = asyncio.create_task(served.check(Ask().check()))
    await limiter.holds(1)
    served.servicer.use(index_of(A, B, revoked=[A.claims().token_id]))
    limiter.go.set()

    assert refusal(await waiting) == (401, "TOKEN_REVOKED")


async def test_news_of_others_disturb_nobody(served: Edge, limiter: HeldLimiter) -> None:
    limiter.go.clear()
    waiting = asyncio.create_task(served.check(Ask().check()))
    await limiter.holds(1)
    served.servicer.use(index_of(A, as_of=NOW + timedelta(seconds=1), revision=12))
    limiter.go.set()

    assert (await waiting).status.code == 0


async def test_it_is_settled_when_what_began_before_has_ended(served: Edge, limiter: HeldLimiter) -> None:
    limiter.go.clear()
    before = [asyncio.create_task(served.check(Ask().check())) for _ in range(3)]
    await limiter.holds(3)
    waits = asyncio.create_task(served.servicer.settled())
    await asyncio.sleep(0)
    held = not waits.done()
    gate, limiter.go = limiter.go, asyncio.Event()
    after = asyncio.create_task(served.check(Ask().check()))
    await limiter.holds(1)
    gate.set()
    await asyncio.gather(*before)
    await waits
    still_held = not after.done()
    limiter.go.set()
    await after
    await served.servicer.settled()

    assert held
    assert still_held
    assert not served.servicer._older


async def test_settling_twice_waits_for_the_same_checks(served: Edge, limiter: HeldLimiter) -> None:
    limiter.go.clear()
    running = asyncio.create_task(served.check(Ask().check()))
    await limiter.holds(1)
    waits = [asyncio.create_task(served.servicer.settled()) for _ in range(3)]
    await asyncio.sleep(0.01)
    waits[0].cancel()
    await asyncio.sleep(0.01)
    held = [each.done() for each in waits[1:]]
    limiter.go.set()
    await running
    await asyncio.gather(*waits[1:])

    assert held == [False, False]


async def test_a_caller_that_goes_leaves_nothing_to_wait_for(served: Edge, limiter: HeldLimiter) -> None:
    limiter.go.clear()
    running = asyncio.create_task(served.check(Ask().check()))
    await limiter.holds(1)
    running.cancel()
    async with asyncio.timeout(30):
        await served.servicer.settled()

    assert served.usages == []


@pytest.mark.parametrize("request_bytes", [b"\xff\xff", b"\x0a\x05", b"", Ask(epoch=None).check().SerializeToString()])
async def test_what_is_no_check_of_ours_is_an_error(served: Edge, request_bytes: bytes) -> None:
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as failed:
        await served.send(request_bytes)

    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert [each["event"] for each in logs] == ["check_undecidable"]


async def test_a_fault_of_ours_is_an_error_that_tells_nothing(served: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr(servicer, "decide", broken)
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as failed:
        await served.check(Ask().check())
    monkeypatch.undo()

    assert (failed.value.code(), failed.value.details()) == (grpc.StatusCode.INTERNAL, "this cannot be decided")
    assert [each["event"] for each in logs] == ["check_failed"]
    assert (await served.check(Ask().check())).status.code == 0
    await served.servicer.settled()


async def test_an_index_is_swapped_whole(served: Edge) -> None:
    later = index_of(replace(A, policy=replace(A.policy, revision=11)), revision=11)
    served.servicer.use(later)

    assert served.servicer.index is later
    assert (await served.check(Ask(epoch="11").check())).status.code == 0
    served.servicer.use(INDEX)
    assert refusal(await served.check(Ask(epoch="11").check())) == (503, "EPOCH_BEHIND")


def test_an_answer_is_read_as_one() -> None:
    assert refusal(check_pb2.CheckResponse.FromString(answers.STRANGER)) == (404, "")
