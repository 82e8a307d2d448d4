"""How many calls a credential is granted, and what is told of those that it did not spend."""

from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.budgets.model import Lot, Unspent
from ext_authz.leases.grants import (
    LONGEST_MS,
    MOST_CALLS,
    Grants,
    LeaseKey,
    Told,
    header,
    held_header,
    read_told,
    ticket,
)
from ext_authz.policies.model import Period
from tests.fixtures.edge_budgets import NOON_MS, window

KEY: Final = LeaseKey(credential=b"a", lease_class="certificates.read")
OTHERS: Final = (
    LeaseKey(credential=b"b", lease_class="certificates.read"),
    LeaseKey(credential=b"a", lease_class="certificates.list"),
)
NONE: Final = Told()
MEMORY: Final = "0123456789abcdef"
DAY: Final = window(1_000, period=Period.DAY, begin_ms=NOON_MS - 43_200_000)
LOT: Final = Lot(tenant_uid=UUID(int=1), windows=(window(600), DAY), ends_ms=99, calls=5, memory=MEMORY)


def told(granted: int, *, left: int = 0, lasted_ms: int = LONGEST_MS) -> Told:
    unspent = Unspent(lease="1", memory=MEMORY, since_ms=NOON_MS, calls=left)
    return Told(granted=granted, lasted_ms=lasted_ms, ticket="ticket", unspent=(unspent,))


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


def test_who_spends_its_leases_is_granted_more_and_more_by_whichever_worker_is_told() -> None:
    found, calls = [], 8
    for _ in range(5):
        calls = Grants(1).wanted(KEY, told(calls, lasted_ms=1), now_ms=0)
        found.append(calls)

    assert found == [64, 512, 2000, 2000, 2000]


@pytest.mark.parametrize(
    ("granted", "left", "lasted_ms", "calls"),
    [(1000, 970, 1000, 30), (1000, 0, 500, 2000), (100, 40, 600, 100), (100, 40, 10, 800), (1000, 999, 1000, 0)],
)
def test_who_has_spent_some_of_a_lease_is_granted_what_it_would_spend_at_that_rate(
    granted: int, left: int, lasted_ms: int, calls: int
) -> None:
    assert Grants(1).wanted(KEY, told(granted, left=left, lasted_ms=lasted_ms), now_ms=0) == calls


@pytest.mark.behaviour("S3.4")
def test_who_has_spent_none_of_a_lease_is_granted_none_with_that_request() -> None:
    """What is granted to nobody who keeps it costs the tenant calls until it is given back."""
    grants = Grants(1)
    grants.wanted(KEY, NONE, now_ms=0)

    assert grants.wanted(KEY, told(8, left=8), now_ms=1) == 0
    assert grants.wanted(KEY, NONE, now_ms=2) == 8


@given(calls=st.integers(1, MOST_CALLS), left=st.integers(0, MOST_CALLS), lasted_ms=st.integers(0, 10 * LONGEST_MS))
def test_nobody_is_granted_more_than_it_could_spend(calls: int, left: int, lasted_ms: int) -> None:
    used = calls - min(left, calls)
    wanted = Grants(7).wanted(KEY, told(calls, left=left, lasted_ms=lasted_ms), now_ms=1000)

    assert 0 <= wanted <= MOST_CALLS
    assert wanted != 1
    assert wanted <= used * LONGEST_MS // max(lasted_ms, 1)
    assert wanted <= 8 * calls


NAME: Final = f"42.10.{NOON_MS}.{MEMORY}"


def test_a_lease_is_named_so_that_anybody_can_give_back_what_is_left_of_it() -> None:
    name = Grants(41).name(calls=10, lot=LOT)
    read = read_told(f"50 900 ticket {name}:4 7.30.5.-:30".encode())

    assert name == NAME
    assert read == Told(
        granted=50,
        lasted_ms=900,
        ticket="ticket",
        unspent=(
            Unspent(lease=NAME, memory=MEMORY, since_ms=NOON_MS, calls=4),
            Unspent(lease="7.30.5.-", memory="-", since_ms=5, calls=30),
        ),
    )
    assert read.used == 16


def test_no_two_leases_have_one_name() -> None:
    here, there = Grants(1 << 40), Grants(1 << 50)

    assert len({granter.name(calls=1, lot=LOT) for granter in (here, here, there, there)}) == 4


def test_the_windows_of_a_lease_are_known_by_a_moment_that_lies_in_all_of_them() -> None:
    assert LOT.since_ms == NOON_MS
    assert all(each.begin_ms <= LOT.since_ms < each.end_ms for each in LOT.windows)


@pytest.mark.behaviour("S3.4")
@given(text=st.binary(max_size=24) | st.integers(0, 10**10).map(lambda left: f"10 1 ticket {NAME}:{left}".encode()))
def test_whatever_is_said_to_be_unspent_no_more_comes_back_than_was_granted(text: bytes) -> None:
    read = read_told(text)

    assert read is None or all(0 <= unspent.calls <= 10 for unspent in read.unspent)
    assert read is None or read.used >= 0


@pytest.mark.parametrize("text", [b"0", b"50 1 ticket"])
def test_where_nothing_is_left_nothing_comes_back(text: bytes) -> None:
    read = read_told(text)

    assert read is not None
    assert (read.unspent, read.used) == ((), read.granted)


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "-1", "1 ", "1 1", "1 ticket", "1  1 ticket", "1 1 ticket ", f"1 1 ticket {NAME}"),
        *(f"1 1 ticket {NAME}{end}" for end in (":", ":-1", ":1 ", ":1,1", ":1\n")),
        *(f"1 1 ticket x{NAME}:1", f"1 1 ticket 1.1.1.{MEMORY}0:1", f"1 1 ticket 1.1.{MEMORY}:1", "\u0661"),
    ],
)
def test_what_the_script_does_not_say_is_nothing(text: str) -> None:
    assert read_told(text.encode()) is None


def test_memory_is_bounded_and_what_was_seen_last_stays() -> None:
    grants = Grants(0)
    keys = [LeaseKey(credential=str(number).encode(), lease_class="c") for number in range(30_000)]
    for number, key in enumerate(keys):
        grants.wanted(key, NONE, now_ms=number)

    assert len(grants._seen) == 20_000
    assert [key in grants._seen for key in (keys[0], keys[-1])] == [False, True]


def test_a_lease_is_written_as_the_script_reads_it() -> None:
    shown = ticket(5, "certificates.read", tenant_uid=UUID(int=1), session=UUID(int=2))

    assert shown == f"5.certificates.read.{UUID(int=1)}.{UUID(int=2)}"
    assert header(NAME, calls=10, ends_ms=99, ticket=shown, context="1.a.b") == f"{NAME} 10 99 {shown} 1.a.b"
    assert held_header(ends_ms=99, reset_ms=7000, ticket=shown) == f"held 0 99 {shown} held:7000"
