"""What keys of each purpose are made of."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from control_plane.keys.material import Holder, Material, authority_pair, common_name, new_material, token_key_pair
from control_plane.keys.model import BUILT_IN, IntegrityError, Purpose
from tests.fixtures.token_keys import ed25519

NOW = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
HOLDER = Holder(tenant_uid=UUID(int=7), display_name="Example Works", tenant_id="org_1")


def _made(purpose: Purpose, holder: Holder = HOLDER) -> Material:
    return new_material(purpose, holder=holder, now=NOW)


def test_an_authority_certifies_itself_for_ten_years_and_below_it_at_most_the_next_one() -> None:
    certificate, private_key = authority_pair(_made(Purpose.AUTHORITY))
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)

    certificate.verify_directly_issued_by(certificate)
    assert [name.value for name in names] == ["Example Works"]
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=1)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    assert isinstance(private_key, ec.EllipticCurvePrivateKey)
    assert isinstance(private_key.curve, ec.SECP256R1)
    assert certificate.not_valid_before_utc == NOW
    assert certificate.not_valid_after_utc - NOW >= timedelta(days=365 * 10)


def test_authorities_of_tenants_with_one_display_name_have_different_subjects() -> None:
    namesake = Holder(tenant_uid=UUID(int=8), display_name="Example Works", tenant_id="org_2")
    one, _ = authority_pair(_made(Purpose.AUTHORITY))
    other, _ = authority_pair(_made(Purpose.AUTHORITY, namesake))

    assert one.subject != other.subject


@pytest.mark.parametrize("purpose", BUILT_IN)
def test_no_key_is_made_twice(purpose: Purpose) -> None:
    assert len({_made(purpose).private for _ in range(4)}) == 4


@pytest.mark.parametrize("purpose", BUILT_IN)
def test_no_private_key_is_shown(purpose: Purpose) -> None:
    material = _made(purpose)

    assert repr(material.private)[2:-1] not in repr(material)
    assert "private" not in repr(material)


def test_a_public_half_that_is_not_the_keys_own_is_refused() -> None:
    tokens, authority = _made(Purpose.TOKENS), _made(Purpose.AUTHORITY)
    foreign_tokens, foreign_authority = _made(Purpose.TOKENS), _made(Purpose.AUTHORITY)

    assert ed25519(token_key_pair(tokens)).public_key().public_bytes_raw() == tokens.public
    assert authority_pair(authority)[0].public_key() == authority_pair(authority)[1].public_key()
    with pytest.raises(IntegrityError):
        token_key_pair(Material(private=tokens.private, public=foreign_tokens.public))
    with pytest.raises(IntegrityError):
        authority_pair(Material(private=authority.private, public=foreign_authority.public))
    with pytest.raises(IntegrityError):
        authority_pair(Material(private=authority.private, public=None))


@given(display_name=st.text(max_size=200))
def test_any_display_name_gives_an_authority_a_name(display_name: str) -> None:
    name = common_name(display_name, otherwise="org_1")

    assert 1 <= len(name.encode()) <= 64
    assert name.isprintable()
    assert x509.NameAttribute(NameOID.COMMON_NAME, name).value == name


@pytest.mark.parametrize(
    ("display_name", "expected"),
    [
        ("Bäckerei  Groß", "Bäckerei Groß"),
        ("a\x00b\nc\u202ed", "a b c d"),
        (" \t", "org_1"),
        ("x" * 65, "x" * 64),
        ("x" * 63 + " yz", "x" * 63),
        ("x" * 63 + "é", "x" * 63),
        ("é" * 33, "é" * 32),
    ],
)
def test_a_common_name_is_the_display_name_made_fit(display_name: str, expected: str) -> None:
    assert common_name(display_name, otherwise="org_1") == expected
