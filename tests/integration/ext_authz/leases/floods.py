"""Several real Envoys of two threads each, real servicers that answer their Checks, one Valkey, and many callers."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from ext_authz.authz.servicer import CheckServicer
from ext_authz.budgets.reserves import Budgets
from ext_authz.policies.model import Index
from ext_authz.settings import EdgeSettings
from ext_authz.xds.hub import Hub
from ext_authz.xds.resources.bootstrap import render_bootstrap
from ext_authz.xds.resources.limits import Limits
from ext_authz.xds.resources.source import EnvoyResources
from tests.fixtures.envoy import EnvoyProcess, running_envoy
from tests.integration.ext_authz.check.servers import KEY, serving_checks
from tests.integration.ext_authz.envoy_edge.edge import edge_of_its_own, serving_hub
from tests.integration.ext_authz.envoy_edge.upstream import Upstream, serving_upstream
from tests.integration.ext_authz.limiter.valkey_servers import Server
from tests.unit.ext_authz.authz.checks import DOMAIN, SHARED, Tenant, index_of

THREADS: Final = 2
# Strangers are not what is looked at.
LIMITS: Final = Limits(requests_per_second=1_000_000, request_burst=1_000_000)


@dataclass(slots=True, kw_only=True)
class Site:
    """One Envoy with the agents behind it."""

    settings: EdgeSettings
    envoy: EnvoyProcess
    upstream: Upstream
    hub: Hub
    servicers: list[CheckServicer]

    @property
    def port(self) -> int:
        return int(self.settings.http_listen.rpartition(":")[2])

    async def tell(self, index: Index) -> None:
        """Have everything here enforce this, in the order in which an agent does it."""
        for servicer in self.servicers:
            servicer.use(index)
        for servicer in self.servicers:
            await servicer.settled()
        self.hub.use(index)
        await self.hub.applied(index.revision)


@asynccontextmanager
async def sites(count: int, valkey: Server, tenants: Sequence[Tenant]) -> AsyncIterator[list[Site]]:
    """Start them; each has two agents, and all of them count in one Valkey."""
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(_site(valkey)) for _ in range(count)]
        index = index_of(*tenants, as_of=datetime.now(UTC))
        for site in started:
            await site.tell(index)
            async with asyncio.timeout(30):
                await site.envoy.listens("edge_http", "edge_https")
        yield started


@asynccontextmanager
async def _site(valkey: Server) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        settings = edge_of_its_own(stack)
        servicers = []
        for number in range(settings.workers):
            budgets = await stack.enter_async_context(Budgets.open(valkey.socket, valkey.edge_key))
            servicers.append(_servicer(budgets))
            await stack.enter_async_context(serving_checks(servicers[-1], settings.check_socket(number)))
        upstream, _ = await stack.enter_async_context(serving_upstream(settings))
        hub = Hub(EnvoyResources(settings, LIMITS))
        await serving_hub(hub, settings, stack)
        envoy = await stack.enter_async_context(
            running_envoy(render_bootstrap(settings, LIMITS), settings.state_dir, concurrency=THREADS)
        )
        yield Site(settings=settings, envoy=envoy, upstream=upstream, hub=hub, servicers=servicers)


def _servicer(budgets: Budgets) -> CheckServicer:
    return CheckServicer(
        domain=DOMAIN,
        shared_hosts=SHARED,
        context_key=KEY,
        budgets=budgets,
        denied=lambda _: None,
        used=lambda _: None,
    )


def fresh_token(tenant: Tenant, **changes: object) -> str:
    """Sign a token that is good now."""
    now = datetime.now(UTC).replace(microsecond=0)
    times = {"issue_time": now, "not_before": now, "expire_time": now + timedelta(hours=1)}
    return tenant.token(**(times | changes))


@dataclass(slots=True, kw_only=True)
class Flood:
    """Callers of one tenant, each on a connection of its own, who ask again as soon as they are answered."""

    tenant: Tenant
    token: str
    answers: Counter[int] = field(default_factory=Counter)
    admitted_s: float = 0.0
    """When the last request was sent that was let by."""

    async def run(self, port: int, *, until_s: float) -> None:
        """Ask until then."""
        path = f"/api/v1/tenants/{self.tenant.policy.tenant_id}/certificates"
        request = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.token}\r\n\r\n".encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            while (sent_s := time.monotonic()) < until_s:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: ")), 0
                )
                await reader.readexactly(length)
                status = int(head.split(b" ", 2)[1])
                self.answers[status] += 1
                if status == 200:
                    self.admitted_s = max(self.admitted_s, sent_s)
                if status == 503:
                    await asyncio.sleep(0.01)
        finally:
            writer.close()
