"""A breach that was caught is told, once for each kind and counted, and is not lost while the database is away."""

import asyncio
from typing import Any

import grpc
import pytest
from psycopg import sql

from bulkhead.v1 import tokens_pb2
from control_plane.canary import BreachError
from control_plane.errors import UnavailableError
from control_plane.postgres.watch import Watch
from tests.fixtures.canaries import RawConnection, rows_of
from tests.fixtures.cell import Cell, bearer


async def breaches(superuser: RawConnection) -> list[dict[str, Any]]:
    return await rows_of(
        superuser, sql.SQL("SELECT owner_uid, finder_uid, channel, method, count FROM csm_system.breaches")
    )


@pytest.mark.behaviour("S1.17")
@pytest.mark.parametrize("channel", ["row", "response"])
async def test_a_breach_in_a_call_is_an_event_before_the_second_is_over(
    channel: str, cell: Cell, superuser: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A foreign marker lies among the tenant's own rows, however it came there. Each watch holds without the other."""
    ours, theirs = await cell.tenant("org_1"), await cell.tenant("org_2")
    marker = cell.database.canaries.marker(theirs.uid)
    metadata = bearer(await cell.token(ours, subject="alice"))
    await superuser.execute(
        sql.SQL(
            "INSERT INTO {}.tokens (tenant_id, id, subject, role, scopes, kid, expire_time)"
            " SELECT tenant_id, uuidv7(), {}, role, scopes, kid, expire_time FROM {}.tokens"
        ).format(sql.Identifier(ours.schema), sql.Literal(marker), sql.Identifier(ours.schema))
    )
    if channel == "response":
        monkeypatch.setattr(Watch, "look_at", lambda *_, **__: None)
    writing = asyncio.create_task(cell.breaches.run())
    told = []
    async with cell.tokens() as stub:
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListTokens(tokens_pb2.ListTokensRequest(parent="tenants/org_1"), metadata=metadata)
            told.append((caught.value.code(), marker in str(caught.value)))
    async with asyncio.timeout(5):
        while sum(row["count"] for row in await breaches(superuser)) < 3:  # noqa: ASYNC110 it tells nobody when
            await asyncio.sleep(0.01)
    writing.cancel()

    assert told == [(grpc.StatusCode.INTERNAL, False)] * 3
    assert await breaches(superuser) == [
        {
            "owner_uid": theirs.uid,
            "finder_uid": ours.uid,
            "channel": channel,
            "method": "/bulkhead.v1.TokenService/ListTokens",
            "count": 3,
        }
    ]


async def test_a_breach_that_cannot_be_written_now_is_written_later(
    cell: Cell, superuser: RawConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = await cell.tenant("org_1"), await cell.tenant("org_2")
    error = BreachError(theirs.uid, ours.uid, channel="object")

    def away() -> None:
        raise UnavailableError("away")

    with monkeypatch.context() as broken:
        broken.setattr(cell.database, "system", away)
        cell.breaches.note(error, method="verification")
        assert not await cell.breaches.flush()
        cell.breaches.note(error, method="verification")
    cell.breaches.note(BreachError(theirs.uid, None, channel="object"), method="verification")
    assert await cell.breaches.flush()

    found = sorted((row["finder_uid"] is not None, row["count"]) for row in await breaches(superuser))
    assert found == [(False, 1), (True, 2)]
