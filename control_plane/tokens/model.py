"""What a tenant remembers of a token, and what one may be asked for. Pure."""

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from control_plane.errors import PolicyDeniedError

# As `Role` in rules.proto, in the words of the claim.
TENANT_ROLES: Final = frozenset({"tenant-admin", "tenant-member", "auditor"})
SCOPES: Final = frozenset({
    "audit.read", "certificates.read", "certificates.write", "escrow.approve", "isolation.read", "isolation.verify",
    "keys.read", "keys.use", "secrets.access", "secrets.read", "secrets.write",
})  # fmt: skip

PLATFORM_GRANTS: Final = SCOPES - {"secrets.access"}
"""What the platform's own administrators may give: who reads a tenant's secrets is for the tenant's own to say."""

SHORTEST_LIFETIME: Final = timedelta(minutes=1)
DEFAULT_LIFETIME: Final = timedelta(hours=1)
LONGEST_LIFETIME: Final = timedelta(hours=24)

MOST_SCOPES: Final = 32
LONGEST_SUBJECT: Final = 200

THE_PLATFORM: Final = " platform"
"""Stands for all of the platform's people among a token's issuers. No subject begins with a space."""
ANYBODY: Final = " anybody"
"""Stands among them for more people than are kept."""
_MOST_ISSUERS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What is asked of a new token."""

    subject: str
    role: str
    scopes: tuple[str, ...]
    lifetime: timedelta

    def digest(self, actor: str) -> bytes:
        """Tell two requests apart, for one request id: by who asks and what for."""
        body = [actor, self.subject, self.role, sorted(self.scopes), self.lifetime / timedelta(seconds=1)]
        return hashlib.sha256(json.dumps(body).encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An issued token as the tenant remembers it: all that its claims are made of."""

    id: UUID
    subject: str
    role: str
    scopes: tuple[str, ...]
    kid: UUID
    create_time: datetime
    expire_time: datetime
    revoke_time: datetime | None = None
    request_id: UUID | None = None
    request_hash: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """An invitation of one user, good once. Its token is derived, not stored."""

    id: UUID
    user_id: UUID
    expire_time: datetime
    redeem_time: datetime | None = None

    def is_open(self, now: datetime) -> bool:
        """Whether it can be redeemed."""
        return self.redeem_time is None and now < self.expire_time


def new_token(grant: Grant, *, token_id: UUID, kid: UUID, now: datetime) -> Token:
    """Make what `grant` asks for. JWT counts whole seconds, so the token does as well."""
    create_time = now.astimezone(UTC).replace(microsecond=0)
    lifetime = timedelta(seconds=grant.lifetime // timedelta(seconds=1))
    return Token(
        id=token_id,
        subject=grant.subject,
        role=grant.role,
        scopes=grant.scopes,
        kid=kid,
        create_time=create_time,
        expire_time=create_time + lifetime,
    )


def of_request(token: Token, *, request_id: UUID, request_hash: bytes) -> Token:
    """Bind a token to the request that asked for it."""
    return replace(token, request_id=request_id, request_hash=request_hash)


def issuers_of(issuer: str, behind: AbstractSet[str]) -> tuple[str, ...]:
    """Say who stands behind a token that `issuer` issues, whose own credential has `behind` behind it."""
    found = tuple(sorted(behind | {issuer}))
    return found if len(found) <= _MOST_ISSUERS else (ANYBODY,)


def check_apart(one: AbstractSet[str], other: AbstractSet[str], *, name: str) -> None:
    """Raise PolicyDeniedError unless it takes two to show both credentials: no one person stands behind each.

    Whoever has nobody behind is anybody. `name` is the resource that takes two administrators.
    """
    if not one or not other or one & other:
        text = "it takes another administrator, neither of whom has issued the other's token, nor one person both"
        raise PolicyDeniedError(name, text, reason="SECOND_PERSON_NEEDED")


def subject_violation(subject: str) -> str | None:
    """Say why nobody can be called so."""
    if not 1 <= len(subject) <= LONGEST_SUBJECT:
        return f"must have 1 to {LONGEST_SUBJECT} characters"
    if not subject.isprintable() or subject != subject.strip():
        return "must not begin or end with a space, nor contain characters that do not print"
    if unicodedata.normalize("NFC", subject) != subject:
        return "must be in Unicode's normal form C"
    return None


def lifetime_violation(lifetime: timedelta) -> str | None:
    """Say why no token can live so long."""
    if SHORTEST_LIFETIME <= lifetime <= LONGEST_LIFETIME:
        return None
    return f"must be {_seconds(SHORTEST_LIFETIME)} to {_seconds(LONGEST_LIFETIME)} seconds"


def scope_violations(scopes: Sequence[str], *, grantable: AbstractSet[str] = SCOPES) -> dict[int, str]:
    """Say why each of the scopes at fault cannot be granted, by its index."""
    found = {index: "is no scope" for index, scope in enumerate(scopes) if scope not in SCOPES}
    found |= {
        index: "is for the tenant's own administrators to grant"
        for index, scope in enumerate(scopes)
        if scope in SCOPES - grantable
    }
    return found | {index: "is there twice" for index, scope in enumerate(scopes) if scope in scopes[:index]}


def _seconds(duration: timedelta) -> int:
    return duration // timedelta(seconds=1)
