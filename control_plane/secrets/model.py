"""What a secret and its versions are, and what may become of them. Pure."""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum, StrEnum
from typing import Final
from uuid import UUID

from control_plane.errors import EtagMismatchError, PreconditionError, Violations
from control_plane.tenants.model import check_labels, text_violation

UPDATABLE: Final = ("description", "labels")
LATEST: Final = "latest"
FIRST_VERSION: Final = 1
LARGEST_PAYLOAD: Final = 65_536
MOST_SECRETS: Final = 1000
"""Of one tenant."""
MOST_VALUES: Final = 32
"""Of one secret, enabled or disabled; destroyed ones take no room."""

_LONGEST_DESCRIPTION: Final = 500
_SECRET_ID: Final = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)
# As many digits as the database can count to.
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)
_SHA256_BYTES: Final = 32


class State(StrEnum):
    """Whether a version's value can be read."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"
    DESTROYED = "DESTROYED"


class Action(Enum):
    """What takes a version from one state to another."""

    ENABLE = ({State.DISABLED}, State.ENABLED)
    DISABLE = ({State.ENABLED}, State.DISABLED)
    DESTROY = ({State.ENABLED, State.DISABLED}, State.DESTROYED)

    def __init__(self, before: AbstractSet[State], after: State) -> None:
        self.before = before
        self.after = after


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the caller says of a secret. Not sealed."""

    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What is known of a secret, without its values."""

    uid: UUID
    id: str
    settings: Settings
    revision: int
    latest_version: int
    """0 where none was added yet."""
    create_time: datetime
    update_time: datetime
    request_id: UUID | None = None
    request_hash: bytes | None = None

    @property
    def etag(self) -> str:
        """Changes with every change of the secret, and every version (AIP-154)."""
        return _etag(self.uid, self.revision)

    def updated(self, settings: Settings, now: datetime) -> "Secret":
        """Return the secret described otherwise; itself when that is the same."""
        if settings == self.settings:
            return self
        return replace(self, settings=settings, revision=self.revision + 1, update_time=now)

    def with_another(self, now: datetime) -> "Secret":
        """Return the secret with one more version, which is the latest."""
        return replace(self, latest_version=self.latest_version + 1, revision=self.revision + 1, update_time=now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What is known of one value of a secret, without the value."""

    secret_uid: UUID
    number: int
    state: State
    create_time: datetime
    destroy_time: datetime | None = None
    request_id: UUID | None = None
    request_hash: bytes | None = None

    @property
    def etag(self) -> str:
        """Changes with its state (AIP-154)."""
        return _etag(self.secret_uid, self.number, self.state)

    def after(self, action: Action, now: datetime, *, name: str) -> "Version":
        """Return the version after the action; itself when it is there already.

        Raises:
            PreconditionError: when it is destroyed, which nothing undoes.
        """
        if self.state is action.after:
            return self
        if self.state not in action.before:
            raise PreconditionError(name, f"{name} is destroyed for good", reason="SECRET_VERSION_DESTROYED")
        is_gone = action is Action.DESTROY
        return replace(self, state=action.after, destroy_time=now if is_gone else None)

    def check_readable(self, *, name: str) -> None:
        """Raise PreconditionError where its value cannot be read now, or never again."""
        if self.state is State.DESTROYED:
            raise PreconditionError(name, f"{name} is destroyed for good", reason="SECRET_VERSION_DESTROYED")
        if self.state is not State.ENABLED:
            raise PreconditionError(name, f"{name} is disabled", reason="SECRET_VERSION_DISABLED")


def _etag(*parts: object) -> str:
    return hashlib.sha256("/".join(str(part) for part in parts).encode()).hexdigest()[:16]


def check_etag(name: str, etag: str, *, current: str) -> None:
    """Raise EtagMismatchError when the caller has seen another one. An empty etag matches all."""
    if etag and etag != current:
        raise EtagMismatchError(f"{name} was changed since it was read", etag=current)


def object_name(secret_uid: UUID) -> str:
    """Name what the sealed values of a secret are bound to, together with their versions' numbers."""
    return f"secrets/{secret_uid}"


def version_number(segment: str) -> int | None:
    """Read the last segment of a version's name in the one form that we write; None for any other text."""
    return int(segment) if _NUMBER.fullmatch(segment) else None


def fingerprint(key: bytes, *parts: object, payload: bytes) -> bytes:
    """Tell two requests of one request id apart.

    Keyed: by a plain hash in a database that was stolen, a short value could be guessed.
    """
    head = json.dumps(parts, sort_keys=True).encode()
    return hmac.digest(key, len(head).to_bytes(8, "big") + head + payload, hashlib.sha256)


def is_secret_id(value: str) -> bool:
    """Say whether a secret can be called so."""
    return bool(_SECRET_ID.fullmatch(value))


def check_new(secret_id: str, settings: Settings, violations: Violations) -> None:
    """Note everything that forbids such a secret."""
    if not is_secret_id(secret_id):
        violations.add("secret_id", "must be 1 to 63 characters of a-z, 0-9 and -", reason="SECRET_ID")
    check_settings(settings, violations)


def check_settings(settings: Settings, violations: Violations) -> None:
    """Note everything that is wrong with what is said of a secret."""
    violations.add("secret.description", text_violation(settings.description, longest=_LONGEST_DESCRIPTION))
    check_labels(settings.labels, violations, prefix="secret.")


def check_payload(payload: bytes, violations: Violations) -> None:
    """Note that a value is too long. What is in it is the tenant's own affair, and nothing of it is repeated."""
    if len(payload) > LARGEST_PAYLOAD:
        violations.add("payload", f"must have at most {LARGEST_PAYLOAD} bytes", reason="PAYLOAD")


def check_digest(payload: bytes, digest: bytes, violations: Violations) -> None:
    """Note that a value is not the one that its sender meant to send."""
    if digest and not hmac.compare_digest(digest, hashlib.sha256(payload).digest()):
        said = (
            "is not the SHA-256 of the payload" if len(digest) == _SHA256_BYTES else f"must have {_SHA256_BYTES} bytes"
        )
        violations.add("payload_sha256", said, reason="PAYLOAD_SHA256")
