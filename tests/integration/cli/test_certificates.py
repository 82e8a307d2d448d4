"""Certificates: files in, files out."""

import io
from pathlib import Path
from typing import Any

from bulkhead.v1 import certificates_pb2
from control_plane import errors

PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
ISSUED = certificates_pb2.Certificate(
    name="tenants/org_1/certificates/1",
    state=certificates_pb2.Certificate.ACTIVE,
    dns_names=["a.example", "b.example"],
    pem_chain=PEM,
)
NAME = ISSUED.name


def test_issue_sends_the_request_and_shows_the_certificate_without_its_pem(api: Any, cli: Any, tmp_path: Path) -> None:
    api.answer("IssueCertificate", ISSUED)
    (tmp_path / "csr").write_text("the csr")
    done = cli("certificates", "issue", "org_1", "--csr", str(tmp_path / "csr"), "--validity", "30d", "--profile", "p")
    request = api.received[0].request

    assert done.code == 0
    assert ["dns_names", "a.example,", "b.example"] in [line.split() for line in done.out.splitlines()]
    assert "BEGIN" not in done.out
    assert f"certificates get {NAME}" in done.err
    assert (request.parent, request.csr_pem, request.profile) == ("tenants/org_1", "the csr", "p")
    assert request.validity.seconds == 30 * 24 * 3600


def test_with_json_issue_prints_the_chain_too(api: Any, cli: Any) -> None:
    api.answer("IssueCertificate", ISSUED)
    cli.environment.setattr("sys.stdin", io.StringIO("from a pipe"))
    done = cli("certificates", "issue", "org_1", "--csr", "-", "--json")

    assert done.json["pem_chain"] == PEM
    assert api.received[0].request.csr_pem == "from a pipe"


def test_the_chain_goes_where_out_says(api: Any, cli: Any, tmp_path: Path) -> None:
    api.answer("GetCertificate", ISSUED)
    api.answer("GetCertificateAuthority", certificates_pb2.CertificateAuthority(name="ca", pem=PEM))
    in_file = cli("certificates", "get", NAME, "--out", str(tmp_path / "chain"))
    on_stdout = cli("certificates", "get", NAME, "--out", "-")
    authority = cli("certificates", "authority", "org_1", "--out", "-")

    assert (tmp_path / "chain").read_text() == PEM
    assert in_file.out.startswith("name ")
    assert (on_stdout.out, authority.out) == (PEM, PEM)
    assert api.received[-1].request.name == "tenants/org_1/certificateAuthority"


def test_an_authority_says_whether_a_hardware_module_holds_its_key(api: Any, cli: Any) -> None:
    api.answer("GetCertificateAuthority", certificates_pb2.CertificateAuthority(name="ca", pem=PEM))

    assert cli("certificates", "authority", "org_1").out == "name        ca\nhsm_backed  no\n"


def test_a_request_that_is_not_there_is_a_usage_error(api: Any, cli: Any) -> None:
    assert cli("certificates", "issue", "org_1", "--csr", "nowhere").code == 2
    assert api.received == []


def test_a_request_that_is_no_text_is_left_to_the_server_to_refuse(api: Any, cli: Any, tmp_path: Path) -> None:
    api.answer(
        "IssueCertificate",
        errors.InvalidArgumentError(errors.FieldViolation(field="csr_pem", description="is no PEM")),
    )
    (tmp_path / "csr").write_bytes(b"\x30\x82\xff")
    done = cli("certificates", "issue", "org_1", "--csr", str(tmp_path / "csr"))

    assert done.code == 2
    assert "  csr_pem: is no PEM" in done.err


def test_a_check_alone_issues_nothing(api: Any, cli: Any, tmp_path: Path) -> None:
    api.answer("IssueCertificate", certificates_pb2.Certificate(subject="CN=a"))
    (tmp_path / "csr").write_text("the csr")
    out = tmp_path / "chain"
    done = cli("certificates", "issue", "org_1", "--csr", str(tmp_path / "csr"), "--validate-only", "--out", str(out))

    assert done.code == 0
    assert "nothing was issued" in done.err
    assert not out.exists()


def test_certificates_are_listed_and_revoked(api: Any, cli: Any) -> None:
    api.answer("ListCertificates", certificates_pb2.ListCertificatesResponse(certificates=[ISSUED]))
    api.answer("RevokeCertificate", ISSUED)
    listed, revoked = cli("certificates", "list", "org_1"), cli("certificates", "revoke", NAME, "--reason", "lost")

    assert listed.out.splitlines()[1].split()[:2] == [NAME, "ACTIVE"]
    assert api.received[-1].request.reason == "lost"
    assert "BEGIN" not in revoked.out
