"""An attestation is checked with the keys and the file alone; whatever was changed in either does not hold."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from control_plane.cli.isolation.envelope import EnvelopeError, read, write
from control_plane.isolation.model import PAYLOAD_TYPE
from control_plane.proofs.envelope import signed_bytes

KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()
PAYLOAD = json.dumps({"passed": True, "tenant": "org_1", "probes": []}).encode()


def pem(*keys: Ed25519PrivateKey) -> str:
    return "".join(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for key in keys
    )


def envelope(payload: bytes = PAYLOAD, *, kind: str = PAYLOAD_TYPE) -> str:
    """Write what the platform has signed, as the command line does."""
    return write(
        {
            "payload_type": kind,
            "payload": base64.b64encode(payload).decode(),
            "signature": base64.b64encode(KEY.sign(signed_bytes(PAYLOAD_TYPE, PAYLOAD))).decode(),
            "key_id": "k",
        }
    )


@pytest.mark.parametrize("keys", [pem(KEY), pem(OTHER, KEY), f"# of the platform\n{pem(KEY, OTHER)}"])
def test_what_one_of_the_keys_has_signed_is_read(keys: str) -> None:
    assert read(envelope(), keys) == json.loads(PAYLOAD)


@given(st.binary())
def test_what_nobody_has_signed_is_refused(payload: bytes) -> None:
    with pytest.raises(EnvelopeError, match="none of the keys"):
        read(envelope(payload + b" "), pem(KEY))


def test_another_keys_signature_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="none of the keys"):
        read(envelope(), pem(OTHER))


@pytest.mark.parametrize(
    ("text", "keys", "complaint"),
    [
        ("", pem(KEY), "no DSSE envelope"),
        ("[]", pem(KEY), "no DSSE envelope"),
        ("{}", pem(KEY), "no DSSE envelope"),
        (envelope().replace('"sig": "', '"sig": "!'), pem(KEY), "no DSSE envelope"),
        (envelope(kind="application/json"), pem(KEY), "no attestation"),
        (envelope(), "", "no Ed25519 key"),
        (envelope(), "-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----\n", "not in PEM"),
    ],
)
def test_what_is_no_envelope_or_no_key_is_refused_in_words(text: str, keys: str, complaint: str) -> None:
    with pytest.raises(EnvelopeError, match=complaint):
        read(text, keys)


def test_a_key_of_another_kind_is_passed_over() -> None:
    other = generate_private_key(SECP256R1()).public_key()
    of_another_kind = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    assert read(envelope(), of_another_kind + pem(KEY)) == json.loads(PAYLOAD)
