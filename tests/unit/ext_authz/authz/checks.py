"""Tenants, their tokens and the Checks that Envoy would send about their requests."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bulkhead.envoy.v3 import check_pb2
from bulkhead.v1 import certificates_pb2
from control_plane.tokens.claims import TENANT_AUDIENCE, Claims
from control_plane.tokens.signature import sign
from ext_authz.authz.certificate import CertificateClaim
from ext_authz.authz.decide import Decision, Evidence, decide
from ext_authz.authz.methods import ExposedMethods
from ext_authz.authz.request import read_request
from ext_authz.authz.tokens import TokenReader
from ext_authz.policies.model import Change, Index, State, TenantPolicy, TenantToken

NOW: Final = datetime(2026, 3, 1, 12, 0, 30, 250_000, tzinfo=UTC)
DOMAIN: Final = "csm.example.com"
SHARED: Final = frozenset({"api.csm.example.com", "localhost", "127.0.0.1"})
METHODS: Final = ExposedMethods((certificates_pb2.DESCRIPTOR,))
CERTIFICATE_ID: Final = "0198c5d2-7e1a-7000-8000-000000000001"
GET: Final = "/bulkhead.v1.CertificateService/GetCertificate"
ISSUE: Final = "/bulkhead.v1.CertificateService/IssueCertificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant with the private key that its tokens are signed by."""

    policy: TenantPolicy
    kid: UUID
    key: Ed25519PrivateKey

    def claims(self, **changes: object) -> Claims:
        """Return what a token of a member says that is in force at `NOW`."""
        issue_time = NOW.replace(microsecond=0) - timedelta(minutes=1)
        claims = Claims(
            audience=TENANT_AUDIENCE,
            subject="alice",
            role="tenant-member",
            scopes=("certificates.read",),
            token_id=UUID(int=self.kid.int + 1),
            issue_time=issue_time,
            not_before=issue_time,
            expire_time=issue_time + timedelta(hours=1),
            tenant_id=self.policy.tenant_id,
        )
        return replace(claims, **changes)  # type: ignore[arg-type]  # a test may say anything

    def token(self, **changes: object) -> str:
        """Sign a token."""
        return sign(self.claims(**changes), self.kid, private_key=self.key)


def tenant(number: int, **changes: object) -> Tenant:
    """Make the tenant `org_{number}`: the same one each time."""
    key = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
    kid = UUID(int=(number << 64) + (7 << 76) + 0xABCDEF)
    policy = TenantPolicy(
        tenant_id=f"org_{number}",
        uid=UUID(int=number),
        revision=5,
        state=State.ACTIVE,
        tier="standard",
        isolation_level="POOLED",
        dns_label=f"org-{number}",
        domains=(f"pki.org{number}.example",),
        requests_per_minute=600,
        token_keys={kid: key.public_key()},
        max_age=timedelta(minutes=15),
    )
    return Tenant(policy=replace(policy, **changes), kid=kid, key=key)  # type: ignore[arg-type]  # the same


A, B, SUSPENDED, ABSENT = tenant(1), tenant(2), tenant(3, state=State.SUSPENDED), tenant(4)


def index_of(*tenants: Tenant, revoked: Iterable[UUID] = (), as_of: datetime = NOW, revision: int = 9) -> Index:
    """Return the index of these tenants, each of which has revoked its tokens of these ids."""
    change = Change(
        feed="feed",
        revision=revision,
        snapshot=True,
        tenants=tuple(each.policy for each in tenants),
        revocations={TenantToken(each.policy.uid, one): NOW + timedelta(days=1) for each in tenants for one in revoked},
        as_of=as_of,
    )
    return Index(domain=DOMAIN).after(change)


INDEX: Final = index_of(A, B, SUSPENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request as a client would make it; by default, A's, for a certificate of its own."""

    token: str | None = field(default_factory=A.token)
    path: str = f"/api/v1/tenants/org_1/certificates/{CERTIFICATE_ID}"
    http_method: str = "GET"
    host: bytes = b"api.csm.example.com"
    tenant: str | None = None
    content_type: str | None = None
    sni: bytes = b""
    certificate: bytes = b""
    epoch: str | None = "5"
    request_id: str = "request-1"
    more: tuple[tuple[str, bytes], ...] = ()

    def headers(self) -> list[tuple[str, bytes]]:
        """Return the headers in the form in which Envoy has them."""
        sent = [(":authority", self.host), (":path", self.path.encode()), (":method", self.http_method.encode())]
        sent += [("user-agent", b"curl/8"), ("x-request-id", self.request_id.encode())]
        optional: Mapping[str, str | None] = {
            "x-tenant-id": self.tenant,
            "content-type": self.content_type,
            "authorization": f"Bearer {self.token}" if self.token is not None else None,
        }
        sent += [(name, value.encode("latin-1")) for name, value in optional.items() if value is not None]
        return [*sent, *self.more]

    def check(self) -> check_pb2.CheckRequest:
        """Return the Check."""
        request = check_pb2.CheckRequest()
        attributes = request.attributes
        http = attributes.request.http
        http.id, http.method, http.path = b"8590", self.http_method.encode(), self.path.encode()
        http.host, http.scheme, http.protocol = self.host, b"https", "HTTP/2"
        for key, value in self.headers():
            http.header_map.headers.add(key=key, raw_value=value)
        attributes.source.address.socket_address.address = "192.0.2.7"
        attributes.source.certificate = self.certificate
        if self.sni:
            attributes.tls_session.sni = self.sni
        if self.epoch is not None:
            attributes.context_extensions["epoch"] = self.epoch
        return request


def grpc_ask(rpc: str = GET, **changes: object) -> Ask:
    """Return a request of gRPC, by default A's."""
    asked = Ask(path=rpc, http_method="POST", content_type="application/grpc", tenant="org_1")
    return replace(asked, **changes)  # type: ignore[arg-type]  # a test may say anything


def decided(
    ask: Ask, index: Index = INDEX, *, now: datetime = NOW, certificate: CertificateClaim | None = None
) -> Decision:
    """Decide about it by that index."""
    asked = read_request(ask.check(), SHARED)
    evidence = Evidence(
        token=TokenReader().read(asked.token, index, now=now),
        certificate=certificate,
        method=METHODS.find(asked.wire, asked.http_method, asked.path),
    )
    return decide(asked, evidence, index, now=now)
