"""How one authority takes another's place, and what those make of it who trust either alone."""

import ssl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import PolicyBuilder, Store

from control_plane.keys.algorithms import AUTHORITIES, KeyAlgorithm, algorithm_of, signing_hash
from control_plane.keys.authorities import authority_of, next_authority
from control_plane.keys.material import AUTHORITY_LIFETIME, Holder, authority_pair, key_identifier, new_material
from control_plane.keys.model import IntegrityError, Purpose
from tests.unit.keys.authority_versions import LATER, NOW, Signed, first, private_key_pem, sign, trusted_of, versions_of


def _verifies(signed: Signed, root: x509.Certificate) -> bool:
    verifier = PolicyBuilder().store(Store([root])).time(LATER + timedelta(seconds=1))
    try:
        verifier.build_server_verifier(x509.DNSName("a.example")).verify(signed.certificate, signed.chain)
    except x509.verification.VerificationError:
        return False
    return True


def _shakes_hands(signed: Signed, root: x509.Certificate, folder: Path) -> bool:
    """Whether OpenSSL takes it from a server, in memory."""
    (folder / "chain.pem").write_text(signed.pem)
    key = private_key_pem()
    (folder / "key.pem").write_bytes(key)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    calling = ssl.create_default_context(cadata=root.public_bytes(Encoding.PEM).decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    client = calling.wrap_bio(to_client, to_server, server_hostname="a.example")
    done: set[object] = set()
    while len(done) < 2:
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return True


@pytest.mark.behaviour("S2.5")
@pytest.mark.parametrize("algorithm", sorted(AUTHORITIES))
def test_the_next_authority_has_the_same_name_and_algorithm_and_a_key_of_its_own(algorithm: KeyAlgorithm) -> None:
    before = first(algorithm)
    made, said = next_authority(before, now=LATER)
    old, new = authority_of(before, version=1), authority_of(made, version=2)

    assert said is algorithm is algorithm_of(new.certificate.public_key())
    assert new.certificate.subject == old.certificate.subject
    assert key_identifier(new.certificate) != key_identifier(old.certificate)
    assert new.certificate.serial_number != old.certificate.serial_number
    assert new.certificate.not_valid_after_utc == LATER + AUTHORITY_LIFETIME
    new.certificate.verify_directly_issued_by(new.certificate)
    assert new.cross is not None
    new.cross.verify_directly_issued_by(old.certificate)
    assert new.cross.public_key() == new.certificate.public_key()
    assert new.cross.not_valid_after_utc == old.certificate.not_valid_after_utc
    assert new.cross.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


@pytest.mark.behaviour("S2.5")
@pytest.mark.parametrize("trusts", [1, 2, 3])
def test_what_the_newest_signs_is_taken_by_all_who_trust_one_that_is_not_retired(trusts: int, tmp_path: Path) -> None:
    versions = versions_of(3)
    signed = sign(trusted_of(versions, signing=3))
    root = authority_of(versions[trusts - 1], version=trusts).certificate

    assert _shakes_hands(signed, root, tmp_path)
    # Others count what is self-issued, too: they go one version back.
    assert _verifies(signed, root) is (trusts > 1)
    assert len(signed.chain) == 3
    assert signed.chain[-1] == authority_of(versions[2], version=3).certificate


def test_what_an_authority_has_signed_is_taken_by_those_alone_who_trust_it_or_what_was_before(tmp_path: Path) -> None:
    versions = versions_of(2)
    signed = sign(trusted_of(versions, signing=1))
    first, second = (authority_of(each, version=1).certificate for each in versions)

    assert signed.chain == [first]
    assert (_verifies(signed, first), _shakes_hands(signed, first, tmp_path)) == (True, True)
    assert (_verifies(signed, second), _shakes_hands(signed, second, tmp_path)) == (False, False)


def test_nothing_leads_to_what_is_retired_nor_beyond_it(tmp_path: Path) -> None:
    versions = versions_of(3)
    for retired, crosses in (((1,), 1), ((2,), 0), ((1, 2), 0)):
        trusted = trusted_of(versions, signing=3, retired=retired)
        assert len(trusted.crosses) == crosses
        assert len(trusted.trusted) == 3 - len(retired)
        assert trusted.trusted[0] == trusted.signing.certificate
    signed = sign(trusted_of(versions, signing=3, retired=(1, 2)))

    assert not _shakes_hands(signed, authority_of(versions[0], version=1).certificate, tmp_path)


def test_one_that_has_expired_certifies_none() -> None:
    before = first()
    made, _ = next_authority(before, now=NOW + AUTHORITY_LIFETIME + timedelta(seconds=1))

    assert made.cross is None
    assert authority_of(made, version=2).cross is None


def test_a_certificate_by_the_one_before_is_of_the_same_key_and_name_or_refused() -> None:
    one, other = (next_authority(first(), now=NOW)[0] for _ in range(2))
    holder = Holder(tenant_uid=UUID(int=8), display_name="Another", tenant_id="org_2")
    foreign = next_authority(new_material(Purpose.AUTHORITY, holder=holder, now=NOW), now=NOW)[0]

    for forged in (other.cross, foreign.cross, one.public, b"", b"nonsense"):
        with pytest.raises(IntegrityError):
            authority_of(replace(one, cross=forged), version=2)
    assert authority_of(one, version=2).cross is not None


def test_what_takes_the_place_of_an_authority_from_before_is_taken_by_those_who_keep_to_the_standard(
    tmp_path: Path,
) -> None:
    """It allows for none below it; the next one is self-issued, and does not count (RFC 5280, 6.1.4)."""
    (made,) = versions_of(1)
    certificate, key = authority_pair(made)
    builder = x509.CertificateBuilder(
        certificate.issuer,
        certificate.subject,
        certificate.public_key(),
        certificate.serial_number,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )
    for each in certificate.extensions:
        is_bound = isinstance(each.value, x509.BasicConstraints)
        value = x509.BasicConstraints(ca=True, path_length=0) if is_bound else each.value
        builder = builder.add_extension(value, critical=each.critical)
    old = builder.sign(key, signing_hash(key))
    before = replace(made, public=old.public_bytes(Encoding.DER))
    signed = sign(trusted_of([before, next_authority(before, now=NOW)[0]], signing=2))

    assert _shakes_hands(signed, old, tmp_path)
