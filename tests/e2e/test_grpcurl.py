"""The real grpcurl against a real stack: by reflection, with the descriptors, and as `--print-grpcurl` writes it."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.stack import Stack

GRPCURL = Path(sys.executable).with_name("grpcurl")


def grpcurl(stack: Stack, *arguments: str, address: str = "admin_grpc", token: str | None = None) -> Any:
    """Run grpcurl as somebody, the stack's administrator if nobody is named; return how it ended."""
    shown = token if token is not None else Path(stack.endpoints["admin_token_file"]).read_text().strip()
    *options, what = arguments
    head = ["-cacert", stack.endpoints["ca_file"], *(["-H", f"authorization: Bearer {shown}"] if shown else [])]
    return subprocess.run(
        [GRPCURL, *head, *options, stack.endpoints[address], *what.split()], capture_output=True, text=True, check=False
    )


def printed(stack: Stack, *arguments: str) -> Any:
    """Have a shell run what a command prints; return what grpcurl prints."""
    command = stack.bulkhead(*arguments, "--print-grpcurl")
    assert (command.returncode, command.stderr) == (0, "")
    path = f"{GRPCURL.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command.stdout], capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def tenant(stack: Stack) -> str:
    tenant_id = f"grpcurl_{uuid.uuid4().hex[:12]}"
    assert stack.bulkhead("tenants", "create", tenant_id).returncode == 0
    return tenant_id


@pytest.fixture
def alice(stack: Stack, tenant: str, *, tmp_path: Path) -> Path:
    file = tmp_path / "alice.token"
    issue = ("tokens", "issue", tenant, "--subject", "alice", "--scope", "certificates.read", "--out", str(file))
    assert stack.bulkhead(*issue).returncode == 0
    return file


def test_the_administrator_finds_every_service_of_the_control_plane_by_reflection(stack: Stack) -> None:
    listed = grpcurl(stack, "list")

    assert set(listed.stdout.split()) >= {
        "bulkhead.v1.AuditService",
        "bulkhead.v1.TenantService",
        "bulkhead.v1.TokenService",
        "google.longrunning.Operations",
        "grpc.health.v1.Health",
    }


def test_the_administrator_reads_what_a_method_takes(stack: Stack) -> None:
    described = grpcurl(stack, "describe bulkhead.v1.CreateTenantRequest")

    assert "string tenant_id = 1" in described.stdout


@pytest.mark.behaviour("H21")
def test_nobody_else_may_reflect(stack: Stack, alice: Path) -> None:
    for token in ("", "nonsense", alice.read_text().strip()):
        listed = grpcurl(stack, "list", token=token)

        assert listed.returncode != 0
        assert "TenantService" not in listed.stdout


@pytest.mark.behaviour("H21")
def test_the_certificate_service_does_not_reflect(stack: Stack) -> None:
    listed = grpcurl(stack, "list", address="certificates_grpc")

    assert listed.returncode != 0
    assert "CertificateService" not in listed.stdout


def test_a_call_by_reflection_is_the_call_of_the_command(stack: Stack, tenant: str) -> None:
    got = grpcurl(stack, "-d", json.dumps({"name": f"tenants/{tenant}"}), "bulkhead.v1.TenantService/GetTenant")

    assert json.loads(got.stdout)["name"] == f"tenants/{tenant}"


def test_a_wrong_token_is_refused_with_its_reason(stack: Stack) -> None:
    call = ("-d", "{}", "-protoset", protoset(stack), "bulkhead.v1.TenantService/ListTenants")
    refused = grpcurl(stack, *call, token="x")

    assert refused.returncode != 0
    assert "Code: Unauthenticated" in refused.stderr
    assert '"reason":"UNAUTHENTICATED"' in refused.stderr


def test_a_tenants_token_is_refused_what_its_role_may_not(stack: Stack, alice: Path) -> None:
    call = ("-d", "{}", "-protoset", protoset(stack), "bulkhead.v1.TenantService/ListTenants")
    refused = grpcurl(stack, *call, token=alice.read_text().strip())

    assert "Code: PermissionDenied" in refused.stderr
    assert '"reason":"ROLE_NOT_ALLOWED"' in refused.stderr


def test_every_violation_is_readable_by_reflection_too(stack: Stack) -> None:
    call = ("-d", '{"tenant_id": "No", "tenant": {"tier": "gold"}}', "bulkhead.v1.TenantService/CreateTenant")
    refused = grpcurl(stack, *call)

    assert "Code: InvalidArgument" in refused.stderr
    assert '"field":"tenant_id"' in refused.stderr
    assert '"field":"tenant.tier"' in refused.stderr


def protoset(stack: Stack) -> str:
    """Take the path of the descriptors from a printed command, as a person would."""
    words = stack.bulkhead("certificates", "list", "org_1", "--print-grpcurl").stdout.split()
    return words[words.index("-protoset") + 1]


def test_printed_commands_run_as_the_administrator(stack: Stack, tenant: str) -> None:
    assert printed(stack, "tenants", "get", tenant)["name"] == f"tenants/{tenant}"
    assert printed(stack, "operations", "list")["operations"]
    assert printed(stack, "audit", "tail", tenant)["audit_entries"]
    assert printed(stack, "certificates", "list", tenant) == {}


def test_printed_commands_run_as_a_tenants_caller_on_both_listeners(stack: Stack, tenant: str, *, alice: Path) -> None:
    as_alice = ("--token-file", str(alice))

    assert printed(stack, "tenants", "get", tenant, *as_alice)["name"] == f"tenants/{tenant}"
    assert printed(stack, "certificates", "authority", tenant, *as_alice)["pem"]


def test_a_printed_redemption_works_without_a_credential(stack: Stack, tenant: str, *, tmp_path: Path) -> None:
    enrolment = tmp_path / "enrolment"
    assert stack.bulkhead("tokens", "enrolment", tenant, "--out", str(enrolment)).returncode == 0

    assert printed(stack, "tokens", "redeem", tenant, "--file", str(enrolment))["token"]


def test_a_printed_creation_makes_the_tenant(stack: Stack) -> None:
    tenant_id = f"grpcurl_{uuid.uuid4().hex[:12]}"
    operation = printed(stack, "tenants", "create", tenant_id, "--display-name", 'It\'s 100 % "ours"')
    waited = stack.bulkhead("operations", "wait", operation["name"], "--json")

    assert json.loads(waited.stdout)["response"]["display_name"] == 'It\'s 100 % "ours"'
