"""Workers first, then proxies, then it is told; whoever hangs keeps back nothing but the telling."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bulkhead.edge.v1 import policies_pb2
from ext_authz import rounds
from ext_authz.policies.model import Index
from tests.fixtures.edge_policies import DOMAIN
from tests.fixtures.eventually import eventually


class Side:
    """Workers or proxies, which apply what they are let."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log
        self.pushed: list[int] = []
        self.hangs_at: int | None = None
        self.let = asyncio.Event()

    def use(self, index: Index) -> None:
        self.pushed.append(index.revision)
        self.log.append(f"pushed {index.feed}{index.revision}")

    async def applied(self, what: Index | int) -> None:
        revision = what.revision if isinstance(what, Index) else what
        if self.hangs_at is not None and revision >= self.hangs_at:
            await self.let.wait()
        self.log.append(f"{self.name} {revision}")

    def statuses(self) -> list[policies_pb2.ProxyStatus]:
        return []


class Scene:
    def __init__(self) -> None:
        self.log: list[str] = []
        self.workers, self.proxies = Side("workers", self.log), Side("proxies", self.log)
        self.rounds = rounds.Rounds(self.workers, self.proxies, told=lambda: self.log.append("told"))

    def use(self, revision: int, feed: str = "a") -> None:
        self.rounds.use(Index(domain=DOMAIN, feed=feed, revision=revision))

    async def until(self, fact: str) -> None:
        await eventually(lambda: fact in self.log)

    @property
    def applied(self) -> tuple[str, int] | None:
        index = self.rounds.applied
        return (index.feed, index.revision) if index else None


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    running = asyncio.create_task(made.rounds.run())
    yield made
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_workers_come_first_then_proxies_then_it_is_told() -> None:
    async with scene() as at:
        at.use(1)
        await at.until("told")

        assert at.log.index("workers 1") < at.log.index("pushed a1") < at.log.index("proxies 1") < at.log.index("told")
        assert at.applied == ("a", 1)


async def test_changes_that_come_during_a_round_make_the_next_one_together() -> None:
    async with scene() as at:
        at.workers.hangs_at = 1
        at.use(1)
        await asyncio.sleep(0.01)
        for revision in range(2, 50):
            at.use(revision)
        at.workers.hangs_at = None
        at.workers.let.set()
        await at.until("proxies 49")

        assert at.proxies.pushed == [1, 49]


async def test_what_differs_in_its_time_alone_makes_no_round() -> None:
    async with scene() as at:
        at.use(1)
        await at.until("told")
        at.use(1)
        await asyncio.sleep(0.02)

        assert at.proxies.pushed == [1]


@pytest.mark.parametrize("who", ["workers", "proxies"])
async def test_one_that_hangs_keeps_back_the_telling_and_nothing_else(
    who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "_PATIENCE_S", 0.02)
    async with scene() as at:
        at.use(1)
        await at.until("told")
        hanging = getattr(at, who)
        hanging.hangs_at = 2
        at.use(2)
        await at.until("pushed a2")
        at.use(3)
        await at.until("pushed a3")
        while_it_hangs = at.applied
        decided = at.rounds.decided
        hanging.let.set()
        await eventually(lambda: at.applied == ("a", 3))

        assert while_it_hangs == ("a", 1)
        assert decided is not None
        assert decided.revision == (1 if who == "workers" else 2)


async def test_a_feed_that_is_no_more_is_neither_waited_for_nor_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_PATIENCE_S", 0.02)
    async with scene() as at:
        at.proxies.hangs_at = 100
        at.use(100)
        await at.until("pushed a100")
        at.use(3, feed="b")
        await eventually(lambda: at.applied == ("b", 3))
        at.proxies.let.set()
        await asyncio.sleep(0.02)

        assert at.applied == ("b", 3)
