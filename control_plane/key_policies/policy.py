"""A tenant's policy as it stands, and how it is changed: at once, or by two people. Pure.

Once it is locked, what is not provably tighter is proposed by one administrator of the tenant and approved by another,
behind whose credentials no one person stands. Whatever changes the policy ends a proposal: nobody approves a change of
what has become something else.
"""

import hashlib
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from control_plane.errors import EtagMismatchError, PermissionDeniedError, PreconditionError
from control_plane.key_policies.compare import loosenings
from control_plane.key_policies.model import UNSET, Terms
from control_plane.tokens.model import check_apart

PROPOSAL_LIFETIME: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Administrator:
    """Who changes a policy."""

    name: str
    """As the audit log names it."""
    is_tenants: bool
    """Whether it is the tenant's own, and not the platform's."""
    behind: frozenset[str] = frozenset()
    """All who could have made its credential: itself, who issued it, who issued theirs, and so on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A change that one administrator wants, and another one has to approve."""

    id: UUID
    terms: Terms
    proposer: str
    behind: frozenset[str]
    """See `Administrator`."""
    create_time: datetime
    expire_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the tenant has said last."""

    terms: Terms = UNSET
    revision: int = 0
    """0 where it has never said anything."""
    update_time: datetime | None = None
    proposal: Proposal | None = field(default=None)
    """The one that waits, if any; it may have expired."""

    @property
    def etag(self) -> str:
        """Changes with every change of it, and with every proposal (AIP-154)."""
        waiting = self.proposal.id if self.proposal else ""
        return hashlib.sha256(f"{self.revision}/{waiting}".encode()).hexdigest()[:16]

    def waiting(self, now: datetime) -> Proposal | None:
        """Return the proposal that can still be approved."""
        return self.proposal if self.proposal and now < self.proposal.expire_time else None

    def check_etag(self, name: str, etag: str) -> None:
        """Raise EtagMismatchError when the caller has seen another one. An empty etag matches all."""
        if etag and etag != self.etag:
            raise EtagMismatchError(f"{name} was changed since it was read", etag=self.etag)

    def updated(self, terms: Terms, by: Administrator, *, name: str, now: datetime) -> "Policy":
        """Return the policy with other terms, at once; itself where they are the same.

        Raises:
            PermissionDeniedError: it is locked, or would be, and not by the tenant's own.
            PreconditionError: it is locked, and the terms are not provably tighter.
        """
        if terms == self.terms:
            return self
        if (self.terms.locked or terms.locked) and not by.is_tenants:
            # The tenant is told who has tried.
            told = name.split("/")[1]
            raise PermissionDeniedError(f"{name} is for the tenant's own", reason="KEY_POLICY_LOCKED", tenants=told)
        if self.terms.locked and (found := loosenings(self.terms, terms)):
            text = f"{name} is locked, and this would not be provably tighter: {'; '.join(found)}"
            raise PreconditionError(name, text, reason="KEY_POLICY_LOOSENED")
        return self._with(terms, now)

    def proposed(self, terms: Terms, by: Administrator, *, name: str, proposal_id: UUID, now: datetime) -> "Policy":
        """Return the policy with a proposal that waits.

        Raises:
            PreconditionError: there is one already, or nothing needs one.
        """
        if not self.terms.locked:
            raise PreconditionError(name, f"{name} is not locked: change it at once", reason="KEY_POLICY_NOT_LOCKED")
        if (waiting := self.waiting(now)) is not None:
            text = f"{name} has a proposal already, of {waiting.proposer}: approve or reject it first"
            raise PreconditionError(name, text, reason="KEY_POLICY_PROPOSAL_WAITS")
        proposal = Proposal(
            id=proposal_id,
            terms=terms,
            proposer=by.name,
            behind=by.behind,
            create_time=now,
            expire_time=now + PROPOSAL_LIFETIME,
        )
        return replace(self, proposal=proposal)

    def approved(self, proposal_id: UUID, by: Administrator, *, name: str, now: datetime) -> "Policy":
        """Return the policy as it was proposed.

        Raises:
            PolicyDeniedError: the two credentials could be one person's.
            PreconditionError: there is no such proposal, or no longer.
        """
        proposal = self._found(proposal_id, name=name, now=now)
        check_apart(proposal.behind, by.behind, name=name)
        return self._with(proposal.terms, now)

    def rejected(self, proposal_id: UUID, *, name: str, now: datetime) -> "Policy":
        """Return the policy without the proposal.

        Raises:
            PreconditionError: there is no such proposal, or no longer.
        """
        self._found(proposal_id, name=name, now=now)
        return replace(self, proposal=None)

    def _found(self, proposal_id: UUID, *, name: str, now: datetime) -> Proposal:
        waiting = self.waiting(now)
        if waiting is None or waiting.id != proposal_id:
            text = f"{name} has no such proposal: it has expired, or was decided, or the policy was changed since"
            raise PreconditionError(name, text, reason="KEY_POLICY_PROPOSAL_GONE")
        return waiting

    def _with(self, terms: Terms, now: datetime) -> "Policy":
        return replace(self, terms=terms, revision=self.revision + 1, update_time=now, proposal=None)
