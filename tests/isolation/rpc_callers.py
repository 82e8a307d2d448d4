"""Every kind of caller that there is, against tenants in every state, and what each reads: byte for byte."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from bulkhead.v1 import (
    rules_pb2,
)
from control_plane.ids import TenantId
from control_plane.serving import context as tenant_context
from control_plane.serving.principal import SCOPED, Role
from control_plane.serving.rules import role_number
from control_plane.settings import ListenerSettings, Settings
from control_plane.stack.edge.identities import AGENT
from control_plane.tokens.platform import PlatformIssuer
from tests.fixtures.synthetic import registry
from tests.isolation.rpc_founder import Founder, Metadata, bearer
from tests.isolation.rpc_requests import METHODS, Target, path, rule

SCOPES: Final = frozenset(rule(method).scope for method in METHODS) - {""}
BY_SCOPE: Final = {role_number(role) for role in SCOPED}
FIRST_ASKED: Final = ("platform-admin", "tenant-admin", "tenant-member")
CERTIFICATES: Final = "bulkhead.v1.CertificateService"
STREAMING: Final = frozenset(path(method) for method in METHODS if method.server_streaming)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody with a credential, or with none."""

    role: rules_pb2.Role.ValueType | None
    metadata: Metadata
    # The tenant that the credential is bound to; None for the platform's own people.
    tenant: str | None = None
    scopes: frozenset[str] = frozenset()
    # Whether it comes with a client certificate, through the listener for internal services.
    is_internal: bool = False
    # Whether that certificate is an edge's.
    is_edge: bool = False
    # Makes the credential anew for each call, where it does not live as long as the tests.
    signed: Callable[[], Metadata] | None = None

    def shown(self) -> Metadata:
        """Return what it sends with a call."""
        return self.metadata if self.signed is None else self.signed()

    @property
    def shows_nothing(self) -> bool:
        """Whether there is no credential at all."""
        return not self.metadata and not self.is_internal


# Its certificate is all that it shows.
EDGES: Final = {"edge": Caller(role=rules_pb2.ROLE_EDGE, metadata=(), is_internal=True, is_edge=True)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Everything that a caller can read of an answer, without the id of the request."""

    code: str
    text: str
    headers: tuple[tuple[str, bytes], ...]
    trailers: tuple[tuple[str, bytes], ...]
    body: bytes

    @property
    def reason(self) -> str:
        """The machine-readable reason of a refusal, or nothing."""
        packed = dict(self.trailers).get("grpc-status-details-bin", b"")
        info = error_details_pb2.ErrorInfo()
        return next((info.reason for any_ in status_pb2.Status.FromString(packed).details if any_.Unpack(info)), "")

    def without(self, secret: UUID) -> "Answer":
        """Return a refusal with an id of the question blotted out wherever it is repeated."""
        text, blank = str(secret), "0" * len(str(secret))
        trailers = tuple((key, value.replace(text.encode(), blank.encode())) for key, value in self.trailers)
        return replace(self, text=self.text.replace(text, blank), trailers=trailers)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The tenants, the callers, and the way to each service."""

    own: Target
    foreign: Target
    suspended: Target
    sealed: Target
    absent: Target
    callers: Mapping[str, Caller]
    # The administrator of the foreign tenant, who is none of the callers: all of those are strangers there.
    foreign_admin: Caller
    # By whether the caller is internal and whether the service is that of certificates.
    channels: Mapping[tuple[bool, bool], grpc.Channel]
    # An edge's, by whether the service is that of certificates.
    edge_channels: Mapping[bool, grpc.Channel]

    @property
    def targets(self) -> dict[str, Target]:
        """The tenants by what they are to the callers."""
        return {
            "own": self.own,
            "foreign": self.foreign,
            "suspended": self.suspended,
            "sealed": self.sealed,
            "absent": self.absent,
        }

    def lets_in(self, caller: str, method: MethodDescriptor) -> bool:
        """Say whether the method's rule names the caller, wherever it belongs."""
        who, said = self.callers[caller], rule(method)
        return who.role in said.roles and (who.role not in BY_SCOPE or said.scope in {"", *who.scopes})

    def permitted(self, method: MethodDescriptor, target: Target | None = None) -> Caller | str:
        """Name somebody whom the rule lets in, at the target where it is given; the platform's administrator first."""
        if rule(method).unauthenticated:
            return "nobody"
        found = next((name for name in FIRST_ASKED if self.lets_in(name, method)), FIRST_ASKED[0])
        return self.foreign_admin if target is self.foreign and found != FIRST_ASKED[0] else found

    def ask(self, caller: Caller | str, method: str, message: Message, *, appended: bytes = b"") -> Answer:
        """Send the message, with `appended` bytes after it, and keep all that comes back."""
        who = self.callers[caller] if isinstance(caller, str) else caller
        of_certificates = method.startswith(f"/{CERTIFICATES}/")
        channel = (
            self.edge_channels[of_certificates] if who.is_edge else self.channels[who.is_internal, of_certificates]
        )

        def serialize(asked: Message) -> bytes:
            return asked.SerializeToString() + appended

        if method in STREAMING:
            return _first_answer(channel.unary_stream(method, request_serializer=serialize), message, who.shown())
        send: Any = channel.unary_unary(method, request_serializer=serialize)
        try:
            body, call = send.with_call(message, metadata=who.shown(), timeout=30)
        except grpc.RpcError as error:
            body, call = b"", error
        return _answer(body, call)


def _first_answer(send: Any, message: Message, metadata: Metadata) -> Answer:
    """Keep what a stream begins with: a first message is as good as an OK, since it has no end to wait for."""
    call = send(message, metadata=metadata, timeout=30)
    try:
        body = next(call)
    except grpc.RpcError as error:
        return _answer(b"", error)
    call.cancel()
    return Answer(code="OK", text="", headers=(), trailers=(), body=body)


def _answer(body: bytes, call: Any) -> Answer:
    trailers = [(key, value if isinstance(value, bytes) else value.encode()) for key, value in call.trailing_metadata()]
    headers = [(key, value if isinstance(value, bytes) else value.encode()) for key, value in call.initial_metadata()]
    request_id = dict(trailers).get("x-request-id", b"no request id")
    return Answer(
        code=call.code().name,
        text=call.details() or "",
        headers=tuple(sorted(headers)),
        trailers=tuple(sorted((key, value.replace(request_id, b"0" * len(request_id))) for key, value in trailers)),
        body=body,
    )


@contextmanager
def open_world(state_dir: Path) -> Iterator[World]:
    """Make four tenants in a running stack, and callers of every role."""
    settings = Settings.from_dir(state_dir)
    services = {False: settings.control_plane, True: settings.certificates}
    with ExitStack() as stack:
        channels = {
            (internal, certificates): stack.enter_context(_channel(settings, listener, internal=internal))
            for certificates, listener in services.items()
            for internal in (False, True)
        }
        edge_channels = {
            certificates: stack.enter_context(_edge_channel(settings, listener))
            for certificates, listener in services.items()
        }
        admin: Metadata = (bearer(settings.admin_token_file.read_text().strip()),)
        founder = Founder(channels, admin)
        own, foreign, suspended, sealed = (founder.tenant(kind) for kind in ("own", "foreign", "suspended", "sealed"))
        founder.seal(sealed)
        founder.suspend(suspended)
        _note_two_breaches(settings)
        yield World(
            own=own,
            foreign=foreign,
            suspended=suspended,
            sealed=sealed,
            absent=Target(tenant=f"absent_{secrets.token_hex(4)}", resources={name: uuid4() for name in own.resources}),
            foreign_admin=_tenant_caller(founder, foreign, rules_pb2.ROLE_TENANT_ADMIN, frozenset()),
            callers=_platform_callers(settings, admin)
            | _tenant_callers(founder, own)
            | _service_callers(settings, own)
            | EDGES,
            channels=channels,
            edge_channels=edge_channels,
        )


def _note_two_breaches(settings: Settings) -> None:
    """Say that there were some, for their list: of tenants that are gone."""
    with registry(settings) as connection:
        connection.execute(
            "INSERT INTO csm_system.breaches (id, owner_uid, channel, method, request_id, count, first_time, last_time)"
            " SELECT uuidv7(), uuidv7(), 'row', 'a test', '', 1, now(), now() FROM generate_series(1, 2)"
        )


def _channel(settings: Settings, listener: ListenerSettings, *, internal: bool) -> grpc.Channel:
    authority = settings.ca_file.read_bytes()
    if not internal:
        return grpc.secure_channel(listener.listen, grpc.ssl_channel_credentials(authority))
    # Any process of the cell that the configuration knows as a service may speak for one.
    known = settings.control_plane if "control-plane" in settings.services else settings.certificates
    mutual = grpc.ssl_channel_credentials(authority, known.key.read_bytes(), known.certificate.read_bytes())
    return grpc.secure_channel(listener.internal_listen, mutual)


def _edge_channel(settings: Settings, listener: ListenerSettings) -> grpc.Channel:
    """Connect as the stack's own agent."""
    folder = settings.ca_file.parent
    key, certificate = ((folder / f"{AGENT.name}{suffix}").read_bytes() for suffix in (".key", ".pem"))
    mutual = grpc.ssl_channel_credentials(settings.ca_file.read_bytes(), key, certificate)
    return grpc.secure_channel(listener.internal_listen, mutual)


def _platform_callers(settings: Settings, admin: Metadata) -> dict[str, Caller]:
    issuer = PlatformIssuer.load_or_create(settings.secrets_dir / "platform-tokens.key")

    def token(role: Role) -> Metadata:
        return (bearer(issuer.issue("matrix", role, ttl=timedelta(hours=1), now=datetime.now(UTC))),)

    return {
        "nobody": Caller(role=None, metadata=()),
        "platform-admin": Caller(role=rules_pb2.ROLE_PLATFORM_ADMIN, metadata=admin),
        "provider-operator": Caller(role=rules_pb2.ROLE_PROVIDER_OPERATOR, metadata=token(Role.PROVIDER_OPERATOR)),
        "with a made-up token": Caller(role=None, metadata=(bearer("eyJhbGciOiJFZERTQSJ9.e30.AAAA"),)),
    }


def _service_callers(settings: Settings, own: Target) -> dict[str, Caller]:
    key = (settings.secrets_dir / "context.key").read_bytes()
    # What the process is whose certificate is shown; see `_channel`.
    own_scopes = settings.services.get("control-plane", settings.services.get("certificates", frozenset()))

    def caller(scopes: frozenset[str]) -> Caller:
        def signed() -> Metadata:
            context = tenant_context.TenantContext(
                tenant=TenantId(own.tenant),
                tier="standard",
                isolation_level="POOLED",
                subject="matrix",
                role=Role.TENANT_ADMIN,
                scopes=scopes,
                session=None,
                expire_time=datetime.now(UTC) + tenant_context.LONGEST_LIFETIME - timedelta(seconds=5),
            )
            return ((tenant_context.HEADER, tenant_context.encode(context, key)),)

        return Caller(
            role=rules_pb2.ROLE_SERVICE,
            metadata=(),
            tenant=own.tenant,
            # What a context says it may, and it itself may not, it may not.
            scopes=scopes & own_scopes,
            is_internal=True,
            signed=signed,
        )

    return {"service": caller(SCOPES), "service without scopes": caller(frozenset())}


def _tenant_callers(founder: Founder, own: Target) -> dict[str, Caller]:
    kinds = {
        "tenant-admin": (rules_pb2.ROLE_TENANT_ADMIN, frozenset[str]()),
        "tenant-member": (rules_pb2.ROLE_TENANT_MEMBER, SCOPES),
        "tenant-member without scopes": (rules_pb2.ROLE_TENANT_MEMBER, frozenset[str]()),
        "auditor": (rules_pb2.ROLE_AUDITOR, SCOPES),
        "auditor without scopes": (rules_pb2.ROLE_AUDITOR, frozenset[str]()),
    }
    return {name: _tenant_caller(founder, own, role, scopes) for name, (role, scopes) in kinds.items()}


def _tenant_caller(founder: Founder, own: Target, role: rules_pb2.Role.ValueType, scopes: frozenset[str]) -> Caller:
    token = founder.token(f"tenants/{own.tenant}", role, scopes)
    return Caller(role=role, metadata=(bearer(token),), tenant=own.tenant, scopes=scopes)
