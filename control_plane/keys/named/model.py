"""What a key of a tenant's own is, and what may become of it. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from control_plane.errors import PreconditionError, Violations
from control_plane.keys.algorithms import AUTHORITIES, CertificatePolicy, KeyAlgorithm, PostQuantum
from control_plane.keys.model import BUILT_IN_IDS, Purpose

AES: Final = "AES-256-GCM"
MOST_KEYS: Final = 100
"""Of one tenant, without those that are destroyed."""
DEFAULT_WAITING: Final = timedelta(days=7)
_WAITING: Final = (timedelta(days=1), timedelta(days=30))
_KEY_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}", re.ASCII)
# What an authority may be signed with is good enough for everything else, and RSA of 2,048 bits is not.
_SIGNING: Final = tuple(one for one in KeyAlgorithm if one in AUTHORITIES)


class Origin(StrEnum):
    """Who has made a key."""

    GENERATED = "GENERATED"
    IMPORTED = "IMPORTED"


class State(StrEnum):
    """Where a key is in its life."""

    ENABLED = "ENABLED"
    DESTROY_SCHEDULED = "DESTROY_SCHEDULED"
    DESTROYED = "DESTROYED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a key is for, and what it is used with."""

    purpose: Purpose
    algorithm: str

    @property
    def signs_with(self) -> KeyAlgorithm:
        """The algorithm of a key that signs."""
        return KeyAlgorithm(self.algorithm)

    def check_policy(self, policy: CertificatePolicy, *, name: str) -> None:
        """Raise PreconditionError where the tenant has ruled such keys out. AES-256 is as good as post-quantum."""
        if self.purpose is not Purpose.SIGNING:
            return
        violation = policy.violation(self.signs_with, self.algorithm)
        if violation is not None:
            raise PreconditionError(name, violation, reason="KEY_POLICY", algorithm=self.algorithm)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedKey:
    """A key of a tenant's own, whatever its versions."""

    tenant_uid: UUID
    key_id: str
    kind: Kind
    origin: Origin
    state: State
    create_time: datetime
    destroy_time: datetime | None = None
    """When it will be destroyed, or was."""
    actor: str = ""
    request_id: UUID | None = None
    request_hash: bytes = field(default=b"", repr=False)

    def check_enabled(self, name: str) -> None:
        """Raise PreconditionError for a key that is not used, or not any more."""
        match self.state:
            case State.DESTROY_SCHEDULED:
                text = f"{name} will be destroyed at {self.destroy_time}, and is not used until it is restored"
                raise PreconditionError(name, text, reason="KEY_DESTROY_SCHEDULED", key=self.key_id)
            case State.DESTROYED:
                raise PreconditionError(name, f"{name} was destroyed", reason="KEY_DESTROYED", key=self.key_id)
            case State.ENABLED:
                return

    def scheduled(self, now: datetime, *, waiting: timedelta, name: str) -> "NamedKey":
        """Return the key as it waits for its destruction; raise PreconditionError where it does already, or is gone."""
        self.check_enabled(name)
        return replace(self, state=State.DESTROY_SCHEDULED, destroy_time=now + waiting)

    def restored(self, name: str) -> "NamedKey":
        """Return the key as it is used again; raise PreconditionError where it does not wait for its destruction."""
        if self.state is State.DESTROY_SCHEDULED:
            return replace(self, state=State.ENABLED, destroy_time=None)
        if self.state is State.DESTROYED:
            self.check_enabled(name)
        raise PreconditionError(name, f"{name} is in use: nothing to restore", reason="KEY_IN_USE", key=self.key_id)

    def destroyed(self, now: datetime) -> "NamedKey":
        """Return the key as it is gone."""
        return replace(self, state=State.DESTROYED, destroy_time=now)

    def is_due(self, now: datetime) -> bool:
        """Whether the time to take the destruction back is over."""
        return self.state is State.DESTROY_SCHEDULED and self.destroy_time is not None and self.destroy_time <= now


def check_key_id(key_id: str, violations: Violations, *, field: str = "key_id") -> None:
    """Note why a key cannot be called that."""
    if not _KEY_ID.fullmatch(key_id):
        text = "must be 1 to 63 characters of a-z, 0-9, _ and -, and begin with a letter or digit"
        violations.add(field, text, reason="KEY_ID")
    if key_id in BUILT_IN_IDS:
        violations.add(field, "is what a key of every tenant is called", reason="KEY_ID")


def check_kind(purpose: str, algorithm: str, violations: Violations, *, path: str) -> Kind | None:
    """Read what a key is to be; note, and return None, where there are no such keys. `path` is that of both fields."""
    match purpose.lower():
        case Purpose.ENCRYPTION if algorithm in {"", AES}:
            return Kind(purpose=Purpose.ENCRYPTION, algorithm=AES)
        case Purpose.SIGNING if algorithm in _SIGNING:
            return Kind(purpose=Purpose.SIGNING, algorithm=algorithm)
        case Purpose.ENCRYPTION:
            violations.add(f"{path}.algorithm", f"must be {AES}", reason="ALGORITHM")
        case Purpose.SIGNING:
            violations.add(f"{path}.algorithm", f"must be one of {', '.join(_SIGNING)}", reason="ALGORITHM")
        case _:
            violations.add(f"{path}.purpose", "must be ENCRYPTION or SIGNING", reason="PURPOSE")
    return None


def check_waiting(asked: timedelta | None, violations: Violations) -> timedelta:
    """Return how long a destruction can be taken back, and note it where that cannot be."""
    waiting = DEFAULT_WAITING if asked is None else asked
    shortest, longest = _WAITING
    if not shortest <= waiting <= longest:
        violations.add("waiting_period", f"must be {shortest.days} to {longest.days} days", reason="WAITING_PERIOD")
    return waiting


def refuse_built_in(key_id: str, name: str) -> None:
    """Raise PreconditionError for a key that every tenant has: it is not the tenant's to destroy."""
    if key_id in BUILT_IN_IDS:
        text = f"{name} is what {_NEEDED[key_id]}: it goes with its tenant, and is replaced by a rotation"
        raise PreconditionError(name, text, reason="KEY_BUILT_IN", key=key_id)


_NEEDED: Final[Mapping[str, str]] = {
    "kek": "every other key of the tenant is wrapped under",
    Purpose.STORAGE: "every object of the tenant is sealed with",
    Purpose.TOKENS: "the tenant's callers are known by",
    Purpose.AUTHORITY: "the tenant's certificates rest on",
    Purpose.SERVICES: "services seal with what they keep for the tenant",
    Purpose.ENROLMENT: "the tenant's logins are derived from",
    Purpose.AUDIT: "the tenant's audit log is signed with",
}


def requires_post_quantum(policy: CertificatePolicy) -> bool:
    """Whether the tenant lets nothing be protected that a quantum computer will open."""
    return policy.post_quantum is PostQuantum.REQUIRED
