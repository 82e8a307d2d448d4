"""What a certificate says (RFC 5280), and the act of signing it. Pure computation: serial and time are passed in.

One signature with its encoding costs 0.1 to 0.2 ms with P-256, and up to some milliseconds with RSA or ML-DSA: that may
not run on the event loop. Nor may the check of a request, whose cost the caller chooses: see `signing_request.py`.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from control_plane.certificates.signing_request import SigningRequest
from control_plane.keys.algorithms import SigningKey, signing_hash
from control_plane.keys.authorities import Authorities
from control_plane.keys.material import signed_by

BACKDATED: Final = timedelta(minutes=5)
"""How far the clocks of those who verify may be behind ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """When a certificate is valid, and the number that tells it from the authority's others."""

    serial_number: int
    not_before: datetime
    not_after: datetime


def term(authority: x509.Certificate, *, serial_number: int, now: datetime, validity: timedelta) -> Term | None:
    """Set the term, never beyond the authority's own; None when the authority itself has run out.

    X.509 counts whole seconds: the term ends up to one second early.
    """
    not_after = min((now + validity).replace(microsecond=0), authority.not_valid_after_utc)
    if not_after <= now:
        return None
    return Term(serial_number=serial_number, not_before=(now - BACKDATED).replace(microsecond=0), not_after=not_after)


def sign_certificate(
    request: SigningRequest, term: Term, *, authority: x509.Certificate, key: SigningKey
) -> x509.Certificate:
    """Certify the request's key, subject and DNS names, for TLS servers and clients."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(authority.subject)
        .public_key(request.public_key)
        .serial_number(term.serial_number)
        .not_valid_before(term.not_before)
        .not_valid_after(term.not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(request), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.public_key), critical=False)
        .add_extension(signed_by(authority), critical=False)
    )
    if request.dns_names:
        names = x509.SubjectAlternativeName([x509.DNSName(name) for name in request.dns_names])
        # RFC 5280 4.2.1.6: critical when there is no subject beside it.
        builder = builder.add_extension(names, critical=not list(request.subject))
    return builder.sign(key, signing_hash(key))


def pem_chain(certificate: x509.Certificate, authorities: Authorities) -> str:
    """Render the certificate, what leads from its authority to those before it, and its authority's (RFC 7468).

    In this order, since some follow the first that fits: to one that they trust, or to one that they do not know.
    """
    return "".join(map(pem, (certificate, *authorities.crosses, authorities.signing.certificate)))


def pem(certificate: x509.Certificate) -> str:
    """Render one certificate."""
    return certificate.public_bytes(Encoding.PEM).decode()


def _key_usage(request: SigningRequest) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        # For the key exchange of TLS 1.2 with RSA; other keys cannot encipher.
        key_encipherment=isinstance(request.public_key, RSAPublicKey),
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
