"""The servicer on a socket of its own, asked as Envoy asks, with a limiter that a test may hold up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import grpc
from typing_extensions import override

from bulkhead.envoy.v3 import check_pb2
from ext_authz.authz.servicer import CheckServicer
from ext_authz.budgets.counter import BudgetUnavailableError, Counter
from ext_authz.budgets.model import Taken
from ext_authz.budgets.reserves import Budgets
from ext_authz.policies.model import TenantPolicy
from ext_authz.reports.model import Denial, Usage
from tests.fixtures.edge_budgets import taken
from tests.unit.ext_authz.authz.checks import DOMAIN, INDEX, NOW, SHARED

KEY = bytes(range(32))
CHECK = "/envoy.service.auth.v3.Authorization/Check"


class HeldLimiter(Budgets):
    """Counts nothing: it says what a test wants it to, when a test lets it."""

    def __init__(self) -> None:
        super().__init__(Counter(Path("none"), bytes(32)))
        self._asked: asyncio.Queue[UUID] = asyncio.Queue()
        self.go = asyncio.Event()
        self.go.set()
        self.is_away = False
        # Instead of the limit, where a test says so.
        self.left: int | None = None

    @override
    async def take(self, policy: TenantPolicy, *, cost: int, calls: int = 1, request_id: str = "") -> Taken:
        self._asked.put_nowait(policy.uid)
        await self.go.wait()
        if self.is_away:
            raise BudgetUnavailableError("away")
        limit = policy.requests_per_minute
        left = limit if self.left is None else self.left
        return taken(min(left, 1), limit=limit, remaining=max(left - 1, 0), reset_s=41.2)

    async def holds(self, requests: int) -> None:
        """Return when so many more requests wait."""
        for _ in range(requests):
            await self._asked.get()


@dataclass(slots=True)
class Edge:
    """A servicer that serves, and what it told."""

    servicer: CheckServicer
    channel: grpc.aio.Channel
    denials: list[Denial]
    usages: list[Usage]

    async def send(self, request: bytes) -> bytes:
        """Send these bytes as a Check."""
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            CHECK, request_serializer=None, response_deserializer=None
        )
        return await call(request)

    async def check(self, request: check_pb2.CheckRequest) -> check_pb2.CheckResponse:
        """Send the Check."""
        return check_pb2.CheckResponse.FromString(await self.send(request.SerializeToString()))


@asynccontextmanager
async def edge(folder: Path, budgets: Budgets) -> AsyncIterator[Edge]:
    """Serve at `NOW` by the index of A, B and the suspended tenant. An operator may write hosts in any case."""
    denials: list[Denial] = []
    usages: list[Usage] = []
    servicer = CheckServicer(
        domain=DOMAIN,
        shared_hosts=[host.upper() for host in SHARED],
        context_key=KEY,
        budgets=budgets,
        denied=denials.append,
        used=usages.append,
        now=lambda: NOW,
    )
    servicer.use(INDEX)
    path = folder / "check.sock"
    async with serving_checks(servicer, path), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        yield Edge(servicer, channel, denials, usages)


@asynccontextmanager
async def serving_checks(servicer: CheckServicer, path: Path) -> AsyncIterator[grpc.aio.Server]:
    """Serve on that socket."""
    server = grpc.aio.server()
    servicer.add_to(server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield server
    finally:
        await server.stop(None)


def refusal(answer: check_pb2.CheckResponse) -> tuple[int, str]:
    """Return the status and the reason that a caller is told."""
    told = answer.denied_response
    reasons = [each.header.value for each in told.headers if each.header.key == "x-bulkhead-reason"]
    return told.status.code, "".join(reasons)
