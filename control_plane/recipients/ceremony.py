"""What both sides of a recovery say in the same words: the platform, and each recipient at a machine of their own.

How recipients' keys look in files, and what shares and approvals are bound to. Pure.
"""

import base64
import binascii
import hashlib
from typing import Final
from uuid import UUID

from control_plane.recipients.hpke import PUBLIC_BYTES, SEED_BYTES, Context, PrivateKey, PublicKeyError

_PUBLIC: Final = "MLKEM768-X25519 PUBLIC KEY"
_PRIVATE: Final = "MLKEM768-X25519 PRIVATE KEY"
_LINE: Final = 64


class KeyFileError(Exception):
    """A file does not hold the key that it should. The text says why, and nothing of what it holds."""


def public_file(public: bytes) -> str:
    """Write a public key as a file (PEM)."""
    return _pem(_PUBLIC, public)


def private_file(key: PrivateKey) -> str:
    """Write a private key as a file (PEM, not encrypted): whoever has it is the recipient."""
    return _pem(_PRIVATE, key.seed)


def read_public(content: bytes) -> bytes:
    """Read a public key, from PEM or as it is.

    Raises:
        PublicKeyError: it is none of the suite's, such as a classical one.
    """
    if content.startswith(b"-----BEGIN"):
        try:
            content = _body(_PUBLIC, content)
        except KeyFileError as error:
            raise PublicKeyError(str(error)) from error
    if len(content) != PUBLIC_BYTES:
        raise PublicKeyError(f"must be an MLKEM768-X25519 public key of {PUBLIC_BYTES} bytes; classical keys are not")
    return content


def read_private(content: bytes) -> PrivateKey:
    """Read a private key from PEM; raise KeyFileError where there is none."""
    seed = _body(_PRIVATE, content)
    if len(seed) != SEED_BYTES:
        raise KeyFileError(f"the {_PRIVATE} is damaged")
    return PrivateKey(seed=seed)


def share_context(tenant_uid: UUID, escrow_id: UUID, recipient: str) -> Context:
    """Say what a recipient's share is bound to while it lies with the platform."""
    return Context(purpose="escrow/share/1", parts=(tenant_uid.bytes, escrow_id.bytes, recipient.encode()))


def approval_context(tenant_uid: UUID, recovery_id: UUID, recipient: str) -> Context:
    """Say what a share is bound to that its recipient gives to one recovery: it is good for no other."""
    return Context(purpose="escrow/approval/1", parts=(tenant_uid.bytes, recovery_id.bytes, recipient.encode()))


def share_digest(escrow_id: UUID, recipient: str, share: bytes) -> bytes:
    """Say of a share which it is, to tell it from others later. It has 256 random bits, so this gives nothing away."""
    said = (b"bulkhead/escrow/share/1", escrow_id.bytes, recipient.encode(), share)
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in said)).digest()


def _pem(label: str, content: bytes) -> str:
    text = base64.b64encode(content).decode()
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


def _body(label: str, content: bytes) -> bytes:
    try:
        lines = content.decode("ascii").split("\n")
    except UnicodeDecodeError:
        lines = []
    lines = [line.strip() for line in lines if line.strip()]
    if not lines or (lines[0], lines[-1]) != (f"-----BEGIN {label}-----", f"-----END {label}-----"):
        raise KeyFileError(f"must be a {label} in PEM")
    try:
        return base64.b64decode("".join(lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        raise KeyFileError(f"the {label} is damaged") from None
