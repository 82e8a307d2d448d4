"""What a certificate says, checked by another's verifier."""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import given
from hypothesis import strategies as st

from control_plane.certificates.signing import pem_chain, sign_certificate, term
from control_plane.certificates.signing_request import SigningRequest, read_signing_request
from control_plane.errors import Violations
from control_plane.keys.algorithms import AUTHORITIES, CertificatePolicy, KeyAlgorithm, algorithm_of
from control_plane.keys.authorities import authorities, authority_of
from control_plane.keys.material import Holder, authority_pair, new_material
from control_plane.keys.model import Purpose
from tests.unit.certificates.signing_requests import P256, PROFILE, dns_names, rsa_key, signing_request

NOW: Final = datetime(2026, 3, 1, 12, 0, 0, 987654, tzinfo=UTC)
SECOND: Final = timedelta(seconds=1)


def authority(now: datetime = NOW) -> tuple[x509.Certificate, x509.Certificate]:
    """Make an authority, and a certificate of it for `a.example`."""
    holder = Holder(tenant_uid=uuid4(), display_name="Org", tenant_id="org_1")
    own, key = authority_pair(new_material(Purpose.AUTHORITY, holder=holder, now=now))
    set_term = term(own, serial_number=x509.random_serial_number(), now=now, validity=timedelta(days=90))
    assert set_term is not None
    return own, sign_certificate(request(), set_term, authority=own, key=key)


def request(pem: str = "") -> SigningRequest:
    found = read_signing_request(pem or signing_request(), PROFILE, policy=CertificatePolicy(), violations=Violations())
    assert found is not None
    return found


def signed(pem: str) -> x509.Certificate:
    holder = Holder(tenant_uid=uuid4(), display_name="Org", tenant_id="org_1")
    own, key = authority_pair(new_material(Purpose.AUTHORITY, holder=holder, now=NOW))
    set_term = term(own, serial_number=1, now=NOW, validity=timedelta(days=1))
    assert set_term is not None
    return sign_certificate(request(pem), set_term, authority=own, key=key)


def test_servers_and_clients_verify_against_their_authority() -> None:
    own, certificate = authority()
    builder = PolicyBuilder().store(Store([own])).time(NOW + SECOND)

    assert builder.build_server_verifier(x509.DNSName("a.example")).verify(certificate, []) == [certificate, own]
    assert builder.build_client_verifier().verify(certificate, []).chain == [certificate, own]


def test_no_certificate_verifies_against_another_authority() -> None:
    _, certificate = authority()
    other, _ = authority()
    verifier = PolicyBuilder().store(Store([other])).time(NOW + SECOND).build_server_verifier(x509.DNSName("a.example"))

    with pytest.raises(VerificationError):
        verifier.verify(certificate, [])


def test_a_certificate_says_only_what_it_must() -> None:
    own, certificate = authority()
    said = {extension.oid: (extension.critical, extension.value) for extension in certificate.extensions}

    assert certificate.issuer == own.subject
    assert certificate.public_key() == P256.public_key()
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    assert set(said) == {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
    assert said[ExtensionOID.BASIC_CONSTRAINTS] == (True, x509.BasicConstraints(ca=False, path_length=None))
    assert said[ExtensionOID.EXTENDED_KEY_USAGE][1] == x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    own_id = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    named = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert named.key_identifier == own_id


@pytest.mark.behaviour("S2.8")
def test_a_request_to_be_an_authority_gives_a_certificate_that_is_none() -> None:
    wanted = [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
        x509.SubjectKeyIdentifier(b"chosen"),
    ]
    certificate = signed(signing_request(extensions=wanted))

    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (
        ExtendedKeyUsageOID.CODE_SIGNING
        not in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    )
    assert certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != b"chosen"
    assert not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_only_rsa_keys_may_encipher() -> None:
    def may_encipher(pem: str) -> bool:
        return signed(pem).extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment

    assert may_encipher(signing_request(rsa_key(2048)))
    assert not may_encipher(signing_request())


def test_names_are_critical_where_there_is_no_subject() -> None:
    def is_critical(pem: str) -> bool:
        return signed(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).critical

    assert is_critical(signing_request(subject=[]))
    assert not is_critical(signing_request())


def test_a_certificate_without_dns_names_has_no_alternative_names() -> None:
    with pytest.raises(x509.ExtensionNotFound):
        signed(signing_request(names=None)).extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_the_subject_is_encoded_anew() -> None:
    certificate = signed(signing_request(subject=[(NameOID.SERIAL_NUMBER, "17"), (NameOID.COMMON_NAME, "ü")]))

    types = [(part.rfc4514_attribute_name, part._type.name) for part in certificate.subject]
    assert types == [("2.5.4.5", "PrintableString"), ("CN", "UTF8String")]


AUTHORITY: Final = authority()[0]


@given(st.timedeltas(timedelta(minutes=1), timedelta(days=365)), st.timedeltas(-timedelta(days=400), timedelta(0)))
def test_a_term_is_never_beyond_what_was_asked_for_nor_the_authoritys(validity: timedelta, before: timedelta) -> None:
    own = AUTHORITY
    now = own.not_valid_after_utc + before
    found = term(own, serial_number=1, now=now, validity=validity)

    if found is None:
        assert now + SECOND > min(own.not_valid_after_utc, now + validity)
        return
    assert found.not_before <= now - timedelta(minutes=5) < found.not_before + SECOND
    assert now < found.not_after <= min(own.not_valid_after_utc, now + validity)


def test_the_chain_is_the_certificate_and_then_its_authority() -> None:
    holder = Holder(tenant_uid=uuid4(), display_name="Org", tenant_id="org_1")
    made = new_material(Purpose.AUTHORITY, holder=holder, now=NOW)
    trusted = authorities([authority_of(made, version=1)], signing=1)
    own, (_, certificate) = trusted.signing.certificate, authority()
    text = pem_chain(certificate, trusted)

    assert x509.load_pem_x509_certificates(text.encode()) == [certificate, own]
    assert signing_request(names=dns_names("a.example")) not in text


@pytest.mark.behaviour("S2.8", "I19")
@pytest.mark.parametrize("algorithm", sorted(AUTHORITIES))
def test_an_authority_of_each_algorithm_certifies_itself_and_others(algorithm: KeyAlgorithm) -> None:
    holder = Holder(tenant_uid=uuid4(), display_name="Org", tenant_id="org_1", authority_algorithm=algorithm)
    own, key = authority_pair(new_material(Purpose.AUTHORITY, holder=holder, now=NOW))
    set_term = term(own, serial_number=1, now=NOW, validity=timedelta(days=1))
    assert set_term is not None
    certificate = sign_certificate(request(), set_term, authority=own, key=key)

    own.verify_directly_issued_by(own)
    certificate.verify_directly_issued_by(own)
    assert algorithm_of(own.public_key()) is algorithm
    assert certificate.public_key() == P256.public_key()
