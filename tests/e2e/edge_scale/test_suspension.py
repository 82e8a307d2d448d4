"""A suspension under load: once it is applied, no connection to any of Envoy's threads admits another request."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import httpx
import pytest

from bulkhead.v1 import edges_pb2, edges_pb2_grpc, tenant_requests_pb2, tenants_pb2, tenants_pb2_grpc
from tests.e2e.edge_scale.conftest import IS_BATTERY, Scaled, Tell, scaled
from tests.fixtures.edge import EdgeTenant, Founder
from tests.fixtures.eventually import eventually

TRIALS: Final = 1000 if IS_BATTERY else 50
THREADS: Final = 4
# By turns of HTTP/1.1 and HTTP/2; more, if a thread of Envoy's has none of these.
CONNECTIONS: Final = 8
STREAMS: Final = 2
# Begun and ended within each phase, on each connection.
ANSWERS: Final = 2


@dataclass(eq=False, kw_only=True)
class Phase:
    """A time in which all answers are to be alike."""

    expected: int
    answers: Counter[int] = field(default_factory=Counter)
    """By connection."""
    wrong: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By version of HTTP and status."""


class Callers:
    """Some who ask for the same over and over, each over a connection of its own that stays open."""

    def __init__(self, world: Scaled, tenant: EdgeTenant) -> None:
        self._world = world
        self._url = f"http://{world.stack.endpoints['edge_http']}{tenant.certificates}"
        self._headers = {**tenant.bearer, "host": world.stack.endpoints["edge_authority"]}
        self._connections = 0
        self.phase: Phase | None = None
        """None between two of them, when anything may be answered."""

    @asynccontextmanager
    async def calling(self) -> AsyncIterator[None]:
        """Call until the end of the context, over connections to each of Envoy's threads."""
        async with AsyncExitStack() as opened:
            group = await opened.enter_async_context(asyncio.TaskGroup())
            tasks = []
            while self._connections < CONNECTIONS or await asyncio.to_thread(self._idle_threads):
                client = await opened.enter_async_context(self._connection())
                first = await client.get(self._url, headers=self._headers)
                assert first.status_code == 200, first.text
                streams = STREAMS if first.http_version == "HTTP/2" else 1
                tasks += [group.create_task(self._call(client, self._connections)) for _ in range(streams)]
                self._connections += 1
            yield
            for task in tasks:
                task.cancel()

    async def all_answered(self) -> None:
        """Wait until each connection has had its answers in this phase."""
        phase = self.phase
        assert phase is not None
        await eventually(lambda: all(phase.answers[one] >= ANSWERS for one in range(self._connections)))

    def _connection(self) -> httpx.AsyncClient:
        second = self._connections % 2 == 1
        transport = httpx.AsyncHTTPTransport(
            http1=not second,
            http2=second,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            # Another address for each: what one source may ask for is bounded.
            local_address=f"127.0.0.{self._connections + 2}",
        )
        return httpx.AsyncClient(transport=transport, timeout=30)

    def _idle_threads(self) -> bool:
        assert self._connections < 64, "some thread of Envoy's gets no connection"
        active = self._world.counters(r"listener\.edge_http\.worker_\d+\.downstream_cx_active")
        assert len(active) == THREADS
        return 0 in active.values()

    async def _call(self, client: httpx.AsyncClient, connection: int) -> None:
        while True:
            phase = self.phase
            answer = await client.get(self._url, headers=self._headers)
            # Across the end of a phase either answer is right. A busy machine may miss the agent's deadline.
            if phase is None or phase is not self.phase or answer.status_code == 503:
                continue
            phase.answers[connection] += 1
            if answer.status_code != phase.expected:
                phase.wrong[(answer.http_version, answer.status_code)] += 1


class Changes:
    """Suspends and reactivates one tenant, and waits until that is applied."""

    def __init__(self, world: Scaled, tenant: EdgeTenant, channel: grpc.aio.Channel) -> None:
        self._name = f"tenants/{tenant.tenant_id}"
        self._metadata = world.metadata
        self._tenants: Any = tenants_pb2_grpc.TenantServiceStub(channel)
        self._edges: Any = edges_pb2_grpc.EdgeServiceStub(channel)
        self.seconds: list[float] = []
        """From the answer to each change until all edges had applied it."""

    async def suspend(self) -> None:
        asked = tenant_requests_pb2.SuspendTenantRequest(name=self._name, reason="for the tests")
        await self._wait(await self._tenants.SuspendTenant(asked, metadata=self._metadata))

    async def reactivate(self) -> None:
        asked = tenant_requests_pb2.ReactivateTenantRequest(name=self._name)
        await self._wait(await self._tenants.ReactivateTenant(asked, metadata=self._metadata))

    async def _wait(self, changed: tenants_pb2.Tenant) -> None:
        begun = time.perf_counter()
        asked = edges_pb2.WaitAppliedRequest(revision=changed.edge_revision)
        answer = await self._edges.WaitApplied(asked, metadata=self._metadata, timeout=30)
        self.seconds.append(time.perf_counter() - begun)
        assert answer.applied, answer


@pytest.fixture(scope="module")
def world() -> Iterator[Scaled]:
    with scaled("--proxy-workers", str(THREADS)) as running:
        yield running


@pytest.fixture(scope="module")
def tenant(world: Scaled) -> Iterator[EdgeTenant]:
    with (
        grpc.secure_channel(world.stack.endpoints["admin_grpc"], world.credentials) as control,
        grpc.secure_channel(world.stack.endpoints["certificates_grpc"], world.credentials) as certificates,
    ):
        founder = Founder(world.stack, control, certificates)
        tenant = founder.found("trial")
        founder.applied()
        yield tenant


@pytest.mark.behaviour("S4.7")
@pytest.mark.behaviour("T-P5")
@pytest.mark.timeout(3600 if IS_BATTERY else 900)
async def test_what_begins_after_a_suspension_is_applied_is_refused_on_every_connection(
    world: Scaled, tenant: EdgeTenant, tell: Tell
) -> None:
    callers = Callers(world, tenant)
    phases: list[Phase] = []

    async def phase(expected: int) -> None:
        callers.phase = Phase(expected=expected)
        phases.append(callers.phase)
        await callers.all_answered()
        callers.phase = None

    async with grpc.aio.secure_channel(world.stack.endpoints["admin_grpc"], world.credentials) as channel:
        changes = Changes(world, tenant, channel)
        async with callers.calling():
            for _ in range(TRIALS):
                await changes.suspend()
                await phase(403)
                await changes.reactivate()
                await phase(200)
    ordered = sorted(changes.seconds)
    tell("suspension.trials", TRIALS)
    tell("suspension.answers", sum(sum(one.answers.values()) for one in phases))
    tell("suspension.applied_p50_ms", statistics.median(ordered) * 1000)
    tell("suspension.applied_p99_ms", ordered[int(len(ordered) * 0.99)] * 1000)
    tell("suspension.applied_max_ms", ordered[-1] * 1000)

    assert {number: one.wrong for number, one in enumerate(phases) if one.wrong} == {}
