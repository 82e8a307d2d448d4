"""Leases for what a Check has admitted, and refusals that are held: the decision's part of `ext_authz/leases`.

A lease is granted for the epoch by which the request was decided, or not at all, and ends with whatever the decision
rests on: the token, the news of the policy, the windows that its calls were paid in. It is none for whoever shows a
client certificate, whose claims are read each time, nor for RPCs whose rule names no class.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ext_authz.authz.decide import Proceed
from ext_authz.authz.request import Asked
from ext_authz.budgets.model import Taken, Unspent
from ext_authz.leases.grants import (
    HELD,
    LONGEST_HELD_MS,
    LONGEST_MS,
    TOLD_WITHIN_MS,
    Grants,
    LeaseKey,
    Told,
    held_header,
    read_told,
    refused_header,
    ticket,
)
from ext_authz.leases.grants import header as granted_header
from ext_authz.leases.strangers import Strangers

_NOTHING: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a request would be worth beyond itself."""

    key: LeaseKey | None
    """None where it may not be leased, or nobody would keep it."""
    unspent: tuple[Unspent, ...]
    """What is left of the lease before, to be given back."""
    calls: int
    """How many calls to pay for beside its own."""


_NO_WISH: Final = Wish(key=None, unspent=(), calls=0)


class Leases:
    """Grants leases, each for calls that somebody has paid for."""

    def __init__(self, first_number: int) -> None:
        """Number leases from there on: see `Grants`."""
        self._grants = Grants(first_number)
        self._strangers = Strangers()

    def wish(self, asked: Asked, decision: Proceed, *, now: datetime) -> Wish:
        """Take back what is left of the lease before, and say what the next one is to be."""
        told = read_told(asked.unspent)
        if told is None or not decision.method.lease_class or asked.certificate:
            return _NO_WISH
        key = LeaseKey(credential=decision.credential.digest, lease_class=decision.method.lease_class)
        # Most have nothing to tell: then no ticket is written to compare it with.
        unspent = told.unspent if told.unspent and _is_owner(told, asked, decision, now=now) else ()
        return Wish(key=key, unspent=unspent, calls=self._grants.wanted(key, told, now_ms=_ms(now)))

    def grant(
        self, asked: Asked, decision: Proceed, wish: Wish, *, taken: Taken, context: str, as_of: datetime, now: datetime
    ) -> str:
        """Return the header that grants what was paid beside the request's own call; empty where nothing is granted.

        Then it is to be given back. `as_of` is when there was the last news of the policy.
        """
        policy, claims = decision.policy, decision.credential.claims
        now_ms, calls, lot = _ms(now), taken.calls - 1, taken.lot
        ends_ms = min(now_ms + LONGEST_MS, taken.until, _ms(claims.expire_time), _ms(as_of + policy.max_age))
        if wish.key is None or lot is None or calls < 1 or asked.epoch != policy.revision or ends_ms <= now_ms:
            return _NOTHING
        name, shown = self._grants.name(calls=calls, lot=lot), _ticket(decision, wish.key.lease_class)
        return granted_header(name, calls=calls, ends_ms=ends_ms, ticket=shown, context=context)

    def hold(self, asked: Asked, decision: Proceed, wish: Wish, *, taken: Taken, now: datetime) -> str:
        """Return the header that has a refusal for the tenant's rate repeated; empty where it is not to be."""
        policy = decision.policy
        if wish.key is None or asked.epoch != policy.revision:
            return _NOTHING
        now_ms = _ms(now)
        reset_ms = now_ms + int(taken.reset_s * 1000)
        ends_ms = min(now_ms + LONGEST_HELD_MS, taken.until)
        return held_header(ends_ms=ends_ms, reset_ms=reset_ms, ticket=_ticket(decision, HELD))

    def repeat(self, asked: Asked, *, now: datetime) -> str:
        """Return the header that has the strangers' answer repeated; empty where it is not to be.

        It is to be where the same credential was refused again and again, for a second: whatever is wrong may have been
        put right meanwhile.
        """
        if not asked.unspent:
            return _NOTHING
        now_ms = _ms(now)
        if not self._strangers.is_flood(asked.token, repeated=asked.repeated, now_ms=now_ms):
            return _NOTHING
        return refused_header(ends_ms=now_ms + LONGEST_MS)


def _is_owner(told: Told, asked: Asked, decision: Proceed, *, now: datetime) -> bool:
    """Whether what is left of that lease goes back to where this request's own calls come from.

    It was this credential's, for the same, and under the same policy: so its windows are known. A request that has
    waited for long may have been asked about elsewhere, so long ago that nobody remembers.
    """
    own = _ticket(decision, decision.method.lease_class)
    return told.ticket == own and abs(_ms(now) - asked.begun_ms) <= TOLD_WITHIN_MS


def _ticket(decision: Proceed, lease_class: str) -> str:
    policy, session = decision.policy, decision.credential.claims.token_id
    return ticket(policy.revision, lease_class, tenant_uid=policy.uid, session=session)


def _ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)
