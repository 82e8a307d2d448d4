"""The consent of a second person to uses of a key. Pure.

Who needs it and has none makes a request by trying; an administrator approves it for a time and a number of uses, or
denies it. For one principal, key, operation and reason code there is one at a time.
"""

import hashlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from control_plane.errors import EtagMismatchError, PolicyDeniedError, PreconditionError, Violations
from control_plane.key_policies.model import KeyUse, Operation, ReasonCode, person_of
from control_plane.key_policies.policy import Administrator
from control_plane.tokens.model import ANYBODY, THE_PLATFORM

REQUEST_LIFETIME: Final = timedelta(hours=24)
DENIAL_LIFETIME: Final = timedelta(hours=1)
"""So long nobody is asked again."""
DEFAULT_LIFETIME: Final = timedelta(hours=1)
LONGEST_LIFETIME: Final = timedelta(hours=8)
SHORTEST_LIFETIME: Final = timedelta(minutes=1)
DEFAULT_USES: Final = 1
MOST_USES: Final = 1000
MOST_WAITING: Final = 100
"""Requests of one tenant that nobody has decided."""
MOST_OF_ONE_WAITING: Final = 20
"""Of one principal, so that nobody takes the others' room."""


class State(StrEnum):
    """What was said of a request."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    DENIED = "DENIED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A request for consent, and what became of it."""

    id: UUID
    principal: str
    key: str
    operation: Operation
    reason_code: ReasonCode | None
    reason: str
    """As it was given with the first try."""
    state: State
    uses_left: int
    create_time: datetime
    expire_time: datetime
    behind: frozenset[str]
    """All who could have made the principal's credential, as far as that is known."""
    decider: str = ""
    decide_time: datetime | None = None

    @property
    def etag(self) -> str:
        """Changes with its state (AIP-154)."""
        return hashlib.sha256(f"{self.id}/{self.state}".encode()).hexdigest()[:16]

    def is_live(self, now: datetime) -> bool:
        """Whether it still says something; else the next try makes a new one."""
        return now < self.expire_time and (self.state is not State.APPROVED or self.uses_left > 0)

    def check_etag(self, name: str, etag: str) -> None:
        """Raise EtagMismatchError when the caller has seen another state. An empty etag matches all."""
        if etag and etag != self.etag:
            raise EtagMismatchError(f"{name} was changed since it was read", etag=self.etag)

    def approved(self, wish: "Wish", by: Administrator, *, name: str, is_locked: bool) -> "Approval":
        """Return it approved. That the platform could have made both credentials matters where the policy is locked.

        Raises:
            PolicyDeniedError: one person could have asked and approved.
            PreconditionError: it was decided, or nobody waits for it any more.
        """
        if self.state is not State.PENDING or not self.is_live(wish.now):
            raise _over(name)
        asker = self.behind | {person_of(self.principal)}
        passed_over = frozenset() if is_locked else frozenset({THE_PLATFORM})
        if not by.behind or ANYBODY in asker or (asker & by.behind) - passed_over:
            text = "it takes another person: who has asked, or has issued a token for it, does not consent"
            raise PolicyDeniedError(name, text, reason="SECOND_PERSON_NEEDED")
        return replace(
            self,
            state=State.APPROVED,
            uses_left=wish.uses,
            expire_time=wish.now + wish.lifetime,
            decider=by.name,
            decide_time=wish.now,
        )

    def denied(self, decider: str, *, name: str, now: datetime) -> "Approval":
        """Return it denied, whether it was pending or approved; a denied one as it is.

        Raises:
            PreconditionError: nobody waits for it any more.
        """
        if self.state is State.DENIED:
            return self
        if not self.is_live(now):
            raise _over(name)
        return replace(
            self,
            state=State.DENIED,
            uses_left=0,
            expire_time=now + DENIAL_LIFETIME,
            decider=decider,
            decide_time=now,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody consents to."""

    uses: int
    lifetime: timedelta
    now: datetime


def asked(use: KeyUse, *, approval_id: UUID, behind: AbstractSet[str], now: datetime) -> Approval:
    """Make the request that a use needs; `behind` is all who could have made the credential."""
    return Approval(
        id=approval_id,
        principal=use.principal,
        key=use.key,
        operation=use.operation,
        reason_code=use.reason_code,
        reason=use.reason,
        state=State.PENDING,
        uses_left=0,
        create_time=now,
        expire_time=now + REQUEST_LIFETIME,
        behind=frozenset(behind),
    )


def check_consent(uses: int, lifetime: timedelta, violations: Violations) -> None:
    """Note what nobody can consent to."""
    if not 1 <= uses <= MOST_USES:
        violations.add("uses", f"must be 1 to {MOST_USES}", reason="USES")
    if not SHORTEST_LIFETIME <= lifetime <= LONGEST_LIFETIME:
        violations.add("ttl", "must be a minute to eight hours", reason="TTL")


def _over(name: str) -> PreconditionError:
    return PreconditionError(name, f"{name} was decided, used up, or has expired", reason="KEY_USE_APPROVAL_OVER")
