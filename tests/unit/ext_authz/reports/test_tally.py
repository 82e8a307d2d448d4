"""Decisions are counted exactly, in bounded memory."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.reports import tally as tallying
from ext_authz.reports.messages import add_report, report_of
from ext_authz.reports.model import Denial, Usage
from ext_authz.reports.tally import DENIALS_OF_A_TENANT, Taken, Tallies

START = datetime(2026, 1, 1, tzinfo=UTC)


def denial(
    peer: str = "192.0.2.1", *, tenant: str = "org_1", reason: str = "SCOPE_MISSING", request: str = "r"
) -> Denial:
    return Denial(
        tenant_id=tenant,
        actor="tenant-member:alice",
        method="/m",
        resource="tenants/org_1",
        reason=reason,
        peer=peer,
        request_id=request,
    )


def usage(tenant: int = 1, *, method: str = "/m", cost: int = 1, admitted: bool = True) -> Usage:
    return Usage(tenant_uid=UUID(int=tenant), method=method, cost=cost, admitted=admitted)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def everything(tallies: Tallies) -> Taken:
    return tallies.take(10**9)


def test_denials_alike_are_one_kind_with_the_first_ones_request() -> None:
    tallies = Tallies()
    for second in range(5):
        tallies.deny(denial(request=f"r{second}"), at(second))
    ((kind, denied),) = everything(tallies).denials.items()

    assert (kind.tenant_id, kind.reason, kind.peer) == ("org_1", "SCOPE_MISSING", "192.0.2.1")
    assert (denied.count, denied.first_time, denied.last_time, denied.request_id) == (5, at(0), at(4), "r0")


def test_usage_is_counted_by_tenant_method_and_minute() -> None:
    tallies = Tallies()
    tallies.use(usage(cost=3), at(0))
    tallies.use(usage(cost=3), at(59.9))
    tallies.use(usage(cost=3, admitted=False), at(30))
    tallies.use(usage(cost=3), at(60))
    taken = everything(tallies).usage

    assert {kind.minute: (used.admitted, used.limited, used.cost) for kind, used in taken.items()} == {
        at(0): (2, 1, 6),
        at(60): (1, 0, 3),
    }


def test_whoever_varies_what_is_denied_fills_its_own_share_alone() -> None:
    tallies = Tallies()
    for number in range(3 * DENIALS_OF_A_TENANT):
        tallies.deny(denial(peer=f"{number}"), at(number))
    tallies.deny(denial(tenant="org_2"), at(0))
    taken = everything(tallies).denials

    assert len(taken) == DENIALS_OF_A_TENANT + 2
    assert sum(denied.count for denied in taken.values()) == 3 * DENIALS_OF_A_TENANT + 1
    assert [kind.peer for kind in taken if kind.tenant_id == "org_2"] == ["192.0.2.1"]


def test_a_share_is_free_again_when_it_was_taken() -> None:
    tallies = Tallies()
    for _ in range(3):
        for number in range(DENIALS_OF_A_TENANT):
            tallies.deny(denial(peer=f"{number}"), at(0))

        assert len(everything(tallies).denials) == DENIALS_OF_A_TENANT


DECISIONS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 30), st.sampled_from(["A", "B"]), st.integers(0, 7200)),
    max_size=200,
)


@given(decisions=DECISIONS, portion=st.integers(1, 20))
def test_counts_add_up_whatever_overflows_and_however_it_is_taken(
    decisions: list[tuple[bool, int, int, str, int]], portion: int
) -> None:
    tallies, handed = Tallies(), Tallies()
    noted: Counter[tuple[str, str]] = Counter()
    used = 0
    with pytest.MonkeyPatch.context() as patch:
        for name, most in (("DENIALS", 20), ("DENIALS_OF_A_TENANT", 5), ("DENIALS_OF_NOBODY", 8), ("USAGE", 10)):
            patch.setattr(tallying, name, most)
        for denied, tenant, which, reason, second in decisions:
            if denied:
                name = f"org_{tenant}" if tenant else ""
                tallies.deny(denial(peer=str(which), tenant=name, reason=reason), at(second))
                noted[name, reason] += 1
            else:
                tallies.use(usage(tenant, method=str(which), cost=which), at(second))
                used += which

            assert len(tallies) <= 20 + 8 + 10 + 4
        while len(tallies):
            taken = tallies.take(portion)

            assert 0 < len(taken.denials) + len(taken.usage) <= portion

            add_report(handed, report_of(taken, reporter="r", sequence=1))
    result = everything(handed)
    counted: Counter[tuple[str, str]] = Counter()
    for kind, denied_kind in result.denials.items():
        counted[kind.tenant_id, kind.reason] += denied_kind.count

    assert counted == noted
    assert sum(one.cost for one in result.usage.values()) == used


def test_a_long_time_away_takes_no_more_memory_with_each_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallying, "USAGE", 10)
    tallies = Tallies()
    for minute in range(1000):
        for tenant in range(3):
            tallies.use(usage(tenant), at(60 * minute))

    assert len(tallies) <= 10 + 3
    assert sum(used.admitted for used in everything(tallies).usage.values()) == 3000
