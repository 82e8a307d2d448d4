"""How many calls are granted at once, and until when. Pure.

What a credential is granted follows what it uses: as many calls as it would make in the lifetime of a lease, at the
rate at which it has spent the one before, as the script tells it, and at first few. What is granted and not spent is
nobody else's until it is given back: so whoever has spent none of a lease is granted none with that request.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from ext_authz.budgets.model import GUESSED, Lot, Unspent

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
REPEATED: Final = "x-bulkhead-repeated"
"""In which it tells how often it has repeated the strangers' answer."""
HELD: Final = "held"
"""What takes a lease's class where a refusal is held, and what the route is called that repeats it."""

_REFUSED: Final = "refused"
_LEAST_CALLS: Final = 2
_GROWTH: Final = 8
_MOST_REMEMBERED: Final = 20_000
_NAME: Final = r"[0-9]{1,19}\.[0-9]{1,9}\.[0-9]{1,15}\.(?:[0-9a-f]{16}|-)"
_TOLD: Final = re.compile(rf"([0-9]{{1,9}})(?: ([0-9]{{1,15}}) (\S{{1,300}})((?: {_NAME}:[0-9]{{1,9}})*))?", re.ASCII)
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
    lasted_ms: int = 0
    """For how long there was one."""
    ticket: str = ""
    """What it was shown as."""
    unspent: tuple[Unspent, ...] = ()
    """Calls that nobody can spend any more: of each grant, where it was made of several."""

    @property
    def used(self) -> int:
        """How many were spent."""
        return max(self.granted - sum(unspent.calls for unspent in self.unspent), 0)


def read_told(header: bytes) -> Told | None:
    """Read what the script tells; None where it says nothing, and so would not keep a lease."""
    read = _TOLD.fullmatch(header.decode("latin-1"))
    if read is None:
        return None
    granted, lasted_ms, ticket, grants = read.groups("")
    return Told(
        granted=int(granted),
        lasted_ms=int(lasted_ms or 0),
        ticket=ticket,
        unspent=tuple(_unspent(grant) for grant in grants.split()),
    )


def _unspent(grant: str) -> Unspent:
    name, _, left = grant.partition(":")
    _, calls, since_ms, memory = name.split(".")
    return Unspent(lease=name, memory=memory, since_ms=int(since_ms), calls=min(int(left), int(calls)))


class Grants:
    """Remembers a bounded number of credentials, those that were seen last. Times are in milliseconds."""

    def __init__(self, first_number: int) -> None:
        """Number leases from there on. It MUST be drawn by lot: a number is to be no other granter's."""
        # When each last asked.
        self._seen: OrderedDict[LeaseKey, int] = OrderedDict()
        self._number = first_number

    def wanted(self, key: LeaseKey, told: Told, *, now_ms: int) -> int:
        """Say how many calls beyond this one are worth a lease; 0 where none are."""
        before_ms = self._seen.get(key)
        self._seen[key] = now_ms
        self._seen.move_to_end(key)
        if len(self._seen) > _MOST_REMEMBERED:
            self._seen.popitem(last=False)
        if told.granted:
            calls = told.used * LONGEST_MS // max(told.lasted_ms, 1)
            calls = min(calls, told.granted * _GROWTH, MOST_CALLS)
        elif before_ms is not None:
            calls = min(LONGEST_MS // max(now_ms - before_ms, 1), GUESSED)
        else:
            calls = 0
        return calls if calls >= _LEAST_CALLS else 0

    def name(self, *, calls: int, lot: Lot) -> str:
        """Name a new lease of so many calls, so that whoever is told what is left of it can give that back."""
        self._number += 1
        return f"{self._number}.{calls}.{lot.since_ms}.{lot.memory or _NAMELESS}"


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


def refused_header(*, ends_ms: int) -> str:
    """Write the strangers' answer, which is to be repeated until `ends_ms`."""
    return f"{_REFUSED} 0 {ends_ms} - {_REFUSED}"
