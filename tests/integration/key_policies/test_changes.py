"""Who changes a tenant's policy, at once or by two, and what of it is told."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import grpc
import psycopg
import pytest
from psycopg.rows import DictRow

from bulkhead.v1 import key_policies_pb2, rules_pb2, tokens_pb2
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from tests.fixtures.cell import Cell, Metadata, bearer, reason_of, violations_of
from tests.integration.key_policies.conftest import ALLOWS, Desk

Superuser = psycopg.AsyncConnection[DictRow]
Told = Callable[[], Awaitable[list[tuple[str, str, str]]]]
NAME: Final = "tenants/org_1/keyPolicy"
APPROVE, REJECT = key_policies_pb2.ApproveKeyPolicyChangeRequest, key_policies_pb2.RejectKeyPolicyChangeRequest


async def refused(call: Awaitable[Any]) -> str:
    """Return why a call was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return reason_of(error.value)


async def lock(desk: Desk, admin: Metadata) -> None:
    await desk.update(admin, enforced=True, rules=[ALLOWS], locked=True)


async def read(desk: Desk, by: Metadata) -> key_policies_pb2.KeyPolicy:
    asked = key_policies_pb2.GetKeyPolicyRequest(name=NAME)
    policy: key_policies_pb2.KeyPolicy = await desk.policies.GetKeyPolicy(asked, metadata=by)
    return policy


@pytest.mark.behaviour("S2.11")
async def test_a_policy_is_read_changed_and_told(desk: Desk, admin: Metadata, superuser: Superuser, told: Told) -> None:
    unset = await read(desk, admin)
    changed = await desk.update(admin, rules=[ALLOWS], enforced=True, etag=unset.etag)
    same = await desk.update(admin, enforced=True)
    stale = await refused(desk.update(admin, enforced=False, etag=unset.etag))
    checked = key_policies_pb2.UpdateKeyPolicyRequest(validate_only=True)
    await desk.policies.UpdateKeyPolicy(desk.change(checked, enforced=False), metadata=admin)
    rows = await (await superuser.execute("SELECT details FROM tenant_org_1.audit_entries")).fetchall()

    assert (unset.enforced, len(unset.rules), unset.HasField("update_time")) == (False, 0, False)
    assert await read(desk, admin) == changed == same
    assert stale == "ETAG_MISMATCH"
    assert await told() == [("tenant-admin:ann", "UpdateKeyPolicy", "")]
    assert rows[0]["details"]["rules"][0]["principals"] == ["tenant-member"]


async def test_everything_that_is_wrong_is_said_at_once(desk: Desk, admin: Metadata) -> None:
    asked = key_policies_pb2.UpdateKeyPolicyRequest()
    desk.change(asked, rules=[{**ALLOWS, "keys": ["A"], "principals": []}])
    asked.update_mask.paths.append("proposal")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await desk.policies.UpdateKeyPolicy(asked, metadata=admin)

    assert list(violations_of(error.value)) == [
        "update_mask",
        "key_policy.rules[0].keys",
        "key_policy.rules[0].principals",
    ]


@pytest.mark.behaviour("S2.11")
async def test_neither_the_platform_nor_a_provider_changes_a_locked_policy(
    cell: Cell, desk: Desk, admin: Metadata, told: Told
) -> None:
    platform = bearer(cell.admin_token())
    await desk.update(platform, enforced=True, rules=[ALLOWS])
    early = await refused(desk.update(platform, locked=True))
    await lock(desk, admin)
    asked = APPROVE(name=NAME, change="00000000-0000-0000-0000-000000000001")
    refusals = {
        "tighten": await refused(desk.update(platform, rules=[])),
        "unlock": await refused(desk.update(platform, locked=False)),
        "propose": await refused(desk.propose(platform, locked=False)),
        "approve": await refused(desk.policies.ApproveKeyPolicyChange(asked, metadata=platform)),
    }

    assert early == "KEY_POLICY_LOCKED"
    assert refusals == {
        "tighten": "KEY_POLICY_LOCKED",
        "unlock": "KEY_POLICY_LOCKED",
        "propose": "ROLE_NOT_ALLOWED",
        "approve": "ROLE_NOT_ALLOWED",
    }
    assert ("platform-admin:root", "UpdateKeyPolicy", "KEY_POLICY_LOCKED") in await told()


@pytest.mark.behaviour("H26")
async def test_a_locked_policy_is_tightened_by_one_and_loosened_by_two(
    desk: Desk, admin: Metadata, other_admin: Metadata, member: Metadata, told: Told
) -> None:
    await lock(desk, admin)
    looser = await refused(desk.update(admin, enforced=False))
    await desk.update(admin, rules=[{**ALLOWS, "operations": ["DECRYPT"]}])
    proposed = await desk.propose(admin, enforced=False, locked=False)
    asked = APPROVE(name=NAME, change=proposed.proposal.id)
    own = await refused(desk.policies.ApproveKeyPolicyChange(asked, metadata=admin))
    denied = await refused(desk.encrypt(member))
    approved = await desk.policies.ApproveKeyPolicyChange(asked, metadata=other_admin)
    again = await refused(desk.policies.ApproveKeyPolicyChange(asked, metadata=other_admin))

    assert looser == "KEY_POLICY_LOOSENED"
    assert list(proposed.proposal.loosenings) == ["unlocks the policy", "no longer enforces the policy"]
    assert proposed.proposal.proposer == "tenant-admin:ann"
    assert (own, denied, again) == ("SECOND_PERSON_NEEDED", "KEY_POLICY_DENIED", "KEY_POLICY_PROPOSAL_GONE")
    assert (approved.enforced, approved.locked, approved.HasField("proposal")) == (False, False, False)
    assert await desk.encrypt(member)
    assert [entry[:2] for entry in await told() if not entry[2] and entry[1] != "Encrypt"] == [
        ("tenant-admin:ann", "UpdateKeyPolicy"),
        ("tenant-admin:ann", "UpdateKeyPolicy"),
        ("tenant-admin:ann", "ProposeKeyPolicyChange"),
        ("tenant-admin:ben", "ApproveKeyPolicyChange"),
    ]
    assert ("tenant-admin:ann", "ApproveKeyPolicyChange", "SECOND_PERSON_NEEDED") in await told()


@pytest.mark.behaviour("H26")
async def test_a_proposal_is_rejected_and_ends_with_a_change(
    desk: Desk, admin: Metadata, other_admin: Metadata
) -> None:
    await lock(desk, admin)
    first = (await desk.propose(admin, enforced=False)).proposal.id
    second = await refused(desk.propose(other_admin, enforced=False))
    rejected = await desk.policies.RejectKeyPolicyChange(REJECT(name=NAME, change=first), metadata=other_admin)
    checked = desk.change(key_policies_pb2.ProposeKeyPolicyChangeRequest(validate_only=True), enforced=False)
    unchanged = await desk.policies.ProposeKeyPolicyChange(checked, metadata=admin)
    third = (await desk.propose(admin, enforced=False)).proposal.id
    await desk.update(admin, rules=[])
    gone = await refused(desk.policies.ApproveKeyPolicyChange(APPROVE(name=NAME, change=third), metadata=other_admin))

    assert second == "KEY_POLICY_PROPOSAL_WAITS"
    assert (rejected.HasField("proposal"), unchanged.HasField("proposal")) == (False, False)
    assert gone == "KEY_POLICY_PROPOSAL_GONE"
    assert (await read(desk, admin)).enforced


@pytest.mark.behaviour("H26", "S2.11")
async def test_nobody_makes_up_the_second_administrator(
    cell: Cell, desk: Desk, tenant: Placement, admin: Metadata, other_admin: Metadata
) -> None:
    """By a token that the proposer has issued, by that one's child, by another of its own, by two of the platform's."""
    await lock(desk, admin)
    asked = APPROVE(name=NAME, change=(await desk.propose(admin, locked=False)).proposal.id)
    made_up = await _issued(cell, admin, subject="zoe")
    grandchild = await _issued(cell, made_up, subject="yan")
    again = bearer(await cell.token(tenant, subject="ann"))
    refusals = [
        await refused(desk.policies.ApproveKeyPolicyChange(asked, metadata=who)) for who in (made_up, grandchild, again)
    ]
    await desk.policies.RejectKeyPolicyChange(REJECT(name=NAME, change=asked.change), metadata=admin)
    platform = bearer(cell.admin_token())
    first, second = [await _issued(cell, platform, subject=subject) for subject in ("eve", "mallory")]
    asked = APPROVE(name=NAME, change=(await desk.propose(first, locked=False)).proposal.id)
    alone = await refused(desk.policies.ApproveKeyPolicyChange(asked, metadata=second))
    renewed = await _issued(cell, other_admin, subject="ben")
    elder = await refused(desk.policies.ApproveKeyPolicyChange(asked, metadata=renewed))

    assert [*refusals, alone, elder] == ["SECOND_PERSON_NEEDED"] * 5
    assert not (await desk.policies.ApproveKeyPolicyChange(asked, metadata=admin)).locked


async def test_a_token_from_before_issuers_were_kept_approves_nothing(
    desk: Desk, admin: Metadata, other_admin: Metadata, superuser: Superuser
) -> None:
    await lock(desk, admin)
    asked = APPROVE(name=NAME, change=(await desk.propose(admin, locked=False)).proposal.id)
    await superuser.execute("UPDATE tenant_org_1.tokens SET issuers = NULL WHERE subject = 'ben'")

    refusal = await refused(desk.policies.ApproveKeyPolicyChange(asked, metadata=other_admin))
    assert refusal == "SECOND_PERSON_NEEDED"


async def test_of_two_changes_at_once_none_overwrites_the_other_unseen(
    cell: Cell, desk: Desk, admin: Metadata, other_admin: Metadata
) -> None:
    """The tenant locks its first policy while the platform sets one: either comes before the other."""
    platform = bearer(cell.admin_token())

    async def locked() -> None:
        with suppress(grpc.aio.AioRpcError):
            await desk.update(admin, enforced=True, rules=[], locked=True)

    await asyncio.gather(
        locked(),
        *(desk.update(platform, enforced=True, rules=[ALLOWS]) for _ in range(8)),
        return_exceptions=True,
    )
    # Where it has lost against the others each time, they are done now.
    await locked()
    policy = await read(desk, admin)

    assert (policy.locked, len(policy.rules)) == (True, 0)


async def test_members_neither_see_nor_change_a_policy(desk: Desk, member: Metadata) -> None:
    assert await refused(read(desk, member)) == "ROLE_NOT_ALLOWED"
    assert await refused(desk.update(member, enforced=False)) == "ROLE_NOT_ALLOWED"


async def test_a_change_that_uses_hold_up_is_said_to_be_unconfirmed(
    desk: Desk, admin: Metadata, superuser: Superuser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.key_policies.service._LOOKS", 2)
    await superuser.execute(
        "CREATE OR REPLACE FUNCTION csm_system.open_transactions(tenant bigint, begun timestamptz) RETURNS bigint"
        " LANGUAGE sql AS 'SELECT 1::bigint'"
    )
    unconfirmed = await refused(desk.update(admin, enforced=True))

    assert unconfirmed == "KEY_POLICY_UNCONFIRMED"
    assert (await read(desk, admin)).enforced


async def _issued(cell: Cell, by: Metadata, *, subject: str) -> Metadata:
    """Have somebody issue a token of an administrator's."""
    async with cell.tokens() as stub:
        asked = tokens_pb2.IssueTokenRequest(parent="tenants/org_1", subject=subject, role=rules_pb2.ROLE_TENANT_ADMIN)
        return bearer((await stub.IssueToken(asked, metadata=by)).token)


async def test_an_auditor_reads_what_there_is(cell: Cell, desk: Desk, tenant: Placement, admin: Metadata) -> None:
    await lock(desk, admin)
    auditor = bearer(await cell.token(tenant, Role.AUDITOR, subject="ada", scopes=("keys.read",)))

    assert (await read(desk, auditor)).locked
