"""What is wrapped for one import opens for that import, and for nothing else."""

import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import mlkem
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PublicKey, Suite
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import PreconditionError
from control_plane.keys.model import IntegrityError, Purpose
from control_plane.keys.named.imports import Import, Method, new_pair, unwrap
from control_plane.keys.named.model import AES, Kind

NOW: Final = datetime(2027, 1, 2, tzinfo=UTC)
PAIR: Final = new_pair(Method.HPKE_AES)
KEY: Final = secrets.token_bytes(32)
IMPORT: Final = Import(
    id=UUID(int=2),
    tenant_uid=UUID(int=1),
    key_id="brought",
    kind=Kind(purpose=Purpose.ENCRYPTION, algorithm=AES),
    method=Method.HPKE_AES,
    create_time=NOW,
    expire_time=NOW + timedelta(days=3),
)


def wrapped(info: bytes, *, aead: AEAD = AEAD.AES_256_GCM) -> bytes:
    public = PAIR.public or b""
    under = MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(public[:1184]), X25519PublicKey.from_public_bytes(public[1184:])
    )
    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, aead).encrypt(KEY, under, info=info)


@pytest.mark.parametrize(
    "other",
    [
        {"id": UUID(int=3)},
        {"tenant_uid": UUID(int=3)},
        {"key_id": "other"},
        {"kind": Kind(purpose=Purpose.SIGNING, algorithm="ED25519")},
        {"kind": Kind(purpose=Purpose.SIGNING, algorithm=AES)},
    ],
)
def test_a_wrapped_key_is_bound_to_each_part_of_its_import(other: dict[str, Any]) -> None:
    content = wrapped(IMPORT.info("org_1"))

    assert unwrap(Method.HPKE_AES, PAIR.private, content, info=IMPORT.info("org_1")) == KEY
    for info in (replace(IMPORT, **other).info("org_1"), IMPORT.info("org_2")):
        with pytest.raises(IntegrityError):
            unwrap(Method.HPKE_AES, PAIR.private, content, info=info)


def test_it_opens_by_its_own_method_only() -> None:
    info = IMPORT.info("org_1")

    assert unwrap(Method.HPKE_CHACHA, PAIR.private, wrapped(info, aead=AEAD.CHACHA20_POLY1305), info=info) == KEY
    with pytest.raises(IntegrityError):
        unwrap(Method.HPKE_CHACHA, PAIR.private, wrapped(info), info=info)


@given(st.binary(max_size=3000))
def test_nothing_at_random_opens(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        unwrap(Method.HPKE_AES, PAIR.private, content, info=IMPORT.info("org_1"))


def test_no_two_pairs_are_the_same_and_none_is_shown() -> None:
    other = new_pair(Method.HPKE_AES)

    assert other.private != PAIR.private
    assert other.private.hex() not in repr(other)


def test_an_import_takes_something_in_once_and_in_time() -> None:
    IMPORT.check_open(NOW + timedelta(days=3) - timedelta(microseconds=1), name="job")
    for used, now, code in (
        (IMPORT, NOW + timedelta(days=3), "IMPORT_JOB_EXPIRED"),
        (replace(IMPORT, wrapped_sha256=bytes(32)), NOW, "IMPORT_JOB_USED"),
    ):
        with pytest.raises(PreconditionError) as refused:
            used.check_open(now, name="job")
        assert refused.value.code == code
