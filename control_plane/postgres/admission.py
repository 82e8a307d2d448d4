"""Whose turn it is, where many wait for few connections.

A permit is the right to hold one. Who asks, a tenant or one of the platform's roles, is a party with a part of them:

* nobody holds more than its maximum;
* who holds less than its minimum goes before who does not, and among equals the one goes first that has waited longest
  since its last turn: whoever asks a thousand times is served as often as whoever asks once;
* what active parties could still claim by their minimum is kept free for them, up to a quarter of everything, so that
  they need not wait for others' long transactions. The rest is for whoever can use it.

For one event loop; times are the loop's.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from control_plane.postgres.placement import ConnectionPooling

# A party is active as long as it holds or waits for a permit, and so long after.
_ACTIVE_S: Final = 5.0
_KEPT_FREE: Final = 4
# Of one party. What it sends beyond would only be told later that it took too long.
_MOST_WAITING: Final = 500

Permit = asyncio.Future[None]


class OverloadedError(Exception):
    """So many wait on behalf of the same party that one more is not worth it."""


@dataclass(slots=True, eq=False)
class _Party:
    pooling: ConnectionPooling
    held: int = 0
    waiting: deque[Permit] = field(default_factory=deque)
    idle_since: float = 0.0

    @property
    def claim(self) -> int:
        """How many permits it lacks to its minimum."""
        return max(0, self.pooling.min_connections - self.held)


class Admission:
    """Gives out `limit` permits, and takes them back."""

    def __init__(self, limit: int, *, clock: Callable[[], float] | None = None) -> None:
        """Give out none yet. `clock` is the loop's unless a test has its own."""
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._free = limit
        self._most_kept = limit // _KEPT_FREE
        self._parties: dict[str, _Party] = {}
        # The sum of all claims.
        self._claims = 0
        # Who waits below their minimum, and who does at or above it; the longest since their last turn first.
        self._below: OrderedDict[str, _Party] = OrderedDict()
        self._above: OrderedDict[str, _Party] = OrderedDict()
        # Who neither holds nor waits, the longest first.
        self._idle: OrderedDict[str, _Party] = OrderedDict()

    async def enter(self, name: str, pooling: ConnectionPooling) -> None:
        """Take a permit as the party `name`; wait for it as long as the caller does. Give it back with `leave`.

        Raises:
            OverloadedError: too many wait for the same party already.
        """
        party = self._party(name, pooling)
        if len(party.waiting) >= _MOST_WAITING:
            raise OverloadedError
        permit: Permit = asyncio.get_running_loop().create_future()
        party.waiting.append(permit)
        self._queue(name, party)
        self._give_out()
        try:
            await permit
        except asyncio.CancelledError:
            if permit.cancelled():
                with suppress(ValueError):
                    party.waiting.remove(permit)
                self._queue(name, party)
                self._rest(name, party)
            else:
                # It came at the same moment.
                self.leave(name)
            raise

    def leave(self, name: str) -> None:
        """Give a permit back."""
        party = self._parties[name]
        self._hold(party, -1)
        self._free += 1
        self._queue(name, party)
        self._give_out()
        self._rest(name, party)

    def forget_idle(self) -> None:
        """Keep nothing free any more for who has not been active for a while. To be called now and then."""
        active_since = self._clock() - _ACTIVE_S
        while self._idle:
            name, party = next(iter(self._idle.items()))
            if party.idle_since > active_since:
                break
            del self._idle[name], self._parties[name]
            self._claims -= party.claim
        self._give_out()

    def _party(self, name: str, pooling: ConnectionPooling) -> _Party:
        """Find the party, and let it have its part as it is now."""
        party = self._parties.get(name)
        if party is None:
            party = self._parties[name] = _Party(pooling)
            self._claims += party.claim
        elif party.pooling != pooling:
            self._claims -= party.claim
            party.pooling = pooling
            self._claims += party.claim
        self._idle.pop(name, None)
        return party

    def _give_out(self) -> None:
        while self._free:
            if self._below:
                name, party = self._below.popitem(last=False)
            elif self._above and self._free > min(self._claims, self._most_kept):
                name, party = self._above.popitem(last=False)
            else:
                return
            permit = party.waiting.popleft()
            # Whoever gave up has not got round to taking it away.
            if not permit.cancelled():
                self._free -= 1
                self._hold(party, +1)
                permit.set_result(None)
            self._queue(name, party)

    def _queue(self, name: str, party: _Party) -> None:
        """Put the party where it belongs: at the end of its queue, unless it is in that one already."""
        is_below = party.held < party.pooling.min_connections
        place, other = (self._below, self._above) if is_below else (self._above, self._below)
        other.pop(name, None)
        if not party.waiting or party.held >= party.pooling.max_connections:
            place.pop(name, None)
        else:
            place.setdefault(name, party)

    def _hold(self, party: _Party, change: int) -> None:
        self._claims -= party.claim
        party.held += change
        self._claims += party.claim

    def _rest(self, name: str, party: _Party) -> None:
        if not party.held and not party.waiting:
            party.idle_since = self._clock()
            self._idle[name] = party
            self._idle.move_to_end(name)
            self.forget_idle()
