"""In which windows a tenant's calls are counted, at a given time. Pure.

Seconds, minutes and hours begin on those of UTC, the same for all tenants. A day begins at the tenant's midnight: the
first one where its clocks go through midnight twice, and the moment of the skip where they skip it. A month begins with
the tenant's billing day, which in a month that is shorter is the last day. So windows of a period follow each other
without a gap, and each moment lies in one of them.
"""

from calendar import monthrange
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from control_plane.serving.time_zones import time_zone
from ext_authz.policies.model import Period, TenantPolicy

_FIXED_MS: Final = {Period.SECOND: 1_000, Period.MINUTE: 60_000, Period.HOUR: 3_600_000}
_DAY: Final = timedelta(days=1)
_MONTHS: Final = 12
# No zone is further from UTC than a day, and none skipped more than one: so many days, or months, around a moment hold
# its window and the next one's end.
_AROUND: Final = range(-2, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One window. Times are milliseconds since 1970."""

    period: Period
    unit: str
    """What is counted in it: `requests`, or the `units` that they cost."""
    limit: int
    price: int
    """What a call takes of it."""
    begin_ms: int
    end_ms: int
    """When it ends, and the next one begins."""
    next_end_ms: int

    @property
    def name(self) -> str:
        """Tells it from the tenant's others, and is the same for the next one."""
        return str(self.period) if self.unit == REQUESTS else f"{self.unit}-{self.period}"

    @property
    def length_s(self) -> int:
        """How many seconds it has; days and months have not always the same."""
        return (self.end_ms - self.begin_ms) // 1000


REQUESTS: Final = "requests"
UNITS: Final = "units"


def windows_of(policy: TenantPolicy, *, cost: int, at_ms: int) -> tuple[Window, ...]:
    """Return the windows in which a call of that cost is counted at that time, the requests' own first."""
    counted = [(Period.MINUTE, REQUESTS, policy.requests_per_minute, 1)]
    counted += [(limit.period, UNITS, limit.units, cost) for limit in policy.rate_limits]
    found = []
    for period, unit, limit, price in counted:
        begin_ms, end_ms, next_end_ms = _bounds(policy, period, at_ms)
        found.append(
            Window(
                period=period,
                unit=unit,
                limit=limit,
                price=price,
                begin_ms=begin_ms,
                end_ms=end_ms,
                next_end_ms=next_end_ms,
            )
        )
    return tuple(found)


def _bounds(policy: TenantPolicy, period: Period, at_ms: int) -> tuple[int, int, int]:
    length_ms = _FIXED_MS.get(period)
    if length_ms is not None:
        begin_ms = at_ms // length_ms * length_ms
        return begin_ms, begin_ms + length_ms, begin_ms + 2 * length_ms
    zone = time_zone(policy.time_zone)
    today = datetime.fromtimestamp(at_ms / 1000, UTC).date()
    days = _days(today) if period is Period.DAY else _billing_days(today, policy.billing_day)
    begins = _midnights(days, zone)
    current = max(number for number, begin_ms in enumerate(begins) if begin_ms <= at_ms)
    return begins[current], begins[current + 1], begins[current + 2]


def _days(today: date) -> Iterator[date]:
    return (today + around * _DAY for around in _AROUND)


def _billing_days(today: date, billing_day: int) -> Iterator[date]:
    for around in _AROUND:
        years, month = divmod(today.year * _MONTHS + today.month - 1 + around, _MONTHS)
        last = monthrange(years, month + 1)[1]
        yield date(years, month + 1, min(billing_day, last))


def _midnights(days: Iterable[date], zone: ZoneInfo) -> list[int]:
    """Return when these days begin, in order. A day that the zone has left out begins with the one after it."""
    begins = (datetime(day.year, day.month, day.day, tzinfo=zone) for day in days)
    return sorted({int(begin.timestamp()) * 1000 for begin in begins})
