"""The command line against the protos: every RPC has its command."""

import subprocess
import sys
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
    "DeleteTenant": ["tenants", "delete", "org_1", "--confirm", "org_1", "--reason", "a contract's end"],
    "UndeleteTenant": ["tenants", "undelete", "org_1", "--reason", "it was none"],
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
    "CreateSecret": ["secrets", "create", "org_1", "crm", "--label", "a=1", "--file", "FILE"],
    "GetSecret": ["secrets", "get", "tenants/org_1/secrets/crm"],
    "ListSecrets": ["secrets", "list", "org_1"],
    "UpdateSecret": ["secrets", "update", "tenants/org_1/secrets/crm", "--description", "It's", "--clear-labels"],
    "DeleteSecret": ["secrets", "delete", "tenants/org_1/secrets/crm"],
    "AddSecretVersion": ["secrets", "add", "tenants/org_1/secrets/crm", "--file", "FILE"],
    "ListSecretVersions": ["secrets", "versions", "tenants/org_1/secrets/crm"],
    "AccessSecretVersion": ["secrets", "access", "tenants/org_1/secrets/crm"],
    "DisableSecretVersion": ["secrets", "disable", "tenants/org_1/secrets/crm/versions/1"],
    "EnableSecretVersion": ["secrets", "enable", "tenants/org_1/secrets/crm/versions/1"],
    "DestroySecretVersion": ["secrets", "destroy", "tenants/org_1/secrets/crm/versions/1"],
    "ListAuditEntries": ["audit", "tail", "org_1"],
    "VerifyAuditLog": ["audit", "verify", "org_1"],
    "ExportAuditLog": ["audit", "export", "org_1"],
    "ListAuditKeys": ["audit", "keys", "org_1"],
    "VerifyIsolation": ["isolation", "verify", "org_1"],
    "VerifyCell": ["isolation", "verify-cell"],
    "ListAttestations": ["isolation", "attestations", "org_1"],
    "GetAttestation": ["isolation", "get", "tenants/org_1/attestations/1"],
    "ListAttestationKeys": ["isolation", "keys"],
    "ListBreaches": ["isolation", "breaches"],
    "GenerateDataKey": ["encryption", "generate-data-key", "org_1", "--context", "a=1", "--bytes", "16"],
    "Encrypt": [
        "encryption",
        "encrypt",
        "org_1",
        "--file",
        "FILE",
        "--context",
        "a=1",
        "--reason",
        "it's",
        "--reason-code",
        "backup",
    ],
    "Decrypt": ["encryption", "decrypt", "org_1", "--file", "FILE"],
    "Rewrap": ["encryption", "rewrap", "org_1", "--file", "FILE"],
    "ListKeys": ["keys", "list", "org_1"],
    "GetKey": ["keys", "get", "tenants/org_1/keys/kek"],
    "ListKeyVersions": ["keys", "versions", "tenants/org_1/keys/tokens"],
    "RotateKey": ["keys", "rotate", "tenants/org_1/keys/storage", "--no-wait"],
    "RetireKeyVersion": ["keys", "retire", "tenants/org_1/keys/services/versions/1"],
    "EnableKeyVersion": ["keys", "enable", "tenants/org_1/keys/services/versions/1"],
    "CreateKey": ["keys", "create", "org_1", "signer", "--signing", "ED25519"],
    "ScheduleKeyDestruction": ["keys", "destroy", "tenants/org_1/keys/signer", "--after", "2d"],
    "RestoreKey": ["keys", "restore", "tenants/org_1/keys/signer"],
    "CreateImportJob": ["keys", "import-job", "org_1", "signer", "--method", "rsa"],
    "ImportKey": ["keys", "import-wrapped", "tenants/org_1/importJobs/1", "--file", "FILE"],
    "Sign": ["signing", "sign", "tenants/org_1/keys/signer", "--file", "FILE", "--reason", "it's"],
    "Verify": ["signing", "verify", "tenants/org_1/keys/signer", "--file", "FILE", "--signature", "FILE"],
    "GetPublicKey": ["signing", "public-key", "tenants/org_1/keys/signer/versions/1"],
    "GetKeyPolicy": ["keys", "policy", "show", "org_1"],
    "UpdateKeyPolicy": ["keys", "policy", "set", "org_1", "--file", "POLICY", "--etag", "e"],
    "ProposeKeyPolicyChange": ["keys", "policy", "propose", "org_1", "--file", "POLICY"],
    "ApproveKeyPolicyChange": ["keys", "policy", "approve", "org_1", "01"],
    "RejectKeyPolicyChange": ["keys", "policy", "reject", "org_1", "01"],
    "ListKeyUseApprovals": ["keys", "policy", "approvals", "org_1"],
    "GetKeyUseApproval": ["keys", "policy", "approval", "tenants/org_1/keyUseApprovals/1"],
    "ApproveKeyUse": ["keys", "policy", "approve-use", "tenants/org_1/keyUseApprovals/1", "--uses", "3", "--ttl", "1h"],
    "DenyKeyUse": ["keys", "policy", "deny-use", "tenants/org_1/keyUseApprovals/1"],
    "ListDestructionReceipts": ["keys", "receipts", "org_1"],
    "GetDestructionReceipt": ["keys", "receipt", "tenants/org_1/destructionReceipts/1"],
    "GetEscrow": ["keys", "escrow", "show", "org_1"],
    "EnableEscrow": ["keys", "escrow", "enable", "org_1", "--recipient", "ann=FILE", "--platform-may-begin"],
    "ConfirmEscrow": ["keys", "escrow", "confirm", "org_1", "--digest", "abc"],
    "DisableEscrow": ["keys", "escrow", "disable", "org_1"],
    "BeginRecovery": ["keys", "escrow", "begin", "org_1", "--reason", "it's gone", "--then-disable"],
    "GetRecovery": ["keys", "escrow", "recovery", "tenants/org_1/keyRecoveries/1"],
    "ApproveRecovery": [
        *("keys", "escrow", "submit", "tenants/org_1/keyRecoveries/1"),
        *("--recipient", "ann", "--file", "FILE"),
    ],
    "CancelRecovery": ["keys", "escrow", "cancel", "tenants/org_1/keyRecoveries/1"],
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
    # As a token, and as base64.
    (tmp_path / "FILE").write_text("one0time")
    (tmp_path / "POLICY").write_text('{"rules": [{"keys": ["*"], "principals": ["tenant-member:it\'s"]}]}')
    files = {name: str(tmp_path / name) for name in ("FILE", "POLICY")}
    files["ann=FILE"] = f"ann={files['FILE']}"
    arguments = [files.get(argument, argument) for argument in COMMANDS[rpc]]
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


def test_the_command_line_knows_every_rpc_by_itself() -> None:
    """In a process of its own, as it is run: here others have imported what it would not have."""
    looks = (
        "import sys\n"
        "from google.protobuf import descriptor_pool\n"
        "from control_plane.cli.calls.client import Client\n"
        "Client(None)\n"
        "for name in sys.argv[1:]:\n"
        "    descriptor_pool.Default().FindMethodByName(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", looks, *(name.replace("/", ".") for name in sorted(full_names()))],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.stderr == ""
