"""Whose token it is: what a tenant's own key signed, at this moment and by this index.

What is remembered of a token is that its key signed its claims, which stays true. Whether the key is the tenant's, the
token is revoked and the time is right is asked of the present index and clock each time. No refusal is remembered.
"""

import hashlib
import json
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from control_plane.serving.principal import Role
from control_plane.token_keys import TokenPublicKey
from control_plane.tokens.claims import LEEWAY, TENANT_AUDIENCE, Claims, RefusedTokenError, read_claims, read_kid
from control_plane.tokens.signature import verified_payload
from ext_authz.policies.model import Index, TenantPolicy

_MOST_REMEMBERED: Final = 10_000
_INSTANT: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a key signed."""

    digest: bytes
    """Of the token: its name wherever something is remembered about it."""
    kid: UUID
    key: TokenPublicKey
    claims: Claims
    role: Role
    scopes: frozenset[str]
    valid_from: datetime
    """With the leeway for the issuer's clock."""

    @property
    def actor(self) -> str:
        """As the audit log names whom it stands for."""
        return f"{self.role}:{self.claims.subject}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """A token of this tenant, signed by a key that is the tenant's now."""

    policy: TenantPolicy
    credential: Credential
    fault: str = ""
    """TOKEN_EXPIRED or TOKEN_REVOKED; empty where the token is in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproven:
    """No token, or one that nobody's key is known to have signed as it stands."""

    cause: str
    tenants: tuple[str, ...] = ()
    """Whom it concerns, where a tenant's key did sign."""
    actor: str = "anonymous"
    is_key_unknown: bool = False
    """Whether it looks like a token of ours, by a key that this index does not have."""


class TokenReader:
    """Reads tokens; the same one again costs microseconds, and a signature once some hundred of them."""

    def __init__(self) -> None:
        self._remembered: OrderedDict[bytes, Credential] = OrderedDict()

    def read(self, token: str, index: Index, *, now: datetime) -> Proven | Unproven:
        """Tell whose token this is; an empty one is nobody's."""
        if not token:
            return Unproven(cause="TOKEN_MISSING")
        digest = hashlib.sha256(token.encode()).digest()
        credential = self._remembered.get(digest)
        if credential is not None:
            policy = index.by_kid.get(credential.kid)
            if policy is not None and _is_same(policy.token_keys[credential.kid], credential.key):
                self._remembered.move_to_end(digest)
                return self._judged(credential, policy, index=index, now=now)
            del self._remembered[digest]
        return self._opened(token, digest, index=index, now=now)

    def _opened(self, token: str, digest: bytes, *, index: Index, now: datetime) -> Proven | Unproven:
        try:
            kid = read_kid(token)
            policy = index.by_kid.get(kid)
            if policy is None:
                return Unproven(cause="TOKEN_KEY_UNKNOWN", is_key_unknown=True)
            key = policy.token_keys[kid]
            claims = _claims(verified_payload(token, key), now)
        except RefusedTokenError as error:
            return Unproven(cause=error.cause)
        credential = Credential(
            digest=digest,
            kid=kid,
            key=key,
            claims=claims,
            role=Role(claims.role),
            scopes=frozenset(claims.scopes),
            valid_from=max(claims.not_before, claims.issue_time) - LEEWAY,
        )
        self._remembered[digest] = credential
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return self._judged(credential, policy, index=index, now=now)

    def _judged(
        self, credential: Credential, policy: TenantPolicy, *, index: Index, now: datetime
    ) -> Proven | Unproven:
        claims = credential.claims
        if claims.tenant_id != policy.tenant_id:
            named = (claims.tenant_id,) if claims.tenant_id in index.by_id else ()
            tenants = (policy.tenant_id, *filter(None, named))
            return Unproven(cause="TOKEN_OF_ANOTHER_TENANT", tenants=tenants, actor=credential.actor)
        if now < credential.valid_from:
            return Unproven(cause="TOKEN_NOT_YET_VALID")
        if now >= claims.expire_time:
            self._remembered.pop(credential.digest, None)
            return Proven(policy=policy, credential=credential, fault="TOKEN_EXPIRED")
        is_revoked = (policy.uid, claims.token_id) in index.revoked
        return Proven(policy=policy, credential=credential, fault="TOKEN_REVOKED" if is_revoked else "")


def _claims(payload: bytes, now: datetime) -> Claims:
    """Read signed claims; those of an expired token as well, as of its last moment, for its owner is to be told."""
    try:
        return read_claims(payload, audience=TENANT_AUDIENCE, now=now)
    except RefusedTokenError as error:
        if error.cause != "TOKEN_EXPIRED":
            raise
    return read_claims(payload, audience=TENANT_AUDIENCE, now=_expire_time(payload) - _INSTANT)


def _is_same(one: TokenPublicKey, other: TokenPublicKey) -> bool:
    return one is other or one == other


def _expire_time(payload: bytes) -> datetime:
    # It was a whole number of seconds when the claims were found to have expired.
    return datetime.fromtimestamp(json.loads(payload)["exp"], UTC)
