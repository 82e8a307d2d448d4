"""What a tenant's own key seals opens under that key alone, and while the key is used."""

from typing import TYPE_CHECKING, Any, Final

import grpc
import psycopg
import pytest
from psycopg.rows import DictRow

from bulkhead.v1 import encryption_pb2
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from tests.fixtures.cell import Metadata, bearer, reason_of, violations_of
from tests.fixtures.keyring import Ring

if TYPE_CHECKING:
    from bulkhead.v1.encryption_pb2_grpc import EncryptionServiceAsyncStub

KEYS: Final = "tenants/org_1/keys"
Superuser = psycopg.AsyncConnection[DictRow]


@pytest.fixture
async def tenant(ring: Ring) -> Placement:
    made = await ring.cell.tenant()
    for key_id in ("invoices", "letters"):
        await ring.create(made, key_id, "ENCRYPTION")
    return made


@pytest.fixture
async def member(ring: Ring, tenant: Placement) -> Metadata:
    return bearer(await ring.cell.token(tenant, Role.TENANT_MEMBER, scopes=("keys.use",)))


async def sealed(stub: "EncryptionServiceAsyncStub", member: Metadata, key: str) -> encryption_pb2.EncryptResponse:
    request = encryption_pb2.EncryptRequest(parent="tenants/org_1", plaintext=b"plain", key=key)
    return await stub.Encrypt(request, metadata=member)


async def opened(stub: "EncryptionServiceAsyncStub", member: Metadata, ciphertext: bytes, key: str) -> bytes:
    request = encryption_pb2.DecryptRequest(parent="tenants/org_1", ciphertext=ciphertext, key=key)
    return (await stub.Decrypt(request, metadata=member)).plaintext


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


@pytest.mark.behaviour("S2.7")
async def test_what_a_key_seals_opens_under_that_key_alone(
    stub: "EncryptionServiceAsyncStub", member: Metadata
) -> None:
    keys = ("", f"{KEYS}/invoices", f"{KEYS}/letters")
    by = {key: await sealed(stub, member, key) for key in keys}
    for key in keys:
        for other in keys:
            if other == key:
                assert await opened(stub, member, by[key].ciphertext, other) == b"plain"
            else:
                error = await refused(opened(stub, member, by[key].ciphertext, other))
                assert list(violations_of(error)) == ["ciphertext"]

    assert [each.key_version for each in by.values()] == [
        f"{KEYS}/{key}/versions/1" for key in ("services", "invoices", "letters")
    ]
    assert await opened(stub, member, by[""].ciphertext, f"{KEYS}/services") == b"plain"


@pytest.mark.behaviour("S2.5")
async def test_data_keys_and_rewrapping_are_of_the_key_that_is_named(
    ring: Ring, stub: "EncryptionServiceAsyncStub", member: Metadata, tenant: Placement
) -> None:
    key = f"{KEYS}/invoices"
    made = await stub.GenerateDataKey(
        encryption_pb2.GenerateDataKeyRequest(parent="tenants/org_1", key=key), metadata=member
    )
    await ring.rotated(tenant, "invoices")
    ring.cell.keys.look_again(tenant.uid)
    anew = await stub.Rewrap(
        encryption_pb2.RewrapRequest(parent="tenants/org_1", ciphertext=made.ciphertext, key=key), metadata=member
    )

    assert (made.key_version, anew.key_version) == (f"{key}/versions/1", f"{key}/versions/2")
    assert await opened(stub, member, anew.ciphertext, key) == made.plaintext
    assert await opened(stub, member, made.ciphertext, key) == made.plaintext


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (f"{KEYS}/storage", "KEY_PURPOSE"),
        (f"{KEYS}/kek", "KEY_PURPOSE"),
        (f"{KEYS}/signer", "KEY_PURPOSE"),
        (f"{KEYS}/nobodys", "NOT_FOUND"),
        ("tenants/org_2/keys/invoices", "INVALID_ARGUMENT"),
        ("tenants/nobody/keys/invoices", "INVALID_ARGUMENT"),
        ("invoices", "INVALID_ARGUMENT"),
        (f"{KEYS}/invoices/versions/1", "INVALID_ARGUMENT"),
    ],
)
async def test_another_key_is_refused(
    key: str, reason: str, ring: Ring, stub: "EncryptionServiceAsyncStub", member: Metadata, tenant: Placement
) -> None:
    await ring.create(tenant, "signer", "SIGNING", "ED25519")
    await ring.create(await ring.cell.tenant("org_2"), "invoices", "ENCRYPTION")

    assert reason_of(await refused(sealed(stub, member, key))) == reason


@pytest.mark.behaviour("S2.16")
async def test_while_its_destruction_waits_and_after_it_nothing_is_sealed_or_opened(
    ring: Ring, stub: "EncryptionServiceAsyncStub", member: Metadata, tenant: Placement, superuser: Superuser
) -> None:
    key = f"{KEYS}/invoices"
    ciphertext = (await sealed(stub, member, key)).ciphertext
    await ring.schedule(tenant, "invoices")

    def uses() -> tuple[Any, ...]:
        parent = "tenants/org_1"
        rewrap = encryption_pb2.RewrapRequest(parent=parent, ciphertext=ciphertext, key=key)
        generate = encryption_pb2.GenerateDataKeyRequest(parent=parent, key=key)
        return (
            sealed(stub, member, key),
            opened(stub, member, ciphertext, key),
            stub.Rewrap(rewrap, metadata=member),
            stub.GenerateDataKey(generate, metadata=member),
        )

    waiting = [reason_of(await refused(use)) for use in uses()]
    found = await superuser.execute("SELECT * FROM tenant_org_1.audit_entries WHERE outcome = 'DENIED' ORDER BY id")
    alerts = await found.fetchall()
    await ring.restore(tenant, "invoices")
    restored = await opened(stub, member, ciphertext, key)
    await ring.schedule(tenant, "invoices")
    ring.later += ring.week
    await ring.disposal.look()
    gone = [reason_of(await refused(use)) for use in uses()]

    assert waiting == ["KEY_DESTROY_SCHEDULED"] * 4
    # All were asked for at once.
    assert {alert["details"]["operation"] for alert in alerts} == {"ENCRYPT", "DECRYPT", "REWRAP", "GENERATE_DATA_KEY"}
    assert len(alerts) == 4
    assert {alert["actor"] for alert in alerts} == {"tenant-member:alice"}
    assert restored == b"plain"
    assert gone == ["KEY_DESTROYED"] * 4


async def test_a_platform_administrator_uses_no_key_of_a_tenant(
    ring: Ring, stub: "EncryptionServiceAsyncStub", tenant: Placement
) -> None:
    root = bearer(ring.cell.admin_token())
    error = await refused(sealed(stub, root, f"tenants/{tenant.tenant_id}/keys/invoices"))

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
