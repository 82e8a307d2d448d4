"""A new tenant's administrator enrols with a token that works once, for a day, and is stored nowhere."""

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import grpc
import psycopg
import pytest
from psycopg.rows import DictRow

from bulkhead.v1 import rules_pb2, tokens_pb2
from control_plane.postgres.database import Isolation
from control_plane.postgres.placement import Placement
from control_plane.tokens import service
from tests.fixtures.cell import Cell, TokenStub, bearer, reason_of, status_of

NAME = "tenants/org_1/enrolment"


@pytest.fixture
async def placement(cell: Cell) -> Placement:
    placement = await cell.tenant()
    await invite(cell, placement)
    return placement


@pytest.fixture
async def stub(cell: Cell) -> AsyncIterator[TokenStub]:
    async with cell.tokens() as connected:
        yield connected


async def invite(cell: Cell, placement: Placement, *, now: datetime | None = None) -> None:
    handle = cell.database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    now = now or datetime.now(UTC)
    await handle.run(lambda tx: service.invite_administrator(tx, "admin@example.com", now=now))


async def shown(cell: Cell, stub: TokenStub, name: str = NAME) -> tokens_pb2.EnrolmentToken:
    request = tokens_pb2.GetEnrolmentTokenRequest(name=name)
    return await stub.GetEnrolmentToken(request, metadata=bearer(cell.admin_token()))


async def refused(stub: TokenStub, token: str, name: str = NAME) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.RedeemEnrolmentToken(tokens_pb2.RedeemEnrolmentTokenRequest(name=name, enrolment_token=token))
    return caught.value


async def log(superuser: psycopg.AsyncConnection[DictRow]) -> list[tuple[str, str, str]]:
    found = await superuser.execute("SELECT * FROM tenant_org_1.audit_entries ORDER BY id")
    return [(row["actor"], row["method"].rpartition("/")[2], row["reason"]) for row in await found.fetchall()]


@pytest.mark.behaviour("S4.5")
async def test_the_token_is_traded_once_for_an_administrators_access_token(
    cell: Cell, stub: TokenStub, placement: Placement, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    token = (await shown(cell, stub)).enrolment_token
    request = tokens_pb2.RedeemEnrolmentTokenRequest(name=NAME, enrolment_token=token)
    redeemed = await stub.RedeemEnrolmentToken(request)
    again = await refused(stub, token)
    await cell.denials.flush()
    users = await (await superuser.execute("SELECT subject, role, state FROM tenant_org_1.users")).fetchall()

    assert str(await cell.verifier.verify(redeemed.token)) == "tenant-admin:admin"
    assert redeemed.metadata.role == rules_pb2.ROLE_TENANT_ADMIN
    assert users == [{"subject": "admin", "role": "tenant-admin", "state": "ACTIVE"}]
    assert (again.code(), reason_of(again)) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert await log(superuser) == [
        ("platform-admin:root", "GetEnrolmentToken", ""),
        ("tenant-admin:admin", "RedeemEnrolmentToken", ""),
        ("anyone", "RedeemEnrolmentToken", "ENROLMENT_USED_AGAIN"),
    ]


@pytest.mark.behaviour("S4.5")
async def test_of_many_at_once_one_redeems(cell: Cell, stub: TokenStub, placement: Placement) -> None:
    request = tokens_pb2.RedeemEnrolmentTokenRequest(
        name=NAME, enrolment_token=(await shown(cell, stub)).enrolment_token
    )
    answers = await asyncio.gather(*(stub.RedeemEnrolmentToken(request) for _ in range(8)), return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]

    assert len(errors) == 7
    assert {error.code() for error in errors} == {grpc.StatusCode.PERMISSION_DENIED}


@pytest.mark.behaviour("S4.5")
async def test_the_token_expires_after_a_day(
    cell: Cell, stub: TokenStub, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    await invite(cell, await cell.tenant(), now=datetime.now(UTC) - timedelta(hours=23, minutes=59))
    enrolment = await shown(cell, stub)
    await superuser.execute("UPDATE tenant_org_1.enrolments SET expire_time = now()")
    expired = await refused(stub, enrolment.enrolment_token)
    with pytest.raises(grpc.aio.AioRpcError) as closed:
        await shown(cell, stub)
    await cell.denials.flush()

    assert expired.code() is grpc.StatusCode.PERMISSION_DENIED
    assert (closed.value.code(), reason_of(closed.value)) == (grpc.StatusCode.FAILED_PRECONDITION, "ENROLMENT_CLOSED")
    assert (await log(superuser))[-1] == ("anyone", "RedeemEnrolmentToken", "ENROLMENT_EXPIRED")


async def test_an_invitation_that_is_made_twice_is_one(
    cell: Cell, stub: TokenStub, placement: Placement, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    """A step of provisioning is run again when its process died."""
    before = await shown(cell, stub)
    await invite(cell, placement)
    counts = await (
        await superuser.execute(
            "SELECT (SELECT count(*) FROM tenant_org_1.users), (SELECT count(*) AS n FROM tenant_org_1.enrolments)"
        )
    ).fetchone()

    assert await shown(cell, stub) == before
    assert counts == {"count": 1, "n": 1}


@pytest.mark.behaviour("S4.5")
async def test_a_wrong_token_and_a_tenant_that_is_not_there_are_refused_alike(
    cell: Cell, stub: TokenStub, placement: Placement
) -> None:
    other = await cell.tenant("org_2")
    await invite(cell, other)
    theirs = (await shown(cell, stub, "tenants/org_2/enrolment")).enrolment_token
    right = (await shown(cell, stub)).enrolment_token
    refusals = [
        await refused(stub, token, name)
        for token, name in (
            ("", NAME),
            ("bulkhead_enrol_", NAME),
            (theirs, NAME),
            (right[:-1], NAME),
            (right + "\n", NAME),
            (right.swapcase(), NAME),
            ("x" * 10_000, NAME),
            (right, "tenants/org_3/enrolment"),
        )
    ]
    words = {status_of(error).details[0].SerializeToString() for error in refusals}

    assert {(error.code(), error.details()) for error in refusals} == {
        (grpc.StatusCode.PERMISSION_DENIED, "the caller may not do this")
    }
    assert len(words) == 1
    assert (await shown(cell, stub)).enrolment_token == right


@pytest.mark.behaviour("S4.5")
async def test_the_token_is_in_no_table_and_no_log(
    cell: Cell,
    stub: TokenStub,
    placement: Placement,
    superuser: psycopg.AsyncConnection[DictRow],
    capfd: pytest.CaptureFixture[str],
) -> None:
    token = (await shown(cell, stub)).enrolment_token
    await refused(stub, token + "x")
    await stub.RedeemEnrolmentToken(tokens_pb2.RedeemEnrolmentTokenRequest(name=NAME, enrolment_token=token))
    await refused(stub, token)
    await cell.denials.close()
    tables = await (
        await superuser.execute(
            "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n"
            " ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname !~ '^information'"
        )
    ).fetchall()
    found = [
        await (await superuser.execute(f"SELECT t::text FROM {table['name']} AS t")).fetchall() for table in tables
    ]
    dump = str(found)
    secret = token.removeprefix("bulkhead_enrol_")
    printed = "".join(capfd.readouterr())

    assert "ENROLMENT_UNKNOWN" in dump
    assert secret not in dump + printed
    assert base64.urlsafe_b64decode(secret + "=").hex() not in dump


async def test_only_the_platforms_administrator_sees_the_token(
    cell: Cell, stub: TokenStub, placement: Placement
) -> None:
    metadata = bearer(await cell.token(placement))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetEnrolmentToken(tokens_pb2.GetEnrolmentTokenRequest(name=NAME), metadata=metadata)

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
