"""The internal authority: it signs the certificates by which the stack's processes know each other.

What a certificate is good for follows from what it names: hosts for a server, a SPIFFE identity for a client of mutual
TLS, both for a process that is both.
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
_TITLE: Final = "Bulkhead internal authority"
_ADDRESS: Final = IPv4Address("127.0.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What one certificate says."""

    name: str
    """Of its files: `NAME.pem` and `NAME.key`."""
    spiffe: str = ""
    """Who it is to other processes; empty for what is nobody's client."""
    hosts: tuple[str, ...] = ()
    """The DNS names that it serves, beside 127.0.0.1; empty for what is nobody's server."""

    @property
    def names(self) -> x509.SubjectAlternativeName:
        """All that it names, in order."""
        hosts = [x509.DNSName(host) for host in self.hosts]
        address = [x509.IPAddress(_ADDRESS)] if hosts else []
        return x509.SubjectAlternativeName(
            [*hosts, *address, *([x509.UniformResourceIdentifier(self.spiffe)] if self.spiffe else [])]
        )

    @property
    def usage(self) -> x509.ExtendedKeyUsage:
        """At which ends of a connection it is good."""
        server = [ExtendedKeyUsageOID.SERVER_AUTH] if self.hosts else []
        return x509.ExtendedKeyUsage([*server, *([ExtendedKeyUsageOID.CLIENT_AUTH] if self.spiffe else [])])


def service(name: str) -> Identity:
    """Return what a service of the platform is called, which is both a server and a client."""
    return Identity(name=name, spiffe=f"spiffe://bulkhead/service/{name}", hosts=("localhost",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The authority of one state directory."""

    folder: Path
    """Private. Holds `ca.pem`, `ca.key`, and the files of each identity."""
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def open(cls, folder: Path, now: datetime) -> Self:
        """Read the authority, or make one where there is none or where it ends before its next certificates would."""
        pair = _read(folder, "ca")
        if pair is None or pair[0].not_valid_after_utc < now + _LEAF_LIFETIME:
            pair = _new_authority(_TITLE, now)
            _write(folder, "ca", pair=pair)
        return cls(folder=folder, certificate=pair[0], key=pair[1])

    def keep_certificate(self, identity: Identity, now: datetime) -> None:
        """See to it that there is such a certificate of this authority, with 30 days to go at least."""
        pair = _read(self.folder, identity.name)
        if pair is None or not self._is_good(pair[0], identity, now=now):
            _write(self.folder, identity.name, pair=self._new_leaf(identity, now))

    def keep_replaceable_certificate(self, identity: Identity, now: datetime) -> None:
        """Do the same, unless somebody has put a certificate of another authority in its place."""
        if not _is_of_another(self.folder / f"{identity.name}.pem"):
            self.keep_certificate(identity, now)

    def _is_good(self, certificate: x509.Certificate, identity: Identity, *, now: datetime) -> bool:
        lasts = certificate.not_valid_after_utc >= now + _RENEWED_BEFORE
        return lasts and _names_of(certificate) == identity.names and self._has_signed(certificate)

    def _has_signed(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    def _new_leaf(self, identity: Identity, now: datetime) -> "_Pair":
        key = ec.generate_private_key(ec.SECP256R1())
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        certificate = (
            _builder(_name(identity.name), key, now=now, lifetime=_LEAF_LIFETIME)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(identity.usage, critical=False)
            .add_extension(identity.names, critical=False)
            .add_extension(issuer_key, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate, key


def keep_authority(folder: Path, name: str, *, title: str, now: datetime) -> None:
    """See to it that there is an authority of that name for others' certificates; whatever is there stays."""
    if not (folder / f"{name}.pem").exists():
        _write(folder, name, pair=_new_authority(title, now))


_Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def _new_authority(title: str, now: datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(title)
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


def _is_of_another(path: Path) -> bool:
    """Whether a certificate is there that no internal authority of ours says to have signed, now or before."""
    try:
        issuer = x509.load_pem_x509_certificate(path.read_bytes()).issuer
    except (FileNotFoundError, ValueError):
        return False
    return issuer != _name(_TITLE)


def _names_of(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


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
