"""A client certificate names a tenant in one form exactly, or it names none."""

import ipaddress
from collections.abc import Sequence
from datetime import timedelta
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from ext_authz.authz import certificate as certificates
from ext_authz.authz.certificate import CertificateClaim, CertificateReader
from tests.unit.ext_authz.authz.checks import NOW

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
ENDS = NOW.replace(microsecond=0) + timedelta(days=1)
URI, DNS = x509.UniformResourceIdentifier, x509.DNSName
OURS = "spiffe://bulkhead/tenant/org_1"


def certificate(*names: x509.GeneralName, extension: x509.ExtensionType | None = None) -> bytes:
    """Make one as Envoy hands it over."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, OURS)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(ENDS)
    )
    if names or extension is not None:
        builder = builder.add_extension(extension or x509.SubjectAlternativeName(names), critical=False)
    return quote(builder.sign(KEY, None).public_bytes(Encoding.PEM)).encode()


def der_names(*names: tuple[int, bytes]) -> x509.UnrecognizedExtension:
    """Write names that no library would: tag and raw bytes."""
    body = b"".join(bytes([tag, len(value)]) + value for tag, value in names)
    return x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes([0x30, len(body)]) + body)


@pytest.mark.parametrize(
    "names",
    [[URI(OURS)], [URI(OURS), DNS("client.example")], [x509.IPAddress(ipaddress.ip_address("192.0.2.1")), URI(OURS)]],
)
def test_the_one_uri_names_the_tenant(names: Sequence[x509.GeneralName]) -> None:
    claim = CertificateReader().read(certificate(*names))

    assert claim == CertificateClaim(tenant_id="org_1", expire_time=ENDS)


@pytest.mark.behaviour("T-E12")
@pytest.mark.parametrize(
    "names",
    [
        [],
        [DNS(OURS)],
        [DNS("org_1")],
        [DNS("org-1.csm.example.com")],
        [x509.RFC822Name(OURS)],
        [URI(OURS), URI(OURS)],
        [URI(OURS), URI("spiffe://bulkhead/tenant/org_2")],
        [URI("spiffe://bulkhead/tenant/org_2"), URI("https://a.example")],
        [URI(OURS), DNS("spiffe://bulkhead/tenant/org_2")],
        *[
            [URI(uri)]
            for uri in (
                f"{OURS}/",
                f"{OURS} ",
                f"{OURS}?x",
                f"{OURS}#x",
                f"{OURS}\\",
                "spiffe://bulkhead/tenant/",
                "spiffe://bulkhead/tenant/*",
                "spiffe://bulkhead/tenant/org_1/x",
                "spiffe://bulkhead/tenant//org_1",
                "spiffe://bulkhead/tenant/org%5f1",
                "spiffe://bulkhead/tenant/ORG_1",
                "spiffe://bulkhead/tenant/org__1",
                "spiffe://bulkhead/tenant/system",
                "SPIFFE://bulkhead/tenant/org_1",
                "spiffe://Bulkhead/tenant/org_1",
                "spiffe://bulkhead.example/tenant/org_1",
                "spiffe://bulkheadX/tenant/org_1",
                "spiffe://bulkhead:443/tenant/org_1",
                "spiffe://bulkhead/Tenant/org_1",
                "spiffe://bulkhead/service/edge",
                "spiffe://bulkhead/edge/edge-1",
                "https://bulkhead/tenant/org_1",
                "x spiffe://bulkhead/tenant/org_1",
                "org_1",
            )
        ],
    ],
)
def test_any_other_name_names_nobody(names: Sequence[x509.GeneralName]) -> None:
    assert CertificateReader().read(certificate(*names)) is None


@pytest.mark.behaviour("T-E12")
@pytest.mark.parametrize(
    "extension",
    [
        der_names((0x86, OURS.encode() + b"\0")),
        der_names((0x86, OURS.encode() + b"\0.a.example")),
        der_names((0x86, OURS.encode()), (0x82, b"a\0b")),
        der_names((0x86, OURS.encode() + b"\n")),
        der_names((0x86, OURS.encode() + b"\xff")),
        der_names((0x86, OURS.encode()), (0x86, b"")),
        der_names((0x8F, OURS.encode())),
        x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x05"),
        x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b""),
    ],
)
def test_names_that_no_library_writes_name_nobody(extension: x509.ExtensionType) -> None:
    assert CertificateReader().read(certificate(extension=extension)) is None


@pytest.mark.parametrize("text", [b"PEM", b"%", b"\xff", b"-----BEGIN CERTIFICATE-----", quote("é").encode()])
def test_what_is_no_certificate_names_nobody(text: bytes) -> None:
    assert CertificateReader().read(text) is None


def test_a_certificate_is_remembered_whole() -> None:
    reader = CertificateReader()
    claims = [reader.read(certificate(URI(f"spiffe://bulkhead/tenant/org_{number}"))) for number in (1, 2)]

    assert [claim.tenant_id for claim in claims if claim is not None] == ["org_1", "org_2"]


def test_a_certificate_is_read_once_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "_MOST_REMEMBERED", 2)
    reader, shown = CertificateReader(), certificate(URI(OURS))
    first = reader.read(shown)

    assert reader.read(shown) is first
    reader.read(b"another")
    reader.read(shown)
    reader.read(b"a third")
    assert len(reader._remembered) == 2
    assert reader.read(shown) is first
