"""The internal authority: it signs the certificate of every process that listens on TCP.

A certificate serves both ends of mutual TLS: it is good for `localhost`, and it carries the SPIFFE identity under which
other processes know this one.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from control_plane.stack.layout import write_private

CERTIFICATE: Final = "ca.pem"
_LIFETIME: Final = timedelta(days=3650)
_LEAF_LIFETIME: Final = timedelta(days=365)
_RENEWED_BEFORE: Final = timedelta(days=30)
# Clocks of two processes on one machine agree; those of a restored snapshot may lag behind.
_BACKDATED: Final = timedelta(minutes=5)
_SPIFFE: Final = "spiffe://bulkhead/service/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The authority of one state directory."""

    folder: Path
    """Private. Holds `ca.pem`, `ca.key`, and `NAME.pem` and `NAME.key` of each process."""
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def open(cls, folder: Path, now: datetime) -> Self:
        """Read the authority, or make one where there is none or where it ends before its next certificates would."""
        pair = _read(folder, "ca")
        if pair is None or pair[0].not_valid_after_utc < now + _LEAF_LIFETIME:
            pair = _new_authority(now)
            _write(folder, "ca", pair=pair)
        return cls(folder=folder, certificate=pair[0], key=pair[1])

    def keep_certificate(self, name: str, now: datetime) -> None:
        """See to it that the process has a certificate of this authority with 30 days to go at least."""
        pair = _read(self.folder, name)
        if pair is None or pair[0].not_valid_after_utc < now + _RENEWED_BEFORE or not self._has_signed(pair[0]):
            _write(self.folder, name, pair=self._new_leaf(name, now))

    def _has_signed(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    def _new_leaf(self, name: str, now: datetime) -> "_Pair":
        key = ec.generate_private_key(ec.SECP256R1())
        names = [
            x509.DNSName("localhost"),
            x509.IPAddress(IPv4Address("127.0.0.1")),
            x509.UniformResourceIdentifier(_SPIFFE + name),
        ]
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            _builder(_name(name), key, now=now, lifetime=_LEAF_LIFETIME)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(issuer_key, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate, key


_Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _new_authority(now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Bulkhead internal authority")
    certificate = (
        _builder(name, key, now=now, lifetime=_LIFETIME)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _read(folder: Path, name: str) -> _Pair | None:
    """Read a certificate with its key; None where one is absent, broken, or not the other's."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / f"{name}.key").read_bytes(), password=None)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None
    return certificate, key


def _write(folder: Path, name: str, *, pair: _Pair) -> None:
    certificate, key = pair
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_private(folder / f"{name}.key", secret)
    write_private(folder / f"{name}.pem", certificate.public_bytes(pem))
