"""What edges have decided: each report counts once, and denials reach the log that they belong to."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkhead.edge.v1 import policies_pb2
from bulkhead.v1 import edges_pb2
from control_plane.audit.denials import Denials
from control_plane.errors import UnavailableError
from control_plane.policies import store, wire
from control_plane.policies.reports import Reports
from control_plane.postgres.directory import Directory
from tests.fixtures.cell import violations_of
from tests.fixtures.postgres import MakeTenant
from tests.integration.policies.conftest import ADMIN

if TYPE_CHECKING:
    from control_plane.postgres.database import Database
    from tests.integration.policies.conftest import Control

MINUTE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
ISSUE = "/bulkhead.v1.CertificateService/IssueCertificate"


def usage(tenant: UUID, **counts: Any) -> policies_pb2.UsageTally:
    tally = policies_pb2.UsageTally(tenant_uid=str(tenant), method=ISSUE, **counts)
    tally.minute.FromDatetime(MINUTE)
    return tally


def denial(tenant: str = "", *, count: int = 1, first: datetime = MINUTE, **texts: Any) -> policies_pb2.DenialTally:
    given_ = {"actor": "anonymous", "method": ISSUE, "reason": "TENANT_MISMATCH", "request_id": "r1", **texts}
    tally = policies_pb2.DenialTally(tenant_id=tenant, count=count, **given_)
    tally.first_time.FromDatetime(first)
    tally.last_time.FromDatetime(first + timedelta(seconds=3))
    return tally


def access(tenant: UUID, credential: UUID, admitted: int, *, minute: datetime = MINUTE) -> policies_pb2.AccessTally:
    tally = policies_pb2.AccessTally(
        tenant_uid=str(tenant), credential=str(credential), lease_class="certificates.read", admitted=admitted
    )
    tally.minute.FromDatetime(minute)
    return tally


def report(reporter: UUID, sequence: int, **parts: Any) -> policies_pb2.ReportDecisionsRequest:
    return policies_pb2.ReportDecisionsRequest(reporter=str(reporter), sequence=sequence, **parts)


async def send(control: "Control", *reports: policies_pb2.ReportDecisionsRequest) -> None:
    async with control.policies() as stub:
        for one in reports:
            await stub.ReportDecisions(one, timeout=10)


async def rows(superuser: Any, query: str, *params: object) -> list[dict[str, Any]]:
    cursor = await superuser.execute(query, params)
    found: list[dict[str, Any]] = await cursor.fetchall()
    return found


async def used(superuser: Any, tenant: UUID) -> list[dict[str, Any]]:
    return await rows(
        superuser,
        "SELECT minute, admitted, limited, cost FROM csm_system.edge_usage WHERE tenant_uid = %s ORDER BY minute",
        tenant,
    )


async def test_usage_adds_up_by_tenant_method_and_minute(control: "Control", superuser: Any) -> None:
    tenant = uuid4()
    first, second = uuid4(), uuid4()
    within = usage(tenant, admitted=1, cost=5)
    within.minute.FromDatetime(MINUTE + timedelta(seconds=59))
    later = usage(tenant, limited=4)
    later.minute.FromDatetime(MINUTE + timedelta(minutes=1))
    await send(
        control,
        report(first, 1, usage=[usage(tenant, admitted=3, limited=1, cost=30), within]),
        report(second, 1, usage=[usage(tenant, admitted=2, cost=20), later]),
    )

    assert await used(superuser, tenant) == [
        {"minute": MINUTE, "admitted": 6, "limited": 1, "cost": 55},
        {"minute": MINUTE + timedelta(minutes=1), "admitted": 0, "limited": 4, "cost": 0},
    ]


async def test_a_denial_is_told_to_the_tenant_whose_credential_it_was(
    control: "Control", make_tenant: MakeTenant, superuser: Any
) -> None:
    tenant = await make_tenant("org_1")
    told = denial("org_1", count=7, actor="tenant-member:al\u202eice", resource="tenants/org_2", peer="192.0.2.1")
    await send(control, *[report(UUID(int=5), 1, denials=[told])] * 2)
    entries = await rows(superuser, f"SELECT * FROM {tenant.schema}.audit_entries")

    assert len(entries) == 1
    entry = entries[0]
    assert (entry["actor"], entry["resource"]) == (r"tenant-member:al\u202eice", "tenants/org_2")
    assert (entry["method"], entry["reason"], entry["outcome"]) == (ISSUE, "TENANT_MISMATCH", "DENIED")
    assert (entry["count"], entry["create_time"], entry["request_id"]) == (7, MINUTE, "r1")
    assert entry["details"] == {"peer": "192.0.2.1", "last_time": "2026-01-02T03:04:03+00:00"}
    assert not await rows(superuser, "SELECT FROM csm_system.denied_calls")


@pytest.mark.parametrize("tenant", ["", "org_nobody", "'; --"])
async def test_a_denial_of_nobodys_goes_to_the_platforms_record(
    control: "Control", superuser: Any, tenant: str
) -> None:
    await send(control, *[report(UUID(int=5), 1, denials=[denial(tenant, count=3, peer="192.0.2.1")])] * 2)
    calls = await rows(superuser, "SELECT actor, method, reason, peer, count, request_id FROM csm_system.denied_calls")

    assert calls == [
        {
            "actor": "anonymous",
            "method": ISSUE,
            "reason": "TENANT_MISMATCH",
            "peer": "192.0.2.1",
            "count": 3,
            "request_id": "r1",
        }
    ]


async def test_a_denial_from_the_future_is_one_of_now(control: "Control", superuser: Any) -> None:
    ahead = datetime(9000, 1, 1, tzinfo=UTC)
    await send(control, report(UUID(int=5), 1, denials=[denial(first=ahead)]))
    calls = await rows(
        superuser, "SELECT first_time < now() + interval '1 hour' AS is_past FROM csm_system.denied_calls"
    )

    assert calls == [{"is_past": True}]


async def test_ids_of_denials_are_in_the_order_of_their_times(control: "Control", superuser: Any) -> None:
    times = [datetime(2020, 1, day, tzinfo=UTC) for day in range(1, 21)]
    await send(control, report(uuid4(), 1, denials=[denial(first=time, reason=f"R{time:%d}") for time in times]))
    calls = await rows(superuser, "SELECT id, first_time FROM csm_system.denied_calls ORDER BY id")

    assert [call["first_time"] for call in calls] == times
    assert {call["id"].version for call in calls} == {7}
    assert {call["id"].variant for call in calls} == {"specified in RFC 4122"}


@given(data=st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_report_counts_once_however_often_it_comes(
    control: "Control", make_tenant: MakeTenant, *, superuser: Any, data: st.DataObject
) -> None:
    """Reports are sent in their order, each until it is taken; anything that was sent may come again at any time."""
    reporter, tenant = uuid4(), uuid4()
    sizes = data.draw(st.lists(st.integers(1, 1000), min_size=1, max_size=5), label="sizes")
    reports = [
        report(reporter, number, usage=[usage(tenant, admitted=size, cost=2 * size)], denials=[denial(count=size)])
        for number, size in enumerate(sizes, start=1)
    ]
    sent: list[policies_pb2.ReportDecisionsRequest] = []
    for number in range(1, len(reports) + 1):
        sent.append(reports[number - 1])
        sent += data.draw(st.lists(st.sampled_from(reports[:number]), max_size=4), label="again")
    await superuser.execute("DELETE FROM csm_system.denied_calls")
    await send(control, *sent)
    counted = await rows(superuser, "SELECT sum(count)::bigint AS denied FROM csm_system.denied_calls")

    assert await used(superuser, tenant) == [
        {"minute": MINUTE, "admitted": sum(sizes), "limited": 0, "cost": 2 * sum(sizes)}
    ]
    assert counted == [{"denied": sum(sizes)}]


class _DatabaseThatGoesAway:
    """Its n-th transaction fails: before it is done, or after."""

    def __init__(self, database: "Database", *, strike: int, is_done: bool) -> None:
        self._database = database
        self._left = strike
        self._is_done = is_done

    def system(self) -> Any:
        return _FailingHandle(self, self._database.system())

    def tenant(self, *args: Any, **kwargs: Any) -> Any:
        return _FailingHandle(self, self._database.tenant(*args, **kwargs))

    async def run(self, handle: Any, work: Any) -> Any:
        self._left -= 1
        if self._left != -1:
            return await handle.run(work)
        if self._is_done:
            await handle.run(work)
        raise UnavailableError("a fault")


class _FailingHandle:
    def __init__(self, away: _DatabaseThatGoesAway, handle: Any) -> None:
        self._away = away
        self._handle = handle

    async def run(self, work: Any) -> Any:
        return await self._away.run(self._handle, work)


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_report_counts_once_wherever_the_database_goes_away(
    database: "Database", make_tenant: MakeTenant, *, superuser: Any, is_done: bool
) -> None:
    placement = await make_tenant("org_1")
    directory = Directory(database)
    strikes = 0
    for strike in range(10):
        tenant = uuid4()
        message = report(
            uuid4(),
            1,
            usage=[usage(tenant, admitted=1)],
            denials=[denial("org_1", reason=f"S{strike}"), denial(reason=f"S{strike}")],
        )
        faulty: Any = _DatabaseThatGoesAway(database, strike=strike, is_done=is_done)
        taken = wire.report_of(message, now=MINUTE + timedelta(days=1))
        try:
            await Reports(faulty, Denials(faulty, directory, touched=lambda _: None)).take(taken)
        except UnavailableError:
            strikes += 1
        await Reports(database, Denials(database, directory, touched=lambda _: None)).take(taken)
        reason = f"S{strike}"

        assert len(await used(superuser, tenant)) == 1
        assert (await used(superuser, tenant))[0]["admitted"] == 1
        for log in (f"{placement.schema}.audit_entries", "csm_system.denied_calls"):
            query = f"SELECT count FROM {log} WHERE reason = %s"
            assert await rows(superuser, query, reason) == [{"count": 1}]

    assert strikes == 4, "the look, two logs, and the count"


async def test_a_report_that_comes_twice_at_once_counts_once(
    control: "Control", make_tenant: MakeTenant, *, monkeypatch: pytest.MonkeyPatch, superuser: Any
) -> None:
    async def not_yet(_tx: object, _report: object) -> bool:
        return False

    monkeypatch.setattr(store, "is_counted", not_yet)
    tenant = (await make_tenant("org_1")).uid
    told = usage(tenant, admitted=10)
    told.minute.FromDatetime(datetime.now(UTC))
    await send(control, *[report(uuid4(), 1, usage=[told])] * 2)
    async with control.watching() as stub:
        answer = await stub.ListTenantTraffic(edges_pb2.ListTenantTrafficRequest(), metadata=ADMIN, timeout=10)

    assert [used_["admitted"] for used_ in await used(superuser, tenant)] == [10]
    assert answer.total.admitted_per_second == 2


TIMELESS = policies_pb2.DenialTally(count=1)


def _many(count: int) -> list[policies_pb2.UsageTally]:
    return [usage(UUID(int=1), admitted=1)] * count


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (policies_pb2.ReportDecisionsRequest(), {"reporter", "sequence"}),
        (report(UUID(int=1), -1), {"sequence"}),
        (report(UUID(int=1), 1, denials=[denial()] * 2001), {"denials"}),
        (report(UUID(int=1), 1, usage=_many(20_001)), {"usage"}),
        (report(UUID(int=1), 1, denials=[denial(count=0)]), {"denials.count"}),
        (
            report(UUID(int=1), 1, denials=[policies_pb2.DenialTally(count=1)]),
            {"denials.first_time", "denials.last_time"},
        ),
        (report(UUID(int=1), 1, usage=[usage(UUID(int=1), admitted=-1)]), {"usage.admitted"}),
        (report(UUID(int=1), 1, usage=[usage(UUID(int=1), cost=10**12 + 1)]), {"usage.cost"}),
        (report(UUID(int=1), 1, usage=[usage(UUID(int=1), leased=-1)]), {"usage.leased"}),
        (report(UUID(int=1), 1, accesses=[access(UUID(int=1), UUID(int=1), 0)]), {"accesses.admitted"}),
        (
            report(UUID(int=1), 1, accesses=[policies_pb2.AccessTally(admitted=1)]),
            {"accesses.minute", "accesses.tenant_uid", "accesses.credential"},
        ),
        (report(UUID(int=1), 1, usage=[policies_pb2.UsageTally()]), {"usage.minute", "usage.tenant_uid"}),
    ],
)
async def test_what_can_never_be_counted_is_refused_whole(
    control: "Control", superuser: Any, *, request_: policies_pb2.ReportDecisionsRequest, fields: set[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await send(control, request_)

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violations_of(raised.value).keys() == fields
    assert not await rows(superuser, "SELECT FROM csm_system.edge_reports")


async def test_reporters_that_are_gone_for_a_month_are_forgotten(control: "Control", superuser: Any) -> None:
    await send(control, report(UUID(int=1), 1), report(UUID(int=2), 1))
    await superuser.execute(
        "UPDATE csm_system.edge_reports SET last_time = now() - interval '29 days'"
        " - CASE WHEN reporter = %s THEN interval '3 days' ELSE '0' END",
        (UUID(int=1),),
    )
    await control.database.system().run(store.forget_edges)

    assert await rows(superuser, "SELECT reporter FROM csm_system.edge_reports") == [{"reporter": UUID(int=2)}]


async def test_what_is_reported_is_the_traffic_of_now_once_however_often_it_comes(
    control: "Control", make_tenant: MakeTenant
) -> None:
    tenant = await make_tenant("org_1")
    now = datetime.now(UTC)
    told = usage(tenant.uid, admitted=10, limited=5, leased=8)
    told.minute.FromDatetime(now)
    stranger = usage(uuid4(), admitted=1)
    stranger.minute.FromDatetime(now)
    sent = report(uuid4(), 1, usage=[told, stranger], denials=[denial("org_1", count=5, first=now)])
    await send(control, *[sent] * 3)
    async with control.watching() as stub:
        answer = await stub.ListTenantTraffic(edges_pb2.ListTenantTrafficRequest(), metadata=ADMIN, timeout=10)

    rates = edges_pb2.TenantTraffic(
        admitted_per_second=2, limited_per_second=1, denied_per_second=1, leased_per_second=1.6
    )
    assert (answer.total, answer.live_tenants) == (rates, 1)
    rates.tenant = "tenants/org_1"
    assert list(answer.tenants) == [rates]


@pytest.mark.parametrize("page_size", [-1, 1001])
async def test_no_more_tenants_are_listed_than_fit_an_answer(control: "Control", page_size: int) -> None:
    request = edges_pb2.ListTenantTrafficRequest(page_size=page_size)
    async with control.watching() as stub:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ListTenantTraffic(request, metadata=ADMIN, timeout=10)

    assert violations_of(raised.value).keys() == {"page_size"}


async def test_accesses_add_up_by_credential_once_however_often_they_come(control: "Control", superuser: Any) -> None:
    tenant, one, other = uuid4(), UUID(int=1), UUID(int=2)
    first = report(uuid4(), 1, accesses=[access(tenant, one, 3), access(tenant, other, 1)])
    second = report(uuid4(), 1, accesses=[access(tenant, one, 4)])
    await send(control, first, second, first)
    query = "SELECT credential, lease_class, admitted FROM csm_system.edge_accesses WHERE tenant_uid = %s ORDER BY 1"

    assert await rows(superuser, query, tenant) == [
        {"credential": one, "lease_class": "certificates.read", "admitted": 7},
        {"credential": other, "lease_class": "certificates.read", "admitted": 1},
    ]


async def test_what_credentials_did_more_than_a_week_ago_is_forgotten(control: "Control", superuser: Any) -> None:
    now = datetime.now(UTC)
    kept, old = access(uuid4(), UUID(int=1), 1, minute=now), access(uuid4(), UUID(int=1), 1, minute=MINUTE)
    await send(control, report(uuid4(), 1, accesses=[kept, old]))
    await control.database.system().run(store.forget_accesses)

    assert await rows(superuser, "SELECT tenant_uid FROM csm_system.edge_accesses") == [
        {"tenant_uid": UUID(kept.tenant_uid)}
    ]
