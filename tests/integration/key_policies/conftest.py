"""Key policies on a real database: two administrators whom nobody has made up, and somebody who uses keys."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from bulkhead.v1 import encryption_pb2, encryption_pb2_grpc, key_policies_pb2, key_policies_pb2_grpc, key_uses_pb2
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from tests.fixtures.cell import Cell, Metadata, bearer, cell, vault

__all__ = ["cell", "vault"]

PolicyStub = Any  # `key_policies_pb2_grpc.KeyPolicyServiceAsyncStub`, which only the stubs know
Code = key_uses_pb2.KeyUse.ReasonCode
ALLOWS = {
    "keys": ["services"],
    "operations": ["ENCRYPT", "DECRYPT"],
    "principals": ["tenant-member"],
    "reason_codes": ["CUSTOMER_INITIATED"],
}


class Desk:
    """Calls the two services, and keeps requests short."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.policies: PolicyStub = key_policies_pb2_grpc.KeyPolicyServiceStub(channel)
        self.encryption: Any = encryption_pb2_grpc.EncryptionServiceStub(channel)

    async def update(self, by: Metadata, **said: Any) -> key_policies_pb2.KeyPolicy:
        """Change the policy of org_1: the fields that are named."""
        asked = self.change(key_policies_pb2.UpdateKeyPolicyRequest(), **said)
        answer: key_policies_pb2.KeyPolicy = await self.policies.UpdateKeyPolicy(asked, metadata=by)
        return answer

    async def propose(self, by: Metadata, **said: Any) -> key_policies_pb2.KeyPolicy:
        """Propose a change of it."""
        asked = self.change(key_policies_pb2.ProposeKeyPolicyChangeRequest(), **said)
        answer: key_policies_pb2.KeyPolicy = await self.policies.ProposeKeyPolicyChange(asked, metadata=by)
        return answer

    def change(self, message: Any, *, etag: str = "", **said: Any) -> Any:
        """Fill a request for a change."""
        message.update_mask.paths.extend(said)
        json_format.ParseDict({"name": "tenants/org_1/keyPolicy", "etag": etag, **said}, message.key_policy)
        return message

    async def encrypt(self, by: Metadata, code: str = "CUSTOMER_INITIATED", **more: Any) -> bytes:
        """Seal something."""
        asked: dict[str, Any] = {"parent": "tenants/org_1", "plaintext": b"x", "reason_code": Code.Value(code), **more}
        answer = await self.encryption.Encrypt(encryption_pb2.EncryptRequest(**asked), metadata=by)
        return bytes(answer.ciphertext)


@pytest.fixture
async def tenant(cell: Cell) -> Placement:
    return await cell.tenant()


@pytest.fixture
async def desk(cell: Cell, tenant: Placement) -> AsyncIterator[Desk]:
    async with grpc.aio.insecure_channel(cell.address) as channel:
        yield Desk(channel)


@pytest.fixture
async def admin(cell: Cell, tenant: Placement) -> Metadata:
    return bearer(await cell.token(tenant, subject="ann", issuer="ann"))


@pytest.fixture
async def other_admin(cell: Cell, tenant: Placement) -> Metadata:
    return bearer(await cell.token(tenant, subject="ben"))


@pytest.fixture
async def member(cell: Cell, tenant: Placement) -> Metadata:
    return bearer(await cell.token(tenant, Role.TENANT_MEMBER, subject="mia", scopes=("keys.use", "secrets.access")))


@pytest.fixture
def told(cell: Cell, superuser: Any) -> Callable[[], Awaitable[list[tuple[str, str, str]]]]:
    """Read the tenant's audit log: who did what, and why it was denied."""

    async def read() -> list[tuple[str, str, str]]:
        await cell.denials.close()
        rows = await (await superuser.execute("SELECT * FROM tenant_org_1.audit_entries ORDER BY id")).fetchall()
        return [(row["actor"], row["method"].rpartition("/")[2], row["reason"]) for row in rows]

    return read
