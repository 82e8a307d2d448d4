"""CertificateService over gRPC: what callers send, and what they read."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias
from uuid import UUID, uuid4

import grpc
import pytest
from cryptography import x509
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from bulkhead.v1 import certificates_pb2, certificates_pb2_grpc
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from tests.fixtures.cell import Metadata, bearer
from tests.integration.certificates.conftest import Bench
from tests.unit.certificates.signing_requests import dns_names, rsa_key, signing_request

Stub: TypeAlias = "certificates_pb2_grpc.CertificateServiceAsyncStub"
State = certificates_pb2.Certificate.State
SCOPES = ("certificates.read", "certificates.write")


@pytest.fixture
async def tenant(bench: Bench) -> Placement:
    return await bench.cell.tenant()


@pytest.fixture
async def member(bench: Bench, tenant: Placement) -> Metadata:
    return bearer(await bench.cell.token(tenant, Role.TENANT_MEMBER, scopes=SCOPES))


def order(**fields: Any) -> certificates_pb2.IssueCertificateRequest:
    return certificates_pb2.IssueCertificateRequest(
        **{"parent": "tenants/org_1", "csr_pem": signing_request()} | fields
    )


async def refused(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    """Return the code and the reason of a refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), _detail(raised.value, error_details_pb2.ErrorInfo).reason


def _detail(error: grpc.aio.AioRpcError, kind: type[Any]) -> Any:
    (raw,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    assert isinstance(raw, bytes)
    (found,) = [detail for detail in status_pb2.Status.FromString(raw).details if detail.Is(kind.DESCRIPTOR)]
    message = kind()
    found.Unpack(message)
    return message


async def test_a_member_issues_and_reads_and_revokes(stub: Stub, member: Metadata) -> None:
    before = datetime.now(UTC)
    issued = await stub.IssueCertificate(order(), metadata=member)
    leaf, authority = x509.load_pem_x509_certificates(issued.pem_chain.encode())
    name = certificates_pb2.GetCertificateRequest(name=issued.name)

    assert issued.state == State.ACTIVE
    assert issued.serial_number == f"{leaf.serial_number:x}"
    assert (issued.subject, list(issued.dns_names), issued.profile) == ("CN=payments", ["a.example"], "private")
    assert issued.expire_time.ToDatetime(UTC) == leaf.not_valid_after_utc
    assert timedelta() <= issued.create_time.ToDatetime(UTC) - before < timedelta(seconds=10)
    leaf.verify_directly_issued_by(authority)
    assert await stub.GetCertificate(name, metadata=member) == issued

    revoked = await stub.RevokeCertificate(
        certificates_pb2.RevokeCertificateRequest(name=issued.name, reason="lost"), metadata=member
    )
    assert (revoked.state, revoked.revoke_reason) == (State.REVOKED, "lost")
    assert revoked.HasField("revoke_time")
    again = await stub.GetCertificate(name, metadata=member)
    assert (again.state, again.pem_chain) == (State.REVOKED, issued.pem_chain)


async def test_the_authority_is_the_one_that_signs(stub: Stub, member: Metadata) -> None:
    issued = await stub.IssueCertificate(order(), metadata=member)
    request = certificates_pb2.GetCertificateAuthorityRequest(name="tenants/org_1/certificateAuthority")
    authority = await stub.GetCertificateAuthority(request, metadata=member)

    assert authority.name == request.name
    assert issued.pem_chain.endswith(authority.pem)
    assert not authority.hsm_backed


@pytest.mark.behaviour("S2.8")
async def test_every_violation_is_named_in_one_answer(stub: Stub, member: Metadata, bench: Bench) -> None:
    request = order(
        csr_pem=signing_request(rsa_key(1024), names=dns_names("a_b")),
        validity=Duration(seconds=-1),
        profile="",
        request_id="one",
    )
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.IssueCertificate(request, metadata=member)

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    found = _detail(raised.value, error_details_pb2.BadRequest).field_violations
    assert [(one.field, one.reason) for one in found] == [
        ("request_id", "REQUEST_ID"),
        ("validity", "VALIDITY"),
        ("csr_pem", "KEY_SIZE"),
        ("csr_pem", "DNS_NAME"),
    ]
    assert bench.stored_files() == []


@pytest.mark.parametrize(
    "validity",
    [
        Duration(),
        Duration(seconds=2**63 - 1),
        Duration(seconds=-(2**63)),
        Duration(seconds=1, nanos=-(2**31)),
        Duration(nanos=2**31 - 1),
        Duration(seconds=366 * 86_400),
    ],
    ids=["zero", "longest", "most negative", "negative nanos", "less than a minute", "too long"],
)
async def test_a_validity_that_nobody_may_have_is_refused(stub: Stub, member: Metadata, validity: Duration) -> None:
    code, _ = await refused(stub.IssueCertificate(order(validity=validity), metadata=member))

    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_validity_is_kept_to_the_second(stub: Stub, member: Metadata) -> None:
    issued = await stub.IssueCertificate(order(validity=Duration(seconds=3600)), metadata=member)
    lasts = issued.expire_time.ToDatetime(UTC) - issued.create_time.ToDatetime(UTC)

    assert timedelta(seconds=3599) < lasts <= timedelta(hours=1)


async def test_validate_only_shows_what_would_be_and_makes_nothing(stub: Stub, member: Metadata, bench: Bench) -> None:
    shown = await stub.IssueCertificate(order(validate_only=True), metadata=member)

    assert (shown.subject, list(shown.dns_names), shown.profile) == ("CN=payments", ["a.example"], "private")
    unset = {"name", "pem_chain", "serial_number", "state", "create_time"}
    assert not unset & {field.name for field, _ in shown.ListFields()}
    assert bench.stored_files() == []


async def test_a_repeated_request_reads_the_same_answer(stub: Stub, member: Metadata) -> None:
    request = order(request_id=str(uuid4()))
    first = await stub.IssueCertificate(request, metadata=member)

    assert await stub.IssueCertificate(request, metadata=member) == first
    other = order(request_id=request.request_id, csr_pem=signing_request(names=dns_names("b.example")))
    assert await refused(stub.IssueCertificate(other, metadata=member)) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_ID_REUSED",
    )


@pytest.mark.behaviour("E4.2")
async def test_a_list_is_newest_first_and_stable_while_others_issue(stub: Stub, member: Metadata) -> None:
    issued = [(await stub.IssueCertificate(order(), metadata=member)).name for _ in range(5)]
    request = certificates_pb2.ListCertificatesRequest(parent="tenants/org_1", page_size=2)
    seen: list[str] = []
    while True:
        page = await stub.ListCertificates(request, metadata=member)
        seen += [certificate.name for certificate in page.certificates]
        assert not any(certificate.pem_chain for certificate in page.certificates)
        await stub.IssueCertificate(order(), metadata=member)
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break

    assert seen == issued[::-1]


@pytest.mark.behaviour("E4.1")
async def test_a_page_token_is_good_for_its_tenant_alone(stub: Stub, member: Metadata, bench: Bench) -> None:
    other = await bench.cell.tenant("org_2")
    stranger = bearer(await bench.cell.token(other, Role.TENANT_MEMBER, scopes=SCOPES))
    for _ in range(2):
        await stub.IssueCertificate(order(), metadata=member)
    page = await stub.ListCertificates(
        certificates_pb2.ListCertificatesRequest(parent="tenants/org_1", page_size=1), metadata=member
    )
    borrowed = certificates_pb2.ListCertificatesRequest(parent="tenants/org_2", page_token=page.next_page_token)

    code, _ = await refused(stub.ListCertificates(borrowed, metadata=stranger))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    mine = certificates_pb2.ListCertificatesRequest(parent="tenants/org_2")
    assert (await stub.ListCertificates(mine, metadata=stranger)).certificates == []


@pytest.mark.behaviour("E4.3")
async def test_a_page_size_below_zero_is_refused(stub: Stub, member: Metadata) -> None:
    request = certificates_pb2.ListCertificatesRequest(parent="tenants/org_1", page_size=-1)

    assert (await refused(stub.ListCertificates(request, metadata=member)))[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("segment", [f"{UUID(int=1)}", "x", f"{UUID(int=10)}".upper(), UUID(int=1).hex])
async def test_what_is_no_certificate_is_absent(stub: Stub, member: Metadata, segment: str) -> None:
    name = f"tenants/org_1/certificates/{segment}"
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: stub.GetCertificate(certificates_pb2.GetCertificateRequest(name=name), metadata=member),
        lambda: stub.RevokeCertificate(certificates_pb2.RevokeCertificateRequest(name=name), metadata=member),
    ]

    assert [(await refused(call()))[0] for call in calls] == [grpc.StatusCode.NOT_FOUND] * 2


async def test_a_certificate_of_another_tenant_is_as_absent_as_none(stub: Stub, member: Metadata, bench: Bench) -> None:
    other = await bench.cell.tenant("org_2")
    theirs = (await bench.issue(other)).certificate
    names = [f"tenants/org_1/certificates/{one}" for one in (theirs.id, uuid4())]
    answers = [
        await refused(stub.GetCertificate(certificates_pb2.GetCertificateRequest(name=name), metadata=member))
        for name in names
    ]

    assert answers[0] == answers[1]
    assert answers[0][0] is grpc.StatusCode.NOT_FOUND


async def test_an_object_that_does_not_open_tells_the_caller_nothing(
    stub: Stub, member: Metadata, bench: Bench
) -> None:
    issued = await stub.IssueCertificate(order(), metadata=member)
    for path in bench.stored_files():
        path.write_bytes(b"not what was stored")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.GetCertificate(certificates_pb2.GetCertificateRequest(name=issued.name), metadata=member)

    assert raised.value.code() is grpc.StatusCode.INTERNAL
    assert raised.value.details() == "internal error"


async def test_a_reason_that_is_too_long_is_refused(stub: Stub, member: Metadata) -> None:
    issued = await stub.IssueCertificate(order(), metadata=member)
    request = certificates_pb2.RevokeCertificateRequest(name=issued.name, reason="x" * 501)

    assert (await refused(stub.RevokeCertificate(request, metadata=member)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    got = await stub.GetCertificate(certificates_pb2.GetCertificateRequest(name=issued.name), metadata=member)
    assert got.state == State.ACTIVE


async def test_what_was_done_is_in_the_audit_log_in_its_callers_name(
    stub: Stub, member: Metadata, bench: Bench, tenant: Placement
) -> None:
    issued = await stub.IssueCertificate(order(), metadata=member)
    await stub.IssueCertificate(order(validate_only=True), metadata=member)
    for _ in range(2):
        await stub.RevokeCertificate(certificates_pb2.RevokeCertificateRequest(name=issued.name), metadata=member)

    entries = [
        (entry["actor"], entry["method"].rsplit("/")[-1], entry["resource"])
        for entry in await bench.rows(tenant, "audit_entries")
    ]
    assert entries == [
        ("tenant-member:alice", "IssueCertificate", issued.name),
        ("tenant-member:alice", "RevokeCertificate", issued.name),
    ]
