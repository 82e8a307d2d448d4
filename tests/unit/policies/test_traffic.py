"""Present traffic is what was reported within the window, by tenant, and nothing of long ago."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.ids import TenantId
from control_plane.policies import traffic as module
from control_plane.policies.model import Report, Usage
from control_plane.policies.traffic import WINDOW, Requests, Traffic
from control_plane.tally import Kind, Tally

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ACME, GLOBEX, GONE = (UUID(int=number) for number in (1, 2, 3))


def used(tenant: UUID, *, admitted: int = 0, limited: int = 0, leased: int = 0, at: datetime = NOW) -> Usage:
    minute = at.replace(second=0)
    return Usage(
        tenant_uid=tenant, method="/m", minute=minute, admitted=admitted, limited=limited, cost=admitted, leased=leased
    )


def denied(tenant: str | None, count: int = 1, *, at: datetime = NOW) -> Tally:
    kind = Kind(
        tenant=TenantId(tenant) if tenant is not None else None,
        actor="a",
        method="/m",
        resource="",
        reason="R",
        peer="",
    )
    return Tally(kind=kind, count=count, first_time=at, last_time=at, request_id="r")


def report(*usage: Usage, denials: tuple[Tally, ...] = ()) -> Report:
    told = {UUID(int=number): tally for number, tally in enumerate(denials)}
    return Report(reporter=UUID(int=9), sequence=1, denials=told, usage=usage)


@pytest.fixture
def traffic() -> Traffic:
    made = Traffic()
    made.learn({ACME: "acme", GLOBEX: "globex"})
    return made


def test_those_with_the_most_requests_come_first_and_all_are_the_total(traffic: Traffic) -> None:
    traffic.note(report(used(ACME, admitted=2, leased=1), used(GLOBEX, admitted=1, limited=5)), NOW)
    traffic.note(report(used(ACME, admitted=1, leased=1), denials=(denied("acme", 2),)), NOW)
    present = traffic.present(NOW)

    assert list(present.by_tenant.items()) == [
        ("globex", Requests(admitted=1, limited=5)),
        ("acme", Requests(admitted=3, denied=2, leased=2)),
    ]
    assert present.total == Requests(admitted=4, limited=5, denied=2, leased=2)


def test_what_was_reported_before_the_window_is_forgotten(traffic: Traffic) -> None:
    traffic.note(report(used(ACME, admitted=2)), NOW)
    just_within, beyond = NOW + WINDOW - timedelta(seconds=1), NOW + WINDOW

    assert traffic.present(just_within).total.admitted == 2
    assert traffic.present(beyond).by_tenant == {}


def test_what_an_edge_could_not_report_for_minutes_is_no_traffic_of_now(traffic: Traffic) -> None:
    past = NOW - timedelta(minutes=5)
    traffic.note(report(used(ACME, admitted=2, at=past), denials=(denied("acme", at=past),)), NOW)

    assert traffic.present(NOW).total == Requests()


@pytest.mark.parametrize("tenant", [None, "", "\x1b[31m", "a" * 200])
def test_a_denial_that_is_no_tenants_is_left_out(traffic: Traffic, tenant: str | None) -> None:
    traffic.note(report(denials=(denied(tenant),)), NOW)

    assert traffic.present(NOW).by_tenant == {}


def test_a_tenant_is_asked_for_its_name_until_that_is_known(traffic: Traffic) -> None:
    told = report(used(ACME, admitted=1), used(GONE, admitted=1))
    traffic.note(told, NOW)

    assert traffic.nameless(told) == {GONE}
    assert list(traffic.present(NOW).by_tenant) == ["acme"]


def test_tenants_beyond_the_limit_are_known_together(traffic: Traffic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_TENANTS", 1)
    traffic.note(report(used(ACME, admitted=1), used(GLOBEX, admitted=2), used(ACME, admitted=4)), NOW)

    assert dict(traffic.present(NOW).by_tenant) == {"acme": Requests(admitted=5), "": Requests(admitted=2)}


@given(
    reports=st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from([ACME, GLOBEX]), st.integers(0, 9), st.integers(0, 9)),
        max_size=30,
    ),
    after=st.integers(0, 15),
)
def test_the_total_is_the_sum_of_all_tenants_and_of_what_the_window_has(
    reports: list[tuple[int, UUID, int, int]], after: int
) -> None:
    traffic = Traffic()
    traffic.learn({ACME: "acme", GLOBEX: "globex"})
    for second, tenant, admitted, limited in sorted(reports, key=lambda one: one[0]):
        traffic.note(report(used(tenant, admitted=admitted, limited=limited)), NOW + timedelta(seconds=second))
    moment = NOW + timedelta(seconds=max([after, *(second for second, *_ in reports)]))
    present = traffic.present(moment)
    within = [one for one in reports if NOW + timedelta(seconds=one[0]) > moment - WINDOW]

    assert present.total.admitted == sum(one[2] for one in within)
    assert present.total.all == sum(requests.all for requests in present.by_tenant.values())
