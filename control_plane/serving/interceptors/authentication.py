"""Who calls: a bearer token, or a SPIFFE identity of mutual TLS. One, never both.

A service shows a signed tenant context beside its identity; an edge speaks for itself, and for no tenant.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Final

import structlog
from google.protobuf.message import Message
from typing_extensions import override

from control_plane.errors import UnauthenticatedError
from control_plane.serving import context as tenant_context
from control_plane.serving.call import current_call
from control_plane.serving.interception import Context, Interceptor
from control_plane.serving.principal import Principal, Role

VerifyToken = Callable[[str], Awaitable[Principal]]
"""Returns whom a token stands for. Raises UnauthenticatedError."""

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_IDENTITY: Final = re.compile(
    r"spiffe://bulkhead/(?:service/(?P<service>[^/]+)|edge/(?P<edge>[a-z0-9-]{1,63}))", re.ASCII
)


class BearerAuthentication(Interceptor):
    """For listeners without client certificates: the caller shows exactly one bearer token."""

    def __init__(self, verify_token: VerifyToken) -> None:
        """Verify tokens with `verify_token`."""
        super().__init__()
        self._verify_token = verify_token

    @override
    @asynccontextmanager
    async def around(self, method: str, request: Message | None, context: Context) -> AsyncIterator[None]:
        call = current_call()
        if not call.rule.unauthenticated:
            if _values(context, tenant_context.HEADER):
                raise UnauthenticatedError("a signed context is for services only", cause="CONTEXT_OF_NO_SERVICE")
            call.principal = await self._verify_token(_bearer_token(context))
        yield


class ServiceAuthentication(Interceptor):
    """For listeners that demand a client certificate.

    An internal service acts for the tenant of a signed context; its scopes are its own, intersected with those of the
    context. An edge has no tenant, and calls what names its role.
    """

    def __init__(self, scopes: Mapping[str, frozenset[str]], context_key: bytes) -> None:
        """Know each service's own scopes by its name; verify contexts with `context_key`."""
        super().__init__()
        self._scopes = scopes
        self._context_key = context_key

    @override
    @asynccontextmanager
    async def around(self, method: str, request: Message | None, context: Context) -> AsyncIterator[None]:
        call = current_call()
        if not call.rule.unauthenticated:
            call.principal = self._principal(context)
            if (request_id := _request_id(context)) and call.principal.role is Role.SERVICE:
                # A service has told its own caller this id: one request has one, wherever it is spoken of.
                call.request_id = request_id
                structlog.contextvars.bind_contextvars(request_id=request_id)
        yield

    def _principal(self, context: Context) -> Principal:
        if _values(context, "authorization"):
            raise UnauthenticatedError("a service shows a certificate, and no token beside it", cause="TWO_CREDENTIALS")
        service, edge = _identity(context)
        headers = _values(context, tenant_context.HEADER)
        if edge:
            if headers:
                raise UnauthenticatedError("an edge acts for no tenant", cause="CONTEXT_OF_AN_EDGE")
            return Principal(subject=edge, role=Role.EDGE)
        if service not in self._scopes:
            raise UnauthenticatedError("the certificate's service is not known here", cause="SERVICE_UNKNOWN")
        if len(headers) != 1:
            raise UnauthenticatedError("exactly one signed context is needed", cause="NOT_ONE_CONTEXT")
        signed = tenant_context.decode(headers[0], self._context_key, now=datetime.now(UTC))
        return Principal(
            subject=f"{service}/{signed.subject}",
            role=Role.SERVICE,
            tenant=signed.tenant,
            scopes=self._scopes[service] & signed.scopes,
            token_id=signed.session,
        )


def _bearer_token(context: Context) -> str:
    values = _values(context, "authorization")
    if not values:
        raise UnauthenticatedError("no `authorization: Bearer …` was sent", reason="MISSING_AUTHORIZATION")
    scheme, _, token = values[0].partition(" ")
    if len(values) != 1 or scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError("exactly one `authorization: Bearer …` is needed", cause="NOT_ONE_TOKEN")
    return token


def _identity(context: Context) -> tuple[str, str]:
    """Return the name of the service or of the edge that the certificate is for; the other is empty."""
    # gRPC gives every SAN, URIs among them; an identity is exactly one of ours.
    names = [value.decode(errors="replace") for value in context.peer_identities() or ()]
    ours = [name for name in names if name.startswith("spiffe://")]
    found = _IDENTITY.fullmatch(ours[0]) if len(ours) == 1 else None
    return (found["service"] or "", found["edge"] or "") if found else ("", "")


def _request_id(context: Context) -> str:
    """Return the id that the caller gives to the request; empty where that is not one UUID."""
    values = _values(context, "x-request-id")
    return values[0] if len(values) == 1 and _UUID.fullmatch(values[0]) else ""


def _values(context: Context, key: str) -> list[str]:
    metadata = context.invocation_metadata() or ()
    return [value if isinstance(value, str) else value.decode("latin-1") for name, value in metadata if name == key]
