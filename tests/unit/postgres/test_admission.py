"""Whose turn it is: nobody starves, nobody has more than its part, and nothing lies idle without a reason."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.postgres import admission
from control_plane.postgres.admission import Admission, OverloadedError
from control_plane.postgres.placement import ConnectionPooling

MANY = ConnectionPooling(min_connections=0, max_connections=200)
TWO = ConnectionPooling(min_connections=2, max_connections=50)


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Scene:
    """An admission, and who was let in, in order."""

    def __init__(self, limit: int) -> None:
        self.clock = Clock()
        self.admission = Admission(limit, clock=self.clock)
        self.entered: list[str] = []
        self.held: Counter[str] = Counter()
        self.waiting: list[asyncio.Task[None]] = []

    async def ask(self, name: str, pooling: ConnectionPooling = TWO, *, times: int = 1) -> None:
        """Ask, and let come in whoever may now."""
        self.waiting += [asyncio.create_task(self._enter(name, pooling)) for _ in range(times)]
        await turn()

    async def leave(self, *names: str) -> None:
        for name in names:
            self.held[name] -= 1
            self.admission.leave(name)
            await turn()

    async def _enter(self, name: str, pooling: ConnectionPooling) -> None:
        await self.admission.enter(name, pooling)
        self.entered.append(name)
        self.held[name] += 1


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_whoever_is_alone_may_have_everything() -> None:
    scene = Scene(8)
    await scene.ask("a", times=9)

    assert scene.held["a"] == 8


async def test_nobody_has_more_than_its_maximum_though_there_is_room() -> None:
    scene = Scene(8)
    await scene.ask("a", ConnectionPooling(min_connections=2, max_connections=3), times=5)
    waiting = scene.held["a"]
    await scene.leave("a")

    assert (waiting, scene.held["a"], len(scene.entered)) == (3, 3, 4)


@pytest.mark.behaviour("S7.6")
async def test_who_has_less_than_its_minimum_goes_before_who_has_more() -> None:
    scene = Scene(4)
    await scene.ask("greedy", times=20)
    await scene.ask("modest", times=3)
    await scene.leave("greedy", "greedy", "greedy")

    # Its third is one above its minimum, and waits for the greedy one's that came before.
    assert scene.entered[4:] == ["modest", "modest", "greedy"]


@pytest.mark.behaviour("S1.19")
async def test_a_thousand_questions_of_one_are_no_more_than_one_of_another() -> None:
    scene = Scene(1)
    await scene.ask("a", MANY, times=400)
    await scene.ask("b", MANY, times=3)
    await scene.ask("c", MANY, times=2)
    for _ in range(6):
        await scene.leave(scene.entered[-1])

    assert scene.entered == ["a", "a", "b", "c", "a", "b", "c"]


async def test_what_the_active_could_claim_is_kept_free_and_not_for_long() -> None:
    scene = Scene(8)
    await scene.ask("small")
    await scene.leave("small")
    await scene.ask("greedy", times=10)
    while_active = scene.held["greedy"]
    await scene.ask("small", times=2)
    both = dict(scene.held)
    await scene.leave("small", "small")
    scene.clock.now_s += 6
    scene.admission.forget_idle()
    await turn()

    assert while_active == 6
    assert both == {"small": 2, "greedy": 6}
    assert scene.held["greedy"] == 8


async def test_no_more_than_a_quarter_is_kept_free_however_many_are_active() -> None:
    scene = Scene(8)
    for number in range(100):
        await scene.ask(f"small_{number}")
        await scene.leave(f"small_{number}")
    await scene.ask("greedy", times=10)

    assert scene.held["greedy"] == 6


async def test_a_part_that_is_changed_counts_from_the_next_question_on() -> None:
    scene = Scene(8)
    await scene.ask("a", ConnectionPooling(min_connections=1, max_connections=1), times=2)
    before = scene.held["a"]
    await scene.ask("a", ConnectionPooling(min_connections=1, max_connections=3))
    await turn()

    assert (before, scene.held["a"]) == (1, 3)


async def test_who_gives_up_is_passed_over() -> None:
    scene = Scene(1)
    await scene.ask("a", times=1)
    await scene.ask("b", times=2)
    await scene.ask("c", times=1)
    scene.waiting[1].cancel()
    # In the same moment, before it has had a chance to say so.
    scene.admission.leave("a")
    await turn()
    await scene.leave("b" if "b" in scene.entered else "c")

    assert sorted(scene.entered) == ["a", "b", "c"]


async def test_who_gives_up_as_it_comes_in_gives_its_place_back() -> None:
    scene = Scene(1)
    await scene.ask("a")
    await scene.ask("b")
    await scene.ask("c")
    scene.admission.leave("a")
    scene.waiting[1].cancel()
    await turn()

    assert scene.entered == ["a", "c"]


async def test_of_one_party_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_MOST_WAITING", 3)
    scene = Scene(1)
    await scene.ask("a", times=4)

    with pytest.raises(OverloadedError):
        await scene.admission.enter("a", TWO)
    await scene.ask("b")
    for _ in range(4):
        await scene.leave(scene.entered[-1])

    assert Counter(scene.entered) == {"a": 4, "b": 1}


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "leave", "cancel", "later"]), st.integers(0, 5), st.integers(0, 3)), max_size=60
)
POOLINGS = [
    ConnectionPooling(min_connections=low, max_connections=high) for low, high in ((0, 1), (2, 2), (1, 4), (2, 50))
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(1, 6), steps=STEPS)
def test_whatever_happens_in_whichever_order_the_books_are_right(limit: int, steps: list[tuple[str, int, int]]) -> None:
    asyncio.run(_play(limit, steps))


async def _play(limit: int, steps: list[tuple[str, int, int]]) -> None:
    scene = Scene(limit)
    for what, who, which in steps:
        name, pooling = f"party_{who}", POOLINGS[which]
        if what == "ask":
            await scene.ask(name, pooling)
        elif what == "leave" and scene.held[name]:
            await scene.leave(name)
        elif what == "cancel" and scene.waiting:
            scene.waiting[which % len(scene.waiting)].cancel()
            await turn()
        elif what == "later":
            scene.clock.now_s += 6
            scene.admission.forget_idle()
            await turn()
        _check(scene, limit)
    await _drain(scene, limit)


def _check(scene: Scene, limit: int) -> None:
    books: Any = scene.admission
    held = {name: party.held for name, party in books._parties.items() if party.held}
    assert held == {name: count for name, count in scene.held.items() if count}
    assert books._free == limit - sum(held.values())
    assert books._claims == sum(party.claim for party in books._parties.values())
    waiting = {name for name, party in books._parties.items() if party.waiting}
    may = {name for name in waiting if books._parties[name].held < books._parties[name].pooling.max_connections}
    assert set(books._below) | set(books._above) == may
    # Nobody waits for what nobody else could claim.
    assert not books._below or not books._free
    assert not books._above or books._free <= min(books._claims, limit // 4)


async def _drain(scene: Scene, limit: int) -> None:
    """Whoever waits is let in, once the others leave."""
    for _ in range(200):
        holding = [name for name, count in scene.held.items() if count]
        if not holding:
            break
        await scene.leave(holding[0])
        _check(scene, limit)
    scene.clock.now_s += 6
    scene.admission.forget_idle()
    await turn()
    assert all(task.done() for task in scene.waiting) or any(scene.held.values())
