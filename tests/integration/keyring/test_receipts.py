"""What proves that a KEK is destroyed: a signed receipt, and that what it wrapped does not open."""

import hashlib
import json
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.exceptions import InvalidSignature

from bulkhead.v1 import keys_pb2, receipts_pb2
from control_plane.errors import NotFoundError, UnavailableError
from control_plane.keyring import destructions
from control_plane.keys.model import KekRef, MissingKeyError, WrappedKey
from control_plane.keys.platform import PlatformKeys
from control_plane.operations.service import AttemptFailedError
from control_plane.postgres.placement import Placement
from tests.fixtures.keyring import Ring

CONTEXT: Any = None
State = keys_pb2.KeyVersion.State


async def _list(ring: Ring, tenant: Placement, **options: Any) -> receipts_pb2.ListDestructionReceiptsResponse:
    request = receipts_pb2.ListDestructionReceiptsRequest(parent=f"tenants/{tenant.tenant_id}", **options)
    return await ring.calling(tenant, "ListDestructionReceipts").ListDestructionReceipts(request, CONTEXT)


async def _get(ring: Ring, tenant: Placement, receipt: str) -> receipts_pb2.DestructionReceipt:
    name = f"tenants/{tenant.tenant_id}/destructionReceipts/{receipt}"
    request = receipts_pb2.GetDestructionReceiptRequest(name=name)
    return await ring.calling(tenant, "GetDestructionReceipt").GetDestructionReceipt(request, CONTEXT)


def _signed(receipt: receipts_pb2.DestructionReceipt) -> bytes:
    kind = receipt.payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(receipt.payload), receipt.payload)


@pytest.mark.behaviour("S2.15")
async def test_a_destroyed_kek_has_a_receipt_that_the_platform_signed_and_a_sample_that_does_not_open(
    ring: Ring,
) -> None:
    tenant = await ring.cell.tenant()
    await ring.rotated(tenant, "kek")
    (receipt,) = (await _list(ring, tenant)).destruction_receipts
    (key,) = await PlatformKeys(ring.vault, ring.cell.database).attestation_keys()
    said = json.loads(receipt.payload)
    begun = await ring.cell.database.system().run(lambda tx: destructions.begun_destruction(tx, tenant.uid, version=1))
    assert begun is not None

    assert receipt.key_id == str(key.key_id)
    key.public_key.verify(receipt.signature, _signed(receipt))
    with pytest.raises(InvalidSignature):
        key.public_key.verify(receipt.signature, _signed(receipt).replace(b"org_1", b"org_2"))
    assert receipt.key_version == "tenants/org_1/keys/kek/versions/1"
    assert (said["tenant"], said["tenant_uid"]) == ("tenants/org_1", str(tenant.uid))
    assert said["destroyed"] == [{"key": "kek", "version": 1, "algorithm": "AES-256-GCM"}]
    assert said["root_of_trust"] == {
        "hsm_backed": False,
        "label": "software",
        "firmware": "",
        "token": "",
        "own_token": False,
    }
    assert said["probe"] == {
        "sample_sha256": hashlib.sha256(begun.sample).hexdigest(),
        "before": "OPENED",
        "after": "KEY_MISSING",
    }
    with pytest.raises(MissingKeyError):
        await ring.vault.unwrap(
            KekRef(tenant_uid=tenant.uid, version=1), WrappedKey(begun.sample), aad=b"bulkhead/destruction sample/1"
        )
    assert await _get(ring, tenant, receipt.name.rsplit("/", 1)[1]) == receipt
    assert receipt.destroy_time == (await ring.versions(tenant, "kek"))[1].destroy_time


async def test_each_kek_that_goes_leaves_a_receipt_and_they_come_in_pages_the_newest_first(ring: Ring) -> None:
    tenant, token = await ring.cell.tenant(), ""
    for _ in range(3):
        await ring.rotated(tenant, "kek")
    found: list[str] = []
    while not found or token:
        page = await _list(ring, tenant, page_size=2, page_token=token)
        found += [receipt.key_version.rsplit("/", 1)[1] for receipt in page.destruction_receipts]
        token = page.next_page_token

    assert found == ["3", "2", "1"]


@pytest.mark.behaviour("S2.19")
async def test_a_receipt_is_its_own_tenants(ring: Ring) -> None:
    tenant, other = await ring.cell.tenant(), await ring.cell.tenant("org_2")
    await ring.rotated(other, "kek")
    (theirs,) = (await _list(ring, other)).destruction_receipts

    assert list((await _list(ring, tenant)).destruction_receipts) == []
    for receipt in (theirs.name.rsplit("/", 1)[1], str(uuid4()), "1"):
        with pytest.raises(NotFoundError):
            await _get(ring, tenant, receipt)


async def test_what_still_opens_after_its_kek_was_destroyed_gets_no_receipt(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vault that says yes and does nothing, which only the sample notices."""
    tenant = await ring.cell.tenant()

    async def nothing(_: KekRef) -> None:
        return

    begun = await ring.rotate(tenant, "kek")
    with monkeypatch.context() as patch:
        patch.setattr(ring.vault, "destroy_kek", nothing)
        with pytest.raises(AttemptFailedError) as failed:
            await ring.runner.run(begun.id)

        assert "still opens" in str(failed.value.__cause__)
        assert list((await _list(ring, tenant)).destruction_receipts) == []
        assert {version.state for version in await ring.versions(tenant, "kek")} == {State.ENABLED}
    await ring.runner.run(begun.id)
    assert len((await _list(ring, tenant)).destruction_receipts) == 1


async def test_nothing_is_destroyed_that_cannot_be_signed_for(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = await ring.cell.tenant()
    begun = await ring.rotate(tenant, "kek")

    async def away(_: PlatformKeys) -> Any:
        raise UnavailableError("the vault is away", reason="VAULT_UNAVAILABLE")

    with monkeypatch.context() as patch:
        patch.setattr(PlatformKeys, "attestation_signer", away)
        with pytest.raises(AttemptFailedError):
            await ring.runner.run(begun.id)
    assert {kek.version for kek in await ring.keks() if kek.tenant_uid == tenant.uid} == {1, 2}
    await ring.runner.run(begun.id)

    assert {kek.version for kek in await ring.keks() if kek.tenant_uid == tenant.uid} == {2}


async def test_a_receipt_is_never_changed(ring: Ring) -> None:
    tenant = await ring.cell.tenant()
    await ring.rotated(tenant, "kek")
    (before,) = (await _list(ring, tenant)).destruction_receipts
    system, receipt_id = ring.cell.database.system(), UUID(before.name.rsplit("/", 1)[1])
    found = await system.run(lambda tx: destructions.find_receipt(tx, tenant.uid, receipt_id))
    assert found is not None
    other = replace(found, payload=b"{}", signature=bytes(64))
    await system.run(lambda tx: destructions.sign_destruction(tx, other))
    plan = ring.plans["keys.rotate.kek"]
    (operation_id,) = ring.deferred
    await plan.runs["destruction"](await ring.operation(operation_id))

    assert list((await _list(ring, tenant)).destruction_receipts) == [before]
