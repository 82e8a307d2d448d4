"""The tenants' budgets, as a worker spends them: from memory, while calls are reserved ahead.

What is spent was counted in Valkey before, in every window, so that the sum over all workers and agents is never above
a limit, whatever becomes of any of them: a worker that dies takes what it had with it, and one that does not reach
Valkey spends what it has, and is asked in vain afterwards. See `model.py` for how much is reserved, and for how long.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

import structlog

from ext_authz.budgets.counter import BudgetUnavailableError, Counted, Counter
from ext_authz.budgets.model import Account, Lot, Standing, Taken, Unspent, is_of
from ext_authz.budgets.windows import Window, windows_of
from ext_authz.policies.model import TenantPolicy

# One for the windows as they were thought to be, and one for those that Valkey's clock says; a window may end between.
_MOST_TRIES: Final = 3
_TENDED_EVERY_S: Final = 0.25
# Whoever asked for nothing in so long is forgotten, and with it what was refused.
_FORGOTTEN_MS: Final = 60_000
# A command that reaches Valkey later than this was held up on its way.
_HELD_UP_MS: Final = 3_000

_log: Final = structlog.get_logger("budgets")


def clock_ms() -> int:
    """Read a clock that only goes forward, and does so while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall_ms() -> int:
    """Read the machine's clock: milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True, kw_only=True, eq=False)
class _Account(Account):
    """An account with what is asked for it."""

    tenant: "_Tenant"
    cost: int
    # Those of this and the next moments.
    windows: tuple[Window, ...] = ()


@dataclass(slots=True, kw_only=True, eq=False)
class _Tenant:
    policy: TenantPolicy
    accounts: dict[int, _Account] = field(default_factory=dict)
    # Whether calls are being reserved: one question at a time.
    is_reserving: bool = False
    # Until there is another policy.
    is_current: bool = True


class _Moment(NamedTuple):
    """The same time on both clocks."""

    wall_ms: int
    clock_ms: int


class Budgets:
    """Takes calls out of tenants' budgets. Belongs to one event loop."""

    def __init__(
        self, counter: Counter, *, clock: Callable[[], int] = clock_ms, wall: Callable[[], int] = wall_ms
    ) -> None:
        """Count with `counter`; see `open`."""
        self._counter = counter
        self._clock = clock
        self._wall = wall
        # How far Valkey's clock is ahead of ours: a little less than that, so that a window never begins too early.
        self._ahead_ms = wall() - clock()
        self._tenants: dict[UUID, _Tenant] = {}
        self._holding: set[_Account] = set()
        self._running: set[asyncio.Task[object]] = set()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        valkey_socket: Path,
        key: bytes,
        *,
        clock: Callable[[], int] = clock_ms,
        wall: Callable[[], int] = wall_ms,
    ) -> AsyncIterator[Self]:
        """Count in the Valkey behind the socket, there or not yet there; at the end, give back what is unspent."""
        async with Counter.open(valkey_socket, key) as counter:
            budgets = cls(counter, clock=clock, wall=wall)
            tending = asyncio.create_task(budgets._tend())
            try:
                yield budgets
            finally:
                tending.cancel()
                with suppress(asyncio.CancelledError):
                    await tending
                await budgets._close()

    async def take(self, policy: TenantPolicy, *, cost: int, calls: int = 1, request_id: str = "") -> Taken:
        """Pay for a call of that cost, or say which window is used up; and for up to `calls - 1` more, as there are.

        Touches memory only, most of the time. Where nothing is reserved, the first call is asked for on its own, and
        others are reserved in the same breath: they are paid where that is answered in one, too. All of them are to be
        spent before `Taken.until`.

        A request for which a call was asked, told by an id that nobody but Envoy can choose, does not pay again within
        a second: Envoy asks another worker when one does not answer in time.

        Raises:
            BudgetUnavailableError: when it cannot be told: Valkey is away, or has been silent for 150 ms.
        """
        moment = self._moment()
        now_ms = moment.clock_ms
        account = self._account(policy, cost)
        account.used_ms = now_ms
        lot, paid = account.lot, account.spend(calls, now_ms)
        if lot is not None and account.tightest is not None and paid:
            self._reserve(account, now_ms, missed=calls - paid)
            return _told(paid, account.tightest, until_ms=lot.ends_ms, moment=moment, lot=lot)
        used_up = account.refused(now_ms)
        if used_up is not None:
            return _told(0, used_up, until_ms=used_up.ends_ms, moment=moment)
        self._reserve(account, now_ms, missed=calls - 1)
        return await self._take_first(account, calls, request_id)

    def give_back(self, taken: Taken, calls: int) -> None:
        """Give back calls that were paid and not spent, each once at most. Waits for nothing.

        What was taken from this worker's reserve can be spent again here; what its reserve has no more use for goes to
        Valkey, as far as its windows last. A call that was asked for on its own is gone.
        """
        lot = taken.lot
        calls = min(calls, taken.calls - taken.alone)
        if lot is None or calls <= 0:
            return
        if not lot.is_open:
            self._send_back(lot, calls)
            return
        lot.calls += calls
        tenant = self._tenants.get(lot.tenant_uid)
        for account in tenant.accounts.values() if tenant is not None else ():
            if account.lot is lot:
                account.note_spent(-calls, self._clock())

    def give_back_lease(self, policy: TenantPolicy, unspent: Unspent, *, cost: int) -> None:
        """Give back what is left of a lease for calls of that cost, whoever has granted it. Waits for nothing.

        It MUST have been granted under this policy. Others may be told of it and do the same, within some seconds: it
        is done once. What is asked for afterwards finds it in Valkey.
        """
        if unspent.memory != self._counter.memory:
            return
        now_ms = self._clock()
        account = self._account(policy, cost)
        account.note_spent(-unspent.calls, now_ms)
        # What was used up before may not be any more.
        account.admit()
        windows = windows_of(policy, cost=account.cost, at_ms=unspent.since_ms)
        until_ms = now_ms + self._ahead_ms + _HELD_UP_MS
        given = self._counter.give_back(policy.uid, windows, unspent.calls, lease=unspent.lease, until_ms=until_ms)
        self._run(given)

    def _account(self, policy: TenantPolicy, cost: int) -> _Account:
        tenant = self._tenants.get(policy.uid)
        if tenant is None or tenant.policy is not policy:
            if tenant is not None:
                # What was counted by other rates is not spent by these.
                self._retire(tenant)
            tenant = self._tenants[policy.uid] = _Tenant(policy=policy)
        # Where nothing is counted in units, calls of all costs are the same.
        cost = cost if policy.rate_limits else 1
        account = tenant.accounts.get(cost)
        if account is None:
            account = tenant.accounts[cost] = _Account(tenant=tenant, cost=cost)
        return account

    async def _take_first(self, account: _Account, calls: int, request_id: str) -> Taken:
        answer, sent_ms = await self._ask(account, wanted=1, request_id=request_id)
        moment = self._moment()
        tightest = account.hear(_standings(answer, sent_ms=sent_ms, heard_ms=moment.clock_ms))
        if not answer.calls:
            account.refuse(tightest, moment.clock_ms)
            return _told(0, tightest, until_ms=tightest.ends_ms, moment=moment)
        account.admit()
        account.note_spent(1, moment.clock_ms)
        ends_ms = account.ends_ms
        if calls > 1:
            # For what is reserved to be heard of, which was answered in the same breath.
            await asyncio.sleep(0)
        lot = account.lot
        more = account.spend(calls - 1, moment.clock_ms) if lot is not None and is_of(lot, answer.windows) else 0
        if lot is None or not more:
            return _told(1, tightest, until_ms=ends_ms, moment=moment)
        ends_ms = min(ends_ms, lot.ends_ms)
        told = _told(1 + more, account.tightest or tightest, until_ms=ends_ms, moment=moment, lot=lot)
        return replace(told, alone=1)

    def _reserve(self, account: _Account, now_ms: int, *, missed: int) -> None:
        """Reserve what is wanted, if anything is, while others go on."""
        tenant = account.tenant
        if tenant.is_reserving or self._counter.memory is None:
            return
        wanted = account.wanted(now_ms, missed=missed)
        if wanted:
            tenant.is_reserving = True
            self._run(self._reserve_ahead(account, wanted, parts=account.parts(now_ms)))

    async def _reserve_ahead(self, account: _Account, wanted: int, *, parts: int) -> None:
        tenant, memory = account.tenant, self._counter.memory
        try:
            answer, sent_ms = await self._ask(account, wanted=wanted, parts=parts)
        finally:
            tenant.is_reserving = False
        account.hear(_standings(answer, sent_ms=sent_ms, heard_ms=self._clock()))
        if not answer.calls:
            return
        lot = Lot(
            tenant_uid=tenant.policy.uid,
            windows=answer.windows,
            ends_ms=account.ends_ms,
            calls=answer.calls,
            memory=memory,
        )
        if not tenant.is_current:
            lot.is_open = False
            self._send_back(lot, lot.calls)
            return
        self._holding.add(account)
        if (before := account.receive(lot)) is not None:
            self._send_back(before, before.calls)

    async def _ask(
        self, account: _Account, *, wanted: int, parts: int = 1, request_id: str = ""
    ) -> tuple[Counted, int]:
        """Ask in the windows that Valkey's clock is in. Returns its answer, and when it was asked at the latest."""
        policy = account.tenant.policy
        for _ in range(_MOST_TRIES):
            sent_ms = self._clock()
            windows = self._windows(account, sent_ms + self._ahead_ms)
            answer = await self._counter.take(policy.uid, windows, wanted=wanted, parts=parts, request_id=request_id)
            self._ahead_ms = answer.now_ms - self._clock()
            if isinstance(answer, Counted):
                return answer, sent_ms
        raise BudgetUnavailableError("Valkey's clock is in no window that it is asked about")

    def _windows(self, account: _Account, at_ms: int) -> tuple[Window, ...]:
        if not all(window.begin_ms <= at_ms < window.end_ms for window in account.windows) or not account.windows:
            account.windows = windows_of(account.tenant.policy, cost=account.cost, at_ms=at_ms)
        return account.windows

    def _moment(self) -> "_Moment":
        # In this order: whatever holds us up between them, ends come too early on the wall.
        wall_ms = self._wall()
        return _Moment(wall_ms=wall_ms, clock_ms=self._clock())

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(_TENDED_EVERY_S)
            self._tidy()

    def _tidy(self) -> None:
        """Give back what nobody needs, and forget who is quiet."""
        now_ms = self._clock()
        for account in tuple(self._holding):
            lot = account.unspent(now_ms, memory=self._counter.memory)
            if lot is not None:
                self._send_back(lot, lot.calls)
            if account.lot is None:
                self._holding.discard(account)
        for uid, tenant in tuple(self._tenants.items()):
            for cost, account in tuple(tenant.accounts.items()):
                if now_ms - account.used_ms >= _FORGOTTEN_MS:
                    self._close_account(account)
                    del tenant.accounts[cost]
            if not tenant.accounts:
                tenant.is_current = False
                del self._tenants[uid]

    def _retire(self, tenant: _Tenant) -> None:
        tenant.is_current = False
        for account in tenant.accounts.values():
            self._close_account(account)

    def _close_account(self, account: _Account) -> None:
        self._holding.discard(account)
        lot = account.close()
        if lot is not None:
            self._send_back(lot, lot.calls)

    def _send_back(self, lot: Lot, calls: int) -> None:
        """Give calls of a lot that is closed back to Valkey; once, whatever becomes of it."""
        lot.calls = 0
        if lot.memory is not None and lot.memory == self._counter.memory:
            self._run(self._counter.give_back(lot.tenant_uid, lot.windows, calls))

    def _run(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        # Who needs what was not to be had will be told so.
        if error is not None and not isinstance(error, BudgetUnavailableError):
            _log.error("budget_failed", exc_info=error)

    async def _close(self) -> None:
        for tenant in tuple(self._tenants.values()):
            self._retire(tenant)
        while self._running:
            await asyncio.wait(self._running)


def _told(calls: int, standing: Standing, *, until_ms: int, moment: _Moment, lot: Lot | None = None) -> Taken:
    window = standing.window
    return Taken(
        calls=calls,
        window=window,
        remaining=standing.remaining + (lot.calls * window.price if lot is not None else 0),
        reset_s=(standing.reset_ms - moment.clock_ms) / 1000,
        until=moment.wall_ms + until_ms - moment.clock_ms,
        lot=lot,
    )


def _standings(answer: Counted, *, sent_ms: int, heard_ms: int) -> tuple[Standing, ...]:
    """Put what Valkey said on our clock, by which it was asked then and heard then."""
    return tuple(
        Standing.of(window, remaining, length_ms=window.end_ms - answer.now_ms, sent_ms=sent_ms, heard_ms=heard_ms)
        for window, remaining in zip(answer.windows, answer.remaining, strict=True)
    )
