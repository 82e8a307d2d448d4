"""The agent's mind behind a real Envoy: what callers read, and what the service behind it is sent."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import grpc
import pytest
import pytest_asyncio

from control_plane.serving.context import decode
from tests.integration.ext_authz.check.deciding import deciding_edge
from tests.integration.ext_authz.check.servers import KEY, HeldLimiter
from tests.integration.ext_authz.envoy_edge.calls import call
from tests.integration.ext_authz.envoy_edge.edge import Edge
from tests.integration.ext_authz.envoy_edge.http1 import Answer, request, send
from tests.unit.ext_authz.authz.checks import ABSENT, NOW, SUSPENDED, A, B, Tenant

pytestmark = pytest.mark.asyncio(loop_scope="module")
OWN = "/api/v1/tenants/org_1/certificates"


@dataclass(slots=True)
class Decided:
    """An edge whose requests are really decided."""

    edge: Edge
    rate: HeldLimiter

    async def get(self, path: str = OWN, *headers: tuple[str, str], token: str | None = None) -> Answer:
        authorization = () if token == "" else (("authorization", f"Bearer {token or A.token()}"),)
        return await send(self.edge.http_port, request(path, *authorization, *headers))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Decided]:
    rate = HeldLimiter()
    async with deciding_edge(rate) as edge:
        yield Decided(edge, rate)


@pytest.fixture
def decided(running: Decided) -> Decided:
    running.rate.left, running.rate.is_away = 9, False
    running.edge.upstream.seen.clear()
    return running


async def test_the_service_is_sent_the_context_and_no_credential(decided: Decided) -> None:
    answer = await decided.get(OWN, ("x-tenant-id", "org_1"), ("x-bulkhead-context", "forged"))
    (seen,) = decided.edge.upstream.seen
    (context,) = seen.all("x-bulkhead-context")

    assert answer.status == 200
    assert decode(context, KEY, now=NOW).subject == "alice"
    assert seen.starting("x-bulkhead-").keys() == {"x-bulkhead-context"}
    assert [seen.all(name) for name in ("authorization", "x-tenant-id")] == [[], []]
    assert answer.header("ratelimit-policy") == '"minute";q=600;w=60'
    assert answer.header("ratelimit") == '"minute";r=8;t=42'


@pytest.mark.behaviour("S3.8")
async def test_whoever_is_limited_is_told_for_how_long(decided: Decided) -> None:
    decided.rate.left = 0
    answer = await decided.get()
    over_grpc = await call(decided.edge.http_port, ("x-tenant-id", "org_1"), ("authorization", f"Bearer {A.token()}"))

    assert (answer.status, answer.header("retry-after")) == (429, "42")
    assert json.loads(answer.body)["code"] == "RATE_LIMITED"
    assert over_grpc.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert over_grpc.message == "the tenant's 600 requests of this minute are used up; more in 42 s"
    assert over_grpc.metadata["retry-after"] == "42"
    assert decided.edge.upstream.seen == []


@pytest.mark.parametrize(
    ("owner", "path", "claims", "status", "code"),
    [
        (A, "/api/v1/tenants/org_1/keys", {}, 403, "METHOD_UNKNOWN"),
        (A, OWN, {"scopes": ()}, 403, "SCOPE_MISSING"),
        (A, OWN, {"role": "auditor"}, 403, "ROLE_NOT_ALLOWED"),
        (A, OWN, {"expire_time": NOW.replace(microsecond=0)}, 401, "TOKEN_EXPIRED"),
    ],
)
async def test_a_tenants_own_callers_read_the_reason(
    decided: Decided, owner: Tenant, path: str, claims: dict[str, object], status: int, code: str
) -> None:
    answer = await decided.get(path, token=owner.token(**claims))
    problem = json.loads(answer.body)

    assert (answer.status, answer.header("content-type")) == (status, "application/problem+json")
    assert (problem["code"], answer.header("x-bulkhead-reason")) == (code, code)
    assert problem["instance"] == answer.header("x-request-id")
    assert decided.edge.upstream.seen == []


async def test_a_rate_that_nobody_can_count_is_no_denial(decided: Decided) -> None:
    decided.rate.is_away = True
    answer = await decided.get()
    over_grpc = await call(decided.edge.http_port, ("x-tenant-id", "org_1"), ("authorization", f"Bearer {A.token()}"))

    assert (answer.status, answer.header("x-bulkhead-reason")) == (503, "RATE_UNAVAILABLE")
    assert answer.header("retry-after") == "1"
    assert over_grpc.code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.behaviour("T-E16")
async def test_strangers_read_the_same_bytes_whoever_answers(decided: Decided) -> None:
    tokens = ["", "x", B.token(), ABSENT.token(), SUSPENDED.token()]
    tenants = ["org_1", "org_3", "org_4", "org_404"]
    answers = {
        (await decided.get(f"/api/v1/tenants/{tenant}/{rest}", token=token)).normalised
        for token in tokens
        for tenant in tenants
        for rest in ("certificates", "nothing")
    }

    assert len(answers) == 1
    assert decided.edge.upstream.seen == []


@pytest.mark.behaviour("T-E2")
async def test_a_duplicate_that_envoy_forwards_is_refused(decided: Decided) -> None:
    stranger = (await decided.get(token="")).normalised
    doubled = [
        await decided.get(OWN, ("x-tenant-id", "org_1"), ("x-tenant-id", "org_1")),
        await decided.get(OWN, ("authorization", f"Bearer {A.token()}")),
        await decided.get(OWN, ("x-tenant-id", "org_2")),
        await decided.get(OWN, ("x-tenant-id", "org_1,org_1")),
    ]

    assert {answer.normalised for answer in doubled} == {stranger}
    assert decided.edge.upstream.seen == []


async def test_an_error_of_ours_reads_as_an_outage(decided: Decided) -> None:
    newer = replace(A.policy, revision=7)
    await decided.edge.tell(newer)
    answer = await decided.get()

    assert (answer.status, answer.header("x-bulkhead-reason")) == (503, "EPOCH_BEHIND")
    await decided.edge.tell(replace(newer, revision=5))
    assert (await decided.get()).status == 200
