"""TokenService, over gRPC and on a real database."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from psycopg.rows import DictRow

from bulkhead.v1 import rules_pb2, tokens_pb2
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from tests.fixtures.cell import Cell, Metadata, TokenStub, bearer, reason_of, violations_of


@pytest.fixture
async def placement(cell: Cell) -> Placement:
    return await cell.tenant()


@pytest.fixture
async def admin(cell: Cell, placement: Placement) -> Metadata:
    return bearer(await cell.token(placement, subject="admin"))


@pytest.fixture
async def stub(cell: Cell) -> AsyncIterator[TokenStub]:
    async with cell.tokens() as connected:
        yield connected


async def rows(superuser: psycopg.AsyncConnection[DictRow], table: str) -> list[DictRow]:
    found = await superuser.execute(f"SELECT * FROM tenant_org_1.{table} ORDER BY id")
    return await found.fetchall()


@pytest.mark.behaviour("S2.9")
async def test_an_issued_token_is_accepted_and_can_be_revoked(cell: Cell, stub: TokenStub, admin: Metadata) -> None:
    request = tokens_pb2.IssueTokenRequest(
        parent="tenants/org_1",
        subject="alice",
        role=rules_pb2.ROLE_AUDITOR,
        scopes=["audit.read"],
        ttl=Duration(seconds=600),
    )
    issued = await stub.IssueToken(request, metadata=admin)
    principal = await cell.verifier.verify(issued.token)
    known = await stub.GetToken(tokens_pb2.GetTokenRequest(name=issued.metadata.name), metadata=admin)
    revoked = await stub.RevokeToken(tokens_pb2.RevokeTokenRequest(name=known.name), metadata=admin)
    again = await stub.RevokeToken(tokens_pb2.RevokeTokenRequest(name=known.name), metadata=admin)
    lifetime = known.expire_time.ToDatetime() - known.create_time.ToDatetime()

    assert (str(principal), principal.scopes) == ("auditor:alice", frozenset({"audit.read"}))
    assert known == issued.metadata
    assert (known.name, known.role, lifetime) == (
        f"tenants/org_1/tokens/{principal.token_id}",
        rules_pb2.ROLE_AUDITOR,
        timedelta(minutes=10),
    )
    assert revoked.HasField("revoke_time")
    assert again == revoked
    assert revoked.edge_revision > known.edge_revision == 0


@pytest.mark.behaviour("S2.10")
async def test_a_token_is_a_members_for_an_hour_where_nothing_is_said(
    cell: Cell, placement: Placement, admin: Metadata
) -> None:
    issued = (await cell.issue(placement, admin)).metadata

    assert issued.role == rules_pb2.ROLE_TENANT_MEMBER
    assert issued.expire_time.seconds - issued.create_time.seconds == 3600


async def test_a_token_is_stored_nowhere(
    cell: Cell, placement: Placement, admin: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    token = (await cell.issue(placement, admin)).token
    dump = str([await rows(superuser, table) for table in ("tokens", "audit_entries", "users", "enrolments")])

    assert not any(segment in dump for segment in token.split("."))


async def test_all_that_is_wrong_with_a_request_is_said_at_once_and_nothing_is_made(
    stub: TokenStub, admin: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    before = len(await rows(superuser, "tokens"))
    request = tokens_pb2.IssueTokenRequest(
        parent="tenants/org_1",
        subject="a\nb",
        role=rules_pb2.ROLE_PLATFORM_ADMIN,
        scopes=["certificates.read", "everything", "certificates.read"],
        ttl=Duration(seconds=24 * 3600 + 1),
        request_id="none",
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.IssueToken(request, metadata=admin)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations_of(refused.value).keys() == {"subject", "role", "scopes[1]", "scopes[2]", "ttl", "request_id"}
    assert len(await rows(superuser, "tokens")) == before
    assert await rows(superuser, "audit_entries") == []


async def test_a_request_that_is_only_validated_makes_nothing(
    stub: TokenStub, admin: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    before = len(await rows(superuser, "tokens"))
    request = tokens_pb2.IssueTokenRequest(parent="tenants/org_1", subject="bob", validate_only=True)
    answer = await stub.IssueToken(request, metadata=admin)
    request.subject = ""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.IssueToken(request, metadata=admin)

    assert (answer.token, answer.metadata.subject) == ("", "bob")
    assert violations_of(refused.value).keys() == {"subject"}
    assert len(await rows(superuser, "tokens")) == before
    assert await rows(superuser, "audit_entries") == []


@pytest.mark.behaviour("T-A6")
async def test_a_repeated_request_returns_the_same_token_with_one_entry_in_the_log(
    stub: TokenStub, admin: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    request = tokens_pb2.IssueTokenRequest(parent="tenants/org_1", subject="bob", request_id=str(uuid4()))
    first = await stub.IssueToken(request, metadata=admin)
    again = await stub.IssueToken(request, metadata=admin)
    request.request_id = request.request_id.upper()
    spelt_otherwise = await stub.IssueToken(request, metadata=admin)

    assert first == again == spelt_otherwise
    assert len(await rows(superuser, "audit_entries")) == 1


@pytest.mark.behaviour("T-A6")
async def test_the_same_request_many_times_at_once_issues_one_token(
    stub: TokenStub, admin: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    request = tokens_pb2.IssueTokenRequest(parent="tenants/org_1", subject="bob", request_id=str(uuid4()))
    answers = await asyncio.gather(*(stub.IssueToken(request, metadata=admin) for _ in range(8)))

    assert len({answer.token for answer in answers}) == 1
    assert len(await rows(superuser, "audit_entries")) == 1


@pytest.mark.behaviour("T-A6")
async def test_a_request_id_with_another_body_or_of_another_caller_already_exists(
    cell: Cell, stub: TokenStub, admin: Metadata
) -> None:
    request = tokens_pb2.IssueTokenRequest(parent="tenants/org_1", subject="bob", request_id=str(uuid4()))
    await stub.IssueToken(request, metadata=admin)
    refused = []
    for subject, validate_only, metadata in (
        ("carol", False, admin),
        ("carol", True, admin),
        ("bob", False, bearer(cell.admin_token())),
    ):
        other = tokens_pb2.IssueTokenRequest(
            parent="tenants/org_1", subject=subject, request_id=request.request_id, validate_only=validate_only
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.IssueToken(other, metadata=metadata)
        refused.append((caught.value.code(), reason_of(caught.value)))

    assert set(refused) == {(grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")}


@pytest.mark.behaviour("T-A6")
async def test_two_tenants_may_use_the_same_request_id(cell: Cell, stub: TokenStub, admin: Metadata) -> None:
    other = await cell.tenant("org_2")
    theirs = bearer(await cell.token(other))
    request_id = str(uuid4())
    issued = [
        await stub.IssueToken(
            tokens_pb2.IssueTokenRequest(parent=f"tenants/{tenant}", subject=subject, request_id=request_id),
            metadata=metadata,
        )
        for tenant, subject, metadata in (("org_1", "bob", admin), ("org_2", "eve", theirs))
    ]

    assert [(await cell.verifier.verify(answer.token)).tenant for answer in issued] == ["org_1", "org_2"]


async def test_tokens_are_listed_newest_first_a_page_at_a_time(
    cell: Cell, stub: TokenStub, placement: Placement, admin: Metadata
) -> None:
    issued = [(await cell.issue(placement, admin, subject=f"user {number}")).metadata for number in range(5)]
    listed: list[tokens_pb2.Token] = []
    page_token = ""
    while True:
        page = await stub.ListTokens(
            tokens_pb2.ListTokensRequest(parent="tenants/org_1", page_size=2, page_token=page_token), metadata=admin
        )
        listed += page.tokens
        page_token = page.next_page_token
        if not page_token:
            break

    assert listed[:5] == issued[::-1]
    assert [token.subject for token in listed[5:]] == ["admin"]


async def test_a_token_that_the_tenant_does_not_have_is_not_found(stub: TokenStub, admin: Metadata) -> None:
    codes = set()
    for token_id in ("x", str(uuid4()), str(uuid4()).upper(), "00000000-0000-0000-0000-000000000000"):
        name = f"tenants/org_1/tokens/{token_id}"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetToken(tokens_pb2.GetTokenRequest(name=name), metadata=admin)
        codes.add(refused.value.code())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.RevokeToken(tokens_pb2.RevokeTokenRequest(name=name), metadata=admin)
        codes.add(refused.value.code())

    assert codes == {grpc.StatusCode.NOT_FOUND}


async def test_another_tenants_token_cannot_be_seen_or_revoked_under_ones_own_name(
    cell: Cell, stub: TokenStub, admin: Metadata
) -> None:
    other = await cell.tenant("org_2")
    theirs = (await cell.issue(other, bearer(await cell.token(other)))).metadata.name
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.RevokeToken(tokens_pb2.RevokeTokenRequest(name=theirs.replace("org_2", "org_1")), metadata=admin)

    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("role", [Role.TENANT_MEMBER, Role.AUDITOR])
async def test_who_is_no_administrator_issues_no_tokens(cell: Cell, placement: Placement, role: Role) -> None:
    metadata = bearer(await cell.token(placement, role, scopes=("certificates.write",)))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await cell.issue(placement, metadata)

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.behaviour("S9.3")
async def test_the_platform_gives_nobody_the_scope_that_reads_secrets(
    cell: Cell, stub: TokenStub, admin: Metadata
) -> None:
    request = tokens_pb2.IssueTokenRequest(
        parent="tenants/org_1", subject="bob", scopes=["secrets.read", "secrets.access"]
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.IssueToken(request, metadata=bearer(cell.admin_token()))
    issued = await stub.IssueToken(request, metadata=admin)

    assert violations_of(refused.value) == {"scopes[1]": "is for the tenant's own administrators to grant"}
    assert [*issued.metadata.scopes] == ["secrets.read", "secrets.access"]
