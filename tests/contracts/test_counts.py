"""What the functions in Valkey promise (`ext_authz/budgets/budget.lua`), and what their twin in Python does too."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from hypothesis import assume, given
from hypothesis import strategies as st
from redis.asyncio import Redis
from typing_extensions import override

from ext_authz.budgets.counter import BudgetUnavailableError, Counted, Counter, Elsewhen
from ext_authz.budgets.windows import UNITS, Window
from ext_authz.leases.grants import TOLD_WITHIN_MS
from ext_authz.policies.model import Period
from tests.fixtures.edge_budgets import window
from tests.fixtures.edge_counts import Counts, Kept
from tests.integration.ext_authz.limiter.valkey_servers import valkey_server

HOUR_MS: Final = 3_600_000
TENANT: Final = uuid4()


class Promise(Protocol):
    """What both keep."""

    async def take(
        self, tenant_uid: UUID, windows: tuple[Window, ...], *, wanted: int, parts: int = 1, request_id: str = ""
    ) -> Counted | Elsewhen: ...

    def give_back(
        self, tenant_uid: UUID, windows: Sequence[Window], calls: int, *, lease: str = "", until_ms: int = 0
    ) -> Coroutine[Any, Any, object]: ...


class Kind:
    """One that keeps the promise, with a clock, and what a test may put there."""

    counts: Promise

    async def now_ms(self) -> int:
        raise NotImplementedError

    async def kept(self, tenant: UUID, name: str) -> Kept | None:
        raise NotImplementedError

    async def keep(self, tenant: UUID, name: str, kept: Kept) -> None:
        raise NotImplementedError


class Twin(Kind):
    def __init__(self) -> None:
        self.counts = self.memory = Counts(now_ms=1_772_366_400_123)

    @override
    async def now_ms(self) -> int:
        return self.memory.now_ms

    @override
    async def kept(self, tenant: UUID, name: str) -> Kept | None:
        return self.memory.kept.get((tenant, name))

    @override
    async def keep(self, tenant: UUID, name: str, kept: Kept) -> None:
        self.memory.kept[tenant, name] = kept


class Server(Kind):
    def __init__(self, counter: Counter, client: Redis) -> None:
        self.counts = counter
        self.client = client

    @override
    async def now_ms(self) -> int:
        seconds, microseconds = await self.client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    @override
    async def kept(self, tenant: UUID, name: str) -> Kept | None:
        value = await self.client.get(f"edge:{{{tenant}}}:count:{name}")
        return None if value is None else Kept(*map(int, str(value).split()))

    @override
    async def keep(self, tenant: UUID, name: str, kept: Kept) -> None:
        value = f"{kept.begin_ms} {kept.end_ms} {kept.used}"
        await self.client.set(f"edge:{{{tenant}}}:count:{name}", value)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Server]:
    async with (
        valkey_server() as valkey,
        Counter.open(valkey.socket, valkey.edge_key) as counter,
        valkey.superuser(decode_responses=True) as client,
    ):
        yield Server(counter, client)


@pytest.fixture(params=["valkey", "memory"])
def kind(request: pytest.FixtureRequest, server: Server) -> Kind:
    return server if request.param == "valkey" else Twin()


pytestmark = pytest.mark.asyncio(loop_scope="module")


def around(now_ms: int, limit: int, *, price: int = 1, period: Period = Period.HOUR, unit: str = UNITS) -> Window:
    """Make a window that began an hour ago, and whose next one ends in three hours."""
    made = window(limit, period=period, unit=unit, price=price)
    return replace(made, begin_ms=now_ms - HOUR_MS, end_ms=now_ms + HOUR_MS, next_end_ms=now_ms + 3 * HOUR_MS)


async def taken(kind: Kind, tenant: UUID, *windows: Window, wanted: int = 1, parts: int = 1, request: str = "") -> int:
    """Return how many calls were taken."""
    answer = await kind.counts.take(tenant, windows, wanted=wanted, parts=parts, request_id=request)
    assert isinstance(answer, Counted)
    return answer.calls


# Which of the leases is told of too late.
LATE: Final = 3
commands = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 1), st.integers(1, 30), st.sampled_from([1, 16]), st.integers(0, 3)),
        st.tuples(st.just("back"), st.integers(0, 1), st.integers(1, 30), st.just(1), st.integers(0, 3)),
    ),
    min_size=1,
    max_size=30,
)
limits = st.tuples(st.integers(0, 100), st.integers(0, 400) | st.just(2**53), st.integers(1, 12))


@pytest.mark.behaviour("S3.4")
@pytest.mark.behaviour("S3.5")
@given(commands=commands, limits=limits)
async def test_valkey_counts_as_its_twin_does(
    server: Server, commands: list[tuple[str, int, int, int, int]], limits: tuple[int, int, int]
) -> None:
    requests, units, price = limits
    now_ms = await server.now_ms()
    twin, tenants = Counts(now_ms=now_ms), [uuid4(), uuid4()]
    windows = (around(now_ms, requests, period=Period.MINUTE), around(now_ms, units, price=price, period=Period.DAY))
    for kind, which, calls, parts, request in commands:
        if kind == "back":
            lease = f"lease-{request}" if request else ""
            until_ms = now_ms + 60_000 - 120_000 * (request == LATE)
            await server.counts.give_back(tenants[which], windows, calls, lease=lease, until_ms=until_ms)
            await twin.give_back(tenants[which], windows, calls, lease=lease, until_ms=until_ms)
            continue
        name = f"request-{request}" if request else ""
        answer = await server.counts.take(tenants[which], windows, wanted=calls, parts=parts, request_id=name)
        twin.now_ms = answer.now_ms
        # Requests are remembered for a second.
        assume(answer.now_ms - now_ms < 900)
        twin.requests = dict.fromkeys(twin.requests, answer.now_ms + 1)
        assert answer == await twin.take(tenants[which], windows, wanted=calls, parts=parts, request_id=name)


@pytest.mark.behaviour("S3.5")
async def test_what_one_window_refuses_is_taken_from_none(kind: Kind) -> None:
    tenant, now_ms = uuid4(), await kind.now_ms()
    wide, narrow = around(now_ms, 100, period=Period.DAY), around(now_ms, 20, price=10)
    found = [await taken(kind, tenant, wide, narrow) for _ in range(4)]
    day, hour = await kind.kept(tenant, wide.name), await kind.kept(tenant, narrow.name)

    assert found == [1, 1, 0, 0]
    assert day is not None
    assert hour is not None
    assert (day.used, hour.used) == (2, 20)


async def test_what_is_refused_writes_nothing(kind: Kind) -> None:
    tenant, now_ms = uuid4(), await kind.now_ms()

    assert await taken(kind, tenant, around(now_ms, 0)) == 0
    assert await kind.kept(tenant, around(now_ms, 0).name) is None


@pytest.mark.behaviour("S3.19")
async def test_as_many_are_taken_as_all_windows_allow(kind: Kind) -> None:
    tenant, now_ms = uuid4(), await kind.now_ms()
    windows = around(now_ms, 100, period=Period.DAY), around(now_ms, 57, price=10)
    answer = await kind.counts.take(tenant, windows, wanted=20)

    assert isinstance(answer, Counted)
    assert (answer.calls, answer.remaining) == (5, (95, 7))


async def test_who_reserves_gets_a_small_part_of_what_remains(kind: Kind) -> None:
    tenant, window = uuid4(), around(await kind.now_ms(), 100)
    found = [await taken(kind, tenant, window, wanted=50, parts=16) for _ in range(4)]

    assert found == [100 // 16, 94 // 16, 89 // 16, 84 // 16]
    # Nor is so little taken that it would only be out of the others' reach.
    few = [await taken(kind, uuid4(), around(await kind.now_ms(), limit), wanted=9, parts=16) for limit in (15, 63, 64)]
    assert few == [0, 0, 4]


@pytest.mark.behaviour("S3.18")
async def test_the_window_is_the_one_of_the_server_s_clock(kind: Kind) -> None:
    tenant, now_ms = uuid4(), await kind.now_ms()
    here = around(now_ms, 10)
    before = replace(here, begin_ms=now_ms - 2 * HOUR_MS, end_ms=now_ms - HOUR_MS, next_end_ms=now_ms + HOUR_MS)
    answer = await kind.counts.take(tenant, (before,), wanted=3)

    assert isinstance(answer, Counted)
    assert [(each.begin_ms, each.end_ms) for each in answer.windows] == [(here.begin_ms, here.end_ms)]
    # Whoever takes it for the current one already counts in the same.
    assert await taken(kind, tenant, here, wanted=10) == 7


@pytest.mark.behaviour("S3.18")
@pytest.mark.parametrize("hours", [-5, 5])
async def test_who_asks_about_other_times_is_told_the_time_and_takes_nothing(kind: Kind, hours: int) -> None:
    tenant, now_ms = uuid4(), await kind.now_ms()
    window = around(now_ms + hours * HOUR_MS, 10)
    answer = await kind.counts.take(tenant, (around(now_ms, 10, period=Period.DAY), window), wanted=1)

    assert isinstance(answer, Elsewhen)
    assert answer.now_ms in range(now_ms, now_ms + 60_000)
    assert await kind.kept(tenant, window.name) is None
    assert await kind.kept(tenant, "units-day") is None


async def test_a_new_window_begins_with_nothing_used(kind: Kind) -> None:
    tenant, now_ms = uuid4(), await kind.now_ms()
    window = around(now_ms, 10)
    await kind.keep(tenant, window.name, Kept(window.begin_ms - HOUR_MS, window.begin_ms, 10))

    assert await taken(kind, tenant, window, wanted=10) == 10
    assert await kind.kept(tenant, window.name) == Kept(window.begin_ms, window.end_ms, 10)


@pytest.mark.behaviour("S3.6")
async def test_where_days_begin_at_another_time_what_was_used_of_the_day_stays_used(kind: Kind) -> None:
    tenant, now_ms = uuid4(), await kind.now_ms()
    old, new = around(now_ms, 10), around(now_ms + HOUR_MS // 2, 10)
    await taken(kind, tenant, old, wanted=8)

    assert await taken(kind, tenant, new, wanted=10) == 2
    # Agents that have not heard of the change count in the same.
    assert await taken(kind, tenant, old) == 0


@pytest.mark.behaviour("T-V7")
async def test_a_clock_that_is_put_back_does_not_empty_the_window_that_comes_again(kind: Kind) -> None:
    tenant, now_ms = uuid4(), await kind.now_ms()
    here = around(now_ms, 10)
    later = Kept(here.end_ms, here.next_end_ms, 7)
    await kind.keep(tenant, here.name, later)

    assert await taken(kind, tenant, here, wanted=2) == 2
    assert await kind.kept(tenant, here.name) == replace(later, used=9)


async def test_what_is_given_back_can_be_taken_again_as_long_as_its_window_lasts(kind: Kind) -> None:
    tenant, now_ms = uuid4(), await kind.now_ms()
    hour, day = around(now_ms, 10, price=2), around(now_ms, 10, price=2, period=Period.DAY)
    await taken(kind, tenant, hour, day, wanted=5)
    over = replace(day, begin_ms=day.begin_ms - 1)
    await kind.counts.give_back(tenant, [hour, over], 2)

    assert await taken(kind, tenant, hour, wanted=5) == 2
    assert await taken(kind, tenant, day, wanted=5) == 0


async def test_nothing_is_given_back_to_a_window_that_is_over(kind: Kind) -> None:
    tenant, now_ms = uuid4(), await kind.now_ms()
    window = around(now_ms - 3 * HOUR_MS, 10)
    kept = Kept(window.begin_ms, window.end_ms, 5)
    await kind.keep(tenant, window.name, kept)
    await kind.counts.give_back(tenant, [window], 5)

    assert await kind.kept(tenant, window.name) == kept


async def test_more_than_was_used_is_not_given_back(kind: Kind) -> None:
    tenant, window = uuid4(), around(await kind.now_ms(), 10)
    await taken(kind, tenant, window, wanted=3)
    await kind.counts.give_back(tenant, [window], 100)
    await kind.counts.give_back(uuid4(), [window], 100)

    assert await taken(kind, tenant, window, wanted=100) == 10


@pytest.mark.behaviour("S3.4")
async def test_what_is_left_of_a_lease_is_given_back_once_whoever_does_it(kind: Kind) -> None:
    tenant, other, now_ms = uuid4(), uuid4(), await kind.now_ms()
    window = around(now_ms, 10)
    for owner in (tenant, other):
        await taken(kind, owner, window, wanted=10)
    for owner, lease in ((tenant, "one"), (tenant, "one"), (other, "one"), (tenant, "two"), (tenant, "one")):
        await kind.counts.give_back(owner, [window], 2, lease=lease, until_ms=now_ms + 60_000)

    assert await taken(kind, tenant, window, wanted=10) == 4
    assert await taken(kind, other, window, wanted=10) == 2


@pytest.mark.behaviour("S3.4")
async def test_what_is_told_of_a_lease_too_late_is_not_given_back(kind: Kind) -> None:
    tenant, now_ms = uuid4(), await kind.now_ms()
    window = around(now_ms, 10)
    await taken(kind, tenant, window, wanted=10)
    await kind.counts.give_back(tenant, [window], 2, lease="one", until_ms=now_ms - 1)
    late = await taken(kind, tenant, window, wanted=10)
    await kind.counts.give_back(tenant, [window], 2, lease="one", until_ms=now_ms + 60_000)

    assert late == 0
    assert await taken(kind, tenant, window, wanted=10) == 2


@pytest.mark.behaviour("S3.4")
async def test_that_a_lease_was_given_back_is_remembered_for_longer_than_it_is_told(server: Server) -> None:
    tenant, now_ms = uuid4(), await server.now_ms()
    await server.counts.give_back(tenant, [around(now_ms, 10)], 1, lease="one", until_ms=now_ms + 60_000)
    remembered_ms = await server.client.pttl(f"edge:{{{tenant}}}:lease:one")

    assert 2 * TOLD_WITHIN_MS < remembered_ms <= 10_000


async def test_a_request_that_is_asked_about_twice_is_counted_once(kind: Kind) -> None:
    tenant, other, window = uuid4(), uuid4(), around(await kind.now_ms(), 2)
    asked = [(tenant, "one"), (tenant, "one"), (other, "one"), (tenant, "two"), (tenant, "three"), (tenant, "one")]
    found = [await taken(kind, owner, window, request=request) for owner, request in asked]
    kept = await kind.kept(tenant, window.name)

    assert found == [1, 1, 1, 1, 0, 1]
    assert kept is not None
    assert kept.used == 2


async def test_a_request_that_was_refused_is_counted_anew(kind: Kind) -> None:
    tenant, now_ms = uuid4(), await kind.now_ms()
    found = [await taken(kind, tenant, around(now_ms, limit), request="one") for limit in (0, 0, 1)]

    assert found == [0, 0, 1]


async def test_the_largest_limit_is_counted_exactly(kind: Kind) -> None:
    tenant, window = uuid4(), around(await kind.now_ms(), 2**53)
    await kind.keep(tenant, window.name, Kept(window.begin_ms, window.end_ms, 2**53 - 3))

    assert await taken(kind, tenant, window, wanted=10) == 3
    assert await kind.kept(tenant, window.name) == Kept(window.begin_ms, window.end_ms, 2**53)


async def test_a_count_goes_when_its_window_is_over(server: Server) -> None:
    tenant, window = uuid4(), around(await server.now_ms(), 10)
    await taken(server, tenant, window, request="one")
    keys = [str(key) for key in await server.client.keys(f"edge:{{{tenant}}}:*")]
    expires_ms = await server.client.pexpiretime(f"edge:{{{tenant}}}:count:{window.name}")
    asked_twice_ms = await server.client.pttl(f"edge:{{{tenant}}}:request:one")

    assert len(keys) == 2
    assert expires_ms == window.end_ms + 1000
    assert 0 < asked_twice_ms <= 1000


@pytest.mark.behaviour("S3.4")
async def test_of_many_at_once_exactly_the_limit_is_taken(kind: Kind) -> None:
    tenant, window = uuid4(), around(await kind.now_ms(), 137)

    assert sum(await asyncio.gather(*(taken(kind, tenant, window) for _ in range(400)))) == 137


@pytest.mark.behaviour("T-V7")
async def test_all_who_count_in_one_memory_know_it_by_one_name(server: Server) -> None:
    async with valkey_server() as valkey:
        async with (
            Counter.open(valkey.socket, valkey.edge_key) as one,
            Counter.open(valkey.socket, valkey.edge_key) as other,
        ):
            names = one.memory, other.memory
        await valkey.kill()
        await valkey.restart()
        async with Counter.open(valkey.socket, valkey.edge_key) as later:
            kept = later.memory
        await valkey.kill()
        await valkey.restart(empty=True)
        async with Counter.open(valkey.socket, valkey.edge_key) as last:
            lost = last.memory

    assert isinstance(server.counts, Counter)
    assert names[0] == names[1] == kept
    assert len({*names, lost, server.counts.memory}) == 3


async def test_a_count_that_nobody_can_read_is_not_taken_for_none(server: Server) -> None:
    tenant, window = uuid4(), around(await server.now_ms(), 10)
    await server.client.set(f"edge:{{{tenant}}}:count:{window.name}", "x")

    with pytest.raises(BudgetUnavailableError, match="cannot be read"):
        await taken(server, tenant, window)
