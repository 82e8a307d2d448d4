"""Requests whose claims are chosen one by one, and what has to come of each: a model of the edge in a few lines.

Every place in which a request can name a tenant is drawn independently of the others, mostly in agreement with one
tenant and with a place or two that differ, else at random throughout.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from bulkhead.v1 import certificates_pb2
from tests.fixtures.edge import DOMAIN, EdgeTenant, EdgeWorld, signing_request
from tests.fixtures.edge_wire import Fields, framed, rest


class Who(StrEnum):
    """Whom a place of the request names."""

    A = "A"
    B = "B"
    SUSPENDED = "SUSPENDED"
    ABSENT = "ABSENT"
    NONE = "NONE"


class Host(StrEnum):
    SHARED = "SHARED"
    LABEL = "LABEL"
    CUSTOM = "CUSTOM"
    FOREIGN = "FOREIGN"


class Token(StrEnum):
    GOOD = "GOOD"
    # Of a tenant, by the tenant's own key.
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"
    UNSCOPED = "UNSCOPED"
    # By the tenant's key too, but it says that it is another tenant's.
    NAMES_ANOTHER = "NAMES_ANOTHER"
    # Nobody's.
    NONE = "NONE"
    PLATFORMS = "PLATFORMS"
    GARBAGE = "GARBAGE"


class Wire(StrEnum):
    HTTP1 = "HTTP1"
    HTTP2 = "HTTP2"
    GRPC = "GRPC"


class Method(StrEnum):
    LIST = "LIST"
    GET = "GET"
    AUTHORITY = "AUTHORITY"
    # Validates alone: what is there stays as it is.
    ISSUE = "ISSUE"
    UNKNOWN = "UNKNOWN"


class Query(StrEnum):
    NONE = "NONE"
    # The field that names the tenant.
    FIELD = "FIELD"
    UNKNOWN = "UNKNOWN"


NAMED: Final = (Who.A, Who.B, Who.SUSPENDED)
PROVEN: Final = (Token.GOOD, Token.EXPIRED, Token.REVOKED, Token.UNSCOPED)
RPCS: Final = {
    Method.LIST: ("ListCertificates", "parent"),
    Method.GET: ("GetCertificate", "name"),
    Method.AUTHORITY: ("GetCertificateAuthority", "name"),
    Method.ISSUE: ("IssueCertificate", "parent"),
    Method.UNKNOWN: ("NoSuchMethod", "parent"),
}
_SUFFIX: Final = {
    Method.LIST: "/certificates",
    Method.AUTHORITY: "/certificateAuthority",
    Method.ISSUE: "/certificates:issue",
    Method.UNKNOWN: "/nothing",
}


_NOBODYS: Final = "01a20b5a-eab2-7588-ac04-f20478c9adc9"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A request in the abstract."""

    wire: Wire
    tls: bool
    method: Method
    path: Who
    header: Who
    host_kind: Host
    host: Who
    token_kind: Token
    token: Who
    certificate: Who
    """Shown only over TLS, as is `sni`."""
    sni: Who
    query: Query
    query_who: Who
    message: Who
    """Whom the gRPC message, or a REST body, names."""


def cases(chance: random.Random, count: int) -> Iterator[Case]:
    """Draw so many, and first of all some that show that whoever looks at the answers sees anything at all."""
    shown = [
        replace(_agreeing(chance, about, wire=wire), method=Method.LIST, token_kind=token_kind)
        for wire in Wire
        for about in (Who.A, Who.B)
        for token_kind in (Token.GOOD, Token.EXPIRED)
    ]
    yield from shown[:count]
    for _ in range(count - len(shown)):
        about = chance.choice((Who.A, Who.B))
        agreeing = _agreeing(chance, about, wire=chance.choice(tuple(Wire)))
        if chance.random() < 0.1:
            yield replace(agreeing, token_kind=chance.choice(tuple(Token)))
        elif chance.random() < 0.3:
            yield _mutated(chance, agreeing, 1.0)
        else:
            yield _mutated(chance, agreeing, chance.choice((0.0, 0.1, 0.2)))


def _agreeing(chance: random.Random, about: Who, *, wire: Wire) -> Case:
    is_grpc = wire is Wire.GRPC
    header = about if is_grpc else chance.choice((about, Who.NONE))
    return Case(
        wire=wire,
        tls=chance.random() < 0.3,
        method=chance.choice((Method.LIST, Method.GET, Method.AUTHORITY, Method.ISSUE)),
        path=Who.NONE if is_grpc else about,
        header=header,
        host_kind=chance.choice((Host.SHARED, Host.LABEL, Host.CUSTOM)),
        host=about,
        token_kind=Token.GOOD,
        token=about,
        certificate=chance.choice((about, Who.NONE)),
        sni=chance.choice((about, Who.NONE)),
        query=Query.NONE,
        query_who=about,
        message=about if is_grpc else Who.NONE,
    )


def _mutated(chance: random.Random, case: Case, rate: float) -> Case:
    parties = tuple(Who)
    places: dict[str, tuple[Any, ...]] = {
        "method": tuple(Method),
        "path": (Who.NONE,) if case.wire is Wire.GRPC else parties,
        "header": parties,
        "host_kind": tuple(Host),
        "host": (Who.A, Who.B, Who.SUSPENDED, Who.ABSENT),
        "token_kind": tuple(Token),
        "token": NAMED,
        "certificate": parties,
        "sni": parties,
        "query": (Query.NONE,) if case.wire is Wire.GRPC else tuple(Query),
        "query_who": (Who.A, Who.B, Who.ABSENT),
        "message": parties,
    }
    drawn = {place: chance.choice(values) for place, values in places.items() if chance.random() < rate}
    return replace(case, **drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What has to come of a case."""

    kind: str
    """`SERVED`, `STRANGER`, or the code of a reason that the tenant's own caller is told."""
    upstream: bool = False
    begins: bool = False
    """Whether the service may see its beginning: it is told that the call is over before there is a message."""
    denied: tuple[tuple[Who, str], ...] = ()
    """Whose audit log has it, with the reason."""


STRANGER: Final = Outcome(kind="STRANGER")


def expected(case: Case) -> Outcome:
    """Say what has to come of the case."""
    if not _is_routed(case):
        return STRANGER
    if case.token_kind is Token.NAMES_ANOTHER:
        tenants = (case.token, other_than(case.token))
        return Outcome(kind="STRANGER", denied=tuple((who, "TOKEN_OF_ANOTHER_TENANT") for who in tenants))
    if case.token_kind not in PROVEN:
        return STRANGER
    fault = _disagreement(case)
    if fault:
        return Outcome(kind="STRANGER", denied=((case.token, fault),))
    code = _withheld(case)
    if code:
        return Outcome(kind=code, denied=((case.token, code),))
    return _served(case)


def other_than(who: Who) -> Who:
    return Who.B if who is Who.A else Who.A


def _is_routed(case: Case) -> bool:
    """Whether its tenant's routes lead to the agent, whoever that tenant is."""
    host = case.host if case.host_kind in {Host.LABEL, Host.CUSTOM} else Who.NONE
    routes = next((who for who in (case.path, case.header, host) if who is not Who.NONE), Who.NONE)
    if routes not in {Who.A, Who.B} or case.host_kind is Host.FOREIGN or host not in {routes, Who.NONE}:
        return False
    return case.wire is Wire.GRPC or case.path is routes


def _disagreement(case: Case) -> str:
    claims = {case.path, case.header}
    if case.host_kind in {Host.LABEL, Host.CUSTOM}:
        claims.add(case.host)
    if case.tls:
        claims.add(case.sni)
    if claims - {Who.NONE, case.token}:
        return "TENANT_MISMATCH"
    if case.query is Query.FIELD and case.method is not Method.UNKNOWN:
        return "TENANT_IN_QUERY"
    if case.tls and case.certificate not in {Who.NONE, case.token}:
        return "TENANT_MISMATCH"
    return ""


def _withheld(case: Case) -> str:
    if case.token_kind is Token.EXPIRED:
        return "TOKEN_EXPIRED"
    if case.token_kind is Token.REVOKED:
        return "TOKEN_REVOKED"
    if case.method is Method.UNKNOWN:
        return "METHOD_UNKNOWN"
    return "SCOPE_MISSING" if case.token_kind is Token.UNSCOPED else ""


def _served(case: Case) -> Outcome:
    """Say what has to come of what the agent lets through: the transcoder, and then the service."""
    if case.wire is not Wire.GRPC:
        # A second word on whose it is, in a body that means something.
        collides = case.method is Method.ISSUE and case.message not in {Who.NONE, case.path}
        if case.query is Query.UNKNOWN or collides:
            return Outcome(kind="REQUEST_MALFORMED", begins=collides and case.query is not Query.UNKNOWN)
        return Outcome(kind="SERVED", upstream=True)
    if case.message is Who.NONE:
        return Outcome(kind="INVALID_ARGUMENT", upstream=True)
    if case.message is not case.token:
        return Outcome(kind="PERMISSION_DENIED", upstream=True, denied=((case.token, "TENANT_MISMATCH"),))
    return Outcome(kind="SERVED", upstream=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A case in bytes, but for what TLS is told."""

    start: bytes
    """The first line of HTTP/1."""
    http2: Fields
    fields: Fields
    body: bytes


class Renderer:
    """Writes cases down, about the tenants of a world."""

    def __init__(self, world: EdgeWorld) -> None:
        self._world = world
        self._tenants = {Who.A: world.tenant_a, Who.B: world.tenant_b, Who.SUSPENDED: world.suspended}
        self._csr = signing_request("renderer")
        self._tokens = {(kind, who): self._token(kind, who) for kind in Token for who in NAMED}

    def tenant(self, who: Who) -> EdgeTenant:
        return self._tenants[who]

    def tenant_id(self, who: Who) -> str:
        return self._tenants[who].tenant_id if who in self._tenants else self._world.absent

    def server_name(self, case: Case) -> str:
        return self._host(Host.SHARED if case.sni is Who.NONE else Host.LABEL, case.sni)

    def write(self, case: Case) -> Request:
        """Write it; the same case gives the same bytes."""
        path, method, body = self._grpc(case) if case.wire is Wire.GRPC else self._rest(case)
        host = self._host(case.host_kind, case.host).encode()
        fields: Fields = []
        if case.header is not Who.NONE:
            fields.append((b"x-tenant-id", self.tenant_id(case.header).encode()))
        if token := self._tokens[case.token_kind, case.token]:
            fields.append((b"authorization", b"Bearer " + token.encode()))
        if case.wire is Wire.GRPC:
            fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        elif body:
            fields.append((b"content-type", b"application/json"))
        return Request(
            start=b"%s %s HTTP/1.1\r\nhost: %s" % (method, path.encode(), host),
            http2=[*rest(path.encode(), host, method=method), *fields],
            fields=fields,
            body=body,
        )

    def _rest(self, case: Case) -> tuple[str, bytes, bytes]:
        rpc, field = RPCS[case.method]
        name = self._name(case, case.path)
        suffix = _SUFFIX.get(case.method, "")
        path = f"/api/v1/{name}{suffix}" if case.path is not Who.NONE else f"/api/v1{suffix}"
        if case.query is Query.FIELD:
            path += f"?{field}=tenants/{self.tenant_id(case.query_who)}"
        elif case.query is Query.UNKNOWN:
            path += f"?tenant_id={self.tenant_id(case.query_who)}"
        if case.method is not Method.ISSUE:
            return path, b"GET", b""
        body: dict[str, Any] = {"csr_pem": self._csr, "validate_only": True}
        if case.message is not Who.NONE:
            body["parent"] = f"tenants/{self.tenant_id(case.message)}"
        assert rpc
        return path, b"POST", json.dumps(body).encode()

    def _grpc(self, case: Case) -> tuple[str, bytes, bytes]:
        rpc, field = RPCS[case.method]
        name = "" if case.message is Who.NONE else self._name(case, case.message)
        if name and case.method is Method.AUTHORITY:
            name += "/certificateAuthority"
        more: dict[str, Any] = {"csr_pem": self._csr, "validate_only": True} if case.method is Method.ISSUE else {}
        kind: Any = getattr(certificates_pb2, f"{rpc}Request", certificates_pb2.ListCertificatesRequest)
        message: bytes = kind(**{field: name}, **more).SerializeToString()
        return f"/bulkhead.v1.CertificateService/{rpc}", b"POST", framed(message)

    def _name(self, case: Case, who: Who) -> str:
        tenant = f"tenants/{self.tenant_id(who)}"
        if case.method is not Method.GET:
            return tenant
        return self._tenants[who].certificate if who in self._tenants else f"{tenant}/certificates/{_NOBODYS}"

    def _host(self, kind: Host, who: Who) -> str:
        if kind is Host.SHARED:
            return self._world.authority
        if kind is Host.FOREIGN:
            return "elsewhere.example.net"
        if who not in self._tenants:
            return f"{self._world.absent.replace('_', '-')}.{DOMAIN}"
        return self._tenants[who].host if kind is Host.LABEL else self._tenants[who].custom

    def _token(self, kind: Token, who: Who) -> str:
        tenant = self._tenants[who]
        made = {
            Token.GOOD: tenant.token,
            Token.EXPIRED: tenant.expired(),
            Token.REVOKED: tenant.revoked,
            Token.UNSCOPED: tenant.signed(scopes=("audit.read",)),
            Token.NAMES_ANOTHER: tenant.signed(tenant_id=self.tenant_id(other_than(who))),
            Token.NONE: "",
            Token.PLATFORMS: self._world.platform_token,
            Token.GARBAGE: f"{tenant.token[:-6]}AAAAAA",
        }
        return made[kind]
