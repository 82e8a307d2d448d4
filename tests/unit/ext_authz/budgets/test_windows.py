"""A tenant's windows follow each other without a gap, in every zone, and begin at its own midnight and billing day."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from control_plane.serving.time_zones import names, time_zone
from ext_authz.budgets.windows import Window, windows_of
from ext_authz.policies.model import Period, RateLimit, TenantPolicy
from tests.fixtures.edge_policies import policy

zones = st.sampled_from(sorted(names()))
# From 1970 to 2100.
moments_ms = st.integers(0, 4_102_444_800_000)
periods = st.sampled_from(Period)
days = st.integers(1, 31)
HOUR_MS: Final = 3_600_000


def tenant(period: Period = Period.DAY, *, zone: str = "UTC", billing_day: int = 1, units: int = 50) -> TenantPolicy:
    limits = (RateLimit(period=period, units=units),)
    return replace(policy(1), rate_limits=limits, time_zone=zone, billing_day=billing_day)


def window(owner: TenantPolicy, at_ms: int) -> Window:
    _, found = windows_of(owner, cost=1, at_ms=at_ms)
    return found


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def told(at_ms: int, zone: str) -> str:
    return datetime.fromtimestamp(at_ms / 1000, time_zone(zone)).strftime("%Y-%m-%dT%H:%M")


@pytest.mark.behaviour("S3.6")
@given(period=periods, zone=zones, billing_day=days, at_ms=moments_ms)
# Samoa left out a day, and Kwajalein; Newfoundland's clocks went back over midnight.
@example(period=Period.DAY, zone="Pacific/Apia", billing_day=30, at_ms=ms("2011-12-30T10:00+00:00"))
@example(period=Period.MONTH, zone="Pacific/Apia", billing_day=30, at_ms=ms("2011-12-30T10:00+00:00"))
@example(period=Period.DAY, zone="Pacific/Kwajalein", billing_day=21, at_ms=ms("1993-08-21T12:00+00:00"))
@example(period=Period.DAY, zone="America/St_Johns", billing_day=31, at_ms=ms("2010-11-07T02:45+00:00"))
def test_windows_follow_each_other_without_gap_or_overlap(
    period: Period, zone: str, billing_day: int, at_ms: int
) -> None:
    owner = tenant(period, zone=zone, billing_day=billing_day)
    here = window(owner, at_ms)
    after, before = window(owner, here.end_ms), window(owner, here.begin_ms - 1)

    assert here.begin_ms <= at_ms < here.end_ms < here.next_end_ms
    assert (after.begin_ms, after.end_ms) == (here.end_ms, here.next_end_ms)
    assert (before.end_ms, before.next_end_ms) == (here.begin_ms, here.end_ms)
    for inside_ms in (here.begin_ms, here.end_ms - 1):
        assert window(owner, inside_ms) == here


@pytest.mark.behaviour("S3.6")
@given(zone=zones, billing_day=days, at_ms=moments_ms)
def test_a_month_begins_when_a_day_does_and_on_the_billing_day_or_the_last(
    zone: str, billing_day: int, at_ms: int
) -> None:
    begin_ms = window(tenant(Period.MONTH, zone=zone, billing_day=billing_day), at_ms).begin_ms
    day = window(tenant(Period.DAY, zone=zone), begin_ms)
    begins, ended = (datetime.fromtimestamp(each / 1000, time_zone(zone)) for each in (begin_ms, begin_ms - 1))

    assert day.begin_ms == begin_ms
    if zone not in {"Pacific/Apia", "Pacific/Fakaofo", "Pacific/Kwajalein", "Kwajalein", "Pacific/Enderbury"}:
        assert begins.day == billing_day or (begins.day < billing_day and begins.month != _day_after(begins).month)
        assert begins.date() != ended.date() or begins.fold != ended.fold


def _day_after(moment: datetime) -> datetime:
    return datetime.fromordinal(moment.toordinal() + 1)


@pytest.mark.behaviour("S3.6")
@pytest.mark.parametrize(
    ("zone", "at", "begins", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00+02:00", "2026-03-29T00:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00+01:00", "2026-10-25T00:00", 25),
        # There is no midnight on the day on which the clocks go forward from it.
        ("Africa/Cairo", "2026-04-24T12:00+03:00", "2026-04-24T01:00", 23),
        # There are two, of which the first counts.
        ("America/Havana", "2024-11-03T12:00-05:00", "2024-11-03T00:00", 25),
        ("Asia/Kathmandu", "2026-06-01T00:00+05:45", "2026-06-01T00:00", 24),
        ("Australia/Lord_Howe", "2026-10-04T12:00+11:00", "2026-10-04T00:00", 23.5),
        ("Pacific/Kiritimati", "2026-01-01T00:30+14:00", "2026-01-01T00:00", 24),
    ],
)
def test_a_day_begins_at_the_tenants_midnight_and_has_as_many_hours_as_it_has_there(
    zone: str, at: str, begins: str, hours: float
) -> None:
    found = window(tenant(zone=zone), ms(at))

    assert told(found.begin_ms, zone) == begins
    assert found.length_s == hours * 3600


@pytest.mark.behaviour("S3.6")
@pytest.mark.parametrize(
    ("billing_day", "at", "begins", "ends"),
    [
        (1, "2026-01-01T00:00+00:00", "2026-01-01", "2026-02-01"),
        (31, "2026-02-15T00:00+00:00", "2026-01-31", "2026-02-28"),
        (31, "2026-02-28T00:00+00:00", "2026-02-28", "2026-03-31"),
        (31, "2028-02-28T23:59+00:00", "2028-01-31", "2028-02-29"),
        (29, "2028-02-29T00:00+00:00", "2028-02-29", "2028-03-29"),
        (30, "2027-03-01T00:00+00:00", "2027-02-28", "2027-03-30"),
        (15, "2026-12-20T00:00+00:00", "2026-12-15", "2027-01-15"),
        (15, "2026-01-14T23:59+00:00", "2025-12-15", "2026-01-15"),
    ],
)
def test_a_month_that_is_shorter_begins_on_its_last_day(billing_day: int, at: str, begins: str, ends: str) -> None:
    found = window(tenant(Period.MONTH, billing_day=billing_day), ms(at))

    assert [told(each, "UTC")[:10] for each in (found.begin_ms, found.end_ms)] == [begins, ends]


def test_a_month_begins_at_midnight_where_the_tenant_is() -> None:
    found = window(tenant(Period.MONTH, zone="America/New_York"), ms("2026-11-01T03:59+00:00"))

    assert told(found.begin_ms, "America/New_York") == "2026-10-01T00:00"
    assert found.end_ms == ms("2026-11-01T04:00+00:00")


def test_what_is_counted_and_what_a_call_takes_of_it() -> None:
    limits = (RateLimit(period=Period.MINUTE, units=70), RateLimit(period=Period.MONTH, units=9_000))
    owner = replace(policy(1), requests_per_minute=600, rate_limits=limits)
    found = windows_of(owner, cost=10, at_ms=ms("2026-05-05T12:00:30+00:00"))

    assert [(each.name, each.unit, each.limit, each.price, each.length_s) for each in found] == [
        ("minute", "requests", 600, 1, 60),
        ("units-minute", "units", 70, 10, 60),
        ("units-month", "units", 9_000, 10, 31 * 86_400),
    ]


def test_the_machines_own_zones_are_not_asked() -> None:
    berlin = time_zone("Europe/Berlin")

    assert berlin is time_zone("Europe/Berlin")
    assert berlin is not ZoneInfo("Europe/Berlin")
    assert berlin.utcoffset(datetime(2026, 7, 1, tzinfo=UTC).replace(tzinfo=None)) is not None


@pytest.mark.parametrize(
    "name", ["", "Mars/Base", "../zones", "Europe", "europe/berlin", "/etc/localtime", "localtime"]
)
def test_what_is_no_zone_is_none(name: str) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        time_zone(name)
