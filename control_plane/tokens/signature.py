"""Signs tokens, and opens signed ones: the only place where one becomes the other."""

from typing import Any, Final, cast
from uuid import UUID

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from jwt.algorithms import Algorithm, ECAlgorithm
from typing_extensions import override

from control_plane.token_keys import TokenAlgorithm, TokenPrivateKey, TokenPublicKey, token_algorithm_of
from control_plane.tokens.claims import Claims, RefusedTokenError, write_claims

_P256_BYTES: Final = 32


class _Es256(ECAlgorithm):
    """Gives the same signature for the same message (RFC 6979)."""

    @override
    def sign(self, msg: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
        signature = key.sign(msg, ec.ECDSA(self.hash_alg(), deterministic_signing=True))
        return b"".join(number.to_bytes(_P256_BYTES, "big") for number in decode_dss_signature(signature))


class _MlDsa65(Algorithm):
    """ML-DSA-65 (FIPS 204) in JOSE (draft-ietf-cose-dilithium), which PyJWT does not have."""

    @override
    def prepare_key(self, key: Any) -> Any:
        return key

    @override
    def sign(self, msg: bytes, key: mldsa.MLDSA65PrivateKey) -> bytes:
        return key.sign(msg)

    @override
    def verify(self, msg: bytes, key: mldsa.MLDSA65PublicKey, sig: bytes) -> bool:
        try:
            key.verify(sig, msg)
        except InvalidSignature:
            return False
        return True

    @staticmethod
    @override
    def to_jwk(key_obj: Any, as_dict: bool = False) -> Any:
        raise NotImplementedError(type(key_obj), as_dict)

    @staticmethod
    @override
    def from_jwk(jwk: Any) -> Any:
        raise NotImplementedError(type(jwk))


def _only(name: str, algorithm: Algorithm | None = None) -> jwt.PyJWS:
    """Make what knows one algorithm: no header can ask it for another."""
    knows = jwt.PyJWS(algorithms=[name] if algorithm is None else [])
    if algorithm is not None:
        knows.register_algorithm(name, algorithm)
    return knows


_NAMES: Final = {
    TokenAlgorithm.EDDSA: "EdDSA",
    TokenAlgorithm.ES256: "ES256",
    TokenAlgorithm.ML_DSA_65: "ML-DSA-65",
}
_JWS: Final = {
    TokenAlgorithm.EDDSA: _only("EdDSA"),
    TokenAlgorithm.ES256: _only("ES256", _Es256(ECAlgorithm.SHA256, ec.SECP256R1)),
    TokenAlgorithm.ML_DSA_65: _only("ML-DSA-65", _MlDsa65()),
}


def sign(claims: Claims, kid: UUID, *, private_key: TokenPrivateKey) -> str:
    """Make the token that says `claims`, as the key has it.

    The same claims and key give the same token, but for ML-DSA-65: then both are good.
    """
    algorithm, key = _algorithm(private_key), cast("Any", private_key)
    headers = {"kid": str(kid)}
    return _JWS[algorithm].encode(write_claims(claims), key, algorithm=_NAMES[algorithm], headers=headers)


def verified_payload(token: str, public_key: TokenPublicKey) -> bytes:
    """Return what the owner of the key signed. Call `claims.read_kid` first: it refuses what this would overlook.

    Raises:
        RefusedTokenError: when the owner did not sign this, with what the key is for.
    """
    algorithm, key = _algorithm(public_key), cast("Any", public_key)
    try:
        payload: bytes = _JWS[algorithm].decode(token, key, algorithms=[_NAMES[algorithm]])
    except jwt.InvalidAlgorithmError:
        raise RefusedTokenError("TOKEN_ALGORITHM") from None
    except jwt.PyJWTError:
        raise RefusedTokenError("TOKEN_SIGNATURE") from None
    return payload


def _algorithm(key: TokenPrivateKey | TokenPublicKey) -> TokenAlgorithm:
    found = token_algorithm_of(key)
    if found is None:
        raise ValueError("a key for tokens is of Ed25519, P-256 or ML-DSA-65")
    return found
