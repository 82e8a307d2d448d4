"""Decisions between two reports, counted by kind in bounded memory. Pure.

Denials are counted as the control plane counts its own, which says what is told at once and what is held back. Usage
is counted by tenant, method and minute; beyond the limit by its tenant alone. What was admitted is counted a second
time, by credential, of which those with the most requests are told apart. The counts add up to exactly what was noted.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from control_plane import tally
from control_plane.ids import TenantId
from ext_authz.reports.model import Denial, Usage

USAGE: Final = 50_000
ACCESSES: Final = 20_000
APART: Final = 100
"""How many credentials of a tenant are told apart in a report: those with the most requests."""
REST: Final = UUID(int=0)
"""Stands for all other credentials of a tenant."""


@dataclass(frozen=True, slots=True)
class UsageKind:
    """What usage is billed by."""

    tenant_uid: UUID
    method: str
    minute: datetime


@dataclass(frozen=True, slots=True)
class AccessKind:
    """Whose requests were let through, and for what."""

    tenant_uid: UUID
    credential: UUID
    lease_class: str
    minute: datetime


@dataclass(slots=True, kw_only=True)
class Used:
    """What was used of one kind."""

    admitted: int = 0
    limited: int = 0
    cost: int = 0
    # How many of those admitted were let by without a Check of their own.
    leased: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A part of what was counted, to be reported; nobody counts into it any more."""

    denials: list[tally.Tally]
    usage: dict[UsageKind, Used]
    accesses: dict[AccessKind, int] = field(default_factory=dict)


class Tallies:
    """Counts decisions until they are taken. Belongs to one thread."""

    def __init__(self) -> None:
        self._denials = tally.Tallies()
        self._usage: dict[UsageKind, Used] = {}
        self._accesses: dict[AccessKind, int] = {}
        # Of all that is beyond the limit, until it is taken: else a long time away would add a kind each minute.
        self._crowded_since: datetime | None = None

    def __len__(self) -> int:
        """Tell how many kinds are known at the moment."""
        return len(self._denials) + len(self._usage)

    def deny(self, denial: Denial, now: datetime) -> None:
        """Count a refused request."""
        kind = tally.Kind(
            tenant=TenantId(denial.tenant_id) if denial.tenant_id else None,
            actor=denial.actor,
            method=denial.method,
            resource=denial.resource,
            reason=denial.reason,
            peer=denial.peer,
        )
        self._denials.note(kind, request_id=denial.request_id, now=now, count=denial.count)

    def use(self, usage: Usage, now: datetime) -> None:
        """Count a request that was let through, or refused for the tenant's own rate."""
        minute = now.replace(second=0, microsecond=0)
        kind = UsageKind(usage.tenant_uid, usage.method, minute)
        if usage.admitted:
            self.add_used(kind, Used(admitted=1, cost=usage.cost))
            credential = usage.credential or REST
            self.add_access(AccessKind(usage.tenant_uid, credential, usage.lease_class, minute), 1)
        else:
            self.add_used(kind, Used(limited=1))

    def add_denied(self, more: tally.Tally, now: datetime) -> None:
        """Add what was counted elsewhere."""
        self._denials.add(more, now=now)

    def add_used(self, kind: UsageKind, more: Used) -> None:
        """Add what was counted elsewhere."""
        if kind not in self._usage and len(self._usage) >= USAGE:
            self._crowded_since = self._crowded_since or kind.minute
            kind = UsageKind(kind.tenant_uid, "", self._crowded_since)
        known = self._usage.get(kind)
        if known is None:
            self._usage[kind] = more
            return
        known.admitted += more.admitted
        known.limited += more.limited
        known.cost += more.cost
        known.leased += more.leased

    def add_access(self, kind: AccessKind, more: int) -> None:
        """Add what was counted elsewhere."""
        if kind not in self._accesses and len(self._accesses) >= ACCESSES:
            self._crowded_since = self._crowded_since or kind.minute
            kind = AccessKind(kind.tenant_uid, REST, "", self._crowded_since)
        self._accesses[kind] = self._accesses.get(kind, 0) + more

    def take_all(self) -> Taken:
        """Hand over everything."""
        return self._taken(self._denials.take_all())

    def take_due(self, now: datetime) -> Taken:
        """Hand over the denials that are due, and all usage."""
        return self._taken(self._denials.take_due(now))

    def take_due_denials(self, now: datetime) -> Taken:
        """Hand over the denials that are due, and no usage."""
        return Taken(denials=self._denials.take_due(now), usage={})

    def _taken(self, denials: list[tally.Tally]) -> Taken:
        taken = Taken(denials=denials, usage=self._usage, accesses=most_active(self._accesses))
        self._usage, self._accesses, self._crowded_since = {}, {}, None
        return taken


def most_active(accesses: dict[AccessKind, int]) -> dict[AccessKind, int]:
    """Tell of each tenant the credentials apart that have the most requests, and the rest as one. The sums stay."""
    by_tenant: defaultdict[UUID, Counter[UUID]] = defaultdict(Counter)
    for kind, count in accesses.items():
        by_tenant[kind.tenant_uid][kind.credential] += count
    apart = {
        (tenant, credential)
        for tenant, credentials in by_tenant.items()
        for credential, _ in credentials.most_common(APART)
    }
    told: dict[AccessKind, int] = {}
    for kind, count in accesses.items():
        credential = kind.credential if (kind.tenant_uid, kind.credential) in apart else REST
        known = AccessKind(kind.tenant_uid, credential, kind.lease_class, kind.minute)
        told[known] = told.get(known, 0) + count
    return told
