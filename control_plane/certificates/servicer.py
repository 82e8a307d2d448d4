"""CertificateService over gRPC."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from typing_extensions import override

from bulkhead.v1 import certificates_pb2, certificates_pb2_grpc
from control_plane.cache.handles import Caches
from control_plane.certificates import store
from control_plane.certificates.model import (
    Asked,
    Certificate,
    authority_name,
    authority_version_name,
    certificate_id,
    certificate_name,
    reason_violation,
)
from control_plane.certificates.service import Certificates, Issued
from control_plane.certificates.signing import pem
from control_plane.errors import NotFoundError, Violations
from control_plane.ids import TenantId
from control_plane.keys.service import TenantKeys
from control_plane.objects.store import ObjectStore
from control_plane.postgres.database import Isolation, TenantHandle
from control_plane.serving import names
from control_plane.serving.call import Call, current_call
from control_plane.serving.interception import Context
from control_plane.serving.paging import PageTokens

# What a Duration may hold at most (protobuf's own limit); beyond it there is no timedelta either.
_MOST_SECONDS: Final = 315_576_000_000


class CertificateServicer(certificates_pb2_grpc.CertificateServiceServicer):
    """See certificates.proto."""

    def __init__(self, keys: TenantKeys, objects: ObjectStore, caches: Caches, *, page_tokens: PageTokens) -> None:
        """Sign with the authorities in `keys`; keep the certificates in `objects`, and copies in `caches`."""
        self._keys = keys
        self._page_tokens = page_tokens
        self._certificates = Certificates(keys, objects, caches)

    @override
    async def IssueCertificate(
        self, request: certificates_pb2.IssueCertificateRequest, context: Context
    ) -> certificates_pb2.Certificate:
        call = current_call()
        asked = Asked(
            csr_pem=request.csr_pem,
            validity=_timedelta(request.validity) if request.HasField("validity") else None,
            profile=request.profile,
            request_id=request.request_id,
        )
        if request.validate_only:
            return _preview(await self._certificates.check(asked, _drafts(call)))
        issued = await self._certificates.issue(asked, drafts=_drafts(call), effects=call.tenant())
        return _whole(issued, call.require_placement().tenant_id)

    @override
    async def GetCertificate(
        self, request: certificates_pb2.GetCertificateRequest, context: Context
    ) -> certificates_pb2.Certificate:
        call, wanted = current_call(), _certificate_id(request.name)
        found = await call.tenant().run(lambda tx: store.find(tx, wanted))
        if found is None:
            raise NotFoundError(request.name)
        return _whole(await self._certificates.get(found, call.require_placement()), call.require_placement().tenant_id)

    @override
    async def ListCertificates(
        self, request: certificates_pb2.ListCertificatesRequest, context: Context
    ) -> certificates_pb2.ListCertificatesResponse:
        call = current_call()
        page = self._page_tokens.page(request, method=call.method, parent=call.tenant_name, now=datetime.now(UTC))
        certificates = await call.tenant().run(lambda tx: store.list_page(tx, before=page.before, limit=page.limit))
        shown, next_page_token = page.cut(certificates, lambda certificate: certificate.id)
        tenant_id = call.require_placement().tenant_id
        return certificates_pb2.ListCertificatesResponse(
            certificates=[to_proto(certificate, tenant_id) for certificate in shown], next_page_token=next_page_token
        )

    @override
    async def RevokeCertificate(
        self, request: certificates_pb2.RevokeCertificateRequest, context: Context
    ) -> certificates_pb2.Certificate:
        call, wanted = current_call(), _certificate_id(request.name)
        violations = Violations()
        violations.add("reason", reason_violation(request.reason))
        violations.check()
        revoked = await self._certificates.revoke(wanted, reason=request.reason, effects=call.tenant())
        return to_proto(revoked, call.require_placement().tenant_id)

    @override
    async def GetCertificateAuthority(
        self, request: certificates_pb2.GetCertificateAuthorityRequest, context: Context
    ) -> certificates_pb2.CertificateAuthority:
        placement = current_call().require_placement()
        authorities = await self._keys.authorities(placement)
        return certificates_pb2.CertificateAuthority(
            name=authority_name(placement.tenant_id),
            pem="".join(map(pem, authorities.trusted)),
            hsm_backed=self._keys.hsm_backed,
            key_version=authority_version_name(placement.tenant_id, authorities.signing.version),
        )


def _drafts(call: Call) -> TenantHandle:
    """Open the tenant for what has no effect that counts, so that nothing of it is audited or repeated."""
    return call.database.tenant(call.require_placement(), isolation=Isolation.READ_COMMITTED)


def _certificate_id(name: str) -> UUID:
    found = certificate_id(names.parse(names.CERTIFICATE, name)["certificate"])
    if found is None:
        raise NotFoundError(name)
    return found


def _timedelta(duration: Duration) -> timedelta:
    # Out of the range of Duration is out of every profile's range too.
    seconds = max(-_MOST_SECONDS, min(duration.seconds, _MOST_SECONDS))
    return timedelta(seconds=seconds, microseconds=duration.nanos // 1000)


def _preview(certificate: Certificate) -> certificates_pb2.Certificate:
    """Render what would be issued: without what only an issued certificate has."""
    message = certificates_pb2.Certificate(
        subject=certificate.subject, dns_names=certificate.dns_names, profile=certificate.profile
    )
    message.expire_time.FromDatetime(certificate.expire_time)
    return message


def _whole(issued: Issued, tenant_id: TenantId) -> certificates_pb2.Certificate:
    message = to_proto(issued.certificate, tenant_id)
    message.pem_chain = issued.pem_chain
    return message


def to_proto(certificate: Certificate, tenant_id: TenantId) -> certificates_pb2.Certificate:
    """Render the certificate, without its text."""
    message = certificates_pb2.Certificate(
        name=certificate_name(tenant_id, certificate.id),
        state=certificates_pb2.Certificate.State.Value(certificate.state),
        serial_number=certificate.serial_number,
        subject=certificate.subject,
        dns_names=certificate.dns_names,
        profile=certificate.profile,
        revoke_reason=certificate.revoke_reason,
        authority_version=authority_version_name(tenant_id, certificate.authority_version),
    )
    message.create_time.FromDatetime(certificate.create_time)
    message.expire_time.FromDatetime(certificate.expire_time)
    if certificate.revoke_time is not None:
        message.revoke_time.FromDatetime(certificate.revoke_time)
    return message
