"""What the platform and the recipients of an escrow say in the same words."""

from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from control_plane.recipients import ceremony
from control_plane.recipients.ceremony import KeyFileError
from control_plane.recipients.hpke import PrivateKey, PublicKeyError

seeds = st.binary(min_size=32, max_size=32)
uids = st.uuids()


@given(seed=seeds)
def test_keys_come_out_of_their_files_as_they_went_in(seed: bytes) -> None:
    key = PrivateKey(seed=seed)

    assert ceremony.read_private(ceremony.private_file(key).encode()).seed == seed
    assert ceremony.read_public(ceremony.public_file(key.public).encode()) == key.public
    assert ceremony.read_public(key.public) == key.public


@pytest.mark.parametrize("content", [b"", b"\xff", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_private_key_is_refused(content: bytes) -> None:
    with pytest.raises(KeyFileError, match="must be"):
        ceremony.read_private(content)


@pytest.mark.parametrize("body", [b"AAAA", b"?", b"A"])
def test_a_damaged_private_key_is_refused_and_not_repeated(body: bytes) -> None:
    label = b"MLKEM768-X25519 PRIVATE KEY-----\n"

    with pytest.raises(KeyFileError, match="damaged") as refused:
        ceremony.read_private(b"-----BEGIN " + label + body + b"\n-----END " + label)
    assert "AAAA" not in str(refused.value)


def test_a_public_key_is_no_private_key_nor_the_other_way_round() -> None:
    key = PrivateKey.generate()

    with pytest.raises(KeyFileError):
        ceremony.read_private(ceremony.public_file(key.public).encode())
    with pytest.raises(PublicKeyError):
        ceremony.read_public(ceremony.private_file(key).encode())


def test_a_classical_public_key_in_pem_is_refused() -> None:
    pem = (
        X25519PrivateKey.generate()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )

    with pytest.raises(PublicKeyError, match="MLKEM768-X25519"):
        ceremony.read_public(pem)


@given(tenant=uids, other=uids, name=st.text(max_size=10), another=st.text(max_size=10))
def test_shares_and_approvals_are_bound_to_tenant_ceremony_and_recipient(
    tenant: UUID, other: UUID, name: str, another: str
) -> None:
    for context in (ceremony.share_context, ceremony.approval_context):
        base = context(tenant, other, name).info()
        assert (context(other, other, name).info() == base) == (tenant == other)
        assert (context(tenant, tenant, name).info() == base) == (tenant == other)
        assert (context(tenant, other, another).info() == base) == (name == another)
    assert ceremony.share_context(tenant, other, name).info() != ceremony.approval_context(tenant, other, name).info()


@given(escrow=uids, other=uids, share=st.binary(min_size=1))
def test_a_shares_digest_is_its_escrows_and_its_recipients(escrow: UUID, other: UUID, share: bytes) -> None:
    base = ceremony.share_digest(escrow, "a", share)

    assert (ceremony.share_digest(other, "a", share) == base) == (escrow == other)
    assert ceremony.share_digest(escrow, "b", share) != base
    assert ceremony.share_digest(escrow, "a", share + b"\0") != base
