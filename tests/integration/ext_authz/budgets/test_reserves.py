"""What workers hold: when they ask, what they spend without asking, and when they give it back."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from ext_authz.budgets.counter import BudgetUnavailableError
from ext_authz.budgets.model import PRESSED_PARTS, Taken, Unspent
from ext_authz.budgets.reserves import Budgets, clock_ms, wall_ms
from ext_authz.policies.model import Period, RateLimit, TenantPolicy
from tests.integration.ext_authz.budgets.crowds import limited
from tests.integration.ext_authz.limiter.valkey_servers import Server, take_again, valkey_server


class Clock:
    """A worker's clock, which a test may put forward."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return clock_ms() + self.ahead_ms


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with valkey_server() as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def budgets(server: Server, clock: Clock) -> AsyncIterator[Budgets]:
    async with Budgets.open(server.socket, server.edge_key, clock=clock) as budgets:
        yield budgets


async def used(server: Server, policy: TenantPolicy, name: str = "units-hour") -> int:
    """Return what Valkey has counted."""
    async with server.superuser(decode_responses=True) as client:
        value = await client.get(f"edge:{{{policy.uid}}}:count:{name}")
    return 0 if value is None else int(str(value).split()[2])


async def questions(server: Server) -> int:
    """Return how often a function was called."""
    async with server.superuser(decode_responses=True) as client:
        stats = await client.info("commandstats")
    return int(stats.get("cmdstat_fcall", {}).get("calls", 0))


async def eventually(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while True:
            if fact():
                return
            await asyncio.sleep(0.01)


async def is_used(server: Server, policy: TenantPolicy, units: int) -> None:
    """Return when Valkey has counted no more than that."""
    async with asyncio.timeout(30):
        while True:
            if await used(server, policy) <= units:
                return
            await asyncio.sleep(0.01)


async def warm(budgets: Budgets, policy: TenantPolicy, *, cost: int = 1) -> Taken:
    """Ask until some calls are held; return the first that was paid from them."""
    async with asyncio.timeout(30):
        while True:
            taken = await budgets.take(policy, cost=cost)
            assert taken.allowed
            if taken.lot is not None and taken.lot.calls >= 3:
                return taken


def held(budgets: Budgets, policy: TenantPolicy) -> int:
    tenant = budgets._tenants.get(policy.uid)
    accounts = tenant.accounts.values() if tenant is not None else ()
    return sum(account.lot.calls for account in accounts if account.lot is not None)


def plenty() -> TenantPolicy:
    return limited((Period.HOUR, 100_000))


async def test_what_is_held_is_counted_already(server: Server, budgets: Budgets) -> None:
    policy = plenty()
    spent = 0
    async with asyncio.timeout(30):
        while not held(budgets, policy):
            spent += (await budgets.take(policy, cost=5)).calls
    counted = await used(server, policy)

    assert counted == (spent + held(budgets, policy)) * 5


async def test_who_wants_more_calls_gets_those_that_are_here_and_gives_back_what_is_left(
    server: Server, budgets: Budgets
) -> None:
    policy = plenty()
    first = await budgets.take(policy, cost=1, calls=50)
    await warm(budgets, policy)
    here = held(budgets, policy)
    leased = await budgets.take(policy, cost=1, calls=here + 50)
    budgets.give_back(leased, leased.calls - 1)

    # What is asked for in the same breath is there with the first.
    assert first.calls == 50
    assert leased.calls >= here
    assert held(budgets, policy) >= leased.calls - 1
    assert leased.until > wall_ms()


async def test_a_call_that_was_asked_for_on_its_own_is_not_given_back(server: Server, budgets: Budgets) -> None:
    policy = plenty()
    taken = await budgets.take(policy, cost=1)
    budgets.give_back(taken, 1)
    with_others = await budgets.take(policy, cost=1, calls=20)
    before = held(budgets, policy)
    budgets.give_back(with_others, 20)
    await asyncio.sleep(0.05)

    assert (with_others.calls, with_others.alone) == (20, 1)
    assert held(budgets, policy) == before + 19
    assert await used(server, policy) == 2 + before + 19


async def test_no_more_is_given_back_than_was_taken(server: Server, budgets: Budgets) -> None:
    policy = plenty()
    taken = await warm(budgets, policy)
    before = held(budgets, policy)
    budgets.give_back(taken, 1_000)

    assert held(budgets, policy) == before + taken.calls


async def test_unspent_calls_go_back_when_nobody_asks_for_a_while(server: Server, budgets: Budgets) -> None:
    policy = plenty()
    leased = await warm(budgets, policy)
    before = await used(server, policy)
    unspent = held(budgets, policy)
    await eventually(lambda: not held(budgets, policy))
    await is_used(server, policy, before - unspent)
    # It comes when there is no reserve any more that it could go to.
    budgets.give_back(leased, 1)
    await is_used(server, policy, before - unspent - 1)


async def test_a_worker_that_ends_gives_back_what_it_holds(server: Server) -> None:
    policy = plenty()
    async with Budgets.open(server.socket, server.edge_key) as budgets:
        await warm(budgets, policy)
        spent = await used(server, policy) - held(budgets, policy)

    assert await used(server, policy) == spent


@pytest.mark.behaviour("S3.10")
async def test_nothing_that_was_counted_by_another_policy_is_spent(server: Server, budgets: Budgets) -> None:
    policy = plenty()
    await warm(budgets, policy)
    counted = await used(server, policy)
    fewer = replace(policy, revision=policy.revision + 1, rate_limits=(RateLimit(period=Period.HOUR, units=1),))
    found = [await budgets.take(fewer, cost=1, request_id=f"{n}") for n in range(3)]

    assert counted > 1
    assert [taken.calls for taken in found] == [0, 0, 0]
    assert {taken.window.limit for taken in found} == {1}


async def test_what_is_reserved_for_a_policy_that_is_no_more_goes_back(
    server: Server, budgets: Budgets, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = plenty()
    other = replace(policy, revision=policy.revision + 1)
    await warm(budgets, policy)
    async with asyncio.timeout(30):
        while not budgets._tenants[policy.uid].is_reserving:
            await budgets.take(policy, cost=1)
    await budgets.take(other, cost=1)
    await eventually(lambda: not budgets._running)

    assert held(budgets, policy) == 0
    assert budgets._tenants[policy.uid].policy is other


@pytest.mark.behaviour("S3.8")
async def test_a_flood_beyond_the_limit_asks_valkey_next_to_nothing(server: Server, budgets: Budgets) -> None:
    policy = limited((Period.MONTH, 5))
    admitted = sum([(await budgets.take(policy, cost=1, request_id=f"{n}")).calls for n in range(6)])
    before = await questions(server)
    refused = [await budgets.take(policy, cost=1, request_id=f"flood-{n}") for n in range(3_000)]

    assert admitted == 5
    assert {(taken.calls, taken.remaining, taken.window.name) for taken in refused} == {(0, 0, "units-month")}
    # On a machine that takes seconds for it, a few.
    assert await questions(server) - before < 10
    assert refused[-1].until - wall_ms() <= refused[-1].window.end_ms - wall_ms()


@pytest.mark.behaviour("S3.4")
async def test_who_floods_a_small_limit_is_paid_for_from_memory_and_gets_all_of_it(budgets: Budgets) -> None:
    policy = limited((Period.SECOND, 50))
    paid: Counter[int] = Counter()
    from_memory: Counter[int] = Counter()
    await asyncio.sleep((1_000 - wall_ms() % 1_000) / 1_000)
    begun_ms = wall_ms()
    while wall_ms() < begun_ms + 3_500:
        taken = await budgets.take(policy, cost=1)
        paid[taken.window.begin_ms] += taken.calls
        from_memory[taken.window.begin_ms] += taken.calls if taken.lot is not None else 0
        await asyncio.sleep(0.001)
    first, *others = sorted(paid)[:3]

    assert {paid[second] for second in (first, *others)} == {50}
    assert from_memory[first] == 0
    assert all(from_memory[second] >= 50 // PRESSED_PARTS for second in others)


async def test_a_raised_limit_holds_at_once(server: Server, budgets: Budgets) -> None:
    policy = limited((Period.MONTH, 1))
    before = [(await budgets.take(policy, cost=1)).calls for _ in range(2)]
    more = replace(policy, revision=policy.revision + 1, rate_limits=(RateLimit(period=Period.MONTH, units=2),))

    assert before == [1, 0]
    assert (await budgets.take(more, cost=1)).calls == 1


@pytest.mark.behaviour("S3.19")
async def test_what_is_used_up_for_one_cost_is_not_for_another(server: Server, budgets: Budgets) -> None:
    policy = limited((Period.HOUR, 12))
    found = [(await budgets.take(policy, cost=cost)).calls for cost in (10, 10, 1, 1, 1, 10)]

    assert found == [1, 0, 1, 1, 0, 0]


@pytest.mark.behaviour("S3.12")
@pytest.mark.behaviour("T-V7")
async def test_while_valkey_is_away_what_is_held_is_spent_and_nothing_more(
    server: Server, budgets: Budgets, clock: Clock
) -> None:
    policy = plenty()
    await warm(budgets, policy)
    await server.kill()
    await eventually(lambda: budgets._counter.memory is None)
    await eventually(lambda: not budgets._running)
    left = held(budgets, policy)
    paid = [(await budgets.take(policy, cost=1)).calls for _ in range(left)]
    with pytest.raises(BudgetUnavailableError):
        await budgets.take(policy, cost=1)
    await server.restart()
    again = await take_again(budgets, policy)

    assert paid == [1] * left
    assert left > 0
    assert again.allowed


@pytest.mark.behaviour("S3.12")
async def test_what_is_held_while_valkey_is_away_is_worth_nothing_when_its_window_is_over(
    server: Server, budgets: Budgets, clock: Clock
) -> None:
    policy = plenty()
    await warm(budgets, policy)
    await server.kill()
    await eventually(lambda: budgets._counter.memory is None)
    clock.ahead_ms = 3_600_000
    with pytest.raises(BudgetUnavailableError):
        await budgets.take(policy, cost=1)


async def loses_its_memory(server: Server, budgets: Budgets, policy: TenantPolicy) -> None:
    """Return when the next Valkey, which the worker has found, has counted three of another worker's calls."""
    await server.kill()
    await server.restart(empty=True)
    await take_again(budgets, limited((Period.HOUR, 100_000)))
    async with Budgets.open(server.socket, server.edge_key) as other:
        spent = [(await other.take(policy, cost=1)).calls for _ in range(3)]
    assert spent == [1, 1, 1]


@pytest.mark.behaviour("T-V7")
async def test_what_was_counted_by_a_valkey_that_lost_its_memory_is_not_given_back_to_the_next(
    server: Server, budgets: Budgets
) -> None:
    policy = plenty()
    await warm(budgets, policy)
    leased = await budgets.take(policy, cost=1, calls=3)
    await loses_its_memory(server, budgets, policy)
    budgets.give_back(leased, 3)
    await budgets._close()

    assert await used(server, policy) == 3


def left_of(leased: Taken, calls: int) -> Unspent:
    """Return what a script tells of a lease."""
    assert leased.lot is not None
    return Unspent(lease=f"{leased.until}", memory=leased.lot.memory or "", since_ms=leased.lot.since_ms, calls=calls)


@pytest.mark.behaviour("S3.4")
async def test_what_is_left_of_a_lease_is_given_back_by_whichever_worker_is_told_and_once(
    server: Server, budgets: Budgets
) -> None:
    policy = limited((Period.HOUR, 100_000), (Period.SECOND, 100_000))
    async with Budgets.open(server.socket, server.edge_key) as other:
        await warm(budgets, policy, cost=5)
        leased = await budgets.take(policy, cost=5, calls=3)
        assert leased.calls == 3
        before = await used(server, policy)
        for one in (other, budgets, other):
            one.give_back_lease(policy, left_of(leased, 2), cost=5)
        await other._close()
        await budgets._close()

    assert await used(server, policy) <= before - 2 * 5
    held_back = await used(server, policy)
    async with Budgets.open(server.socket, server.edge_key) as other:
        other.give_back_lease(policy, left_of(leased, 2), cost=5)
        await other._close()
    assert await used(server, policy) == held_back


@pytest.mark.behaviour("S3.4")
async def test_what_is_left_of_a_lease_is_there_for_whoever_asks_next(server: Server, budgets: Budgets) -> None:
    policy = limited((Period.HOUR, 100))
    async with Budgets.open(server.socket, server.edge_key) as other:
        leased = await warm(budgets, policy)
        async with asyncio.timeout(30):
            while (await other.take(policy, cost=1)).allowed:
                pass
        other.give_back_lease(policy, left_of(leased, 1), cost=1)
        found = [(await other.take(policy, cost=1)).calls for _ in range(2)]

    assert found == [1, 0]


@pytest.mark.behaviour("T-V7")
async def test_what_is_left_of_a_lease_is_not_given_back_to_a_valkey_that_lost_its_memory(
    server: Server, budgets: Budgets
) -> None:
    policy = plenty()
    await warm(budgets, policy)
    leased = await budgets.take(policy, cost=1, calls=3)
    await loses_its_memory(server, budgets, policy)
    budgets.give_back_lease(policy, left_of(leased, 2), cost=1)
    await budgets._close()

    assert await used(server, policy) == 3


async def test_a_tenant_that_was_quiet_for_a_minute_is_forgotten(budgets: Budgets, clock: Clock) -> None:
    policy = plenty()
    await budgets.take(policy, cost=1)
    clock.ahead_ms = 59_000
    await asyncio.sleep(0.6)
    known = policy.uid in budgets._tenants
    clock.ahead_ms = 61_000
    await eventually(lambda: policy.uid not in budgets._tenants)

    assert known


async def test_the_answer_tells_of_the_window_that_has_the_fewest_calls_left(budgets: Budgets) -> None:
    policy = limited((Period.DAY, 100), (Period.MONTH, 150), requests_per_minute=50)
    taken = [await budgets.take(policy, cost=cost) for cost in (1, 10)]

    assert [(each.window.name, each.window.limit, each.remaining) for each in taken] == [
        ("minute", 50, 49),
        ("units-day", 100, 89),
    ]
    assert 0 < taken[1].reset_s <= 86_400
    # They are to be spent in all of their windows.
    assert taken[1].until - wall_ms() <= 60_000


@pytest.mark.behaviour("S3.18")
async def test_a_worker_whose_clock_is_years_behind_counts_in_the_windows_of_valkeys(server: Server) -> None:
    policy = limited((Period.SECOND, 100), (Period.MONTH, 10))
    async with Budgets.open(server.socket, server.edge_key, wall=lambda: wall_ms() - 10**11) as behind:
        mine = [(await behind.take(policy, cost=1)).calls for _ in range(6)]
    async with Budgets.open(server.socket, server.edge_key) as right:
        theirs = [(await right.take(policy, cost=1)).calls for _ in range(6)]

    assert mine == [1] * 6
    assert theirs == [1] * 4 + [0] * 2
