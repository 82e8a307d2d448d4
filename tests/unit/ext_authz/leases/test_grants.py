"""How many calls a credential is granted, and what is taken back of them."""

from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.leases.grants import (
    LONGEST_MS,
    MOST_CALLS,
    Grants,
    LeaseKey,
    header,
    held_header,
    ticket,
)
from tests.fixtures.edge_budgets import taken

KEY: Final = LeaseKey(credential=b"a", lease_class="certificates.read")
OTHERS: Final = (
    LeaseKey(credential=b"b", lease_class="certificates.read"),
    LeaseKey(credential=b"a", lease_class="certificates.list"),
)
PAID: Final = taken(11, limit=100, remaining=89, reset_s=30)


def test_whoever_comes_for_the_first_time_is_granted_nothing() -> None:
    assert Grants(1).wanted(KEY, None, now_ms=0) == 0


@pytest.mark.parametrize(("apart_ms", "calls"), [(2000, 0), (1000, 0), (500, 2), (100, 10), (1, 1000), (0, 1000)])
def test_who_comes_again_is_granted_what_it_would_use_in_the_time_of_a_lease(apart_ms: int, calls: int) -> None:
    grants = Grants(1)
    grants.wanted(KEY, None, now_ms=5000)

    assert grants.wanted(KEY, None, now_ms=5000 + apart_ms) == calls
    assert [grants.wanted(other, None, now_ms=5000 + apart_ms) for other in OTHERS] == [0, 0]


@given(calls=st.integers(1, MOST_CALLS), unspent=st.integers(0, MOST_CALLS), lasted_ms=st.integers(0, 10 * LONGEST_MS))
def test_the_next_lease_follows_what_was_spent_of_the_one_before(calls: int, unspent: int, lasted_ms: int) -> None:
    grants = Grants(7)
    grant = grants.add(KEY, calls=calls, now_ms=1000, taken=PAID)
    returned = grants.returned(KEY, f"{grant.number}:{unspent}".encode())
    wanted = grants.wanted(KEY, returned, now_ms=1000 + lasted_ms)

    assert returned is not None
    assert returned.calls == min(unspent, calls)
    assert 0 <= wanted <= MOST_CALLS
    assert wanted != 1
    used = 1 + calls - returned.calls
    assert wanted in {0, min(used * LONGEST_MS // max(lasted_ms, 1), MOST_CALLS)}


@pytest.mark.behaviour("S3.4")
def test_a_lease_is_taken_back_once() -> None:
    grants = Grants(7)
    grant = grants.add(KEY, calls=10, now_ms=0, taken=PAID)
    unspent = f"{grant.number}:4".encode()
    first, again = grants.returned(KEY, unspent), grants.returned(KEY, unspent)

    assert first is not None
    assert (first.grant, first.calls, again) == (grant, 4, None)


@pytest.mark.behaviour("S3.4")
@pytest.mark.parametrize("other", OTHERS)
def test_nobody_takes_back_what_another_one_was_granted(other: LeaseKey) -> None:
    grants = Grants(7)
    grant = grants.add(KEY, calls=10, now_ms=0, taken=PAID)
    unspent = f"{grant.number}:10".encode()

    assert grants.returned(other, unspent) is None
    assert grants.returned(KEY, unspent) is not None


@pytest.mark.behaviour("S3.4")
@given(text=st.binary(max_size=24) | st.from_regex(rb"[0-9]{0,20}:[0-9]{0,12}", fullmatch=True))
def test_whatever_is_said_to_be_unspent_no_more_comes_back_than_was_granted(text: bytes) -> None:
    grants = Grants(7)
    grant = grants.add(KEY, calls=10, now_ms=0, taken=PAID)
    returned = grants.returned(KEY, text)

    assert returned is None or (returned.grant is grant and 0 <= returned.calls <= 10)


def test_numbers_are_no_other_granters() -> None:
    here, there = Grants(1 << 40), Grants(1 << 50)
    mine = here.add(KEY, calls=10, now_ms=0, taken=PAID)
    there.add(KEY, calls=10, now_ms=0, taken=PAID)

    assert there.returned(KEY, f"{mine.number}:10".encode()) is None


def test_memory_is_bounded_and_what_was_seen_last_stays() -> None:
    grants = Grants(0)
    made = []
    for number in range(30_000):
        key = LeaseKey(credential=str(number).encode(), lease_class="c")
        grants.wanted(key, None, now_ms=number)
        made.append(grants.add(key, calls=1, now_ms=number, taken=PAID))

    assert len(grants._asked_at) == len(grants._granted) == 20_000
    returned = [grants.returned(one.key, f"{one.number}:1".encode()) is not None for one in (made[0], made[-1])]
    assert returned == [False, True]


def test_a_lease_is_written_as_the_script_reads_it() -> None:
    grant = Grants(41).add(KEY, calls=10, now_ms=0, taken=PAID)
    shown = ticket(5, "certificates.read", tenant_uid=UUID(int=1), session=UUID(int=2))

    assert shown == f"5.certificates.read.{UUID(int=1)}.{UUID(int=2)}"
    assert header(grant, ends_ms=99, ticket=shown, context="1.a.b") == f"42 10 99 {shown} 1.a.b"
    assert held_header(ends_ms=99, ticket=shown) == f"0 0 99 {shown} held"
