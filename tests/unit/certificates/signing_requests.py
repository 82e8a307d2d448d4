"""Signing requests of every kind, good and bad."""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from control_plane.certificates.model import Profile

PROFILE: Final = Profile(
    name="private",
    default_validity=timedelta(days=90),
    maximum_validity=timedelta(days=365),
    minimum_rsa_bits=2048,
    curves=frozenset({"secp256r1", "secp384r1"}),
    ed25519=True,
)
P256: Final = ec.generate_private_key(ec.SECP256R1())
SUBJECT: Final = [(NameOID.COMMON_NAME, "payments")]

Attributes = Sequence[tuple[x509.ObjectIdentifier, str]]


@cache
def rsa_key(bits: int, exponent: int = 65537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=exponent, key_size=bits)


def subject_name(attributes: Attributes) -> x509.Name:
    # Requests may choose any string type; the library chooses the right one, which cannot hold all that we try.
    free = {NameOID.SERIAL_NUMBER: _ASN1Type.UTF8String}
    return x509.Name([x509.NameAttribute(oid, value, free.get(oid), _validate=False) for oid, value in attributes])


def signing_request(
    key: CertificateIssuerPrivateKeyTypes = P256,
    *,
    subject: Attributes = SUBJECT,
    names: Sequence[x509.GeneralName] | None = (x509.DNSName("a.example"),),
    extensions: Sequence[x509.ExtensionType] = (),
    algorithm: hashes.SHA256 | hashes.SHA384 | hashes.SHA3_256 | None = None,
) -> str:
    """Make a request with what is asked for, whether or not it makes sense."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject_name(subject))
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    unhashed = isinstance(key, Ed25519PrivateKey) or not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return builder.sign(key, None if unhashed else algorithm or hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def dns_names(*names: str) -> list[x509.GeneralName]:
    return [x509.DNSName(name) for name in names]
