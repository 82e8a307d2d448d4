"""What tokens are signed with, and how a public key for them is written: for those who sign, and for the edge.

Pure, but for making keys.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

TokenPrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey | mldsa.MLDSA65PrivateKey
TokenPublicKey = Ed25519PublicKey | ec.EllipticCurvePublicKey | mldsa.MLDSA65PublicKey


class TokenAlgorithm(StrEnum):
    """What a tenant's tokens are signed with."""

    EDDSA = "EDDSA"
    """Ed25519."""
    ES256 = "ES256"
    """ECDSA over P-256, for readers of tokens that know nothing else."""
    ML_DSA_65 = "ML_DSA_65"
    """Post-quantum (FIPS 204). Its tokens have 4.5 KiB more."""


# How the key is stored; the words are bound to it, and never change.
TOKENS_STORED_AS: Final[Mapping[TokenAlgorithm, str]] = {
    TokenAlgorithm.EDDSA: "Ed25519",
    TokenAlgorithm.ES256: "ECDSA-P256-SHA256",
    TokenAlgorithm.ML_DSA_65: "ML-DSA-65",
}
_TOKEN_KEY_MAKERS: Final[Mapping[TokenAlgorithm, Callable[[], TokenPrivateKey]]] = {
    TokenAlgorithm.EDDSA: Ed25519PrivateKey.generate,
    TokenAlgorithm.ES256: lambda: ec.generate_private_key(ec.SECP256R1()),
    TokenAlgorithm.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
}
_ED25519_BYTES: Final = 32


def new_token_key(algorithm: TokenAlgorithm) -> TokenPrivateKey:
    """Make a new, random key for tokens."""
    return _TOKEN_KEY_MAKERS[algorithm]()


def token_algorithm_of(key: object) -> TokenAlgorithm | None:
    """Say which tokens a key signs, or verifies; None for one that is for no tokens."""
    match key:
        case Ed25519PrivateKey() | Ed25519PublicKey():
            return TokenAlgorithm.EDDSA
        case mldsa.MLDSA65PrivateKey() | mldsa.MLDSA65PublicKey():
            return TokenAlgorithm.ML_DSA_65
        case ec.EllipticCurvePrivateKey() | ec.EllipticCurvePublicKey() if key.curve.name == "secp256r1":
            return TokenAlgorithm.ES256
    return None


def write_token_key(key: TokenPublicKey) -> bytes:
    """Write the public half of a key for tokens: 32 bytes for Ed25519, SubjectPublicKeyInfo in DER for others."""
    if isinstance(key, Ed25519PublicKey):
        return key.public_bytes_raw()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_token_key(written: bytes) -> TokenPublicKey:
    """Read it; raise ValueError for anything else."""
    if len(written) == _ED25519_BYTES:
        return Ed25519PublicKey.from_public_bytes(written)
    key = serialization.load_der_public_key(written)
    if not isinstance(key, TokenPublicKey) or isinstance(key, Ed25519PublicKey) or token_algorithm_of(key) is None:
        raise ValueError("a key for tokens is of Ed25519, P-256 or ML-DSA-65")
    return key
