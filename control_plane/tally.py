"""Denied calls, counted by kind in bounded memory, wherever they are denied. Pure.

A flood of denials alike costs a few rows, whose counts add up to exactly what was noted: a kind is due as soon as it
is first seen, and while it goes on, after 1, 2, 4, 8 and then every 10 seconds. Each log has a limited number of kinds
at a time, so that whoever varies what is denied fills its own tenant's log and nobody else's, and that slowly; what
comes beyond the limit is counted together, as the reason OVERFLOW.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from control_plane.ids import TenantId

_FIRST_WAIT: Final = timedelta(seconds=1)
_LONGEST_WAIT: Final = timedelta(seconds=10)
# A quiet kind keeps its place so long: this bounds the rows a minute of somebody who varies the kinds.
_QUIET: Final = timedelta(minutes=1)
_KINDS_OF_A_TENANT: Final = 64
_KINDS_OF_THE_PLATFORM: Final = 1024
_KINDS: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What denials have in common."""

    # Whose audit log tells of them; None is the platform's.
    tenant: TenantId | None
    actor: str
    method: str
    resource: str
    reason: str
    # The caller's address, without its port.
    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How often one kind was denied in a stretch of time."""

    kind: Kind
    count: int
    first_time: datetime
    last_time: datetime
    # Of the first one.
    request_id: str


@dataclass(slots=True, kw_only=True)
class _Open:
    wait: timedelta
    due: datetime
    # When it was last counted, by the clock of whoever counts.
    seen: datetime
    # Since it was last handed over; meaningless while the count is 0.
    count: int = 0
    first_time: datetime
    last_time: datetime
    request_id: str = ""


class Tallies:
    """Counts denials until they are taken."""

    def __init__(self) -> None:
        self._open: dict[Kind, _Open] = {}
        self._of_log: Counter[TenantId | None] = Counter()

    def __len__(self) -> int:
        """Tell how many kinds are known at the moment."""
        return len(self._open)

    def note(self, kind: Kind, *, request_id: str, now: datetime, count: int = 1) -> None:
        """Count a denial, or some that are alike."""
        self.add(Tally(kind=kind, count=count, first_time=now, last_time=now, request_id=request_id), now=now)

    def add(self, tally: Tally, *, now: datetime) -> None:
        """Count what somebody else has counted until now."""
        kind = self._admitted(tally.kind)
        known = self._open.get(kind)
        if known is None:
            known = self._open[kind] = _Open(wait=_FIRST_WAIT, due=now, seen=now, first_time=now, last_time=now)
            self._of_log[kind.tenant] += 1
        known.seen = now
        if known.count == 0 or tally.first_time < known.first_time:
            known.first_time, known.request_id = tally.first_time, tally.request_id
        known.last_time = tally.last_time if known.count == 0 else max(known.last_time, tally.last_time)
        known.count += tally.count

    def take_due(self, now: datetime) -> list[Tally]:
        """Hand over what is due, and forget the kinds that have been quiet for a while."""
        taken = list(self._take_due(now))
        for kind in [kind for kind, known in self._open.items() if _is_over(known, now)]:
            self._forget(kind)
        return taken

    def take_all(self) -> list[Tally]:
        """Hand over everything."""
        taken = [_tally(kind, known) for kind, known in self._open.items() if known.count]
        self._open.clear()
        self._of_log.clear()
        return taken

    def _take_due(self, now: datetime) -> Iterator[Tally]:
        for kind, known in self._open.items():
            if known.count and known.due <= now:
                yield _tally(kind, known)
                known.count = 0
                known.due = now + known.wait
                known.wait = min(known.wait * 2, _LONGEST_WAIT)

    def _admitted(self, kind: Kind) -> Kind:
        if kind in self._open:
            return kind
        most = _KINDS_OF_THE_PLATFORM if kind.tenant is None else _KINDS_OF_A_TENANT
        if len(self._open) >= _KINDS:
            return _overflow(None)
        if self._of_log[kind.tenant] >= most:
            return _overflow(kind.tenant)
        return kind

    def _forget(self, kind: Kind) -> None:
        del self._open[kind]
        self._of_log[kind.tenant] -= 1
        if not self._of_log[kind.tenant]:
            del self._of_log[kind.tenant]


def _is_over(known: _Open, now: datetime) -> bool:
    return known.count == 0 and now - known.seen >= _QUIET


def _tally(kind: Kind, known: _Open) -> Tally:
    return Tally(
        kind=kind,
        count=known.count,
        first_time=known.first_time,
        last_time=known.last_time,
        request_id=known.request_id,
    )


def _overflow(tenant: TenantId | None) -> Kind:
    return Kind(tenant=tenant, actor="", method="", resource="", reason="OVERFLOW", peer="")
