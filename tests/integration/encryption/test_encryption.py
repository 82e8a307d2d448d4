"""What a service seals for a tenant opens for that tenant and its context, and each use is told."""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import grpc
import psycopg
import pytest
from psycopg.rows import DictRow

from bulkhead.v1 import encryption_pb2
from control_plane.keys import store
from control_plane.keys.model import MissingKeyError, Purpose
from control_plane.keys.service import TenantKeys
from control_plane.keys.vault_software import SoftwareVault
from control_plane.keys.wrapping import Wrapping
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from tests.fixtures.cell import Cell, Metadata, bearer, reason_of, violations_of

if TYPE_CHECKING:
    from bulkhead.v1.encryption_pb2_grpc import EncryptionServiceAsyncStub

CONTEXT: Final = {"table": "invoices", "row": "7"}
PLAINTEXT: Final = b"an account number that nobody else reads"
VERSION: Final = "tenants/org_1/keys/services/versions/1"
Superuser = psycopg.AsyncConnection[DictRow]


@pytest.fixture
async def tenant(cell: Cell) -> Placement:
    return await cell.tenant()


@pytest.fixture
async def member(cell: Cell, tenant: Placement) -> Metadata:
    return bearer(await cell.token(tenant, Role.TENANT_MEMBER, scopes=("keys.use",)))


async def sealed(
    stub: "EncryptionServiceAsyncStub", member: Metadata, *, parent: str = "tenants/org_1", **more: Any
) -> bytes:
    asked: dict[str, Any] = {"parent": parent, "plaintext": PLAINTEXT, "encryption_context": CONTEXT, **more}
    return (await stub.Encrypt(encryption_pb2.EncryptRequest(**asked), metadata=member)).ciphertext


async def opened(
    stub: "EncryptionServiceAsyncStub",
    member: Metadata,
    ciphertext: bytes,
    *,
    parent: str = "tenants/org_1",
    **more: Any,
) -> bytes:
    asked: dict[str, Any] = {"parent": parent, "ciphertext": ciphertext, "encryption_context": CONTEXT, **more}
    return (await stub.Decrypt(encryption_pb2.DecryptRequest(**asked), metadata=member)).plaintext


async def entries(superuser: Superuser, tenant: str = "org_1") -> list[DictRow]:
    return await (await superuser.execute(f"SELECT * FROM tenant_{tenant}.audit_entries ORDER BY id")).fetchall()


@pytest.mark.behaviour("S2.7", "S2.12")
async def test_what_was_sealed_opens_and_each_use_is_told(
    stub: "EncryptionServiceAsyncStub", member: Metadata, superuser: Superuser
) -> None:
    ciphertext = await sealed(stub, member, reason="new invoice")
    answer = await stub.Decrypt(
        encryption_pb2.DecryptRequest(
            parent="tenants/org_1", ciphertext=ciphertext, encryption_context=CONTEXT, reason="audit"
        ),
        metadata=member,
    )
    told = await entries(superuser)

    assert (answer.plaintext, answer.key_version) == (PLAINTEXT, VERSION)
    assert PLAINTEXT not in ciphertext
    assert [entry["method"].rpartition("/")[2] for entry in told] == ["Encrypt", "Decrypt"]
    assert {entry["resource"] for entry in told} == {VERSION}
    assert [entry["details"] for entry in told] == [
        {"reason": reason, "encryption_context": CONTEXT} for reason in ("new invoice", "audit")
    ]
    assert {entry["actor"] for entry in told} == {"tenant-member:alice"}


@pytest.mark.behaviour("S2.7")
async def test_it_opens_with_its_own_context_only(stub: "EncryptionServiceAsyncStub", member: Metadata) -> None:
    ciphertext = await sealed(stub, member)
    for other in ({}, {**CONTEXT, "row": "8"}, {"table": "invoices"}, {**CONTEXT, "more": ""}):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await opened(stub, member, ciphertext, encryption_context=other)
        assert list(violations_of(refused.value)) == ["ciphertext"]

    assert await opened(stub, member, ciphertext) == PLAINTEXT


@pytest.mark.behaviour("S2.7", "T-K1")
async def test_it_opens_for_its_own_tenant_only(
    cell: Cell, stub: "EncryptionServiceAsyncStub", member: Metadata
) -> None:
    ciphertext = await sealed(stub, member)
    other = bearer(await cell.token(await cell.tenant("org_2"), Role.TENANT_MEMBER, scopes=("keys.use",)))
    await sealed(stub, other, parent="tenants/org_2")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await opened(stub, other, ciphertext, parent="tenants/org_2")
    with pytest.raises(grpc.aio.AioRpcError) as foreign:
        await opened(stub, other, ciphertext)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(foreign.value) == "TENANT_MISMATCH"


@pytest.mark.behaviour("S2.7")
async def test_what_was_changed_anywhere_does_not_open_and_nothing_is_told(
    stub: "EncryptionServiceAsyncStub", member: Metadata, superuser: Superuser
) -> None:
    ciphertext = await sealed(stub, member, plaintext=b"short")
    changed = [ciphertext[:n] + bytes([ciphertext[n] ^ 1]) + ciphertext[n + 1 :] for n in range(len(ciphertext))]
    codes = set()
    for each in (*changed, ciphertext[:-1], b"none"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await opened(stub, member, each)
        codes.add(refused.value.code())

    # A version that never was is no version that is used.
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}
    assert len(await entries(superuser)) == 1


@pytest.mark.behaviour("S2.12")
async def test_without_its_entry_nothing_goes_out(
    stub: "EncryptionServiceAsyncStub", member: Metadata, superuser: Superuser
) -> None:
    ciphertext = await sealed(stub, member)
    await superuser.execute("ALTER TABLE tenant_org_1.audit_entries RENAME TO elsewhere")
    for call in (opened(stub, member, ciphertext), sealed(stub, member)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.INTERNAL


async def test_a_key_for_data_is_shown_once_and_opens_again(
    stub: "EncryptionServiceAsyncStub", member: Metadata
) -> None:
    asked = encryption_pb2.GenerateDataKeyRequest(parent="tenants/org_1", encryption_context=CONTEXT)
    one, other = [await stub.GenerateDataKey(asked, metadata=member) for _ in range(2)]
    asked.key_bytes = 16
    short = await stub.GenerateDataKey(asked, metadata=member)

    assert (len(one.plaintext), len(short.plaintext)) == (32, 16)
    assert one.plaintext != other.plaintext
    assert await opened(stub, member, one.ciphertext) == one.plaintext


@pytest.mark.behaviour("S2.5")
async def test_sealing_anew_takes_the_newest_version_and_the_old_one_opens_as_long_as_it_is_used(
    cell: Cell, stub: "EncryptionServiceAsyncStub", member: Metadata, superuser: Superuser, tenant: Placement
) -> None:
    before = await sealed(stub, member)
    await a_second_version(cell, tenant)
    asked = encryption_pb2.RewrapRequest(parent="tenants/org_1", ciphertext=before, encryption_context=CONTEXT)
    answer = await stub.Rewrap(asked, metadata=member)
    both = [await opened(stub, member, each) for each in (before, answer.ciphertext)]
    await superuser.execute(
        "UPDATE csm_system.tenant_keys SET state = 'RETIRED' WHERE purpose = 'services' AND version = 1"
    )
    cell.keys.forget(tenant.uid)
    with pytest.raises(grpc.aio.AioRpcError) as retired:
        await opened(stub, member, before)

    assert answer.key_version == "tenants/org_1/keys/services/versions/2"
    assert both == [PLAINTEXT, PLAINTEXT]
    assert reason_of(retired.value) == "KEY_VERSION_RETIRED"
    assert await opened(stub, member, answer.ciphertext) == PLAINTEXT
    assert (await entries(superuser))[1]["details"]["sealed_before_by"] == 1


async def test_a_tenant_from_before_there_were_such_keys_is_given_one(
    cell: Cell, stub: "EncryptionServiceAsyncStub", member: Metadata, superuser: Superuser, tenant: Placement
) -> None:
    await superuser.execute("DELETE FROM csm_system.tenant_keys WHERE purpose = 'services'")
    cell.keys.forget(tenant.uid)
    ciphertexts = await asyncio.gather(*(sealed(stub, member) for _ in range(8)))
    kept = await (await superuser.execute("SELECT * FROM csm_system.tenant_keys WHERE purpose = 'services'")).fetchall()

    assert len(kept) == 1
    assert {await opened(stub, member, each) for each in ciphertexts} == {PLAINTEXT}


async def test_everything_that_is_wrong_is_said_at_once(stub: "EncryptionServiceAsyncStub", member: Metadata) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await sealed(stub, member, plaintext=b"", encryption_context={"A": "x"}, reason="r" * 501)

    assert list(violations_of(refused.value)) == ["plaintext", "reason", "encryption_context"]


@pytest.mark.behaviour("S2.1")
async def test_without_the_vault_a_database_opens_nothing(
    cell: Cell, stub: "EncryptionServiceAsyncStub", member: Metadata, tenant: Placement, tmp_path: Any
) -> None:
    ciphertext = await sealed(stub, member)
    stolen = TenantKeys(await SoftwareVault.open(tmp_path / "another"), cell.database)

    assert await opened(stub, member, ciphertext) == PLAINTEXT
    with pytest.raises(MissingKeyError, match="KEK"):
        await stolen.services_key(tenant)


async def test_under_a_kek_that_is_about_to_go_no_key_is_added(
    cell: Cell, stub: "EncryptionServiceAsyncStub", member: Metadata, superuser: Superuser, tenant: Placement
) -> None:
    await superuser.execute("DELETE FROM csm_system.tenant_keys WHERE purpose = 'services'")
    cell.keys.forget(tenant.uid)
    await superuser.execute("UPDATE csm_system.tenant_keks SET close_time = now()")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await sealed(stub, member)
    await superuser.execute("UPDATE csm_system.tenant_keks SET close_time = NULL")

    assert refused.value.code() is grpc.StatusCode.ABORTED
    assert await opened(stub, member, await sealed(stub, member)) == PLAINTEXT


async def a_second_version(cell: Cell, tenant: Placement) -> None:
    """Give the tenant another key for services, as a rotation does."""
    system = cell.database.system()
    beside = await system.run(lambda tx: store.siblings(tx, tenant.uid))
    wrapping = Wrapping(cell.keys._vault)
    made = await wrapping.new_version(tenant, Purpose.SERVICES, version=2, beside=beside, now=datetime.now(UTC))
    await system.run(lambda tx: store.insert_missing(tx, [made]))
    cell.keys.look_again(tenant.uid)
