"""Decisions are counted exactly, in bounded memory."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane import tally
from ext_authz.reports import messages
from ext_authz.reports import tally as tallying
from ext_authz.reports.messages import add_report, reports_of
from ext_authz.reports.model import Denial, Usage
from ext_authz.reports.tally import Taken, Tallies

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


def usage(tenant: int = 1, *, method: str = "/m", cost: int = 1, admitted: bool = True, credential: int = 9) -> Usage:
    return Usage(
        tenant_uid=UUID(int=tenant),
        method=method,
        cost=cost,
        admitted=admitted,
        credential=UUID(int=credential),
        lease_class="certificates.read",
    )


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_denials_alike_are_one_kind_with_the_first_ones_request() -> None:
    tallies = Tallies()
    for second in range(5):
        tallies.deny(denial(request=f"r{second}"), at(second))
    (told,) = tallies.take_all().denials

    assert (told.kind.tenant, told.kind.reason, told.kind.peer) == ("org_1", "SCOPE_MISSING", "192.0.2.1")
    assert (told.count, told.first_time, told.last_time, told.request_id) == (5, at(0), at(4), "r0")


def test_a_denial_of_nobodys_is_of_no_tenant() -> None:
    tallies = Tallies()
    tallies.deny(denial(tenant=""), at(0))

    assert [told.kind.tenant for told in tallies.take_all().denials] == [None]


def test_usage_is_counted_by_tenant_method_and_minute() -> None:
    tallies = Tallies()
    tallies.use(usage(cost=3), at(0))
    tallies.use(usage(cost=3), at(59.9))
    tallies.use(usage(cost=3, admitted=False), at(30))
    tallies.use(usage(cost=3), at(60))
    taken = tallies.take_all().usage

    assert {kind.minute: (used.admitted, used.limited, used.cost) for kind, used in taken.items()} == {
        at(0): (2, 1, 6),
        at(60): (1, 0, 3),
    }


def test_a_steady_flood_is_held_back_and_its_first_denial_is_not() -> None:
    tallies = Tallies()
    told = []
    for second in range(600):
        tallies.deny(denial(), at(second))
        told += tallies.take_due(at(second)).denials
    told += tallies.take_all().denials

    assert told[0].first_time == told[0].last_time == at(0)
    assert sum(each.count for each in told) == 600
    assert 60 <= len(told) <= 65


def test_usage_is_never_held_back_but_goes_with_no_urgent_denial() -> None:
    tallies = Tallies()
    tallies.deny(denial(), at(0))
    tallies.use(usage(), at(0))
    urgent = tallies.take_due_denials(at(0))
    tallies.deny(denial(), at(0.5))
    regular = tallies.take_due(at(0.5))

    assert (len(urgent.denials), len(urgent.usage)) == (1, 0)
    assert (len(regular.denials), len(regular.usage)) == (0, 1)
    assert len(tallies.take_all().denials) == 1


DECISIONS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 30), st.sampled_from(["A", "B"]), st.integers(0, 7200)),
    max_size=200,
)


def taken(tallies: Tallies, what: str) -> Taken:
    if what == "all":
        return tallies.take_all()
    return tallies.take_due(at(3600)) if what == "due" else tallies.take_due_denials(at(3600))


TAKES = st.lists(st.sampled_from(["all", "due", "denials"]), max_size=20)


@given(decisions=DECISIONS, takes=TAKES)
def test_counts_add_up_whatever_overflows_and_however_it_is_taken(
    decisions: list[tuple[bool, int, int, str, int]], takes: list[str]
) -> None:
    """As counts pass from a worker through the agent."""
    tallies, handed = Tallies(), Tallies()
    noted: Counter[str | None] = Counter()
    used = 0
    sequence = 1

    def hand_over(part: Taken) -> None:
        nonlocal sequence
        for report in reports_of(part, reporter="r", sequence=sequence):
            assert report.sequence == sequence

            add_report(handed, report, START)
            sequence += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tallying, "USAGE", 10)
        patch.setattr(messages, "_KINDS_OF_A_REPORT", 3)
        for name, most in (("_KINDS_OF_A_TENANT", 5), ("_KINDS_OF_THE_PLATFORM", 8), ("_KINDS", 20)):
            patch.setattr(tally, name, most)
        for number, (denied, tenant, which, reason, second) in enumerate(decisions):
            if denied:
                name = f"org_{tenant}" if tenant else ""
                tallies.deny(denial(peer=str(which), tenant=name, reason=reason), at(second))
                noted[name or None] += 1
            else:
                tallies.use(usage(tenant, method=str(which), cost=which), at(second))
                used += which

            assert len(tallies) <= 20 + 1 + 10 + 4

            if number < len(takes):
                hand_over(taken(tallies, takes[number]))
        hand_over(tallies.take_all())
    result = handed.take_all()
    counted: Counter[str | None] = Counter()
    for told in result.denials:
        counted[told.kind.tenant] += told.count

    assert counted.total() == noted.total()
    # Where there are too many kinds of all tenants, what is too much is the platform's to know.
    assert all(counted[tenant] <= number for tenant, number in noted.items() if tenant)
    assert sum(one.cost for one in result.usage.values()) == used


def test_a_long_time_away_takes_no_more_memory_with_each_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallying, "USAGE", 10)
    tallies = Tallies()
    for minute in range(1000):
        for tenant in range(3):
            tallies.use(usage(tenant), at(60 * minute))

    assert len(tallies) <= 10 + 3
    assert sum(used.admitted for used in tallies.take_all().usage.values()) == 3000


@given(credentials=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 250), st.booleans()), max_size=400))
def test_what_is_admitted_is_counted_once_by_credential_and_the_least_active_are_told_as_one(
    credentials: list[tuple[int, int, bool]],
) -> None:
    tallies = Tallies()
    for tenant, credential, admitted in credentials:
        tallies.use(usage(tenant, credential=credential, admitted=admitted), at(0))
    taken = tallies.take_all()
    let_through = Counter(UUID(int=tenant) for tenant, _, admitted in credentials if admitted)
    told: Counter[UUID] = Counter()
    for kind, count in taken.accesses.items():
        told[kind.tenant_uid] += count
    apart = Counter(kind.tenant_uid for kind in taken.accesses if kind.credential != tallying.REST)
    by_usage: Counter[UUID] = Counter()
    for usage_kind, used in taken.usage.items():
        by_usage[usage_kind.tenant_uid] += used.admitted

    assert told == let_through == +by_usage
    assert max(apart.values(), default=0) <= tallying.APART
    assert not tallies.take_all().accesses


def test_the_credentials_that_are_told_apart_are_those_with_the_most_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallying, "APART", 1)
    tallies = Tallies()
    for credential in (1, 2, 2, 3):
        tallies.use(usage(credential=credential), at(0))
    told = {kind.credential: count for kind, count in tallies.take_all().accesses.items()}

    assert told == {UUID(int=2): 2, tallying.REST: 2}


def test_credentials_beyond_the_limit_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallying, "ACCESSES", 2)
    tallies = Tallies()
    for credential in (1, 2, 3, 4, 1):
        tallies.use(usage(credential=credential), at(credential * 60))
    accesses = tallies.take_all().accesses

    assert len(accesses) == 3
    assert sum(accesses.values()) == 5


def test_accesses_pass_through_a_report_as_they_are() -> None:
    first, second = Tallies(), Tallies()
    for credential in (1, 1, 2):
        first.use(usage(credential=credential), at(0))
    taken = first.take_all()
    for one in reports_of(taken, reporter="r", sequence=1):
        add_report(second, one, at(1))

    assert second.take_all().accesses == taken.accesses
