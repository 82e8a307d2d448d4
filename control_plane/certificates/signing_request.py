"""What a signing request may ask for, and everything that is wrong with one. Pure computation.

Costs up to some milliseconds of CPU for keys and names of the caller's choice: call it off the event loop. Nothing
of the request is believed but the key, the subject and the DNS names; other extensions that it asks for are ignored.
"""

import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey, MLDSA65PublicKey, MLDSA87PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from control_plane.certificates.dns_names import dns_name_violation
from control_plane.certificates.model import Profile
from control_plane.errors import Violations
from control_plane.keys.algorithms import CertificatePolicy, algorithm_of

LARGEST_REQUEST: Final = 16 * 1024
LARGEST_RSA_BITS: Final = 8192
MOST_DNS_NAMES: Final = 100

PublicKey = (
    RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | MLDSA44PublicKey | MLDSA65PublicKey | MLDSA87PublicKey
)

_FIELD: Final = "csr_pem"
_RSA_EXPONENT: Final = 65537
KEY_POLICY: Final = frozenset({"KEY_SIZE", "KEY_CURVE", "KEY_KIND"})
"""Reasons of violations of the policy: another profile might allow such a key."""
_MOST_SUBJECT_PARTS: Final = 20
_LONGEST_QUOTE: Final = 80
_PEM: Final = re.compile(
    r"\s*-----BEGIN ((?:NEW )?CERTIFICATE REQUEST)-----\s[A-Za-z0-9+/=\s]*-----END \1-----\s*", re.ASCII
)
# What the library raises, early or late, for content that it cannot make sense of; found by fuzzing.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
# The parts of a subject that we certify, with the upper bounds of RFC 5280, appendix A; the library counts bytes.
_SUBJECT_PARTS: Final = {
    NameOID.COMMON_NAME: 64,
    NameOID.SERIAL_NUMBER: 64,
    NameOID.ORGANIZATION_NAME: 64,
    NameOID.ORGANIZATIONAL_UNIT_NAME: 64,
    NameOID.LOCALITY_NAME: 128,
    NameOID.STATE_OR_PROVINCE_NAME: 128,
    NameOID.COUNTRY_NAME: 2,
}
# These two are encoded as PrintableString, whose characters are few.
_PRINTABLE: Final = {
    NameOID.COUNTRY_NAME: re.compile(r"[A-Z]{2}", re.ASCII),
    NameOID.SERIAL_NUMBER: re.compile(r"[A-Za-z0-9 '()+,\-./:=?]+", re.ASCII),
}
_KINDS_OF_NAMES: Final[Mapping[type[x509.GeneralName], str]] = {
    x509.IPAddress: "IP address",
    x509.RFC822Name: "e-mail address",
    x509.UniformResourceIdentifier: "URI",
    x509.DirectoryName: "directory name",
    x509.RegisteredID: "registered id",
    x509.OtherName: "other name",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningRequest:
    """What is to be certified: checked, and only what we take over."""

    subject: x509.Name
    dns_names: tuple[str, ...]
    """In lower case, each once, in the order of the request."""
    public_key: PublicKey


def read_signing_request(
    pem: str, profile: Profile | None, *, policy: CertificatePolicy, violations: Violations
) -> SigningRequest | None:
    """Read a PKCS#10 request in PEM; note everything that is wrong with it. None when it is not fit to be signed.

    Without a profile (the caller named one that does not exist) the key is checked as far as all profiles agree.
    """
    before = len(violations.found)
    csr = _parsed(pem, violations)
    if csr is None:
        return None
    public_key = _checked_key(csr, profile, policy=policy, violations=violations)
    if public_key is not None:
        # Not before: verifying with a key of any kind and size costs what the caller wants it to.
        violations.add(_FIELD, _signature_violation(csr), reason="CSR_SIGNATURE")
    subject = _checked_subject(csr, violations)
    dns_names = _checked_dns_names(csr, violations)
    if dns_names is not None and not dns_names and not list(subject):
        violations.add(_FIELD, "names nobody: neither a subject nor a DNS name", reason="SUBJECT")
    if public_key is None or dns_names is None or len(violations.found) > before:
        return None
    return SigningRequest(subject=_rebuilt(subject), dns_names=dns_names, public_key=public_key)


def _parsed(pem: str, violations: Violations) -> x509.CertificateSigningRequest | None:
    description, reason = None, "CSR_FORMAT"
    if not pem:
        description, reason = "is required", "REQUIRED"
    elif len(pem) > LARGEST_REQUEST:
        description, reason = f"must have at most {LARGEST_REQUEST} characters", "TOO_LARGE"
    elif "PRIVATE KEY-----" in pem:
        description = "holds a private key, which must never be sent; take that key out of use"
        reason = "PRIVATE_KEY"
    elif not _PEM.fullmatch(pem):
        description = "must be one PKCS#10 signing request in PEM, and nothing else"
    if description is None:
        try:
            return x509.load_pem_x509_csr(pem.encode())
        except _UNREADABLE:
            description = "cannot be read: its content is no PKCS#10 signing request"
    violations.add(_FIELD, description, reason=reason)
    return None


def _checked_key(
    csr: x509.CertificateSigningRequest, profile: Profile | None, *, policy: CertificatePolicy, violations: Violations
) -> PublicKey | None:
    try:
        key = csr.public_key()
    except _UNREADABLE:
        violations.add(_FIELD, "its public key cannot be read, or is of an unknown kind or curve", reason="KEY_KIND")
        return None
    found = list(_key_violations(key, profile)) or list(_policy_violations(key, policy))
    for reason, description in found:
        violations.add(_FIELD, description, reason=reason)
    return None if found or not isinstance(key, PublicKey) else key


def _key_violations(key: CertificatePublicKeyTypes, profile: Profile | None) -> Iterator[tuple[str, str]]:
    match key:
        case RSAPublicKey():
            smallest = 2048 if profile is None else profile.minimum_rsa_bits
            if not smallest <= key.key_size <= LARGEST_RSA_BITS:
                text = f"its RSA key has {key.key_size} bits, and must have {smallest} to {LARGEST_RSA_BITS}"
                yield "KEY_SIZE", text
            elif key.public_numbers().e != _RSA_EXPONENT:
                yield "KEY_EXPONENT", f"its RSA key must have the public exponent {_RSA_EXPONENT}"
        case EllipticCurvePublicKey():
            if profile is not None and key.curve.name not in profile.curves:
                allowed = ", ".join(sorted(profile.curves)) or "none"
                yield "KEY_CURVE", f"its key is on the curve {key.curve.name}; allowed: {allowed}"
        case Ed25519PublicKey():
            if profile is not None and not profile.ed25519:
                yield "KEY_KIND", f"its key is of the kind Ed25519, which the profile {profile.name} does not allow"
        case MLDSA44PublicKey() | MLDSA65PublicKey() | MLDSA87PublicKey():
            # Whether a tenant wants them is not the profile's affair.
            pass
        case _:
            yield "KEY_KIND", f"its key is of the kind {_kind(key)}; allowed: RSA, elliptic curves, Ed25519, ML-DSA"


def _policy_violations(key: CertificatePublicKeyTypes, policy: CertificatePolicy) -> Iterator[tuple[str, str]]:
    algorithm = algorithm_of(key)
    violation = policy.violation(algorithm, algorithm or _kind(key))
    if violation is not None:
        yield "KEY_KIND", violation


def _kind(key: CertificatePublicKeyTypes) -> str:
    return type(key).__name__.removesuffix("PublicKey")


def _signature_violation(csr: x509.CertificateSigningRequest) -> str | None:
    """Whoever sends the request must have the private key, or could have another's key certified under its own name."""
    try:
        algorithm = csr.signature_hash_algorithm
        if algorithm is not None and not isinstance(algorithm, _HASHES):
            return f"is signed with {algorithm.name}; sign it with SHA-256, SHA-384 or SHA-512"
        valid = csr.is_signature_valid
    except _UNREADABLE:
        return "is signed with an unknown or outdated algorithm; sign it with SHA-256, SHA-384 or SHA-512"
    return None if valid else "its signature is not by the private key of its public key"


def _checked_subject(csr: x509.CertificateSigningRequest, violations: Violations) -> x509.Name:
    try:
        with warnings.catch_warnings():
            # Wrong lengths are warned of by the library, and refused by us.
            warnings.simplefilter("ignore", UserWarning)
            subject = csr.subject
    except _UNREADABLE:
        violations.add(_FIELD, "its subject cannot be read", reason="SUBJECT")
        return x509.Name([])
    if len(list(subject)) > _MOST_SUBJECT_PARTS:
        violations.add(_FIELD, f"its subject must have at most {_MOST_SUBJECT_PARTS} parts", reason="SUBJECT")
        return subject
    for part in subject:
        violations.add(_FIELD, _subject_violation(part), reason="SUBJECT")
    return subject


def _subject_violation(part: x509.NameAttribute[str | bytes]) -> str | None:
    name = part.rfc4514_attribute_name
    longest = _SUBJECT_PARTS.get(part.oid)
    if longest is None:
        return f"its subject may not have a part {name}; allowed: {_allowed_parts()}"
    if not isinstance(part.value, str) or any(unicodedata.category(letter)[0] == "C" for letter in part.value):
        return f"its subject's {name} must be text without control or format characters"
    if not 1 <= len(part.value.encode()) <= longest or part.value != part.value.strip():
        return f"its subject's {name} must have 1 to {longest} bytes in UTF-8, and no space around them"
    if part.oid in _PRINTABLE and not _PRINTABLE[part.oid].fullmatch(part.value):
        return f"its subject's {name} has characters that are not allowed there: {_quoted(part.value)}"
    return None


def _allowed_parts() -> str:
    return ", ".join(sorted(x509.NameAttribute(oid, "DE").rfc4514_attribute_name for oid in _SUBJECT_PARTS))


def _checked_dns_names(csr: x509.CertificateSigningRequest, violations: Violations) -> tuple[str, ...] | None:
    """Return the DNS names; None when they could not even be read."""
    try:
        wanted = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except _UNREADABLE:
        text = "its extensions cannot be read; DNS names must be in ASCII, other alphabets as A-labels (xn--…)"
        violations.add(_FIELD, text, reason="CSR_EXTENSIONS")
        return None
    for other in wanted:
        if (kind := _KINDS_OF_NAMES.get(type(other))) is not None:
            text = f"its alternative name {_quoted(str(other.value))} is of the kind {kind}; only DNS names are allowed"
            violations.add(_FIELD, text, reason="NAME_KIND")
    # ASCII alone: the lower case of the Kelvin sign is a plain k.
    spelt = wanted.get_values_for_type(x509.DNSName)
    names = dict.fromkeys(name.lower() if name.isascii() else name for name in spelt)
    if len(names) > MOST_DNS_NAMES:
        violations.add(_FIELD, f"must have at most {MOST_DNS_NAMES} DNS names", reason="DNS_NAME")
        return None
    for name in names:
        if (description := dns_name_violation(name)) is not None:
            violations.add(_FIELD, f"its DNS name {_quoted(name)} {description}", reason="DNS_NAME")
    return tuple(names)


def _rebuilt(subject: x509.Name) -> x509.Name:
    """Encode the subject anew, in the string types of RFC 5280, whatever types the request chose."""
    return x509.Name(
        [
            x509.RelativeDistinguishedName([x509.NameAttribute(part.oid, part.value) for part in rdn])
            for rdn in subject.rdns
        ]
    )


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}…")
