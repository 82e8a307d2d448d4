"""What a leased request costs, beside one that is asked about and one that nobody looks at; and what neighbours notice.

Where there are two cores, Envoy, the workers, Valkey, the service and the callers share them: ratios are what lasts.
`proxy_cpu_us` is Envoy's own time for a request, beyond what it takes with none of it.
"""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import uvloop

from bulkhead.v1 import certificates_pb2, certificates_pb2_grpc
from control_plane import cell_key
from control_plane.ids import TenantId
from control_plane.serving.context import TenantContext, encode
from control_plane.serving.principal import Role
from ext_authz.settings import EdgeSettings
from tests.bench.callers import Flood, http_callers, http_request
from tests.bench.chains import Chains, running_chains
from tests.bench.edge import CONNECTIONS, RATE, REQUESTS_ALONE, applied, figure, issue, measured, policy
from tests.bench.measure import Figure, quantile
from tests.bench.system import System
from tests.isolation.rpc_requests import signing_request

KINDS: Final = ("leased", "checked", "unchecked", "bare")
# Short turns, and many: what a machine takes for a request is another a few seconds later.
ROUNDS: Final = 25
MANY: Final = {"checked": 500}
MOST: Final = 6_000
# Of those that are counted; before them, so that none begins with leases that have ended meanwhile.
WARMING_UP: Final = 1 / 3
# What a lease saves grows with what one credential asks for in its second.
CREDENTIALS: Final = 4
# The agent writes its copy so soon.
COPIED_WITHIN_S: Final = 3
REAL_REQUESTS: Final = 1_000
# All of them have to end before the context does that the chain without enforcement shows, which lasts five minutes.
REAL_ROUNDS: Final = 15

# What a list costs, by its rule.
COST: Final = 2
FLOOD_LIMIT_RPS: Final = 50
FLOOD_RPS: Final = FLOOD_LIMIT_RPS * 20
FLOOD_SOURCES: Final = 8
CROWD_CONNECTIONS: Final = 64
# A twentieth of what the service answers.
NEIGHBOUR_RPS: Final = 15
FLOODED_S: Final = 15.0


async def lease(system: System) -> AsyncIterator[Figure]:
    """Send the same requests to the same chain with leases, with a Check for each, and without any of it, by turns."""
    edge = EdgeSettings.from_dir(system.state_dir)
    tenant, tokens = await _tenant(system, requests_per_minute=RATE)
    path, host = f"/api/v1/tenants/{tenant}/certificates", edge.shared_hosts[0]
    requests = [http_request(path, host=host, token=token) for token in tokens[:CREDENTIALS]]
    async with running_chains(edge, policy(edge, tenant), system.folder) as chains:
        taken = await _by_turns(chains, KINDS, requests, many=lambda kind: MANY.get(kind, MOST))
        # All but those of the checked listener, which are as many as its requests.
        asked = await chains.counter("cluster.ext_authz.upstream_rq_total") - taken.requests["checked"]
    for kind in KINDS:
        yield figure(f"edge.lease.{kind}_rps", statistics.median(taken.rates[kind]), "1/s", runs=ROUNDS)
    yield figure("edge.lease.throughput_ratio", taken.ratio("leased", "bare"), "", runs=ROUNDS)
    yield figure("edge.lease.vs_check_throughput", taken.ratio("leased", "checked"), "", runs=ROUNDS)
    base = statistics.median(taken.cpu["bare"])
    for name, kind in (("proxy_cpu_us", "leased"), ("script_cpu_us", "unchecked"), ("checked_cpu_us", "checked")):
        yield figure(f"edge.lease.{name}", taken.added(kind, "bare"), "µs", baseline=base, runs=ROUNDS)
    leased, bare = taken.p50_ms("leased"), taken.p50_ms("bare")
    yield figure("edge.lease.added_p50_ms", leased - bare, "ms", baseline=bare, runs=ROUNDS)
    yield figure("edge.lease.requests_per_check", taken.requests["leased"] / max(asked, 1), "", runs=asked)


async def real_rpc(system: System) -> AsyncIterator[Figure]:
    """Read a certificate from the real service through the same chain with leases, and with nothing that enforces."""
    edge = EdgeSettings.from_dir(system.state_dir)
    tenant, tokens = await _tenant(system, requests_per_minute=RATE)
    async with system.channel(system.settings.certificates) as channel:
        service: Any = certificates_pb2_grpc.CertificateServiceStub(channel)
        asked = certificates_pb2.IssueCertificateRequest(
            parent=f"tenants/{tenant}", csr_pem=signing_request("bench.example.org")
        )
        name = (await service.IssueCertificate(asked, metadata=system.metadata)).name
    requests = [
        http_request(f"/api/v1/{name}", host=edge.shared_hosts[0], token=token) for token in tokens[:CREDENTIALS]
    ]
    context = _context(edge, tenant)
    async with running_chains(edge, policy(edge, tenant), system.folder, context=context) as chains:
        kinds = "leased", "bare"
        taken = await _by_turns(chains, kinds, requests, many=lambda _: REAL_REQUESTS, rounds=REAL_ROUNDS)
    leased, bare = taken.p50_ms("leased"), taken.p50_ms("bare")
    yield figure("edge.real_rpc.p50_ms", leased, "ms", baseline=bare, runs=REAL_ROUNDS)
    yield figure("edge.real_rpc.overhead_p50", leased / bare - 1, "", runs=REAL_ROUNDS)
    yield figure("edge.real_rpc.overhead_throughput", 1 - taken.ratio("leased", "bare"), "", runs=REAL_ROUNDS)


async def neighbours(system: System) -> AsyncIterator[Figure]:
    """Have one tenant ask now and then, alone, and beside floods.

    Another one's at 20 times its limit, over a few connections and over many, on which all that it may ask for in a
    second is under way at once; and strangers'.
    """
    edge = EdgeSettings.from_dir(system.state_dir)
    quiet, tokens = await _tenant(system, requests_per_minute=RATE)
    loud, flooding = await _tenant(system, requests_per_minute=RATE, units_per_second=FLOOD_LIMIT_RPS * COST)
    host = edge.shared_hosts[0]
    own = http_request(f"/api/v1/tenants/{quiet}/certificates", host=host, token=tokens[0])
    known, strange = (
        http_request(f"/api/v1/tenants/{loud}/certificates", host=host, token=token)
        for token in (flooding[0], tokens[1])
    )
    floods = {
        "alone": None,
        "flood": (known, FLOOD_SOURCES),
        "crowd": (known, CROWD_CONNECTIONS),
        "strangers": (strange, FLOOD_SOURCES),
    }
    found: dict[str, list[float]] = {kind: [] for kind in floods}
    sent: list[int] = []
    failed = 0
    # A process of its own, that our own measuring does not wait for.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as elsewhere:
        for _, (kind, flood) in itertools.product(range(3), floods.items()):
            flooding_done = elsewhere.submit(_flood, edge.http_listen, *flood) if flood else None
            seconds, bad = await asyncio.to_thread(uvloop.run, _own(edge.http_listen, own))
            if flooding_done is not None:
                sent.append(await asyncio.wrap_future(flooding_done))
            found[kind] += seconds
            failed += bad
    alone = quantile(found["alone"], 0.99)
    for kind, seconds in found.items():
        p99 = quantile(seconds, 0.99)
        yield figure(f"edge.neighbour.{kind}_p99_ms", p99 * 1000, "ms", baseline=alone * 1000, runs=len(seconds))
    yield figure("edge.neighbour.flooded_rps", min(sent) / FLOODED_S, "1/s", runs=len(sent))
    yield figure("edge.neighbour.errors", failed, "", runs=sum(map(len, found.values())))


@dataclass(slots=True, kw_only=True)
class _Taken:
    """What was measured, by kind: each round's rate, and Envoy's microseconds a request; and what one alone took."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=dict)
    alone: dict[str, list[float]] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)

    def ratio(self, subject: str, baseline: str) -> float:
        pairs = zip(self.rates[subject], self.rates[baseline], strict=True)
        return statistics.median(one / other for one, other in pairs)

    def added(self, subject: str, baseline: str) -> float:
        return statistics.median(one - other for one, other in zip(self.cpu[subject], self.cpu[baseline], strict=True))

    def p50_ms(self, kind: str) -> float:
        return statistics.median(self.alone[kind]) * 1000


async def _by_turns(
    chains: Chains, kinds: Sequence[str], requests: Sequence[bytes], *, many: Any, rounds: int = ROUNDS
) -> _Taken:
    taken = _Taken()
    # The first round warms up. Each has another order: a machine is quicker at one time than at another.
    for number, kind in ((number, kind) for number in range(rounds + 1) for kind in random.sample(kinds, len(kinds))):
        address, count = getattr(chains, kind), many(kind)
        warming_up = int(count * WARMING_UP)
        await measured(partial(http_callers, address, CONNECTIONS), requests, warming_up)
        before = _cpu_s(chains.pid)
        rate, _ = await measured(partial(http_callers, address, CONNECTIONS), requests, count)
        spent = (_cpu_s(chains.pid) - before) / count
        _, alone = await measured(partial(http_callers, address, 1), requests[:1], REQUESTS_ALONE)
        taken.requests[kind] = taken.requests.get(kind, 0) + warming_up + count + REQUESTS_ALONE
        if number:
            taken.rates.setdefault(kind, []).append(rate)
            taken.cpu.setdefault(kind, []).append(spent * 1e6)
            taken.alone.setdefault(kind, []).extend(alone)
    return taken


def _cpu_s(pid: int) -> float:
    """Add up what a process's threads have run, which the kernel counts in nanoseconds (`/proc/…/schedstat`)."""
    return sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


async def _tenant(system: System, *, requests_per_minute: int, units_per_second: int = 0) -> tuple[str, list[str]]:
    async with system.channel(system.settings.control_plane) as channel:
        tenant = await system.create_tenant(
            channel, requests_per_minute=requests_per_minute, units_per_second=units_per_second
        )
        tokens = await issue(system, channel, tenant)
        await applied(system, channel, 0)
    await asyncio.sleep(COPIED_WITHIN_S)
    return tenant, tokens


def _context(edge: EdgeSettings, tenant: str) -> str:
    """Sign what the agent would, for a few minutes."""
    context = TenantContext(
        tenant=TenantId(tenant),
        tier="standard",
        isolation_level="POOLED",
        subject="caller",
        role=Role.TENANT_MEMBER,
        scopes=frozenset({"certificates.read"}),
        session=None,
        expire_time=datetime.now(UTC) + timedelta(minutes=4, seconds=50),
    )
    return encode(context, cell_key.load_or_create(edge.context_key))


async def _own(address: str, request: bytes) -> tuple[list[float], int]:
    """Send one tenant's requests at their pace, each counted from when it was to be sent.

    Returns how long they took, and how many failed.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), local_addr=("127.0.2.1", 0))
    seconds: list[float] = []
    bad, due = 0, time.perf_counter()
    ends = due + FLOODED_S
    while due < ends:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = (line.partition(b": ") for line in head.lower().split(b"\r\n"))
        lengths = [int(value) for name, _, value in fields if name == b"content-length"]
        await reader.readexactly(sum(lengths))
        seconds.append(time.perf_counter() - due)
        bad += not head.startswith(b"HTTP/1.1 200 ")
        due += 1 / NEIGHBOUR_RPS
    writer.close()
    # The first of them load the tenant's routes, and the flood begins.
    return seconds[2 * NEIGHBOUR_RPS :], bad


def _flood(address: str, request: bytes, connections: int) -> int:
    """Send a flood at its pace; return how many requests that were."""
    flood = Flood(request, FLOOD_RPS)
    sources = [f"127.0.1.{number}" for number in range(1, FLOOD_SOURCES + 1)]
    uvloop.run(flood.run(address, sources=sources, connections=connections, seconds=FLOODED_S))
    return flood.sent
