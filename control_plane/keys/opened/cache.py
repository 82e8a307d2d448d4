"""Opened keys, kept for a short while and in a bounded number, so that not every call asks the vault.

And which version of a key is the newest: known for a moment only, but not forgotten while nobody can say better.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, NewType, TypeVar
from uuid import UUID

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Epoch = NewType("Epoch", int)
"""How often something was forgotten. What was fetched under an older one may be what had to be forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept(Generic[V]):
    value: V
    owner: UUID
    until_s: float


class KeyCache(Generic[K, V]):
    """Keeps values of tenants, each for `lifetime` from when it was put, used or not; the least used give way.

    For one event loop: no method awaits, so none is ever seen half done.
    """

    def __init__(self, *, lifetime: timedelta, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep at most `capacity` values."""
        self._lifetime_s = lifetime.total_seconds()
        self._capacity = capacity
        self._clock = clock
        self._kept: OrderedDict[K, _Kept[V]] = OrderedDict()
        self._epoch = Epoch(0)

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: K) -> bool:
        return key in self._kept

    @property
    def epoch(self) -> Epoch:
        """Read this before fetching a value, and give it to `put`."""
        return self._epoch

    def get(self, key: K) -> V | None:
        """Return the value, if it is kept and its time is not over."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.until_s <= self._clock():
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return kept.value

    def put(self, key: K, value: V, *, owner: UUID, since: Epoch) -> None:
        """Keep a value of the tenant `owner`, unless anything was forgotten after `since`."""
        if since != self._epoch:
            return
        self._kept[key] = _Kept(value=value, owner=owner, until_s=self._clock() + self._lifetime_s)
        self._kept.move_to_end(key)
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def owners(self) -> set[UUID]:
        """Tell of which tenants values are kept."""
        return {kept.owner for kept in self._kept.values()}

    def forget(self, owner: UUID) -> None:
        """Drop all values of a tenant, and whatever is being fetched at this moment.

        They are let go, not overwritten: Python has no way to change `bytes`, and what OpenSSL made of them is its own,
        which it clears when the last user is gone. Until the memory is used anew, it may hold what it held.
        """
        self._epoch = Epoch(self._epoch + 1)
        for key in [key for key, kept in self._kept.items() if kept.owner == owner]:
            del self._kept[key]


class Answers(Generic[K, V]):
    """Keeps what may change elsewhere: fresh for `fresh`, and better than nothing for as long as a KeyCache has it.

    When one is not fresh any more, whoever asks first is to find out; meanwhile the others are given the old one.
    """

    def __init__(self, *, fresh: timedelta, kept: KeyCache[K, V], clock: Callable[[], float] = time.monotonic) -> None:
        """Keep them in `kept`."""
        self._fresh_s = fresh.total_seconds()
        self._kept = kept
        self._clock = clock
        self._fresh_until_s: dict[K, float] = {}

    @property
    def epoch(self) -> Epoch:
        """See `KeyCache`."""
        return self._kept.epoch

    def get(self, key: K) -> V | None:
        """Return the answer; None where there is none, or where the caller is to ask and `put` a new one."""
        found = self._kept.get(key)
        if found is not None and self._fresh_until_s.get(key, 0.0) <= self._clock():
            self._fresh_until_s[key] = self._clock() + self._fresh_s / 4
            return None
        return found

    def last(self, key: K) -> V | None:
        """Return the last answer, fresh or not, for whoever could not get a new one."""
        return self._kept.get(key)

    def put(self, key: K, value: V, *, owner: UUID, since: Epoch) -> None:
        """Keep an answer to a question of after `since`."""
        self._kept.put(key, value, owner=owner, since=since)
        if len(self._fresh_until_s) > 2 * len(self._kept):
            self._fresh_until_s = {known: s for known, s in self._fresh_until_s.items() if known in self._kept}
        self._fresh_until_s[key] = self._clock() + self._fresh_s

    def forget(self, owner: UUID) -> None:
        """Drop all answers about a tenant, and whatever is being found out at this moment."""
        self._kept.forget(owner)
