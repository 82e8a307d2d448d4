"""T-E12: a client certificate names one tenant, in one form, beside a token of the same tenant; else it is refused."""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.e2e.edge.conftest import trusting
from tests.fixtures.edge import ClientAuthority, EdgeWorld, client_names
from tests.fixtures.edge_wire import NOTHING, Answer, Door, http1, lines

URI: Final = x509.UniformResourceIdentifier
DNS: Final = x509.DNSName
OWN: Final = "spiffe://bulkhead/tenant/{a}"
# What a certificate says beside, or in place of, `spiffe://bulkhead/tenant/{a}`; `{a}` is the caller's tenant.
REFUSED: Final[dict[str, list[tuple[type, str]]]] = {
    "another tenant": [(URI, "spiffe://bulkhead/tenant/{b}")],
    "a suspended tenant": [(URI, "spiffe://bulkhead/tenant/{s}")],
    "a tenant that is not there": [(URI, "spiffe://bulkhead/tenant/{x}")],
    "a second tenant": [(URI, OWN), (URI, "spiffe://bulkhead/tenant/{b}")],
    "a second tenant first": [(URI, "spiffe://bulkhead/tenant/{b}"), (URI, OWN)],
    "the same one twice": [(URI, OWN), (URI, OWN)],
    "a second URI": [(URI, OWN), (URI, "https://example.org/")],
    "capitals": [(URI, "spiffe://bulkhead/tenant/{A}")],
    "capitals in the scheme": [(URI, "SPIFFE://bulkhead/tenant/{a}")],
    "capitals in the domain": [(URI, "spiffe://Bulkhead/tenant/{a}")],
    "another domain": [(URI, "spiffe://bulkhead.example/tenant/{a}")],
    "another scheme": [(URI, "https://bulkhead/tenant/{a}")],
    "a longer path": [(URI, OWN + "/x")],
    "a trailing slash": [(URI, OWN + "/")],
    "a query": [(URI, OWN + "?x")],
    "a fragment": [(URI, OWN + "#x")],
    "a prefix": [(URI, "xspiffe://bulkhead/tenant/{a}")],
    "a suffix": [(URI, OWN + "x")],
    "a NUL at the end": [(URI, OWN + "\0")],
    "a NUL inside": [(URI, OWN + "\0.{b}")],
    "a line end": [(URI, OWN + "\n")],
    "a wildcard": [(URI, "spiffe://bulkhead/tenant/*")],
    "a dot for a letter": [(URI, "spiffe://bulkhead/tenant/{dot}")],
    "an encoded letter": [(URI, "spiffe://bulkhead/tenant/{enc}")],
    "a climb": [(URI, "spiffe://bulkhead/tenant/{b}/../{a}")],
    "a DNS name of that form": [(DNS, OWN)],
    "the tenant's host": [(DNS, "{host}")],
    "a DNS name that holds it": [(URI, "spiffe://bulkhead/tenant/{b}"), (DNS, OWN)],
    "a service of the platform": [(URI, "spiffe://bulkhead/service/edge")],
    "an edge": [(URI, "spiffe://bulkhead/edge/local")],
    "a mail address of that form": [(x509.RFC822Name, OWN)],
}


def names(world: EdgeWorld, said: list[tuple[type, str]]) -> x509.SubjectAlternativeName:
    a = world.tenant_a.tenant_id
    values = {
        "a": a, "A": a.upper(), "b": world.tenant_b.tenant_id, "s": world.suspended.tenant_id, "x": world.absent,
        "dot": a[0] + "." + a[2:], "enc": f"%{ord(a[0]):02x}{a[1:]}", "host": world.tenant_a.host,
    }  # fmt: skip
    return x509.SubjectAlternativeName([kind(value.format(**values)) for kind, value in said])


def ask(world: EdgeWorld, certificate: Path | None, *, token: str | None = None) -> Answer:
    """List A's certificates over TLS, with a client certificate and A's token if not said."""
    own = world.tenant_a
    tls = trusting(world)
    if certificate is not None:
        tls.load_cert_chain(certificate)
    shown = own.token if token is None else token
    fields = [(b"host", world.authority.encode())]
    if shown:
        fields.append((b"authorization", b"Bearer " + shown.encode()))
    request = lines(b"GET %s HTTP/1.1" % own.certificates.encode(), fields)
    try:
        return http1(Door(address=world.https, tls=tls, server_name="localhost"), request)
    except (ssl.SSLError, ConnectionError):
        return NOTHING


def test_a_certificate_of_the_tenant_goes_with_its_token(
    edge_world: EdgeWorld, client_authority: ClientAuthority, *, tmp_path: Path
) -> None:
    own = edge_world.tenant_a
    shown = client_authority.issue(tmp_path, client_names(own.tenant_id))

    assert ask(edge_world, None).status == 200
    assert own.canary.encode() in ask(edge_world, shown).body


def test_harmless_names_beside_it_are_no_hindrance(
    edge_world: EdgeWorld, client_authority: ClientAuthority, *, tmp_path: Path
) -> None:
    said = [*names(edge_world, [(URI, OWN), (DNS, "{host}")]), x509.IPAddress(ipaddress.IPv4Address("192.0.2.1"))]
    shown = client_authority.issue(tmp_path, x509.SubjectAlternativeName(said))

    assert ask(edge_world, shown).status == 200


@pytest.mark.behaviour("T-E12")
@pytest.mark.behaviour("E2.1")
@pytest.mark.parametrize("what", REFUSED)
def test_a_certificate_that_says_anything_else_is_refused(
    edge_world: EdgeWorld, client_authority: ClientAuthority, *, tmp_path: Path, what: str
) -> None:
    shown = client_authority.issue(tmp_path, names(edge_world, REFUSED[what]))
    before = edge_world.upstream_requests()
    answer = ask(edge_world, shown)

    assert answer.status in {0, 403}, answer
    assert answer.header("x-bulkhead-reason") == ""
    assert edge_world.upstream_requests() == before


def test_a_certificate_without_names_is_refused(
    edge_world: EdgeWorld, client_authority: ClientAuthority, *, tmp_path: Path
) -> None:
    assert ask(edge_world, client_authority.issue(tmp_path, None)).status == 403


@pytest.mark.parametrize("token", ["", "garbage"])
def test_a_certificate_replaces_no_token(
    edge_world: EdgeWorld, client_authority: ClientAuthority, *, tmp_path: Path, token: str
) -> None:
    shown = client_authority.issue(tmp_path, client_names(edge_world.tenant_a.tenant_id))

    assert ask(edge_world, shown, token=token).status == 403


@pytest.mark.behaviour("T-E12")
def test_an_expired_certificate_ends_the_connection(
    edge_world: EdgeWorld, client_authority: ClientAuthority, *, tmp_path: Path
) -> None:
    own = client_names(edge_world.tenant_a.tenant_id)
    expired = client_authority.issue(tmp_path, own, ends=timedelta(minutes=-1))

    assert ask(edge_world, expired) == NOTHING


@pytest.mark.parametrize("authority", ["of somebody else", "with the same name", "the internal one"])
def test_a_certificate_of_another_authority_ends_the_connection(
    edge_world: EdgeWorld, client_authority: ClientAuthority, *, tmp_path: Path, authority: str
) -> None:
    own = client_names(edge_world.tenant_a.tenant_id)
    others = {
        "of somebody else": lambda: _authority(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])),
        "with the same name": lambda: _authority(client_authority.certificate.subject),
        "the internal one": lambda: ClientAuthority.of(edge_world.stack, name="ca"),
    }
    shown = others[authority]().issue(tmp_path, own)

    assert ask(edge_world, shown) == NOTHING


def _authority(name: x509.Name) -> ClientAuthority:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    return ClientAuthority(certificate=builder.sign(key, hashes.SHA256()), key=key)
