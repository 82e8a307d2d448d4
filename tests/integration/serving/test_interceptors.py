"""What gets through the interceptors, over real TLS, and what callers read when it does not."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from bulkhead.v1 import certificates_pb2, certificates_pb2_grpc
from control_plane.errors import NotFoundError
from control_plane.ids import TenantId
from control_plane.postgres.placement import Placement
from control_plane.serving import context as tenant_context
from control_plane.serving.principal import Principal, Role

if TYPE_CHECKING:
    from tests.integration.serving.conftest import Rig

MakeTenant = Callable[..., Awaitable[Placement]]
Metadata = tuple[tuple[str, str], ...]
ALL_SCOPES = "certificates.read certificates.write"


async def _get(channel: grpc.aio.Channel, name: str, metadata: Metadata = ()) -> certificates_pb2.Certificate:
    async with channel:
        stub = certificates_pb2_grpc.CertificateServiceStub(channel)
        answer: certificates_pb2.Certificate = await stub.GetCertificate(
            certificates_pb2.GetCertificateRequest(name=name), metadata=metadata, timeout=10
        )
        return answer


async def _refused(
    channel: grpc.aio.Channel, name: str, metadata: Metadata = ()
) -> tuple[grpc.StatusCode, str, status_pb2.Status]:
    """Return the code, the reason and the status without its request id."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _get(channel, name, metadata)
    trailers = dict(caught.value.trailing_metadata())
    status = status_pb2.Status()
    status.ParseFromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        detail.Unpack(info)
    request = error_details_pb2.RequestInfo()
    assert status.details[-1].Unpack(request)
    assert request.request_id == trailers["x-request-id"]
    del status.details[-1]
    return caught.value.code(), info.reason, status


def _bearer(rig: "Rig", *, role: Role = Role.TENANT_MEMBER, tenant: str | None = "org_1", scope: str = "") -> Metadata:
    scopes = frozenset({scope or "certificates.read"})
    rig.principals["good"] = Principal(
        subject="alice", role=role, tenant=None if tenant is None else TenantId(tenant), scopes=scopes
    )
    return (("authorization", "Bearer good"),)


async def test_a_caller_reaches_its_own_tenant_as_that_tenants_role(rig: "Rig", make_tenant: MakeTenant) -> None:
    placement = await make_tenant("org_1")
    answer = await _get(rig.token_channel(), "tenants/org_1/certificates/c", _bearer(rig))

    assert answer.subject == "tenant-member:alice"
    assert answer.serial_number == placement.role


@pytest.mark.behaviour("I17")
@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "MISSING_AUTHORIZATION"),
        ((("authorisation", "Bearer good"),), "MISSING_AUTHORIZATION"),
        ((("authorization", "Bearer good"), ("authorization", "Bearer good")), "UNAUTHENTICATED"),
        ((("authorization", "Basic good"),), "UNAUTHENTICATED"),
        ((("authorization", "Bearer "),), "UNAUTHENTICATED"),
        ((("authorization", "Bearer bad"),), "UNAUTHENTICATED"),
        ((("authorization", "Bearer good"), ("x-bulkhead-context", "1.e30.x")), "UNAUTHENTICATED"),
    ],
    ids=["none", "misspelt", "twice", "another scheme", "empty", "unknown", "with a signed context"],
)
async def test_a_caller_without_one_good_token_is_not_known(
    rig: "Rig", make_tenant: MakeTenant, metadata: Metadata, reason: str
) -> None:
    await make_tenant("org_1")
    _bearer(rig)
    code, found, _ = await _refused(rig.token_channel(), "tenants/org_1/certificates/c", metadata)

    assert (code, found) == (grpc.StatusCode.UNAUTHENTICATED, reason)
    assert rig.servicer.served == 0
    assert [type(error).__name__ for _, error in rig.denied] == ["UnauthenticatedError"]


@pytest.mark.behaviour("T-E16")
@pytest.mark.behaviour("E2.2")
async def test_a_foreign_tenant_and_an_absent_one_look_alike(rig: "Rig", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    await make_tenant("org_2")
    foreign = await _refused(rig.token_channel(), "tenants/org_2/certificates/c", _bearer(rig))
    absent = await _refused(rig.token_channel(), "tenants/org_3/certificates/c", _bearer(rig))

    assert foreign == absent
    assert foreign[0] is grpc.StatusCode.PERMISSION_DENIED
    assert rig.servicer.served == 0


async def test_a_member_without_the_scope_is_refused(rig: "Rig", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    metadata = _bearer(rig, scope="certificates.write")
    code, reason, _ = await _refused(rig.token_channel(), "tenants/org_1/certificates/c", metadata)

    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")


async def test_a_provider_has_no_way_to_a_tenants_data(rig: "Rig", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    metadata = _bearer(rig, role=Role.PROVIDER_OPERATOR, tenant=None)
    code, reason, _ = await _refused(rig.token_channel(), "tenants/org_1/certificates/c", metadata)

    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_NOT_ALLOWED")


async def test_the_platform_reads_that_an_absent_tenant_is_absent(rig: "Rig") -> None:
    metadata = _bearer(rig, role=Role.PLATFORM_ADMIN, tenant=None)
    code, _, _ = await _refused(rig.token_channel(), "tenants/org_9/certificates/c", metadata)

    assert code is grpc.StatusCode.NOT_FOUND


@pytest.mark.behaviour("T-A9")
async def test_a_bug_reaches_the_caller_without_its_text(rig: "Rig", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    rig.servicer.failure = KeyError("a path, a query")
    code, reason, status = await _refused(rig.token_channel(), "tenants/org_1/certificates/c", _bearer(rig))

    assert (code, reason) == (grpc.StatusCode.INTERNAL, "")
    assert b"query" not in status.SerializeToString()


async def test_a_domain_error_reaches_the_caller_with_its_details(rig: "Rig", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    rig.servicer.failure = NotFoundError("tenants/org_1/certificates/c")
    code, reason, _ = await _refused(rig.token_channel(), "tenants/org_1/certificates/c", _bearer(rig))

    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert rig.denied == []


async def test_a_call_without_a_deadline_is_given_one(rig: "Rig", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    rig.servicer.takes_s = 60
    async with rig.token_channel() as channel:
        stub = certificates_pb2_grpc.CertificateServiceStub(channel)
        request = certificates_pb2.GetCertificateRequest(name="tenants/org_1/certificates/c")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetCertificate(request, metadata=_bearer(rig))

    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_method_without_a_rule_is_not_served(rig: "Rig") -> None:
    async with rig.token_channel() as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/bulkhead.v1.CertificateService/ForgetRule"
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", timeout=10)

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def _signed(
    rig: "Rig", *, tenant: str = "org_1", key: bytes | None = None, minutes: int = 4, scopes: str = ALL_SCOPES
) -> Metadata:
    context = tenant_context.TenantContext(
        tenant=TenantId(tenant),
        tier="standard",
        isolation_level="POOLED",
        subject="alice",
        role=Role.TENANT_MEMBER,
        scopes=frozenset(scopes.split()),
        session="s-1",
        expire_time=datetime.now(UTC) + timedelta(minutes=minutes),
    )
    return ((tenant_context.HEADER, tenant_context.encode(context, key or rig.context_key)),)


async def test_a_service_acts_for_the_tenant_of_a_signed_context(rig: "Rig", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    channel = rig.service_channel(rig.issue("spiffe://bulkhead/service/billing"))
    answer = await _get(channel, "tenants/org_1/certificates/c", _signed(rig))

    assert answer.subject == "service:billing/alice"


@pytest.mark.behaviour("T-E12")
@pytest.mark.parametrize(
    "spiffe",
    [
        "",
        "spiffe://bulkhead/service/unknown",
        "spiffe://bulkhead/service/billing/",
        "spiffe://bulkhead/service/BILLING",
        "spiffe://elsewhere/service/billing",
        "spiffe://bulkhead/service/billing,spiffe://bulkhead/service/other",
    ],
)
async def test_a_certificate_speaks_for_exactly_the_service_that_it_names(
    rig: "Rig", make_tenant: MakeTenant, spiffe: str
) -> None:
    await make_tenant("org_1")
    code, _, _ = await _refused(rig.service_channel(rig.issue(spiffe)), "tenants/org_1/certificates/c", _signed(rig))

    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert rig.servicer.served == 0


@pytest.mark.parametrize("case", ["no context", "two contexts", "foreign key", "expired", "with a token"])
async def test_a_service_without_one_good_context_is_refused(rig: "Rig", make_tenant: MakeTenant, case: str) -> None:
    await make_tenant("org_1")
    metadata = {
        "no context": (),
        "two contexts": _signed(rig) * 2,
        "foreign key": _signed(rig, key=b"f" * 32),
        "expired": _signed(rig, minutes=-1),
        "with a token": (*_signed(rig), *_bearer(rig)),
    }[case]
    channel = rig.service_channel(rig.issue("spiffe://bulkhead/service/billing"))
    code, _, _ = await _refused(channel, "tenants/org_1/certificates/c", metadata)

    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_service_has_no_more_scopes_than_its_own_whatever_its_context_says(
    rig: "Rig", make_tenant: MakeTenant
) -> None:
    await make_tenant("org_1")
    async with rig.service_channel(rig.issue("spiffe://bulkhead/service/billing")) as channel:
        stub = certificates_pb2_grpc.CertificateServiceStub(channel)
        request = certificates_pb2.RevokeCertificateRequest(name="tenants/org_1/certificates/c")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.RevokeCertificate(request, metadata=_signed(rig), timeout=10)

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert [error.code for _, error in rig.denied] == ["SCOPE_MISSING"]


async def test_a_service_has_no_more_scopes_than_its_context_whatever_its_own_are(
    rig: "Rig", make_tenant: MakeTenant
) -> None:
    await make_tenant("org_1")
    channel = rig.service_channel(rig.issue("spiffe://bulkhead/service/billing"))
    code, _, _ = await _refused(channel, "tenants/org_1/certificates/c", _signed(rig, scopes="certificates.write"))

    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert [error.code for _, error in rig.denied] == ["SCOPE_MISSING"]


async def test_a_service_cannot_reach_past_its_contexts_tenant(rig: "Rig", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    await make_tenant("org_2")
    channel = rig.service_channel(rig.issue("spiffe://bulkhead/service/billing"))
    code, _, _ = await _refused(channel, "tenants/org_2/certificates/c", _signed(rig))

    assert code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("sent", "is_taken"),
    [
        (("0b0e7a3c-5f0e-4a4e-9c58-0d6c2f6f3a11",), True),
        (("0b0e7a3c-5f0e-4a4e-9c58-0d6c2f6f3a11",) * 2, False),
        (("chosen; by=hand",), False),
        ((), False),
    ],
)
async def test_a_request_keeps_the_id_that_a_service_has_told_its_caller(
    rig: "Rig", make_tenant: MakeTenant, sent: tuple[str, ...], *, is_taken: bool
) -> None:
    await make_tenant("org_1")
    channel = rig.service_channel(rig.issue("spiffe://bulkhead/service/billing"))
    ids = tuple(("x-request-id", value) for value in sent)
    await _refused(channel, "tenants/org_2/certificates/c", (*_signed(rig), *ids))
    ((call, _),) = rig.denied

    assert (call.request_id in sent) is is_taken


async def test_nobody_else_chooses_a_requests_id(rig: "Rig", make_tenant: MakeTenant) -> None:
    await make_tenant("org_1")
    chosen = "0b0e7a3c-5f0e-4a4e-9c58-0d6c2f6f3a11"
    await _refused(rig.token_channel(), "tenants/org_2/certificates/c", (*_bearer(rig), ("x-request-id", chosen)))
    ((call, _),) = rig.denied

    assert call.request_id != chosen


async def test_the_listener_of_services_demands_a_client_certificate(rig: "Rig") -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _get(rig.service_channel(None), "tenants/org_1/certificates/c", _signed(rig))

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("first", ["token", "service"])
async def test_each_listener_keeps_to_its_own_way_of_knowing_callers(
    rig: "Rig", make_tenant: MakeTenant, first: str
) -> None:
    """Whichever listener served a method first: the same interceptors stand before both."""
    await make_tenant("org_1")
    name = "tenants/org_1/certificates/c"
    service = rig.issue("spiffe://bulkhead/service/billing")
    actors = {}
    for door in ("token", "service") if first == "token" else ("service", "token"):
        channel, metadata = {
            "token": (rig.token_channel(), _bearer(rig)),
            "service": (rig.service_channel(service), _signed(rig)),
        }[door]
        actors[door] = (await _get(channel, name, metadata)).subject

    assert actors == {"token": "tenant-member:alice", "service": "service:billing/alice"}
    assert (await _refused(rig.token_channel(), name, _signed(rig)))[0] is grpc.StatusCode.UNAUTHENTICATED
    assert (await _refused(rig.service_channel(service), name, _bearer(rig)))[0] is grpc.StatusCode.UNAUTHENTICATED
