"""What a handle promises of its transactions: all or nothing, and errors that mean one thing each."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import psycopg
import pytest
from psycopg import errors, sql

from control_plane.errors import AlreadyExistsError, UnavailableError
from control_plane.ids import new_uuid
from control_plane.postgres.database import Database, Isolation, SystemTransaction, TenantTransaction
from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement
from control_plane.postgres.violations import domain_error
from tests.fixtures.canaries import RawConnection, rows_of
from tests.fixtures.postgres import MakeTenant

INSERT_USER: Final = (
    "INSERT INTO users (id, subject, role, state) VALUES (%(id)s, %(subject)s, 'tenant-member', 'ACTIVE')"
)
Transaction = TenantTransaction | SystemTransaction


async def insert_user(tx: TenantTransaction, subject: str = "alice") -> int:
    return await tx.execute(INSERT_USER, {"id": new_uuid(), "subject": subject})


async def subjects(tx: TenantTransaction) -> list[str]:
    return [row["subject"] for row in await tx.fetch_all("SELECT subject FROM users ORDER BY subject")]


async def test_what_is_written_is_there_afterwards(database: Database, make_tenant: MakeTenant) -> None:
    handle = database.tenant(await make_tenant(), isolation=Isolation.SERIALIZABLE)

    assert await handle.run(insert_user) == 1
    assert await handle.run(subjects) == ["alice"]


@pytest.mark.parametrize("isolation", Isolation)
async def test_a_transaction_runs_at_the_level_that_was_asked_for(
    isolation: Isolation, database: Database, make_tenant: MakeTenant
) -> None:
    handle = database.tenant(await make_tenant(), isolation=isolation)
    query = "SELECT current_setting('transaction_isolation') AS level"

    row = await handle.run(partial(TenantTransaction.fetch_one, query=query))

    assert row == {"level": isolation.value.lower()}


async def test_an_exception_undoes_everything(database: Database, make_tenant: MakeTenant) -> None:
    handle = database.tenant(await make_tenant(), isolation=Isolation.SERIALIZABLE)

    async def fail(tx: TenantTransaction) -> None:
        await insert_user(tx)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await handle.run(fail)
    assert await handle.run(subjects) == []


async def test_an_error_that_the_work_swallows_is_raised_all_the_same(
    database: Database, make_tenant: MakeTenant
) -> None:
    """COMMIT would answer ROLLBACK, and nobody would know that nothing was kept."""
    handle = database.tenant(await make_tenant(), isolation=Isolation.SERIALIZABLE)

    async def swallow(tx: TenantTransaction) -> str:
        await insert_user(tx)
        try:
            await insert_user(tx)
        except errors.UniqueViolation:
            return "done"
        return "unreachable"

    with pytest.raises(errors.UniqueViolation):
        await handle.run(swallow)
    assert await handle.run(subjects) == []


async def test_a_raw_error_that_the_work_swallows_is_noticed_at_commit(database: Database) -> None:
    async def swallow(tx: SystemTransaction) -> None:
        try:
            await (await tx.connection.execute("SELECT no_such_column")).fetchall()
        except psycopg.Error:
            return

    with pytest.raises((errors.InFailedSqlTransaction, errors.PipelineAborted)):
        await database.system().run(swallow)


async def test_a_constraint_comes_out_by_its_name(database: Database, make_tenant: MakeTenant) -> None:
    handle = database.tenant(await make_tenant(), isolation=Isolation.SERIALIZABLE)
    await handle.run(insert_user)

    with pytest.raises(psycopg.IntegrityError) as caught:
        await handle.run(insert_user)

    assert isinstance(domain_error(caught.value, "tenants/org_1/users/alice"), AlreadyExistsError)


async def test_one_row_too_many_is_a_mistake(database: Database, make_tenant: MakeTenant) -> None:
    handle = database.tenant(await make_tenant(), isolation=Isolation.SERIALIZABLE)

    with pytest.raises(ValueError, match="2 rows"):
        await handle.run(partial(TenantTransaction.fetch_one, query="SELECT generate_series(1, 2)"))


async def test_a_literal_percent_sign_is_written_twice(database: Database, make_tenant: MakeTenant) -> None:
    handle = database.tenant(await make_tenant(), isolation=Isolation.SERIALIZABLE)

    row = await handle.run(partial(TenantTransaction.fetch_one, query="SELECT 7 %% 4 AS rest"))

    assert row == {"rest": 3}


async def test_statements_of_one_transaction_may_be_sent_at_once(database: Database, make_tenant: MakeTenant) -> None:
    handle = database.tenant(await make_tenant(), isolation=Isolation.SERIALIZABLE)

    async def insert_many(tx: TenantTransaction) -> Sequence[int]:
        return await asyncio.gather(*(insert_user(tx, f"user-{number}") for number in range(20)))

    assert await handle.run(insert_many) == [1] * 20
    assert len(await handle.run(subjects)) == 20


class Recorder:
    """Keeps what it is told before each commit."""

    def __init__(self) -> None:
        self.heard: list[list[Effect]] = []

    async def __call__(self, tx: Transaction, effects: Sequence[Effect]) -> None:
        await tx.execute("SELECT 1")
        self.heard.append(list(effects))


async def test_the_hook_before_commit_hears_the_effects(database: Database, make_tenant: MakeTenant) -> None:
    recorder = Recorder()
    handle = database.tenant(await make_tenant(), isolation=Isolation.SERIALIZABLE, before_commit=recorder)
    effect = Effect(resource="tenants/org_1/users/alice")

    async def work(tx: TenantTransaction) -> None:
        tx.record(effect)

    await handle.run(work)
    await handle.run(insert_user)

    assert recorder.heard == [[effect], []]


async def test_the_hook_before_commit_hears_nothing_of_a_transaction_without_effect(
    database: Database, make_tenant: MakeTenant
) -> None:
    recorder = Recorder()
    handle = database.tenant(await make_tenant(), isolation=Isolation.SERIALIZABLE, before_commit=recorder)

    async def replay(tx: TenantTransaction) -> None:
        tx.unchanged()

    await handle.run(replay)

    assert recorder.heard == []


@pytest.mark.behaviour("T-L3")
async def test_what_the_hook_before_commit_refuses_does_not_happen(database: Database, make_tenant: MakeTenant) -> None:
    async def refuse(tx: Transaction, effects: Sequence[Effect]) -> None:
        raise UnavailableError("the audit log is full")

    placement = await make_tenant()
    handle = database.tenant(placement, isolation=Isolation.SERIALIZABLE, before_commit=refuse)

    with pytest.raises(UnavailableError, match="audit log"):
        await handle.run(insert_user)
    assert await database.tenant(placement, isolation=Isolation.READ_COMMITTED).run(subjects) == []


async def test_a_system_transaction_that_enters_a_tenant_writes_its_audit_log_and_the_registry(
    database: Database, make_tenant: MakeTenant, superuser: RawConnection
) -> None:
    ours, theirs = await make_tenant("ours"), await make_tenant("theirs")

    async def work(tx: SystemTransaction) -> int:
        await tx.enter(ours)
        await insert_entry(tx)
        await tx.enter(theirs)
        await insert_entry(tx)
        return await tx.execute("UPDATE tenants SET state = 'SUSPENDED' WHERE id = 'ours'")

    assert await database.system().run(work) == 1
    for placement in (ours, theirs):
        assert await entries(superuser, placement) == [{"tenant_id": placement.uid}]


async def insert_entry(tx: SystemTransaction) -> None:
    await tx.execute(
        "INSERT INTO audit_entries (id, actor, method, resource, outcome, request_id)"
        " VALUES (uuidv7(), 'a', 'm', 'r', 'EFFECT', 'q')"
    )


async def entries(superuser: RawConnection, placement: Placement) -> list[dict[str, Any]]:
    return await rows_of(
        superuser, sql.SQL("SELECT tenant_id FROM {}.audit_entries").format(sql.Identifier(placement.schema))
    )


async def test_a_system_transaction_enters_no_tenant_by_itself(database: Database, make_tenant: MakeTenant) -> None:
    await make_tenant()

    with pytest.raises(errors.UndefinedTable):
        await database.system().run(insert_entry)


async def test_the_sealer_reads_one_tenants_log(database: Database, make_tenant: MakeTenant) -> None:
    ours, theirs = await make_tenant("ours"), await make_tenant("theirs")

    async def work(tx: SystemTransaction) -> None:
        await tx.enter(theirs)
        await insert_entry(tx)

    await database.system().run(work)
    read = partial(TenantTransaction.fetch_all, query="SELECT actor FROM audit_entries")

    assert await database.sealer(ours).run(read) == []
    assert await database.sealer(theirs).run(read) == [{"actor": "a"}]
