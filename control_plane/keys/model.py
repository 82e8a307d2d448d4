"""What keys are for, whose they are, and the envelope that sealed data is kept in. Pure.

The envelope, format 1, for what is short and held in memory whole, such as a wrapped key; `sealing/segments.py` has
format 2, for objects of any size, which were in format 1 once. Numbers are big-endian::

    offset  bytes  field
    0       3      "BHE"
    3       1      format: 1
    4       1      algorithm: 1 is AES-256-GCM
    5       4      version of the key
    9       12     nonce, random
    21      n      ciphertext, as long as the plaintext
    21 + n  16     tag

The tag also covers the first nine bytes and what the data is bound to (`Binding.aad`), so that neither can be changed.
A reader refuses whatever it does not know: formats and algorithms are added, never guessed.
"""

import struct
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NewType, Self
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

WrappedKey = NewType("WrappedKey", bytes)
"""A key encrypted under a KEK. Safe to store and to log the length of; opaque to all but the vault that made it."""

PLATFORM_UID: Final = UUID(int=0)
"""Stands in the place of a tenant's uid where a key is the platform's own; no tenant has it."""

FIRST_OBJECT_VERSION: Final = 1

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
# Random nonces of 96 bits: one key may seal 2**32 messages before the odds of a repeat pass 2**-32 (SP 800-38D, 8.3).
_TAG_BYTES: Final = 16
_MAGIC: Final = b"BHE"
_FORMAT: Final = 1
_AES_256_GCM: Final = 1
_HEADER: Final = struct.Struct(">3sBBI")
_SHORTEST: Final = _HEADER.size + NONCE_BYTES + _TAG_BYTES
_LAST_VERSION: Final = 2**32 - 1
_AAD_LABEL: Final = b"bulkhead/aad/1"
_VERSIONED_AAD_LABEL: Final = b"bulkhead/aad/2"


class IntegrityError(Exception):
    """Sealed data does not open: altered, cut, or sealed for another tenant, purpose, object, or version of either.

    Which of these it was is not said, since whoever put the data there may be reading.
    """

    def __init__(self, what: str = "sealed data") -> None:
        """Name what was being opened, never what is in it."""
        super().__init__(f"{what} does not open: altered, or sealed for another tenant, purpose, object or version")
        self.what = what


class MissingKeyError(Exception):
    """There is no such key, or no longer. What was sealed with it stays sealed."""

    def __init__(self, key: str) -> None:
        """Name the key."""
        super().__init__(f"{key} does not exist")
        self.key = key


class Purpose(StrEnum):
    """What a tenant's key may be used for, and nothing else: each purpose has keys of its own."""

    STORAGE = "storage"
    """Seals objects."""
    TOKENS = "tokens"
    """Signs the tenant's access tokens."""
    AUTHORITY = "authority"
    """Signs certificates: the key of the tenant's own certificate authority."""
    SERVICES = "services"
    """Seals what internal services keep for the tenant."""
    ENROLMENT = "enrolment"
    """Derives secrets that are stored nowhere: enrolment tokens, the password of the tenant's own database role."""
    AUDIT = "audit"
    """Signs how far the tenant's audit log has got."""
    ENCRYPTION = "encryption"
    """Seals what the tenant likes: keys of its own making."""
    SIGNING = "signing"
    """Signs what the tenant likes: keys of its own making."""
    IMPORT = "import"
    """Unwraps, once, a key that the tenant brings along."""


BUILT_IN: Final = (
    Purpose.STORAGE,
    Purpose.TOKENS,
    Purpose.AUTHORITY,
    Purpose.SERVICES,
    Purpose.ENROLMENT,
    Purpose.AUDIT,
)
"""The purposes for which every tenant has one key, which is called like its purpose."""
NAMED: Final = (Purpose.ENCRYPTION, Purpose.SIGNING)
"""The purposes of keys of a tenant's own making, which are called as it likes."""
KEK: Final = "kek"
BUILT_IN_IDS: Final = (KEK, *(purpose.value for purpose in BUILT_IN))
"""What the keys of every tenant are called, in the order in which they are listed."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class KekRef:
    """Names a key-encryption key. The key itself exists inside a vault only."""

    tenant_uid: UUID
    version: int

    @property
    def title(self) -> str:
        """Name it to an operator."""
        return f"KEK {self.tenant_uid} version {self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What sealed data belongs to. It opens for exactly this, and for nothing else."""

    tenant_uid: UUID
    purpose: str
    version: int
    """Of the key."""
    object_name: str
    object_version: int | None = None
    """Of the object, where it can have several."""

    def aad(self) -> bytes:
        """Return the bytes to authenticate. Two bindings never give the same ones: each part carries its length."""
        parts = [
            self.tenant_uid.bytes,
            self.purpose.encode(),
            self.version.to_bytes(8, "big"),
            self.object_name.encode(),
        ]
        label = _AAD_LABEL
        if self.object_version is not None:
            label = _VERSIONED_AAD_LABEL
            parts.append(self.object_version.to_bytes(8, "big"))
        return label + b"".join(len(part).to_bytes(8, "big") + part for part in parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The parts of an envelope, for whoever has a device open it."""

    head: bytes
    """What the tag also covers, before what the data is bound to."""
    nonce: bytes
    sealed: bytes = field(repr=False)
    """Ciphertext and tag."""

    @staticmethod
    def head_of(version: int) -> bytes:
        """Return how an envelope begins that is sealed under this version of a key."""
        if not 0 < version <= _LAST_VERSION:
            raise ValueError("versions count from 1")
        return _HEADER.pack(_MAGIC, _FORMAT, _AES_256_GCM, version)

    @classmethod
    def parse(cls, envelope: bytes, *, version: int) -> Self:
        """Take it apart; raise IntegrityError where it asks for another version of the key, or is none."""
        if sealed_version(envelope) != version:
            raise IntegrityError
        body = _HEADER.size + NONCE_BYTES
        return cls(head=envelope[: _HEADER.size], nonce=envelope[_HEADER.size : body], sealed=envelope[body:])


def seal(key: bytes, plaintext: bytes, *, version: int, nonce: bytes, aad: bytes) -> bytes:
    """Seal `plaintext` in an envelope. `nonce` MUST be fresh and random; `key` is of 32 bytes.

    Costs about a millisecond for each MiB, on the caller's thread.
    """
    if len(key) != KEY_BYTES or len(nonce) != NONCE_BYTES:
        raise ValueError("a key has 32 bytes, and a nonce 12")
    head = Envelope.head_of(version)
    return head + nonce + AESGCM(key).encrypt(nonce, plaintext, head + aad)


def unseal(key: bytes, envelope: bytes, *, version: int, aad: bytes) -> bytes:
    """Return what was sealed under this very key, version and binding; raise IntegrityError for all else."""
    parts = Envelope.parse(envelope, version=version)
    try:
        return AESGCM(key).decrypt(parts.nonce, parts.sealed, parts.head + aad)
    except InvalidTag:
        raise IntegrityError from None


def sealed_version(envelope: bytes) -> int:
    """Read which version of the key an envelope asks for. Not yet authenticated: `unseal` does that."""
    if len(envelope) < _SHORTEST:
        raise IntegrityError
    magic, layout, algorithm, version = _HEADER.unpack_from(envelope)
    if (magic, layout, algorithm) != (_MAGIC, _FORMAT, _AES_256_GCM):
        raise IntegrityError
    return int(version)
