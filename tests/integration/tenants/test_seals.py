"""A sealed tenant on a real database: what was under way ends, and nothing begins, whoever asks and however."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psycopg
import pytest

from bulkhead.v1 import audit_pb2, seals_pb2, tenants_pb2, tokens_pb2
from control_plane.errors import PreconditionError, TenantSealedError, UnauthenticatedError, UnavailableError
from control_plane.ids import TenantId
from control_plane.isolation import store as isolation_store
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.postgres.database import Database, Isolation, TenantTransaction
from control_plane.postgres.directory import MAXIMUM_AGE, Directory
from control_plane.postgres.placement import Placement
from control_plane.serving.call import begin_call
from control_plane.serving.interceptors.authorization import Authorization
from control_plane.serving.paging import PageTokens
from control_plane.tenants import service
from control_plane.tenants.model import Action, State, Tenant
from control_plane.tenants.servicer import TenantServicer
from tests.fixtures.cell import Cell, bearer
from tests.fixtures.eventually import eventually
from tests.fixtures.postgres import MakeTenant

EACH_LEVEL: Final = pytest.mark.parametrize("level", list(Isolation))
EACH_KIND: Final = pytest.mark.parametrize("isolation", ["POOLED", "STRICT"])
LIST: Final = "/bulkhead.v1.TokenService/ListTokens"


async def take(database: Database, placement: Placement, *actions: Action) -> Tenant | None:
    """Take the tenant through the actions, without the waiting."""
    taken = None
    for action in actions:

        def change(tenant: Tenant, action: Action = action) -> Tenant:
            return tenant.after(action, datetime.now(UTC), reason="a test")

        taken = await service.change_tenant(database.system(), TenantId(placement.tenant_id), change)
    return taken


async def no_wait(_: float) -> None:
    await asyncio.sleep(0)


async def count_tokens(tx: TenantTransaction) -> int:
    return len(await tx.fetch_all("SELECT id FROM tokens"))


@EACH_LEVEL
@EACH_KIND
@pytest.mark.behaviour("S2.3")
async def test_a_sealed_tenants_transactions_are_not_admitted(
    database: Database, make_tenant: MakeTenant, level: Isolation, isolation: str
) -> None:
    sealed, other = [await make_tenant(name, isolation=isolation) for name in ("org_1", "org_2")]
    await take(database, sealed, Action.SEAL)

    async def nothing(_: TenantTransaction) -> None:
        """Not even that."""

    for work in (count_tokens, nothing):
        with pytest.raises(TenantSealedError, match="tenants/org_1 is sealed"):
            await database.tenant(sealed, isolation=level).run(work)
    assert await database.tenant(other, isolation=level).run(count_tokens) == 0

    await take(database, sealed, Action.UNSEAL)
    assert await database.tenant(sealed, isolation=level).run(count_tokens) == 0


@EACH_LEVEL
@EACH_KIND
@pytest.mark.behaviour("S2.4")
async def test_a_transaction_from_before_the_seal_never_commits_and_a_neighbours_does(
    database: Database, make_tenant: MakeTenant, level: Isolation, isolation: str
) -> None:
    sealed, other = [await make_tenant(name, isolation=isolation) for name in ("org_1", "org_2")]
    has_begun = {placement.uid: asyncio.Event() for placement in (sealed, other)}
    goes_on = asyncio.Event()

    async def work(tx: TenantTransaction) -> str:
        await count_tokens(tx)
        has_begun[tx.placement.uid].set()
        await goes_on.wait()
        return f"{await count_tokens(tx)}"

    runs = [asyncio.create_task(database.tenant(one, isolation=level).run(work)) for one in (sealed, other)]
    await asyncio.gather(*(begun.wait() for begun in has_begun.values()))
    await take(database, sealed, Action.SEAL)
    await service.await_seal(database.system(), sealed, sleep=no_wait)
    goes_on.set()
    ended, finished = await asyncio.gather(*runs, return_exceptions=True)

    assert isinstance(ended, UnavailableError)
    assert finished == "0"


@pytest.mark.behaviour("S2.4")
async def test_who_seals_is_answered_once_what_was_under_way_has_ended(cell: Cell) -> None:
    placement = await cell.tenant()
    has_begun, goes_on = asyncio.Event(), asyncio.Event()

    async def work(tx: TenantTransaction) -> None:
        await count_tokens(tx)
        has_begun.set()
        await goes_on.wait()
        await count_tokens(tx)

    handle = cell.database.tenant(placement, isolation=Isolation.SERIALIZABLE)
    under_way = asyncio.create_task(handle.run(work))
    await has_begun.wait()
    begin_call(cell.call(placement, method="/bulkhead.v1.TenantService/SealTenant"))
    servicer = TenantServicer(cell.directory, PageTokens(bytes(32)), {}, defer=_defer_nothing, keys=cell.keys)
    request = seals_pb2.SealTenantRequest(name="tenants/org_1", reason="a test")
    sealed = await servicer.SealTenant(request, None)  # type: ignore[arg-type]  # it is not looked at
    goes_on.set()

    assert sealed.state == tenants_pb2.Tenant.SEALED
    with pytest.raises(UnavailableError):
        await under_way


async def _defer_nothing(*_: object) -> None:
    """Nothing is created."""


async def test_a_tenant_that_is_not_sealed_has_none_of_its_transactions_ended(
    database: Database, make_tenant: MakeTenant
) -> None:
    placement = await make_tenant("org_1")

    async def work(tx: TenantTransaction) -> int:
        await count_tokens(tx)
        await service.await_seal(database.system(), placement, sleep=no_wait)
        return await count_tokens(tx)

    assert await database.tenant(placement, isolation=Isolation.SERIALIZABLE).run(work) == 0


@pytest.mark.behaviour("S2.4")
async def test_a_seal_is_told_after_the_longest_that_a_process_may_take_the_tenant_for_served(
    database: Database, make_tenant: MakeTenant
) -> None:
    placement = await make_tenant("org_1")
    await take(database, placement, Action.SEAL)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    await service.await_seal(database.system(), placement, sleep=sleep)

    assert len(slept) == 1
    assert slept[0] > MAXIMUM_AGE.total_seconds()


async def _admit(database: Database, own: Placement, other: Placement) -> object:
    async def look(tx: TenantTransaction) -> object:
        return await tx.fetch_all("SELECT csm_session.admit(%(number)s::integer)", {"number": other.number})

    return await database.tenant(own, isolation=Isolation.READ_COMMITTED).run(look)


async def test_a_pooled_tenants_role_asks_for_nobody(database: Database, make_tenant: MakeTenant) -> None:
    own = await make_tenant("org_1")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await _admit(database, own, own)


async def test_a_strict_tenant_does_not_learn_who_else_is_sealed(database: Database, make_tenant: MakeTenant) -> None:
    own, other, sealed = [await make_tenant(name, isolation="STRICT") for name in ("org_1", "org_2", "org_3")]
    await take(database, sealed, Action.SEAL)

    assert await _admit(database, own, sealed) == await _admit(database, own, other)


@EACH_KIND
async def test_a_tenants_own_role_can_end_nobodys_transactions(
    database: Database, make_tenant: MakeTenant, isolation: str
) -> None:
    own, other = [await make_tenant(name, isolation=isolation) for name in ("org_1", "org_2")]

    async def end(tx: TenantTransaction) -> None:
        await tx.fetch_all("SELECT csm_system.end_transactions(%(number)s, now())", {"number": other.number})

    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await database.tenant(own, isolation=Isolation.READ_COMMITTED).run(end)


@pytest.fixture
async def keys(database: Database, tmp_path: Path) -> TenantKeys:
    return TenantKeys(await SoftwareVault.open(tmp_path / "vault"), database)


async def _sealed_text(keys: TenantKeys, placement: Placement) -> bytes:
    await keys.create(placement, now=datetime.now(UTC), display_name="")
    return await keys.encrypt(placement, b"secret", object_name="a")


@pytest.mark.behaviour("S2.3")
async def test_a_sealed_tenants_keys_are_not_opened_by_anybody(
    database: Database, make_tenant: MakeTenant, keys: TenantKeys
) -> None:
    placement = await make_tenant("org_1")
    ciphertext = await _sealed_text(keys, placement)
    keys.forget(placement.uid)
    await take(database, placement, Action.SEAL)

    with pytest.raises(TenantSealedError, match="tenants/org_1 is sealed"):
        await keys.decrypt(placement, ciphertext, object_name="a")
    for use in (keys.token_signer, keys.authorities, keys.login_password):
        with pytest.raises(TenantSealedError):
            await use(placement)

    await take(database, placement, Action.UNSEAL)
    assert await keys.decrypt(placement, ciphertext, object_name="a") == b"secret"


async def test_what_is_open_of_a_sealed_tenant_is_dropped_and_of_others_is_not(
    database: Database, make_tenant: MakeTenant, keys: TenantKeys
) -> None:
    sealed, other = await make_tenant("org_1"), await make_tenant("org_2")
    for placement in (sealed, other):
        await _sealed_text(keys, placement)
    await take(database, sealed, Action.SEAL)
    await keys.forget_unusable()

    assert keys._open.owners() == {other.uid}


@pytest.mark.behaviour("S2.3")
async def test_what_was_open_of_a_sealed_tenant_is_dropped_although_nobody_calls(
    database: Database, make_tenant: MakeTenant, keys: TenantKeys
) -> None:
    sealed, other = await make_tenant("org_1"), await make_tenant("org_2")
    texts = {placement.uid: await _sealed_text(keys, placement) for placement in (sealed, other)}
    await take(database, sealed, Action.SEAL)
    looking = asyncio.create_task(keys.run())
    await eventually(lambda: sealed.uid not in keys._open.owners())
    looking.cancel()

    assert other.uid in keys._open.owners()
    with pytest.raises(TenantSealedError):
        await keys.decrypt(sealed, texts[sealed.uid], object_name="a")
    assert await keys.decrypt(other, texts[other.uid], object_name="a") == b"secret"


@pytest.mark.behaviour("S2.4")
async def test_what_a_call_found_is_not_told_once_its_tenant_is_sealed(database: Database, cell: Cell) -> None:
    placement = await cell.tenant()
    call = cell.call(placement, method=LIST)
    call.placement = None
    begin_call(call)
    authorization = Authorization(Directory(database))
    request = tokens_pb2.ListTokensRequest(parent="tenants/org_1")

    async def serve() -> None:
        async with authorization.around(LIST, request, None):  # type: ignore[arg-type]  # it is not looked at
            await take(database, placement, Action.SEAL)
            authorization._directory.forget(placement.tenant_id)

    with pytest.raises(TenantSealedError):
        await serve()


@EACH_KIND
@pytest.mark.behaviour("S2.3")
async def test_a_sealed_tenants_audit_log_is_read_by_the_platforms_administrator(
    database: Database, cell: Cell, isolation: str
) -> None:
    placement = await cell.tenant(isolation=isolation)
    await cell.issue(placement, bearer(cell.admin_token()))
    await take(database, placement, Action.SEAL)
    cell.directory.forget(placement.tenant_id)
    async with cell.audit() as stub:
        listed = await stub.ListAuditEntries(
            audit_pb2.ListAuditEntriesRequest(parent="tenants/org_1"), metadata=bearer(cell.admin_token())
        )
        await stub.VerifyAuditLog(
            audit_pb2.VerifyAuditLogRequest(parent="tenants/org_1"), metadata=bearer(cell.admin_token())
        )

    assert [entry.method for entry in listed.audit_entries] == ["/bulkhead.v1.TokenService/IssueToken"]


async def test_a_sealed_tenants_own_caller_is_told_and_a_stranger_is_not(database: Database, cell: Cell) -> None:
    placement = await cell.tenant()
    token = await cell.token(placement)
    await take(database, placement, Action.SEAL)
    cell.directory.forget(placement.tenant_id)
    head, payload, signature = token.split(".")

    with pytest.raises(TenantSealedError):
        await cell.verifier.verify(token)
    with pytest.raises(UnauthenticatedError):
        await cell.verifier.verify(f"{head}.{payload}.{signature[::-1]}")


async def test_a_sealed_tenant_is_nobodys_neighbour_and_is_not_verified(
    database: Database, make_tenant: MakeTenant
) -> None:
    sealed, other = await make_tenant("org_1"), await make_tenant("org_2")
    system = database.system()
    await system.run(isolation_store.enrol)
    await take(database, sealed, Action.SEAL)
    due = [await system.run(lambda tx: isolation_store.take_due(tx, put_off=MAXIMUM_AGE * 1000)) for _ in range(2)]

    assert await system.run(lambda tx: isolation_store.find_neighbour(tx, other)) is None
    assert due == [other.uid, None]


async def test_a_sealed_tenant_with_old_tables_is_found_as_it_is(database: Database, make_tenant: MakeTenant) -> None:
    placement = await make_tenant("org_1")
    await take(database, placement, Action.SEAL)

    async def upgrade(_: Placement) -> None:
        pytest.fail("a sealed tenant's tables are left as they are")

    entry = await Directory(database, version=1_000_000, upgrade=upgrade).find("org_1")

    assert entry is not None
    assert entry.state == State.SEALED


async def test_nothing_but_the_seal_can_be_changed_of_a_sealed_tenant(
    database: Database, make_tenant: MakeTenant
) -> None:
    placement = await make_tenant("org_1")
    await take(database, placement, Action.SEAL)
    for action in (Action.SUSPEND, Action.REACTIVATE):
        with pytest.raises(PreconditionError, match="what can be done is: unseal"):
            await take(database, placement, action)
    with pytest.raises(TenantSealedError):
        await service.change_tenant(
            database.system(),
            TenantId("org_1"),
            lambda tenant: tenant.updated(tenant.settings, datetime.now(UTC)),
        )

    unsealed = await take(database, placement, Action.UNSEAL)
    assert unsealed is not None
    assert unsealed.state is State.SUSPENDED
