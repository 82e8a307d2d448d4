"""The tenants' budgets, as a worker spends them."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

from ext_authz.budgets.counter import BudgetUnavailableError, Counted, Counter
from ext_authz.budgets.model import Standing, Taken
from ext_authz.budgets.windows import windows_of
from ext_authz.policies.model import TenantPolicy

_MOST_TRIES: Final = 3


def clock_ms() -> int:
    """Read the clock that only goes forward, also while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def wall_ms() -> int:
    """Read the machine's clock: milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Budgets:
    """Takes calls out of tenants' budgets."""

    def __init__(
        self, counter: Counter, *, clock: Callable[[], int] = clock_ms, wall: Callable[[], int] = wall_ms
    ) -> None:
        """Count with `counter`."""
        self._counter = counter
        self._clock = clock
        self._wall = wall

    @classmethod
    @asynccontextmanager
    async def open(cls, valkey_socket: Path, key: bytes) -> AsyncIterator[Self]:
        """Count in the Valkey behind the socket, whether or not it is there yet."""
        async with Counter.open(valkey_socket, key) as counter:
            yield cls(counter)

    async def take(self, policy: TenantPolicy, *, cost: int, calls: int = 1, request_id: str = "") -> Taken:
        """Pay for a call of that cost, or say which window is used up; and for up to `calls - 1` more, as there are.

        All are to be spent before `Taken.until`. What the first one needs is asked for, where there is none; the others
        are those that are here already. A request is told by an id that nobody but Envoy can choose.

        Raises:
            BudgetUnavailableError: when it cannot be told, within 150 ms; at once where Valkey is known to be away.
        """
        del calls  # none are reserved yet
        at_ms = self._wall()
        for _ in range(_MOST_TRIES):
            windows = windows_of(policy, cost=cost, at_ms=at_ms)
            sent_ms = self._clock()
            answer = await self._counter.take(policy.uid, windows, wanted=1, request_id=request_id)
            if isinstance(answer, Counted):
                return self._taken(answer, sent_ms)
            at_ms = answer.now_ms
        raise BudgetUnavailableError("Valkey's clock does not stand still")

    def give_back(self, taken: Taken, calls: int) -> None:
        """Give back calls that were not spent, each once at most. MAY be called at any time; none waits for it."""

    def _taken(self, answer: Counted, sent_ms: int) -> Taken:
        standings = [
            Standing(window=window, remaining=remaining, ends_ms=sent_ms + window.end_ms - answer.now_ms - 2)
            for window, remaining in zip(answer.windows, answer.remaining, strict=True)
        ]
        tightest = min(standings, key=lambda standing: (standing.calls, -standing.ends_ms))
        now_ms = self._clock()
        return Taken(
            calls=answer.calls,
            window=tightest.window,
            remaining=tightest.remaining,
            reset_s=(tightest.ends_ms - now_ms) / 1000,
            until=self._wall() + min(standing.ends_ms for standing in standings) - now_ms,
        )
