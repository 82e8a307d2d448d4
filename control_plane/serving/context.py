"""The signed tenant context: what the edge found out about a request, for the services behind it. Pure.

One header, `x-bulkhead-context`, format 1; every character is safe in a header::

    1.<payload>.<signature>

    payload    JSON object, in base64url without padding
    signature  HMAC-SHA256 of "x-bulkhead-context:1.<payload>", in base64url without padding

    tid   tenant           iso   its isolation level    role  the caller's role      sid  session or token, or null
    tier  its tier         sub   the caller             scp   its scopes, sorted     exp  expiry, Unix milliseconds
    qr    what its rate has left, and                                                qa   as of when; neither, or both

The signature covers the text as it was sent, not what it decodes to, so that no second spelling of a context exists. It
is checked before anything is decoded. Members that a reader does not know are signed like the others and ignored: the
edge may say more before the services understand it. What changes the meaning of a known member is a new format.
"""

import base64
import binascii
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from control_plane.errors import UnauthenticatedError
from control_plane.ids import TenantId, tenant_id_violation
from control_plane.serving.principal import Role

HEADER: Final = "x-bulkhead-context"
LONGEST_LIFETIME: Final = timedelta(minutes=5)
# Well below the header limits of Envoy (60 KiB) and gRPC (8 KiB in all), and enough for hundreds of scopes.
LONGEST: Final = 4096

_FORMAT: Final = "1"
_LABEL: Final = f"{HEADER}:".encode()
_SHORTEST_KEY: Final = 32
_LIFETIME_MS: Final = LONGEST_LIFETIME // timedelta(milliseconds=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
# JSON's own end of exact numbers.
_LARGEST_NUMBER: Final = 2**53 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a tenant's rate had left."""

    remaining: int
    # Kept in whole milliseconds; the rest is cut off.
    as_of: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantContext:
    """For which tenant, and on whose behalf, a request is made. Believed because of its signature alone."""

    tenant: TenantId
    tier: str
    isolation_level: str
    subject: str
    role: Role
    scopes: frozenset[str]
    # The session or token that the caller showed, so that it can be found in the audit log.
    session: str | None
    # Kept in whole milliseconds; the rest is cut off.
    expire_time: datetime
    # None where the edge does not say.
    quota: Quota | None = None


def encode(context: TenantContext, key: bytes) -> str:
    """Sign the context. Whoever holds `key` (32 bytes or more) can speak for every tenant.

    Raises:
        ValueError: when the key is too short, or the context too long to be sent.
    """
    value = _sign(_payload(context), key)
    if len(value) > LONGEST:
        raise ValueError(f"a signed context has at most {LONGEST} characters, and this one {len(value)}")
    return value


def decode(value: str, key: bytes, *, now: datetime) -> TenantContext:
    """Return the context if `key` signed it and it is in force at `now`. Costs some ten microseconds.

    Raises:
        UnauthenticatedError: for all else. The message is for our log; strangers read the same text whatever it says.
    """
    payload = _verify(value, key)
    expires = payload.get("exp")
    now_ms = (now - _EPOCH) // _MILLISECOND
    if type(expires) is not int or expires <= now_ms:
        raise _refused("has expired")
    if expires > now_ms + _LIFETIME_MS:
        raise _refused("would be in force for too long")
    return _context(payload, expires)


def _payload(context: TenantContext) -> dict[str, object]:
    payload: dict[str, object] = {
        "tid": context.tenant,
        "tier": context.tier,
        "iso": context.isolation_level,
        "sub": context.subject,
        "role": context.role,
        "scp": sorted(context.scopes),
        "sid": context.session,
        "exp": (context.expire_time - _EPOCH) // _MILLISECOND,
    }
    if context.quota is not None:
        payload["qr"] = context.quota.remaining
        payload["qa"] = (context.quota.as_of - _EPOCH) // _MILLISECOND
    return payload


def _context(payload: Mapping[str, Any], expires: int) -> TenantContext:
    scopes = payload.get("scp")
    session = payload.get("sid")
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise _refused("has no list of scopes")
    if not isinstance(session, str | None):
        raise _refused("has no session")
    tenant = _text(payload, "tid")
    if tenant_id_violation(tenant) is not None:
        raise _refused("names no tenant")
    try:
        role = Role(_text(payload, "role"))
    except ValueError:
        raise _refused("has an unknown role") from None
    return TenantContext(
        tenant=TenantId(tenant),
        tier=_text(payload, "tier"),
        isolation_level=_text(payload, "iso"),
        subject=_text(payload, "sub"),
        role=role,
        scopes=frozenset(scopes),
        session=session,
        expire_time=_EPOCH + timedelta(milliseconds=expires),
        quota=_quota(payload),
    )


def _quota(payload: Mapping[str, Any]) -> Quota | None:
    remaining, as_of_ms = payload.get("qr"), payload.get("qa")
    if remaining is None and as_of_ms is None:
        return None
    try:
        return Quota(remaining=_number(remaining), as_of=_EPOCH + timedelta(milliseconds=_number(as_of_ms)))
    except (OverflowError, ValueError):
        raise _refused("has no quota that can be") from None


def _number(value: object) -> int:
    # True is an int to Python.
    if type(value) is not int or not 0 <= value <= _LARGEST_NUMBER:
        raise ValueError(value)
    return value


def _text(payload: Mapping[str, Any], member: str) -> str:
    value = payload.get(member)
    if not isinstance(value, str) or not value:
        raise _refused(f"has no {member}")
    return value


def _sign(payload: Mapping[str, object], key: bytes) -> str:
    body = json.dumps(payload, separators=(",", ":")).encode()
    signed = f"{_FORMAT}.{_base64url(body)}"
    return f"{signed}.{_signature(signed, key)}"


def _verify(value: str, key: bytes) -> dict[str, Any]:
    if len(value) > LONGEST or not value.isascii():
        raise _refused("is too long, or is not ASCII")
    signed, _, signature = value.rpartition(".")
    version, _, body = signed.partition(".")
    if version != _FORMAT:
        raise _refused("has an unknown format")
    if not hmac.compare_digest(_signature(signed, key), signature):
        raise _refused("has a wrong signature")
    try:
        payload = json.loads(binascii.a2b_base64(body.replace("-", "+").replace("_", "/") + "=" * (-len(body) % 4)))
    except ValueError:
        raise _refused("holds no JSON") from None
    if not isinstance(payload, dict):
        raise _refused("holds no JSON object")
    return payload


def _signature(signed: str, key: bytes) -> str:
    if len(key) < _SHORTEST_KEY:
        raise ValueError(f"the key of signed contexts has at least {_SHORTEST_KEY} bytes")
    return _base64url(hmac.digest(key, _LABEL + signed.encode(), "sha256"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _refused(cause: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"the signed context {cause}", cause="CONTEXT_REFUSED")
