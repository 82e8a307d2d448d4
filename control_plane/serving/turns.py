"""Whose call it is to be worked on, where one process serves many tenants.

While others call, a tenant's calls are worked on one after the other: whoever sends fifty at once waits for its own,
and nobody else does. A call that had to wait so also lets those go first that are being worked on for others, for 20 ms
at most. A tenant that calls alone is not held back. A turn lasts as long as the call, but 20 ms at most: whoever waits
for an object store keeps nothing busy meanwhile.

For one event loop; times are the loop's.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from control_plane.errors import UnavailableError

_LONGEST_TURN_S: Final = 0.02
# Who has called within so long is calling.
_CALLING_S: Final = 1.0
# Of one tenant. What it sends beyond would only be told later that it took too long.
_MOST_WAITING: Final = 500


@dataclass(slots=True, eq=False)
class _Caller:
    turns: int = 0
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)


class Turns:
    """Gives tenants their turns. Costs some microseconds where nobody waits."""

    def __init__(self, *, longest_s: float = _LONGEST_TURN_S, clock: Callable[[], float] | None = None) -> None:
        """Give out none yet. `clock` is the loop's unless a test has its own."""
        self._longest_s = longest_s
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        # Who has a turn, or waits for one.
        self._callers: dict[UUID, _Caller] = {}
        # Whose next call lets others go first, the longest at the front; and until when.
        self._yielding: OrderedDict[UUID, asyncio.TimerHandle] = OrderedDict()
        # When each called last, the newest at the end.
        self._called: OrderedDict[UUID, float] = OrderedDict()

    @asynccontextmanager
    async def turn(self, tenant: UUID) -> AsyncIterator[None]:
        """Wait for one of the tenant's turns, as long as the caller does, and have it.

        Raises:
            UnavailableError: too many of the same tenant's calls wait already.
        """
        await self._take(tenant)
        turn = _Turn(lambda: self._end(tenant), longest_s=self._longest_s)
        try:
            yield
        finally:
            turn.end()

    def _end(self, tenant: UUID) -> None:
        """Take a turn back, and give it to who waits, of this tenant or of one that has let it go first."""
        caller = self._callers[tenant]
        caller.turns -= 1
        if not caller.turns and caller.waiting and self._is_busy() and not self._is_alone(tenant):
            loop = asyncio.get_running_loop()
            self._yielding[tenant] = loop.call_later(self._longest_s, self._go_on, tenant)
        else:
            self._go_on(tenant)
        if self._yielding and not self._is_busy():
            self._go_on(next(iter(self._yielding)))

    def _go_on(self, tenant: UUID) -> None:
        """Give those of the tenant's calls that wait what turns it may have."""
        if (timer := self._yielding.pop(tenant, None)) is not None:
            timer.cancel()
        caller = self._callers[tenant]
        while caller.waiting and (not caller.turns or self._is_alone(tenant)):
            waiting = caller.waiting.popleft()
            # Whoever gave up has not got round to taking it away.
            if not waiting.cancelled():
                caller.turns += 1
                waiting.set_result(None)
        if not caller.turns:
            del self._callers[tenant]

    def _is_busy(self) -> bool:
        """Whether anybody has a turn."""
        return any(caller.turns for caller in self._callers.values())

    async def _take(self, tenant: UUID) -> None:
        self._note(tenant)
        caller = self._callers.setdefault(tenant, _Caller())
        if not caller.waiting and (not caller.turns or self._is_alone(tenant)):
            caller.turns += 1
            return
        if len(caller.waiting) >= _MOST_WAITING:
            raise UnavailableError("too many of the tenant's calls wait for their turn", reason="TENANT_BUSY")
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        caller.waiting.append(waiting)
        try:
            await waiting
        except asyncio.CancelledError:
            if waiting.cancelled():
                with suppress(ValueError):
                    caller.waiting.remove(waiting)
                # Unless what it let go first has seen to that by now.
                if self._callers.get(tenant) is caller and not caller.waiting and not caller.turns:
                    self._go_on(tenant)
            else:
                # It came at the same moment.
                self._end(tenant)
            raise

    def _note(self, tenant: UUID) -> None:
        now = self._clock()
        self._called[tenant] = now
        self._called.move_to_end(tenant)
        while now - next(iter(self._called.values())) > _CALLING_S:
            self._called.popitem(last=False)

    def _is_alone(self, tenant: UUID) -> bool:
        """Whether nobody else has called lately."""
        other = next((one for one in reversed(self._called) if one != tenant), None)
        return other is None or self._clock() - self._called[other] > _CALLING_S


class _Turn:
    """Ends once: with the call, or when it has lasted for too long."""

    def __init__(self, ended: Callable[[], None], *, longest_s: float) -> None:
        self._ended = ended
        self._timer = asyncio.get_running_loop().call_later(longest_s, self.end)
        self._has_ended = False

    def end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._timer.cancel()
            self._ended()
