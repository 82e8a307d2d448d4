"""Opened keys are kept for a while, in a bounded number, and not at all once they are forgotten."""

from datetime import timedelta
from uuid import UUID

from control_plane.keys.opened.cache import Answers, KeyCache

ALPHA, BETA = UUID(int=1), UUID(int=2)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _cache(clock: Clock, capacity: int = 10) -> KeyCache[str, bytes]:
    return KeyCache(lifetime=timedelta(minutes=5), capacity=capacity, clock=clock)


def test_a_key_is_kept_for_its_lifetime_and_no_longer_however_much_it_is_used() -> None:
    clock = Clock()
    cache = _cache(clock)
    cache.put("a", b"key", owner=ALPHA, since=cache.epoch)
    clock.now_s = 299.9
    assert cache.get("a") == b"key"
    clock.now_s = 300

    assert cache.get("a") is None
    assert len(cache) == 0


def test_of_too_many_keys_the_one_that_was_least_used_gives_way() -> None:
    cache = _cache(Clock(), capacity=2)
    for name in ("a", "b"):
        cache.put(name, name.encode(), owner=ALPHA, since=cache.epoch)
    cache.get("a")
    cache.put("c", b"c", owner=ALPHA, since=cache.epoch)

    assert [cache.get(name) for name in ("a", "b", "c")] == [b"a", None, b"c"]
    assert len(cache) == 2


def test_forgetting_a_tenant_leaves_the_others_keys() -> None:
    cache = _cache(Clock())
    cache.put("a", b"a", owner=ALPHA, since=cache.epoch)
    cache.put("b", b"b", owner=BETA, since=cache.epoch)
    cache.forget(ALPHA)

    assert cache.get("a") is None
    assert cache.get("b") == b"b"


def test_a_key_that_was_being_fetched_while_it_was_forgotten_is_not_kept() -> None:
    cache = _cache(Clock())
    since = cache.epoch
    cache.forget(ALPHA)
    cache.put("a", b"a", owner=ALPHA, since=since)
    assert cache.get("a") is None
    cache.put("a", b"a", owner=ALPHA, since=cache.epoch)

    assert cache.get("a") == b"a"


def _answers(clock: Clock) -> Answers[str, int]:
    return Answers(
        fresh=timedelta(seconds=1), kept=KeyCache(lifetime=timedelta(minutes=5), capacity=10, clock=clock), clock=clock
    )


def test_an_answer_is_fresh_for_a_while_and_then_one_asks_while_the_others_go_on_with_it() -> None:
    clock = Clock()
    answers = _answers(clock)
    answers.put("a", 1, owner=ALPHA, since=answers.epoch)
    clock.now_s = 0.9
    assert [answers.get("a"), answers.get("a")] == [1, 1]
    clock.now_s = 1

    assert [answers.get("a"), answers.get("a"), answers.get("a")] == [None, 1, 1]
    answers.put("a", 2, owner=ALPHA, since=answers.epoch)
    assert answers.get("a") == 2


def test_whoever_asks_and_does_not_come_back_is_followed_by_another_one() -> None:
    clock = Clock()
    answers = _answers(clock)
    answers.put("a", 1, owner=ALPHA, since=answers.epoch)
    clock.now_s = 1
    answers.get("a")
    clock.now_s = 1.25

    assert [answers.get("a"), answers.get("a")] == [None, 1]


def test_the_last_answer_holds_while_there_is_no_newer_one_but_not_for_ever() -> None:
    clock = Clock()
    answers = _answers(clock)
    assert (answers.get("a"), answers.last("a")) == (None, None)
    answers.put("a", 1, owner=ALPHA, since=answers.epoch)
    clock.now_s = 299.9
    assert answers.last("a") == 1
    clock.now_s = 300

    assert answers.last("a") is None


def test_an_answer_is_forgotten_with_its_owner_and_so_is_one_that_was_asked_for_before() -> None:
    answers = _answers(Clock())
    answers.put("a", 1, owner=ALPHA, since=answers.epoch)
    answers.put("b", 2, owner=BETA, since=answers.epoch)
    asked = answers.epoch
    answers.forget(ALPHA)
    answers.put("a", 1, owner=ALPHA, since=asked)

    assert (answers.get("a"), answers.last("a"), answers.get("b")) == (None, None, 2)


def test_of_answers_that_are_gone_nothing_is_kept() -> None:
    answers = _answers(Clock())
    for number in range(100):
        answers.put(str(number), number, owner=ALPHA, since=answers.epoch)

    assert len(answers._fresh_until_s) <= 21
