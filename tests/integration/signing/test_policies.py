"""A tenant's own keys are used as its key policy says, for whatever they are used."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf import json_format
from psycopg.rows import DictRow

from bulkhead.v1 import (
    encryption_pb2,
    encryption_pb2_grpc,
    key_policies_pb2,
    key_policies_pb2_grpc,
    key_uses_pb2,
    signing_pb2,
    signing_pb2_grpc,
)
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from tests.fixtures.cell import Metadata, bearer, reason_of
from tests.fixtures.keyring import Ring

SIGNS, SEALS = "tenants/org_1/keys/signer", "tenants/org_1/keys/sealer"
CODE = key_uses_pb2.KeyUse.CUSTOMER_INITIATED
Use = Callable[[], Awaitable[Any]]


@pytest.fixture
async def tenant(ring: Ring) -> Placement:
    made = await ring.cell.tenant()
    await ring.create(made, "signer", "SIGNING", "ED25519")
    await ring.create(made, "sealer", "ENCRYPTION")
    return made


@pytest.fixture
async def channel(ring: Ring) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(ring.cell.address) as opened:
        yield opened


@pytest.fixture
async def admin(ring: Ring, tenant: Placement) -> Metadata:
    return bearer(await ring.cell.token(tenant, subject="ann"))


@pytest.fixture
async def member(ring: Ring, tenant: Placement) -> Metadata:
    return bearer(await ring.cell.token(tenant, Role.TENANT_MEMBER, scopes=("keys.use", "keys.read")))


async def _allow(channel: grpc.aio.Channel, admin: Metadata, *rules: dict[str, Any]) -> None:
    stub: Any = key_policies_pb2_grpc.KeyPolicyServiceStub(channel)
    request = key_policies_pb2.UpdateKeyPolicyRequest()
    request.update_mask.paths.extend(["enforced", "rules"])
    policy = {"name": "tenants/org_1/keyPolicy", "enforced": True, "rules": list(rules)}
    json_format.ParseDict(policy, request.key_policy)
    await stub.UpdateKeyPolicy(request, metadata=admin)


def _uses(channel: grpc.aio.Channel, member: Metadata, code: Any = CODE) -> dict[str, Use]:
    """Return one use of each kind of the two keys."""
    signing: Any = signing_pb2_grpc.SigningServiceStub(channel)
    sealing: Any = encryption_pb2_grpc.EncryptionServiceStub(channel)
    sign = signing_pb2.SignRequest(name=SIGNS, data=b"x", reason_code=code)
    verify = signing_pb2.VerifyRequest(name=SIGNS, data=b"x", signature=bytes(64), reason_code=code)
    seal = encryption_pb2.EncryptRequest(parent="tenants/org_1", key=SEALS, plaintext=b"x", reason_code=code)
    return {
        "SIGN": lambda: signing.Sign(sign, metadata=member),
        "VERIFY": lambda: signing.Verify(verify, metadata=member),
        "ENCRYPT": lambda: sealing.Encrypt(seal, metadata=member),
    }


async def _refusals(uses: dict[str, Use]) -> dict[str, str]:
    found = {}
    for operation, use in uses.items():
        try:
            await use()
        except grpc.aio.AioRpcError as error:
            found[operation] = reason_of(error)
    return found


@pytest.mark.behaviour("S2.11", "S2.12")
async def test_own_keys_are_used_for_what_the_policy_allows_and_for_nothing_else(
    channel: grpc.aio.Channel, admin: Metadata, member: Metadata, superuser: psycopg.AsyncConnection[DictRow]
) -> None:
    before = await _refusals(_uses(channel, member))
    await _allow(
        channel,
        admin,
        {
            "keys": ["signer"],
            "operations": ["SIGN"],
            "principals": ["tenant-member"],
            "reason_codes": ["CUSTOMER_INITIATED"],
        },
    )
    after = await _refusals(_uses(channel, member))
    without_code = await _refusals(_uses(channel, member, key_uses_pb2.KeyUse.REASON_CODE_UNSPECIFIED))
    signed = "SELECT details FROM tenant_org_1.audit_entries WHERE method LIKE '%/Sign' AND outcome = 'EFFECT'"
    told = [row["details"] for row in await (await superuser.execute(signed)).fetchall()]

    assert before == {}
    assert after == dict.fromkeys(("VERIFY", "ENCRYPT"), "KEY_POLICY_DENIED")
    assert without_code == dict.fromkeys(("SIGN", "VERIFY", "ENCRYPT"), "KEY_POLICY_DENIED")
    assert [details.get("reason_code") for details in told] == ["CUSTOMER_INITIATED"] * 2


@pytest.mark.behaviour("S2.11")
async def test_a_rule_for_every_key_is_for_own_ones_too(
    channel: grpc.aio.Channel, admin: Metadata, member: Metadata
) -> None:
    every = {"keys": ["*"], "operations": ["SIGN", "VERIFY", "ENCRYPT"], "principals": ["tenant-member"]}
    await _allow(channel, admin, every)
    forbidden = await _refusals(_uses(channel, member))
    await _allow(channel, admin, {**every, "reason_codes": ["CUSTOMER_INITIATED"]})

    assert forbidden == dict.fromkeys(("SIGN", "VERIFY", "ENCRYPT"), "KEY_POLICY_DENIED")
    assert await _refusals(_uses(channel, member)) == {}
