"""The words of a token: what it says, how that is written, and what makes one unacceptable. Pure.

A token is a JWT (RFC 7519): header, claims and signature in base64url, joined by dots. Which kind of signature, is its
key's affair: Ed25519, ECDSA over P-256, or ML-DSA-65. It is read as strictly as it is written: whatever we do not write
ourselves is refused, since the many ways in which readers of JWT have been deceived (another algorithm, a key in the
header, claims twice, numbers that are none) all need leniency. Claims that are new to this reader are passed over, so
that replicas can be replaced one by one.
"""

import base64
import json
from binascii import Error as BinasciiError
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from control_plane.ids import uuid_of
from control_plane.tokens.model import LONGEST_LIFETIME, TENANT_ROLES, Token, subject_violation

ALGORITHMS: Final = frozenset({"EdDSA", "ES256", "ML-DSA-65"})
"""What `alg` may be. Which of them a token must have is decided by the key that it names, never by the token."""
ISSUER: Final = "bulkhead"
TENANT_AUDIENCE: Final = "csm"
PLATFORM_AUDIENCE: Final = "bulkhead-admin"
PLATFORM_ROLES: Final = frozenset({"platform-admin", "provider-operator"})

LEEWAY: Final = timedelta(seconds=30)
"""How far ahead the issuer's clock may be. An expired token gets none: its `expire_time` is a promise."""

LONGEST_TOKEN: Final = 6144
"""Ours have some 700 characters, 5,000 with ML-DSA-65: with what else goes along it fits into 8 KiB of metadata."""
_SEGMENTS: Final = 3
# JSON's own end of exact numbers; as seconds it is 285 million years away.
_LARGEST_NUMBER: Final = 2**53 - 1


class RefusedTokenError(Exception):
    """A token is not acceptable. `cause` is for the log and the audit log, never for the caller."""

    def __init__(self, cause: str) -> None:
        """Name the cause in UPPER_SNAKE."""
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a token says."""

    audience: str
    subject: str
    role: str
    scopes: tuple[str, ...]
    token_id: UUID
    issue_time: datetime
    not_before: datetime
    expire_time: datetime
    # None in the platform's own tokens.
    tenant_id: str | None


def tenant_claims(token: Token, tenant_id: str) -> Claims:
    """Say what `token` of that tenant says: the same for the same token, so that it can be signed again."""
    return Claims(
        audience=TENANT_AUDIENCE,
        subject=token.subject,
        role=token.role,
        scopes=token.scopes,
        token_id=token.id,
        issue_time=token.create_time,
        not_before=token.create_time,
        expire_time=token.expire_time,
        tenant_id=tenant_id,
    )


def write_claims(claims: Claims) -> bytes:
    """Write the payload of a JWT."""
    payload: dict[str, object] = {
        "iss": ISSUER,
        "aud": claims.audience,
        "sub": claims.subject,
        "role": claims.role,
        "scopes": list(claims.scopes),
        "jti": str(claims.token_id),
        "iat": int(claims.issue_time.timestamp()),
        "nbf": int(claims.not_before.timestamp()),
        "exp": int(claims.expire_time.timestamp()),
    }
    if claims.tenant_id is not None:
        payload["tid"] = claims.tenant_id
    return json.dumps(payload, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def read_kid(token: str) -> UUID:
    """Take from a token's header which key must have signed it. Nothing of this is verified yet.

    Raises:
        RefusedTokenError: when it is not a token of the only kind that there is.
    """
    if len(token) > LONGEST_TOKEN:
        raise RefusedTokenError("TOKEN_TOO_LONG")
    segments = token.split(".")
    if len(segments) != _SEGMENTS:
        raise RefusedTokenError("TOKEN_MALFORMED")
    for segment in segments:
        _unpack(segment)
    header = _read_object(_unpack(segments[0]))
    if not isinstance(algorithm := header.get("alg"), str) or algorithm not in ALGORITHMS:
        raise RefusedTokenError("TOKEN_ALGORITHM")
    if header.keys() != {"alg", "kid", "typ"} or header["typ"] != "JWT":
        # Among them `crit`, and keys or their addresses: `jwk`, `jku`, `x5c`, `x5u`.
        raise RefusedTokenError("TOKEN_HEADER")
    kid = uuid_of(header["kid"]) if isinstance(header["kid"], str) else None
    if kid is None:
        raise RefusedTokenError("TOKEN_KEY_ID")
    return kid


def read_claims(payload: bytes, *, audience: str, now: datetime) -> Claims:
    """Read claims whose signature holds, and see that they are of this kind and of this time.

    Raises:
        RefusedTokenError: when they are not.
    """
    raw = _read_object(payload)
    if raw.get("iss") != ISSUER or raw.get("aud") != audience:
        raise RefusedTokenError("TOKEN_AUDIENCE")
    is_tenant = audience == TENANT_AUDIENCE
    claims = Claims(
        audience=audience,
        subject=_text(raw, "sub"),
        role=_text(raw, "role"),
        scopes=_texts(raw, "scopes"),
        token_id=_uuid(raw, "jti"),
        issue_time=_instant(raw, "iat"),
        not_before=_instant(raw, "nbf"),
        expire_time=_instant(raw, "exp"),
        tenant_id=_text(raw, "tid") if is_tenant else None,
    )
    roles = TENANT_ROLES if is_tenant else PLATFORM_ROLES
    if claims.role not in roles or subject_violation(claims.subject) or ("tid" in raw) != is_tenant:
        raise RefusedTokenError("TOKEN_CLAIMS")
    _check_times(claims, now)
    return claims


def _check_times(claims: Claims, now: datetime) -> None:
    if now >= claims.expire_time:
        raise RefusedTokenError("TOKEN_EXPIRED")
    if now + LEEWAY < max(claims.not_before, claims.issue_time):
        raise RefusedTokenError("TOKEN_NOT_YET_VALID")
    if claims.expire_time - min(claims.not_before, claims.issue_time) > LONGEST_LIFETIME:
        raise RefusedTokenError("TOKEN_LIVES_TOO_LONG")


def _unpack(segment: str) -> bytes:
    """Decode base64url in its one canonical form: another spelling of a token is not that token."""
    try:
        data = base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    except (BinasciiError, ValueError):
        raise RefusedTokenError("TOKEN_MALFORMED") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != segment:
        raise RefusedTokenError("TOKEN_MALFORMED")
    return data


def _read_object(data: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(data.decode(), object_pairs_hook=_without_repeats, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RefusedTokenError("TOKEN_MALFORMED") from None
    if not isinstance(value, dict):
        raise RefusedTokenError("TOKEN_MALFORMED")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise RefusedTokenError("TOKEN_MALFORMED")
    return found


def _no_constant(name: str) -> float:
    # NaN and the infinities are Python's, not JSON's; NaN compares false with every limit.
    raise ValueError(name)


def _text(raw: Mapping[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value:
        raise RefusedTokenError("TOKEN_CLAIMS")
    return value


def _texts(raw: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = raw.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise RefusedTokenError("TOKEN_CLAIMS")
    return tuple(values)


def _uuid(raw: Mapping[str, Any], name: str) -> UUID:
    value = uuid_of(_text(raw, name))
    if value is None:
        raise RefusedTokenError("TOKEN_CLAIMS")
    return value


def _instant(raw: Mapping[str, Any], name: str) -> datetime:
    value = raw.get(name)
    # True is an int to Python.
    if type(value) is not int or not 0 <= value <= _LARGEST_NUMBER:
        raise RefusedTokenError("TOKEN_CLAIMS")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError):
        raise RefusedTokenError("TOKEN_CLAIMS") from None
