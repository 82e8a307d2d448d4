"""What the function in Valkey promises (`ext_authz/budgets/minute.lua`), held against a model of it in Python."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from hypothesis import assume, given
from hypothesis import strategies as st
from redis.asyncio import Redis

from ext_authz.budgets.limiter import MinuteLimiter, Taken
from tests.integration.ext_authz.limiter.valkey_servers import valkey_server

MINUTE_MS = 60_000
takes = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 12) | st.just(2**32), st.integers(1, 15)), min_size=1, max_size=40
)


class Model:
    """The same in Python: the minute is given, since the clock is the server's."""

    def __init__(self) -> None:
        self._used: Counter[tuple[UUID, int]] = Counter()

    def take(self, tenant: UUID, minute: int, *, limit: int, cost: int) -> tuple[bool, int]:
        """Take the cost or nothing; return whether it was taken, and what remains."""
        allowed = self._used[tenant, minute] + cost <= limit
        self._used[tenant, minute] += cost if allowed else 0
        return allowed, max(limit - self._used[tenant, minute], 0)


class Server:
    """A limiter with its Valkey, and that Valkey's clock."""

    def __init__(self, limiter: MinuteLimiter, client: Redis) -> None:
        self.limiter = limiter
        self.client = client

    async def now_ms(self) -> int:
        seconds, microseconds = await self.client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def keys(self, tenant: UUID) -> list[str]:
        return [str(key) for key in await self.client.keys(f"edge:{{{tenant}}}:*")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Server]:
    async with (
        valkey_server() as valkey,
        MinuteLimiter.open(valkey.socket, valkey.edge_key) as limiter,
        valkey.superuser(decode_responses=True) as client,
    ):
        yield Server(limiter, client)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.behaviour("S3.4")
@given(commands=takes)
async def test_valkey_counts_as_the_model_does(server: Server, commands: list[tuple[int, int, int]]) -> None:
    model, tenants = Model(), [uuid4() for _ in range(3)]
    began_ms = await server.now_ms()
    answers = [
        (tenants[which], limit, cost, await server.limiter.take(tenants[which], limit=limit, cost=cost))
        for which, limit, cost in commands
    ]
    ended_ms = await server.now_ms()
    minute = began_ms // MINUTE_MS
    assume(minute == ended_ms // MINUTE_MS)

    for tenant, limit, cost, taken in answers:
        assert (taken.allowed, taken.remaining) == model.take(tenant, minute, limit=limit, cost=cost)
        # Whole milliseconds: 2.043 s is 2042.9999999999998 or more of them, as binary fractions have it.
        assert MINUTE_MS - ended_ms % MINUTE_MS <= round(taken.reset_s * 1000) <= MINUTE_MS - began_ms % MINUTE_MS


async def test_another_minute_s_count_is_not_this_one_s(server: Server) -> None:
    tenant = uuid4()
    minute = await server.now_ms() // MINUTE_MS
    for other in (minute - 1, minute + 2, minute + 10):
        await server.client.set(_key(tenant, other), 1000)
    taken = await server.limiter.take(tenant, limit=1, cost=1)

    assert taken.allowed


async def test_a_minute_s_count_goes_when_the_minute_is_over(server: Server) -> None:
    tenant = uuid4()
    taken = await server.limiter.take(tenant, limit=3, cost=2)
    (key,) = await server.keys(tenant)
    minute = int(key.rpartition(":")[2])
    expires_ms = await server.client.pexpiretime(key)

    assert taken.remaining == 1
    assert key == _key(tenant, minute)
    assert expires_ms == (minute + 1) * MINUTE_MS + 1000


async def test_what_is_refused_writes_nothing(server: Server) -> None:
    tenant = uuid4()
    taken = await server.limiter.take(tenant, limit=0, cost=1)

    assert not taken.allowed
    assert await server.keys(tenant) == []


@pytest.mark.behaviour("S3.4")
async def test_of_many_at_once_exactly_the_limit_is_admitted(server: Server) -> None:
    tenant, limit = uuid4(), 137
    taken: list[Taken] = await asyncio.gather(
        *(server.limiter.take(tenant, limit=limit, cost=1) for _ in range(limit * 3))
    )
    counted = [int(await server.client.get(key) or 0) for key in await server.keys(tenant)]

    # The minute may have ended meanwhile.
    assert sum(each.allowed for each in taken) == sum(counted)
    assert max(counted) == limit


def _key(tenant: UUID, minute: int) -> str:
    return f"edge:{{{tenant}}}:minute:{minute}"


async def test_a_request_that_is_asked_about_twice_is_counted_once(server: Server) -> None:
    tenant, other = uuid4(), uuid4()
    first = await server.limiter.take(tenant, limit=2, cost=1, request_id="one")
    again = await server.limiter.take(tenant, limit=2, cost=1, request_id="one")
    elsewhere = await server.limiter.take(other, limit=2, cost=1, request_id="one")
    last = await server.limiter.take(tenant, limit=2, cost=1, request_id="two")
    beyond = await server.limiter.take(tenant, limit=2, cost=1, request_id="three")

    assert [(taken.allowed, taken.remaining) for taken in (first, again, elsewhere, last, beyond)] == [
        (True, 1),
        (True, 1),
        (True, 1),
        (True, 0),
        (False, 0),
    ]


async def test_a_request_that_was_refused_is_counted_anew(server: Server) -> None:
    tenant = uuid4()
    refused = await server.limiter.take(tenant, limit=0, cost=1, request_id="one")
    again = await server.limiter.take(tenant, limit=1, cost=1, request_id="one")

    assert (refused.allowed, again.allowed) == (False, True)
