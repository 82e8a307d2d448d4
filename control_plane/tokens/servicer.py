"""TokenService over gRPC."""

from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from typing_extensions import override

from bulkhead.v1 import rules_pb2, tokens_pb2, tokens_pb2_grpc
from control_plane.errors import NotFoundError, Violations
from control_plane.ids import uuid_of
from control_plane.keys.service import TenantKeys
from control_plane.serving import names
from control_plane.serving.call import current_call
from control_plane.serving.fields import read_request_id
from control_plane.serving.interception import Context
from control_plane.serving.paging import PageTokens
from control_plane.serving.principal import TENANT_BOUND, Principal, Role
from control_plane.serving.rules import role_number
from control_plane.tokens import service, store
from control_plane.tokens.model import (
    DEFAULT_LIFETIME,
    LONGEST_LIFETIME,
    MOST_SCOPES,
    PLATFORM_GRANTS,
    SCOPES,
    Grant,
    Token,
    lifetime_violation,
    scope_violations,
    subject_violation,
)

_ROLES: Final = {role_number(role): role.value for role in (Role.TENANT_ADMIN, Role.TENANT_MEMBER, Role.AUDITOR)}


class TokenServicer(tokens_pb2_grpc.TokenServiceServicer):
    """See tokens.proto."""

    def __init__(self, keys: TenantKeys, page_tokens: PageTokens) -> None:
        """Sign with the tenants' `keys`."""
        self._keys = keys
        self._page_tokens = page_tokens

    @override
    async def IssueToken(
        self, request: tokens_pb2.IssueTokenRequest, context: Context
    ) -> tokens_pb2.IssueTokenResponse:
        call, now = current_call(), datetime.now(UTC)
        wanted = _vouched(_wanted(request, actor=call.actor, grantable=_grantable(call.principal)), call.principal)
        if request.validate_only:
            token = await service.check_request(call.tenant(), wanted, now=now)
            return tokens_pb2.IssueTokenResponse(metadata=to_proto(token, call.tenant_name))
        issued = await service.issue_token(call.tenant(), wanted, keys=self._keys, now=now)
        return _answer(issued, call.tenant_name)

    @override
    async def GetToken(self, request: tokens_pb2.GetTokenRequest, context: Context) -> tokens_pb2.Token:
        call = current_call()
        token_id = _token_id(request.name)
        token = await call.tenant().run(lambda tx: store.find(tx, token_id))
        if token is None:
            raise NotFoundError(request.name)
        return to_proto(token, call.tenant_name)

    @override
    async def ListTokens(
        self, request: tokens_pb2.ListTokensRequest, context: Context
    ) -> tokens_pb2.ListTokensResponse:
        call = current_call()
        parent = call.tenant_name
        page = self._page_tokens.page(request, method=call.method, parent=parent, now=datetime.now(UTC))
        tokens = await call.tenant().run(lambda tx: store.list_page(tx, page.before, limit=page.limit))
        shown, next_page_token = page.cut(tokens, lambda token: token.id)
        return tokens_pb2.ListTokensResponse(
            tokens=[to_proto(token, parent) for token in shown], next_page_token=next_page_token
        )

    @override
    async def RevokeToken(self, request: tokens_pb2.RevokeTokenRequest, context: Context) -> tokens_pb2.Token:
        call = current_call()
        revocation = await service.revoke_token(call.tenant(), _token_id(request.name), now=datetime.now(UTC))
        message = to_proto(revocation.token, call.tenant_name)
        message.edge_revision = revocation.edge_revision
        return message

    @override
    async def GetEnrolmentToken(
        self, request: tokens_pb2.GetEnrolmentTokenRequest, context: Context
    ) -> tokens_pb2.EnrolmentToken:
        call = current_call()
        enrolment, token = await service.show_enrolment(call.tenant(), keys=self._keys, now=datetime.now(UTC))
        message = tokens_pb2.EnrolmentToken(name=request.name, enrolment_token=token)
        message.expire_time.FromDatetime(enrolment.expire_time)
        return message

    @override
    async def RedeemEnrolmentToken(
        self, request: tokens_pb2.RedeemEnrolmentTokenRequest, context: Context
    ) -> tokens_pb2.IssueTokenResponse:
        call = current_call()
        issued = await service.redeem_enrolment(
            call.tenant(), request.enrolment_token, keys=self._keys, now=datetime.now(UTC)
        )
        return _answer(issued, call.tenant_name)


def _grantable(principal: Principal | None) -> AbstractSet[str]:
    return SCOPES if principal and principal.role in TENANT_BOUND else PLATFORM_GRANTS


def _vouched(wanted: service.Request, principal: Principal | None) -> service.Request:
    """Say who issues the token: one of the tenant's own, by the token that it has shown, or the platform."""
    if principal is None or principal.role not in TENANT_BOUND:
        return wanted
    shown = uuid_of(principal.token_id or "") or UUID(int=0)
    return replace(wanted, issuer=principal.subject, shown=shown)


def _wanted(
    request: tokens_pb2.IssueTokenRequest, *, actor: str, grantable: AbstractSet[str] = SCOPES
) -> service.Request:
    """Check the whole request; list everything that is wrong with it at once."""
    violations = Violations()
    violations.add("subject", subject_violation(request.subject))
    role = _ROLES.get(request.role or rules_pb2.ROLE_TENANT_MEMBER)
    if role is None:
        violations.add("role", "must be ROLE_TENANT_ADMIN, ROLE_TENANT_MEMBER or ROLE_AUDITOR", reason="ROLE")
    if len(request.scopes) > MOST_SCOPES:
        violations.add("scopes", f"must be {MOST_SCOPES} at most")
    for index, description in scope_violations(request.scopes[:MOST_SCOPES], grantable=grantable).items():
        violations.add(f"scopes[{index}]", description, reason="SCOPE")
    lifetime = _lifetime(request.ttl) if request.HasField("ttl") else DEFAULT_LIFETIME
    violations.add("ttl", lifetime_violation(lifetime))
    request_id = read_request_id(request.request_id, violations)
    violations.check()
    grant = Grant(subject=request.subject, role=role or "", scopes=tuple(request.scopes), lifetime=lifetime)
    return service.Request(grant=grant, actor=actor, request_id=request_id)


def _lifetime(ttl: Duration) -> timedelta:
    # A Duration holds more than Python's: whatever is far too long is too long by a second.
    longest = LONGEST_LIFETIME + timedelta(seconds=1)
    seconds = max(-1, min(ttl.seconds, longest // timedelta(seconds=1)))
    return timedelta(seconds=seconds, microseconds=ttl.nanos // 1000)


def _token_id(name: str) -> UUID:
    token_id = uuid_of(names.parse(names.TOKEN, name)["token"])
    if token_id is None:
        raise NotFoundError(name)
    return token_id


def _answer(issued: service.Issued, parent: str) -> tokens_pb2.IssueTokenResponse:
    return tokens_pb2.IssueTokenResponse(token=issued.jwt, metadata=to_proto(issued.token, parent))


def to_proto(token: Token, parent: str) -> tokens_pb2.Token:
    """Show a token of the tenant named `parent`, without the token itself."""
    message = tokens_pb2.Token(
        name=f"{parent}/tokens/{token.id}",
        subject=token.subject,
        role=role_number(Role(token.role)),
        scopes=token.scopes,
    )
    message.create_time.FromDatetime(token.create_time)
    message.expire_time.FromDatetime(token.expire_time)
    if token.revoke_time is not None:
        message.revoke_time.FromDatetime(token.revoke_time)
    return message
