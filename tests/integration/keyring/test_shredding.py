"""All keys of a tenant are destroyed at once: nothing that they sealed opens, and a receipt lists what went."""

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bulkhead.v1 import receipts_pb2
from control_plane.cli.isolation import envelope
from control_plane.errors import PreconditionError, UnavailableError
from control_plane.keyring import destructions
from control_plane.keyring.destruction import Destroyer
from control_plane.keys import store as keys_store
from control_plane.keys.model import BUILT_IN, KekRef, MissingKeyError, WrappedKey
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.wrapping import Wrapping
from control_plane.postgres.placement import Placement
from tests.fixtures.keyring import Ring
from tests.fixtures.stored import fill

CONTEXT: Any = None


class KilledError(Exception):
    """As if the process had died here."""


def _destroyer(ring: Ring) -> Destroyer:
    return Destroyer(
        ring.cell.database,
        Wrapping(ring.vault),
        PlatformKeys(ring.vault, ring.cell.database),
        root_of_trust=ring.cell.keys.root_of_trust,
    )


async def _seal(superuser: Any, tenant: Placement) -> None:
    await superuser.execute("UPDATE csm_system.tenants SET state = 'SEALED' WHERE uid = %s", [tenant.uid])


async def _shown(ring: Ring, tenant: Placement) -> list[receipts_pb2.DestructionReceipt]:
    request = receipts_pb2.ListDestructionReceiptsRequest(parent=f"tenants/{tenant.tenant_id}")
    answer = await ring.calling(tenant, "ListDestructionReceipts").ListDestructionReceipts(request, CONTEXT)
    return list(answer.destruction_receipts)


async def _checked(ring: Ring, receipt: receipts_pb2.DestructionReceipt) -> Any:
    """Check a receipt as `bulkhead keys check` does, which knows the platform's public keys and nothing else."""
    keys = await PlatformKeys(ring.vault, ring.cell.database).attestation_keys()
    pems = [key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for key in keys]
    written = envelope.write(
        {
            "payload_type": receipt.payload_type,
            "payload": base64.b64encode(receipt.payload).decode(),
            "signature": base64.b64encode(receipt.signature).decode(),
            "key_id": receipt.key_id,
        }
    )
    return envelope.read(written, "".join(pems), kind=envelope.RECEIPT)


@pytest.mark.behaviour("S2.15")
async def test_all_keks_of_a_tenant_go_and_the_receipt_lists_every_key_that_went(ring: Ring, superuser: Any) -> None:
    tenant, neighbour = await ring.cell.tenant(), await ring.cell.tenant("org_10")
    for each in (tenant, neighbour):
        await fill(ring.objects.of(each))
    for key in ("storage", "services", "kek"):
        await ring.rotated(tenant, key)
    # One more, as an interrupted rotation leaves it.
    await ring.vault.create_kek(KekRef(tenant_uid=tenant.uid, version=3))
    went = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))
    await _seal(superuser, tenant)
    said = json.loads((await _destroyer(ring).shred(tenant)).payload)

    assert (said["tenant"], said["tenant_uid"]) == ("tenants/org_1", str(tenant.uid))
    assert [each["version"] for each in said["destroyed"]] == [2, 3]
    assert {(each["key"], each["version"], each["id"], each["kek_version"]) for each in said["lost"]} == {
        (key.purpose.value, key.version, str(key.id), 2) for key in went
    }
    assert {probe["kek_version"]: probe["after"] for probe in said["probes"]} == {2: "KEY_MISSING", 3: "KEY_MISSING"}
    assert await ring.keks() == [KekRef(tenant_uid=neighbour.uid, version=1)]
    for stored in went:
        with pytest.raises(MissingKeyError):
            await ring.vault.unwrap(stored.kek, stored.wrapped, aad=stored.binding.aad())
    assert await ring.objects.of(neighbour).get("a.json") == b"one"


@pytest.mark.behaviour("S2.15")
async def test_the_sample_that_was_kept_is_what_the_receipt_speaks_of_and_does_not_open(
    ring: Ring, superuser: Any
) -> None:
    tenant = await ring.cell.tenant()
    await _seal(superuser, tenant)
    receipt = await _destroyer(ring).shred(tenant)
    begun = await ring.cell.database.system().run(lambda tx: destructions.begun_destruction(tx, tenant.uid, version=1))
    assert begun is not None
    (probe,) = json.loads(receipt.payload)["probes"]

    assert probe["sample_sha256"] == hashlib.sha256(begun.sample).hexdigest()
    assert not await Wrapping(ring.vault).opens(KekRef(tenant_uid=tenant.uid, version=1), WrappedKey(begun.sample))


@pytest.mark.behaviour("S2.15")
async def test_a_receipt_outlives_the_tenants_keys_is_shown_and_is_checked_without_the_platform(
    ring: Ring, superuser: Any
) -> None:
    tenant, other = await ring.cell.tenant(), await ring.cell.tenant("org_2")
    await ring.rotated(tenant, "kek")
    await _seal(superuser, tenant)
    await _destroyer(ring).shred(tenant)
    await ring.cell.keys.destroy(tenant)
    whole, older = await _shown(ring, tenant)

    assert (whole.key_version, older.key_version) == ("", "tenants/org_1/keys/kek/versions/1")
    assert (await _checked(ring, whole))["tenant_uid"] == str(tenant.uid)
    assert len((await _checked(ring, whole))["lost"]) > len((await _checked(ring, older))["destroyed"])
    assert await _shown(ring, other) == []
    whole.payload = whole.payload.replace(b"org_1", b"org_2")
    with pytest.raises(envelope.EnvelopeError):
        await _checked(ring, whole)


async def test_the_same_receipt_is_given_again_and_nothing_more_is_destroyed(ring: Ring, superuser: Any) -> None:
    tenant = await ring.cell.tenant()
    await _seal(superuser, tenant)
    first = await _destroyer(ring).shred(tenant)
    await ring.vault.create_kek(KekRef(tenant_uid=tenant.uid, version=1))

    assert await _destroyer(ring).shred(tenant) == first
    assert await ring.keks() == [KekRef(tenant_uid=tenant.uid, version=1)]


@pytest.mark.parametrize("state", ["ACTIVE", "SUSPENDED", "READ_ONLY"])
async def test_a_tenant_that_is_not_sealed_keeps_its_keys(ring: Ring, superuser: Any, *, state: str) -> None:
    tenant = await ring.cell.tenant()
    await superuser.execute("UPDATE csm_system.tenants SET state = %s WHERE uid = %s", [state, tenant.uid])

    with pytest.raises(PreconditionError) as refused:
        await _destroyer(ring).shred(tenant)
    assert refused.value.code == "TENANT_NOT_SEALED"
    assert await ring.keks() == [KekRef(tenant_uid=tenant.uid, version=1)]


@pytest.mark.parametrize("moment", ["the first KEK was destroyed", "all were destroyed"])
async def test_who_is_killed_in_between_is_followed_by_one_who_completes_it(
    ring: Ring, superuser: Any, monkeypatch: pytest.MonkeyPatch, *, moment: str
) -> None:
    tenant = await ring.cell.tenant()
    await ring.vault.create_kek(KekRef(tenant_uid=tenant.uid, version=2))
    await _seal(superuser, tenant)
    destroy, left = ring.vault.destroy_kek, 1 if moment.startswith("the first") else 2

    async def dying(kek: KekRef) -> None:
        nonlocal left
        if not left:
            raise KilledError
        left -= 1
        await destroy(kek)

    async def unsigned(*_: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(ring.vault, "destroy_kek", dying)
        patch.setattr(destructions, "sign_shredding", unsigned)
        with pytest.raises(KilledError):
            await _destroyer(ring).shred(tenant)
    assert await _shown(ring, tenant) == []
    said = json.loads((await _destroyer(ring).shred(tenant)).payload)

    assert [each["version"] for each in said["destroyed"]] == [1, 2]
    assert {each["key"] for each in said["lost"]} == {each.value for each in BUILT_IN}
    assert await ring.keks() == []


async def test_there_is_no_receipt_while_a_kek_is_there(
    ring: Ring, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vault that says yes and does nothing."""
    tenant = await ring.cell.tenant()
    await _seal(superuser, tenant)

    async def nothing(_: KekRef) -> None:
        return

    with monkeypatch.context() as patch:
        patch.setattr(ring.vault, "destroy_kek", nothing)
        with pytest.raises(RuntimeError, match="what version 1 of its KEK has wrapped"):
            await _destroyer(ring).shred(tenant)
    assert await _shown(ring, tenant) == []


async def test_there_is_no_receipt_while_a_key_opens_though_no_sample_does(
    ring: Ring, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vault that has kept a KEK under another name, and still opens what it wrapped."""
    tenant = await ring.cell.tenant()
    stored = await ring.cell.database.system().run(lambda tx: keys_store.all_of(tx, tenant.uid))
    await _seal(superuser, tenant)
    unwrap = ring.vault.unwrap

    async def kept(kek: KekRef, wrapped: Any, *, aad: bytes) -> bytes:
        return b"opened" if wrapped == stored[0].wrapped else await unwrap(kek, wrapped, aad=aad)

    monkeypatch.setattr(ring.vault, "unwrap", kept)
    with pytest.raises(RuntimeError, match=f"its {stored[0].purpose} key"):
        await _destroyer(ring).shred(tenant)
    assert await _shown(ring, tenant) == []


async def test_there_is_no_receipt_while_a_kek_has_come_meanwhile(
    ring: Ring, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await ring.cell.tenant()
    await _seal(superuser, tenant)
    destroy, late = ring.vault.destroy_kek, KekRef(tenant_uid=tenant.uid, version=2)

    async def busy(kek: KekRef) -> None:
        await destroy(kek)
        await ring.vault.create_kek(late)

    with monkeypatch.context() as patch:
        patch.setattr(ring.vault, "destroy_kek", busy)
        with pytest.raises(RuntimeError, match=late.title):
            await _destroyer(ring).shred(tenant)
    assert await _shown(ring, tenant) == []
    await _destroyer(ring).shred(tenant)
    assert await ring.keks() == []


async def test_nothing_is_destroyed_that_cannot_be_signed_for(
    ring: Ring, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await ring.cell.tenant()
    await _seal(superuser, tenant)

    async def away(_: PlatformKeys) -> Any:
        raise UnavailableError("the vault is away", reason="VAULT_UNAVAILABLE")

    monkeypatch.setattr(PlatformKeys, "attestation_signer", away)
    with pytest.raises(UnavailableError):
        await _destroyer(ring).shred(tenant)
    assert await ring.keks() == [KekRef(tenant_uid=tenant.uid, version=1)]
