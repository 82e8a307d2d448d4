"""What a request says, taken out of Envoy's Check: every claim of a tenant, in its one canonical form or not at all.

A header that says who is meant or who asks has exactly one value, looked at as raw bytes. Two values, an empty one, a
character that has no place there: the request has a fault and is refused, and nothing is repaired, joined or preferred.
The path is the one that Envoy normalised and routes by; one that still is in no canonical form is not interpreted.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_plus

from bulkhead.envoy.v3 import check_pb2
from control_plane.ids import tenant_id_violation
from ext_authz.authz.methods import Wire
from ext_authz.leases.grants import REPEATED, UNSPENT

_HOST: Final = ":authority"
# Each means something to the decision or to its records. `host` is the same header in the words of HTTP/1.
_READ: Final = {
    "authorization": "authorization",
    "x-tenant-id": "x-tenant-id",
    "x-bulkhead-tenant": "x-bulkhead-tenant",
    "content-type": "content-type",
    "x-request-id": "x-request-id",
    UNSPENT: UNSPENT,
    REPEATED: REPEATED,
    _HOST: _HOST,
    "host": _HOST,
}
_OURS: Final = "x-bulkhead-"

# As in RFC 3986, but without `;` and `%`: no id of ours needs them, and servers differ in what they make of them.
_PATH: Final = re.compile(rb"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~!$&'()*+,=:@-]+)+")
# A `#` would begin what no server is sent.
_QUERY: Final = re.compile(rb"[!\"$-~]*")
_TENANTS: Final = "/api/v1/tenants/"
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] ([A-Za-z0-9_.-]+)")
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PORT: Final = re.compile(r":[0-9]{1,5}\Z")
_GRPC: Final = frozenset({b"application/grpc", b"application/grpc+proto"})
# With a port.
_LONGEST_NAME: Final = 260
_MOST_REMEMBERED: Final = 10_000
_LONGEST_REQUEST_ID: Final = 128


class UndecidableError(Exception):
    """Envoy asks in a way that our listeners and routes do not: no answer can be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request. Where it has a fault, whatever else it says is for the records alone."""

    http_method: str
    path: str
    """Without the query; empty where it is in no canonical form."""
    query_names: Collection[str]
    """The names of the query's parameters."""
    wire: Wire
    tenant_ids: Mapping[str, str]
    """The tenants that it names by their ids, by where it does."""
    hosts: Mapping[str, str]
    """The hosts that it names, by where it does; without those that belong to no tenant."""
    names_tenant: bool
    """Whether anything besides its credentials says which tenant is meant."""
    token: str
    """Empty where none is shown."""
    certificate: bytes
    """The client's, PEM in URL encoding; empty where none is shown."""
    epoch: int
    """The revision of the routes that it came by."""
    peer: str
    request_id: str
    begun_ms: int
    """When it came to Envoy, in milliseconds since 1970."""
    unspent: bytes
    """What our own Lua filter says is left of a lease; empty where it says nothing."""
    repeated: int
    """How often the same filter has refused the same request since it was asked about last."""
    fault: str
    """Why it is not to be believed, in UPPER_SNAKE; empty where it has no fault."""


@dataclass(slots=True)
class _Reading:
    """A request on its way to being `Asked`: it keeps the first fault, and what could be read in spite of it."""

    shared_hosts: Collection[str]
    tenant_ids: dict[str, str]
    hosts: dict[str, str]
    names_tenant: bool = False
    fault: str = ""

    def note(self, fault: str) -> None:
        self.fault = self.fault or fault

    def take_tenant_id(self, place: str, raw: bytes) -> None:
        tenant_id = _tenant_id(raw) if len(raw) <= _LONGEST_NAME else None
        if tenant_id is None:
            self.note("MALFORMED_CLAIM")
            return
        self.tenant_ids[place] = tenant_id
        self.names_tenant = True

    def take_host(self, place: str, raw: bytes) -> None:
        host = _host(raw) if len(raw) <= _LONGEST_NAME else ""
        if host in self.shared_hosts:
            return
        if not _NAME.fullmatch(host):
            self.note("MALFORMED_CLAIM")
            return
        self.hosts[place] = host
        self.names_tenant = self.names_tenant or place != "sni"

    def take_scope(self, raw: bytes) -> None:
        """Take what our own Lua filter has found, by which the request's routes were selected."""
        if raw.startswith(b"id:"):
            self.take_tenant_id("scope", raw[3:])
        elif raw.startswith(b"host:"):
            self.take_host("scope", raw[5:])
        else:
            self.note("MALFORMED_CLAIM")


def read_request(request: check_pb2.CheckRequest, shared_hosts: Collection[str]) -> Asked:
    """Take the request out of a Check; `shared_hosts` belong to no tenant.

    Raises:
        UndecidableError: when this is no Check of a listener and a route of ours.
    """
    attributes = request.attributes
    http = attributes.request.http
    reading = _Reading(shared_hosts, {}, {})
    headers = _headers(http.header_map, reading)
    if headers.setdefault(_HOST, http.host) != http.host:
        reading.note("DUPLICATE_HEADER")
    path, query_names = _target(http.path, reading)
    _take_claims(headers, path, reading)
    if attributes.HasField("tls_session") and attributes.tls_session.sni:
        reading.take_host("sni", attributes.tls_session.sni)
    if attributes.source.principal and not attributes.source.certificate:
        reading.note("CERTIFICATE_MISSING")
    return Asked(
        http_method=http.method.decode("latin-1"),
        path=path,
        query_names=query_names,
        wire=_wire(headers.get("content-type")),
        tenant_ids=reading.tenant_ids,
        hosts=reading.hosts,
        names_tenant=reading.names_tenant,
        token=_token(headers.get("authorization"), reading),
        certificate=attributes.source.certificate,
        epoch=_epoch(attributes.context_extensions),
        peer=attributes.source.address.socket_address.address,
        request_id=_request_id(headers.get("x-request-id", b"")),
        begun_ms=attributes.request.time.seconds * 1000 + attributes.request.time.nanos // 1_000_000,
        unspent=headers.get(UNSPENT, b""),
        repeated=int(headers.get(REPEATED, b"0")),
        fault=reading.fault,
    )


def _headers(sent: check_pb2.HeaderMap, reading: _Reading) -> dict[str, bytes]:
    """Collect the headers that are read. One that is there twice is left out: neither of its values counts."""
    if not sent.headers:
        raise UndecidableError("the Check has no raw headers: the listener lacks `encode_raw_headers`")
    found: dict[str, bytes] = {}
    twice: set[str] = set()
    for header in sent.headers:
        key = header.key
        name = _READ.get(key)
        if name is not None:
            if name in found:
                twice.add(name)
            found[name] = header.raw_value
        elif key.startswith(_OURS):
            reading.note("FORGED_HEADER")
    for name in twice:
        reading.note("DUPLICATE_HEADER")
        del found[name]
    return found


def _take_claims(headers: Mapping[str, bytes], path: str, reading: _Reading) -> None:
    if path.startswith(_TENANTS):
        reading.take_tenant_id("path", path[len(_TENANTS) :].partition("/")[0].encode())
    if (tenant := headers.get("x-tenant-id")) is not None:
        reading.take_tenant_id("header", tenant)
    if (scope := headers.get("x-bulkhead-tenant")) is not None:
        reading.take_scope(scope)
    reading.take_host("host", headers[_HOST])


def _target(raw: bytes, reading: _Reading) -> tuple[str, Collection[str]]:
    """Return the path, empty where it is not canonical, and the names of the query's parameters."""
    path, _, query = raw.partition(b"?")
    if not _PATH.fullmatch(path) or not _QUERY.fullmatch(query):
        reading.note("MALFORMED_PATH")
        return "", ()
    if not query:
        return path.decode(), ()
    return path.decode(), frozenset(unquote_plus(part.partition("=")[0]) for part in query.decode().split("&"))


def _token(raw: bytes | None, reading: _Reading) -> str:
    if raw is None:
        return ""
    read = _BEARER.fullmatch(raw)
    if read is None:
        reading.note("MALFORMED_CREDENTIAL")
        return ""
    return read[1].decode()


def _wire(content_type: bytes | None) -> Wire:
    """Tell gRPC from the rest as Envoy does."""
    if content_type in _GRPC:
        return Wire.GRPC
    return Wire.OTHER if content_type is not None and content_type.startswith(b"application/grpc+") else Wire.HTTP


@lru_cache(_MOST_REMEMBERED)
def _tenant_id(raw: bytes) -> str | None:
    text = raw.decode("latin-1")
    return text if tenant_id_violation(text) is None else None


@lru_cache(_MOST_REMEMBERED)
def _host(raw: bytes) -> str:
    """Return a host as hosts are compared: without one port and one trailing dot, in lower case."""
    text = raw.decode("latin-1")
    # Outside of ASCII, what is lower case is a matter of opinion.
    return _PORT.sub("", text, count=1).removesuffix(".").lower() if text.isascii() else ""


def _epoch(extensions: Mapping[str, str]) -> int:
    epoch = extensions.get("epoch", "")
    if not (epoch.isascii() and epoch.isdecimal()):
        raise UndecidableError("the Check has no epoch: its route is none of ours")
    return int(epoch)


def _request_id(raw: bytes) -> str:
    text = raw.decode("latin-1")
    return text if len(text) <= _LONGEST_REQUEST_ID and text.isascii() and text.isprintable() else ""
