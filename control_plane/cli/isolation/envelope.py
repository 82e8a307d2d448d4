"""An attestation as a file: a DSSE envelope in JSON (https://github.com/secure-systems-lab/dsse, version 1).

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

_BEGIN: Final = "-----BEGIN PUBLIC KEY-----"
_PAYLOAD_TYPE: Final = "application/vnd.bulkhead.isolation+json"


class EnvelopeError(Exception):
    """The file, or the keys, are not what they should be. The text says what is wrong, for people."""


def write(attestation: Message) -> str:
    """Write an attestation, as the API gives it, as an envelope."""
    envelope = {
        "payloadType": attestation["payload_type"],
        "payload": attestation["payload"],
        "signatures": [{"keyid": attestation["key_id"], "sig": attestation["signature"]}],
    }
    return json.dumps(envelope, indent=2)


def read(text: str, keys_pem: str) -> Mapping[str, Any]:
    """Return what an envelope says, if one of the keys has signed it.

    Raises:
        EnvelopeError: when none has, or it is no envelope of an attestation.
    """
    try:
        envelope = json.loads(text)
        kind, payload = envelope["payloadType"], _decoded(envelope["payload"])
        signatures = [_decoded(signature["sig"]) for signature in envelope["signatures"]]
    except (KeyError, TypeError, ValueError) as error:
        raise EnvelopeError("the file is no DSSE envelope") from error
    if kind != _PAYLOAD_TYPE:
        raise EnvelopeError("the envelope holds no attestation of isolation")
    signed = _signed_bytes(kind.encode(), payload)
    if not any(_has_signed(key, signature, signed) for key in _keys(keys_pem) for signature in signatures):
        raise EnvelopeError("none of the keys has signed this")
    said: Mapping[str, Any] = json.loads(payload)
    return said


def _signed_bytes(kind: bytes, payload: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _keys(pem: str) -> Sequence[Ed25519PublicKey]:
    """Read public keys in PEM, one after another."""
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
