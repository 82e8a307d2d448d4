"""Values of secrets: read by whom, kept how, gone when; on a real database with a real vault."""

import hashlib
from collections.abc import Awaitable, Callable

import grpc
import psycopg
import pytest
from psycopg.rows import DictRow

from bulkhead.v1 import secret_versions_pb2 as versions_pb2
from bulkhead.v1 import secrets_pb2
from control_plane.key_policies.gate import KeyGate
from control_plane.key_policies.model import KeyUse, Operation
from control_plane.keys.model import IntegrityError
from control_plane.postgres.database import Isolation
from control_plane.postgres.placement import Placement
from control_plane.secrets import service
from control_plane.serving.principal import Role
from tests.fixtures.cell import Cell, Metadata, SecretStub, bearer, reason_of, violations_of

NAME = "tenants/org_1/secrets/crm"
VERSION = versions_pb2.SecretVersion
Superuser = psycopg.AsyncConnection[DictRow]
Reading = Callable[[str], Awaitable[versions_pb2.AccessSecretVersionResponse]]


@pytest.fixture
async def crm(stub: SecretStub, admin: Metadata) -> secrets_pb2.Secret:
    """A secret with two versions: `one` and `two`."""
    made = secrets_pb2.CreateSecretRequest(parent="tenants/org_1", secret_id="crm", payload=b"one")
    await stub.CreateSecret(made, metadata=admin)
    await stub.AddSecretVersion(versions_pb2.AddSecretVersionRequest(parent=NAME, payload=b"two"), metadata=admin)
    return await stub.GetSecret(secrets_pb2.GetSecretRequest(name=NAME), metadata=admin)


@pytest.fixture
def read(stub: SecretStub, reader: Metadata) -> Reading:
    async def access(version: str) -> versions_pb2.AccessSecretVersionResponse:
        asked = versions_pb2.AccessSecretVersionRequest(name=f"{NAME}/versions/{version}")
        return await stub.AccessSecretVersion(asked, metadata=reader)

    return access


async def refusal(call: Awaitable[object]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return reason_of(refused.value)


async def accesses(superuser: Superuser) -> list[DictRow]:
    """Read the entries of the tenant's audit log that say who read which value."""
    found = await superuser.execute(
        "SELECT actor, resource, details FROM tenant_org_1.audit_entries"
        " WHERE method LIKE '%/AccessSecretVersion' AND outcome = 'EFFECT' ORDER BY id"
    )
    return await found.fetchall()


@pytest.mark.behaviour("S9.3")
async def test_a_value_is_read_by_number_or_as_the_latest_with_an_entry_each(
    crm: secrets_pb2.Secret, read: Reading, superuser: Superuser
) -> None:
    first, second, latest = [await read(version) for version in ("1", "2", "latest")]

    assert (first.payload, second.payload, latest) == (b"one", b"two", second)
    assert (first.name, latest.name) == (f"{NAME}/versions/1", f"{NAME}/versions/2")
    assert first.payload_sha256 == hashlib.sha256(b"one").digest()
    assert await accesses(superuser) == [
        {"actor": "tenant-member:crawler", "resource": f"{NAME}/versions/1", "details": {}},
        {"actor": "tenant-member:crawler", "resource": f"{NAME}/versions/2", "details": {}},
        {"actor": "tenant-member:crawler", "resource": f"{NAME}/versions/2", "details": {"asked": "latest"}},
    ]


@pytest.mark.parametrize("payload", [b"\x00", bytes(range(256)) * 256, "schlüssel\n".encode()])
async def test_a_value_comes_back_byte_for_byte(
    crm: secrets_pb2.Secret, stub: SecretStub, admin: Metadata, read: Reading, *, payload: bytes
) -> None:
    digest = hashlib.sha256(payload).digest()
    add = versions_pb2.AddSecretVersionRequest(parent=NAME, payload=payload, payload_sha256=digest)
    await stub.AddSecretVersion(add, metadata=admin)

    assert (await read("latest")).payload == payload
    assert len(payload) <= 65_536


async def test_a_value_that_is_empty_too_long_or_not_what_was_sent_is_refused(
    crm: secrets_pb2.Secret, stub: SecretStub, admin: Metadata
) -> None:
    found = []
    for payload, digest in (
        (b"", b""),
        (bytes(65_537), b""),
        (b"three", hashlib.sha256(b"four").digest()),
        (b"v", b"x"),
    ):
        add = versions_pb2.AddSecretVersionRequest(parent=NAME, payload=payload, payload_sha256=digest)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.AddSecretVersion(add, metadata=admin)
        found.append([*violations_of(refused.value)])
    listed = await stub.ListSecretVersions(versions_pb2.ListSecretVersionsRequest(parent=NAME), metadata=admin)

    assert found == [["payload"], ["payload"], ["payload_sha256"], ["payload_sha256"]]
    assert len(listed.secret_versions) == 2


async def test_a_disabled_value_is_not_read_until_it_is_enabled(
    crm: secrets_pb2.Secret, stub: SecretStub, admin: Metadata, read: Reading, superuser: Superuser
) -> None:
    two = f"{NAME}/versions/2"
    disabled = await stub.DisableSecretVersion(versions_pb2.DisableSecretVersionRequest(name=two), metadata=admin)
    again = await stub.DisableSecretVersion(versions_pb2.DisableSecretVersionRequest(name=two), metadata=admin)
    reasons = [await refusal(read(version)) for version in ("2", "latest")]
    stale = versions_pb2.EnableSecretVersionRequest(name=two, etag="0000000000000000")
    mismatch = await refusal(stub.EnableSecretVersion(stale, metadata=admin))
    enable = versions_pb2.EnableSecretVersionRequest(name=two, etag=disabled.etag)
    enabled = await stub.EnableSecretVersion(enable, metadata=admin)

    assert (disabled.state, again, enabled.state) == (VERSION.DISABLED, disabled, VERSION.ENABLED)
    assert reasons == ["SECRET_VERSION_DISABLED"] * 2
    assert mismatch == "ETAG_MISMATCH"
    assert (await read("latest")).payload == b"two"
    assert len(await accesses(superuser)) == 1


async def test_a_destroyed_value_is_gone_from_the_database_for_good(
    crm: secrets_pb2.Secret, stub: SecretStub, admin: Metadata, read: Reading, superuser: Superuser
) -> None:
    one = f"{NAME}/versions/1"
    destroyed = await stub.DestroySecretVersion(versions_pb2.DestroySecretVersionRequest(name=one), metadata=admin)
    again = await stub.DestroySecretVersion(versions_pb2.DestroySecretVersionRequest(name=one), metadata=admin)
    reasons = [
        await refusal(read("1")),
        await refusal(stub.EnableSecretVersion(versions_pb2.EnableSecretVersionRequest(name=one), metadata=admin)),
        await refusal(stub.DisableSecretVersion(versions_pb2.DisableSecretVersionRequest(name=one), metadata=admin)),
    ]
    row = await superuser.execute("SELECT sealed FROM tenant_org_1.secret_versions WHERE number = 1")

    assert destroyed.state == VERSION.DESTROYED
    assert destroyed.HasField("destroy_time")
    assert again == destroyed
    assert reasons == ["SECRET_VERSION_DESTROYED"] * 3
    assert await row.fetchone() == {"sealed": None}
    assert (await read("2")).payload == b"two"


@pytest.mark.parametrize("version", ["3", "0", "01", "-1", "1.0", "LATEST", "9" * 18, "9" * 40, "\u0661"])
async def test_a_version_that_is_not_there_is_not_found(
    crm: secrets_pb2.Secret, stub: SecretStub, admin: Metadata, read: Reading, *, version: str
) -> None:
    destroy = versions_pb2.DestroySecretVersionRequest(name=f"{NAME}/versions/{version}")

    assert await refusal(read(version)) == "NOT_FOUND"
    assert await refusal(stub.DestroySecretVersion(destroy, metadata=admin)) == "NOT_FOUND"


async def test_what_cannot_be_undone_is_done_to_a_number_and_never_to_the_latest(
    crm: secrets_pb2.Secret, stub: SecretStub, admin: Metadata
) -> None:
    latest = versions_pb2.DestroySecretVersionRequest(name=f"{NAME}/versions/latest")

    assert await refusal(stub.DestroySecretVersion(latest, metadata=admin)) == "NOT_FOUND"


@pytest.mark.behaviour("S9.3")
async def test_nobody_reads_a_value_but_who_has_the_scope_for_it_in_the_tenant(
    cell: Cell, crm: secrets_pb2.Secret, stub: SecretStub, admin: Metadata, placement: Placement
) -> None:
    other = await cell.tenant("org_2")
    everything = ("secrets.read", "secrets.write", "certificates.read", "audit.read")
    reasons = {}
    for who, credential in {
        "tenant-admin": admin,
        "platform-admin": bearer(cell.admin_token()),
        "member": bearer(await cell.token(placement, Role.TENANT_MEMBER, scopes=everything)),
        "auditor": bearer(await cell.token(placement, Role.AUDITOR, scopes=(*everything, "secrets.access"))),
        "stranger": bearer(await cell.token(other, Role.TENANT_MEMBER, scopes=("secrets.access",))),
    }.items():
        asked = versions_pb2.AccessSecretVersionRequest(name=f"{NAME}/versions/1")
        reasons[who] = await refusal(stub.AccessSecretVersion(asked, metadata=credential))

    assert reasons == {
        "tenant-admin": "ROLE_NOT_ALLOWED",
        "platform-admin": "ROLE_NOT_ALLOWED",
        "member": "SCOPE_MISSING",
        "auditor": "ROLE_NOT_ALLOWED",
        "stranger": "TENANT_MISMATCH",
    }


@pytest.mark.behaviour("S2.12")
async def test_no_value_is_given_out_while_its_entry_cannot_be_written(
    crm: secrets_pb2.Secret, read: Reading, superuser: Superuser, placement: Placement
) -> None:
    columns = "tenant_id, id, create_time, actor, method, resource, outcome, reason, request_id, count, details"
    await superuser.execute(f'REVOKE INSERT ({columns}) ON tenant_org_1.audit_entries FROM "{placement.role}"')
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await read("1")
    await superuser.execute(f'GRANT INSERT ({columns}) ON tenant_org_1.audit_entries TO "{placement.role}"')

    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert (await read("1")).payload == b"one"


@pytest.mark.behaviour("S2.7")
async def test_a_sealed_value_opens_in_its_own_version_of_its_own_secret_of_its_own_tenant_only(
    cell: Cell, crm: secrets_pb2.Secret, stub: SecretStub, admin: Metadata, *, read: Reading, superuser: Superuser
) -> None:
    other = bearer(await cell.token(await cell.tenant("org_2"), subject="admin"))
    for parent, credential in (("tenants/org_1", admin), ("tenants/org_2", other)):
        named = "twin" if credential is admin else "crm"
        request = secrets_pb2.CreateSecretRequest(parent=parent, secret_id=named, payload=b"foreign")
        await stub.CreateSecret(request, metadata=credential)
    whole = await superuser.execute("SELECT sealed FROM tenant_org_1.secret_versions WHERE number = 2")
    of_two = await whole.fetchone()
    wrong = {
        "of another version": "SELECT sealed FROM tenant_org_1.secret_versions WHERE number = 2",
        "of another secret": "SELECT v.sealed FROM tenant_org_1.secret_versions v JOIN tenant_org_1.secrets s"
        " ON s.id = v.secret_uid WHERE s.secret_id = 'twin'",
        "of another tenant": "SELECT sealed FROM tenant_org_2.secret_versions",
        "cut": "SELECT substr(sealed, 1, length(sealed) - 1) FROM tenant_org_1.secret_versions WHERE number = 2",
        "empty": "SELECT ''::bytea",
        "altered": "SELECT set_byte(sealed, 80, get_byte(sealed, 80) # 1) FROM tenant_org_1.secret_versions"
        " WHERE number = 2",
    }
    put = "UPDATE tenant_org_1.secret_versions SET sealed = ({}) WHERE secret_uid = '{}' AND number = 1"
    codes = {}
    for what, query in wrong.items():
        await superuser.execute(put.format(query, crm.uid))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await read("1")
        codes[what] = (refused.value.code(), refused.value.details())

    assert of_two is not None
    assert codes == dict.fromkeys(wrong, (grpc.StatusCode.INTERNAL, "internal error"))
    assert (await read("2")).payload == b"two"


@pytest.mark.behaviour("S2.7")
async def test_what_does_not_open_is_an_integrity_error_and_leaves_its_entry(
    cell: Cell, crm: secrets_pb2.Secret, placement: Placement, superuser: Superuser
) -> None:
    await superuser.execute("UPDATE tenant_org_1.secret_versions SET number = number + 10")
    await superuser.execute("UPDATE tenant_org_1.secrets SET latest_version = 12")
    tenant = cell.database.tenant(placement, isolation=Isolation.READ_COMMITTED)
    use = KeyUse(key="storage", operation=Operation.READ_SECRET, principal="tenant-member:alice")

    with pytest.raises(IntegrityError, match=f"^secrets/{crm.uid} does not open"):
        await service.access_version(tenant, "crm", None, use=use, gate=KeyGate(), keys=cell.keys)
