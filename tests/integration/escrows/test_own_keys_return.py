"""Keys that a tenant has made, and imports that are open, come back from escrow as the others do."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bulkhead.v1 import recoveries_pb2
from bulkhead.v1.key_imports_pb2 import ImportJob
from control_plane.keys.model import IntegrityError
from control_plane.operations.service import AttemptFailedError
from tests.fixtures.escrow import Ceremony
from tests.integration.keyring.test_key_imports import begin, deliver, wrapped

State = recoveries_pb2.KeyRecovery
METHODS = [value.number for value in ImportJob.Method.DESCRIPTOR.values if value.number]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_keys_of_a_tenants_own_come_back_and_so_does_an_import_that_is_open(
    escrow: Ceremony, *, when: str
) -> None:
    tenant, ring = await escrow.cell.tenant(), escrow.ring
    if when == "meanwhile":
        await escrow.enable(tenant)
    await ring.create(tenant, "seals", "ENCRYPTION")
    await ring.create(tenant, "signs", "SIGNING", "EC_P256")
    jobs = [await begin(ring, tenant, f"brought-{method}", method=method) for method in METHODS]
    sealing = await escrow.cell.keys.named_key(tenant, "seals")
    signing = await escrow.cell.keys.named_key(tenant, "signs")
    if when == "before":
        await escrow.enable(tenant)
    covered = (await escrow.get(tenant)).key_versions
    await escrow.lose_keks(tenant)
    ended = await escrow.recovered(tenant)
    again = ring.other_process()

    assert ended.state == State.SUCCEEDED
    assert {"tenants/org_1/keys/seals/versions/1", "tenants/org_1/keys/signs/versions/1"} < set(covered)
    assert not [name for name in covered if "import" in name]
    assert (await again.named_key(tenant, "seals")).private == sealing.private
    assert (await again.named_key(tenant, "signs")).private == signing.private
    for job in jobs:
        assert (await deliver(ring, tenant, job, wrapped(bytes(range(32)), job))).primary_version == 1


@pytest.mark.parametrize("purpose", ["signing", "import"])
async def test_a_key_of_a_tenants_own_does_not_come_back_beside_anothers_public_half(
    escrow: Ceremony, *, purpose: str
) -> None:
    tenant, ring = await escrow.cell.tenant(), escrow.ring
    await escrow.enable(tenant)
    await ring.create(tenant, "signs", "SIGNING", "EC_P256")
    for _ in range(2):
        await begin(ring, tenant, "brought")
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    public = other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    changed = f"SET public = '\\x{public.hex()}' WHERE purpose = '{purpose}'"
    await escrow.lose_keks(tenant)
    await escrow.execute(f"UPDATE csm_system.tenant_keys {changed} RETURNING id")

    with pytest.raises(AttemptFailedError) as failed:
        await escrow.recovered(tenant)
    assert isinstance(failed.value.__cause__, IntegrityError)
