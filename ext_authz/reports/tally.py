"""Decisions between two reports, counted by kind in bounded memory. Pure.

Denials are counted as the control plane counts its own, which says what is told at once and what is held back. Usage
is counted by tenant, method and minute; beyond the limit by its tenant alone. The counts add up to exactly what was
noted.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from control_plane import tally
from control_plane.ids import TenantId
from ext_authz.reports.model import Denial, Usage

USAGE: Final = 50_000


@dataclass(frozen=True, slots=True)
class UsageKind:
    """What usage is billed by."""

    tenant_uid: UUID
    method: str
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


class Tallies:
    """Counts decisions until they are taken. Belongs to one thread."""

    def __init__(self) -> None:
        self._denials = tally.Tallies()
        self._usage: dict[UsageKind, Used] = {}
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
        self._denials.note(kind, request_id=denial.request_id, now=now)

    def use(self, usage: Usage, now: datetime) -> None:
        """Count a request that was let through, or refused for the tenant's own rate."""
        kind = UsageKind(usage.tenant_uid, usage.method, now.replace(second=0, microsecond=0))
        if usage.admitted:
            self.add_used(kind, Used(admitted=1, cost=usage.cost))
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

    def take_all(self) -> Taken:
        """Hand over everything."""
        return Taken(denials=self._denials.take_all(), usage=self._take_usage())

    def take_due(self, now: datetime) -> Taken:
        """Hand over the denials that are due, and all usage."""
        return Taken(denials=self._denials.take_due(now), usage=self._take_usage())

    def take_due_denials(self, now: datetime) -> Taken:
        """Hand over the denials that are due, and no usage."""
        return Taken(denials=self._denials.take_due(now), usage={})

    def _take_usage(self) -> dict[UsageKind, Used]:
        usage, self._usage, self._crowded_since = self._usage, {}, None
        return usage
