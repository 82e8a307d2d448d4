"""What a worker reserves, spends, gives up and remembers, by its own clock."""

from dataclasses import replace
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.budgets.model import GUESSED, PARTS, PRESSED_PARTS, Account, Lot, Standing
from ext_authz.budgets.windows import Window
from ext_authz.policies.model import Period
from tests.fixtures.edge_budgets import NOON_MS, window

NOW: Final = 1_000_000
MEMORY: Final = "0123456789abcdef"
MINUTE: Final = window(6_000)


def standing(remaining: int, of: Window = MINUTE, *, ends_ms: int = NOW + 30_000) -> Standing:
    return Standing(window=of, remaining=remaining, ends_ms=ends_ms, reset_ms=ends_ms + 5)


def lot(calls: int, *windows: Window, ends_ms: int = NOW + 30_000, memory: str = MEMORY) -> Lot:
    return Lot(tenant_uid=UUID(int=1), windows=windows or (MINUTE,), ends_ms=ends_ms, calls=calls, memory=memory)


def busy(*standings: Standing, calls: int = 100, now_ms: int = NOW) -> Account:
    """Make an account of which so many calls were just spent."""
    account = Account()
    account.hear(standings)
    account.note_spent(calls, now_ms)
    return account


def test_a_window_ends_too_early_for_who_spends_and_too_late_for_who_asks() -> None:
    heard = Standing.of(MINUTE, 5, length_ms=1_000, sent_ms=NOW, heard_ms=NOW + 40)

    assert heard.ends_ms < NOW + 1_000
    assert heard.reset_ms >= NOW + 1_000 + 40


def test_calls_are_spent_until_there_are_none() -> None:
    account = Account(lot=lot(5))

    assert [account.spend(calls, NOW) for calls in (1, 3, 4, 1)] == [1, 3, 1, 0]


@pytest.mark.behaviour("S3.4")
def test_no_call_is_spent_when_its_first_window_is_over() -> None:
    account = Account(lot=lot(5, ends_ms=NOW + 10))

    assert [account.spend(1, now_ms) for now_ms in (NOW + 9, NOW + 10, NOW + 11)] == [1, 0, 0]


def test_about_as_much_is_reserved_as_was_spent_in_the_last_second() -> None:
    account = busy(standing(6_000), calls=100)

    assert account.wanted(NOW) == 100
    assert 30 <= account.wanted(NOW + 1_000) <= 40
    assert account.wanted(NOW + 5_000) == 0


def test_what_was_wanted_and_not_held_is_reserved_too() -> None:
    account = busy(standing(6_000), calls=10)

    assert [account.wanted(NOW, missed=missed) for missed in (0, 90, 1_000)] == [10, 100, 6_000 // PARTS]
    # Not for a guess.
    assert [account.wanted(NOW, missed=missed) for missed in (GUESSED, GUESSED + 1)] == [10, 10 + GUESSED + 1]


def test_who_asks_for_little_reserves_nothing() -> None:
    assert busy(standing(6_000), calls=3).wanted(NOW) == 0


def test_who_still_holds_half_of_it_reserves_nothing_yet() -> None:
    account = busy(standing(6_000), calls=100)
    account.receive(lot(50))
    held = account.wanted(NOW)
    account.receive(lot(49))
    account.spend(50, NOW)

    assert held == 0
    assert account.wanted(NOW) == 150 - 49


@given(
    remaining=st.integers(0, 10_000), price=st.integers(1, 20), calls=st.integers(0, 5_000), held=st.integers(0, 500)
)
def test_no_more_is_held_than_a_small_part_of_what_remains(remaining: int, price: int, calls: int, held: int) -> None:
    narrow = window(10_000, period=Period.DAY, price=price)
    account = busy(standing(10_000), standing(remaining, narrow), calls=calls)
    account.receive(lot(held))
    wanted = account.wanted(NOW)

    assert wanted == 0 or (wanted + held) * price * PARTS <= remaining


def test_who_was_refused_a_moment_ago_may_hold_a_larger_part() -> None:
    second = window(50, period=Period.SECOND)
    account = busy(standing(50, second, ends_ms=NOW + 1_000))
    before = account.parts(NOW), account.wanted(NOW)
    account.refuse(standing(0, second, ends_ms=NOW + 1_000), NOW)

    assert before == (PARTS, 0)
    assert (account.parts(NOW), account.wanted(NOW)) == (PRESSED_PARTS, 50 // PRESSED_PARTS)
    assert [account.parts(now_ms) for now_ms in (NOW + 1_999, NOW + 2_000)] == [PRESSED_PARTS, PARTS]


@pytest.mark.parametrize(("limit", "price", "parts"), [(63, 1, PRESSED_PARTS), (64, 1, PARTS), (127, 2, PRESSED_PARTS)])
def test_of_a_limit_that_is_large_enough_no_larger_part_is_held(limit: int, price: int, parts: int) -> None:
    account = Account()
    account.refuse(standing(0, window(limit, period=Period.SECOND, price=price)), NOW)

    assert account.parts(NOW) == parts


def test_near_the_end_of_a_window_only_so_much_is_reserved_as_can_be_spent_before_it() -> None:
    account = busy(standing(6_000, ends_ms=NOW + 100), calls=100)

    assert account.wanted(NOW) == 10
    # What is known is of a window that is over.
    assert account.wanted(NOW + 100) == 90


def test_lots_of_the_same_windows_are_one_and_end_with_the_earlier() -> None:
    account = Account()
    account.receive(lot(5, ends_ms=NOW + 20))

    assert account.receive(lot(7, ends_ms=NOW + 10)) is None
    assert account.receive(lot(1, ends_ms=NOW + 30)) is None
    assert (account.held(NOW + 9), account.held(NOW + 10)) == (13, 0)


def test_a_lot_of_other_windows_takes_the_place_of_the_one_before_which_goes_back() -> None:
    account = Account()
    first = lot(5)
    account.receive(first)
    before = account.receive(lot(7, replace(MINUTE, begin_ms=NOON_MS + 60_000)))

    assert before is first
    assert not first.is_open
    assert account.held(NOW) == 7


def test_who_spends_nothing_for_a_second_gives_up_what_they_hold() -> None:
    account = busy(standing(6_000))
    held = lot(5)
    account.receive(held)

    assert account.unspent(NOW + 999, memory=MEMORY) is None
    assert account.unspent(NOW + 1_000, memory=MEMORY) is held
    assert not held.is_open
    assert account.spend(1, NOW + 1_000) == 0


@pytest.mark.behaviour("S3.12")
@pytest.mark.parametrize("memory", [None, "another"])
def test_what_cannot_be_given_back_is_kept_until_its_windows_end(memory: str | None) -> None:
    account = Account()
    held = lot(5, ends_ms=NOW + 10_000)
    account.receive(held)
    kept = account.unspent(NOW + 9_999, memory=memory)

    assert kept is None
    assert account.spend(1, NOW + 9_999) == 1
    assert account.unspent(NOW + 10_000, memory=memory) is held


@pytest.mark.behaviour("S3.12")
def test_what_was_counted_in_two_memories_is_given_back_to_neither() -> None:
    account = Account()
    account.receive(lot(5))
    account.receive(lot(5, memory="another"))

    assert account.lot is not None
    assert account.lot.memory is None
    assert account.unspent(NOW + 2_000, memory=None) is None
    assert account.held(NOW) == 10


def test_what_is_used_up_is_remembered_until_its_window_ends() -> None:
    used_up, narrow = standing(0, ends_ms=NOW + 500), window(10, period=Period.DAY)
    account = Account()
    account.refuse(account.hear([standing(3, narrow), used_up]), NOW)

    assert [account.refused(now_ms) for now_ms in (NOW, NOW + 499, NOW + 500)] == [used_up, used_up, None]


def test_of_several_that_are_used_up_the_one_that_lasts_longest_is_named() -> None:
    minute, day = standing(0), standing(0, window(9, period=Period.DAY), ends_ms=NOW + 9_000_000)

    assert Account().hear([minute, day]) is day


def test_a_flood_asks_again_ever_more_rarely() -> None:
    month = standing(0, window(10, period=Period.MONTH), ends_ms=NOW + 31 * 86_400_000)
    account = Account()
    account.refuse(month, NOW)
    asked = []
    for now_ms in range(NOW, NOW + 3_600_000, 10):
        if account.refused(now_ms) is None:
            asked.append((now_ms - NOW) // 1000)
            account.refuse(month, now_ms)

    assert asked == [1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 2047]


def test_who_is_admitted_again_was_not_refused() -> None:
    account = Account()
    account.refuse(standing(0), NOW)
    account.admit()

    assert account.refused(NOW) is None


def test_what_was_not_spent_after_all_does_not_count_for_the_rate() -> None:
    account = busy(standing(6_000), calls=100)
    account.note_spent(-60, NOW)

    assert account.wanted(NOW) == 40
    account.note_spent(-1_000, NOW)
    assert account.wanted(NOW) == 0
