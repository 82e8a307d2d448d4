"""What somebody who can write into the database does not get by a recovery."""

from contextlib import suppress
from uuid import UUID

import pytest

from control_plane.escrows import store
from control_plane.escrows.model import Escrow
from control_plane.keys import store as keys_store
from control_plane.keys.escrow import copied
from control_plane.keys.model import IntegrityError, KekRef, Purpose
from control_plane.operations.model import OperationState
from control_plane.operations.service import AttemptFailedError
from control_plane.postgres.placement import Placement
from control_plane.recipients.hpke import PrivateKey
from tests.fixtures.escrow import Ceremony


@pytest.mark.parametrize(
    "forgery",
    [
        """
        UPDATE csm_system.escrow_copies AS c SET sealed = o.sealed FROM csm_system.escrow_copies AS o
         WHERE o.key_id <> c.key_id
        """,
        "UPDATE csm_system.escrow_copies SET check_value = sha256('')",
        "UPDATE csm_system.tenant_escrows SET root_check = sha256('')",
        "UPDATE csm_system.tenant_escrows SET voucher = sha256('')",
        "UPDATE csm_system.tenant_escrows SET platform_may_begin = NOT platform_may_begin",
        "UPDATE csm_system.escrow_shares SET public = sha256('') WHERE recipient = 'bob'",
        "UPDATE csm_system.tenant_keys SET public = sha256('') WHERE purpose = 'tokens'",
    ],
)
async def test_a_recovery_puts_nothing_in_place_that_is_not_ours(escrow: Ceremony, forgery: str) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    before = await escrow.execute("SELECT id, wrapped FROM csm_system.tenant_keys ORDER BY id")
    begun = await escrow.approved(tenant, await escrow.begin(tenant))
    await escrow.execute(forgery)
    ended = await _given_up(escrow, begun.id)

    assert ended is OperationState.FAILED
    assert await escrow.execute("SELECT id, wrapped FROM csm_system.tenant_keys ORDER BY id") == before
    assert await escrow.keks(tenant) == [KekRef(tenant_uid=tenant.uid, version=1)]
    assert (await escrow.rows(tenant))["tenant_escrows"] == 1
    assert await escrow.execute("SELECT 1 FROM csm_system.recovery_approvals") == []
    assert (await escrow.ring.log(tenant))[-1][1] == {"state": "FAILED"}


async def test_a_copy_that_somebody_else_has_sealed_to_the_escrow_is_not_put_in_place(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    begun = await escrow.approved(tenant, await escrow.begin(tenant))
    await _plant(escrow, tenant)

    assert await _given_up(escrow, begun.id) is OperationState.FAILED


async def test_new_keys_are_not_sealed_to_a_public_key_that_somebody_else_has_put_there(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    eve = PrivateKey.generate()
    await escrow.execute(f"UPDATE csm_system.tenant_escrows SET public = '\\x{eve.public.hex()}'")
    begun = await escrow.ring.rotate(tenant, "storage")
    for _ in range(5):
        with suppress(AttemptFailedError):
            await escrow.ring.runner.run(begun.id)

    assert (await escrow.ring.operation(begun.id)).state is OperationState.FAILED
    assert len(await escrow.ring.versions(tenant, "storage")) == 1


async def test_new_shares_go_to_nobody_whom_somebody_else_has_named(escrow: Ceremony) -> None:
    """Named after the keys were recovered, and before the escrow is made anew."""
    tenant = await escrow.cell.tenant()
    enabled = await escrow.enable(tenant)
    begun = await escrow.approved(tenant, await escrow.begin(tenant))
    for step in escrow.plan.steps[:2]:
        await step.run(begun)
    eve = PrivateKey.generate().public.hex()
    terms = await escrow.execute("SELECT terms_digest FROM csm_system.tenant_escrows")
    await escrow.execute(f"UPDATE csm_system.escrow_shares SET public = '\\x{eve}' WHERE recipient = 'bob'")
    with pytest.raises(IntegrityError):
        await escrow.plan.steps[2].run(begun)
    changed = (await _escrow_of(escrow, tenant)).terms.digest.hex()
    # Even where what is said of them is changed with them.
    await escrow.execute(f"UPDATE csm_system.tenant_escrows SET terms_digest = '\\x{changed}'")

    with pytest.raises(IntegrityError):
        await escrow.plan.steps[2].run(begun)
    assert terms != [{"terms_digest": bytes.fromhex(changed)}]
    assert (await escrow.get(tenant)).escrow_id == enabled.escrow_id


async def _escrow_of(escrow: Ceremony, tenant: Placement) -> Escrow:
    found = await escrow.cell.database.system().run(lambda tx: store.find(tx, tenant.uid))
    assert found is not None
    return found


async def _plant(escrow: Ceremony, tenant: Placement) -> None:
    """Put copies of keys that we know into the database, all in harmony, as whoever can write there could."""
    system = escrow.cell.database.system()
    found = await system.run(lambda tx: keys_store.escrow_of(tx, tenant.uid))
    assert found is not None
    for key in await system.run(lambda tx: keys_store.all_of(tx, tenant.uid)):
        if key.purpose in {Purpose.STORAGE, Purpose.ENROLMENT, Purpose.SERVICES}:
            copy = copied(found, key.binding, bytes(32), check_key=bytes(32))
            await escrow.execute(
                f"UPDATE csm_system.escrow_copies SET sealed = '\\x{copy.sealed.hex()}',"
                f" check_value = '\\x{copy.check_value.hex()}' WHERE key_id = '{key.id}'"
            )


async def _given_up(escrow: Ceremony, operation_id: UUID) -> OperationState:
    for _ in range(5):
        try:
            await escrow.runner.run(operation_id)
        except AttemptFailedError:
            continue
    return (await escrow.ring.operation(operation_id)).state
