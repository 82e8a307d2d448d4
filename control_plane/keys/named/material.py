"""What a version of a tenant's own key is made of: new, or brought along. Pure.

What is brought along is looked at closely before it is kept, since nobody here has made it; and nothing of it is ever
said, whatever is wrong with it.
"""

import secrets
from collections.abc import Iterator
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from control_plane.errors import Violations
from control_plane.keys.algorithms import SigningKey, algorithm_of, new_key
from control_plane.keys.material import MakeKey, Material, private_der
from control_plane.keys.model import KEY_BYTES, IntegrityError, Purpose
from control_plane.keys.named.model import Kind
from control_plane.keys.named.signatures import Content, sign, verify

FIELD: Final = "wrapped_key"
_LEAST_RSA_BITS: Final = 3072
_EXPONENT: Final = 65537
_PROBE: Final = Content(data=b"bulkhead/import/probe/1")


def new_material(kind: Kind, *, make: MakeKey = new_key) -> Material:
    """Make a new, random key. May take seconds, for RSA."""
    if kind.purpose is Purpose.ENCRYPTION:
        return Material(private=secrets.token_bytes(KEY_BYTES), public=None)
    return _signing_material(make(kind.signs_with))


def imported_material(key: bytes, kind: Kind, violations: Violations) -> Material | None:
    """Read a key that was brought along; note everything that is wrong with it, and return None then.

    A fifth of a second for RSA, whose primes are tried.
    """
    before = len(violations.found)
    if kind.purpose is Purpose.ENCRYPTION:
        if len(key) != KEY_BYTES:
            violations.add(FIELD, f"must have {KEY_BYTES} bytes when it is opened", reason="KEY_SIZE")
        elif len(set(key)) == 1:
            violations.add(FIELD, "is one byte repeated", reason="KEY_WEAK")
        return Material(private=key, public=None) if len(violations.found) == before else None
    private = _loaded(key)
    if private is None:
        text = "is no private key in PKCS #8 DER without a passphrase, or its parts do not belong together"
        violations.add(FIELD, text, reason="KEY_FORM")
        return None
    for text, reason in _faults(private, kind):
        violations.add(FIELD, text, reason=reason)
    if len(violations.found) > before or not isinstance(private, SigningKey):
        return None
    material = _signing_material(private)
    if not _signs_for_itself(private, kind):
        violations.add(FIELD, "does not sign what its public half verifies", reason="KEY_FORM")
        return None
    return material


def _loaded(key: bytes) -> PrivateKeyTypes | None:
    try:
        return serialization.load_der_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not chained: what OpenSSL says of a key may tell of it.
        return None


def _faults(key: PrivateKeyTypes, kind: Kind) -> Iterator[tuple[str, str]]:
    """Yield everything for which a key that can be read is not taken."""
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < _LEAST_RSA_BITS:
            yield f"is of RSA with {key.key_size} bits; {_LEAST_RSA_BITS} are the least", "KEY_WEAK"
        if key.public_key().public_numbers().e != _EXPONENT:
            yield f"has another public exponent than {_EXPONENT}", "KEY_WEAK"
    if isinstance(key, ec.EllipticCurvePrivateKey) and algorithm_of(key.public_key()) is None:
        yield f"is on the curve {key.curve.name}; EC_P256 and EC_P384 are taken", "KEY_CURVE"
    if algorithm_of(key.public_key()) is not kind.signs_with:
        yield f"is not of {kind.algorithm}, which was announced", "KEY_ALGORITHM"


def _signs_for_itself(key: SigningKey, kind: Kind) -> bool:
    signature = sign(key, _PROBE, algorithm=kind.signs_with)
    return verify(key.public_key(), _PROBE, algorithm=kind.signs_with, signature=signature)


def _signing_material(key: SigningKey) -> Material:
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Material(private=private_der(key), public=public)


def check_signing_pair(material: Material) -> None:
    """Raise IntegrityError where the public half beside a private key in PKCS #8 DER is not its own."""
    try:
        private = serialization.load_der_private_key(
            material.private, password=None, unsafe_skip_rsa_key_validation=True
        )
        public = serialization.load_der_public_key(material.public or b"")
    except ValueError:
        raise IntegrityError("the public half of a key") from None
    if private.public_key() != public:
        raise IntegrityError("the public half of a key")
