"""The internal authority and the certificates of the processes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from control_plane.stack.authority import Authority

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def keep(folder: Path, now: datetime, name: str = "control-plane") -> bytes:
    Authority.open(folder, now).keep_certificate(name, now)
    return (folder / f"{name}.pem").read_bytes()


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
