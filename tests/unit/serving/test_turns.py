"""Whose call is worked on: one of each tenant's at a time while others call, who go first, and none is forgotten."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import UnavailableError
from control_plane.serving import turns
from control_plane.serving.turns import Turns

A, B, C = (UUID(int=n) for n in (1, 2, 3))
FOR_EVER_S = 3600.0


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Scene:
    """Turns, and the calls that have one, in order."""

    def __init__(self, *, longest_s: float = FOR_EVER_S) -> None:
        self.clock = Clock()
        self.turns = Turns(longest_s=longest_s, clock=self.clock)
        self.begun: list[tuple[UUID, int]] = []
        self.calls: dict[tuple[UUID, int], asyncio.Task[None]] = {}
        self._ends: dict[tuple[UUID, int], asyncio.Event] = {}
        self._numbers: Counter[UUID] = Counter()

    async def call(self, *tenants: UUID) -> None:
        for tenant in tenants:
            name = tenant, self._numbers[tenant]
            self._numbers[tenant] += 1
            self._ends[name] = asyncio.Event()
            self.calls[name] = asyncio.create_task(self._work(name))
            await settle()

    async def end(self, *names: tuple[UUID, int]) -> None:
        for name in names:
            self._ends[name].set()
            await settle()

    async def cancel(self, name: tuple[UUID, int]) -> None:
        self.calls[name].cancel()
        await settle()

    def at_work(self, tenant: UUID) -> list[int]:
        return [n for one, n in self.begun if one == tenant and not self.calls[one, n].done()]

    async def _work(self, name: tuple[UUID, int]) -> None:
        async with self.turns.turn(name[0]):
            self.begun.append(name)
            await self._ends[name].wait()


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def test_whoever_calls_alone_is_not_held_back() -> None:
    scene = Scene()
    await scene.call(*[A] * 9)

    assert scene.at_work(A) == list(range(9))


@pytest.mark.behaviour("S7.2", "T-X1")
async def test_while_others_call_one_of_a_tenants_calls_is_worked_on_at_a_time_in_their_order() -> None:
    scene = Scene()
    await scene.call(B, A, A, A, C)
    first = scene.at_work(A)
    await scene.end((B, 0), (C, 0), (A, 0))
    second = scene.at_work(A)
    await scene.end((A, 1), (A, 2))

    assert (first, second) == ([0], [1])
    assert scene.begun == [(B, 0), (A, 0), (C, 0), (A, 1), (A, 2)]


@pytest.mark.behaviour("S7.2", "T-X1")
async def test_a_call_that_waited_for_its_own_tenants_lets_those_of_others_go_first() -> None:
    scene = Scene()
    await scene.call(B, A, A)
    await scene.end((A, 0))
    beside_one = scene.at_work(A)
    await scene.call(C)
    await scene.end((B, 0))
    beside_another = scene.at_work(A)
    await scene.end((C, 0))

    assert (beside_one, beside_another) == ([], [])
    assert scene.at_work(A) == [1]


async def test_of_several_that_let_others_go_first_the_one_that_did_so_first_is_next() -> None:
    scene = Scene()
    await scene.call(C, A, A, B, B)
    await scene.end((B, 0), (A, 0), (C, 0))
    first = scene.at_work(A), scene.at_work(B)
    await scene.end((B, 1))

    assert first == ([], [1])
    assert scene.at_work(A) == [1]


async def test_others_go_first_for_so_long_only() -> None:
    scene = Scene()
    await scene.call(B)
    scene.turns._longest_s = 0.001
    await scene.call(A, A)
    await scene.end((A, 0))
    while not scene.at_work(A):  # noqa: ASYNC110 a timer tells nobody
        await asyncio.sleep(0.001)

    assert scene.at_work(B) == [0]


async def test_whoever_comes_while_its_tenant_lets_others_go_first_waits_too() -> None:
    scene = Scene()
    await scene.call(B, A, A)
    await scene.end((A, 0))
    await scene.call(A)
    early = scene.at_work(A)
    await scene.end((B, 0))

    assert (early, scene.at_work(A)) == ([], [1])


async def test_whoever_gives_up_while_it_lets_others_go_first_leaves_nothing() -> None:
    scene = Scene()
    await scene.call(B, A, A)
    await scene.end((A, 0))
    await scene.cancel((A, 1))
    await scene.call(A)

    assert scene.at_work(A) == [2]


async def test_once_the_others_are_quiet_all_that_wait_may_go_on() -> None:
    scene = Scene()
    await scene.call(B, *[A] * 5)
    scene.clock.now_s += 2
    await scene.end((A, 0))

    assert scene.at_work(A) == [1, 2, 3, 4]


async def test_whoever_comes_does_not_go_before_those_that_wait() -> None:
    scene = Scene()
    await scene.call(B, A, A)
    scene.clock.now_s += 2
    await scene.call(A)

    assert scene.at_work(A) == [0]


async def test_a_turn_that_lasts_for_too_long_is_the_next_ones_too() -> None:
    scene = Scene(longest_s=0.001)
    await scene.call(B, A, A)
    while len(scene.at_work(A)) < 2:  # noqa: ASYNC110 a timer tells nobody
        await asyncio.sleep(0.001)
    await scene.end((A, 0), (A, 1))
    await scene.call(A)

    assert scene.begun[-1] == (A, 2)


async def test_whoever_gives_up_takes_no_turn() -> None:
    scene = Scene()
    await scene.call(B, A, A, A)
    await scene.cancel((A, 1))
    await scene.end((B, 0), (A, 0))

    assert scene.at_work(A) == [2]


async def test_whoever_gives_up_as_others_let_it_go_on_leaves_nothing() -> None:
    scene = Scene()
    await scene.call(B, A, A)
    await scene.end((A, 0))
    scene._ends[B, 0].set()
    scene.calls[A, 1].cancel()
    await settle()

    assert scene.calls[A, 1].cancelled()
    assert scene.turns._callers == {}


async def test_a_turn_that_comes_as_its_caller_gives_up_is_the_next_ones() -> None:
    scene = Scene()
    await scene.call(B, A, A, A)
    await scene.end((B, 0))
    scene.calls[A, 0].cancel()
    scene.calls[A, 1].cancel()
    await settle()

    assert scene.at_work(A) == [2]


async def test_a_call_that_fails_ends_its_turn() -> None:
    scene = Scene()
    await scene.call(B)
    for _ in range(3):
        with pytest.raises(LookupError):
            async with asyncio.timeout(1), scene.turns.turn(A):
                raise LookupError


async def test_of_one_tenant_a_bounded_number_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_MOST_WAITING", 3)
    scene = Scene()
    await scene.call(B, *[A] * 5)
    refused = scene.calls[A, 4].exception()
    await scene.call(C)

    assert isinstance(refused, UnavailableError)
    assert refused.code == "TENANT_BUSY"
    assert scene.at_work(C) == [0]


@given(st.lists(st.tuples(st.sampled_from(["call", "end", "cancel"]), st.sampled_from([A, B, C])), max_size=60))
def test_whatever_comes_each_tenant_has_one_turn_at_most_and_somebody_has_one(steps: Sequence[tuple[str, Any]]) -> None:
    async def play() -> None:
        scene = Scene()
        await scene.call(A, B)
        for what, tenant in steps:
            open_calls = [name for name, call in scene.calls.items() if name[0] == tenant and not call.done()]
            if what == "call":
                await scene.call(tenant)
            elif open_calls:
                await (scene.end if what == "end" else scene.cancel)(open_calls[0 if what == "end" else -1])
            at_work = [len(scene.at_work(each)) for each in (A, B, C)]
            assert max(at_work) == any(not call.done() for call in scene.calls.values())
        for name in list(scene.calls):
            await scene.end(name)
        await asyncio.gather(*scene.calls.values(), return_exceptions=True)
        assert scene.turns._callers == {}
        assert not scene.turns._yielding

    asyncio.run(play())
