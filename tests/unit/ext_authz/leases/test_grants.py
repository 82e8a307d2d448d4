"""How many calls a credential is granted, and what is taken back of them."""

from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.leases.grants import (
    LONGEST_MS,
    MOST_CALLS,
    Grant,
    Grants,
    LeaseKey,
    Told,
    header,
    held_header,
    read_told,
    ticket,
)
from tests.fixtures.edge_budgets import taken

KEY: Final = LeaseKey(credential=b"a", lease_class="certificates.read")
OTHERS: Final = (
    LeaseKey(credential=b"b", lease_class="certificates.read"),
    LeaseKey(credential=b"a", lease_class="certificates.list"),
)
NONE: Final = Told(number=0, left=0, granted=0)
PAID: Final = taken(11, limit=100, remaining=89, reset_s=30)


def told(grant: Grant, *, left: int) -> Told:
    return Told(number=grant.number, left=left, granted=grant.calls)


def test_whoever_comes_for_the_first_time_is_granted_nothing() -> None:
    assert Grants(1).wanted(KEY, NONE, now_ms=0) == 0


@pytest.mark.parametrize(("apart_ms", "calls"), [(2000, 0), (1000, 0), (500, 2), (200, 5), (125, 8), (1, 8), (0, 8)])
def test_who_comes_again_is_granted_what_it_would_use_in_the_time_of_a_lease_but_little_at_first(
    apart_ms: int, calls: int
) -> None:
    grants = Grants(1)
    grants.wanted(KEY, NONE, now_ms=5000)

    assert grants.wanted(KEY, NONE, now_ms=5000 + apart_ms) == calls
    assert [grants.wanted(other, NONE, now_ms=5000 + apart_ms) for other in OTHERS] == [0, 0]


def test_who_spends_its_leases_is_granted_more_and_more() -> None:
    grants, now_ms, found = Grants(1), 0, []
    grants.wanted(KEY, NONE, now_ms=now_ms)
    last = NONE
    for _ in range(7):
        now_ms += 1
        calls = grants.wanted(KEY, last, now_ms=now_ms)
        found.append(calls)
        last = told(grants.add(KEY, calls=calls, now_ms=now_ms, taken=PAID), left=0)

    assert found == [8, 32, 128, 512, 2000, 2000, 2000]


def test_who_spends_little_of_a_lease_is_granted_little_more_than_that() -> None:
    grants = Grants(1)
    grants.wanted(KEY, NONE, now_ms=0)
    large = grants.add(KEY, calls=1000, now_ms=0, taken=PAID)

    assert grants.wanted(KEY, told(large, left=970), now_ms=1) == 60


@pytest.mark.behaviour("S3.4")
def test_who_spends_none_of_a_lease_is_granted_none_for_a_while() -> None:
    """What is granted to nobody who keeps it costs the tenant calls."""
    grants = Grants(1)
    grants.wanted(KEY, NONE, now_ms=0)
    wasted = grants.add(KEY, calls=8, now_ms=0, taken=PAID)

    assert grants.wanted(KEY, told(wasted, left=8), now_ms=1) == 0
    assert [grants.wanted(KEY, NONE, now_ms=now_ms) for now_ms in (2, 5000, 5002)] == [0, 0, 8]


@given(calls=st.integers(1, MOST_CALLS), left=st.integers(0, MOST_CALLS), lasted_ms=st.integers(0, 10 * LONGEST_MS))
def test_nobody_is_granted_more_than_it_could_spend(calls: int, left: int, lasted_ms: int) -> None:
    grants = Grants(7)
    grants.wanted(KEY, NONE, now_ms=1000)
    grant = grants.add(KEY, calls=calls, now_ms=1000, taken=PAID)
    used = calls - min(left, calls)
    wanted = grants.wanted(KEY, told(grant, left=min(left, calls)), now_ms=1000 + lasted_ms)

    assert 0 <= wanted <= MOST_CALLS
    assert wanted != 1
    assert wanted <= (1 + used) * LONGEST_MS // max(lasted_ms, 1)
    assert wanted <= max(8, 2 * used, 4 * calls)


@pytest.mark.behaviour("S3.4")
def test_a_lease_is_taken_back_once() -> None:
    grants = Grants(7)
    unspent = told(grant := grants.add(KEY, calls=10, now_ms=0, taken=PAID), left=4)
    first, again = grants.returned(KEY, unspent), grants.returned(KEY, unspent)

    assert first is not None
    assert (first.grant, first.calls, again) == (grant, 4, None)


@pytest.mark.behaviour("S3.4")
@pytest.mark.parametrize("other", OTHERS)
def test_nobody_takes_back_what_another_one_was_granted(other: LeaseKey) -> None:
    grants = Grants(7)
    unspent = told(grants.add(KEY, calls=10, now_ms=0, taken=PAID), left=10)

    assert grants.returned(other, unspent) is None
    assert grants.returned(KEY, unspent) is not None


@pytest.mark.behaviour("S3.4")
@given(text=st.binary(max_size=24) | st.from_regex(rb"[0-9]{0,20}:[0-9]{0,12}:[0-9]{0,12}", fullmatch=True))
def test_whatever_is_said_to_be_unspent_no_more_comes_back_than_was_granted(text: bytes) -> None:
    grants = Grants(7)
    grant = grants.add(KEY, calls=10, now_ms=0, taken=PAID)
    read = read_told(text)
    returned = grants.returned(KEY, read) if read is not None else None

    assert returned is None or (returned.grant is grant and 0 <= returned.calls <= 10)


def test_several_leases_that_are_told_as_one_bring_back_no_more_than_the_last_of_them() -> None:
    grants = Grants(7)
    grant = grants.add(KEY, calls=10, now_ms=0, taken=PAID)
    returned = grants.returned(KEY, Told(number=grant.number, left=25, granted=30))

    assert returned is not None
    assert returned.calls == 10


@pytest.mark.parametrize("text", [b"", b"1:2", b"a:1:1", b"1:1:1 ", b"1:-1:1", b"1:1:1:1", b"1,1:1:1"])
def test_what_the_script_does_not_say_is_nothing(text: bytes) -> None:
    assert read_told(text) is None


def test_numbers_are_no_other_granters() -> None:
    here, there = Grants(1 << 40), Grants(1 << 50)
    mine = here.add(KEY, calls=10, now_ms=0, taken=PAID)
    there.add(KEY, calls=10, now_ms=0, taken=PAID)

    assert there.returned(KEY, told(mine, left=10)) is None


def test_memory_is_bounded_and_what_was_seen_last_stays() -> None:
    grants = Grants(0)
    made = []
    for number in range(30_000):
        key = LeaseKey(credential=str(number).encode(), lease_class="c")
        grants.wanted(key, NONE, now_ms=number)
        made.append(grants.add(key, calls=1, now_ms=number, taken=PAID))

    assert len(grants._seen) == len(grants._granted) == 20_000
    returned = [grants.returned(one.key, told(one, left=1)) is not None for one in (made[0], made[-1])]
    assert returned == [False, True]


def test_a_lease_is_written_as_the_script_reads_it() -> None:
    grant = Grants(41).add(KEY, calls=10, now_ms=0, taken=PAID)
    shown = ticket(5, "certificates.read", tenant_uid=UUID(int=1), session=UUID(int=2))

    assert shown == f"5.certificates.read.{UUID(int=1)}.{UUID(int=2)}"
    assert header(grant, ends_ms=99, ticket=shown, context="1.a.b") == f"42 10 99 {shown} 1.a.b"
    assert held_header(ends_ms=99, reset_ms=7000, ticket=shown) == f"0 0 99 {shown} held:7000"
