"""What a new key of each purpose is made of, and what its public half says.

Computation and randomness only: nothing is stored here.
"""

import secrets
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from control_plane.keys.algorithms import DEFAULT_AUTHORITY, STORED_AS, KeyAlgorithm, SigningKey, new_key, signing_hash
from control_plane.keys.model import KEY_BYTES, IntegrityError, Purpose
from control_plane.proofs.envelope import signed_bytes
from control_plane.token_keys import (
    TOKENS_STORED_AS,
    TokenAlgorithm,
    TokenPrivateKey,
    TokenPublicKey,
    new_token_key,
    write_token_key,
)

_SEED_BYTES: Final = 32
_ALGORITHMS: Final[Mapping[Purpose, str]] = {
    Purpose.STORAGE: "AES-256-GCM",
    Purpose.SERVICES: "AES-256-GCM",
    Purpose.ENROLMENT: "HMAC-SHA256",
    Purpose.AUDIT: "Ed25519",
}
# Ten years: the authority outlives every certificate of its tenant, and is changed by rotation long before.
AUTHORITY_LIFETIME: Final = timedelta(days=3652)
# RFC 5280, ub-common-name; of characters there, but many implementations count bytes.
_LONGEST_COMMON_NAME: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A key as it is stored: its private half goes to the vault to be wrapped."""

    private: bytes = field(repr=False)
    """32 random bytes, an Ed25519 seed, or another private key in PKCS #8 DER."""
    public: bytes | None
    """A public key (`write_token_key`; raw for the audit log), an X.509 certificate in DER, or nothing: symmetric."""
    cross: bytes | None = None
    """Of an authority that took another's place: the same key's certificate by that one, in DER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSigner:
    """Signs a tenant's tokens."""

    kid: UUID
    private_key: TokenPrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """Verifies a tenant's tokens: what the key signed speaks for `tenant_uid` and for nobody else."""

    kid: UUID
    tenant_uid: UUID
    public_key: TokenPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSigner:
    """Signs a tenant's audit log."""

    version: int
    key_id: UUID
    private_key: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> bytes:
        """Its public half, 32 bytes."""
        return self.private_key.public_key().public_bytes_raw()

    def sign(self, payload_type: str, payload: bytes) -> bytes:
        """Sign a payload as a DSSE envelope has it."""
        return self.private_key.sign(signed_bytes(payload_type, payload))


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Whose key it will be, as the public half tells the world."""

    tenant_uid: UUID
    display_name: str
    tenant_id: str
    authority_algorithm: KeyAlgorithm = DEFAULT_AUTHORITY
    token_algorithm: TokenAlgorithm = TokenAlgorithm.EDDSA

    def algorithm(self, purpose: Purpose) -> str:
        """Name what the key of a purpose is used with."""
        match purpose:
            case Purpose.AUTHORITY:
                return STORED_AS[self.authority_algorithm]
            case Purpose.TOKENS:
                return TOKENS_STORED_AS[self.token_algorithm]
        return _ALGORITHMS[purpose]


MakeKey = Callable[[KeyAlgorithm], SigningKey]
"""Gives a new, random key, which nobody else is given."""


def new_material(purpose: Purpose, *, holder: Holder, now: datetime, make: MakeKey = new_key) -> Material:
    """Make a new, random key for a built-in `purpose`. May take seconds, for an authority with RSA."""
    match purpose:
        case Purpose.TOKENS:
            token_key = new_token_key(holder.token_algorithm)
            private = (
                token_key.private_bytes_raw() if isinstance(token_key, Ed25519PrivateKey) else private_der(token_key)
            )
            return Material(private=private, public=write_token_key(token_key.public_key()))
        case Purpose.AUDIT:
            audit_key = Ed25519PrivateKey.generate()
            return Material(private=audit_key.private_bytes_raw(), public=audit_key.public_key().public_bytes_raw())
        case Purpose.AUTHORITY:
            authority_key = make(holder.authority_algorithm)
            certificate = authority_certificate(authority_key, name=_authority_name(holder), now=now)
            return Material(
                private=private_der(authority_key),
                public=certificate.public_bytes(serialization.Encoding.DER),
            )
        case Purpose.STORAGE | Purpose.SERVICES | Purpose.ENROLMENT:
            return Material(private=secrets.token_bytes(KEY_BYTES), public=None)
    message = f"no tenant has a key for {purpose} from the beginning"
    raise ValueError(message)


def private_der(key: SigningKey) -> bytes:
    """Write a private key as it is stored: PKCS #8 in DER."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def token_key_pair(material: Material) -> TokenPrivateKey:
    """Parse a key for tokens; raise IntegrityError when the public half beside it is not its own."""
    if len(material.private) == _SEED_BYTES:
        return ed25519_pair(material)
    private = serialization.load_der_private_key(material.private, password=None)
    if not isinstance(private, TokenPrivateKey) or write_token_key(private.public_key()) != material.public:
        raise IntegrityError("the public half of a key for tokens")
    return private


def ed25519_pair(material: Material) -> Ed25519PrivateKey:
    """Parse a key of Ed25519 that is kept as its seed; raise IntegrityError like `token_key_pair`."""
    private = Ed25519PrivateKey.from_private_bytes(material.private)
    if private.public_key().public_bytes_raw() != material.public:
        raise IntegrityError("the public half of an Ed25519 key")
    return private


def authority_pair(material: Material) -> tuple[x509.Certificate, SigningKey]:
    """Parse an authority; raise IntegrityError when the certificate beside the key is not for that key."""
    # What the vault has opened is what we made: trying its primes would take a fifth of a second each time.
    private = serialization.load_der_private_key(material.private, password=None, unsafe_skip_rsa_key_validation=True)
    certificate = _parsed_certificate(material.public or b"")
    if not isinstance(private, SigningKey) or certificate.public_key() != private.public_key():
        raise IntegrityError("the certificate of an authority")
    return certificate, private


def check_public_half(purpose: Purpose, material: Material) -> None:
    """Raise IntegrityError where the public half beside a key is not its own, or there is one where none should be."""
    match purpose:
        case Purpose.TOKENS:
            token_key_pair(material)
        case Purpose.AUDIT:
            ed25519_pair(material)
        case Purpose.AUTHORITY:
            authority_pair(material)
        case _:
            if material.public is not None or len(material.private) != KEY_BYTES:
                raise IntegrityError("a symmetric key")


def common_name(display_name: str, *, otherwise: str) -> str:
    """Make a certificate's common name out of what people call the tenant: printable, at most 64 bytes."""
    # Control, format and unassigned characters would let one name look like another.
    printable = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in display_name)
    cut = " ".join(printable.split()).encode()[:_LONGEST_COMMON_NAME].decode(errors="ignore")
    return cut.strip() or otherwise


def _parsed_certificate(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        raise IntegrityError("the certificate of an authority") from None


def _authority_name(holder: Holder) -> x509.Name:
    # Two tenants may share a display name; two authorities must not share a subject (RFC 5280, 4.1.2.4).
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name(holder.display_name, otherwise=holder.tenant_id)),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, str(holder.tenant_uid)),
        ]
    )


def authority_certificate(
    key: SigningKey,
    *,
    name: x509.Name,
    now: datetime,
    last: datetime | None = None,
    signer: tuple[x509.Certificate, SigningKey] | None = None,
) -> x509.Certificate:
    """Certify that an authority has that key: by itself, or by another of the same name, which has signed until now.

    Below it are leaves, and where it certifies itself the one that will take its place: that one is self-issued, and
    does not count (RFC 5280, 6.1.4), but for many who verify it does.
    """
    usage = x509.KeyUsage(
        key_cert_sign=True,
        crl_sign=True,
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(last or now + AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1 if signer is None else 0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if signer is None:
        return builder.sign(key, signing_hash(key))
    certificate, signing_key = signer
    return builder.add_extension(signed_by(certificate), critical=False).sign(signing_key, signing_hash(signing_key))


def key_identifier(certificate: x509.Certificate) -> x509.SubjectKeyIdentifier:
    """Read which key an authority's certificate is of."""
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


def signed_by(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return what a certificate says of the authority that has signed it."""
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_identifier(authority))
