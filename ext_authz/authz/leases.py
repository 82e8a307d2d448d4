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
from ext_authz.budgets.model import Taken
from ext_authz.leases.grants import (
    HELD,
    LONGEST_HELD_MS,
    LONGEST_MS,
    Grants,
    LeaseKey,
    Returned,
    held_header,
    read_told,
    ticket,
)
from ext_authz.leases.grants import header as granted_header

_NOTHING: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a request would be worth beyond itself."""

    key: LeaseKey | None
    """None where it may not be leased, or nobody would keep it."""
    returned: Returned | None
    """What is left of the lease before."""
    calls: int
    """How many calls to pay for beside its own."""


_NO_WISH: Final = Wish(key=None, returned=None, calls=0)


class Leases:
    """Grants leases, each for calls that somebody has paid for."""

    def __init__(self, first_number: int) -> None:
        """Number leases from there on: see `Grants`."""
        self._grants = Grants(first_number)

    def wish(self, asked: Asked, decision: Proceed, *, now: datetime) -> Wish:
        """Take back what is left of the lease before, and say what the next one is to be."""
        told = read_told(asked.unspent)
        if told is None or not decision.method.lease_class or asked.certificate:
            return _NO_WISH
        key = LeaseKey(credential=decision.credential.digest, lease_class=decision.method.lease_class)
        returned = self._grants.returned(key, told)
        return Wish(key=key, returned=returned, calls=self._grants.wanted(key, told, now_ms=_ms(now)))

    def grant(
        self, asked: Asked, decision: Proceed, wish: Wish, *, taken: Taken, context: str, as_of: datetime, now: datetime
    ) -> str:
        """Return the header that grants what was paid beside the request's own call; empty where nothing is granted.

        Then it is to be given back. `as_of` is when there was the last news of the policy.
        """
        policy, claims = decision.policy, decision.credential.claims
        now_ms, calls = _ms(now), taken.calls - 1
        ends_ms = min(now_ms + LONGEST_MS, taken.until, _ms(claims.expire_time), _ms(as_of + policy.max_age))
        if wish.key is None or calls < 1 or asked.epoch != policy.revision or ends_ms <= now_ms:
            return _NOTHING
        grant = self._grants.add(wish.key, calls=calls, now_ms=now_ms, taken=taken)
        shown = ticket(asked.epoch, wish.key.lease_class, tenant_uid=policy.uid, session=claims.token_id)
        return granted_header(grant, ends_ms=ends_ms, ticket=shown, context=context)

    def hold(self, asked: Asked, decision: Proceed, wish: Wish, *, taken: Taken, now: datetime) -> str:
        """Return the header that has a refusal for the tenant's rate repeated; empty where it is not to be."""
        policy = decision.policy
        if wish.key is None or asked.epoch != policy.revision:
            return _NOTHING
        session = decision.credential.claims.token_id
        shown = ticket(asked.epoch, HELD, tenant_uid=policy.uid, session=session)
        now_ms = _ms(now)
        reset_ms = now_ms + int(taken.reset_s * 1000)
        return held_header(ends_ms=min(now_ms + LONGEST_HELD_MS, taken.until), reset_ms=reset_ms, ticket=shown)


def _ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)
