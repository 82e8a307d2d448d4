"""A tenant's keys as they are shown, and what it takes to rotate each. Pure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import Enum, StrEnum
from typing import Any, Final
from uuid import UUID

from control_plane.errors import EtagMismatchError, NotFoundError, PreconditionError
from control_plane.ids import TenantId
from control_plane.keys.model import BUILT_IN_IDS, KEK, Purpose
from control_plane.keys.named.model import NamedKey, Origin
from control_plane.objects.paths import ObjectName
from control_plane.postgres.effects import JsonValue

_KEK_ALGORITHM: Final = "AES-256-GCM"

STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    KEK: ("kek", "wrapping", "destruction"),
    Purpose.STORAGE.value: ("version", "objects", "rows", "retirement"),
    Purpose.SERVICES.value: ("version",),
    Purpose.TOKENS.value: ("publication", "edges", "use"),
    Purpose.AUTHORITY.value: ("publication", "use", "retirement"),
    Purpose.ENROLMENT.value: ("publication", "use", "login"),
    Purpose.AUDIT.value: ("version",),
}
"""The steps of a rotation, by key."""
NAMED_STEPS: Final = ("version",)
"""Those of a key of a tenant's own."""


class Found(Enum):
    """What became of one object."""

    NEW = "NEW"
    """It is sealed by the new version, or gone."""
    OLD = "OLD"
    """An older version had sealed it when it was looked at."""
    KEPT = "KEPT"
    """An older version has sealed it, and it cannot be replaced."""
    SHUT = "SHUT"
    """It opens for nobody, since it was altered, or its version is retired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resealing:
    """How far it is that all is sealed by the new version; `look…` is of one look through all objects."""

    look: int = 0
    """Which look through all objects this is, from 1."""
    is_whole: bool = False
    """Whether the look is at its end."""
    after: ObjectName | None = None
    look_done: int = 0
    look_old: int = 0
    look_shut: int = 0
    look_kept: Sequence[tuple[int, int]] = ()
    """How many objects an older version keeps, by version."""
    objects_total: int = 0
    """How many there were at the beginning."""
    objects_resealed: int = 0
    bytes_resealed: int = 0
    rows_resealed: int = 0

    @classmethod
    def read(cls, progress: Mapping[str, JsonValue]) -> "Resealing":
        """Read what `written` wrote; where there is nothing, nothing is done yet."""
        said: dict[str, Any] = dict(progress)
        if after := said.get("after"):
            said["after"] = ObjectName(path=after[0], version=after[1])
        return cls(**said | {"look_kept": tuple((kept[0], kept[1]) for kept in said.get("look_kept", ()))})

    def written(self) -> Mapping[str, JsonValue]:
        """Write it as JSON."""
        said: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        after = None if self.after is None else [self.after.path, self.after.version]
        return said | {"after": after, "look_kept": [list(kept) for kept in self.look_kept]}

    @property
    def kept(self) -> Sequence[int]:
        """Which versions have sealed what cannot be replaced."""
        return [version for version, _ in self.look_kept]

    def next_look(self) -> "Resealing":
        """Begin another look."""
        return replace(
            self, look=self.look + 1, is_whole=False, after=None, look_done=0, look_old=0, look_shut=0, look_kept=()
        )

    def past(self, name: ObjectName, found: Found, *, size: int = 0, sealed_by: int = 0) -> "Resealing":
        """Count an object, of which `size` bytes were sealed anew."""
        kept = dict(self.look_kept)
        if found is Found.KEPT:
            kept[sealed_by] = kept.get(sealed_by, 0) + 1
        return replace(
            self,
            after=name,
            look_done=self.look_done + 1,
            look_old=self.look_old + (found is Found.OLD),
            look_shut=self.look_shut + (found is Found.SHUT),
            look_kept=tuple(sorted(kept.items())),
            objects_resealed=self.objects_resealed + bool(size),
            bytes_resealed=self.bytes_resealed + size,
        )


class VersionState(StrEnum):
    """Where a version is in its life."""

    ENABLED = "ENABLED"
    RETIRED = "RETIRED"
    DESTROYED = "DESTROYED"


_CHANGED_BY_HAND: Final[Mapping[VersionState, Sequence[str]]] = {
    # What it seals is with others, who alone know when nothing is left; what it made is not to be believed any more.
    VersionState.RETIRED: (Purpose.SERVICES.value, Purpose.AUTHORITY.value, Purpose.ENROLMENT.value),
    VersionState.ENABLED: (
        Purpose.SERVICES.value,
        Purpose.STORAGE.value,
        Purpose.AUTHORITY.value,
        Purpose.ENROLMENT.value,
    ),
}


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

    def version(self, number: str) -> KeyVersion:
        """Return the version of a number as names have it; raise NotFoundError where there is none."""
        for each in self.versions:
            if str(each.version) == number:
                return each
        raise NotFoundError(f"{self.name}/versions/{number}")

    def check_change(self, version: KeyVersion, state: VersionState, *, needed: Sequence[int] = ()) -> None:
        """Raise PreconditionError where this version is not brought into that state by hand, and say why.

        `needed` are those that something rests on which does not ask for versions.
        """
        name = f"{self.name}/versions/{version.version}"
        if self.id not in _CHANGED_BY_HAND[state]:
            text = f"versions of {self.id} are not brought into that state by hand: its rotation sees to them"
            raise PreconditionError(name, text, reason="KEY_VERSION_NOT_CHANGED", key=self.id)
        if version.version >= self.primary.version and state is VersionState.RETIRED:
            text = f"{name} is what seals or signs, or what will; rotate the key first"
            raise PreconditionError(name, text, reason="KEY_VERSION_PRIMARY")
        if version.version in needed and state is VersionState.RETIRED:
            text = f"{name} vouches for the tenant's escrow, or its database role logs in with it"
            raise PreconditionError(name, text, reason="KEY_VERSION_NEEDED")

    def check_rotatable(self) -> None:
        """Raise PreconditionError for a key that is not rotated, and say what it would take."""
        if self.named is not None:
            _check_named(self.named, self.name)


def position(key_id: str) -> tuple[int, str]:
    """Say where a key of that name is in a list."""
    place = BUILT_IN_IDS.index(key_id) if key_id in BUILT_IN_IDS else len(BUILT_IN_IDS)
    return place, key_id


def _check_named(named: NamedKey, name: str) -> None:
    named.check_enabled(name)
    if named.key_id in BUILT_IN_IDS:
        text = f"{name} was called so before every tenant had a key of that name: it stays as it is"
        raise PreconditionError(name, text, reason="ROTATION_NOT_SUPPORTED", key=named.key_id)
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
        escrow_id: UUID | None,
        with_it: Sequence[DestroyedVersion] = (),
    ) -> bytes:
        """Say as JSON what was destroyed, and how it was seen: what is signed. For after the sample did not open.

        `with_it` is what had been deleted before, and no copy of which opens since. Copies of what the KEK wrapped that
        are in escrow are not destroyed with it: it says where there are any.
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
                "escrow": "none" if escrow_id is None else str(escrow_id),
                "probe": {
                    "sample_sha256": hashlib.sha256(self.sample).hexdigest(),
                    "before": "OPENED",
                    "after": "KEY_MISSING",
                },
            }
        ).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shredding:
    """A tenant whose KEKs are all to be destroyed, and what goes with them."""

    id: UUID
    tenant_uid: UUID
    keys: Sequence[Mapping[str, JsonValue]]
    """Each version of each key that they wrap, by its id, its number and that of its KEK."""

    def payload(
        self,
        tenant_id: TenantId,
        destroyed: Sequence[Destruction],
        *,
        root: Mapping[str, str | bool],
        escrow_id: UUID | None,
        now: datetime,
    ) -> bytes:
        """Say as JSON what was destroyed, and how it was seen. For after no sample, and no key, opened any more.

        An escrow that there was is named: its copies are deleted with the receipt, but for those in backups.
        """
        return json.dumps(
            {
                "id": str(self.id),
                "tenant": f"tenants/{tenant_id}",
                "tenant_uid": str(self.tenant_uid),
                "destroyed": [
                    {"key": KEK, "version": each.kek_version, "algorithm": _KEK_ALGORITHM} for each in destroyed
                ],
                "lost": list(map(dict, self.keys)),
                "destroy_time": now.isoformat(),
                "root_of_trust": dict(root),
                "escrow": "none" if escrow_id is None else str(escrow_id),
                "probes": [
                    {
                        "kek_version": each.kek_version,
                        "sample_sha256": hashlib.sha256(each.sample).hexdigest(),
                        "before": "OPENED",
                        "after": "KEY_MISSING",
                    }
                    for each in destroyed
                ],
            }
        ).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What was said of a destruction, as it was signed."""

    id: UUID
    kek_version: int
    """0 where it is of all the KEKs of a tenant."""
    destroy_time: datetime
    payload: bytes
    signature: bytes
    key_id: UUID

    @property
    def with_it(self) -> list[str]:
        """Name what went with the KEK: `keys/{key}/versions/{version}`. Receipts from before named keys have none."""
        gone = json.loads(self.payload).get("destroyed", [])
        return [f"keys/{each['key']}/versions/{each['version']}" for each in gone if each["key"] != KEK]
