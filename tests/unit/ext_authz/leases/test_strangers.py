"""Whoever is refused now and then is asked about; whoever is refused again and again is told so without."""

import pytest

from ext_authz.leases import strangers
from ext_authz.leases.strangers import OFTEN, Strangers


def floods(times_ms: list[int], *, credential: str = "a", among: Strangers | None = None) -> list[bool]:
    known = among or Strangers()
    return [known.is_flood(credential, repeated=0, now_ms=now_ms) for now_ms in times_ms]


@pytest.mark.behaviour("T-E16")
def test_what_is_refused_often_within_a_second_is_a_flood() -> None:
    assert floods(list(range(OFTEN + 2))) == [False] * (OFTEN - 1) + [True] * 3


def test_what_is_refused_seldom_is_none() -> None:
    assert not any(floods([n * 1000 // (OFTEN - 1) + n for n in range(50)]))


def test_a_new_second_begins_anew() -> None:
    assert floods([*range(OFTEN - 1), 1000, 1001]) == [False] * (OFTEN + 1)


def test_a_clock_that_is_set_back_begins_anew() -> None:
    assert floods([*range(5000, 5000 + OFTEN), 10]) == [*[False] * (OFTEN - 1), True, False]


def test_what_was_repeated_meanwhile_counts() -> None:
    known = Strangers()

    assert [known.is_flood("a", repeated=times, now_ms=0) for times in (0, OFTEN - 1, OFTEN)] == [False, False, True]


def test_each_credential_counts_for_itself() -> None:
    known = Strangers()
    floods([0] * OFTEN, among=known)

    assert not any(floods([0] * (OFTEN - 1), credential="b", among=known))


def test_a_bounded_number_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "_MOST_REMEMBERED", 2)
    known = Strangers()
    floods([0] * OFTEN, among=known)
    for credential in ("b", "c"):
        floods([0], credential=credential, among=known)

    assert floods([0], among=known) == [False]
