"""The algorithms that certificates are made with, and which of them a tenant wants. Pure, but for making keys.

Post-quantum certificates are ML-DSA's (FIPS 204), in X.509 as in RFC 9881. A certificate has one signature: in
transition a tenant has certificates of both kinds, not one that is both.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_RSA_EXPONENT: Final = 65537

SigningKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | Ed25519PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)


class KeyAlgorithm(StrEnum):
    """What a key that is certified, or that certifies, may be."""

    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"
    EC_P256 = "EC_P256"
    EC_P384 = "EC_P384"
    ED25519 = "ED25519"
    ML_DSA_44 = "ML_DSA_44"
    ML_DSA_65 = "ML_DSA_65"
    ML_DSA_87 = "ML_DSA_87"

    @property
    def is_post_quantum(self) -> bool:
        """Whether a quantum computer is no better at it, as far as is known."""
        return self in _POST_QUANTUM


class PostQuantum(StrEnum):
    """Which of a tenant's certificates are post-quantum."""

    OFF = "OFF"
    """None."""
    HYBRID = "HYBRID"
    """Those whose key is; others are certified as well."""
    REQUIRED = "REQUIRED"
    """All, and the authority's own: what is not is refused, never replaced by something weaker."""


_POST_QUANTUM: Final = frozenset({KeyAlgorithm.ML_DSA_44, KeyAlgorithm.ML_DSA_65, KeyAlgorithm.ML_DSA_87})
DEFAULT_AUTHORITY: Final = KeyAlgorithm.EC_P256
DEFAULT_POST_QUANTUM_AUTHORITY: Final = KeyAlgorithm.ML_DSA_65
# How the key of an authority is stored; the words are bound to it, and never change.
STORED_AS: Final[Mapping[KeyAlgorithm, str]] = {
    KeyAlgorithm.RSA_3072: "RSA-3072-SHA256",
    KeyAlgorithm.RSA_4096: "RSA-4096-SHA256",
    KeyAlgorithm.EC_P256: "ECDSA-P256-SHA256",
    KeyAlgorithm.EC_P384: "ECDSA-P384-SHA384",
    KeyAlgorithm.ED25519: "Ed25519",
    KeyAlgorithm.ML_DSA_44: "ML-DSA-44",
    KeyAlgorithm.ML_DSA_65: "ML-DSA-65",
    KeyAlgorithm.ML_DSA_87: "ML-DSA-87",
}
AUTHORITIES: Final = frozenset(STORED_AS)
"""What an authority's key may be: it lasts for ten years."""
_MAKERS: Final[Mapping[KeyAlgorithm, Callable[[], SigningKey]]] = {
    KeyAlgorithm.RSA_2048: lambda: rsa.generate_private_key(_RSA_EXPONENT, 2048),
    KeyAlgorithm.RSA_3072: lambda: rsa.generate_private_key(_RSA_EXPONENT, 3072),
    KeyAlgorithm.RSA_4096: lambda: rsa.generate_private_key(_RSA_EXPONENT, 4096),
    KeyAlgorithm.EC_P256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyAlgorithm.EC_P384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyAlgorithm.ED25519: Ed25519PrivateKey.generate,
    KeyAlgorithm.ML_DSA_44: mldsa.MLDSA44PrivateKey.generate,
    KeyAlgorithm.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
    KeyAlgorithm.ML_DSA_87: mldsa.MLDSA87PrivateKey.generate,
}
_KINDS: Final[Mapping[type, KeyAlgorithm]] = {
    Ed25519PublicKey: KeyAlgorithm.ED25519,
    mldsa.MLDSA44PublicKey: KeyAlgorithm.ML_DSA_44,
    mldsa.MLDSA65PublicKey: KeyAlgorithm.ML_DSA_65,
    mldsa.MLDSA87PublicKey: KeyAlgorithm.ML_DSA_87,
}
_CURVES: Final = {"secp256r1": KeyAlgorithm.EC_P256, "secp384r1": KeyAlgorithm.EC_P384}
_RSA_SIZES: Final = {2048: KeyAlgorithm.RSA_2048, 3072: KeyAlgorithm.RSA_3072, 4096: KeyAlgorithm.RSA_4096}


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatePolicy:
    """What a tenant wants of its certificates, within what their profile allows."""

    authority: KeyAlgorithm = DEFAULT_AUTHORITY
    """Of the key of its authority; settled when the tenant is made."""
    keys: frozenset[KeyAlgorithm] = frozenset()
    """What is certified; where none is named, whatever the profile and `post_quantum` allow."""
    post_quantum: PostQuantum = PostQuantum.OFF

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Yield which of its fields cannot be meant, and why."""
        if self.authority not in AUTHORITIES:
            allowed = ", ".join(one for one in KeyAlgorithm if one in AUTHORITIES)
            yield "authority_algorithm", f"must be one of {allowed}"
        if self.post_quantum is PostQuantum.REQUIRED and not self.authority.is_post_quantum:
            text = f"REQUIRED needs an authority of ML_DSA_*, and this one is {self.authority} for good"
            yield "post_quantum", text
        if self.post_quantum is PostQuantum.OFF and self.authority.is_post_quantum:
            yield "post_quantum", f"OFF contradicts an authority of {self.authority}"
        wrong = sorted(one for one in self.keys if not self._is_of_its_kind(one))
        if wrong:
            yield "key_algorithms", f"has {', '.join(wrong)}, which post_quantum {self.post_quantum} rules out"

    def violation(self, algorithm: KeyAlgorithm | None, kind: str) -> str | None:
        """Say why a key of that algorithm, `kind` to people, is not certified; None for one that has no name here."""
        # What has no name is classical: the profile knows more of it.
        required = self.post_quantum is PostQuantum.REQUIRED
        if required if algorithm is None else not self._is_of_its_kind(algorithm):
            return f"its key is of the kind {kind}, which the tenant's post_quantum {self.post_quantum} rules out"
        if self.keys and algorithm not in self.keys:
            return f"its key is of the kind {kind}; the tenant allows: {', '.join(sorted(self.keys))}"
        return None

    def _is_of_its_kind(self, algorithm: KeyAlgorithm) -> bool:
        match self.post_quantum:
            case PostQuantum.OFF:
                return not algorithm.is_post_quantum
            case PostQuantum.REQUIRED:
                return algorithm.is_post_quantum
            case PostQuantum.HYBRID:
                return True


def new_key(algorithm: KeyAlgorithm) -> SigningKey:
    """Make a new, random key. RSA takes a quarter of a second for 4096 bits, sometimes much more; others, nothing."""
    return _MAKERS[algorithm]()


def algorithm_of(key: object) -> KeyAlgorithm | None:
    """Say what a public key is; None for a size, curve or kind without a name here."""
    if isinstance(key, rsa.RSAPublicKey):
        return _RSA_SIZES.get(key.key_size)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVES.get(key.curve.name)
    return next((algorithm for kind, algorithm in _KINDS.items() if isinstance(key, kind)), None)


def signing_hash(key: SigningKey) -> hashes.SHA256 | hashes.SHA384 | None:
    """Say what is hashed with before such a key signs a certificate; None where that is the algorithm's own affair."""
    match key:
        case rsa.RSAPrivateKey():
            return hashes.SHA256()
        case ec.EllipticCurvePrivateKey():
            return hashes.SHA384() if key.curve.name == "secp384r1" else hashes.SHA256()
    return None
