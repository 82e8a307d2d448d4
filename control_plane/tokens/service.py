"""What can be done with tokens and enrolments. One function, one transaction that has an effect."""

import base64
import hmac
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from control_plane.errors import AlreadyExistsError, NotFoundError, PermissionDeniedError, PreconditionError
from control_plane.ids import new_uuid
from control_plane.keys.material import TokenSigner
from control_plane.keys.service import TenantKeys
from control_plane.postgres.database import TenantHandle, TenantTransaction
from control_plane.postgres.effects import Effect, JsonValue
from control_plane.postgres.placement import Placement
from control_plane.tokens import store
from control_plane.tokens.claims import tenant_claims
from control_plane.tokens.model import (
    ANYBODY,
    LONGEST_LIFETIME,
    THE_PLATFORM,
    Enrolment,
    Grant,
    Token,
    issuers_of,
    new_token,
    of_request,
)
from control_plane.tokens.signature import sign

ENROLMENT_PREFIX: Final = "bulkhead_enrol_"
"""So that scanners for leaked secrets recognise one."""
ENROLMENT_LIFETIME: Final = timedelta(hours=24)
# A tenant has one, and one more each time that its administrator is invited again.
_MOST_ENROLMENTS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request for a token; valid."""

    grant: Grant
    actor: str
    request_id: UUID | None
    issuer: str = THE_PLATFORM
    """The subject of a tenant's own administrator."""
    shown: UUID | None = None
    """Which token that one has shown."""

    @property
    def digest(self) -> bytes:
        """What tells it from another request with its id."""
        return self.grant.digest(self.actor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A token, and what the tenant remembers of it."""

    token: Token
    # The only place where it is: not stored, not logged.
    jwt: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A token that is revoked."""

    token: Token
    edge_revision: int
    """What the edge refuses it from; 0 where it had expired by itself before."""


async def issue_token(tenant: TenantHandle, request: Request, *, keys: TenantKeys, now: datetime) -> Issued:
    """Issue a token, or return the one that the same request was answered with: it is made of its row.

    Raises:
        AlreadyExistsError: when the request id was used for another request.
    """
    signer = await keys.token_signer(tenant.placement)
    token = new_token(request.grant, token_id=new_uuid(), kid=signer.kid, now=now)
    if request.request_id is not None:
        token = of_request(token, request_id=request.request_id, request_hash=request.digest)

    async def work(tx: TenantTransaction) -> Token:
        earlier = await _answered_before(tx, request)
        if earlier is not None:
            tx.unchanged()
            return earlier
        await _insert(tx, token, issuers=await _issuers(tx, request))
        return token

    return _issued(await tenant.run(work), tenant.placement, signer=signer)


async def check_request(tenant: TenantHandle, request: Request, *, now: datetime) -> Token:
    """Return the token that would be issued. Changes nothing.

    Raises:
        AlreadyExistsError: when the request id was used for another request.
    """

    async def work(tx: TenantTransaction) -> Token | None:
        tx.unchanged()
        return await _answered_before(tx, request)

    nobody = UUID(int=0)
    return await tenant.run(work) or new_token(request.grant, token_id=nobody, kid=nobody, now=now)


async def revoke_token(tenant: TenantHandle, token_id: UUID, *, now: datetime) -> Revocation:
    """Revoke a token for ever; a revoked one stays as it is.

    Raises:
        NotFoundError: when the tenant has no such token.
    """

    async def work(tx: TenantTransaction) -> Revocation:
        name = _token_name(tx.placement, token_id)
        revoked = await store.revoke(tx, token_id, now=now)
        if revoked is not None:
            token, edge_revision = revoked
            tx.record(Effect(resource=name, details={"subject": token.subject}))
            return Revocation(token=token, edge_revision=edge_revision)
        tx.unchanged()
        earlier = await store.find_revoked(tx, token_id)
        if earlier is None:
            raise NotFoundError(name)
        token, edge_revision = earlier
        return Revocation(token=token, edge_revision=edge_revision)

    return await tenant.run(work)


async def invite_administrator(tx: TenantTransaction, email: str, *, now: datetime) -> None:
    """Give a new tenant its user `admin` and an open enrolment for it. Does nothing the second time."""
    user_id = await store.insert_administrator(tx, new_uuid(), email=email, now=now)
    if not await store.newest_enrolments(tx, limit=1):
        enrolment = Enrolment(id=new_uuid(), user_id=user_id, expire_time=now + ENROLMENT_LIFETIME)
        await store.insert_enrolment(tx, enrolment)


async def show_enrolment(tenant: TenantHandle, *, keys: TenantKeys, now: datetime) -> tuple[Enrolment, str]:
    """Return the open enrolment and its token. That somebody saw it is an effect: it goes into the audit log.

    Raises:
        PreconditionError: when there is none open.
    """

    async def work(tx: TenantTransaction) -> Enrolment:
        name = _enrolment_name(tx.placement)
        tx.record(Effect(resource=name))
        for enrolment in await store.newest_enrolments(tx, limit=_MOST_ENROLMENTS):
            if enrolment.is_open(now):
                return enrolment
        raise PreconditionError(
            name, "the enrolment was redeemed, or has expired; issue a token instead", reason="ENROLMENT_CLOSED"
        )

    enrolment = await tenant.run(work)
    return enrolment, _enrolment_token(await keys.derive(tenant.placement, _enrolment_label(enrolment.id)))


async def redeem_enrolment(tenant: TenantHandle, enrolment_token: str, *, keys: TenantKeys, now: datetime) -> Issued:
    """Trade a one-time token for an access token of the user that it was made for. Works once.

    Raises:
        PermissionDeniedError: always the same to the caller. What was used up or has expired is told to the tenant.
    """
    signer = await keys.token_signer(tenant.placement)
    enrolment = await _enrolment_of(tenant, enrolment_token, keys=keys)

    async def work(tx: TenantTransaction) -> Token:
        if not await store.redeem_enrolment(tx, enrolment.id, now=now):
            cause = "ENROLMENT_EXPIRED" if enrolment.expire_time <= now else "ENROLMENT_USED_AGAIN"
            raise _refused(cause, tenants=tx.placement.tenant_id)
        subject, role = await store.activate_user(tx, enrolment.user_id)
        # There is no other door for an administrator yet, and a day is what an invitation was good for, too.
        grant = Grant(subject=subject, role=role, scopes=(), lifetime=LONGEST_LIFETIME)
        token = new_token(grant, token_id=new_uuid(), kid=signer.kid, now=now)
        await _insert(tx, token, issuers=(), actor=f"{role}:{subject}")
        return token

    return _issued(await tenant.run(work), tenant.placement, signer=signer)


async def _answered_before(tx: TenantTransaction, request: Request) -> Token | None:
    if request.request_id is None:
        return None
    earlier = await store.find_by_request(tx, request.request_id)
    if earlier is not None and earlier.request_hash != request.digest:
        raise AlreadyExistsError(
            _token_name(tx.placement, earlier.id),
            "the request id was used for another request",
            reason="REQUEST_ID_REUSED",
        )
    return earlier


async def _issuers(tx: TenantTransaction, request: Request) -> tuple[str, ...]:
    if request.shown is None:
        return issuers_of(request.issuer, frozenset())
    behind = await store.find_issuers(tx, request.shown)
    return issuers_of(request.issuer, frozenset({ANYBODY}) if behind is None else behind)


async def _insert(tx: TenantTransaction, token: Token, *, issuers: tuple[str, ...], actor: str | None = None) -> None:
    await store.insert(tx, token, issuers=issuers)
    details: dict[str, JsonValue] = {
        "subject": token.subject,
        "role": token.role,
        "scopes": [*token.scopes],
        "expire_time": token.expire_time.isoformat(),
    }
    tx.record(Effect(resource=_token_name(tx.placement, token.id), actor=actor, details=details))


def _issued(token: Token, placement: Placement, *, signer: TokenSigner) -> Issued:
    if token.kid != signer.kid:
        raise PreconditionError(
            _token_name(placement, token.id),
            "the key that signed the token is no longer in use; ask for a new token with a new request id",
            reason="SIGNING_KEY_RETIRED",
        )
    claims = tenant_claims(token, placement.tenant_id)
    return Issued(token=token, jwt=sign(claims, signer.kid, private_key=signer.private_key))


async def _enrolment_of(tenant: TenantHandle, enrolment_token: str, *, keys: TenantKeys) -> Enrolment:
    """Find the enrolment that a token was derived from, in whatever state."""

    async def work(tx: TenantTransaction) -> list[Enrolment]:
        tx.unchanged()
        return await store.newest_enrolments(tx, limit=_MOST_ENROLMENTS)

    shown = enrolment_token.encode("utf-8", "replace")
    for enrolment in await tenant.run(work):
        for secret in await keys.derive_each(tenant.placement, _enrolment_label(enrolment.id)):
            if hmac.compare_digest(_enrolment_token(secret).encode(), shown):
                return enrolment
    raise _refused("ENROLMENT_UNKNOWN")


def _enrolment_label(enrolment_id: UUID) -> bytes:
    return b"enrolment/" + enrolment_id.bytes


def _enrolment_token(secret: bytes) -> str:
    return ENROLMENT_PREFIX + base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def _refused(cause: str, **told: str) -> PermissionDeniedError:
    return PermissionDeniedError("the enrolment token is not accepted", cause=cause, **told)


def _token_name(placement: Placement, token_id: UUID) -> str:
    return f"tenants/{placement.tenant_id}/tokens/{token_id}"


def _enrolment_name(placement: Placement) -> str:
    return f"tenants/{placement.tenant_id}/enrolment"
