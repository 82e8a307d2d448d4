"""Limits are exact under floods, however many Envoys, threads and agents there are."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import pytest

from ext_authz.leases.grants import LONGEST_MS
from ext_authz.policies.model import Change, Index, TenantToken
from tests.integration.ext_authz.leases.floods import Flood, Site, fresh_token, sites
from tests.integration.ext_authz.limiter.valkey_servers import Server, valkey_server
from tests.unit.ext_authz.authz.checks import Tenant, tenant

IS_BATTERY: Final = bool(os.environ.get("BATTERY"))
TENANTS, LIMIT, CALLERS = (6, 3_000, 4) if IS_BATTERY else (3, 600, 2)
# Of few calls, those that lie in leases when their window ends are more than a hundredth.
LEAST: Final = 0.99 if IS_BATTERY else 0.9
# As long as it takes to use up the last of so many minutes.
WINDOWS: Final = 3 if IS_BATTERY else 1
REVOKED, AT_ONCE = (1_000, 20) if IS_BATTERY else (10, 5)
FLOODED_S: Final = (WINDOWS - 1) * 60 + (20.0 if IS_BATTERY else 8.0)


@pytest.fixture
async def valkey() -> AsyncIterator[Server]:
    async with valkey_server() as server:
        yield server


def _tenants(limit: int = LIMIT) -> list[Tenant]:
    made = [tenant(number) for number in range(1, TENANTS + 1)]
    return [replace(one, policy=replace(one.policy, requests_per_minute=limit)) for one in made]


async def _a_new_minute() -> None:
    """Return when the flood ends in the last of its minutes, however late some of it comes."""
    left = 60 - time.time() % 60
    if left < FLOODED_S % 60 + 5 or IS_BATTERY:
        await asyncio.sleep(left + 0.1)


async def _flood(running: list[Site], floods: list[Flood], *, for_s: float = FLOODED_S) -> None:
    until_s = time.monotonic() + for_s
    async with asyncio.TaskGroup() as group:
        for flood in floods:
            for site in running:
                for _ in range(CALLERS):
                    group.create_task(flood.run(site.port, until_s=until_s))


@pytest.mark.behaviour("S3.4", "T-X2")
@pytest.mark.timeout(FLOODED_S + 180)
async def test_a_flood_is_cut_at_exactly_the_limit(valkey: Server) -> None:
    floods = [Flood(tenant=one, token=fresh_token(one)) for one in _tenants()]
    async with sites(2, valkey, [flood.tenant for flood in floods]) as running:
        await _a_new_minute()
        await _flood(running, floods)
        contexts = sum(len(site.upstream.seen) for site in running)
        leased = sum(bool(seen.all("x-bulkhead-lease")) for site in running for seen in site.upstream.seen)

    admitted = [flood.answers[200] for flood in floods]
    assert max(admitted) <= WINDOWS * LIMIT
    assert min(admitted) >= LEAST * WINDOWS * LIMIT
    assert contexts == sum(admitted)
    # It is leases that were looked at.
    assert leased > contexts / 2
    # And a refusal costs the agents next to nothing.
    assert sum(flood.answers[429] for flood in floods) > LIMIT
    # On a busy machine some are given up.
    assert all(set(flood.answers) <= {200, 429, 503} for flood in floods)


@pytest.mark.behaviour("S3.12", "T-V7")
@pytest.mark.timeout(FLOODED_S + 180)
@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_while_valkey_is_away_no_more_than_the_limit_is_admitted(valkey: Server, how: str) -> None:
    floods = [Flood(tenant=one, token=fresh_token(one)) for one in _tenants()]
    async with sites(2, valkey, [flood.tenant for flood in floods]) as running:
        await _a_new_minute()
        flooding = asyncio.create_task(_flood(running, floods))
        for _ in range(4):
            await asyncio.sleep(FLOODED_S / 8)
            if how == "frozen":
                valkey.freeze()
                await asyncio.sleep(FLOODED_S / 16)
                valkey.thaw()
            else:
                await valkey.kill()
                await valkey.restart()
        await flooding

    assert max(flood.answers[200] for flood in floods) <= WINDOWS * LIMIT
    assert min(flood.answers[200] for flood in floods) > 0
    assert all(set(flood.answers) <= {200, 429, 503} for flood in floods)


@pytest.mark.behaviour("I6")
@pytest.mark.timeout(1800 if IS_BATTERY else 180)
async def test_a_revoked_token_is_good_for_no_longer_than_a_lease_lasts(valkey: Server) -> None:
    revoking, other = _tenants(1_000_000)[:2]
    others = Flood(tenant=other, token=fresh_token(other))
    late_s: list[float] = []
    seen = leased = 0
    async with sites(1, valkey, [revoking, other]) as (site,):
        for _ in range(REVOKED // AT_ONCE):
            ids = [uuid4() for _ in range(AT_ONCE)]
            floods = [Flood(tenant=revoking, token=fresh_token(revoking, token_id=each)) for each in ids]
            flooding = asyncio.create_task(_flood([site], [*floods, others], for_s=0.5 + 1.5 * LONGEST_MS / 1000))
            await asyncio.sleep(0.5)
            await site.tell(_after_revocations(site.servicers[0].index, revoking, ids))
            applied_s = time.monotonic()
            await flooding
            late_s += [flood.admitted_s - applied_s for flood in floods]
            seen += len(site.upstream.seen)
            leased += sum(bool(one.all("x-bulkhead-lease")) for one in site.upstream.seen)
            site.upstream.seen.clear()

            # On a busy machine some are given up.
            told = [set(flood.answers) for flood in floods]
            assert [one for one in told if not {401} <= one <= {200, 401, 503}] == []

    sys.stdout.write(f"admitted after the revocation was applied, at the latest: {max(late_s) * 1000:.0f} ms\n")
    # It is a lease's time, and not one that a Check has taken.
    assert 0 < max(late_s) <= LONGEST_MS / 1000
    assert leased > seen / 2
    assert {200} <= set(others.answers) <= {200, 503}


def _after_revocations(index: Index, tenant: Tenant, token_ids: Iterable[UUID]) -> Index:
    """Return the index in which these tokens of the tenant are revoked."""
    now = datetime.now(UTC)
    end = now + timedelta(days=1)
    change = Change(
        feed=index.feed,
        revision=index.revision + 1,
        snapshot=False,
        tenants=(),
        revocations={TenantToken(tenant.policy.uid, each): end for each in token_ids},
        as_of=now,
    )
    return index.after(change)
