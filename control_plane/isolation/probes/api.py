"""What the API keeps apart: the certificate service is asked on the tenant's behalf, as an internal service asks it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc

from bulkhead.v1 import certificates_pb2, certificates_pb2_grpc
from control_plane.errors import UnavailableError
from control_plane.ids import TenantId
from control_plane.isolation.model import WallDownError
from control_plane.isolation.probes.probe import Between, Probe, absent_tenant
from control_plane.serving import context as tenant_context
from control_plane.serving.context import TenantContext
from control_plane.serving.listeners import TlsFiles
from control_plane.serving.names import tenant_name
from control_plane.serving.principal import Role

_SUBJECT: Final = "isolation"
_SCOPE: Final = "certificates.read"
_LIFETIME: Final = timedelta(minutes=1)
_TIMEOUT_S: Final = 2.0
_AWAY: Final = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
# A tenant's own calls are answered with one of these: it may be suspended.


@dataclass(frozen=True, slots=True)
class _Answer:
    code: grpc.StatusCode
    text: str


@dataclass(frozen=True, slots=True)
class CertificatesApi:
    """The certificate service, as an internal service reaches it that acts for tenants."""

    channel: grpc.aio.Channel
    context_key: bytes = field(repr=False)

    @classmethod
    @asynccontextmanager
    async def open(cls, address: str, tls: TlsFiles, context_key: bytes) -> AsyncIterator["CertificatesApi"]:
        """Show the certificate of `tls` at `address`; sign contexts with `context_key`. Connects when first asked."""
        credentials = grpc.ssl_channel_credentials(
            root_certificates=tls.authority.read_bytes(),
            private_key=tls.key.read_bytes(),
            certificate_chain=tls.certificate.read_bytes(),
        )
        async with grpc.aio.secure_channel(address, credentials) as channel:
            yield cls(channel, context_key)

    async def list_certificates(self, of: str, *, as_tenant: TenantId, key: bytes | None = None) -> _Answer:
        """List the certificates of the tenant `of`, in a context of the tenant `as_tenant` that `key` has signed."""
        signed = tenant_context.encode(_context(as_tenant), key or self.context_key)
        request = certificates_pb2.ListCertificatesRequest(parent=tenant_name(of), page_size=1)
        stub = certificates_pb2_grpc.CertificateServiceStub(self.channel)
        try:
            await stub.ListCertificates(request, timeout=_TIMEOUT_S, metadata=((tenant_context.HEADER, signed),))
        except grpc.aio.AioRpcError as error:
            if error.code() in _AWAY:
                raise UnavailableError("the certificate service is away") from None
            return _Answer(error.code(), error.details() or "")
        return _Answer(grpc.StatusCode.OK, "")


def api_probes(api: CertificatesApi, between: Between) -> list[Probe]:
    """Return the questions to the API about a tenant."""
    own = between.own.tenant_id

    async def foreign_tenant() -> str:
        # A suspended tenant's own call would be in its audit log as a denial.
        if not between.is_suspended:
            answer = await api.list_certificates(own, as_tenant=own)
            if answer.code is not grpc.StatusCode.OK:
                raise UnavailableError(f"the tenant's own call is answered with {answer.code.name}")
        # Asked by one that nobody is: its denial is in no tenant's audit log.
        stranger = absent_tenant()
        foreign = await api.list_certificates(own, as_tenant=stranger)
        absent = await api.list_certificates(absent_tenant(), as_tenant=stranger)
        if {absent.code, foreign.code} != {grpc.StatusCode.PERMISSION_DENIED}:
            raise WallDownError(f"another tenant's call is answered with {foreign.code.name}")
        if absent != foreign:
            raise WallDownError("another tenant's call tells whether the tenant is there")
        return "held"

    async def forged_context() -> str:
        # The key with one bit turned: whoever guesses, guesses no nearer.
        key = bytes([api.context_key[0] ^ 1]) + api.context_key[1:]
        answer = await api.list_certificates(own, as_tenant=own, key=key)
        if answer.code is not grpc.StatusCode.UNAUTHENTICATED:
            raise WallDownError(f"a forged context is answered with {answer.code.name}")
        return "held"

    return [
        Probe(
            name="api.foreign_tenant",
            promise="Another tenant's call for the tenant is refused, in the words of one for a tenant that nobody is.",
            ask=foreign_tenant,
        ),
        Probe(
            name="api.forged_context",
            promise="A context that the edge has not signed opens nothing.",
            ask=forged_context,
        ),
    ]


def _context(tenant_id: TenantId) -> TenantContext:
    return TenantContext(
        tenant=tenant_id,
        tier="standard",
        isolation_level="POOLED",
        subject=_SUBJECT,
        role=Role.AUDITOR,
        scopes=frozenset({_SCOPE}),
        session=None,
        expire_time=datetime.now(UTC) + _LIFETIME,
    )
