"""What a worker has of a tenant's budget: calls that are counted already, to be spent without asking. Pure.

A *lot* are calls that were counted in the same windows. They are spent until the first of these ends, by the worker's
own clock, and by that it ends too early rather than too late: nothing is spent in the window after. What is left of a
lot goes back to those of its windows that last. An *account* is what is known of one tenant's calls of one cost under
one policy: the lot, how fast calls are spent, and until when there are no more.

Times are milliseconds of a clock of the worker's own that only goes forward.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from ext_authz.budgets.windows import Window

# What a worker reserves ahead lasts so long at its present rate.
_AHEAD_MS: Final = 1_000
# To reserve fewer is no better than to ask for each.
_FEWEST: Final = 4
GUESSED: Final = 8
"""So many calls are wanted for later by whoever has not used any yet. They are not worth to be reserved for."""
PARTS: Final = 16
"""A worker reserves at most so small a part of what remains of any window. Where little remains, calls are taken one by
one, and the refusal comes with the request that is one too many."""
PRESSED_PARTS: Final = 4
"""The same of whoever was refused a moment ago, where the limit is so small that nothing would be reserved of it: what
a worker has too much will be asked for before its window ends."""
# For so long after the window that was used up.
_PRESSED_MS: Final = 1_000
# Who has spent nothing for so long does not need what they have.
_IDLE_MS: Final = 1_000
# A refused tenant's calls are asked for once more after this, since others may have given some back; then after twice
# as long, and so on: a flood asks a few times a minute, a few times more in a month.
_FIRST_PAUSE_MS: Final = 1_000
# Two clocks are read in whole milliseconds.
_ROUNDED_MS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How much one window had left, as was last heard."""

    window: Window
    remaining: int
    """In its own unit, of what nobody has taken."""
    ends_ms: int
    """When it ends: too early by as long as it took to hear of it."""
    reset_ms: int
    """The same, too late by as long: from then on there is more."""

    @classmethod
    def of(cls, window: Window, remaining: int, *, length_ms: int, sent_ms: int, heard_ms: int) -> "Standing":
        """Put on the worker's clock what it asked and heard then: that the window goes on for so long."""
        return cls(
            window=window,
            remaining=remaining,
            ends_ms=sent_ms + length_ms - _ROUNDED_MS,
            reset_ms=heard_ms + length_ms,
        )

    @property
    def calls(self) -> int:
        """How many calls remain."""
        return self.remaining // self.window.price


@dataclass(slots=True, kw_only=True, eq=False)
class Lot:
    """Calls that were counted in the same windows."""

    tenant_uid: UUID
    windows: tuple[Window, ...]
    ends_ms: int
    """When the first of its windows ends."""
    calls: int
    """Those that are neither spent nor given back."""
    memory: str | None
    """The name of the memory that they were counted in, to which alone they go back; None where nobody can tell."""
    is_open: bool = True
    """Whether calls are still spent from it, and come back into it."""

    @property
    def since_ms(self) -> int:
        """A moment that lies in each of its windows, and by which they are known: milliseconds since 1970."""
        return max(window.begin_ms for window in self.windows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unspent:
    """What is left of a lease, as anybody tells who knows its name."""

    lease: str
    memory: str
    """As of a lot."""
    since_ms: int
    """As of a lot."""
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What came of it."""

    calls: int
    """How many are paid: the first one, and of the others as many as there were; none where a window is used up."""
    window: Window
    """The tightest one: with the fewest calls left, or of those that are used up the one that lasts longest."""
    remaining: int
    """Of this window's limit, in its unit; what other workers have reserved is not in it."""
    reset_s: float
    """For how long this window goes on."""
    until: int
    """Milliseconds since 1970, on this machine's clock: before it, the calls are to be spent, or given back. Where none
    are paid, none will be before it, unless others give some back."""
    lot: Lot | None = field(default=None, repr=False)
    """Where the calls come from; None for one that was counted on its own."""
    alone: int = 0
    """How many of them were counted on their own, and cannot be given back: another worker may have paid the same."""

    @property
    def allowed(self) -> bool:
        """Whether at least one call is paid."""
        return self.calls > 0


@dataclass(slots=True, kw_only=True)
class _Refusal:
    standing: Standing
    again_ms: int
    pause_ms: int = _FIRST_PAUSE_MS


@dataclass(slots=True, kw_only=True, eq=False)
class Account:
    """What a worker knows of one tenant's calls of one cost, under one policy."""

    tightest: Standing | None = None
    """As Valkey last answered: the window that had the fewest calls left, of several the one that lasts longest."""
    ends_ms: int = 0
    """When the first of the windows ends that it answered of."""
    lot: Lot | None = None
    used_ms: int = 0
    """When a call was last asked for."""
    _refusal: _Refusal | None = None
    _pressed_until_ms: int = 0
    # About as many calls as were spent in the last second, and when that was so.
    _recent: float = 0.0
    _recent_ms: int = 0

    def hear(self, standings: Sequence[Standing]) -> Standing:
        """Note how all windows are; return the tightest."""
        self.tightest = min(standings, key=lambda standing: (standing.calls, -standing.ends_ms))
        self.ends_ms = min(standing.ends_ms for standing in standings)
        return self.tightest

    def held(self, now_ms: int) -> int:
        """Say how many calls may be spent now."""
        lot = self.lot
        return lot.calls if lot is not None and lot.is_open and now_ms < lot.ends_ms else 0

    def spend(self, calls: int, now_ms: int) -> int:
        """Spend so many calls, or as many as are held; say how many that were."""
        spent = min(calls, self.held(now_ms))
        if spent and self.lot is not None:
            self.lot.calls -= spent
            self.note_spent(spent, now_ms)
        return spent

    def note_spent(self, calls: int, now_ms: int) -> None:
        """Note that calls were spent; that they were not, after all, where there are fewer than none."""
        self._recent = max(self._recent_at(now_ms) + calls, 0.0)
        self._recent_ms = now_ms

    def wanted(self, now_ms: int, *, missed: int = 0) -> int:
        """Say how many calls to reserve: what the present rate needs, but no more than the windows have to spare.

        `missed` are those that were wanted now for later, and not held; where they are more than a guess, for them too.
        """
        target = self._recent_at(now_ms) + (missed if missed > GUESSED else 0)
        if self.tightest is not None and now_ms < self.ends_ms:
            # What is not spent when the window ends is lost to whoever could have.
            target *= min(self.ends_ms - now_ms, _AHEAD_MS) / _AHEAD_MS
            target = min(target, self.tightest.calls // self.parts(now_ms))
        held = self.held(now_ms)
        return int(target) - held if target >= _FEWEST and held < target / 2 else 0

    def parts(self, now_ms: int) -> int:
        """Say of how many parts of what remains one may be reserved."""
        return PRESSED_PARTS if now_ms < self._pressed_until_ms else PARTS

    def receive(self, lot: Lot) -> Lot | None:
        """Spend from this lot too; return the one before where it is another's windows' and has calls left."""
        before = self.lot
        if before is None or not before.is_open or not is_of(before, lot.windows):
            self.lot = lot
            return self._closed(before)
        before.calls += lot.calls
        before.ends_ms = min(before.ends_ms, lot.ends_ms)
        if before.memory != lot.memory:
            # Nobody can tell any more which of them may be given back.
            before.memory = None
        return None

    def unspent(self, now_ms: int, *, memory: str | None) -> Lot | None:
        """Give up the lot where it has ended, or where it could be given back to this memory and nobody needs it.

        Returns it where it has calls left.
        """
        lot = self.lot
        if lot is None:
            return None
        is_idle = now_ms - self._recent_ms >= _IDLE_MS
        can_go_back = memory is not None and lot.memory == memory
        if now_ms < lot.ends_ms and not (is_idle and can_go_back):
            return None
        self.lot = None
        return self._closed(lot)

    def close(self) -> Lot | None:
        """Spend nothing more; return the lot where it has calls left."""
        lot, self.lot = self.lot, None
        return self._closed(lot)

    def refuse(self, used_up: Standing, now_ms: int) -> None:
        """Remember what is used up until it ends; of a small limit, a moment longer that more was asked for."""
        if used_up.window.limit // used_up.window.price < PARTS * _FEWEST:
            self._pressed_until_ms = used_up.ends_ms + _PRESSED_MS
        known = None if self._refusal is None else self._refusal.standing.window
        if known is None or (known.name, known.begin_ms) != (used_up.window.name, used_up.window.begin_ms):
            self._refusal = _Refusal(standing=used_up, again_ms=now_ms + _FIRST_PAUSE_MS)

    def admit(self) -> None:
        """Forget that anything was used up."""
        self._refusal = None

    def refused(self, now_ms: int) -> Standing | None:
        """Return what is known to be used up; who gets None instead is to ask, and others need not meanwhile."""
        refusal = self._refusal
        if refusal is None:
            return None
        if now_ms >= refusal.standing.ends_ms:
            self._refusal = None
            return None
        if now_ms >= refusal.again_ms:
            refusal.pause_ms *= 2
            refusal.again_ms = now_ms + refusal.pause_ms
            return None
        return refusal.standing

    def _recent_at(self, now_ms: int) -> float:
        return self._recent * math.exp((self._recent_ms - now_ms) / _AHEAD_MS)

    @staticmethod
    def _closed(lot: Lot | None) -> Lot | None:
        if lot is None:
            return None
        lot.is_open = False
        return lot if lot.calls else None


def is_of(lot: Lot, windows: Sequence[Window]) -> bool:
    """Whether the lot was counted in these windows."""
    return [window.begin_ms for window in lot.windows] == [window.begin_ms for window in windows]
