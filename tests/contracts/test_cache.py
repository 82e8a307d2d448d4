"""What the functions in Valkey promise (`control_plane/cache/cache.lua`), held against a model of it in Python.

The model knows in which order things were used, what is over, and what was kept under each name. How many bytes a value
takes is the server's to say; so the model asks it, and is asked in turn who had to go.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from typing_extensions import override

from control_plane.cache.handles import root
from control_plane.cache.model import digest
from tests.fixtures.cache import CacheServer, cache_server, placement

T = TypeVar("T")

LIMIT: Final = 64 << 10
TENANTS: Final = [placement(number, cache_bytes=LIMIT) for number in range(2)]
HOUR: Final = timedelta(hours=1)
# Of the server's own way to count, against which the ledger is measured.
TOLERANCE: Final = 0.05

tenants = st.sampled_from(range(len(TENANTS)))
names = st.sampled_from([f"n/{number}" for number in range(10)])
# Six fill the limit. Seldom does one, and then all others have to go; or it is beyond the limit.
sizes = st.sampled_from([10_000] * 12 + [20_000, 4_000, 100, 0, 62_000, 66_000])
writes = st.lists(st.tuples(names, sizes), min_size=1, max_size=5)
# Which of those that are there.
places = st.integers(0, 9)


@dataclass(slots=True)
class Kept:
    """What the model thinks that a tenant has; the one that was used longest ago stands first."""

    values: "OrderedDict[str, bytes]" = field(default_factory=OrderedDict)


class Cache(RuleBasedStateMachine):
    """Several tenants, one server."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._open = AsyncExitStack()
        self._models = [Kept() for _ in TENANTS]
        self._writes = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        self._server: CacheServer = self.run(self._open.enter_async_context(cache_server(TENANTS)))

    @override
    def teardown(self) -> None:
        self.run(self._open.aclose())
        self._loop.close()

    @rule(tenant=tenants, writes=writes)
    def put(self, tenant: int, writes: list[tuple[str, int]]) -> None:
        for name, size in writes:
            self._writes += 1
            value = self._writes.to_bytes(4, "big") * (size // 4) + b"x"
            kept = self.run(self._server.of(TENANTS[tenant]).put(name, value, HOUR))
            model = self._models[tenant].values
            model.pop(name, None)
            if kept:
                model[name] = value
            self._give_way(tenant)
            # Nothing here needs more room to be made than a call makes.
            assert kept == (size < LIMIT - 2000)

    @rule(tenant=tenants, name=names)
    def get(self, tenant: int, name: str) -> None:
        found = self.run(self._server.of(TENANTS[tenant]).get(name))
        model = self._models[tenant].values
        assert found == model.get(name)
        if found is not None:
            model.move_to_end(name)

    @rule(tenant=tenants, places=st.lists(places, min_size=1, max_size=4))
    def use(self, tenant: int, places: list[int]) -> None:
        """Get some that are there, which makes them the last to give way."""
        for place in places:
            there = list(self._models[tenant].values)
            if there:
                self.get(tenant, there[place % len(there)])

    @rule(tenant=tenants, name=names)
    def delete(self, tenant: int, name: str) -> None:
        assert self.run(self._server.of(TENANTS[tenant]).delete(name))
        self._models[tenant].values.pop(name, None)

    @rule(tenant=tenants, place=places, how=st.sampled_from(["expires", "is taken away"]))
    def lose(self, tenant: int, place: int, how: str) -> None:
        """Let a value's time be over, or take it away: nobody tells the ledger of either."""
        there = list(self._models[tenant].values)
        if there:
            name = there[place % len(there)]
            del self._models[tenant].values[name]
            self.run(self._expire(tenant, name) if how == "expires" else self._take_away(tenant, name))

    @rule(tenant=tenants)
    def look(self, tenant: int) -> None:
        usage = self.run(self._server.of(TENANTS[tenant]).usage())
        assert usage is not None
        assert usage.values >= len(self._models[tenant].values)
        assert usage.bytes <= LIMIT

    @invariant()
    def nobody_takes_more_than_the_limit_and_the_ledger_says_what_is_taken(self) -> None:
        if self._writes:
            self.run(self._check_all())

    @invariant()
    def everything_is_below_its_tenants_prefix(self) -> None:
        if self._writes:
            keys = self.run(self._all_keys())
            assert all(key.startswith(tuple(root(tenant) for tenant in TENANTS)) for key in keys)

    def _give_way(self, tenant: int) -> None:
        """Whoever had to go was used before all that stayed."""
        there = self.run(self._there(tenant))
        model = self._models[tenant].values
        gone = [name for name in model if name not in there]
        assert gone == list(model)[: len(gone)]
        for name in gone:
            del model[name]

    async def _there(self, tenant: int) -> set[str]:
        found = set(await self._server.values(TENANTS[tenant]))
        return {name for name in self._models[tenant].values if await self._key(tenant, name) in found}

    async def _key(self, tenant: int, name: str) -> str:
        keys = await self._server.of(TENANTS[tenant])._cache_keys()
        assert keys is not None
        return f"{root(TENANTS[tenant])}:v:{digest(keys, name).decode()}"

    async def _expire(self, tenant: int, name: str) -> None:
        key = await self._key(tenant, name)
        await self._server.client.pexpire(key, 1)
        await self._server.client.zadd(f"{root(TENANTS[tenant])}:due", {key.rpartition(":")[2]: 1})
        await asyncio.sleep(0.003)

    async def _take_away(self, tenant: int, name: str) -> None:
        await self._server.client.delete(await self._key(tenant, name))

    async def _all_keys(self) -> list[str]:
        return [str(key) for key in await self._server.client.keys()]

    async def _check_all(self) -> None:
        for tenant in TENANTS:
            usage = await self._server.of(tenant).usage()
            taken = await self._server.bytes_taken(tenant)
            assert usage is not None
            assert usage.bytes <= LIMIT
            assert taken <= LIMIT * (1 + TOLERANCE)
            if usage.values == len([key for key in await self._server.keys(tenant) if ":v:" in key]):
                assert abs(usage.bytes - taken) <= TOLERANCE * max(taken, 1)


TestCache = Cache.TestCase
TestCache.settings = settings(
    max_examples=45, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
