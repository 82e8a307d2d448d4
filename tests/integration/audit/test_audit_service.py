"""AuditService over gRPC: who reads which log, and how."""

import random
from collections.abc import AsyncIterator

import grpc
import pytest

from bulkhead.v1 import audit_pb2, tokens_pb2
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from tests.fixtures.cell import AuditStub, Cell, Metadata, bearer, violations_of

SCOPE = ("audit.read",)


@pytest.fixture
async def placement(cell: Cell) -> Placement:
    return await cell.tenant()


@pytest.fixture
async def admin(cell: Cell, placement: Placement) -> Metadata:
    return bearer(await cell.token(placement, subject="admin"))


@pytest.fixture
async def stub(cell: Cell) -> AsyncIterator[AuditStub]:
    async with cell.audit() as connected:
        yield connected


async def listed(
    stub: AuditStub, metadata: Metadata, parent: str = "tenants/org_1", *, size: int = 0, token: str = ""
) -> audit_pb2.ListAuditEntriesResponse:
    request = audit_pb2.ListAuditEntriesRequest(parent=parent, page_size=size, page_token=token)
    return await stub.ListAuditEntries(request, metadata=metadata)


async def code_of(stub: AuditStub, metadata: Metadata, parent: str = "tenants/org_1", *, token: str = "") -> str:
    try:
        await listed(stub, metadata, parent, token=token)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return ""


async def test_entries_are_listed_newest_first_a_page_at_a_time(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    issued = [(await cell.issue(placement, admin, subject=f"user {n}")).metadata.name for n in range(5)]
    await cell.sealer.seal(placement)
    issued.append((await cell.issue(placement, admin, subject="user 5")).metadata.name)
    found: list[audit_pb2.AuditEntry] = []
    page = await listed(stub, admin, size=4)
    found += page.audit_entries
    while page.next_page_token:
        page = await listed(stub, admin, size=4, token=page.next_page_token)
        found += page.audit_entries

    assert [entry.resource for entry in found] == issued[::-1]
    assert [entry.sequence for entry in found] == [0, 5, 4, 3, 2, 1]
    assert [len(entry.hash) for entry in found] == [0, 32, 32, 32, 32, 32]
    assert {(entry.actor, entry.outcome, entry.count) for entry in found} == {
        ("tenant-admin:admin", audit_pb2.AuditEntry.EFFECT, 1)
    }
    assert dict(found[0].details)["subject"] == "user 5"
    assert all(entry.name.startswith("tenants/org_1/auditEntries/") for entry in found)


async def test_a_log_is_verified_by_those_who_may_read_it(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    await cell.issue(placement, admin)
    await cell.issue(placement, admin)
    await cell.sealer.seal(placement)
    await cell.issue(placement, admin)
    found = await stub.VerifyAuditLog(audit_pb2.VerifyAuditLogRequest(parent="tenants/org_1"), metadata=admin)
    newest = (await listed(stub, admin)).audit_entries[1]

    assert (found.sealed_entries, found.unsealed_entries, found.first_broken_sequence) == (2, 1, 0)
    assert found.head == newest.hash


@pytest.mark.behaviour("T-L5")
async def test_an_auditor_reads_its_own_tenants_log_and_no_other(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    other = await cell.tenant("org_2")
    await cell.issue(other, bearer(await cell.token(other)), subject="secret of org_2")
    await cell.issue(placement, admin)
    auditor = bearer(await cell.token(placement, Role.AUDITOR, subject="audrey", scopes=SCOPE))
    own = await listed(stub, auditor)

    assert len(own.audit_entries) == 1
    assert "org_2" not in str(own)
    assert await code_of(stub, auditor, "tenants/org_2") == "PERMISSION_DENIED"
    assert await code_of(stub, auditor, "tenants/org_9") == "PERMISSION_DENIED"


@pytest.mark.behaviour("T-L5")
async def test_what_the_platform_does_to_a_tenant_is_in_the_tenants_log(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    await cell.issue(placement, bearer(cell.admin_token()), subject="planted")
    (entry,) = (await listed(stub, admin)).audit_entries

    assert (entry.actor, dict(entry.details)["subject"]) == ("platform-admin:root", "planted")


async def test_who_lacks_role_or_scope_reads_nothing(cell: Cell, stub: AuditStub, placement: Placement) -> None:
    member = bearer(await cell.token(placement, Role.TENANT_MEMBER, scopes=SCOPE))
    without_scope = bearer(await cell.token(placement, Role.AUDITOR))

    assert await code_of(stub, member) == "PERMISSION_DENIED"
    assert await code_of(stub, without_scope) == "PERMISSION_DENIED"
    assert await code_of(stub, ()) == "UNAUTHENTICATED"


@pytest.mark.behaviour("T-A4")
async def test_a_page_token_is_good_for_its_own_list_only(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    other = await cell.tenant("org_2")
    theirs = bearer(await cell.token(other))
    for tenant, metadata in ((placement, admin), (other, theirs)):
        await cell.issue(tenant, metadata)
        await cell.issue(tenant, metadata)
    token = (await listed(stub, admin, size=1)).next_page_token
    async with cell.tokens() as tokens:
        request = tokens_pb2.ListTokensRequest(parent="tenants/org_1", page_size=1)
        token_of_tokens = (await tokens.ListTokens(request, metadata=admin)).next_page_token

    assert token != ""
    assert await code_of(stub, admin, token=token) == ""
    assert await code_of(stub, theirs, "tenants/org_2", token=token) == "INVALID_ARGUMENT"
    assert await code_of(stub, admin, token=token_of_tokens) == "INVALID_ARGUMENT"
    assert placement.uid.hex not in token


@pytest.mark.behaviour("T-A4")
async def test_a_page_token_with_any_bit_changed_is_refused(
    cell: Cell, stub: AuditStub, placement: Placement, admin: Metadata
) -> None:
    await cell.issue(placement, admin)
    await cell.issue(placement, admin)
    token = (await listed(stub, admin, size=1)).next_page_token
    rng = random.Random(6)
    codes = set()
    for _ in range(1000):
        changed = bytearray(token.encode())
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(7)
        codes.add(await code_of(stub, admin, token=changed.decode()))

    assert codes == {"INVALID_ARGUMENT"}


@pytest.mark.parametrize("parent", ["tenants/org_1/", "tenants/org_1/tokens/1", "tenants/org_1/auditEntries"])
async def test_a_parent_is_a_tenant_and_nothing_below_it(stub: AuditStub, admin: Metadata, parent: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await listed(stub, admin, parent)

    assert violations_of(refused.value).keys() == {"parent"}


async def test_a_negative_page_size_is_refused(stub: AuditStub, admin: Metadata) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await listed(stub, admin, size=-1)

    assert violations_of(refused.value).keys() == {"page_size"}
