"""The internal authority and the certificates of the processes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from control_plane.stack.authority import Authority, Identity, keep_authority, service
from control_plane.stack.edge.identities import AGENT, keep_edge_identities

NOW = datetime(2026, 1, 1, tzinfo=UTC)


SERVER = Identity(name="edge", hosts=("api.example.com", "*.example.com"))


def keep(folder: Path, now: datetime, name: str = "control-plane") -> bytes:
    Authority.open(folder, now).keep_certificate(service(name), now)
    return (folder / f"{name}.pem").read_bytes()


def keep_replaceable(folder: Path, now: datetime) -> bytes:
    Authority.open(folder, now).keep_replaceable_certificate(SERVER, now)
    return (folder / "edge.pem").read_bytes()


def usage(certificate: x509.Certificate) -> set[ObjectIdentifier]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_a_certificate_is_kept_until_thirty_days_are_left(tmp_path: Path) -> None:
    first = keep(tmp_path, NOW)
    end = x509.load_pem_x509_certificate(first).not_valid_after_utc

    assert keep(tmp_path, end - timedelta(days=31)) == first
    assert keep(tmp_path, end - timedelta(days=29)) != first


def test_an_authority_that_could_not_outlive_a_certificate_is_made_anew_with_all_of_them(tmp_path: Path) -> None:
    first = keep(tmp_path, NOW)
    authority = (tmp_path / "ca.pem").read_bytes()
    later = NOW + timedelta(days=3650 - 364)
    second = keep(tmp_path, later)

    assert (tmp_path / "ca.pem").read_bytes() != authority
    assert second != first
    x509.load_pem_x509_certificate(second).verify_directly_issued_by(
        x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    )


@pytest.mark.parametrize("damage", ["", "not a key"])
@pytest.mark.parametrize("name", ["ca", "control-plane"])
def test_a_key_that_is_broken_is_replaced_with_its_certificate(name: str, damage: str, tmp_path: Path) -> None:
    first = keep(tmp_path, NOW)
    (tmp_path / f"{name}.key").write_text(damage)

    assert keep(tmp_path, NOW) != first


def test_a_key_that_belongs_to_another_certificate_is_replaced(tmp_path: Path) -> None:
    """A crash between the writing of the two leaves this."""
    first = keep(tmp_path, NOW)
    keep(tmp_path, NOW, "certificates")
    (tmp_path / "control-plane.key").write_bytes((tmp_path / "certificates.key").read_bytes())

    assert keep(tmp_path, NOW) != first


def test_a_certificate_names_localhost_and_one_identity(tmp_path: Path) -> None:
    certificate = x509.load_pem_x509_certificate(keep(tmp_path, NOW))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://bulkhead/service/control-plane"]


def test_every_file_is_for_our_eyes_only(tmp_path: Path) -> None:
    keep(tmp_path, NOW)

    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(
        ["ca.pem", "ca.key", "control-plane.pem", "control-plane.key"], 0o600
    )


def test_a_certificate_that_names_others_than_it_should_is_replaced(tmp_path: Path) -> None:
    first = keep_replaceable(tmp_path, NOW)
    Authority.open(tmp_path, NOW).keep_certificate(Identity(name="edge", hosts=("api.example.org",)), NOW)

    assert (tmp_path / "edge.pem").read_bytes() != first


def test_who_only_serves_is_nobodys_client_and_who_only_calls_is_no_server(tmp_path: Path) -> None:
    server = x509.load_pem_x509_certificate(keep_replaceable(tmp_path, NOW))
    Authority.open(tmp_path, NOW).keep_certificate(AGENT, NOW)
    client = x509.load_pem_x509_certificate((tmp_path / "edge-agent.pem").read_bytes())

    assert usage(server) == {ExtendedKeyUsageOID.SERVER_AUTH}
    assert usage(client) == {ExtendedKeyUsageOID.CLIENT_AUTH}


def test_what_an_operator_puts_in_place_of_the_edges_certificate_stays(tmp_path: Path) -> None:
    ours = keep_replaceable(tmp_path, NOW)
    (tmp_path / "elsewhere").mkdir()
    keep_authority(tmp_path / "elsewhere", "theirs", title="An authority that browsers trust", now=NOW)
    theirs = (tmp_path / "elsewhere" / "theirs.pem").read_bytes()
    (tmp_path / "edge.pem").write_bytes(theirs)

    assert keep_replaceable(tmp_path, NOW) == theirs != ours


def test_the_edges_own_certificate_follows_a_new_internal_authority(tmp_path: Path) -> None:
    first = keep_replaceable(tmp_path, NOW)
    (tmp_path / "ca.key").unlink()

    assert keep_replaceable(tmp_path, NOW) != first


def test_the_authority_of_tenants_clients_is_no_part_of_the_internal_one_and_stays(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path, NOW)
    keep_edge_identities(authority, NOW)
    clients = (tmp_path / "edge-clients.pem").read_bytes()
    keep_edge_identities(authority, NOW + timedelta(days=3000))
    certificate = x509.load_pem_x509_certificate(clients)

    assert (tmp_path / "edge-clients.pem").read_bytes() == clients
    assert certificate.issuer == certificate.subject != authority.certificate.subject
    assert certificate.public_key() != authority.certificate.public_key()
