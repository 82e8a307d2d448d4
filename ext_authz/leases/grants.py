"""How many calls are granted at once, and until when. Pure.

What a credential is granted follows what it uses: as many calls as it would make in the lifetime of a lease, by the
Check before, and by how many of the calls that it was granted then are unspent. All of them are paid for beforehand, so
that too many cost other callers of the tenant something, and too few cost a Check: nothing else hangs on the estimate.
"""

import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from ext_authz.budgets.model import Taken

LONGEST_MS: Final = 1000
"""How long a lease lasts at most, and so for how long a token may be accepted that was revoked."""
MOST_CALLS: Final = 2000
LONGEST_HELD_MS: Final = 5_000
"""How long a refusal for the tenant's rate is repeated without asking: others may give calls back meanwhile."""
HELD: Final = "held"

_LEAST_CALLS: Final = 2
_MOST_REMEMBERED: Final = 20_000
_UNSPENT: Final = re.compile(rb"([0-9]{1,19}):([0-9]{1,9})")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseKey:
    """Whose lease it is, and for what."""

    credential: bytes
    """Its digest."""
    lease_class: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A lease that was granted, as its granter remembers it."""

    key: LeaseKey
    number: int
    calls: int
    at_ms: int
    taken: Taken
    """What has paid for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """What is left of a lease that nobody can spend any more."""

    grant: Grant
    calls: int


class Grants:
    """Remembers a bounded number of credentials and of leases, those that were seen last. Times are in milliseconds."""

    def __init__(self, first_number: int) -> None:
        """Number leases from there on. It MUST be drawn by lot: a number is to be no other granter's."""
        self._asked_at: OrderedDict[LeaseKey, int] = OrderedDict()
        self._granted: OrderedDict[int, Grant] = OrderedDict()
        self._number = first_number

    def returned(self, key: LeaseKey, unspent: bytes) -> Returned | None:
        """Take back what the script says is left of a lease; None where that is none of ours, or was taken before.

        A lease of another credential, or for something else, stays as it is, whoever names it.
        """
        read = _UNSPENT.fullmatch(unspent)
        grant = self._granted.get(int(read[1])) if read else None
        if read is None or grant is None or grant.key != key:
            return None
        del self._granted[grant.number]
        return Returned(grant=grant, calls=min(int(read[2]), grant.calls))

    def wanted(self, key: LeaseKey, returned: Returned | None, *, now_ms: int) -> int:
        """Say how many calls beyond this one are worth a lease; 0 where none are."""
        since, used = self._asked_at.get(key), 1
        if returned is not None:
            since, used = returned.grant.at_ms, 1 + returned.grant.calls - returned.calls
        self._asked_at[key] = now_ms
        self._asked_at.move_to_end(key)
        if len(self._asked_at) > _MOST_REMEMBERED:
            self._asked_at.popitem(last=False)
        if since is None:
            return 0
        calls = used * LONGEST_MS // max(now_ms - since, 1)
        return min(calls, MOST_CALLS) if calls >= _LEAST_CALLS else 0

    def add(self, key: LeaseKey, *, calls: int, now_ms: int, taken: Taken) -> Grant:
        """Remember a lease that is granted now, under a number of its own."""
        self._number += 1
        grant = Grant(key=key, number=self._number, calls=calls, at_ms=now_ms, taken=taken)
        self._granted[grant.number] = grant
        if len(self._granted) > _MOST_REMEMBERED:
            self._granted.popitem(last=False)
        return grant


def ticket(epoch: int, lease_class: str, *, tenant_uid: UUID, session: UUID) -> str:
    """Return what a lease is shown as: routes of this epoch and for this class take it, and no others.

    The rest is for the records: whose the request was, when all that is left of it is a line in a log.
    """
    return f"{epoch}.{lease_class}.{tenant_uid}.{session}"


def header(grant: Grant, *, ends_ms: int, ticket: str, context: str) -> str:
    """Write a lease as `tenant.lua` reads it."""
    return f"{grant.number} {grant.calls} {ends_ms} {ticket} {context}"


def held_header(*, ends_ms: int, ticket: str) -> str:
    """Write a refusal that is to be repeated, as `tenant.lua` reads it."""
    return f"0 0 {ends_ms} {ticket} {HELD}"
