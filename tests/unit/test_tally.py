"""Denied calls are counted exactly, in bounded memory and few rows."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.ids import TenantId
from control_plane.tally import Kind, Tallies, Tally

START = datetime(2026, 1, 1, tzinfo=UTC)
ORG = TenantId("org_1")


def kind(resource: str = "tenants/org_2", *, tenant: TenantId | None = ORG) -> Kind:
    return Kind(
        tenant=tenant,
        actor="tenant-member:alice",
        method="/bulkhead.v1.TokenService/ListTokens",
        resource=resource,
        reason="TENANT_MISMATCH",
        peer="ipv4:192.0.2.1",
    )


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_the_first_of_a_kind_is_due_at_once() -> None:
    tallies = Tallies()
    tallies.note(kind(), request_id="r1", now=at(0))

    assert tallies.take_due(at(0)) == [Tally(kind=kind(), count=1, first_time=at(0), last_time=at(0), request_id="r1")]
    assert tallies.take_due(at(100)) == []


@pytest.mark.behaviour("T-L4")
def test_ten_thousand_denials_alike_are_a_few_rows_that_add_up() -> None:
    tallies = Tallies()
    rows: list[Tally] = []
    for number in range(10_000):
        tallies.note(kind(), request_id=str(number), now=at(number / 1000))
        if number % 1000 == 0:
            rows += tallies.take_due(at(number / 1000))
    rows += tallies.take_all()

    assert sum(row.count for row in rows) == 10_000
    assert len(rows) <= 5
    assert (rows[0].first_time, rows[-1].last_time) == (at(0), at(9.999))


def test_a_flood_that_goes_on_costs_a_row_every_ten_seconds() -> None:
    tallies = Tallies()
    rows = 0
    for second in range(3600):
        tallies.note(kind(), request_id="r", now=at(second))
        rows += len(tallies.take_due(at(second)))

    assert 360 <= rows <= 365


@pytest.mark.behaviour("T-L4")
def test_whoever_varies_what_is_denied_fills_its_own_log_only_and_that_slowly() -> None:
    tallies = Tallies()
    rows: list[Tally] = []
    for number in range(60_000):
        tallies.note(kind(f"tenants/org_{number}"), request_id="r", now=at(number / 1000))
        if number % 1000 == 0:
            rows += tallies.take_due(at(number / 1000))
    tallies.note(kind(tenant=TenantId("org_9")), request_id="r", now=at(60))
    rows += tallies.take_all()
    per_log = Counter(row.kind.tenant for row in rows)

    assert sum(row.count for row in rows) == 60_001
    assert per_log == {ORG: per_log[ORG], "org_9": 1}
    assert per_log[ORG] <= 64 + 12
    assert {row.kind.reason for row in rows} == {"TENANT_MISMATCH", "OVERFLOW"}


def test_what_others_have_counted_is_one_tally_from_the_first_to_the_last() -> None:
    tallies = Tallies()
    for first, last, count in ((5, 6, 2), (3, 4, 1), (8, 9, 4)):
        told = Tally(kind=kind(), count=count, first_time=at(first), last_time=at(last), request_id=f"r{first}")
        tallies.add(told, now=at(10))

    assert tallies.take_due(at(10)) == [
        Tally(kind=kind(), count=7, first_time=at(3), last_time=at(9), request_id="r3"),
    ]


def test_what_was_handed_over_is_not_told_again_with_what_follows() -> None:
    tallies = Tallies()
    tallies.note(kind(), request_id="r1", now=at(0))
    tallies.take_due(at(0))
    tallies.note(kind(), request_id="r2", now=at(5))

    assert tallies.take_due(at(5)) == [Tally(kind=kind(), count=1, first_time=at(5), last_time=at(5), request_id="r2")]


def test_memory_is_bounded_whatever_is_denied() -> None:
    tallies = Tallies()
    for number in range(50_000):
        tallies.note(kind(tenant=TenantId(f"org_{number}")), request_id="r", now=START)

    assert len(tallies) <= 16_384 + 1
    assert sum(row.count for row in tallies.take_all()) == 50_000


def test_a_kind_is_forgotten_when_it_has_been_quiet_for_a_minute() -> None:
    tallies = Tallies()
    tallies.note(kind(), request_id="r", now=at(0))
    tallies.take_due(at(0))
    tallies.take_due(at(59))
    known = len(tallies)
    tallies.take_due(at(60))

    assert (known, len(tallies)) == (1, 0)


@pytest.mark.behaviour("T-L4")
@given(
    st.lists(
        st.one_of(
            st.integers(0, 100).map(lambda number: ("note", number)),
            st.integers(0, 100).map(lambda number: ("add", number)),
            st.integers(0, 90).map(lambda seconds: ("wait", seconds)),
            st.just(("take", 0)),
        ),
        max_size=200,
    )
)
def test_no_denial_is_lost_or_counted_twice(steps: list[tuple[str, int]]) -> None:
    tallies, now, noted = Tallies(), START, 0
    rows: list[Tally] = []
    for step, number in steps:
        if step == "note":
            tallies.note(kind(f"tenants/org_{number}"), request_id="r", now=now)
            noted += 1
        elif step == "add":
            told = Tally(kind=kind(f"tenants/org_{number}"), count=3, first_time=START, last_time=now, request_id="r")
            tallies.add(told, now=now)
            noted += 3
        elif step == "wait":
            now += timedelta(seconds=number)
        else:
            rows += tallies.take_due(now)
    rows += tallies.take_all()

    assert sum(row.count for row in rows) == noted
    assert all(row.count >= 1 and row.first_time <= row.last_time for row in rows)
