"""A second person's consent: asked for by trying, given for a time and a number of uses, and all of it told."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from psycopg.rows import DictRow

from bulkhead.v1 import key_use_approvals_pb2, key_uses_pb2
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from tests.fixtures.cell import Cell, Metadata, bearer, reason_of, status_of, violations_of
from tests.integration.key_policies.conftest import ALLOWS, Desk

Superuser = psycopg.AsyncConnection[DictRow]
Told = Callable[[], Awaitable[list[tuple[str, str, str]]]]
State = key_use_approvals_pb2.KeyUseApproval.State
Approve, Deny = key_use_approvals_pb2.ApproveKeyUseRequest, key_use_approvals_pb2.DenyKeyUseRequest


async def refused(call: Awaitable[Any]) -> str:
    """Return why a call was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return reason_of(error.value)


async def asked(desk: Desk, by: Metadata, code: str = "CUSTOMER_INITIATED") -> str:
    """Try to use a key, and return what waits for approval."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await desk.encrypt(by, code, reason="ticket 12")
    info = error_details_pb2.ErrorInfo()
    assert status_of(error.value).details[0].Unpack(info)
    assert (error.value.code(), info.reason) == (grpc.StatusCode.PERMISSION_DENIED, "KEY_USE_NEEDS_APPROVAL")
    return info.metadata["approval"]


async def listed(desk: Desk, by: Metadata) -> list[Any]:
    asked = key_use_approvals_pb2.ListKeyUseApprovalsRequest(parent="tenants/org_1")
    return list((await desk.policies.ListKeyUseApprovals(asked, metadata=by)).key_use_approvals)


@pytest.fixture(autouse=True)
async def dual_control(desk: Desk, admin: Metadata) -> None:
    """Let members use the key for services when somebody has consented to it."""
    codes = ["CUSTOMER_INITIATED", "BACKUP"]
    principals = ["tenant-member", "tenant-admin"]
    rule = {**ALLOWS, "principals": principals, "reason_codes": codes, "dual_control": True}
    await desk.update(admin, enforced=True, rules=[rule])


@pytest.mark.behaviour("S2.11", "S2.12")
async def test_a_use_waits_for_consent_and_each_step_is_told(
    desk: Desk, admin: Metadata, member: Metadata, told: Told, superuser: Superuser
) -> None:
    names = {await asked(desk, member) for _ in range(3)}
    (name,) = names
    waits = await desk.policies.GetKeyUseApproval(
        key_use_approvals_pb2.GetKeyUseApprovalRequest(name=name), metadata=admin
    )
    approved = await desk.policies.ApproveKeyUse(
        Approve(name=name, uses=2, ttl=Duration(seconds=60), etag=waits.etag), metadata=admin
    )
    used = [await desk.encrypt(member) for _ in range(2)]
    another = await asked(desk, member)
    entries = await (
        await superuser.execute("SELECT details FROM tenant_org_1.audit_entries WHERE details ? 'approval'")
    ).fetchall()

    assert (waits.state, waits.reason, waits.use.principal) == (State.PENDING, "ticket 12", "tenant-member:mia")
    assert waits.use.operation == key_uses_pb2.KeyUse.ENCRYPT
    assert (approved.state, approved.uses_left, approved.decider) == (State.APPROVED, 2, "tenant-admin:ann")
    assert (len(used), another not in names) == (2, True)
    assert [entry["details"]["approval"] for entry in entries] == [name, name]
    assert [entry for entry in await told() if entry[1] != "UpdateKeyPolicy"] == [
        ("tenant-member:mia", "Encrypt", ""),
        ("tenant-admin:ann", "ApproveKeyUse", ""),
        ("tenant-member:mia", "Encrypt", ""),
        ("tenant-member:mia", "Encrypt", ""),
        ("tenant-member:mia", "Encrypt", ""),
        ("tenant-member:mia", "Encrypt", "KEY_USE_NEEDS_APPROVAL"),
    ]


@pytest.mark.behaviour("S2.11")
async def test_consent_is_to_one_principal_operation_and_reason(
    cell: Cell, desk: Desk, tenant: Placement, admin: Metadata, member: Metadata
) -> None:
    await desk.policies.ApproveKeyUse(Approve(name=await asked(desk, member), uses=9), metadata=admin)
    other = bearer(await cell.token(tenant, Role.TENANT_MEMBER, subject="tom", scopes=("keys.use",)))
    names = {await asked(desk, other), await asked(desk, member, "BACKUP")}

    assert len(names) == 2
    assert await desk.encrypt(member)
    assert len(await listed(desk, admin)) == 3


@pytest.mark.behaviour("S2.11")
async def test_who_asked_does_not_consent_by_any_credential(
    cell: Cell, desk: Desk, tenant: Placement, admin: Metadata, other_admin: Metadata, member: Metadata
) -> None:
    own = await asked(desk, admin)
    members = await asked(desk, member)
    namesake = bearer(await cell.token(tenant, subject="mia"))
    refusals = [
        await refused(desk.policies.ApproveKeyUse(Approve(name=own), metadata=admin)),
        await refused(desk.policies.ApproveKeyUse(Approve(name=members), metadata=namesake)),
        await refused(desk.policies.ApproveKeyUse(Approve(name=members), metadata=member)),
    ]

    assert refusals == ["SECOND_PERSON_NEEDED", "SECOND_PERSON_NEEDED", "ROLE_NOT_ALLOWED"]
    await desk.policies.ApproveKeyUse(Approve(name=own), metadata=other_admin)
    assert await desk.encrypt(admin)


@pytest.mark.behaviour("S2.11")
async def test_an_administrator_does_not_consent_by_way_of_a_member_of_its_making(
    cell: Cell, desk: Desk, tenant: Placement, admin: Metadata, other_admin: Metadata
) -> None:
    made_up = bearer(await cell.token(tenant, Role.TENANT_MEMBER, subject="zoe", scopes=("keys.use",), issuer="ann"))
    name = await asked(desk, made_up)
    own = await refused(desk.policies.ApproveKeyUse(Approve(name=name), metadata=admin))
    await desk.update(admin, locked=True)

    assert own == "SECOND_PERSON_NEEDED"
    assert (await desk.policies.ApproveKeyUse(Approve(name=name), metadata=other_admin)).state == State.APPROVED


@pytest.mark.behaviour("S2.11")
async def test_of_a_locked_policy_the_platform_does_not_make_up_both(
    desk: Desk, admin: Metadata, other_admin: Metadata, member: Metadata
) -> None:
    await desk.update(admin, locked=True)
    name = await asked(desk, member)
    platforms = await refused(desk.policies.ApproveKeyUse(Approve(name=name), metadata=other_admin))

    assert platforms == "SECOND_PERSON_NEEDED"
    assert (await desk.policies.ApproveKeyUse(Approve(name=name), metadata=admin)).state == State.APPROVED


@pytest.mark.behaviour("S2.11")
async def test_of_many_uses_at_once_as_many_pass_as_were_consented_to(
    desk: Desk, admin: Metadata, member: Metadata
) -> None:
    await desk.policies.ApproveKeyUse(Approve(name=await asked(desk, member), uses=5), metadata=admin)
    done = await asyncio.gather(*(desk.encrypt(member) for _ in range(20)), return_exceptions=True)

    assert len([each for each in done if isinstance(each, bytes)]) == 5
    assert {reason_of(each) for each in done if isinstance(each, grpc.aio.AioRpcError)} == {"KEY_USE_NEEDS_APPROVAL"}
    # Those who came too late have made one request together.
    assert [each.state for each in await listed(desk, admin)] == [State.PENDING]


async def test_a_use_that_fails_is_not_taken_off(
    desk: Desk, admin: Metadata, member: Metadata, superuser: Superuser
) -> None:
    name = await asked(desk, member)
    await desk.policies.ApproveKeyUse(Approve(name=name), metadata=admin)
    await superuser.execute("ALTER TABLE tenant_org_1.audit_entries RENAME TO elsewhere")
    with pytest.raises(grpc.aio.AioRpcError):
        await desk.encrypt(member)
    await superuser.execute("ALTER TABLE tenant_org_1.elsewhere RENAME TO audit_entries")

    assert [each.uses_left for each in await listed(desk, admin)] == [1]
    assert await desk.encrypt(member)


async def test_what_has_expired_consents_to_nothing(
    desk: Desk, admin: Metadata, member: Metadata, superuser: Superuser
) -> None:
    name = await asked(desk, member)
    await desk.policies.ApproveKeyUse(Approve(name=name, uses=9), metadata=admin)
    await superuser.execute("UPDATE tenant_org_1.key_use_approvals SET expire_time = now()")

    assert await asked(desk, member) != name
    assert [each.state for each in await listed(desk, admin)] == [State.PENDING]


async def test_what_was_denied_is_not_asked_again_and_a_consent_can_be_taken_back(
    desk: Desk, admin: Metadata, member: Metadata
) -> None:
    name = await asked(desk, member)
    approved = await desk.policies.ApproveKeyUse(Approve(name=name, uses=9), metadata=admin)
    await desk.encrypt(member)
    denied = await desk.policies.DenyKeyUse(Deny(name=name, etag=approved.etag), metadata=admin)
    stale = await refused(desk.policies.DenyKeyUse(Deny(name=name, etag=approved.etag), metadata=admin))

    assert (denied.state, denied.uses_left, stale) == (State.DENIED, 0, "ETAG_MISMATCH")
    assert await refused(desk.encrypt(member)) == "KEY_POLICY_DENIED"
    assert [each.name for each in await listed(desk, admin)] == [name]


async def test_a_consent_is_worth_nothing_where_the_policy_denies(
    desk: Desk, admin: Metadata, member: Metadata
) -> None:
    await desk.policies.ApproveKeyUse(Approve(name=await asked(desk, member), uses=9), metadata=admin)
    await desk.encrypt(member)
    await desk.update(admin, rules=[{**ALLOWS, "reason_codes": []}])

    assert await refused(desk.encrypt(member)) == "KEY_POLICY_DENIED"


async def test_so_many_requests_wait_and_no_more(
    desk: Desk, admin: Metadata, member: Metadata, superuser: Superuser
) -> None:
    await superuser.execute(
        "INSERT INTO tenant_org_1.key_use_approvals (tenant_id, id, principal, key_id, operation, state, expire_time,"
        " behind) SELECT uid, gen_random_uuid(), 'tenant-member:' || n, 'services', 'ENCRYPT', 'PENDING',"
        " now() + interval '1 hour', '{}'::text[] FROM csm_system.tenants, generate_series(1, 100) AS n"
        " WHERE tenants.id = 'org_1'"
    )
    full = await refused(desk.encrypt(member))
    await superuser.execute("UPDATE tenant_org_1.key_use_approvals SET expire_time = now()")

    assert full == "QUOTA_EXCEEDED"
    assert await asked(desk, member)


async def test_nobody_takes_the_others_room(
    desk: Desk, member: Metadata, admin: Metadata, superuser: Superuser
) -> None:
    await superuser.execute(
        "INSERT INTO tenant_org_1.key_use_approvals (tenant_id, id, principal, key_id, operation, state, expire_time,"
        " behind) SELECT uid, gen_random_uuid(), 'tenant-member:mia', 'key-' || n, 'ENCRYPT', 'PENDING',"
        " now() + interval '1 hour', '{}'::text[] FROM csm_system.tenants, generate_series(1, 20) AS n"
        " WHERE tenants.id = 'org_1'"
    )

    assert await refused(desk.encrypt(member)) == "QUOTA_EXCEEDED"
    assert await asked(desk, admin)


async def test_consent_has_its_bounds(desk: Desk, admin: Metadata, member: Metadata) -> None:
    name = await asked(desk, member)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await desk.policies.ApproveKeyUse(Approve(name=name, uses=-1, ttl=Duration(seconds=2**62)), metadata=admin)

    assert list(violations_of(error.value)) == ["uses", "ttl"]
