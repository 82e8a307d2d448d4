"""How each algorithm signs: RSA by PSS, ECDSA in DER, Ed25519 and ML-DSA over the data itself. Pure.

What is hashed with belongs to the algorithm and is chosen by nobody: a signature never verifies under another hash.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding, rsa, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from control_plane.keys.algorithms import KeyAlgorithm, SigningKey, algorithm_of
from control_plane.keys.model import IntegrityError

Hash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
HASHES: Final[Mapping[KeyAlgorithm, Hash]] = {
    KeyAlgorithm.RSA_3072: hashes.SHA256(),
    KeyAlgorithm.RSA_4096: hashes.SHA512(),
    KeyAlgorithm.EC_P256: hashes.SHA256(),
    KeyAlgorithm.EC_P384: hashes.SHA384(),
}
"""What is hashed with first. The others hash as a part of the algorithm."""

VerifyingKey = (
    rsa.RSAPublicKey
    | ec.EllipticCurvePublicKey
    | Ed25519PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What is signed: data, or its hash by what the algorithm hashes with."""

    data: bytes = field(repr=False)
    is_digest: bool = False


def sign(key: SigningKey, content: Content, *, algorithm: KeyAlgorithm) -> bytes:
    """Sign. A few milliseconds for RSA, up to one for ML-DSA, on the caller's thread."""
    match key:
        case rsa.RSAPrivateKey():
            used = HASHES[algorithm]
            return key.sign(content.data, _pss(used), _hashed(used, content))
        case ec.EllipticCurvePrivateKey():
            return key.sign(content.data, ec.ECDSA(_hashed(HASHES[algorithm], content)))
        case _:
            _check_whole(content)
            return key.sign(content.data)


def verify(key: VerifyingKey, content: Content, *, algorithm: KeyAlgorithm, signature: bytes) -> bool:
    """Say whether the signature is the key's, over this."""
    try:
        match key:
            case rsa.RSAPublicKey():
                used = HASHES[algorithm]
                key.verify(signature, content.data, _pss(used), _hashed(used, content))
            case ec.EllipticCurvePublicKey():
                key.verify(signature, content.data, ec.ECDSA(_hashed(HASHES[algorithm], content)))
            case _:
                _check_whole(content)
                key.verify(signature, content.data)
    except InvalidSignature:
        return False
    return True


def read_private(der: bytes, algorithm: KeyAlgorithm) -> SigningKey:
    """Read a private key that the vault has opened; raise IntegrityError where it is none of that algorithm."""
    # What the vault has opened was checked when it came: trying its primes takes a fifth of a second.
    key = serialization.load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, SigningKey) or algorithm_of(key.public_key()) is not algorithm:
        raise IntegrityError("a key that signs")
    return key


def read_public(der: bytes, algorithm: KeyAlgorithm) -> VerifyingKey:
    """Read a public key as it is stored; raise IntegrityError where it is none of that algorithm."""
    try:
        key = serialization.load_der_public_key(der)
    except ValueError:
        raise IntegrityError("a public key") from None
    if not isinstance(key, VerifyingKey) or algorithm_of(key) is not algorithm:
        raise IntegrityError("a public key")
    return key


def _pss(used: Hash) -> padding.PSS:
    return padding.PSS(padding.MGF1(used), used.digest_size)


def _hashed(used: Hash, content: Content) -> Hash | utils.Prehashed:
    return utils.Prehashed(used) if content.is_digest else used


def _check_whole(content: Content) -> None:
    if content.is_digest:
        raise ValueError("the algorithm takes no digests")
