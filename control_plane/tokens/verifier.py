"""Finds out whom a bearer token stands for."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from control_plane.errors import TenantSealedError, UnauthenticatedError
from control_plane.ids import TenantId, tenant_id_violation
from control_plane.keys.material import TokenKey
from control_plane.keys.service import TenantKeys
from control_plane.postgres.database import Database, Isolation
from control_plane.postgres.directory import SEALED, Directory
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Principal, Role
from control_plane.token_keys import TokenPublicKey
from control_plane.tokens import store
from control_plane.tokens.claims import (
    PLATFORM_AUDIENCE,
    TENANT_AUDIENCE,
    Claims,
    RefusedTokenError,
    read_claims,
    read_kid,
    tenant_claims,
)
from control_plane.tokens.platform import platform_kid
from control_plane.tokens.signature import verified_payload

# A revoked token is refused everywhere within a second: this, and what a slow query takes on top.
_REMEMBERED: Final = timedelta(milliseconds=750)
_MOST_REMEMBERED: Final = 10_000


class _MixUpError(RefusedTokenError):
    """One tenant's key signed a token that names another tenant. Both are to know."""

    def __init__(self, signer: TenantId, *, named: str) -> None:
        super().__init__("TOKEN_OF_ANOTHER_TENANT")
        self.tenants = [signer] if tenant_id_violation(named) else [signer, TenantId(named)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Accepted:
    principal: Principal
    expire_time: datetime


class TokenVerifier:
    """Verifies tokens of tenants and of the platform.

    A tenant's token is accepted when the tenant's own key signed it, the tenant remembers it, and it is neither expired
    nor revoked. An answer is remembered for less than a second, counted from before the question.
    """

    def __init__(
        self,
        keys: TenantKeys,
        directory: Directory,
        *,
        database: Database,
        platform_key: Ed25519PublicKey,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        """Trust `keys` for the tokens of tenants, and `platform_key` for those of the platform."""
        self._keys = keys
        self._directory = directory
        self._database = database
        self._platform_key = platform_key
        self._platform_kid = platform_kid(platform_key)
        self._now = now or (lambda: datetime.now(UTC))
        self._remembered: OrderedDict[bytes, tuple[_Accepted, float]] = OrderedDict()

    async def verify(self, token: str) -> Principal:
        """Return whom the token stands for. A suspended tenant's tokens stand for somebody too.

        Raises:
            UnauthenticatedError: always the same to the caller; `cause` in its metadata is for the audit log.
            TenantSealedError: the tenant itself signed it, and is sealed.
            UnavailableError: when it cannot be told.
        """
        asked_s = time.monotonic()
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        remembered = self._recall(digest, asked_s)
        if remembered is not None:
            return remembered
        try:
            accepted = await self._accepted(token)
        except RefusedTokenError as error:
            raise _refusal(error) from None
        self._remembered[digest] = (accepted, asked_s + _REMEMBERED.total_seconds())
        self._remembered.move_to_end(digest)
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return accepted.principal

    def _recall(self, digest: bytes, now_s: float) -> Principal | None:
        accepted, until_s = self._remembered.get(digest, (None, 0.0))
        if accepted is None:
            return None
        if now_s >= until_s or self._now() >= accepted.expire_time:
            del self._remembered[digest]
            return None
        return accepted.principal

    async def _accepted(self, token: str) -> _Accepted:
        kid = read_kid(token)
        if kid == self._platform_kid:
            claims = self._opened(token, self._platform_key, audience=PLATFORM_AUDIENCE)
            return _stands_for(claims, tenant=None)
        key = await self._keys.token_verifier(kid)
        if key is None:
            raise RefusedTokenError("TOKEN_KEY_UNKNOWN")
        claims = self._opened(token, key.public_key, audience=TENANT_AUDIENCE)
        placement = await self._tenant_of(key, claims)
        await self._check_issued(placement, claims)
        return _stands_for(claims, tenant=placement.tenant_id)

    def _opened(self, token: str, public_key: TokenPublicKey, *, audience: str) -> Claims:
        return read_claims(verified_payload(token, public_key), audience=audience, now=self._now())

    async def _tenant_of(self, key: TokenKey, claims: Claims) -> Placement:
        """Return the tenant whose key signed; the claim must say the same, and never decides."""
        entry = await self._directory.find_uid(key.tenant_uid)
        if entry is None:
            raise RefusedTokenError("TOKEN_TENANT_UNKNOWN")
        if claims.tenant_id != entry.placement.tenant_id:
            raise _MixUpError(entry.placement.tenant_id, named=claims.tenant_id or "")
        if entry.state == SEALED:
            # Its tables are shut. Only who shows the tenant's own signature is told.
            raise TenantSealedError(f"tenants/{entry.placement.tenant_id}")
        return entry.placement

    async def _check_issued(self, placement: Placement, claims: Claims) -> None:
        handle = self._database.tenant(placement, isolation=Isolation.READ_COMMITTED)
        token = await handle.run(lambda tx: store.find(tx, claims.token_id))
        # So that even a key in the wrong hands makes no tokens but those which the tenant knows of.
        if token is None or tenant_claims(token, placement.tenant_id) != claims:
            raise RefusedTokenError("TOKEN_NOT_ISSUED")
        if token.revoke_time is not None:
            raise RefusedTokenError("TOKEN_REVOKED")


def _stands_for(claims: Claims, *, tenant: TenantId | None) -> _Accepted:
    principal = Principal(
        subject=claims.subject,
        role=Role(claims.role),
        tenant=tenant,
        scopes=frozenset(claims.scopes),
        token_id=str(claims.token_id),
    )
    return _Accepted(principal=principal, expire_time=claims.expire_time)


def _refusal(error: RefusedTokenError) -> UnauthenticatedError:
    told = {"tenants": ",".join(error.tenants)} if isinstance(error, _MixUpError) else {}
    return UnauthenticatedError("the token is not accepted", cause=error.cause, **told)
