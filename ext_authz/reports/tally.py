"""Decisions between two reports, counted by kind in bounded memory. Pure.

A kind beyond the limit is counted all the same, with less said about it: a denial by its tenant and reason alone, usage
by its tenant alone. The counts add up to exactly what was noted.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final, TypeVar
from uuid import UUID

from ext_authz.reports.model import Denial, Usage

DENIALS: Final = 10_000
# So that whoever varies what is denied fills its own share, and no other tenant's.
DENIALS_OF_A_TENANT: Final = 256
DENIALS_OF_NOBODY: Final = 2048
USAGE: Final = 50_000

_Kind = TypeVar("_Kind")
_Count = TypeVar("_Count")


@dataclass(frozen=True, slots=True)
class DenialKind:
    """What denials have in common."""

    tenant_id: str
    actor: str
    method: str
    resource: str
    reason: str
    peer: str


@dataclass(slots=True, kw_only=True)
class Denied:
    """How often one kind was denied."""

    count: int
    first_time: datetime
    last_time: datetime
    # Of the first one.
    request_id: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A part of what was counted, to be reported; nobody counts into it any more."""

    denials: dict[DenialKind, Denied]
    usage: dict[UsageKind, Used]


class Tallies:
    """Counts decisions until they are taken. Belongs to one thread."""

    def __init__(self) -> None:
        self._denials: dict[DenialKind, Denied] = {}
        self._of_tenant: Counter[str] = Counter()
        self._usage: dict[UsageKind, Used] = {}
        # Of all that is beyond the limit, until it is taken: else a long time away would add a kind each minute.
        self._crowded_since: datetime | None = None

    def __len__(self) -> int:
        """Tell how many kinds there are to report."""
        return len(self._denials) + len(self._usage)

    def deny(self, denial: Denial, now: datetime) -> None:
        """Count a refused request."""
        kind = DenialKind(denial.tenant_id, denial.actor, denial.method, denial.resource, denial.reason, denial.peer)
        self.add_denied(kind, Denied(count=1, first_time=now, last_time=now, request_id=denial.request_id))

    def use(self, usage: Usage, now: datetime) -> None:
        """Count a request that was let through, or refused for the tenant's own rate."""
        kind = UsageKind(usage.tenant_uid, usage.method, now.replace(second=0, microsecond=0))
        if usage.admitted:
            self.add_used(kind, Used(admitted=1, cost=usage.cost))
        else:
            self.add_used(kind, Used(limited=1))

    def add_denied(self, kind: DenialKind, more: Denied) -> None:
        """Add what was counted elsewhere."""
        if kind not in self._denials and self._is_crowded(kind):
            kind = DenialKind(kind.tenant_id, "", "", "", kind.reason, "")
        known = self._denials.get(kind)
        if known is None:
            self._denials[kind] = more
            self._of_tenant[kind.tenant_id] += 1
            return
        known.count += more.count
        known.last_time = max(known.last_time, more.last_time)
        if more.first_time < known.first_time:
            known.first_time, known.request_id = more.first_time, more.request_id

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

    def take(self, most: int) -> Taken:
        """Hand over up to so many kinds, those that were first seen first."""
        denials = _pop(self._denials, list(islice(self._denials, most)))
        self._of_tenant.subtract(kind.tenant_id for kind in denials)
        self._of_tenant = +self._of_tenant
        usage = _pop(self._usage, list(islice(self._usage, most - len(denials))))
        if len(self._usage) < USAGE:
            self._crowded_since = None
        return Taken(denials=denials, usage=usage)

    def _is_crowded(self, kind: DenialKind) -> bool:
        most = DENIALS_OF_A_TENANT if kind.tenant_id else DENIALS_OF_NOBODY
        return len(self._denials) >= DENIALS or self._of_tenant[kind.tenant_id] >= most


def _pop(counted: dict[_Kind, _Count], kinds: Iterable[_Kind]) -> dict[_Kind, _Count]:
    return {kind: counted.pop(kind) for kind in kinds}
