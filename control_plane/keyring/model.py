"""A tenant's keys as they are shown, and what it takes to rotate each. Pure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from control_plane.errors import EtagMismatchError, PreconditionError
from control_plane.ids import TenantId
from control_plane.keys.model import Purpose

KEK: Final = "kek"
KEY_IDS: Final = (KEK, *(purpose.value for purpose in Purpose))
"""What keys are called, in the order in which they are listed."""
_KEK_ALGORITHM: Final = "AES-256-GCM"

STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    KEK: ("kek", "wrapping", "destruction"),
    Purpose.STORAGE.value: ("version",),
    Purpose.SERVICES.value: ("version",),
    Purpose.TOKENS.value: ("publication", "edges", "use"),
}
"""The steps of a rotation, by key. A key without any is not rotated."""
_NOT_ROTATED: Final[Mapping[str, str]] = {
    Purpose.AUTHORITY.value: (
        "the certificates that it has signed name it and nothing else: it would take a second authority beside it, "
        "both trusted by the tenant's clients and by the edge, until the last certificate of the old one has expired"
    ),
    Purpose.ENROLMENT.value: (
        "what it derives is stored nowhere and says no version: it would take new passwords for the tenant's database "
        "and cache logins in the same moment, and open enrolments would end"
    ),
}


class VersionState(StrEnum):
    """Where a version is in its life."""

    ENABLED = "ENABLED"
    RETIRED = "RETIRED"
    DESTROYED = "DESTROYED"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersion:
    """One version of a key."""

    version: int
    state: VersionState
    algorithm: str
    create_time: datetime
    is_used: bool = True
    """Whether it is for what is new, unless there is a newer one; else it was published only."""
    kek_version: int = 0
    destroy_time: datetime | None = None
    public: bytes | None = field(default=None, repr=False)
    id: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key: all its versions, the newest first."""

    tenant_name: str
    tenant_uid: UUID
    id: str
    versions: Sequence[KeyVersion]
    rotation: UUID | None = None
    """The operation that is rotating it."""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"{self.tenant_name}/keys/{self.id}"

    @property
    def primary(self) -> KeyVersion:
        """What is used for what is new."""
        usable = (each for each in self.versions if each.is_used and each.state is VersionState.ENABLED)
        return next(usable, self.versions[0])

    @property
    def etag(self) -> str:
        """Changes with every change of the key (AIP-154)."""
        states = [f"{each.version}:{each.state}:{each.is_used}:{each.kek_version}" for each in self.versions]
        said = "/".join((str(self.tenant_uid), self.id, str(self.rotation), *states))
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def check_etag(self, etag: str) -> None:
        """Raise EtagMismatchError when the caller has seen another state of it. An empty etag matches all."""
        if etag and etag != self.etag:
            raise EtagMismatchError(f"{self.name} was changed since it was read", etag=self.etag)

    def check_rotatable(self) -> None:
        """Raise PreconditionError for a key that is not rotated, and say what it would take."""
        if self.id not in STEPS:
            raise PreconditionError(
                self.name,
                f"{self.name} is not rotated yet: {_NOT_ROTATED[self.id]}",
                reason="ROTATION_NOT_SUPPORTED",
                key=self.id,
            )


def kek_version(version: int, *, create_time: datetime, destroy_time: datetime | None, wraps: bool) -> KeyVersion:
    """Show a version of a KEK; `wraps` says whether anything is wrapped under it."""
    return KeyVersion(
        version=version,
        state=VersionState.ENABLED if destroy_time is None else VersionState.DESTROYED,
        algorithm=_KEK_ALGORITHM,
        create_time=create_time,
        is_used=wraps,
        destroy_time=destroy_time,
    )


RECEIPT_TYPE: Final = "application/vnd.bulkhead.key-destruction+json"
"""What the payload of a receipt is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destruction:
    """A KEK that is to be destroyed, and what it wrapped before that."""

    id: UUID
    tenant_uid: UUID
    kek_version: int
    sample: bytes

    def payload(
        self, tenant_id: TenantId, *, root: Mapping[str, str | bool], escrow_id: UUID | None, now: datetime
    ) -> bytes:
        """Say as JSON what was destroyed, and how it was seen: what is signed. For after the sample did not open.

        Where copies of what the KEK wrapped are in escrow, it says so: those are not destroyed with it.
        """
        return json.dumps(
            {
                "id": str(self.id),
                "tenant": f"tenants/{tenant_id}",
                "tenant_uid": str(self.tenant_uid),
                "destroyed": [{"key": KEK, "version": self.kek_version, "algorithm": _KEK_ALGORITHM}],
                "destroy_time": now.isoformat(),
                "root_of_trust": dict(root),
                "escrow": "none" if escrow_id is None else str(escrow_id),
                "probe": {
                    "sample_sha256": hashlib.sha256(self.sample).hexdigest(),
                    "before": "OPENED",
                    "after": "KEY_MISSING",
                },
            }
        ).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was said of a destruction, as it was signed."""

    id: UUID
    kek_version: int
    destroy_time: datetime
    payload: bytes
    signature: bytes
    key_id: UUID
