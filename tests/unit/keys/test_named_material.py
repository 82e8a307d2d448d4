"""Which keys that are brought along are taken, and that nothing is said of one that is not but what is wrong."""

import secrets
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, mldsa, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import Violations
from control_plane.keys.algorithms import KeyAlgorithm, new_key
from control_plane.keys.model import IntegrityError, Purpose
from control_plane.keys.named.material import imported_material, new_material
from control_plane.keys.named.model import AES, Kind
from control_plane.keys.named.signatures import HASHES, Content, read_private, read_public, sign, verify

ENCRYPTION: Final = Kind(purpose=Purpose.ENCRYPTION, algorithm=AES)
FAST: Final = tuple(one for one in KeyAlgorithm if not one.startswith("RSA"))
RSA_2048: Final = rsa.generate_private_key(65537, 2048)
DATA: Final = Content(data=b"data")


def signing(algorithm: str) -> Kind:
    return Kind(purpose=Purpose.SIGNING, algorithm=algorithm)


def der(key: Any, *, form: Any = serialization.PrivateFormat.PKCS8) -> bytes:
    made: bytes = key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())
    return made


def reasons(key: bytes, kind: Kind) -> list[str]:
    violations = Violations()
    material = imported_material(key, kind, violations)
    assert (material is None) == bool(violations.found)
    for violation in violations.found:
        assert not key or key.hex() not in violation.description
    return [violation.reason for violation in violations.found]


@pytest.mark.parametrize("algorithm", FAST)
def test_a_new_key_signs_and_an_imported_one_is_the_same_as_it_was(algorithm: KeyAlgorithm) -> None:
    kind = signing(algorithm)
    made = new_material(kind)
    brought = imported_material(made.private, kind, Violations())

    assert brought == made
    private, public = read_private(made.private, algorithm), read_public(made.public or b"", algorithm)
    signature = sign(private, DATA, algorithm=algorithm)
    assert verify(public, DATA, algorithm=algorithm, signature=signature)
    assert not verify(public, Content(data=b"other"), algorithm=algorithm, signature=signature)
    assert made.private.hex() not in repr(made)


@given(algorithm=st.sampled_from(FAST), other=st.sampled_from(FAST))
def test_a_key_of_another_algorithm_than_announced_is_refused(algorithm: KeyAlgorithm, other: KeyAlgorithm) -> None:
    key = der(new_key(algorithm))

    assert reasons(key, signing(other)) == ([] if algorithm is other else ["KEY_ALGORITHM"])


@given(algorithm=st.sampled_from(FAST), signature=st.binary(min_size=0, max_size=200))
def test_no_bytes_at_random_are_a_signature(algorithm: KeyAlgorithm, signature: bytes) -> None:
    public = new_key(algorithm).public_key()

    assert not verify(public, DATA, algorithm=algorithm, signature=signature)


@pytest.mark.parametrize(
    ("key", "announced", "found"),
    [
        (der(RSA_2048), "RSA_3072", ["KEY_WEAK", "KEY_ALGORITHM"]),
        (der(rsa.generate_private_key(3, 2048)), "RSA_3072", ["KEY_WEAK", "KEY_WEAK", "KEY_ALGORITHM"]),
        (der(rsa.generate_private_key(3, 3072)), "RSA_3072", ["KEY_WEAK"]),
        (der(ec.generate_private_key(ec.SECP256K1())), "EC_P256", ["KEY_CURVE", "KEY_ALGORITHM"]),
        (der(ec.generate_private_key(ec.SECP224R1())), "EC_P256", ["KEY_CURVE", "KEY_ALGORITHM"]),
        (der(ec.generate_private_key(ec.SECP521R1())), "EC_P384", ["KEY_CURVE", "KEY_ALGORITHM"]),
        (der(x25519.X25519PrivateKey.generate()), "ED25519", ["KEY_ALGORITHM"]),
        (der(dsa.generate_private_key(2048)), "ED25519", ["KEY_ALGORITHM"]),
        (b"", "ED25519", ["KEY_FORM"]),
        (b"\x30\x00", "ED25519", ["KEY_FORM"]),
        (der(Ed25519PrivateKey.generate())[:-1], "ED25519", ["KEY_FORM"]),
        (der(Ed25519PrivateKey.generate()) + b"\x00", "ED25519", ["KEY_FORM"]),
        (der(mldsa.MLDSA44PrivateKey.generate()), "ML_DSA_65", ["KEY_ALGORITHM"]),
    ],
    ids=[
        "RSA-2048", "RSA-2048 to 3", "RSA-3072 to 3", "secp256k1", "secp224r1", "secp521r1", "X25519", "DSA", "nothing",
        "an empty sequence", "cut", "with more behind it", "ML-DSA-44",
    ],
)  # fmt: skip
def test_a_weak_or_wrong_key_is_refused_with_everything_that_is_wrong(
    key: bytes, announced: str, found: list[str]
) -> None:
    assert reasons(key, signing(announced)) == found


def test_a_key_under_a_passphrase_is_refused() -> None:
    sealed = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )

    assert reasons(sealed, signing("ED25519")) == ["KEY_FORM"]


def test_a_point_that_is_another_keys_is_refused() -> None:
    """Such a key signs what its public half does not verify."""
    own, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    point, foreign = (
        key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        for key in (own, other)
    )
    mixed = der(own).replace(point, foreign)

    assert mixed != der(own)
    assert reasons(mixed, signing("EC_P256")) == ["KEY_FORM"]


def test_rsa_whose_parts_do_not_belong_together_is_refused() -> None:
    key = rsa.generate_private_key(65537, 3072)
    numbers = key.private_numbers()
    wrong = der(key).replace(numbers.q.to_bytes(192, "big"), (numbers.q + 2).to_bytes(192, "big"))

    assert wrong != der(key)
    assert reasons(wrong, signing("RSA_3072")) == ["KEY_FORM"]
    assert reasons(der(key), signing("RSA_3072")) == []


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (secrets.token_bytes(32), []),
        (secrets.token_bytes(31), ["KEY_SIZE"]),
        (secrets.token_bytes(33), ["KEY_SIZE"]),
        (bytes(32), ["KEY_WEAK"]),
        (b"\xff" * 32, ["KEY_WEAK"]),
    ],
    ids=["random", "short", "long", "zeros", "ones"],
)
def test_a_key_that_encrypts_is_32_bytes_that_differ(key: bytes, found: list[str]) -> None:
    assert reasons(key, ENCRYPTION) == found


@pytest.mark.parametrize("algorithm", sorted(set(FAST) & set(HASHES)))
def test_a_digest_is_signed_like_what_it_is_of(algorithm: KeyAlgorithm) -> None:
    key, used = new_key(algorithm), HASHES[algorithm]
    hasher = hashes.Hash(used)
    hasher.update(DATA.data)
    digest = Content(data=hasher.finalize(), is_digest=True)

    assert verify(key.public_key(), DATA, algorithm=algorithm, signature=sign(key, digest, algorithm=algorithm))


def test_what_is_stored_as_another_algorithm_does_not_open() -> None:
    made = new_material(signing("ED25519"))
    for der_of, read in ((made.private, read_private), (made.public or b"", read_public)):
        with pytest.raises(IntegrityError):
            read(der_of, KeyAlgorithm.EC_P256)
    with pytest.raises(IntegrityError):
        read_public(b"none", KeyAlgorithm.ED25519)
