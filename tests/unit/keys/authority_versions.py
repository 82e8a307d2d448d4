"""Versions of a tenant's authority, and what they sign, in memory."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from cryptography import x509

from control_plane.certificates.signing import pem_chain, sign_certificate, term
from control_plane.certificates.signing_request import read_signing_request
from control_plane.errors import Violations
from control_plane.keys.algorithms import CertificatePolicy, KeyAlgorithm
from control_plane.keys.authorities import Authorities, authorities, authority_of, next_authority
from control_plane.keys.material import Holder, Material, new_material, private_der
from control_plane.keys.model import Purpose
from tests.unit.certificates.signing_requests import P256, PROFILE, signing_request

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
LATER = NOW + timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    certificate: x509.Certificate
    chain: list[x509.Certificate]
    pem: str


def first(algorithm: KeyAlgorithm = KeyAlgorithm.EC_P256) -> Material:
    holder = Holder(
        tenant_uid=UUID(int=7), display_name="Example Works", tenant_id="org_1", authority_algorithm=algorithm
    )
    return new_material(Purpose.AUTHORITY, holder=holder, now=NOW)


def versions_of(count: int) -> list[Material]:
    """Make so many, the oldest first."""
    found = [first()]
    while len(found) < count:
        found.append(next_authority(found[-1], now=NOW)[0])
    return found


def trusted_of(versions: list[Material], *, signing: int, retired: tuple[int, ...] = ()) -> Authorities:
    numbered = [(number, each) for number, each in enumerate(versions, 1) if number not in retired]
    every = [authority_of(each, version=number) for number, each in reversed(numbered)]
    return authorities(every, signing=signing)


def sign(trusted: Authorities) -> Signed:
    own, found = trusted.signing, Violations()
    request = read_signing_request(signing_request(), PROFILE, policy=CertificatePolicy(), violations=found)
    found.check()
    set_term = term(own.certificate, serial_number=17, now=LATER, validity=timedelta(days=1))
    assert request is not None
    assert set_term is not None
    certificate = sign_certificate(request, set_term, authority=own.certificate, key=own.private_key)
    pem = pem_chain(certificate, trusted)
    return Signed(certificate=certificate, chain=x509.load_pem_x509_certificates(pem.encode())[1:], pem=pem)


def private_key_pem() -> bytes:
    return ssl.DER_cert_to_PEM_cert(private_der(P256)).replace("CERTIFICATE", "PRIVATE KEY").encode()
