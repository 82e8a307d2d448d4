"""What may be certified, and everything that is wrong with a request, at once."""

import ipaddress
from base64 import encodebytes
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control_plane.certificates.model import Profile
from control_plane.certificates.signing_request import LARGEST_REQUEST, SigningRequest, read_signing_request
from control_plane.errors import FieldViolation, Violations
from control_plane.keys.algorithms import CertificatePolicy, KeyAlgorithm, PostQuantum, new_key
from tests.unit.certificates.signing_requests import (
    P256,
    PROFILE,
    SUBJECT,
    Attributes,
    dns_names,
    rsa_key,
    signing_request,
)

GOOD: Final = signing_request()
CLASSICAL: Final = CertificatePolicy()
EMPTY: Final = "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"


def _pem(der: bytes) -> str:
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{encodebytes(der).decode()}-----END CERTIFICATE REQUEST-----\n"


def read(pem: str, profile: Profile | None = PROFILE, *, policy: CertificatePolicy = CLASSICAL) -> SigningRequest:
    violations = Violations()
    found = read_signing_request(pem, profile, policy=policy, violations=violations)
    assert not violations.found
    assert found is not None
    return found


def refused(
    pem: str, profile: Profile | None = PROFILE, *, policy: CertificatePolicy = CLASSICAL
) -> list[FieldViolation]:
    violations = Violations()
    assert read_signing_request(pem, profile, policy=policy, violations=violations) is None
    assert violations.found
    assert {violation.field for violation in violations.found} == {"csr_pem"}
    return violations.found


def reasons(pem: str, profile: Profile | None = PROFILE, *, policy: CertificatePolicy = CLASSICAL) -> list[str]:
    return [violation.reason for violation in refused(pem, profile, policy=policy)]


@pytest.mark.parametrize(
    "key",
    [
        P256,
        ec.generate_private_key(ec.SECP384R1()),
        Ed25519PrivateKey.generate(),
        rsa_key(2048),
        rsa_key(3072),
    ],
    ids=["p256", "p384", "ed25519", "rsa2048", "rsa3072"],
)
def test_a_key_that_the_profile_allows_is_taken(key: CertificateIssuerPrivateKeyTypes) -> None:
    request = read(signing_request(key))

    assert request.public_key == key.public_key()
    assert request.dns_names == ("a.example",)
    assert request.subject.rfc4514_string() == "CN=payments"


@pytest.mark.behaviour("S2.8")
@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (rsa_key(1024), "KEY_SIZE"),
        (rsa_key(2040), "KEY_SIZE"),
        (rsa_key(2048, 3), "KEY_EXPONENT"),
        (ec.generate_private_key(ec.SECP256K1()), "KEY_CURVE"),
        (ec.generate_private_key(ec.SECP521R1()), "KEY_CURVE"),
        (ec.generate_private_key(ec.BrainpoolP256R1()), "KEY_CURVE"),
        (ed448.Ed448PrivateKey.generate(), "KEY_KIND"),
    ],
    ids=["rsa1024", "rsa2040", "exponent 3", "secp256k1", "p521", "brainpool", "ed448"],
)
def test_a_key_that_the_profile_does_not_allow_is_refused(key: CertificateIssuerPrivateKeyTypes, reason: str) -> None:
    assert reasons(signing_request(key)) == [reason]


def test_a_dsa_key_is_refused_by_its_kind() -> None:
    key = dsa.generate_private_key(2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())

    (violation,) = refused(csr.public_bytes(Encoding.PEM).decode())
    assert violation.reason == "KEY_KIND"
    assert "DSA" in violation.description


def test_a_profile_decides_about_size_curve_and_kind() -> None:
    strict = Profile(
        name="strict",
        default_validity=PROFILE.default_validity,
        maximum_validity=PROFILE.maximum_validity,
        minimum_rsa_bits=3072,
        curves=frozenset({"secp384r1"}),
        ed25519=False,
    )

    assert reasons(signing_request(rsa_key(2048)), strict) == ["KEY_SIZE"]
    assert reasons(GOOD, strict) == ["KEY_CURVE"]
    assert reasons(signing_request(Ed25519PrivateKey.generate()), strict) == ["KEY_KIND"]
    assert read(GOOD, None).dns_names == ("a.example",)


def test_a_request_signed_by_another_key_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    raw = x509.load_pem_x509_csr(GOOD.encode()).public_bytes(Encoding.DER)
    swapped = raw.replace(_point(P256), _point(other))

    assert reasons(_pem(swapped)) == ["CSR_SIGNATURE"]


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_flipped_bit_leaves_another_request_that_is_signed(position: int, bit: int) -> None:
    """Where a flipped bit changes neither key nor subject nor names, it changed nothing that we take over."""
    raw = bytearray(x509.load_pem_x509_csr(GOOD.encode()).public_bytes(Encoding.DER))
    raw[position % len(raw)] ^= 1 << bit
    violations = Violations()
    found = read_signing_request(_pem(bytes(raw)), PROFILE, policy=CLASSICAL, violations=violations)

    assert (found is None) == bool(violations.found)
    assert found is None or found == read(GOOD)


@pytest.mark.parametrize(
    ("pem", "reason"),
    [
        ("", "REQUIRED"),
        ("x" * (LARGEST_REQUEST + 1), "TOO_LARGE"),
        ("no request", "CSR_FORMAT"),
        (EMPTY, "CSR_FORMAT"),
        (EMPTY.replace("-----\n-----", "-----\nMAA=\n-----"), "CSR_FORMAT"),
        (GOOD + GOOD, "CSR_FORMAT"),
        ("Certificate Request:\n" + GOOD, "CSR_FORMAT"),
        (GOOD.replace("CERTIFICATE REQUEST", "CERTIFICATE"), "CSR_FORMAT"),
        (GOOD.replace("A", "\u0410"), "CSR_FORMAT"),
        (GOOD.replace("END CERTIFICATE", "END NEW CERTIFICATE"), "CSR_FORMAT"),
        (GOOD + "\0", "CSR_FORMAT"),
        (GOOD + "\ud800", "CSR_FORMAT"),
    ],
    ids=lambda value: repr(value[:20]) if len(value) > 20 else None,
)
def test_what_is_no_request_is_refused(pem: str, reason: str) -> None:
    assert reasons(pem) == [reason]


def test_a_private_key_that_came_along_is_refused_and_not_repeated() -> None:
    key = P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    (violation,) = refused(GOOD + key)
    assert violation.reason == "PRIVATE_KEY"
    assert key.splitlines()[1] not in violation.description


@pytest.mark.parametrize(
    "pem",
    [GOOD.replace("\n", "\r\n"), f"\n  {GOOD}\n\n", GOOD.replace("BEGIN ", "BEGIN NEW ").replace("END ", "END NEW ")],
)
def test_other_spellings_of_a_request_are_read(pem: str) -> None:
    assert read(pem) == read(GOOD)


@given(st.text(max_size=400) | st.binary(max_size=400).map(_pem))
def test_whatever_is_sent_is_refused_and_breaks_nothing(text: str) -> None:
    assert refused(text)


def test_dns_names_are_taken_in_lower_case_once_and_in_order() -> None:
    request = read(signing_request(names=dns_names("b.Example", "a.example", "B.example", "*.a.example")))

    assert request.dns_names == ("b.example", "a.example", "*.a.example")


def test_a_bad_dns_name_is_refused_by_its_name() -> None:
    found = refused(signing_request(names=dns_names("a.example", "a_b.example", "*.example", "10.0.0.1")))

    assert [violation.reason for violation in found] == ["DNS_NAME"] * 3
    assert [name in found[i].description for i, name in enumerate(("a_b.example", "*.example", "10.0.0.1"))] == [
        True
    ] * 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (x509.IPAddress(ipaddress.ip_address("10.0.0.1")), "IP address"),
        (x509.RFC822Name("a@b.example"), "e-mail address"),
        (x509.UniformResourceIdentifier("spiffe://bulkhead/service/control-plane"), "URI"),
        (x509.DirectoryName(x509.Name([])), "directory name"),
        (x509.RegisteredID(NameOID.COMMON_NAME), "registered id"),
        (x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a"), "other name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_alternative_name_of_another_kind_is_refused_by_its_kind(name: x509.GeneralName, kind: str) -> None:
    (violation,) = refused(signing_request(names=[*dns_names("a.example"), name]))

    assert violation.reason == "NAME_KIND"
    assert f"of the kind {kind}" in violation.description


@pytest.mark.parametrize("text", ["m\u00fcnchen.example", "\u212a.example", "\u0430.example", "a\u3002example"])
def test_a_dns_name_in_another_alphabet_is_refused(text: str) -> None:
    name = x509.DNSName._init_without_validation(text)

    assert reasons(signing_request(names=[name])) == ["DNS_NAME"]


def test_more_names_than_a_hundred_are_refused() -> None:
    assert len(read(signing_request(names=dns_names(*(f"h{i}.example" for i in range(100))))).dns_names) == 100
    assert reasons(signing_request(names=dns_names(*(f"h{i}.example" for i in range(101))))) == ["DNS_NAME"]


@pytest.mark.parametrize(
    "subject",
    [
        [],
        [(NameOID.COMMON_NAME, "a" * 64)],
        [(NameOID.COUNTRY_NAME, "DE"), (NameOID.ORGANIZATION_NAME, "Ämter & Söhne, 東京"), *SUBJECT],
        [(NameOID.SERIAL_NUMBER, "device-17"), (NameOID.LOCALITY_NAME, "b" * 128)],
    ],
)
def test_a_subject_of_known_parts_is_taken(subject: Attributes) -> None:
    request = read(signing_request(subject=subject))

    assert [(part.oid, part.value) for part in request.subject] == list(subject)


@pytest.mark.parametrize(
    "subject",
    [
        [(NameOID.COMMON_NAME, "")],
        [(NameOID.COMMON_NAME, "a" * 65)],
        [(NameOID.COMMON_NAME, "ü" * 33)],
        [(NameOID.COMMON_NAME, " a")],
        [(NameOID.COMMON_NAME, "a\0b")],
        [(NameOID.COMMON_NAME, "a\nb")],
        [(NameOID.COMMON_NAME, "abc\u202ecba")],
        [(NameOID.COMMON_NAME, "a\u200bb")],
        [(NameOID.COUNTRY_NAME, "de")],
        [(NameOID.COUNTRY_NAME, "DEU")],
        [(NameOID.SERIAL_NUMBER, "a@b")],
        [(NameOID.EMAIL_ADDRESS, "a@b.example")],
        [(NameOID.DOMAIN_COMPONENT, "example")],
        [(NameOID.COMMON_NAME, "a")] * 21,
    ],
)
@pytest.mark.filterwarnings("ignore:Attribute's length:UserWarning")
def test_a_subject_that_is_not_sane_is_refused(subject: Attributes) -> None:
    assert reasons(signing_request(subject=subject)) == ["SUBJECT"]


def test_a_subject_of_another_type_than_text_is_refused() -> None:
    raw = x509.load_pem_x509_csr(GOOD.encode()).public_bytes(Encoding.DER)

    assert reasons(_pem(raw.replace(b"\x0c\x08payments", b"\x03\x08payments"))) == ["CSR_SIGNATURE", "SUBJECT"]


def test_a_request_that_names_nobody_is_refused() -> None:
    assert reasons(signing_request(subject=[], names=None)) == ["SUBJECT"]
    assert read(signing_request(names=None)).dns_names == ()


def test_a_weak_signature_is_refused() -> None:
    assert reasons(signing_request(algorithm=hashes.SHA3_256())) == ["CSR_SIGNATURE"]


def test_other_extensions_of_a_request_are_ignored() -> None:
    wanted = [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"anything"),
    ]

    assert read(signing_request(extensions=wanted)) == read(GOOD)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    pem = signing_request(
        rsa_key(1024),
        subject=[(NameOID.COUNTRY_NAME, "de"), (NameOID.EMAIL_ADDRESS, "a@b.example")],
        names=[*dns_names("a_b"), x509.IPAddress(ipaddress.ip_address("::1"))],
    )

    assert reasons(pem) == ["KEY_SIZE", "SUBJECT", "SUBJECT", "NAME_KIND", "DNS_NAME"]


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(st.text(min_size=1, max_size=64))
@pytest.mark.filterwarnings("ignore:Attribute's length:UserWarning")
def test_any_common_name_is_taken_whole_or_refused(text: str) -> None:
    try:
        pem = signing_request(subject=[(NameOID.COMMON_NAME, text)])
    except UnicodeEncodeError:
        return
    violations = Violations()
    found = read_signing_request(pem, PROFILE, policy=CLASSICAL, violations=violations)

    assert found is None or [part.value for part in found.subject] == [text]
    assert (found is None) == bool(violations.found)


@pytest.mark.behaviour("S2.8", "I19")
@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_a_key_of_each_algorithm_is_certified_where_the_tenant_wants_it(algorithm: KeyAlgorithm) -> None:
    pem = signing_request(new_key(algorithm))
    wanted = CertificatePolicy(keys=frozenset({algorithm}), post_quantum=PostQuantum.HYBRID)
    other = CertificatePolicy(keys=frozenset(KeyAlgorithm) - {algorithm}, post_quantum=PostQuantum.HYBRID)
    (violation,) = refused(pem, policy=other)

    assert read(pem, policy=wanted).public_key == x509.load_pem_x509_csr(pem.encode()).public_key()
    assert violation.reason == "KEY_KIND"
    assert violation.description.startswith(f"its key is of the kind {algorithm}; the tenant allows: ")


@pytest.mark.behaviour("S2.8", "I19")
@pytest.mark.parametrize(
    ("algorithm", "post_quantum", "is_certified"),
    [
        ("EC_P256", "OFF", True),
        ("EC_P256", "HYBRID", True),
        ("EC_P256", "REQUIRED", False),
        ("ML_DSA_65", "OFF", False),
        ("ML_DSA_65", "HYBRID", True),
        ("ML_DSA_65", "REQUIRED", True),
    ],
)
def test_what_is_not_post_quantum_is_refused_where_that_is_required(
    algorithm: str, post_quantum: str, *, is_certified: bool
) -> None:
    pem = signing_request(new_key(KeyAlgorithm(algorithm)))
    policy = CertificatePolicy(authority=KeyAlgorithm.ML_DSA_65, post_quantum=PostQuantum(post_quantum))
    violations = Violations()
    found = read_signing_request(pem, PROFILE, policy=policy, violations=violations)

    assert (found is not None) == is_certified
    assert [one.reason for one in violations.found] == ([] if is_certified else ["KEY_KIND"])


def test_a_size_without_a_name_is_the_profiles_affair_unless_the_tenant_names_what_it_wants() -> None:
    pem = signing_request(rsa_key(2056))

    assert read(pem).public_key == rsa_key(2056).public_key()
    assert reasons(pem, policy=CertificatePolicy(keys=frozenset({KeyAlgorithm.RSA_2048}))) == ["KEY_KIND"]
    assert reasons(pem, policy=CertificatePolicy(post_quantum=PostQuantum.REQUIRED)) == ["KEY_KIND"]


def _point(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
