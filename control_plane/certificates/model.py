"""A certificate, the profile that it is issued under, and what a request for one may say. Pure."""

import hashlib
import unicodedata
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from control_plane.errors import Violations
from control_plane.ids import TenantId, uuid_of
from control_plane.keys.model import Purpose

DEFAULT_PROFILE: Final = "private"
SHORTEST_VALIDITY: Final = timedelta(minutes=1)
LONGEST_REASON: Final = 500
# An issue takes some 10 ms. Whoever repeats a request whose first try is pending for longer takes its request id over;
# the first one, should it still be at work, then finds that it lost (`store.activate`).
PENDING_IS_STUCK_AFTER: Final = timedelta(seconds=5)
# What is left of stuck ones is swept up by the tenant's next issue.
PENDING_IS_SWEPT_AFTER: Final = timedelta(minutes=5)


class State(StrEnum):
    """Where a certificate is in its life."""

    PENDING = "PENDING"
    """Its object may not be stored yet. Seen by nobody; forgotten if it stays so."""
    ACTIVE = "ACTIVE"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What the platform allows a certificate to be. Reference data, the same for all tenants."""

    name: str
    default_validity: timedelta
    maximum_validity: timedelta
    minimum_rsa_bits: int
    curves: frozenset[str]
    """By their SECG names, such as `secp256r1`."""
    ed25519: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a caller wants certified, in its own words."""

    csr_pem: str
    validity: timedelta | None = None
    profile: str = ""
    request_id: str = ""

    @property
    def profile_name(self) -> str:
        """The profile to apply."""
        return self.profile or DEFAULT_PROFILE

    @property
    def fingerprint(self) -> bytes:
        """Tells two requests of one request id apart. The request id is not in it, nor who calls."""
        seconds = "" if self.validity is None else str(self.validity // timedelta(microseconds=1))
        digest = hashlib.sha256(b"bulkhead/certificate-request/1")
        for part in (self.csr_pem, seconds, self.profile_name):
            raw = part.encode()
            digest.update(len(raw).to_bytes(8, "big") + raw)
        return digest.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate, as its row says it; the certificate itself is in the object."""

    id: UUID
    state: State
    serial_number: str
    """Lower-case hexadecimal."""
    subject: str
    """As in RFC 4514."""
    dns_names: tuple[str, ...]
    profile: str
    object_path: str
    """Below the tenant's folder; see `objects.paths`."""
    sha256: bytes | None
    """Of the object's text. None once the certificate was given up: it can never become active then."""
    create_time: datetime
    expire_time: datetime
    authority_version: int
    """Which version of the tenant's authority has signed it."""
    revoke_time: datetime | None = None
    revoke_reason: str = ""
    request_id: UUID | None = None
    request_hash: bytes | None = None

    @property
    def is_visible(self) -> bool:
        """Whether it was ever acknowledged."""
        return self.state is not State.PENDING

    def is_text(self, text: bytes) -> bool:
        """Whether this is the text that was stored for it."""
        return hashlib.sha256(text).digest() == self.sha256

    def is_stuck(self, now: datetime) -> bool:
        """Whether it is to be given up for a repeated request."""
        return self.state is State.PENDING and now - self.create_time > PENDING_IS_STUCK_AFTER


def first_id(time: datetime) -> UUID:
    """Return the id that sorts before those of all certificates made at `time` or later (UUIDv7)."""
    return UUID(int=int(time.timestamp() * 1000) << 80)


def object_path(certificate_id: UUID) -> str:
    """Say where the certificate's object is."""
    return f"certificates/{certificate_id}.pem"


def certificate_name(tenant_id: TenantId, certificate_id: UUID) -> str:
    """Name the certificate as a resource."""
    return f"tenants/{tenant_id}/certificates/{certificate_id}"


def authority_name(tenant_id: TenantId) -> str:
    """Name the tenant's certificate authority as a resource."""
    return f"tenants/{tenant_id}/certificateAuthority"


def authority_version_name(tenant_id: TenantId, version: int) -> str:
    """Name a version of the authority's key as a resource."""
    return f"tenants/{tenant_id}/keys/{Purpose.AUTHORITY}/versions/{version}"


def certificate_id(segment: str) -> UUID | None:
    """Read the last segment of a certificate's name; None for what names none. Each certificate has one name only."""
    return uuid_of(segment)


def checked_request_id(asked: Asked, violations: Violations) -> UUID | None:
    """Read the caller's request id, if it gave one."""
    if not asked.request_id:
        return None
    found = uuid_of(asked.request_id.lower())
    if found is None or found.int == 0:
        violations.add("request_id", "must be a UUID, and not the nil one", reason="REQUEST_ID")
    return found


def checked_validity(asked: Asked, profile: Profile | None, violations: Violations) -> timedelta:
    """Return for how long to issue: what the caller asked for, or the profile's default."""
    if profile is None:
        violations.add("profile", "is not the name of a profile", reason="PROFILE")
        return timedelta()
    if asked.validity is None:
        return profile.default_validity
    if not SHORTEST_VALIDITY <= asked.validity <= profile.maximum_validity:
        longest = profile.maximum_validity // timedelta(days=1)
        description = f"must be a minute at least, and {longest} days at most under the profile {profile.name}"
        violations.add("validity", description, reason="VALIDITY")
    return asked.validity


def reason_violation(reason: str) -> str | None:
    """Say why `reason` cannot be the reason of a revocation, or return None where it can."""
    if len(reason) > LONGEST_REASON:
        return f"must have at most {LONGEST_REASON} characters"
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in reason):
        return "must be one line of text"
    return None
