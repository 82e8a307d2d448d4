"""How a key is wrapped on its owner's side, before it leaves: see key_imports.proto."""

import base64
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from control_plane.cli.calls.message import Message
from control_plane.recipients import hpke

_KEY_BYTES: Final = 32
_AEADS: Final = {
    "HPKE_MLKEM768_X25519_AES_256_GCM": AEAD.AES_256_GCM,
    "HPKE_MLKEM768_X25519_CHACHA20_POLY1305": AEAD.CHACHA20_POLY1305,
}


class UnusableKeyError(Exception):
    """What cannot be brought along; says why, and nothing of the key."""


def read(file: Path, *, is_signing: bool) -> bytes:
    """Read a key as it is wrapped: 32 bytes, or a private key in PKCS #8 DER."""
    try:
        content = file.read_bytes()
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        raise UnusableKeyError(message) from error
    if not is_signing:
        if len(content) != _KEY_BYTES:
            message = (
                f"has {len(content)} bytes, and a key that encrypts has {_KEY_BYTES}: --signing says that it signs"
            )
            raise UnusableKeyError(message)
        return content
    load = serialization.load_pem_private_key if b"-----BEGIN" in content else serialization.load_der_private_key
    try:
        key = load(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        message = "is no private key in PEM or PKCS #8 DER without a passphrase"
        raise UnusableKeyError(message) from None
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def wrap(key: bytes, job: Message) -> str:
    """Wrap a key for an import, as its method says; in base64."""
    public, method = base64.b64decode(job["public_key"]), job["method"]
    if method in _AEADS:
        suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, _AEADS[method])
        info = base64.b64decode(job["hpke_info"])
        return base64.b64encode(suite.encrypt(key, hpke.public_key(public), info=info)).decode()
    device = serialization.load_der_public_key(public)
    if not isinstance(device, rsa.RSAPublicKey):
        message = "cannot be wrapped: the import has no RSA key"
        raise UnusableKeyError(message)
    between = secrets.token_bytes(_KEY_BYTES)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    wrapped = device.encrypt(between, oaep) + keywrap.aes_key_wrap_with_padding(between, key)
    return base64.b64encode(wrapped).decode()
