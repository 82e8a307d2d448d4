"""What the edge costs: a Check for each request, and a change until every edge enforces it.

Where there are two cores, Envoy, the workers, Valkey and the callers share them: then requests a second are what all of
them have time for together, and the ratio of two is the figure that lasts. `worker_cpu_us` is the worker's own time.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import psutil
import uvloop

from bulkhead.envoy.v3 import check_pb2
from bulkhead.v1 import (
    edges_pb2,
    edges_pb2_grpc,
    rules_pb2,
    tenant_requests_pb2,
    tenants_pb2_grpc,
    tokens_pb2,
    tokens_pb2_grpc,
)
from control_plane import private_file
from ext_authz.policies.last_good import LastGoodCopy
from ext_authz.policies.model import TenantPolicy
from ext_authz.settings import EdgeSettings
from tests.bench.callers import REQUEST_ID, Caller, Load, check_callers, check_request, http_callers, http_request, run
from tests.bench.chains import running_chains
from tests.bench.measure import Figure, quantile
from tests.bench.system import System
from tests.fixtures.synthetic import insert

CREDENTIALS: Final = 100
ROUNDS: Final = 5
CONNECTIONS: Final = 16
REQUESTS: Final = 1500
REQUESTS_ALONE: Final = 200
CHECKS: Final = 5000
CHECK_CONNECTIONS: Final = 4
CHECKS_AT_A_TIME: Final = 8
SYNTHETIC: Final = 10_000
CHANGES: Final = 60
# The highest that there is: nothing here is measured at a tenant's limit.
RATE: Final = 1_000_000

Open = Callable[[], Awaitable[list[Caller]]]


async def check(system: System) -> AsyncIterator[Figure]:
    """Measure requests with and without a Check, and Checks without Envoy."""
    edge = EdgeSettings.from_dir(system.state_dir)
    async with system.channel(system.settings.control_plane) as channel:
        tenant = await system.create_tenant(channel, requests_per_minute=RATE)
        tokens = await issue(system, channel, tenant)
        await applied(system, channel, 0)
    for figure in [*await _chains(system, edge, tenant, tokens=tokens), *await _worker(edge, tenant, tokens)]:
        yield figure


async def apply(system: System) -> AsyncIterator[Figure]:
    """Suspend and reactivate a tenant among thousands: from the answer to that until every edge has applied it."""
    await asyncio.to_thread(insert, system.settings, SYNTHETIC)
    taken: list[float] = []
    async with system.channel(system.settings.control_plane) as channel:
        tenant = await system.create_tenant(channel)
        await applied(system, channel, 0)
        service: Any = tenants_pb2_grpc.TenantServiceStub(channel)
        name = f"tenants/{tenant}"
        for _ in range(CHANGES):
            for change, asked in (
                (service.SuspendTenant, tenant_requests_pb2.SuspendTenantRequest(name=name, reason="measured")),
                (service.ReactivateTenant, tenant_requests_pb2.ReactivateTenantRequest(name=name)),
            ):
                changed = await change(asked, metadata=system.metadata)
                begun = time.perf_counter()
                await applied(system, channel, changed.edge_revision)
                taken.append((time.perf_counter() - begun) * 1000)
    yield figure("edge.apply_p50_ms", statistics.median(taken), "ms", runs=len(taken))
    yield figure("edge.apply_p99_ms", quantile(taken, 0.99), "ms", runs=len(taken))


async def _chains(system: System, edge: EdgeSettings, tenant: str, *, tokens: Sequence[str]) -> list[Figure]:
    """Send the same requests to the same chain with and without the Check, by turns."""
    path, host = f"/api/v1/tenants/{tenant}/certificates", edge.shared_hosts[0]
    requests = [http_request(path, host=host, token=token) for token in tokens]
    rates: dict[str, list[float]] = {"checked": [], "unchecked": []}
    alone: dict[str, list[float]] = {"checked": [], "unchecked": []}
    async with running_chains(edge, policy(edge, tenant), system.folder) as chains:
        addresses = {"unchecked": chains.unchecked, "checked": chains.checked}
        for number, (kind, address) in itertools.product(range(ROUNDS + 1), addresses.items()):
            many = await measured(partial(http_callers, address, CONNECTIONS), requests, REQUESTS)
            one = await measured(partial(http_callers, address, 1), requests, REQUESTS_ALONE)
            # The first round warms up.
            if number:
                rates[kind].append(many[0])
                alone[kind] += one[1]
    pairs = zip(rates["checked"], rates["unchecked"], strict=True)
    ratio = statistics.median(checked / unchecked for checked, unchecked in pairs)
    with_check, without = (statistics.median(alone[kind]) * 1000 for kind in ("checked", "unchecked"))
    baseline = statistics.median(rates["unchecked"])
    return [
        figure("edge.check.rps", statistics.median(rates["checked"]), "1/s", baseline=baseline, runs=ROUNDS),
        figure("edge.check.throughput_ratio", ratio, "", runs=ROUNDS),
        figure("edge.check.added_p50_ms", with_check - without, "ms", baseline=without, runs=len(alone["checked"])),
    ]


async def _worker(edge: EdgeSettings, tenant: str, tokens: Sequence[str]) -> list[Figure]:
    """Send Checks to one worker, as many as it can answer, and one after the other."""
    requests = [check_request(_check(edge, tenant, token)) for token in tokens]
    many = partial(check_callers, edge.check_socket(0), CHECK_CONNECTIONS, at_a_time=CHECKS_AT_A_TIME)
    one = partial(check_callers, edge.check_socket(0), 1, at_a_time=1)
    await measured(many, requests, CHECKS)
    worker = _process(edge, 0)
    before = sum(worker.cpu_times()[:2])
    rates = [(await measured(many, requests, CHECKS))[0] for _ in range(ROUNDS)]
    spent = (sum(worker.cpu_times()[:2]) - before) / (CHECKS * ROUNDS)
    _, alone = await measured(one, requests, CHECKS // ROUNDS)
    return [
        figure("edge.check.per_process_rps", statistics.median(rates), "1/s", runs=ROUNDS),
        figure("edge.check.worker_cpu_us", spent * 1e6, "µs", runs=CHECKS * ROUNDS),
        figure("edge.check.alone_p50_ms", statistics.median(alone) * 1000, "ms", runs=len(alone)),
        figure("edge.check.alone_p99_ms", quantile(alone, 0.99) * 1000, "ms", runs=len(alone)),
    ]


async def measured(open_callers: Open, requests: Sequence[bytes], count: int) -> tuple[float, list[float]]:
    """Send so many requests; return how many a second were answered, and how long each took."""

    async def measure() -> tuple[float, list[float]]:
        callers = await open_callers()
        load = Load(requests, count)
        rate = await run(callers, load)
        for caller in callers:
            caller.close()
        return rate, load.seconds

    # A quicker loop than ours, in a thread while ours has nothing to do.
    return await asyncio.to_thread(uvloop.run, measure())


def _process(edge: EdgeSettings, worker: int) -> psutil.Process:
    ends = ["worker", "--dir", str(edge.state_dir), "--number", str(worker)]
    return next(one for one in psutil.process_iter() if one.cmdline()[-len(ends) :] == ends)


async def issue(system: System, channel: Any, tenant: str) -> list[str]:
    service: Any = tokens_pb2_grpc.TokenServiceStub(channel)
    asked = [
        tokens_pb2.IssueTokenRequest(
            parent=f"tenants/{tenant}",
            subject=f"caller{number}",
            role=rules_pb2.ROLE_TENANT_MEMBER,
            scopes=["certificates.read"],
        )
        for number in range(CREDENTIALS)
    ]
    return [(await service.IssueToken(one, metadata=system.metadata)).token for one in asked]


async def applied(system: System, channel: Any, revision: int) -> None:
    service: Any = edges_pb2_grpc.EdgeServiceStub(channel)
    answer = await service.WaitApplied(edges_pb2.WaitAppliedRequest(revision=revision), metadata=system.metadata)
    if not answer.applied or not answer.live_edges:
        raise RuntimeError(f"revision {answer.revision} is not applied: {answer}")


def _check(edge: EdgeSettings, tenant: str, token: str) -> bytes:
    """Make a Check as the edge's Envoy sends it."""
    path, host = f"/api/v1/tenants/{tenant}/certificates", edge.shared_hosts[0]
    headers = {
        ":authority": host,
        ":path": path,
        ":method": "GET",
        ":scheme": "http",
        "accept": "*/*",
        "authorization": f"Bearer {token}",
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-request-id": REQUEST_ID.decode(),
        "x-bulkhead-tenant": f"id:{tenant}",
    }
    request = check_pb2.CheckRequest()
    request.attributes.context_extensions["epoch"] = "1"
    request.attributes.source.address.socket_address.address = "127.0.0.1"
    request.attributes.request.time.GetCurrentTime()
    http = request.attributes.request.http
    http.id, http.protocol = b"12345678901234567890", "HTTP/1.1"
    http.method, http.path, http.host, http.scheme = b"GET", path.encode(), host.encode(), b"http"
    for name, value in headers.items():
        http.header_map.headers.add(key=name, raw_value=value.encode())
    return request.SerializeToString()


def policy(edge: EdgeSettings, tenant: str) -> TenantPolicy:
    """Return what the edge knows of the tenant, by its copy."""
    change = LastGoodCopy(edge.edge_dir, private_file.read(edge.copy_key)).read()
    if change is None:
        raise RuntimeError("the edge has no copy of the policies")
    return next(policy for policy in change.tenants if policy.tenant_id == tenant)


def figure(case: str, value: float, unit: str, *, baseline: float = 0, runs: int) -> Figure:
    return Figure(case=case, value=round(value, 3), unit=unit, baseline=round(baseline, 3), runs=runs)
