"""How an audit log is linked, what is signed of it, with which keys, and how anybody checks that. Pure.

The links are SHA-256, each over the one before it and the canonical form of an entry (`control_plane/audit/model.py`).

Two things are signed, each as a DSSE envelope (`envelope.py`) over canonical JSON (RFC 8785), by Ed25519. Numbers that
may pass 2**53 are text, times are RFC 3339 in UTC, bytes are hexadecimal.

A checkpoint says how far a tenant's log has got, signed by the tenant's own key for it::

    tenant      its name                         time         when it was signed
    tenant_uid  its uid                          key_version  the key that signed, by its version
    sequence    of the last entry it covers      key_id       and by its id
    head        the link of that entry, which covers every entry up to it

A published key says who signs, and since when::

    tenant      its name                         public_key   32 bytes
    tenant_uid  its uid                          start_time   since when it signs
    version     of the key                       previous     null for the first; else the `version` before it, and
    key_id      as checkpoints name it                        `end_time`: until when that one may have signed

It is signed by the key itself, by the version before it, and by the platform's key for attestations. Whoever has the
platform's public key believes what that has signed; whoever has kept a public key of the log's own believes that one,
and what follows from it.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Self
from uuid import UUID

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from control_plane.proofs.envelope import signed_bytes

_GENESIS: Final = b"bulkhead audit log 1\n"
CHECKPOINT_TYPE: Final = "application/vnd.bulkhead.audit-checkpoint+json"
KEY_TYPE: Final = "application/vnd.bulkhead.audit-key+json"
OVERLAP: Final = timedelta(minutes=1)
"""How long a key may sign on beside the next one: a process that has just looked does not know of that yet."""


def first_head(tenant_uid: UUID) -> bytes:
    """Return what stands before the first entry of a tenant's log."""
    return hashlib.sha256(_GENESIS + tenant_uid.bytes).digest()


def link(head: bytes, canonical: bytes) -> bytes:
    """Return the head after an entry, given in its canonical form, where it was `head` before."""
    return hashlib.sha256(head + canonical).digest()


class ForgedError(Exception):
    """Something is not what one of the keys has signed, or not at that time. The text says what, for people."""


Sign = Callable[[str, bytes], bytes]
"""Signs a payload of a type: `AuditSigner.sign`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature of an envelope."""

    key_id: UUID
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """How far a log has got."""

    tenant: str
    tenant_uid: UUID
    sequence: int
    head: bytes
    time: datetime
    key_version: int
    key_id: UUID

    def payload(self) -> bytes:
        """Return what is signed."""
        return rfc8785.dumps(
            {
                "tenant": self.tenant,
                "tenant_uid": str(self.tenant_uid),
                "sequence": str(self.sequence),
                "head": self.head.hex(),
                "time": self.time.isoformat(),
                "key_version": self.key_version,
                "key_id": str(self.key_id),
            }
        )

    @classmethod
    def read(cls, payload: bytes) -> Self:
        """Read it, believed or not; raise ForgedError for what is none."""
        with _parsing("checkpoint"):
            said = json.loads(payload)
            checkpoint = cls(
                tenant=str(said["tenant"]),
                tenant_uid=UUID(said["tenant_uid"]),
                sequence=int(said["sequence"]),
                head=bytes.fromhex(said["head"]),
                time=_moment(said["time"]),
                key_version=int(said["key_version"]),
                key_id=UUID(said["key_id"]),
            )
            _check_canonical(checkpoint.payload(), payload)
            return checkpoint

    def signed(self, sign: Sign) -> "SignedCheckpoint":
        """Sign it."""
        payload = self.payload()
        return SignedCheckpoint(sequence=self.sequence, payload=payload, signature=sign(CHECKPOINT_TYPE, payload))


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCheckpoint:
    """A checkpoint as it is stored: at which place, and what was signed."""

    sequence: int
    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        """Name the key that it says has signed it; empty where it is none."""
        try:
            return str(Checkpoint.read(self.payload).key_id)
        except ForgedError:
            return ""

    def is_signed_by(self, public: bytes) -> bool:
        """Say whether this key has signed it."""
        return _is_signed(public, self.signature, CHECKPOINT_TYPE, self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditKey:
    """A version of a tenant's key for its audit log, as it is published."""

    tenant: str
    tenant_uid: UUID
    version: int
    key_id: UUID
    public: bytes
    start_time: datetime
    previous_version: int = 0
    """0 for the first."""

    @property
    def public_pem(self) -> str:
        """Write the public key as others read it."""
        key = Ed25519PublicKey.from_public_bytes(self.public)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def previous_end_time(self) -> datetime:
        """Until when the version before it may have signed."""
        return self.start_time + OVERLAP

    def payload(self) -> bytes:
        """Return what is signed."""
        previous: Mapping[str, str | int] = {
            "version": self.previous_version,
            "end_time": self.previous_end_time.isoformat(),
        }
        return rfc8785.dumps(
            {
                "tenant": self.tenant,
                "tenant_uid": str(self.tenant_uid),
                "version": self.version,
                "key_id": str(self.key_id),
                "public_key": self.public.hex(),
                "start_time": self.start_time.isoformat(),
                "previous": previous if self.previous_version else None,
            }
        )

    @classmethod
    def read(cls, payload: bytes) -> Self:
        """Read it, believed or not; raise ForgedError for what is none."""
        with _parsing("published key"):
            said = json.loads(payload)
            key = cls(
                tenant=str(said["tenant"]),
                tenant_uid=UUID(said["tenant_uid"]),
                version=int(said["version"]),
                key_id=UUID(said["key_id"]),
                public=bytes.fromhex(said["public_key"]),
                start_time=_moment(said["start_time"]),
                previous_version=int(said["previous"]["version"]) if said["previous"] else 0,
            )
            _check_canonical(key.payload(), payload)
            # It has to be a point on the curve.
            Ed25519PublicKey.from_public_bytes(key.public)
            return key

    def follows(self, before: "AuditKey | None", *, tenant_uid: UUID) -> bool:
        """Say whether this is the tenant's next version after `before`, or its first."""
        if before is None:
            return self.tenant_uid == tenant_uid and not self.previous_version
        return (
            self.tenant_uid == tenant_uid
            and self.version > before.version == self.previous_version
            and self.start_time > before.start_time
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedKey:
    """A published key as it is stored: what was signed, and by whom."""

    payload: bytes = field(repr=False)
    signatures: Sequence[Signature]

    def maybe_read(self) -> AuditKey | None:
        """Read what is published, believed or not; None for what is no key."""
        try:
            return AuditKey.read(self.payload)
        except ForgedError:
            return None

    def is_signed_by(self, public: bytes) -> bool:
        """Say whether this key has signed it."""
        return any(_is_signed(public, each.signature, KEY_TYPE, self.payload) for each in self.signatures)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogKeys:
    """The keys of a tenant's log that somebody vouches for."""

    tenant_uid: UUID
    keys: Sequence[AuditKey] = ()
    """By version, the oldest first."""
    first_forged: int = 0
    """The first version that nobody vouches for; neither it nor what follows it is believed. 0 where all are."""

    @classmethod
    def vouched(cls, tenant_uid: UUID, published: Iterable[PublishedKey], *, given: Collection[bytes]) -> Self:
        """Believe what is signed by the public keys `given`; `published` has the oldest first.

        Where there are keys of others among them, which is the platform's, each version has to be signed by one of
        those: not even who has stolen an older version makes a newer one. Else each by the one before it.
        """
        published = list(published)
        own = {key.public for key in (one.maybe_read() for one in published) if key is not None}
        roots = set(given) - own
        vouchers = roots or set(given)
        keys: list[AuditKey] = []
        for one in published:
            key, before = one.maybe_read(), keys[-1] if keys else None
            if (
                key is None
                or not key.follows(before, tenant_uid=tenant_uid)
                or not one.is_signed_by(key.public)
                or (before is not None and not one.is_signed_by(before.public))
                or not any(one.is_signed_by(public) for public in vouchers)
            ):
                return cls(tenant_uid=tenant_uid, keys=keys, first_forged=before.version + 1 if before else 1)
            keys.append(key)
            vouchers |= set() if roots else {key.public}
        return cls(tenant_uid=tenant_uid, keys=keys)

    def end_time(self, version: int) -> datetime | None:
        """Say until when a version may have signed; None for one that still does."""
        return next((key.previous_end_time for key in self.keys if key.previous_version == version), None)

    def accepted(self, signed: SignedCheckpoint) -> Checkpoint:
        """Return what a checkpoint says, if it is this tenant's, at its own place, and signed while its key was valid.

        Raises:
            ForgedError: it is not.
        """
        checkpoint = Checkpoint.read(signed.payload)
        key = next((key for key in self.keys if key.version == checkpoint.key_version), None)
        if key is None or key.key_id != checkpoint.key_id:
            raise ForgedError("a checkpoint names a key that nobody vouches for")
        if checkpoint.tenant_uid != self.tenant_uid:
            raise ForgedError("a checkpoint is of another tenant")
        if checkpoint.sequence != signed.sequence:
            raise ForgedError("a checkpoint is of another place")
        end_time = self.end_time(key.version)
        if checkpoint.time < key.start_time or (end_time is not None and checkpoint.time >= end_time):
            raise ForgedError("a checkpoint is of a time at which its key did not sign")
        if not signed.is_signed_by(key.public):
            raise ForgedError("a checkpoint was not signed by its key")
        return checkpoint


class Signatures:
    """How far a log is signed, as its chain is walked along."""

    def __init__(self, keys: LogKeys) -> None:
        """Begin before the first entry."""
        self._keys = keys
        self.last: Checkpoint | None = None
        self.first_forged = 0
        """The place of the first checkpoint that is none; 0 where there is none such."""

    @property
    def sequence(self) -> int:
        """Up to which entry the log is signed."""
        return self.last.sequence if self.last else 0

    def hold(self, signed: SignedCheckpoint, *, head: bytes) -> bool:
        """Say whether what was signed there is the `head` that the chain has there: if not, it was made anew.

        A checkpoint that is forged says nothing of the chain, and is noted.
        """
        try:
            checkpoint = self._keys.accepted(signed)
        except ForgedError:
            self.first_forged = self.first_forged or signed.sequence
            return True
        if checkpoint.head != head:
            return False
        self.last = checkpoint
        return True


def _is_signed(public: bytes, signature: bytes, payload_type: str, payload: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed_bytes(payload_type, payload))
    except (InvalidSignature, ValueError):
        return False
    return True


def _check_canonical(written: bytes, payload: bytes) -> None:
    if written != payload:
        raise ValueError("it is not written as it would be by us")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment


@contextmanager
def _parsing(what: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ForgedError(f"what should be a {what} is none") from error
