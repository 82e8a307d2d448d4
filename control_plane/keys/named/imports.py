"""How a key is wrapped that a tenant brings along, and opened here. Pure.

A key pair is made for one import, and is bound to it: HPKE's `info` says the tenant, the import, the key and what it is
to be, so that what was wrapped for one opens for no other. CKM_RSA_AES_KEY_WRAP has no place for that: there it is the
pair alone, which was made for one import and is used once.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from control_plane.errors import PreconditionError
from control_plane.keys.algorithms import KeyAlgorithm, new_key
from control_plane.keys.material import MakeKey, Material, private_der
from control_plane.keys.model import IntegrityError
from control_plane.keys.named.material import check_signing_pair
from control_plane.keys.named.model import Kind
from control_plane.recipients import hpke

LIFETIME: Final = timedelta(days=3)
MOST_OPEN: Final = 10
"""Of one tenant: imports that could still take something in."""
LARGEST_WRAPPED: Final = 16_384
_RSA_BYTES: Final = 512
_AES_KEY_BYTES: Final = 32
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


class Method(StrEnum):
    """How a key is wrapped on its way."""

    HPKE_AES = "HPKE_MLKEM768_X25519_AES_256_GCM"
    HPKE_CHACHA = "HPKE_MLKEM768_X25519_CHACHA20_POLY1305"
    RSA_AES = "RSA_OAEP_4096_SHA256_AES_KWP"

    @property
    def is_post_quantum(self) -> bool:
        """Whether who keeps what passes cannot open it with a quantum computer one day."""
        return self is not Method.RSA_AES


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """An import: which key may come in, how, and until when."""

    id: UUID
    tenant_uid: UUID
    key_id: str
    kind: Kind
    method: Method
    create_time: datetime
    expire_time: datetime
    wrapped_sha256: bytes | None = None
    """Of what came in; None while nothing has."""

    @property
    def stored_as(self) -> str:
        """What its private half is called among the tenant's keys. No key of a tenant's can be called that."""
        return f"import/{self.id}"

    def info(self, tenant_id: str) -> bytes:
        """Return what HPKE binds the wrapped key to. Names have no spaces."""
        if not self.method.is_post_quantum:
            return b""
        tenant = f"tenants/{tenant_id}"
        names = f"{self.tenant_uid} {tenant}/importJobs/{self.id} {tenant}/keys/{self.key_id}"
        return f"bulkhead/key-import/1 {names} {self.kind.purpose} {self.kind.algorithm}".encode()

    def check_open(self, now: datetime, *, name: str) -> None:
        """Raise PreconditionError for an import that takes nothing in any more."""
        if self.wrapped_sha256 is not None:
            raise PreconditionError(name, f"{name} has taken in a key already", reason="IMPORT_JOB_USED")
        if self.expire_time <= now:
            raise PreconditionError(name, f"{name} has expired", reason="IMPORT_JOB_EXPIRED")


def new_pair(method: Method, *, make: MakeKey = new_key) -> Material:
    """Make the key pair of an import. May take seconds, for RSA."""
    if method is Method.RSA_AES:
        key = make(KeyAlgorithm.RSA_4096)
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return Material(private=private_der(key), public=public)
    seeds = secrets.token_bytes(hpke.SEEDS_BYTES)
    return Material(private=seeds, public=hpke.public_half(seeds))


def check_pair(material: Material) -> None:
    """Raise IntegrityError where the public half of an import is not its own."""
    if len(material.private) == hpke.SEEDS_BYTES:
        if hpke.public_half(material.private) != material.public:
            raise IntegrityError("the public half of an import")
    else:
        check_signing_pair(material)


def unwrap(method: Method, private: bytes, wrapped: bytes, *, info: bytes) -> bytes:
    """Return the key that was wrapped for this import; raise IntegrityError for anything else, always the same.

    A few milliseconds, on the caller's thread.
    """
    try:
        if method is Method.RSA_AES:
            return _unwrap_rsa(private, wrapped)
        aead = AEAD.AES_256_GCM if method is Method.HPKE_AES else AEAD.CHACHA20_POLY1305
        key = hpke.private_key(private)
        return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, aead).decrypt(wrapped, key, info=info)
    except (InvalidTag, ValueError, keywrap.InvalidUnwrap):
        raise IntegrityError("a wrapped key") from None


def _unwrap_rsa(private: bytes, wrapped: bytes) -> bytes:
    key = serialization.load_der_private_key(private, password=None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise IntegrityError("the key of an import")
    between = key.decrypt(wrapped[:_RSA_BYTES], _OAEP)
    if len(between) != _AES_KEY_BYTES:
        raise IntegrityError("a wrapped key")
    return keywrap.aes_key_unwrap_with_padding(between, wrapped[_RSA_BYTES:])
