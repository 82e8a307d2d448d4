"""Following the policies: what comes, and in which order."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from bulkhead.edge.v1 import policies_pb2
from control_plane.policies import feed, store, wire
from tests.fixtures.postgres import MakeTenant
from tests.integration.policies.following import Following, following

if TYPE_CHECKING:
    from tests.integration.policies.conftest import Control


def resumed(message: policies_pb2.FollowPoliciesResponse) -> policies_pb2.FollowPoliciesRequest:
    return policies_pb2.FollowPoliciesRequest(feed=message.feed, revision=message.revision)


async def test_a_new_follower_gets_everything_and_then_each_change(control: "Control", make_tenant: MakeTenant) -> None:
    first, second = await make_tenant("org_1"), await make_tenant("org_2")
    async with following(control) as stream:
        snapshot = await stream.change()
        revision = await control.suspend("org_1")
        change = await stream.change()

    assert snapshot.snapshot
    assert [(t.tenant_id, t.uid, t.state) for t in snapshot.tenants] == [
        ("org_1", str(first.uid), policies_pb2.TenantPolicy.ACTIVE),
        ("org_2", str(second.uid), policies_pb2.TenantPolicy.ACTIVE),
    ]
    assert snapshot.revision == snapshot.tenants[1].revision
    assert not change.snapshot
    assert [(t.tenant_id, t.state, t.revision) for t in change.tenants] == [
        ("org_1", policies_pb2.TenantPolicy.SUSPENDED, revision)
    ]
    assert change.revision == revision
    assert change.feed == snapshot.feed != ""


async def test_an_edge_takes_a_sealed_tenant_for_a_suspended_one(
    control: "Control", make_tenant: MakeTenant, superuser: Any
) -> None:
    await make_tenant("org_1")
    async with following(control) as stream:
        await stream.change()
        await superuser.execute("UPDATE csm_system.tenants SET state = 'SEALED'")
        change = await stream.change()

    assert [(t.tenant_id, t.state) for t in change.tenants] == [("org_1", policies_pb2.TenantPolicy.SUSPENDED)]


async def test_a_purged_tenant_is_forgotten_by_who_follows_and_unknown_to_who_comes(
    control: "Control", make_tenant: MakeTenant, superuser: Any
) -> None:
    await make_tenant("org_1")
    await make_tenant("org_2")
    async with following(control) as stream:
        await stream.change()
        for deletion in ("PENDING_DELETION", "PURGING", "PURGED"):
            await superuser.execute(
                """
                UPDATE csm_system.tenants SET state = 'SEALED', deletion = %s, delete_time = now(), purge_time = now(),
                       edge_revision = edge_revision + 1
                 WHERE id = 'org_1'
                """,
                [deletion],
            )
        changes = [await stream.change()]
        while not changes[-1].purged_tenants:
            changes.append(await stream.change())
    async with following(control) as late:
        snapshot = await late.change()

    assert list(changes[-1].purged_tenants) == ["org_1"]
    assert [tenant.tenant_id for change in changes[-1:] for tenant in change.tenants] == []
    assert [tenant.tenant_id for tenant in snapshot.tenants] == ["org_2"]
    assert list(snapshot.purged_tenants) == []


async def test_a_policy_is_told_whole(control: "Control", make_tenant: MakeTenant, superuser: Any) -> None:
    tenant = await make_tenant("org_1")
    kid = uuid4()
    await superuser.execute(
        """
        INSERT INTO csm_system.tenant_keys
               (id, tenant_uid, purpose, key_id, version, algorithm, kek_version, wrapped, public, state)
        VALUES (%s, %s, 'tokens', 'tokens', 1, 'Ed25519', 1, '', %s, 'ENABLED')
        """,
        (kid, tenant.uid, bytes(32)),
    )
    await control.write(
        """
        UPDATE csm_system.tenants
           SET tier = 'business', requests_per_minute = 77, domains = ARRAY['certs.example.org'],
               max_policy_age = interval '90 seconds', units_per_hour = 5000, units_per_month = 9007199254740992,
               billing_day = 31, time_zone = 'Asia/Tokyo'
        """
    )
    async with following(control) as stream:
        policy = (await stream.change()).tenants[0]

    assert (policy.tier, policy.requests_per_minute, policy.dns_label) == ("business", 77, "org-1")
    assert list(policy.domains) == ["certs.example.org"]
    assert policy.isolation_level == "POOLED"
    assert [(key.kid, key.public_key) for key in policy.token_keys] == [(str(kid), bytes(32))]
    assert policy.max_policy_age.ToTimedelta() == timedelta(seconds=90)
    windows = policies_pb2.RateLimit.Window
    assert [(each.window, each.units) for each in policy.rate_limits] == [(windows.HOUR, 5000), (windows.MONTH, 2**53)]
    assert (policy.billing_day, policy.time_zone) == (31, "Asia/Tokyo")


@pytest.mark.behaviour("T-E10")
async def test_a_policy_has_its_own_tenants_keys_for_tokens_and_no_others(
    control: "Control", make_tenant: MakeTenant, superuser: Any
) -> None:
    tenants = [await make_tenant("org_1"), await make_tenant("org_2")]
    kids: dict[tuple[str, str], UUID] = {}
    for number, tenant in enumerate(tenants):
        for purpose in ("tokens", "authority"):
            kids[tenant.tenant_id, purpose] = kid = uuid4()
            await superuser.execute(
                """
                INSERT INTO csm_system.tenant_keys
                       (id, tenant_uid, purpose, key_id, version, algorithm, kek_version, wrapped, public, state)
                VALUES (%s, %s, %s, %s, 1, 'any', 1, '', %s, 'ENABLED')
                """,
                (kid, tenant.uid, purpose, purpose, bytes([number] * 32)),
            )
    async with following(control) as stream:
        policies = (await stream.change()).tenants

    told = {policy.tenant_id: [(key.kid, key.public_key) for key in policy.token_keys] for policy in policies}
    assert told == {
        "org_1": [(str(kids["org_1", "tokens"]), bytes([0] * 32))],
        "org_2": [(str(kids["org_2", "tokens"]), bytes([1] * 32))],
    }


async def test_without_its_own_a_tenant_has_its_tiers_rate(control: "Control", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    async with following(control) as stream:
        before = (await stream.change()).tenants[0]
        await control.write("UPDATE csm_system.tenants SET tier = 'enterprise'")
        after = (await stream.change()).tenants[0]

    assert 0 < before.requests_per_minute < after.requests_per_minute


async def test_a_large_snapshot_comes_in_parts(
    control: "Control", make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (wire, store):
        monkeypatch.setattr(module, "_TENANTS" if module is wire else "_PAGE", 2)
    for number in range(5):
        await make_tenant(f"org_{number}")
    async with following(control) as stream:
        await stream.change()

    assert [(m.snapshot, m.continues, len(m.tenants)) for m in stream.messages] == [
        (True, True, 2),
        (False, True, 2),
        (False, False, 1),
    ]
    assert len({m.revision for m in stream.messages}) == 1


async def test_a_revoked_token_is_told_once_and_an_expired_one_never(
    control: "Control", make_tenant: MakeTenant, superuser: Any
) -> None:
    tenant = await make_tenant("org_1")
    revoked, expired = uuid4(), uuid4()
    async with following(control) as stream:
        await stream.change()
        for token, lifetime in ((expired, timedelta(hours=-2)), (revoked, timedelta(hours=1))):
            await superuser.execute(
                "INSERT INTO csm_system.edge_revocations VALUES (%s, %s, %s, csm_system.next_edge_revision())",
                (token, tenant.uid, datetime.now(UTC) + lifetime),
            )
        change = await stream.change()
    async with following(control) as stream:
        again = await stream.change()

    assert [r.token_id for r in change.revocations] == [str(revoked)]
    assert [r.token_id for r in again.revocations] == [str(revoked)]
    assert again.revocations[0].tenant_uid == str(tenant.uid)


async def test_forgetting_old_revocations_does_not_turn_the_feed_back(
    control: "Control", make_tenant: MakeTenant, superuser: Any
) -> None:
    tenant = await make_tenant("org_1")
    for _ in range(2):
        await superuser.execute(
            """
            INSERT INTO csm_system.edge_revocations
            VALUES (gen_random_uuid(), %s, now() - interval '1 day', csm_system.next_edge_revision())
            """,
            (tenant.uid,),
        )
    before = await control.database.system().run(store.head)
    await control.database.system().run(store.forget_revocations)
    cursor = await superuser.execute("SELECT revision FROM csm_system.edge_revocations")

    assert await cursor.fetchall() == [{"revision": before.revision}]
    assert await control.database.system().run(store.head) == before


async def test_who_comes_back_gets_only_what_is_new(control: "Control", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    await make_tenant("org_2")
    async with following(control) as stream:
        known = await stream.change()
    await control.suspend("org_2")
    async with following(control, resumed(known)) as stream:
        change = await stream.change()
    async with following(control, resumed(change)) as stream:
        nothing = await stream.message()

    assert not change.snapshot
    assert [t.tenant_id for t in change.tenants] == ["org_2"]
    assert (nothing.snapshot, list(nothing.tenants), nothing.revision) == (False, [], change.revision)


@pytest.mark.parametrize("stranger", ["another feed", "a revision to come", "no revision"])
async def test_who_is_not_part_of_the_history_gets_everything(
    control: "Control", make_tenant: MakeTenant, stranger: str
) -> None:
    await make_tenant("org_1")
    head = await control.database.system().run(store.head)
    feeds = {"another feed": str(uuid4())}
    revisions = {"a revision to come": head.revision + 1, "no revision": 0}
    request = policies_pb2.FollowPoliciesRequest(
        feed=feeds.get(stranger, head.feed), revision=revisions.get(stranger, head.revision)
    )
    async with following(control, request) as stream:
        first = await stream.change()

    assert first.snapshot
    assert (first.feed, first.revision) == (head.feed, head.revision)
    assert [t.tenant_id for t in first.tenants] == ["org_1"]


async def test_what_is_committed_while_a_snapshot_is_read_comes_once_and_in_order(
    control: "Control", make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The follower's reading stands still between its head and its rows while two changes are committed and told."""
    for number in range(3):
        await make_tenant(f"org_{number}")
    async with following(control, edge="witness") as witness:
        await witness.change()
        reading, go_on = asyncio.Event(), asyncio.Event()
        changes = store.changes

        async def slow(tx: Any, after: int | None, **given: Any) -> Any:
            if after is None:
                reading.set()
                await go_on.wait()
            return await changes(tx, after, **given)

        monkeypatch.setattr(store, "changes", slow)
        monkeypatch.setattr(feed, "_SNAPSHOT_GOOD_FOR", timedelta())
        async with following(control) as stream:
            told = asyncio.create_task(stream.change())
            await reading.wait()
            revisions = [await control.suspend("org_0"), await control.suspend("org_2")]
            await witness.until(revisions[-1])
            go_on.set()
            snapshot = await told
            later = await stream.until(revisions[-1])

    assert [t.state for t in snapshot.tenants] == [policies_pb2.TenantPolicy.ACTIVE] * 3
    assert [(t.tenant_id, t.revision) for t in later] == [("org_0", revisions[0]), ("org_2", revisions[1])]


async def test_nothing_is_missing_or_twice_however_changes_and_followers_meet(
    control: "Control", make_tenant: MakeTenant
) -> None:
    tenants = [f"org_{number}" for number in range(4)]
    for tenant in tenants:
        await make_tenant(tenant)

    async def change() -> int:
        revision = 0
        for turn in range(40):
            revision = await control.suspend(tenants[turn % 4], reactivate=turn % 8 > 3)
        return revision

    changing, last = asyncio.create_task(change()), 0
    seen: list[list[policies_pb2.TenantPolicy]] = []
    for number in range(6):
        async with following(control, edge=f"edge-{number}") as stream:
            last = await changing if number == 5 else (await stream.change()).revision
            seen.append([t for m in stream.messages for t in m.tenants] + await stream.until(last))
    standing = {t.tenant_id: t.revision for t in seen[-1]}

    for tenants_seen in seen:
        revisions = [t.revision for t in tenants_seen]
        assert len(set(revisions)) == len(revisions)
        for tenant in tenants:
            mine = [t.revision for t in tenants_seen if t.tenant_id == tenant]
            assert mine == sorted(mine)
    assert max(standing.values()) == last


async def test_ten_followers_cost_one_reading_a_change(
    control: "Control", make_tenant: MakeTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_tenant("org_1")
    known = await control.database.system().run(store.head)
    request = policies_pb2.FollowPoliciesRequest(feed=known.feed, revision=known.revision)
    async with asyncio.timeout(30), control.policies() as stub:
        streams = [Following(stub.FollowPolicies(request)) for _ in range(10)]
        for stream in streams:
            await stream.message()
        readings = []
        policies = store._policies

        async def counted(tx: Any, after: int) -> Any:
            readings.append(after)
            return await policies(tx, after)

        monkeypatch.setattr(store, "_policies", counted)
        revision = await control.suspend("org_1")
        told = [await stream.until(revision) for stream in streams]

    assert [[t.revision for t in tenants] for tenants in told] == [[revision]] * 10
    assert readings == [known.revision]


async def test_a_stream_says_that_there_is_nothing_newer_and_outlives_the_deadline_of_calls(
    control: "Control", make_tenant: MakeTenant
) -> None:
    await make_tenant("org_1")
    began = datetime.now(UTC)
    async with following(control) as stream:
        await stream.change()
        for _ in range(3):
            await stream.message()
    times = [m.as_of_time.ToDatetime(tzinfo=UTC) for m in stream.messages]

    assert began <= times[0]
    assert times == sorted(times)
    assert len(set(times)) == len(times)
    assert times[-1] - times[0] >= timedelta(milliseconds=900), "three of them are more than the deadline of a call"
    assert [len(m.tenants) for m in stream.messages] == [1, 0, 0, 0]
