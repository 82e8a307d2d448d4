"""A KEK that lives in a device is rotated and destroyed there as in files."""

import json
from pathlib import Path
from typing import Any

import pytest

from bulkhead.v1 import receipts_pb2
from control_plane.keys.model import KekRef
from control_plane.keys.vault_pkcs11 import Pkcs11Vault
from control_plane.settings import HsmSettings
from tests.fixtures.keyring import Ring
from tests.fixtures.softhsm import open_vault

NAME, PLAIN = "storage/org_1/a.pem", b"a canary in plain sight"
CONTEXT: Any = None


@pytest.fixture
async def vault(softhsm: HsmSettings, tmp_path: Path) -> Pkcs11Vault:
    return await open_vault(tmp_path / "device", softhsm)


@pytest.mark.behaviour("S2.6")
@pytest.mark.behaviour("S2.15")
@pytest.mark.behaviour("S2.17")
async def test_a_kek_in_a_device_is_replaced_while_everything_opens_and_its_receipt_names_the_token(ring: Ring) -> None:
    tenant, neighbour = await ring.cell.tenant(), await ring.cell.tenant("org_2")
    sealed = await ring.cell.keys.encrypt(tenant, PLAIN, object_name=NAME)
    for key in ("kek", "storage", "kek"):
        await ring.rotated(tenant, key)
    process = ring.other_process()
    request = receipts_pb2.ListDestructionReceiptsRequest(parent="tenants/org_1")
    receipts = await ring.calling(tenant, "ListDestructionReceipts").ListDestructionReceipts(request, CONTEXT)
    said = [json.loads(receipt.payload) for receipt in receipts.destruction_receipts]
    root = (await ring.key(tenant, "kek")).root_of_trust

    assert sorted(await ring.keks()) == sorted(
        [KekRef(tenant_uid=tenant.uid, version=3), KekRef(tenant_uid=neighbour.uid, version=1)]
    )
    assert await process.decrypt(tenant, sealed, object_name=NAME) == PLAIN
    assert await process.derive(tenant, b"label") == await ring.cell.keys.derive(tenant, b"label")
    await process.token_signer(neighbour)
    assert [receipt["destroyed"][0]["version"] for receipt in said] == [2, 1]
    assert {receipt["root_of_trust"]["token"] for receipt in said} == {root.token}
    assert (root.hsm_backed, root.label.startswith("SoftHSM"), root.token.startswith("bulkhead")) == (False, True, True)
