"""Sealing to a public key: HPKE (RFC 9180), hybrid, so that neither a quantum computer nor a flaw in ML-KEM opens it.

The suite is MLKEM768-X25519 with HKDF-SHA256 and AES-256-GCM, in base mode: who sealed is not proven, and whoever must
know it binds or checks something of their own.

A private key is a seed of 32 bytes, which SHAKE256 makes the seeds of both halves of (64 bytes for ML-KEM-768, 32 for
X25519). A public key is 1184 bytes of ML-KEM-768 and 32 of X25519. The envelope, format 1::

    offset  bytes  field
    0       3      "BHP"
    3       1      format: 1
    4       1      suite: 1 is the one above
    5       1120   encapsulated key: 1088 bytes of ML-KEM-768, 32 of X25519
    1125    n + 16 ciphertext and tag

The first five bytes and what it is bound to (`Context`) are HPKE's `info`, which goes into the key: what was changed,
or is opened for something else, does not open. HPKE's own `aad` is empty; for a single message, `info` is as strong.
A reader refuses whatever it does not know: formats and suites are added, never guessed.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

SUITE: Final = "MLKEM768-X25519/HKDF-SHA256/AES-256-GCM"
SEED_BYTES: Final = 32
SEEDS_BYTES: Final = 96
"""Of both halves of a private key, one after the other."""
PUBLIC_BYTES: Final = 1216
_MLKEM_PUBLIC_BYTES: Final = 1184
_MLKEM_SEED_BYTES: Final = 64
_HEAD: Final = b"BHP\x01\x01"
_LABEL: Final = b"bulkhead/hpke/1"
_SUITE: Final = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class UnopenedError(Exception):
    """An envelope does not open: altered, cut, sealed to another key, or for something else. Which is not known."""

    def __init__(self) -> None:
        """Say no more than that."""
        super().__init__("the envelope does not open: altered, or sealed to another key or for something else")


class PublicKeyError(Exception):
    """The bytes are no public key of the suite. The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What an envelope is for. It opens for exactly this."""

    purpose: str
    """A name of its own for each use, such as `escrow/share/1`."""
    parts: tuple[bytes, ...]
    """Whose, which, for whom: two different tuples never give the same `info`."""

    def info(self) -> bytes:
        """Return the bytes that go into the key: each part carries its length."""
        said = (_HEAD, self.purpose.encode(), *self.parts)
        return _LABEL + b"".join(len(part).to_bytes(8, "big") + part for part in said)


@dataclass(frozen=True, kw_only=True)
class PrivateKey:
    """Opens what was sealed to its public half."""

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse a seed of another size."""
        if len(self.seed) != SEED_BYTES:
            raise ValueError("a private key has a seed of 32 bytes")

    @classmethod
    def generate(cls) -> "PrivateKey":
        """Make a new, random one."""
        return cls(seed=secrets.token_bytes(SEED_BYTES))

    @cached_property
    def public(self) -> bytes:
        """Its public half."""
        return public_half(self._seeds)

    def open(self, envelope: bytes, context: Context) -> bytes:
        """Return what was sealed to this key for this context; raise UnopenedError for all else. Some 0.1 ms."""
        if not envelope.startswith(_HEAD):
            raise UnopenedError
        try:
            return _SUITE.decrypt(envelope[len(_HEAD) :], self._key, context.info())
        except (InvalidTag, ValueError):
            raise UnopenedError from None

    @cached_property
    def _key(self) -> hpke.MLKEM768X25519PrivateKey:
        return private_key(self._seeds)

    @property
    def _seeds(self) -> bytes:
        return hashlib.shake_256(self.seed).digest(SEEDS_BYTES)


def seal(public: bytes, plaintext: bytes, context: Context) -> bytes:
    """Seal to a public key, for a context. Different each time.

    Raises:
        PublicKeyError: it is no key of the suite, such as a classical one.
    """
    try:
        return _HEAD + _SUITE.encrypt(plaintext, public_key(public), context.info())
    except ValueError as error:
        raise PublicKeyError("has an X25519 half that agrees on nothing") from error


def check_public(public: bytes) -> None:
    """Raise PublicKeyError unless something can be sealed to the key."""
    seal(public, b"", Context(purpose="check", parts=()))


def fingerprint(public: bytes) -> str:
    """Name a public key as people compare it: SHA-256 in hexadecimal."""
    return hashlib.sha256(public).hexdigest()


def private_key(seeds: bytes) -> hpke.MLKEM768X25519PrivateKey:
    """Build a private key from the seeds of its halves; raise ValueError for another number of bytes."""
    return hpke.MLKEM768X25519PrivateKey(*_halves(seeds))


def public_half(seeds: bytes) -> bytes:
    """Return the public key that goes with the seeds. Raises like `private_key`."""
    mlkem, x25519 = _halves(seeds)
    return mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()


def public_key(public: bytes) -> hpke.MLKEM768X25519PublicKey:
    """Read a public key; raise PublicKeyError for what is none of the suite."""
    if len(public) != PUBLIC_BYTES:
        raise PublicKeyError(
            f"must be an MLKEM768-X25519 public key of {PUBLIC_BYTES} bytes; classical keys are not sealed to"
        )
    try:
        return hpke.MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES]),
            X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:]),
        )
    except ValueError as error:
        raise PublicKeyError("is no MLKEM768-X25519 public key") from error


def _halves(seeds: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    return (
        MLKEM768PrivateKey.from_seed_bytes(seeds[:_MLKEM_SEED_BYTES]),
        X25519PrivateKey.from_private_bytes(seeds[_MLKEM_SEED_BYTES:]),
    )
