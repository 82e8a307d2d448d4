"""What the platform has signed, as a file: a DSSE envelope in JSON, version 1.

See https://github.com/secure-systems-lab/dsse.

Whoever has the file and the platform's public keys needs nothing else, and nobody's word, to check it.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from control_plane.cli.calls.message import Message
from control_plane.proofs.envelope import signed_bytes

_BEGIN: Final = "-----BEGIN PUBLIC KEY-----"
ATTESTATION: Final = "application/vnd.bulkhead.isolation+json"
RECEIPT: Final = "application/vnd.bulkhead.key-destruction+json"
_TITLES: Final = {ATTESTATION: "attestation of isolation", RECEIPT: "receipt of a destruction"}


class EnvelopeError(Exception):
    """The file, or the keys, are not what they should be. The text says what is wrong, for people."""


def write(signed: Message) -> str:
    """Write an attestation or a receipt, as the API gives it, as an envelope."""
    return json.dumps(envelope(signed, [signed]), indent=2)


def envelope(signed: Message, signatures: Sequence[Message]) -> Message:
    """Put together what the API gives of something that was signed, by one or by several."""
    return {
        "payloadType": signed["payload_type"],
        "payload": signed["payload"],
        "signatures": [{"keyid": each["key_id"], "sig": each["signature"]} for each in signatures],
    }


def read(text: str, keys_pem: str, *, kind: str = ATTESTATION) -> Mapping[str, Any]:
    """Return what an envelope of a kind says, if one of the keys has signed it.

    Raises:
        EnvelopeError: when none has, or it is an envelope of something else, or none.
    """
    try:
        file = json.loads(text)
        found, payload = file["payloadType"], _decoded(file["payload"])
        signatures = [_decoded(signature["sig"]) for signature in file["signatures"]]
    except (KeyError, TypeError, ValueError) as error:
        raise EnvelopeError("the file is no DSSE envelope") from error
    if found != kind:
        raise EnvelopeError(f"the envelope holds no {_TITLES[kind]}")
    signed = signed_bytes(kind, payload)
    if not any(_has_signed(key, signature, signed) for key in public_keys(keys_pem) for signature in signatures):
        raise EnvelopeError("none of the keys has signed this")
    said: Mapping[str, Any] = json.loads(payload)
    return said


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def public_keys(pem: str) -> Sequence[Ed25519PublicKey]:
    """Read public keys in PEM, one after another.

    Raises:
        EnvelopeError: it is no PEM, or there is no key of Ed25519.
    """
    found = []
    for part in pem.split(_BEGIN)[1:]:
        try:
            key = load_pem_public_key(f"{_BEGIN}{part}".encode())
        except ValueError as error:
            raise EnvelopeError("the keys are not in PEM") from error
        if isinstance(key, Ed25519PublicKey):
            found.append(key)
    if not found:
        raise EnvelopeError("there is no Ed25519 key among the keys")
    return found


def _has_signed(key: Ed25519PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed)
    except InvalidSignature:
        return False
    return True
