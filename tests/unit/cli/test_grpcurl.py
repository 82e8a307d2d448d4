"""The printed grpcurl commands; `tests/e2e/test_grpcurl.py` runs some."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from control_plane.cli.calls.endpoints import Endpoints
from control_plane.cli.calls.grpcurl import Secret, descriptors, grpcurl

ENDPOINTS = Endpoints(
    admin_grpc="127.0.0.1:1",
    certificates_grpc="127.0.0.1:2",
    ca_file=Path("/state dir/ca.pem"),
    admin_token_file=Path("/state dir/admin.token"),
)
GET_TENANT = "bulkhead.v1.TenantService/GetTenant"
GET_CERTIFICATE = "bulkhead.v1.CertificateService/GetCertificate"
REDEEM = "bulkhead.v1.TokenService/RedeemEnrolmentToken"


def printed(method: str, *, token_file: Path | None = ENDPOINTS.admin_token_file) -> str:
    return grpcurl(method, {"name": "it's"}, endpoints=ENDPOINTS, token_file=token_file, timeout_s=15)


def run_by_shell(command: str) -> list[str]:
    """Have a shell run the command with a grpcurl that prints its arguments, its variable and its input."""
    script = f"""grpcurl() {{ printf '%s\\n' "$@" "token=$BULKHEAD_TOKEN" "input=$(cat)"; }}; {command} </dev/null"""
    return subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True).stdout.splitlines()


def test_a_method_of_the_admin_listener_is_found_by_reflection() -> None:
    command = printed(GET_TENANT)

    assert "-protoset" not in command
    assert command.endswith("127.0.0.1:1 bulkhead.v1.TenantService/GetTenant")


@pytest.mark.parametrize(
    ("method", "token_file"),
    [(GET_CERTIFICATE, ENDPOINTS.admin_token_file), (GET_TENANT, Path("alice.token")), (REDEEM, None)],
)
def test_a_listener_or_caller_without_reflection_uses_the_installed_descriptors(
    method: str, token_file: Path | None
) -> None:
    assert f"-protoset {descriptors()}" in printed(method, token_file=token_file)


def test_the_installed_descriptors_need_no_other_file() -> None:
    found = FileDescriptorSet.FromString(Path(descriptors()).read_bytes())
    names = {file.name for file in found.file}

    assert {name for file in found.file for name in file.dependency} <= names
    assert {service.name for file in found.file for service in file.service} >= {
        "TenantService", "TokenService", "CertificateService", "AuditService", "Operations",
    }  # fmt: skip


def test_the_token_is_in_no_argument(tmp_path: Path) -> None:
    token_file = tmp_path / "a token"
    token_file.write_text("s3cret\n")
    *arguments, variable, _ = run_by_shell(printed(GET_CERTIFICATE, token_file=token_file))

    assert variable == "token=s3cret"
    assert "authorization: Bearer ${BULKHEAD_TOKEN}" in arguments
    assert "-expand-headers" in arguments
    assert not any("s3cret" in argument for argument in arguments)


def test_the_request_survives_the_shell() -> None:
    words = shlex.split(printed(GET_TENANT).replace("\\\n", ""))

    assert json.loads(words[words.index("-d") + 1]) == {"name": "it's"}
    assert "/state dir/ca.pem" in words


def test_a_secret_field_is_read_from_its_file_and_is_in_no_argument(tmp_path: Path) -> None:
    file = tmp_path / "enrol"
    file.write_text("bulkhead_enrol_s3cret\n")
    command = grpcurl(
        REDEEM,
        {"name": '100% "\\n" ö'},
        endpoints=ENDPOINTS,
        token_file=None,
        timeout_s=15,
        secret=Secret(field="enrolment_token", file=file),
    )
    script = f"""grpcurl() {{ cat; echo; printf '%s\\n' "$@"; }}; {command}"""
    lines = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True).stdout.splitlines()

    assert json.loads(lines[0]) == {"name": '100% "\\n" ö', "enrolment_token": "bulkhead_enrol_s3cret"}
    assert not any("s3cret" in argument for argument in lines[1:])
    assert "authorization" not in command
