"""The kill switch, on the real processes: 100 operations are under way, and after the answer none succeeds."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from bulkhead.v1 import (
    audit_pb2,
    audit_pb2_grpc,
    certificates_pb2,
    certificates_pb2_grpc,
    rules_pb2,
    seals_pb2,
    tenant_requests_pb2,
    tenants_pb2,
    tenants_pb2_grpc,
    tokens_pb2,
    tokens_pb2_grpc,
)
from control_plane.settings import Settings
from tests.fixtures.stack import Stack
from tests.fixtures.synthetic import registry
from tests.fixtures.tasks import stop
from tests.isolation.rpc_requests import signing_request

AT_ONCE: Final = 100
UNDER_WAY_S: Final = 2.0
AFTERWARDS_S: Final = 2.0
Metadata: TypeAlias = "tuple[tuple[str, str], ...]"
Operation: TypeAlias = "Callable[[str, Metadata], Awaitable[object]]"


@dataclass(slots=True)
class Seen:
    """What became of one tenant's operations."""

    ends: list[float] = field(default_factory=list)
    """When each success came."""
    refusals: Counter[str] = field(default_factory=Counter)


class Doors:
    """Both services, and what is asked of them."""

    def __init__(self, control: grpc.aio.Channel, certificates: grpc.aio.Channel, admin: Metadata) -> None:
        self.admin = admin
        self.tenants = tenants_pb2_grpc.TenantServiceStub(control)
        self.tokens = tokens_pb2_grpc.TokenServiceStub(control)
        self.audit = audit_pb2_grpc.AuditServiceStub(control)
        self.certificates = certificates_pb2_grpc.CertificateServiceStub(certificates)
        self.csr = signing_request("seal.example.org")

    @classmethod
    @asynccontextmanager
    async def open(cls, stack: Stack) -> "AsyncIterator[Doors]":
        credentials = grpc.ssl_channel_credentials((stack.dir / "ca" / "ca.pem").read_bytes())
        admin = (("authorization", f"Bearer {(stack.dir / 'admin.token').read_text().strip()}"),)
        endpoints = stack.endpoints
        async with (
            grpc.aio.secure_channel(endpoints["admin_grpc"], credentials) as control,
            grpc.aio.secure_channel(endpoints["certificates_grpc"], credentials) as certificates,
        ):
            yield cls(control, certificates, admin)

    async def token(self, tenant: str) -> Metadata:
        """Issue a token of the tenant's administrator."""
        request = tokens_pb2.IssueTokenRequest(parent=tenant, subject="admin", role=rules_pb2.ROLE_TENANT_ADMIN)
        answer = await self.tokens.IssueToken(request, metadata=self.admin)
        return (("authorization", f"Bearer {answer.token}"),)

    async def issue_token(self, tenant: str, who: Metadata) -> object:
        return await self.tokens.IssueToken(
            tokens_pb2.IssueTokenRequest(parent=tenant, subject="alice"), metadata=who, timeout=20
        )

    async def issue_certificate(self, tenant: str, who: Metadata) -> certificates_pb2.Certificate:
        return await self.certificates.IssueCertificate(
            certificates_pb2.IssueCertificateRequest(parent=tenant, csr_pem=self.csr), metadata=who, timeout=20
        )

    async def get_authority(self, tenant: str, who: Metadata) -> object:
        """Use a key that is not asked for again while it is open."""
        return await self.certificates.GetCertificateAuthority(
            certificates_pb2.GetCertificateAuthorityRequest(name=f"{tenant}/certificateAuthority"),
            metadata=who,
            timeout=20,
        )

    async def list_certificates(self, tenant: str, who: Metadata) -> object:
        return await self.certificates.ListCertificates(
            certificates_pb2.ListCertificatesRequest(parent=tenant), metadata=who, timeout=20
        )

    def reading(self, name: str) -> Operation:
        """Read one certificate again and again: from the cache, and from the object store."""

        async def read(_: str, who: Metadata) -> object:
            return await self.certificates.GetCertificate(
                certificates_pb2.GetCertificateRequest(name=name), metadata=who, timeout=20
            )

        return read

    async def effects(self, tenant: str) -> int:
        """Count what is in the tenant's audit log but denials."""
        count, token = 0, ""
        while True:
            request = audit_pb2.ListAuditEntriesRequest(parent=tenant, page_size=1000, page_token=token)
            page = await self.audit.ListAuditEntries(request, metadata=self.admin)
            count += sum(entry.outcome == audit_pb2.AuditEntry.EFFECT for entry in page.audit_entries)
            token = page.next_page_token
            if not token:
                return count


def reason_of(error: grpc.aio.AioRpcError) -> str:
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    info = error_details_pb2.ErrorInfo()
    return info.reason if status.details and status.details[0].Unpack(info) else error.code().name


async def repeat(operation: Operation, tenant: str, who: Metadata, seen: Seen) -> None:
    while True:
        try:
            await operation(tenant, who)
        except grpc.aio.AioRpcError as error:
            seen.refusals[reason_of(error)] += 1
            await asyncio.sleep(0.05)
        else:
            seen.ends.append(time.monotonic())


@pytest.mark.timeout(120)
@pytest.mark.behaviour("S2.3", "S2.4")
async def test_of_a_hundred_operations_under_way_none_succeeds_after_the_seal_and_a_neighbour_goes_on(
    stack: Stack,
) -> None:
    sealed, neighbour = "tenants/seal_one", "tenants/seal_two"
    for name in (sealed, neighbour):
        created = await asyncio.to_thread(stack.bulkhead, "tenants", "create", name.partition("/")[2])
        assert created.returncode == 0, created.stderr
    async with Doors.open(stack) as doors:
        who = {name: await doors.token(name) for name in (sealed, neighbour)}
        read = {name: doors.reading((await doors.issue_certificate(name, who[name])).name) for name in who}
        operations = doors.issue_token, doors.issue_certificate, doors.list_certificates, read[sealed]
        seen = {name: Seen() for name in who}
        calling = [
            asyncio.create_task(
                # Half of them as the platform's administrator, whose token needs none of the tenant's keys.
                repeat(operations[i % 4], sealed, (who[sealed], doors.admin)[i // 4 % 2], seen[sealed])
            )
            for i in range(AT_ONCE)
        ]
        calling += [
            asyncio.create_task(repeat(operation, neighbour, who[neighbour], seen[neighbour]))
            for operation in (doors.issue_token, read[neighbour])
        ]
        await asyncio.sleep(UNDER_WAY_S)
        before = len(seen[sealed].ends)
        answer = await doors.tenants.SealTenant(
            seals_pb2.SealTenantRequest(name=sealed, reason="a test"), metadata=who[sealed]
        )
        acknowledged = time.monotonic()
        effects = await doors.effects(sealed)
        await asyncio.sleep(AFTERWARDS_S)
        await stop(calling)

        assert answer.state == tenants_pb2.Tenant.SEALED
        assert before > 0
        assert [end - acknowledged for end in seen[sealed].ends if end > acknowledged] == []
        assert set(seen[sealed].refusals) <= {"TENANT_SEALED", "UNAVAILABLE"}
        assert seen[sealed].refusals["TENANT_SEALED"] > AT_ONCE
        assert await doors.effects(sealed) == effects
        assert not seen[neighbour].refusals
        assert any(end > acknowledged for end in seen[neighbour].ends)

        unsealed = await doors.tenants.UnsealTenant(
            seals_pb2.UnsealTenantRequest(name=sealed, reason="it was one"), metadata=doors.admin
        )
        assert unsealed.state == tenants_pb2.Tenant.SUSPENDED
        await doors.tenants.ReactivateTenant(
            tenant_requests_pb2.ReactivateTenantRequest(name=sealed), metadata=doors.admin
        )
        assert await read[sealed](sealed, who[sealed]) is not None


@pytest.mark.behaviour("S2.3")
async def test_no_process_keeps_a_sealed_tenants_keys_in_memory(stack: Stack) -> None:
    """Made visible by taking the stored keys away while it is sealed: what worked then would come from memory."""
    name = "tenants/seal_three"
    created = await asyncio.to_thread(stack.bulkhead, "tenants", "create", "seal_three")
    assert created.returncode == 0, created.stderr
    async with Doors.open(stack) as doors:
        uses = doors.issue_token, doors.issue_certificate, doors.get_authority
        for use in uses:
            await use(name, doors.admin)
        seal = seals_pb2.SealTenantRequest(name=name, reason="a test")
        sealed = await doors.tenants.SealTenant(seal, metadata=doors.admin)
        _set_keys(stack, sealed.uid, state="RETIRED")
        unseal = seals_pb2.UnsealTenantRequest(name=name, reason="a test")
        await doors.tenants.UnsealTenant(unseal, metadata=doors.admin)
        reactivate = tenant_requests_pb2.ReactivateTenantRequest(name=name)
        await doors.tenants.ReactivateTenant(reactivate, metadata=doors.admin)
        for use in uses:
            with pytest.raises(grpc.aio.AioRpcError):
                await use(name, doors.admin)
        _set_keys(stack, sealed.uid, state="ENABLED")
        for use in uses:
            await use(name, doors.admin)


def _set_keys(stack: Stack, uid: str, *, state: str) -> None:
    with registry(Settings.from_dir(stack.dir)) as connection:
        connection.execute("UPDATE csm_system.tenant_keys SET state = %s WHERE tenant_uid = %s", (state, uid))
