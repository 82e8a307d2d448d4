"""Several workers' budgets of one tenant, each with many callers who ask as fast as they are answered."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import uuid4

from ext_authz.budgets.counter import BudgetUnavailableError
from ext_authz.budgets.reserves import Budgets, wall_ms
from ext_authz.policies.model import Period, RateLimit, TenantPolicy
from tests.fixtures.edge_policies import policy
from tests.integration.ext_authz.limiter.valkey_servers import Server

CALLERS: Final = 64
LENGTHS_MS: Final = {Period.SECOND: 1_000, Period.MINUTE: 60_000, Period.HOUR: 3_600_000}


def limited(*rates: tuple[Period, int], requests_per_minute: int = 1_000_000) -> TenantPolicy:
    """Make a tenant that nobody else has, with these limits."""
    limits = tuple(RateLimit(period=period, units=units) for period, units in rates)
    return replace(policy(1), uid=uuid4(), requests_per_minute=requests_per_minute, rate_limits=limits)


@asynccontextmanager
async def workers(server: Server, *skews_ms: int) -> AsyncIterator[list["Worker"]]:
    """Open budgets of workers whose clocks are wrong by so much."""
    async with AsyncExitStack() as stack:
        opened = [
            Budgets.open(server.socket, server.edge_key, wall=lambda skew_ms=skew_ms: wall_ms() + skew_ms)  # type: ignore[misc]  # mypy does not infer a lambda's default
            for skew_ms in skews_ms
        ]
        yield [
            Worker(budgets=await stack.enter_async_context(budgets), skew_ms=skew_ms)
            for budgets, skew_ms in zip(opened, skews_ms, strict=True)
        ]


@dataclass(slots=True)
class Worker:
    """A worker, and what it let through."""

    budgets: Budgets
    skew_ms: int
    # Units, by the end of the windows that end first, on the one clock that Valkey has too.
    admitted: Counter[int] = field(default_factory=Counter)
    asked: Counter[int] = field(default_factory=Counter)
    late: int = 0
    from_memory: int = 0
    unavailable: int = 0

    async def run(self, policy: TenantPolicy, *, cost: int, until_s: float, pause_s: float = 0.0) -> None:
        """Ask with all callers until then."""
        await asyncio.gather(*(self._ask(policy, cost, until_s, pause_s) for _ in range(CALLERS)))

    async def _ask(self, policy: TenantPolicy, cost: int, until_s: float, pause_s: float) -> None:
        while time.monotonic() < until_s:
            self.asked[wall_ms() // 1000] += cost
            try:
                taken = await self.budgets.take(policy, cost=cost)
            except BudgetUnavailableError:
                self.unavailable += 1
                await asyncio.sleep(0.005)
                continue
            if taken.allowed:
                until_ms = taken.until - self.skew_ms
                self.admitted[until_ms // 1000] += cost * taken.calls
                # What is spent without asking is spent in its own windows; an answer may come when they are over.
                self.late += taken.lot is not None and wall_ms() > until_ms
                self.from_memory += taken.lot is not None
            await asyncio.sleep(pause_s)


def admitted_by(crowd: Sequence[Worker], period: Period) -> Counter[int]:
    """Add up what was admitted in each window of the period."""
    found: Counter[int] = Counter()
    for worker in crowd:
        for second, units in worker.admitted.items():
            found[second * 1000 // LENGTHS_MS[period]] += units
    return found
