"""Denied calls are written beside the transactions that they never had: exactly counted, each where it belongs."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from uuid import UUID

import grpc
import psycopg
import pytest
import structlog
from psycopg.rows import DictRow

from bulkhead.v1 import tokens_pb2
from control_plane.audit.denials import Denials
from control_plane.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from control_plane.ids import TenantId
from control_plane.postgres.database import Database, PostgresSettings
from control_plane.postgres.directory import Directory
from control_plane.serving.principal import Principal, Role
from control_plane.tally import Tally
from tests.fixtures.cell import Cell, bearer

Superuser = psycopg.AsyncConnection[DictRow]
REFUSED = PermissionDeniedError("not this role", reason="ROLE_NOT_ALLOWED")


async def denied(superuser: Superuser, tenant: str = "org_1") -> list[DictRow]:
    found = await superuser.execute(f"SELECT * FROM tenant_{tenant}.audit_entries WHERE outcome = 'DENIED' ORDER BY id")
    return await found.fetchall()


async def denied_to_strangers(superuser: Superuser) -> list[DictRow]:
    return await (await superuser.execute("SELECT * FROM csm_system.denied_calls ORDER BY id")).fetchall()


@pytest.mark.behaviour("T-L4")
async def test_ten_thousand_denials_alike_are_a_few_entries_that_add_up(cell: Cell, superuser: Superuser) -> None:
    call = cell.call(await cell.tenant(), role=Role.TENANT_MEMBER)
    for number in range(10_000):
        cell.denials.note(call, REFUSED)
        if number % 1000 == 0:
            await cell.denials.flush()
    await cell.denials.close()
    found = await denied(superuser)

    assert sum(row["count"] for row in found) == 10_000
    assert len(found) <= 5
    assert {(row["actor"], row["method"], row["resource"], row["reason"], row["request_id"]) for row in found} == {
        ("tenant-member:alice", call.method, "tenants/org_1", "ROLE_NOT_ALLOWED", call.request_id)
    }
    assert {row["details"]["peer"] for row in found} == {"ipv4:192.0.2.1"}
    assert await denied_to_strangers(superuser) == []


@pytest.mark.behaviour("T-L4")
async def test_a_call_that_was_denied_is_in_the_log_of_its_callers_tenant_and_not_of_the_one_it_asked_for(
    cell: Cell, superuser: Superuser
) -> None:
    ours = await cell.tenant("org_1")
    await cell.tenant("org_2")
    metadata = bearer(await cell.token(ours))
    codes = set()
    async with cell.tokens() as stub:
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.ListTokens(tokens_pb2.ListTokensRequest(parent="tenants/org_2"), metadata=metadata)
            codes.add(refused.value.code())
    await cell.denials.flush()

    assert codes == {grpc.StatusCode.PERMISSION_DENIED}
    assert [(row["resource"], row["reason"], row["count"]) for row in await denied(superuser, "org_1")] == [
        ("tenants/org_2", "TENANT_MISMATCH", 3)
    ]
    assert await denied(superuser, "org_2") == []


@pytest.mark.behaviour("T-L4")
async def test_calls_without_a_valid_credential_are_in_the_platforms_log_with_their_true_cause(
    cell: Cell, superuser: Superuser
) -> None:
    token = await cell.token(await cell.tenant())
    unsigned = token.rpartition(".")[0] + "." + "A" * 86
    async with cell.tokens() as stub:
        for metadata in ((), bearer(unsigned), bearer("x"), (("authorisation", f"Bearer {token}"),)):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.ListTokens(tokens_pb2.ListTokensRequest(parent="tenants/org_1"), metadata=metadata)
    await cell.denials.flush()
    found = await denied_to_strangers(superuser)

    assert sorted((row["actor"], row["reason"], row["count"]) for row in found) == [
        ("anyone", "MISSING_AUTHORIZATION", 2),
        ("anyone", "TOKEN_MALFORMED", 1),
        ("anyone", "TOKEN_SIGNATURE", 1),
    ]
    assert await denied(superuser) == []


async def test_a_platforms_caller_that_was_denied_is_in_the_platforms_log(cell: Cell, superuser: Superuser) -> None:
    call = cell.call(await cell.tenant())
    call.principal = Principal(subject="olga", role=Role.PROVIDER_OPERATOR)
    cell.denials.note(call, REFUSED)
    await cell.denials.flush()

    assert [(row["actor"], row["reason"]) for row in await denied_to_strangers(superuser)] == [
        ("provider-operator:olga", "ROLE_NOT_ALLOWED")
    ]


async def test_denials_of_a_tenant_that_is_gone_are_in_the_platforms_log(cell: Cell, superuser: Superuser) -> None:
    call = cell.call(await cell.tenant())
    call.principal = Principal(subject="alice", role=Role.TENANT_ADMIN, tenant=TenantId("org_9"))
    cell.denials.note(call, REFUSED)
    await cell.denials.flush()

    assert [row["actor"] for row in await denied_to_strangers(superuser)] == ["tenant-admin:alice"]


@pytest.mark.behaviour("T-L3")
async def test_what_cannot_be_written_is_kept_and_written_once(
    cell: Cell, superuser: Superuser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two faults: failed before, and done but reported failed."""
    call = cell.call(await cell.tenant())
    write = cell.denials._write_log

    async def fails_before(_tenant: TenantId | None, _log: Mapping[UUID, Tally]) -> None:
        raise UnavailableError("away")

    async def fails_after(tenant: TenantId | None, log: Mapping[UUID, Tally]) -> None:
        await write(tenant, log)
        raise UnavailableError("away")

    cell.denials.note(call, REFUSED)
    cell.denials.note(call, UnauthenticatedError("x", cause="X", tenants="org_9"))
    with structlog.testing.capture_logs() as logged:
        for fault in (fails_before, fails_after, fails_before, fails_after):
            monkeypatch.setattr(cell.denials, "_write_log", fault)
            cell.denials.note(call, REFUSED)
            await cell.denials.flush()
        monkeypatch.setattr(cell.denials, "_write_log", write)
        await cell.denials.close()

    assert {event["event"] for event in logged} == {"denials_kept"}
    assert sum(row["count"] for row in await denied(superuser)) == 5
    assert sum(row["count"] for row in await denied_to_strangers(superuser)) == 1


async def test_one_tenants_broken_log_does_not_hold_up_the_others(cell: Cell, superuser: Superuser) -> None:
    broken, whole = await cell.tenant("org_1"), await cell.tenant("org_2")
    await superuser.execute("DROP TABLE tenant_org_1.audit_entries")
    for placement in (broken, whole):
        cell.denials.note(cell.call(placement), REFUSED)
    await cell.denials.flush()
    await cell.denials.flush()

    assert len(await denied(superuser, "org_2")) == 1
    assert cell.denials._unwritten == {}


async def test_the_certificate_service_may_write_them_too(
    cell: Cell, superuser: Superuser, postgres_settings: PostgresSettings
) -> None:
    placement = await cell.tenant()
    async with Database.open(replace(postgres_settings, system_role="csm_directory")) as database:
        denials = Denials(database, Directory(database), touched=cell.touched.append)
        denials.note(cell.call(placement), REFUSED)
        stranger = cell.call(placement)
        stranger.principal = None
        denials.note(stranger, REFUSED)
        await denials.close()

    assert len(await denied(superuser)) == len(await denied_to_strangers(superuser)) == 1
    assert cell.touched == [placement]


@pytest.mark.behaviour("T-L4")
async def test_a_denial_is_written_within_a_second_or_so_while_it_runs(cell: Cell, superuser: Superuser) -> None:
    call = cell.call(await cell.tenant())
    running = asyncio.create_task(cell.denials.run())
    cell.denials.note(call, REFUSED)
    async with asyncio.timeout(5):
        found = await denied(superuser)
        while not found:
            await asyncio.sleep(0.05)
            found = await denied(superuser)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert len(found) == 1


@pytest.mark.behaviour("T-L5")
async def test_a_hostile_name_of_a_caller_is_neutral_in_the_log(cell: Cell, superuser: Superuser) -> None:
    call = cell.call(await cell.tenant())
    call.principal = Principal(subject='eve\r\n\x1b[2J"}\u202e', role=Role.TENANT_ADMIN, tenant=TenantId("org_1"))
    cell.denials.note(call, REFUSED)
    await cell.denials.flush()

    assert [row["actor"] for row in await denied(superuser)] == [r'tenant-admin:eve\u000d\u000a\u001b[2J"}\u202e']
