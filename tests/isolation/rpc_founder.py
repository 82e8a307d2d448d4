"""What the matrix of callers is about: tenants, and all that a tenant can own."""

import secrets
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import grpc
from google.longrunning import operations_pb2, operations_pb2_grpc

from bulkhead.v1 import (
    certificates_pb2,
    certificates_pb2_grpc,
    encryption_pb2,
    encryption_pb2_grpc,
    escrows_pb2,
    escrows_pb2_grpc,
    isolation_pb2,
    isolation_pb2_grpc,
    key_imports_pb2,
    key_imports_pb2_grpc,
    key_policies_pb2,
    key_policies_pb2_grpc,
    key_requests_pb2,
    key_use_approvals_pb2,
    key_uses_pb2,
    keys_pb2,
    keys_pb2_grpc,
    receipts_pb2,
    recoveries_pb2,
    rules_pb2,
    seals_pb2,
    secret_versions_pb2,
    secrets_pb2,
    secrets_pb2_grpc,
    tenant_requests_pb2,
    tenants_pb2,
    tenants_pb2_grpc,
    tokens_pb2,
    tokens_pb2_grpc,
)
from control_plane.recipients.hpke import PrivateKey
from tests.isolation.rpc_requests import OWN_KEY, Target, signing_request

Metadata = tuple[tuple[str, str], ...]


def bearer(token: str) -> tuple[str, str]:
    return "authorization", f"Bearer {token}"


class Founder:
    """Makes tenants and what they own, as a platform administrator."""

    def __init__(self, channels: Mapping[tuple[bool, bool], grpc.Channel], metadata: Metadata) -> None:
        self._metadata = metadata
        channel = channels[False, False]
        self._tenants = tenants_pb2_grpc.TenantServiceStub(channel)
        self._secrets = secrets_pb2_grpc.SecretServiceStub(channel)
        self._tokens = tokens_pb2_grpc.TokenServiceStub(channel)
        self._isolation = isolation_pb2_grpc.IsolationServiceStub(channel)
        self._keys = keys_pb2_grpc.KeyServiceStub(channel)
        self._imports = key_imports_pb2_grpc.KeyImportServiceStub(channel)
        self._policies = key_policies_pb2_grpc.KeyPolicyServiceStub(channel)
        self._encryption = encryption_pb2_grpc.EncryptionServiceStub(channel)
        self._escrows = escrows_pb2_grpc.EscrowServiceStub(channel)
        operations: Any = operations_pb2_grpc.OperationsStub  # Google's own stubs are not typed
        self._operations = operations(channel)
        self._certificates = certificates_pb2_grpc.CertificateServiceStub(channels[False, True])

    def tenant(self, kind: str) -> Target:
        tenant = f"{kind}_{secrets.token_hex(4)}"
        wished = tenants_pb2.CreateTenantRequest(tenant_id=tenant)
        self._done(self._tenants.CreateTenant(wished, metadata=self._metadata))
        parent = f"tenants/{tenant}"
        wanted = tokens_pb2.IssueTokenRequest(parent=parent, subject="spare")
        token = self._tokens.IssueToken(wanted, metadata=self._metadata)
        # Two of each, so that their list has a second page.
        csrs = [signing_request(f"{place}.example.org") for place in ("first", "second")]
        asked = [certificates_pb2.IssueCertificateRequest(parent=parent, csr_pem=csr) for csr in csrs]
        certificate, _ = [self._certificates.IssueCertificate(one, metadata=self._metadata) for one in asked]
        verified = isolation_pb2.VerifyIsolationRequest(name=parent)
        attestation, _ = [self._isolation.VerifyIsolation(verified, metadata=self._metadata) for _ in range(2)]
        # Each of the KEK leaves a receipt of what it has destroyed, and that of the log's key publishes another one.
        for key in ("storage", "audit", "kek", "kek"):
            self._done(
                self._keys.RotateKey(
                    key_requests_pb2.RotateKeyRequest(name=f"{parent}/keys/{key}"), metadata=self._metadata
                )
            )
        receipts = self._keys.ListDestructionReceipts(
            receipts_pb2.ListDestructionReceiptsRequest(parent=parent), metadata=self._metadata
        )
        names = {
            "destructionReceipts": receipts.destruction_receipts[0].name,
            "tokens": token.metadata.name,
            "certificates": certificate.name,
            "attestations": attestation.name,
            "secrets": self._secret(parent),
            "importJobs": self._own_key(parent),
            "keyUseApprovals": self._approval(parent),
            "keyRecoveries": self._recovery(parent),
        }
        return Target(tenant=tenant, resources={key: UUID(name.rsplit("/", 1)[1]) for key, name in names.items()})

    def token(self, parent: str, role: rules_pb2.Role.ValueType, scopes: Collection[str]) -> str:
        """Issue a token of a tenant's to somebody. Not as the platform: not every scope is its to give."""
        wanted = tokens_pb2.IssueTokenRequest(parent=parent, subject="matrix", role=role, scopes=sorted(scopes))
        return self._tokens.IssueToken(wanted, metadata=self._admin(parent)).token

    def _secret(self, parent: str) -> str:
        """Make two secrets with two versions each, as the tenant's own administrator; return the name of one."""
        admin = self._admin(parent)
        name = ""
        for _ in range(2):
            asked = secrets_pb2.CreateSecretRequest(parent=parent, secret_id=str(uuid4()), payload=b"first")
            name = self._secrets.CreateSecret(asked, metadata=admin).name
            added = secret_versions_pb2.AddSecretVersionRequest(parent=name, payload=b"second")
            self._secrets.AddSecretVersion(added, metadata=admin)
        return name

    def _own_key(self, parent: str) -> str:
        """Make a key of the tenant's own, as its administrator; begin an import, too, and return its name."""
        admin = self._admin(parent)
        signs = keys_pb2.Key(purpose=keys_pb2.SIGNING, algorithm="ED25519")
        self._keys.CreateKey(keys_pb2.CreateKeyRequest(parent=parent, key_id=OWN_KEY, key=signs), metadata=admin)
        job = key_imports_pb2.ImportJob(key=f"{parent}/keys/brought", purpose=keys_pb2.ENCRYPTION)
        asked = key_imports_pb2.CreateImportJobRequest(parent=parent, import_job=job)
        return self._imports.CreateImportJob(asked, metadata=admin).name

    def _approval(self, parent: str) -> str:
        """Have two uses of a key wait for consent, and the policy that wants it enforced no more; return one's name."""
        admin, use = self._admin(parent), key_uses_pb2.KeyUse
        codes = (use.BACKUP, use.MIGRATION)
        rule = key_policies_pb2.KeyPolicy.Rule(
            keys=["*"], operations=[use.ENCRYPT], principals=["tenant-admin"], reason_codes=codes, dual_control=True
        )
        policy = key_policies_pb2.KeyPolicy(name=f"{parent}/keyPolicy", enforced=True, rules=[rule])
        asked = key_policies_pb2.UpdateKeyPolicyRequest(key_policy=policy)
        asked.update_mask.paths[:] = ["enforced", "rules"]
        self._policies.UpdateKeyPolicy(asked, metadata=admin)
        for code in codes:
            with suppress(grpc.RpcError):
                wanted = encryption_pb2.EncryptRequest(parent=parent, plaintext=b"founder", reason_code=code)
                self._encryption.Encrypt(wanted, metadata=admin)
        asked.key_policy.enforced = False
        self._policies.UpdateKeyPolicy(asked, metadata=admin)
        listed = key_use_approvals_pb2.ListKeyUseApprovalsRequest(parent=parent)
        waiting = self._policies.ListKeyUseApprovals(listed, metadata=admin).key_use_approvals
        assert len(waiting) == len(codes)
        return waiting[0].name

    def _recovery(self, parent: str) -> str:
        """Have the keys in escrow, as two of the tenant's own administrators, and a recovery that was cancelled."""
        name, admin, second = f"{parent}/escrow", self._enrolled(parent), self._admin(parent)
        recipients = [
            escrows_pb2.EscrowRecipient(name=person, public_key=PrivateKey.generate().public)
            for person in ("ann", "bob")
        ]
        wished = escrows_pb2.EnableEscrowRequest(name=name, recipients=recipients, threshold=2, platform_may_begin=True)
        digest = self._escrows.EnableEscrow(wished, metadata=admin).proposal.digest
        self._escrows.ConfirmEscrow(escrows_pb2.ConfirmEscrowRequest(name=name, digest=digest), metadata=second)
        asked = recoveries_pb2.BeginRecoveryRequest(parent=parent, reason="for the matrix")
        begun = self._escrows.BeginRecovery(asked, metadata=admin)
        self._escrows.CancelRecovery(recoveries_pb2.CancelRecoveryRequest(name=begun.name), metadata=admin)
        return begun.name

    def _enrolled(self, parent: str) -> Metadata:
        """Enrol the tenant's first administrator, whom nobody has made up."""
        name = f"{parent}/enrolment"
        asked = tokens_pb2.GetEnrolmentTokenRequest(name=name)
        invitation = self._tokens.GetEnrolmentToken(asked, metadata=self._metadata).enrolment_token
        redeemed = tokens_pb2.RedeemEnrolmentTokenRequest(name=name, enrolment_token=invitation)
        return (bearer(self._tokens.RedeemEnrolmentToken(redeemed).token),)

    def _admin(self, parent: str) -> Metadata:
        wanted = tokens_pb2.IssueTokenRequest(parent=parent, subject="founder", role=rules_pb2.ROLE_TENANT_ADMIN)
        return (bearer(self._tokens.IssueToken(wanted, metadata=self._metadata).token),)

    def _done(self, begun: operations_pb2.Operation) -> None:
        done = self._operations.WaitOperation(
            operations_pb2.WaitOperationRequest(name=begun.name), metadata=self._metadata
        )
        assert done.WhichOneof("result") == "response", done

    def suspend(self, target: Target) -> None:
        asked = tenant_requests_pb2.SuspendTenantRequest(name=f"tenants/{target.tenant}", reason="for the matrix")
        self._tenants.SuspendTenant(asked, metadata=self._metadata)
        # Another process may know its tenants' states for a second before it looks again.
        time.sleep(1.1)

    def seal(self, target: Target) -> None:
        asked = seals_pb2.SealTenantRequest(name=f"tenants/{target.tenant}", reason="for the matrix")
        self._tenants.SealTenant(asked, metadata=self._metadata)
