"""Whom a token stands for, in every process, now and after it was revoked."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import DictRow

from control_plane.errors import UnauthenticatedError
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.postgres.database import Database, Isolation, PostgresSettings
from control_plane.postgres.directory import Directory
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Principal, Role
from control_plane.tokens import service
from control_plane.tokens import verifier as verifier_module
from control_plane.tokens.claims import PLATFORM_AUDIENCE, TENANT_AUDIENCE, Claims
from control_plane.tokens.platform import platform_kid
from control_plane.tokens.signature import sign
from control_plane.tokens.verifier import TokenVerifier
from tests.fixtures.cell import Cell


async def cause_of_refusal(verifier: TokenVerifier, token: str) -> str:
    """Return why a token is refused, as the audit log has it; nothing where it is accepted."""
    try:
        await verifier.verify(token)
    except UnauthenticatedError as error:
        return error.metadata["cause"]
    return ""


def claims_of(subject: str, *, tenant_id: str, token_id: UUID) -> Claims:
    now = datetime.now(UTC).replace(microsecond=0)
    return Claims(
        audience=TENANT_AUDIENCE,
        subject=subject,
        role="tenant-admin",
        scopes=(),
        token_id=token_id,
        issue_time=now,
        not_before=now,
        expire_time=now + timedelta(hours=1),
        tenant_id=tenant_id,
    )


async def revoke(cell: Cell, placement: Placement, token_id: str | None) -> None:
    handle = cell.database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    await service.revoke_token(handle, UUID(str(token_id)), now=datetime.now(UTC))


@pytest.fixture
async def elsewhere(
    cell: Cell, postgres_settings: PostgresSettings, vault: SoftwareVault
) -> AsyncIterator[TokenVerifier]:
    """The verifier of another process: with connections, a directory and keys of its own, and fewer rights."""
    settings = replace(postgres_settings, system_role="csm_directory")
    async with Database.open(settings) as database:
        yield TokenVerifier(
            TenantKeys(vault, database),
            Directory(database),
            database=database,
            platform_key=cell.platform.public_key,
        )


@pytest.mark.behaviour("S2.9")
async def test_a_token_stands_for_whom_it_was_issued_to(cell: Cell, elsewhere: TokenVerifier) -> None:
    placement = await cell.tenant()
    token = await cell.token(placement, Role.TENANT_MEMBER, subject="山田", scopes=("certificates.read",))
    found = await cell.verifier.verify(token)

    assert found == Principal(
        subject="山田",
        role=Role.TENANT_MEMBER,
        tenant=placement.tenant_id,
        scopes=frozenset({"certificates.read"}),
        token_id=found.token_id,
    )
    assert await elsewhere.verify(token) == found


async def test_a_platform_token_stands_for_somebody_without_a_tenant(cell: Cell) -> None:
    found = await cell.verifier.verify(cell.admin_token())

    assert (str(found), found.tenant) == ("platform-admin:root", None)


@pytest.mark.behaviour("S2.9")
@pytest.mark.behaviour("T-E10")
async def test_a_token_signed_by_another_tenants_key_is_refused_also_with_a_forged_tenant(cell: Cell) -> None:
    ours, theirs = await cell.tenant("org_1"), await cell.tenant("org_2")
    signer = await cell.keys.token_signer(ours)
    claims = claims_of("mallory", tenant_id="org_2", token_id=uuid4())
    their_kid = (await cell.keys.token_signer(theirs)).kid
    forged_claim = sign(claims, signer.kid, private_key=signer.private_key)
    forged_kid = sign(claims, their_kid, private_key=signer.private_key)
    forged_platform = sign(
        replace(claims, audience=PLATFORM_AUDIENCE, role="platform-admin", tenant_id=None),
        platform_kid(cell.platform.public_key),
        private_key=signer.private_key,
    )

    assert await cause_of_refusal(cell.verifier, forged_claim) == "TOKEN_OF_ANOTHER_TENANT"
    assert await cause_of_refusal(cell.verifier, forged_kid) == "TOKEN_SIGNATURE"
    assert await cause_of_refusal(cell.verifier, forged_platform) == "TOKEN_SIGNATURE"


@pytest.mark.behaviour("T-E10")
async def test_a_mix_up_of_tenants_is_told_to_both_and_names_neither_to_the_other(cell: Cell) -> None:
    ours, theirs = await cell.tenant("org_1"), await cell.tenant("org_2")
    signer = await cell.keys.token_signer(ours)
    forged = sign(
        claims_of("mallory", tenant_id="org_2", token_id=uuid4()),
        signer.kid,
        private_key=signer.private_key,
    )
    call = cell.call(theirs)
    call.principal = None
    with pytest.raises(UnauthenticatedError) as refused:
        await cell.verifier.verify(forged)
    cell.denials.note(call, refused.value)
    await cell.denials.flush()
    logs: dict[str, list[dict[str, Any]]] = {}
    for placement in (ours, theirs):
        handle = cell.database.tenant(placement, isolation=Isolation.READ_COMMITTED)
        logs[placement.tenant_id] = await handle.run(lambda tx: tx.fetch_all("SELECT * FROM audit_entries"))

    assert {name: [(row["reason"], row["outcome"]) for row in rows] for name, rows in logs.items()} == {
        "org_1": [("TOKEN_OF_ANOTHER_TENANT", "DENIED")],
        "org_2": [("TOKEN_OF_ANOTHER_TENANT", "DENIED")],
    }
    assert "org_2" not in str(logs["org_1"])
    assert "org_1" not in str(logs["org_2"])


async def test_a_key_in_the_wrong_hands_makes_no_token_that_the_tenant_does_not_remember(cell: Cell) -> None:
    placement = await cell.tenant()
    signer = await cell.keys.token_signer(placement)
    token = await cell.token(placement, Role.TENANT_MEMBER)
    remembered = await cell.verifier.verify(token)
    claims = claims_of("alice", tenant_id="org_1", token_id=UUID(str(remembered.token_id)))

    for forged in (claims, replace(claims, token_id=uuid4())):
        token = sign(forged, signer.kid, private_key=signer.private_key)

        assert await cause_of_refusal(cell.verifier, token) == "TOKEN_NOT_ISSUED"


@pytest.mark.behaviour("S2.9")
async def test_a_revoked_token_is_refused_by_every_process_within_a_second(
    cell: Cell, elsewhere: TokenVerifier
) -> None:
    placement = await cell.tenant()
    token = await cell.token(placement)
    principal = await cell.verifier.verify(token)
    accepted_last = dict.fromkeys((cell.verifier, elsewhere), 0.0)
    revoked = asyncio.Event()

    async def keep_asking(verifier: TokenVerifier) -> None:
        while not (revoked.is_set() and time.monotonic() > accepted_last[verifier] + 0.3):
            asked = time.monotonic()
            if not await cause_of_refusal(verifier, token):
                accepted_last[verifier] = asked
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as group:
        for verifier in accepted_last:
            group.create_task(keep_asking(verifier))
        await asyncio.sleep(0.2)
        await revoke(cell, placement, principal.token_id)
        answered = time.monotonic()
        await asyncio.sleep(1)
        revoked.set()

    assert all(last < answered + 1 for last in accepted_last.values())
    assert await cause_of_refusal(elsewhere, token) == "TOKEN_REVOKED"


@pytest.mark.behaviour("T-E9")
async def test_a_revoked_token_is_refused_once_the_answer_before_is_forgotten(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(verifier_module, "time", SimpleNamespace(monotonic=lambda: now_s))
    placement = await cell.tenant()
    token = await cell.token(placement)
    principal = await cell.verifier.verify(token)
    await revoke(cell, placement, principal.token_id)

    assert await cause_of_refusal(cell.verifier, token) == ""
    now_s += 0.75
    assert await cause_of_refusal(cell.verifier, token) == "TOKEN_REVOKED"


async def test_a_token_is_asked_for_once_while_its_answer_is_remembered(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await cell.token(await cell.tenant())
    asked = []
    check = cell.verifier._check_issued

    async def counted(placement: Placement, claims: Claims) -> None:
        asked.append(claims)
        await check(placement, claims)

    monkeypatch.setattr(cell.verifier, "_check_issued", counted)
    for _ in range(10):
        await cell.verifier.verify(token)

    assert len(asked) == 1


@pytest.mark.behaviour("T-E9")
async def test_a_token_is_refused_from_its_expire_time_on_also_where_it_is_remembered(cell: Cell) -> None:
    placement = await cell.tenant()
    token = await cell.token(placement)
    issued = datetime.now(UTC)
    await cell.verifier.verify(token)
    cell.verifier._now = lambda: issued + timedelta(hours=1)

    assert await cause_of_refusal(cell.verifier, token) == "TOKEN_EXPIRED"


async def test_a_suspended_tenants_token_stands_for_somebody_too(
    cell: Cell, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    token = await cell.token(await cell.tenant())
    await superuser.execute("UPDATE csm_system.tenants SET state = 'SUSPENDED'")

    assert (await cell.verifier.verify(token)).tenant == "org_1"


async def test_a_token_of_a_tenant_that_is_gone_is_refused(
    cell: Cell, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    token = await cell.token(await cell.tenant())
    await superuser.execute("DELETE FROM csm_system.tenants")

    assert await cause_of_refusal(cell.verifier, token) == "TOKEN_TENANT_UNKNOWN"


async def test_what_is_remembered_is_bounded(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control_plane.tokens.verifier._MOST_REMEMBERED", 3)
    placement = await cell.tenant()
    tokens = [await cell.token(placement) for _ in range(5)]
    for token in tokens:
        await cell.verifier.verify(token)

    assert len(cell.verifier._remembered) == 3
