"""How many calls are granted at once, and until when. Pure.

What a credential is granted follows what it uses: as many calls as it would make in the lifetime of a lease, and never
many more than it has used of the one before, as the script tells it. A lease costs the tenant what is never spent of it
and cannot be given back: so the first one is small, and whoever has spent none is granted none for a while.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from ext_authz.budgets.model import Lot, Unspent

LONGEST_MS: Final = 1000
"""How long a lease lasts at most, and so for how long a token may be accepted that was revoked."""
MOST_CALLS: Final = 2000
TOLD_WITHIN_MS: Final = 2_000
"""How long after a request began what it tells of a lease is believed: another worker may have been told the same, and
Valkey remembers for some seconds that it was."""
LONGEST_HELD_MS: Final = 5_000
"""How long a refusal for the tenant's rate is repeated without asking: others may give calls back meanwhile."""
GRANT: Final = "x-bulkhead-grant"
"""In which header `tenant.lua` is told of a lease. It takes it out: no client ever sees it."""
UNSPENT: Final = "x-bulkhead-unspent"
"""In which it tells what is left of one."""
HELD: Final = "held"
"""What takes a lease's class where a refusal is held, and what the route is called that repeats it."""

_LEAST_CALLS: Final = 2
_FIRST_CALLS: Final = 8
_GROWTH: Final = 4
# To whoever did not spend any of a lease.
_NONE_FOR_MS: Final = 5_000
_MOST_REMEMBERED: Final = 20_000
_NAME: Final = r"[0-9]{1,19}\.[0-9]{1,9}\.[0-9]{1,15}\.(?:[0-9a-f]{16}|-)"
_TOLD: Final = re.compile(rf"([0-9]{{1,9}})(?: (\S{{1,300}})((?: {_NAME}:[0-9]{{1,9}})*))?", re.ASCII)
# Of a memory that has no name.
_NAMELESS: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseKey:
    """Whose lease it is, and for what."""

    credential: bytes
    """Its digest."""
    lease_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the script says of the lease that it has kept before this request."""

    granted: int = 0
    """Of how many calls it was; 0 where there was none."""
    ticket: str = ""
    """What it was shown as."""
    unspent: tuple[Unspent, ...] = ()
    """Calls that nobody can spend any more: of each grant, where it was made of several."""

    @property
    def used(self) -> int:
        """How many were spent."""
        return max(self.granted - sum(unspent.calls for unspent in self.unspent), 0)


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What is known of a credential's requests of one class."""

    at_ms: int
    most: int = _FIRST_CALLS
    none_until_ms: int = 0


def read_told(header: bytes) -> Told | None:
    """Read what the script tells; None where it says nothing, and so would not keep a lease."""
    read = _TOLD.fullmatch(header.decode("latin-1"))
    if read is None:
        return None
    granted, ticket, grants = read.groups("")
    return Told(granted=int(granted), ticket=ticket, unspent=tuple(_unspent(grant) for grant in grants.split()))


def _unspent(grant: str) -> Unspent:
    name, _, left = grant.partition(":")
    _, calls, since_ms, memory = name.split(".")
    return Unspent(lease=name, memory=memory, since_ms=int(since_ms), calls=min(int(left), int(calls)))


class Grants:
    """Remembers a bounded number of credentials, those that were seen last. Times are in milliseconds."""

    def __init__(self, first_number: int) -> None:
        """Number leases from there on. It MUST be drawn by lot: a number is to be no other granter's."""
        self._seen: OrderedDict[LeaseKey, _Seen] = OrderedDict()
        self._number = first_number

    def wanted(self, key: LeaseKey, told: Told, *, now_ms: int) -> int:
        """Say how many calls beyond this one are worth a lease; 0 where none are."""
        seen = self._seen.get(key)
        if seen is None:
            self._seen[key] = _Seen(at_ms=now_ms)
            if len(self._seen) > _MOST_REMEMBERED:
                self._seen.popitem(last=False)
            return 0
        self._seen.move_to_end(key)
        if told.granted:
            _learn(seen, told.used, told.granted, now_ms=now_ms)
        calls = min((1 + told.used) * LONGEST_MS // max(now_ms - seen.at_ms, 1), seen.most)
        seen.at_ms = now_ms
        return calls if calls >= _LEAST_CALLS and now_ms >= seen.none_until_ms else 0

    def name(self, *, calls: int, lot: Lot) -> str:
        """Name a new lease of so many calls, so that whoever is told what is left of it can give that back."""
        self._number += 1
        return f"{self._number}.{calls}.{lot.since_ms}.{lot.memory or _NAMELESS}"


def _learn(seen: _Seen, used: int, granted: int, *, now_ms: int) -> None:
    if not used:
        seen.most, seen.none_until_ms = _FIRST_CALLS, now_ms + _NONE_FOR_MS
    elif used * 2 >= granted:
        seen.most = min(max(seen.most, granted * _GROWTH), MOST_CALLS)
    else:
        seen.most = max(used * 2, _FIRST_CALLS)


def ticket(epoch: int, lease_class: str, *, tenant_uid: UUID, session: UUID) -> str:
    """Return what a lease is shown as: routes of this epoch and for this class take it, and no others.

    The rest is for the records: whose the request was, when all that is left of it is a line in a log.
    """
    return f"{epoch}.{lease_class}.{tenant_uid}.{session}"


def header(name: str, *, calls: int, ends_ms: int, ticket: str, context: str) -> str:
    """Write a lease as `tenant.lua` reads it."""
    return f"{name} {calls} {ends_ms} {ticket} {context}"


def held_header(*, ends_ms: int, reset_ms: int, ticket: str) -> str:
    """Write a refusal that is to be repeated until `ends_ms`, and says that there is more at `reset_ms`."""
    return f"{HELD} 0 {ends_ms} {ticket} {HELD}:{reset_ms}"
