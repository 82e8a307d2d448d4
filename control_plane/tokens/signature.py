"""Signs tokens, and opens signed ones: the only place where one becomes the other."""

from typing import Final
from uuid import UUID

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from control_plane.tokens.claims import ALGORITHM, Claims, RefusedTokenError, write_claims

# Knows one algorithm: no header can ask it for another.
_JWS: Final = jwt.PyJWS(algorithms=[ALGORITHM])


def sign(claims: Claims, kid: UUID, *, private_key: Ed25519PrivateKey) -> str:
    """Make the token that says `claims`. The same claims and key give the same token: Ed25519 uses no randomness."""
    return _JWS.encode(write_claims(claims), private_key, algorithm=ALGORITHM, headers={"kid": str(kid)})


def verified_payload(token: str, public_key: Ed25519PublicKey) -> bytes:
    """Return what the owner of the key signed. Call `claims.read_kid` first: it refuses what this would overlook.

    Raises:
        RefusedTokenError: when the owner did not sign this.
    """
    try:
        payload: bytes = _JWS.decode(token, public_key, algorithms=[ALGORITHM])
    except jwt.PyJWTError:
        raise RefusedTokenError("TOKEN_SIGNATURE") from None
    return payload
