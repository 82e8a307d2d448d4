"""What a rotation of the key that derives does to open enrolments, strict tenants' logins, and repeated requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from bulkhead.v1 import key_changes_pb2, keys_pb2
from control_plane.errors import AlreadyExistsError, PermissionDeniedError, PreconditionError
from control_plane.keys.service import TenantKeys
from control_plane.operations.model import Operation, OperationState
from control_plane.operations.plan import StepPausedError
from control_plane.postgres.database import Database, Isolation, PostgresSettings, TenantHandle, TenantTransaction
from control_plane.postgres.placement import Placement
from control_plane.postgres.schemas import tenancy
from control_plane.secrets import service as secrets
from control_plane.secrets.model import Settings
from control_plane.tokens import service as tokens
from tests.fixtures.keyring import Ring

CONTEXT: Any = None
FIRST = "tenants/org_1/keys/enrolment/versions/1"
LABEL = b"label"
State = keys_pb2.KeyVersion.State


def handle(ring: Ring, tenant: Placement) -> TenantHandle:
    return ring.cell.database.tenant(tenant, isolation=Isolation.SERIALIZABLE)


async def invited(ring: Ring, tenant_id: str = "org_1") -> Placement:
    """Make a tenant whose enrolment is open."""
    tenant = await ring.cell.tenant(tenant_id)

    async def invite(tx: TenantTransaction) -> None:
        await tokens.invite_administrator(tx, "a@example.com", now=datetime.now(UTC))

    await handle(ring, tenant).run(invite)
    return tenant


async def shown(ring: Ring, tenant: Placement, keys: TenantKeys | None = None) -> str:
    _, token = await tokens.show_enrolment(handle(ring, tenant), keys=keys or ring.cell.keys, now=datetime.now(UTC))
    return token


async def redeem(ring: Ring, tenant: Placement, token: str, keys: TenantKeys) -> str:
    issued = await tokens.redeem_enrolment(handle(ring, tenant), token, keys=keys, now=datetime.now(UTC))
    return issued.token.subject


async def strict(ring: Ring, tenant_id: str = "org_1") -> Placement:
    """Make a tenant whose own role logs in with what its key derives."""
    tenant = await ring.cell.tenant(tenant_id, isolation="STRICT")
    await tenancy.change_login(ring.cell.database, tenant, await ring.cell.keys.login(tenant))
    return tenant


@asynccontextmanager
async def connections(settings: PostgresSettings, keys: TenantKeys) -> AsyncIterator[Database]:
    """Open the database as a process does that has no connections yet, and knows these keys."""
    async with Database.open(settings, passwords=keys.login_password) as database:
        yield database


async def who_logs_in(database: Database, tenant: Placement) -> str:
    async def ask(tx: TenantTransaction) -> str:
        row = await tx.fetch_one("SELECT session_user AS role")
        assert row is not None
        return str(row["role"])

    return await database.tenant(tenant, isolation=Isolation.READ_COMMITTED).run(ask)


async def logs_in(settings: PostgresSettings, keys: TenantKeys, tenant: Placement) -> bool:
    async with connections(settings, keys) as database:
        return await who_logs_in(database, tenant) == tenant.role


async def step(ring: Ring, begun: Operation, *names: str) -> None:
    for name in names:
        await ring.plans[begun.kind].runs[name](begun)


async def states(ring: Ring, tenant: Placement) -> list[int]:
    return [version.state for version in await ring.versions(tenant, "enrolment")]


async def retire(ring: Ring, tenant: Placement) -> keys_pb2.KeyVersion:
    request = key_changes_pb2.RetireKeyVersionRequest(name=FIRST)
    return await ring.calling(tenant, "RetireKeyVersion").RetireKeyVersion(request, CONTEXT)


@pytest.mark.behaviour("S2.5")
async def test_what_a_new_version_derives_is_taken_by_every_process_before_there_is_any(ring: Ring) -> None:
    tenant, keys, other = await ring.cell.tenant(), ring.cell.keys, ring.other_process()
    before = await other.derive(tenant, LABEL)
    assert await other.derive_each(tenant, LABEL) == [before]
    begun = await ring.rotate(tenant, "enrolment")
    await step(ring, begun, "publication")
    while len(await other.derive_each(tenant, LABEL)) == 1:  # noqa: ASYNC110 there is nothing that could tell
        await asyncio.sleep(0.05)

    assert await keys.derive(tenant, LABEL) == await other.derive(tenant, LABEL) == before
    first, second = await other.derive_each(tenant, LABEL)
    assert first == before
    await step(ring, begun, "use")
    assert await keys.derive(tenant, LABEL) == second
    assert await keys.derive_each(tenant, LABEL) == [second, first]


@pytest.mark.behaviour("S2.5")
async def test_a_new_version_derives_once_every_process_has_asked_again(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    begun = await ring.rotate(tenant, "enrolment")
    plan: Any = ring.plans[begun.kind]
    plan._settling = timedelta(hours=1)
    await step(ring, begun, "publication")

    with pytest.raises(StepPausedError):
        await step(ring, begun, "use")
    assert [version.primary for version in await ring.versions(tenant, "enrolment")] == [False, True]


@pytest.mark.behaviour("S2.5")
async def test_an_open_enrolment_is_redeemed_with_the_token_from_before_and_with_the_one_from_after(ring: Ring) -> None:
    one, other = await invited(ring), await invited(ring, "org_2")
    before = {tenant: await shown(ring, tenant) for tenant in (one, other)}
    for tenant in (one, other):
        await ring.rotated(tenant, "enrolment")
    after = {tenant: await shown(ring, tenant) for tenant in (one, other)}

    assert {before[tenant] == after[tenant] for tenant in (one, other)} == {False}
    with pytest.raises(PermissionDeniedError):
        await redeem(ring, one, before[other], ring.other_process())
    assert await redeem(ring, one, before[one], ring.other_process()) == "admin"
    assert await redeem(ring, other, after[other], ring.other_process()) == "admin"
    with pytest.raises(PermissionDeniedError) as refused:
        await redeem(ring, one, after[one], ring.cell.keys)
    assert refused.value.metadata["cause"] == "ENROLMENT_USED_AGAIN"


@pytest.mark.behaviour("S2.5")
async def test_a_suspected_version_that_is_retired_opens_no_enrolment(ring: Ring) -> None:
    tenant = await invited(ring)
    before = await shown(ring, tenant)
    await ring.rotated(tenant, "enrolment")
    assert (await retire(ring, tenant)).state == State.RETIRED

    for process in (ring.cell.keys, ring.other_process()):
        with pytest.raises(PermissionDeniedError) as refused:
            await redeem(ring, tenant, before, process)
        assert refused.value.metadata["cause"] == "ENROLMENT_UNKNOWN"
    assert await redeem(ring, tenant, await shown(ring, tenant), ring.cell.keys) == "admin"


@pytest.mark.behaviour("S2.5")
async def test_an_old_version_is_retired_by_the_first_rotation_after_its_last_token(ring: Ring, superuser: Any) -> None:
    tenant = await ring.cell.tenant()
    await ring.rotated(tenant, "enrolment")
    await ring.rotated(tenant, "enrolment")
    assert await states(ring, tenant) == [State.ENABLED, State.ENABLED, State.ENABLED]
    old = tokens.ENROLMENT_LIFETIME + timedelta(hours=1, seconds=1)
    await superuser.execute(
        "UPDATE csm_system.tenant_keys SET use_time = now() - %s::interval WHERE purpose = 'enrolment' AND version = 2",
        (old,),
    )
    await ring.rotated(tenant, "enrolment")

    assert await states(ring, tenant) == [State.ENABLED, State.ENABLED, State.ENABLED, State.RETIRED]
    assert len(await ring.other_process().derive_each(tenant, LABEL)) == 3


@pytest.mark.behaviour("S2.5")
async def test_a_strict_tenants_role_has_a_new_password_and_every_process_logs_in(
    ring: Ring, postgres_settings: PostgresSettings
) -> None:
    tenant, stale = await strict(ring), ring.other_process()
    old = await stale.login(tenant)
    async with connections(postgres_settings, stale) as kept:
        assert await who_logs_in(kept, tenant) == tenant.role
        await ring.rotated(tenant, "enrolment")
        new = await ring.cell.keys.login(tenant)

        assert (old.version, new.version) == (1, 2)
        assert await who_logs_in(kept, tenant) == tenant.role
    for process in (stale, ring.other_process()):
        assert await logs_in(postgres_settings, process, tenant)
        assert await process.login_password(tenant) == new.password
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await psycopg.AsyncConnection.connect(
            host=str(postgres_settings.socket_dir),
            port=postgres_settings.port,
            dbname=postgres_settings.dbname,
            user=tenant.role,
            password=old.password,
        )


@pytest.mark.behaviour("S2.5")
async def test_between_two_steps_the_role_logs_in_and_what_it_logs_in_with_is_not_retired(
    ring: Ring, postgres_settings: PostgresSettings, superuser: Any
) -> None:
    tenant, stale = await strict(ring), ring.other_process()
    begun = await ring.rotate(tenant, "enrolment")
    for name in ("publication", "use"):
        await step(ring, begun, name)
        for process in (stale, ring.cell.keys, ring.other_process()):
            assert await logs_in(postgres_settings, process, tenant), name
    with pytest.raises(PreconditionError) as refused:
        await retire(ring, tenant)
    assert refused.value.code == "KEY_VERSION_NEEDED"
    # It is given up here, for good.
    await superuser.execute("UPDATE csm_system.tenants SET state = 'SEALED'")
    await ring.runner.run(begun.id)
    await superuser.execute("UPDATE csm_system.tenants SET state = 'ACTIVE'")

    assert (await ring.operation(begun.id)).state is OperationState.FAILED
    assert await logs_in(postgres_settings, ring.other_process(), tenant)
    with pytest.raises(PreconditionError):
        await retire(ring, tenant)
    await ring.rotated(tenant, "enrolment")
    assert (await retire(ring, tenant)).state == State.RETIRED
    for process in (stale, ring.other_process()):
        assert await logs_in(postgres_settings, process, tenant)


@pytest.mark.behaviour("S2.5")
async def test_who_has_not_heard_of_a_new_password_does_not_set_the_old_one_back(
    ring: Ring, postgres_settings: PostgresSettings
) -> None:
    tenant = await strict(ring)
    old = await ring.cell.keys.login(tenant)
    await ring.rotated(tenant, "enrolment")
    await tenancy.create_tenant_schema(ring.cell.database, tenant, login=old)

    version = await ring.cell.database.system().run(lambda tx: tenancy.login_version(tx, tenant.uid))
    assert version == 2
    assert await logs_in(postgres_settings, ring.other_process(), tenant)


@pytest.mark.behaviour("S2.5")
async def test_a_request_that_is_repeated_after_a_rotation_gets_the_same_answer(ring: Ring) -> None:
    tenant, request_id = await ring.cell.tenant(), uuid4()
    creation = secrets.Creation(
        secret_id="api",
        settings=Settings(description="", labels={}),
        actor="alice",
        request_id=request_id,
        payload=b"hunter2",
    )
    addition = secrets.Addition(secret_id="api", actor="alice", request_id=uuid4(), payload=b"hunter3")

    async def asked(keys: TenantKeys) -> tuple[Any, Any]:
        now, tenant_handle = datetime.now(UTC), handle(ring, tenant)
        created = await secrets.create_secret(tenant_handle, creation, keys=keys, now=now)
        added = await secrets.add_version(tenant_handle, addition, keys=keys, now=now)
        return created.uid, added.number

    first = await asked(ring.cell.keys)
    begun = await ring.rotate(tenant, "enrolment")
    for name in ("publication", "use", "login"):
        await step(ring, begun, name)
        assert await asked(ring.cell.keys) == await asked(ring.other_process()) == first
    other = secrets.Addition(secret_id="api", actor="alice", request_id=addition.request_id, payload=b"another")
    with pytest.raises(AlreadyExistsError):
        await secrets.add_version(handle(ring, tenant), other, keys=ring.cell.keys, now=datetime.now(UTC))
