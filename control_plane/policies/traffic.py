"""What the edges let through and refuse at present, by tenant: the last seconds of their reports, in memory. Pure.

To be looked at, not billed: of what a report says the moment is not known but for the minute, so it counts when it
comes. A report from long ago, of an edge that could not hand it in before, is no traffic of now, and left out. Each
process knows what was reported to it.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from control_plane.ids import tenant_id_violation
from control_plane.policies.model import Report

WINDOW: Final = timedelta(seconds=5)
"""What is averaged over: edges report once a second, through two hands."""
_PRESENT: Final = timedelta(minutes=2)
# What comes beyond is known together, as nobody's.
_MOST_TENANTS: Final = 20_000
_MOST_NAMES: Final = 100_000
_REST: Final = ""


@dataclass(slots=True, kw_only=True)
class Requests:
    """How many requests there were."""

    admitted: int = 0
    limited: int = 0
    """Refused for the tenant's own rate."""
    denied: int = 0
    """Refused for whatever else, with the tenant's credential."""
    leased: int = 0
    """Of those admitted, how many were not asked about."""

    @property
    def all(self) -> int:
        """Count what was decided."""
        return self.admitted + self.limited + self.denied

    def add(self, more: "Requests") -> None:
        """Add what else there was."""
        self.admitted += more.admitted
        self.limited += more.limited
        self.denied += more.denied
        self.leased += more.leased


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """The requests within the window."""

    by_tenant: Mapping[str, Requests]
    """By id, those with the most first; all that were too many to know apart are the tenant ""."""
    total: Requests


class Traffic:
    """Remembers what was reported within the window."""

    def __init__(self) -> None:
        """Know of nothing yet."""
        # A second each, by when it ended; the oldest first.
        self._seconds: deque[tuple[int, dict[str, Requests]]] = deque()
        # A uid is one tenant's for ever, so what is known of it stays true.
        self._ids: OrderedDict[UUID, str] = OrderedDict()

    def nameless(self, report: Report) -> set[UUID]:
        """Return the uids in the report whose ids are to be learnt."""
        return {used.tenant_uid for used in report.usage} - self._ids.keys()

    def learn(self, ids: Mapping[UUID, str]) -> None:
        """Know these tenants' ids."""
        self._ids.update(ids)
        while len(self._ids) > _MOST_NAMES:
            self._ids.popitem(last=False)

    def note(self, report: Report, now: datetime) -> None:
        """Add what a report says. To be called once for each report. Whose uid has no id is left out."""
        self._forget(now)
        second = int(now.timestamp())
        if not self._seconds or self._seconds[-1][0] != second:
            self._seconds.append((second, {}))
        tenants = self._seconds[-1][1]
        for tenant, more in self._said(report, now):
            known = tenant if tenant in tenants or len(tenants) < _MOST_TENANTS else _REST
            tenants.setdefault(known, Requests()).add(more)

    def present(self, now: datetime) -> Present:
        """Say what there was within the window."""
        self._forget(now)
        sums: defaultdict[str, Requests] = defaultdict(Requests)
        total = Requests()
        for _, tenants in self._seconds:
            for tenant, requests in tenants.items():
                sums[tenant].add(requests)
                total.add(requests)
        ordered = sorted(sums.items(), key=lambda item: (-item[1].all, item[0]))
        return Present(by_tenant=dict(ordered), total=total)

    def _said(self, report: Report, now: datetime) -> Iterator[tuple[str, Requests]]:
        for used in report.usage:
            tenant = self._ids.get(used.tenant_uid)
            if tenant is not None and used.minute > now - _PRESENT:
                yield tenant, Requests(admitted=used.admitted, limited=used.limited, leased=used.leased)
        for tally in report.denials.values():
            tenant = tally.kind.tenant
            if tenant is not None and tenant_id_violation(tenant) is None and tally.last_time > now - _PRESENT:
                yield tenant, Requests(denied=tally.count)

    def _forget(self, now: datetime) -> None:
        while self._seconds and self._seconds[0][0] <= int((now - WINDOW).timestamp()):
            self._seconds.popleft()
