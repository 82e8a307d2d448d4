"""Opened keys are kept for a while, in a bounded number, and not at all once they are forgotten."""

from datetime import timedelta
from uuid import UUID

from control_plane.keys.cache import KeyCache

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
