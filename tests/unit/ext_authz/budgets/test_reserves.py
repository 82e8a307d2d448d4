"""Three workers, one count, and time that passes wherever it can: what is spent in a window was counted in it."""

import asyncio
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from ext_authz.budgets.counter import BudgetUnavailableError, Counted, Counter, Elsewhen
from ext_authz.budgets.model import Taken, Unspent
from ext_authz.budgets.reserves import Budgets
from ext_authz.budgets.windows import Window, windows_of
from ext_authz.policies.model import Period, RateLimit, TenantPolicy
from tests.fixtures.edge_counts import Counts
from tests.fixtures.edge_policies import policy

BEGUN_MS: Final = 1_772_366_399_100
SKEWS_MS: Final = (-5_000, 0, 5_000)


@dataclass(slots=True)
class World:
    """The true time, which is the server's; and how long what is under way takes."""

    now_ms: int = BEGUN_MS
    delays_ms: list[int] = field(default_factory=list)
    is_lossy: bool = False
    # What was last counted of each window that there was.
    used: dict[tuple[str, int], int] = field(default_factory=dict)

    def passes(self) -> None:
        if self.delays_ms:
            self.now_ms += self.delays_ms.pop()


class Line(Counter):
    """Asks the twin, over a line that takes its time and may lose answers."""

    def __init__(self, world: World, counts: Counts) -> None:
        super().__init__(Path("none"), bytes(32))
        self.world = world
        self.counts = counts
        self.wire: str | None = "memory"
        self.is_away = False
        # When the twin last granted something.
        self.granted_ms = 0

    @property
    @override
    def memory(self) -> str | None:
        return self.wire

    @override
    async def take(
        self, tenant_uid: UUID, windows: tuple[Window, ...], *, wanted: int, parts: int = 1, request_id: str = ""
    ) -> Counted | Elsewhen:
        self._reach()
        answer = await self.counts.take(tenant_uid, windows, wanted=wanted, parts=parts, request_id=request_id)
        self.granted_ms = self.world.now_ms
        self._note()
        self.world.passes()
        if self.world.is_lossy:
            raise BudgetUnavailableError("the answer is lost")
        return answer

    @override
    async def give_back(
        self, tenant_uid: UUID, windows: Sequence[Window], calls: int, *, lease: str = "", until_ms: int = 0
    ) -> None:
        self._reach()
        await self.counts.give_back(tenant_uid, windows, calls, lease=lease, until_ms=until_ms)
        self._note()

    def _note(self) -> None:
        for (_, name), kept in self.counts.kept.items():
            self.world.used[name, kept.begin_ms] = kept.used

    def _reach(self) -> None:
        if self.is_away:
            raise BudgetUnavailableError("away")
        self.world.passes()
        self.counts.now_ms = self.world.now_ms


@dataclass(slots=True)
class Worker:
    line: Line
    budgets: Budgets
    skew_ms: int
    leases: list[Taken] = field(default_factory=list)


def workers(world: World) -> list[Worker]:
    counts, found = Counts(), []
    for number, skew_ms in enumerate(SKEWS_MS):
        line = Line(world, counts)

        def clock(number: int = number) -> int:
            world.passes()
            return world.now_ms - BEGUN_MS + number * 10**9

        def wall(skew_ms: int = skew_ms) -> int:
            world.passes()
            return world.now_ms + skew_ms

        found.append(Worker(line=line, budgets=Budgets(line, clock=clock, wall=wall), skew_ms=skew_ms))
    return found


class Trial:
    """Lets workers take, lease and give back, and adds up what is spent in each window."""

    def __init__(self, owner: TenantPolicy) -> None:
        self.owner = owner
        self.world = World()
        self.workers = workers(self.world)
        self.spent: Tally[tuple[str, int]] = Tally()
        self.leases = 0

    def spend(self, cost: int, at_ms: int) -> None:
        for window in windows_of(self.owner, cost=cost, at_ms=at_ms):
            self.spent[window.name, window.begin_ms] += window.price

    async def take(self, worker: Worker, cost: int, calls: int) -> None:
        try:
            taken = await worker.budgets.take(self.owner, cost=cost, calls=calls)
        except BudgetUnavailableError:
            return
        # Nothing passes between the answer and the request that it is for.
        if taken.allowed:
            self.spend(cost, worker.line.granted_ms if taken.lot is None else self._now(taken, worker))
        if taken.calls > 1:
            worker.leases.append(taken)

    def use_lease(self, worker: Worker, cost: int) -> None:
        """Spend what was leased as long as that may be; then two are told of the rest, as where one is slow."""
        while worker.leases:
            taken = worker.leases.pop()
            spendable = (taken.calls - 1) // 2 if self.world.now_ms + worker.skew_ms < taken.until else 0
            for _ in range(spendable):
                self.spend(cost, self.world.now_ms)
            assert taken.lot is not None
            self.leases += 1
            unspent = Unspent(
                lease=f"lease-{self.leases}",
                memory=taken.lot.memory or "",
                since_ms=taken.lot.since_ms,
                calls=taken.calls - 1 - spendable,
            )
            for told in (worker, self.workers[self.leases % len(self.workers)]):
                told.budgets.give_back_lease(self.owner, unspent, cost=cost)

    def _now(self, taken: Taken, worker: Worker) -> int:
        """Return when a call that is paid from memory is spent at the latest: just before what it says."""
        return max(self.world.now_ms, taken.until - worker.skew_ms - 1)

    def changes(self, what: str, worker: Worker, waited_ms: int) -> None:
        """Let time pass, a worker lose or find the server, or answers be lost from now on, or not any more."""
        if what == "wait":
            self.world.now_ms += waited_ms
        elif what == "away":
            worker.line.is_away = not worker.line.is_away
            worker.line.wire = None if worker.line.is_away else "memory"
        else:
            self.world.is_lossy = not self.world.is_lossy

    def check(self) -> None:
        limits = {window.name: window.limit for window in windows_of(self.owner, cost=1, at_ms=self.world.now_ms)}
        for (name, begin_ms), units in self.spent.items():
            assert units <= self.world.used[name, begin_ms] <= limits[name]


@pytest.mark.parametrize("held_up_before", range(12))
def test_wherever_a_worker_is_held_up_its_calls_are_not_good_for_longer(held_up_before: int) -> None:
    trial = Trial(replace(policy(1), rate_limits=(RateLimit(period=Period.SECOND, units=10),)))
    worker = trial.workers[0]
    trial.world.delays_ms = [0] * held_up_before
    trial.world.delays_ms.insert(0, 300)
    taken = asyncio.run(worker.budgets.take(trial.owner, cost=1))

    assert taken.window.period is Period.SECOND
    assert taken.until - worker.skew_ms <= taken.window.end_ms


steps = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "burst", "burst", "lease", "use", "tidy", "wait", "away", "lossy"]),
        st.integers(0, 2),
        st.lists(st.integers(0, 400), max_size=4),
    ),
    min_size=5,
    max_size=50,
)


@given(steps=steps, cost=st.sampled_from([1, 3]), units=st.sampled_from([40, 400, 4_000]))
def test_what_is_spent_in_a_window_was_counted_in_it(
    steps: list[tuple[str, int, list[int]]], cost: int, units: int
) -> None:
    limits = (RateLimit(period=Period.SECOND, units=units), RateLimit(period=Period.HOUR, units=units * 3))
    trial = Trial(replace(policy(1), requests_per_minute=units * 2, rate_limits=limits))
    asyncio.run(_play(trial, steps, cost))

    trial.check()


async def _play(trial: Trial, steps: list[tuple[str, int, list[int]]], cost: int) -> None:
    for what, which, delays_ms in steps:
        worker = trial.workers[which]
        if what in {"take", "lease", "burst"}:
            trial.world.delays_ms = [] if what == "burst" else list(delays_ms)
            for _ in range(50 if what == "burst" else 1):
                await trial.take(worker, cost, 20 if what == "lease" else 1)
                await asyncio.sleep(0)
        elif what == "use":
            trial.use_lease(worker, cost)
        elif what == "tidy":
            worker.budgets._tidy()
        else:
            trial.changes(what, worker, sum(delays_ms))
        for _ in range(3):
            await asyncio.sleep(0)
