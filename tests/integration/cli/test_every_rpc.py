"""The command line against the protos: every RPC has its command."""

import subprocess
from typing import Any

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory

from control_plane.serving.rules import PLATFORM_FILES

# What processes say to each other is no command: nobody but an edge may call it.
BETWEEN_PROCESSES = "bulkhead.edge.v1"
OPERATIONS = {f"google.longrunning.Operations/{rpc}" for rpc in ("GetOperation", "ListOperations", "WaitOperation")}

COMMANDS: dict[str, list[str]] = {
    "CreateTenant": ["tenants", "create", "org_1", "--label", "a=1"],
    "GetTenant": ["tenants", "get", "org_1"],
    "ListTenants": ["tenants", "list", "--all"],
    "UpdateTenant": ["tenants", "update", "org_1", "--display-name", "It's", "--tier", "business"],
    "SuspendTenant": ["tenants", "suspend", "org_1", "--reason", "100 %"],
    "ReactivateTenant": ["tenants", "reactivate", "org_1"],
    "SealTenant": ["tenants", "seal", "org_1", "--reason", "a leaked key"],
    "UnsealTenant": ["tenants", "unseal", "org_1", "--reason", "it was none"],
    "IssueToken": ["tokens", "issue", "org_1", "--subject", "alice", "--ttl", "1h", "--scope", "audit.read"],
    "GetToken": ["tokens", "get", "tenants/org_1/tokens/1"],
    "ListTokens": ["tokens", "list", "org_1"],
    "RevokeToken": ["tokens", "revoke", "tenants/org_1/tokens/1"],
    "GetEnrolmentToken": ["tokens", "enrolment", "org_1"],
    "RedeemEnrolmentToken": ["tokens", "redeem", "org_1", "--file", "FILE"],
    "IssueCertificate": ["certificates", "issue", "org_1", "--csr", "FILE", "--validity", "30d"],
    "GetCertificate": ["certificates", "get", "tenants/org_1/certificates/1"],
    "ListCertificates": ["certificates", "list", "org_1"],
    "RevokeCertificate": ["certificates", "revoke", "tenants/org_1/certificates/1"],
    "GetCertificateAuthority": ["certificates", "authority", "org_1"],
    "ListAuditEntries": ["audit", "tail", "org_1"],
    "VerifyAuditLog": ["audit", "verify", "org_1"],
    "VerifyIsolation": ["isolation", "verify", "org_1"],
    "VerifyCell": ["isolation", "verify-cell"],
    "ListAttestations": ["isolation", "attestations", "org_1"],
    "GetAttestation": ["isolation", "get", "tenants/org_1/attestations/1"],
    "ListAttestationKeys": ["isolation", "keys"],
    "ListBreaches": ["isolation", "breaches"],
    "ListEdges": ["edges", "list"],
    "ListTenantTraffic": ["top"],
    "WaitApplied": ["edges", "wait", "--revision", "7", "--timeout", "30s"],
    "GetOperation": ["operations", "get", "0192"],
    "ListOperations": ["operations", "list"],
    "WaitOperation": ["operations", "wait", "0192"],
}
# What the shell does with a printed command: `grpcurl` here prints the method, then the request that it was given.
SHELL = """
grpcurl() {
    while [ $# -gt 1 ]; do case $1 in -d) request=$2; shift 2;; *) address=$2; last=$2; shift;; esac; done
    echo "$1"; if [ "$request" = @ ]; then cat; else printf '%s' "$request"; fi
}
"""


def full_names() -> set[str]:
    files = [file for file in PLATFORM_FILES if file.package != BETWEEN_PROCESSES]
    services = [service for file in files for service in file.services_by_name.values()]
    return {f"{service.full_name}/{method.name}" for service in services for method in service.methods} | OPERATIONS


@pytest.mark.parametrize("rpc", sorted(COMMANDS))
def test_a_command_prints_its_rpc_for_grpcurl_and_calls_nothing(api: Any, cli: Any, *, rpc: str, tmp_path: Any) -> None:
    (tmp_path / "FILE").write_text("one-time")
    arguments = [argument.replace("FILE", str(tmp_path / "FILE")) for argument in COMMANDS[rpc]]
    done = cli(*arguments, "--print-grpcurl")
    shell = subprocess.run(["sh", "-c", SHELL + done.out], check=True, capture_output=True, text=True)
    method, _, request = shell.stdout.partition("\n")
    descriptor = descriptor_pool.Default().FindMethodByName(method.replace("/", "."))

    assert (done.code, done.err, api.received) == (0, "", [])
    assert method.endswith(f"/{rpc}")
    assert method in full_names()
    assert json_format.Parse(request, message_factory.GetMessageClass(descriptor.input_type)()) is not None


def test_every_rpc_has_a_command() -> None:
    assert {name.rpartition("/")[2] for name in full_names()} == set(COMMANDS)
