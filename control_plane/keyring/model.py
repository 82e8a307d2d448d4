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
from control_plane.keys.model import BUILT_IN_IDS, KEK, Purpose
from control_plane.keys.named.model import NamedKey, Origin

_KEK_ALGORITHM: Final = "AES-256-GCM"

STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    KEK: ("kek", "wrapping", "destruction"),
    Purpose.STORAGE.value: ("version",),
    Purpose.SERVICES.value: ("version",),
    Purpose.TOKENS.value: ("publication", "edges", "use"),
}
"""The steps of a rotation, by key. A built-in key without any is not rotated."""
NAMED_STEPS: Final = ("version",)
"""Those of a key of a tenant's own."""
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
    named: NamedKey | None = None
    """What else is known of a key of the tenant's own."""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"{self.tenant_name}/keys/{self.id}"

    @property
    def purpose(self) -> str:
        """What it is for."""
        return self.named.kind.purpose if self.named else self.id

    @property
    def position(self) -> tuple[int, str]:
        """Its place in a list: the built-in ones first, then the tenant's own by their names."""
        return position(self.id)

    @property
    def primary(self) -> KeyVersion:
        """What is used for what is new."""
        usable = (each for each in self.versions if each.is_used and each.state is VersionState.ENABLED)
        return next(usable, self.versions[0])

    @property
    def etag(self) -> str:
        """Changes with every change of the key (AIP-154)."""
        states = [f"{each.version}:{each.state}:{each.is_used}:{each.kek_version}" for each in self.versions]
        named = f"{self.named.state}:{self.named.destroy_time}" if self.named else ""
        said = "/".join((str(self.tenant_uid), self.id, str(self.rotation), named, *states))
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def check_etag(self, etag: str) -> None:
        """Raise EtagMismatchError when the caller has seen another state of it. An empty etag matches all."""
        if etag and etag != self.etag:
            raise EtagMismatchError(f"{self.name} was changed since it was read", etag=self.etag)

    def check_rotatable(self) -> None:
        """Raise PreconditionError for a key that is not rotated, and say what it would take."""
        if self.named is not None:
            _check_named(self.named, self.name)
        elif self.id not in STEPS:
            raise PreconditionError(
                self.name,
                f"{self.name} is not rotated yet: {_NOT_ROTATED[self.id]}",
                reason="ROTATION_NOT_SUPPORTED",
                key=self.id,
            )


def position(key_id: str) -> tuple[int, str]:
    """Say where a key of that name is in a list."""
    place = BUILT_IN_IDS.index(key_id) if key_id in BUILT_IN_IDS else len(BUILT_IN_IDS)
    return place, key_id


def _check_named(named: NamedKey, name: str) -> None:
    named.check_enabled(name)
    if named.origin is Origin.IMPORTED:
        text = f"{name} was imported: its next version is imported, too"
        raise PreconditionError(name, text, reason="ROTATION_NOT_SUPPORTED", key=named.key_id)


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
class DestroyedVersion:
    """A version of a tenant's own key that was deleted, and which KEK it was wrapped under."""

    key_id: str
    version: int
    algorithm: str
    kek_version: int
    create_time: datetime
    destroy_time: datetime

    def shown(self) -> KeyVersion:
        """Show it as a version of its key."""
        return KeyVersion(
            version=self.version,
            state=VersionState.DESTROYED,
            algorithm=self.algorithm,
            create_time=self.create_time,
            kek_version=self.kek_version,
            destroy_time=self.destroy_time,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Destruction:
    """A KEK that is to be destroyed, and what it wrapped before that."""

    id: UUID
    tenant_uid: UUID
    kek_version: int
    sample: bytes

    def payload(
        self,
        tenant_id: TenantId,
        *,
        root: Mapping[str, str | bool],
        now: datetime,
        with_it: Sequence[DestroyedVersion] = (),
    ) -> bytes:
        """Say as JSON what was destroyed, and how it was seen: what is signed. For after the sample did not open.

        `with_it` is what had been deleted before, and no copy of which opens since.
        """
        return json.dumps(
            {
                "id": str(self.id),
                "tenant": f"tenants/{tenant_id}",
                "tenant_uid": str(self.tenant_uid),
                "destroyed": [
                    {"key": KEK, "version": self.kek_version, "algorithm": _KEK_ALGORITHM},
                    *(
                        {
                            "key": each.key_id,
                            "version": each.version,
                            "algorithm": each.algorithm,
                            "delete_time": each.destroy_time.isoformat(),
                        }
                        for each in with_it
                    ),
                ],
                "destroy_time": now.isoformat(),
                "root_of_trust": dict(root),
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

    @property
    def with_it(self) -> list[str]:
        """Name what went with the KEK: `keys/{key}/versions/{version}`. Receipts from before named keys have none."""
        gone = json.loads(self.payload).get("destroyed", [])
        return [f"keys/{each['key']}/versions/{each['version']}" for each in gone if each["key"] != KEK]
