"""Tenants on a real database: duplicates, etags, suspension."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from control_plane.errors import AlreadyExistsError, NotFoundError, UnavailableError
from control_plane.ids import TenantId
from control_plane.keys.algorithms import CertificatePolicy, KeyAlgorithm, PostQuantum
from control_plane.operations.jobs import JobQueue
from control_plane.operations.model import Operation
from control_plane.postgres.database import Database, PostgresSettings, SystemTransaction
from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement
from control_plane.tenants import service, store
from control_plane.tenants.model import Action, Settings, State, Tenant
from control_plane.tenants.rates import RateLimit
from tests.fixtures.canaries import RawConnection

MakeTenant = Callable[..., Awaitable[Placement]]


@pytest.fixture
async def queue(database: Database, postgres_settings: PostgresSettings) -> AsyncIterator[JobQueue]:
    queue = JobQueue(database, postgres_settings)
    async with queue.open():
        yield queue


async def _create(
    database: Database,
    queue: JobQueue,
    tenant: str = "org_1",
    *,
    request_id: UUID | None = None,
    body: bytes = b"1",
    settings: Settings | None = None,
) -> Operation:
    creation = service.Creation(
        tenant_id=TenantId(tenant),
        settings=settings or Settings(display_name=tenant),
        actor="platform-admin:test",
        call_request_id="request",
        request_id=request_id,
        request_hash=body,
    )
    return await service.create_tenant(
        database.system(),
        creation,
        defer=lambda operation_id, tx: queue.defer(operation_id, within=tx),
        now=datetime.now(UTC),
    )


async def _count(database: Database) -> tuple[int, int, int]:
    row = await database.system().run(
        lambda tx: tx.fetch_one(
            """
            SELECT (SELECT count(*) FROM csm_system.tenants) AS tenants,
                   (SELECT count(*) FROM csm_system.operations) AS operations,
                   (SELECT count(*) FROM csm_jobs.procrastinate_jobs) AS jobs
            """
        )
    )
    assert row is not None
    return row["tenants"], row["operations"], row["jobs"]


@pytest.mark.behaviour("S4.3")
@pytest.mark.behaviour("T-P3")
async def test_fifty_callers_with_one_request_id_make_one_tenant(database: Database, queue: JobQueue) -> None:
    request_id = uuid4()
    operations = await asyncio.gather(*(_create(database, queue, request_id=request_id) for _ in range(50)))

    assert len({operation.id for operation in operations}) == 1
    assert await _count(database) == (1, 1, 1)


@pytest.mark.behaviour("T-P3")
async def test_of_fifty_callers_with_one_id_one_succeeds(database: Database, queue: JobQueue) -> None:
    outcomes = await asyncio.gather(*(_create(database, queue) for _ in range(50)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes].count(AlreadyExistsError) == 49
    assert await _count(database) == (1, 1, 1)


@pytest.mark.behaviour("S4.3")
async def test_a_request_id_with_another_body_is_refused(database: Database, queue: JobQueue) -> None:
    request_id = uuid4()
    await _create(database, queue, request_id=request_id)
    with pytest.raises(AlreadyExistsError) as refused:
        await _create(database, queue, "org_2", request_id=request_id, body=b"2")

    assert refused.value.code == "REQUEST_ID_REUSED"
    assert await _count(database) == (1, 1, 1)


async def test_a_database_that_goes_while_a_job_is_deferred_is_away(
    database: Database, queue: JobQueue, superuser: RawConnection
) -> None:
    """The queue's library has errors of its own for it, which would be a fault of ours."""

    async def work(tx: SystemTransaction) -> None:
        own = await tx.fetch_one("SELECT pg_backend_pid() AS pid")
        await superuser.execute("SELECT pg_terminate_backend(%(pid)s, 5000)", own)
        await queue.defer(uuid4(), within=tx)

    with pytest.raises(UnavailableError):
        await database.system().run(work)


async def test_a_taken_id_leaves_no_operation_behind(database: Database, queue: JobQueue) -> None:
    await _create(database, queue)
    with pytest.raises(AlreadyExistsError):
        await _create(database, queue, request_id=uuid4())

    assert await _count(database) == (1, 1, 1)


async def test_a_suspension_is_written_once_however_often_it_is_asked_for(
    database: Database, make_tenant: MakeTenant
) -> None:
    await make_tenant("org_1")
    tenants = await asyncio.gather(
        *(
            service.change_tenant(
                database.system(), TenantId("org_1"), lambda tenant: tenant.after(Action.SUSPEND, datetime.now(UTC))
            )
            for _ in range(10)
        )
    )

    assert {tenant.state for tenant in tenants} == {State.SUSPENDED}
    assert len({tenant.revision for tenant in tenants}) == 1


async def test_validate_only_changes_nothing(database: Database, make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    shown = await service.change_tenant(
        database.system(),
        TenantId("org_1"),
        lambda tenant: tenant.updated(Settings(display_name="Two"), datetime.now(UTC)),
        validate_only=True,
    )
    kept = await database.system().run(lambda tx: store.find(tx, TenantId("org_1")))

    assert shown.settings.display_name == "Two"
    assert kept is not None
    assert kept.settings.display_name != "Two"


async def _claim(database: Database, tenant_id: str, *domains: str) -> Tenant:
    settings = Settings(display_name=tenant_id, domains=domains)
    return await service.change_tenant(
        database.system(), TenantId(tenant_id), lambda tenant: tenant.updated(settings, datetime.now(UTC))
    )


async def test_of_many_tenants_that_claim_a_domain_at_once_one_has_it(
    database: Database, make_tenant: MakeTenant
) -> None:
    for number in range(6):
        await make_tenant(f"org_{number}")
    outcomes = await asyncio.gather(
        *(_claim(database, f"org_{number}", "shop.example") for number in range(6)), return_exceptions=True
    )
    refusals = [outcome for outcome in outcomes if isinstance(outcome, AlreadyExistsError)]

    assert len(refusals) == 5
    assert {refusal.code for refusal in refusals} == {"DOMAIN_TAKEN"}
    assert refusals[0].message == "shop.example is another tenant's"


async def test_a_domain_that_was_given_up_is_free(database: Database, make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    await make_tenant("org_2")
    await _claim(database, "org_1", "shop.example", "www.example")
    await _claim(database, "org_1", "www.example")

    assert (await _claim(database, "org_2", "shop.example")).settings.domains == ("shop.example",)


async def test_a_change_tells_its_revision_at_the_edge(database: Database, make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    first = await _claim(database, "org_1", "shop.example")
    repeated = await _claim(database, "org_1", "shop.example")
    renamed = await service.change_tenant(
        database.system(),
        TenantId("org_1"),
        lambda tenant: tenant.updated(replace(tenant.settings, display_name="Other"), datetime.now(UTC)),
    )
    suspended = await service.change_tenant(
        database.system(), TenantId("org_1"), lambda tenant: tenant.after(Action.SUSPEND, datetime.now(UTC))
    )
    read = await database.system().run(lambda tx: store.find(tx, TenantId("org_1")))

    assert 0 < first.edge_revision == repeated.edge_revision == renamed.edge_revision < suspended.edge_revision
    assert read == suspended


async def test_a_new_tenant_holds_its_domains_and_is_not_at_the_edge(
    database: Database, queue: JobQueue, make_tenant: MakeTenant
) -> None:
    await make_tenant("org_2")
    certificates = CertificatePolicy(authority=KeyAlgorithm.ML_DSA_44, post_quantum=PostQuantum.REQUIRED)
    settings = Settings(display_name="org_1", domains=("shop.example",), certificate_policy=certificates)
    await _create(database, queue, settings=settings)
    created = await database.system().run(lambda tx: store.find(tx, TenantId("org_1")))
    with pytest.raises(AlreadyExistsError, match=r"shop\.example"):
        await _claim(database, "org_2", "shop.example")
    with pytest.raises(AlreadyExistsError, match=r"shop\.example"):
        await _create(database, queue, "org_3", settings=settings)

    assert created is not None
    assert (created.settings, created.edge_revision) == (settings, 0)


async def test_what_a_change_did_is_told_to_the_audit_log(database: Database, make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    recorded: list[Effect] = []

    async def record(_: object, effects: Sequence[Effect]) -> None:
        recorded.extend(effects)

    settings = Settings(
        display_name="org_1",
        domains=("a.example", "b.example"),
        requests_per_minute=7,
        max_policy_age=timedelta(minutes=1),
        rate_limits=(RateLimit(window="HOUR", units=5), RateLimit(window="DAY", units=50)),
        billing_day=31,
        time_zone="Europe/Berlin",
        certificate_policy=CertificatePolicy(keys=frozenset({KeyAlgorithm.EC_P384}), post_quantum=PostQuantum.HYBRID),
    )
    changed = await service.change_tenant(
        database.system(before_commit=record),
        TenantId("org_1"),
        lambda tenant: tenant.updated(settings, datetime.now(UTC)),
    )

    assert [effect.details for effect in recorded] == [
        {
            "requests_per_minute": "7",
            "domains": "a.example, b.example",
            "max_policy_age": "0:01:00",
            "rate_limits": "HOUR=5, DAY=50",
            "billing_day": "31",
            "time_zone": "Europe/Berlin",
            "certificate_policy": "authority EC_P256, keys EC_P384, post-quantum HYBRID",
        }
    ]
    assert await database.system().run(lambda tx: store.find(tx, TenantId("org_1"))) == changed


async def test_an_absent_tenant_cannot_be_changed(database: Database) -> None:
    with pytest.raises(NotFoundError):
        await service.change_tenant(database.system(), TenantId("org_9"), lambda tenant: tenant)


async def test_pages_hold_every_tenant_once(database: Database, make_tenant: MakeTenant) -> None:
    for index in range(5):
        await make_tenant(f"org_{index}")
    seen: list[str] = []

    async def next_page() -> list[str]:
        page = await database.system().run(
            lambda tx: store.list_page(tx, after=seen[-1] if seen else "", limit=2, with_purged=False)
        )
        return [tenant.id for tenant in page]

    while page := await next_page():
        seen += page

    assert seen == [f"org_{index}" for index in range(5)]
