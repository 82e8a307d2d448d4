"""How keys come back from their escrow, and how they do not."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from bulkhead.v1 import recoveries_pb2
from control_plane.cli.escrow.recipient import ApprovalError
from control_plane.errors import InvalidArgumentError, NotFoundError, PermissionDeniedError, PreconditionError
from control_plane.keys import store as keys_store
from control_plane.keys.model import IntegrityError, KekRef, MissingKeyError, Purpose
from control_plane.operations.model import OperationState
from control_plane.postgres.placement import Placement
from control_plane.recipients import ceremony, hpke
from control_plane.recipients.hpke import PrivateKey
from control_plane.serving.principal import Role
from tests.fixtures.escrow import Ceremony

State = recoveries_pb2.KeyRecovery
NAME, PLAIN = "storage/org/a.pem", b"a canary in plain sight"


async def _opens(escrow: Ceremony, tenant: Placement, sealed: bytes) -> None:
    """Use every key of the tenant."""
    keys = escrow.ring.other_process()
    assert await keys.decrypt(tenant, sealed, object_name=NAME) == PLAIN
    signer = await keys.token_signer(tenant)
    assert await keys.token_verifier(signer.kid) is not None
    assert (await keys.authorities(tenant)).signing.certificate is not None
    assert (await keys.services_key(tenant)).private
    assert await keys.derive(tenant, b"label")


@pytest.mark.behaviour("S2.13")
async def test_the_keys_of_a_lost_kek_come_back_by_two_recipients_of_three(escrow: Ceremony) -> None:
    tenant, other = await escrow.cell.tenant(), await escrow.cell.tenant("org_2")
    sealed = await escrow.cell.keys.encrypt(tenant, PLAIN, object_name=NAME)
    derived = await escrow.cell.keys.derive(tenant, b"label")
    others = await escrow.cell.keys.encrypt(other, PLAIN, object_name=NAME)
    await escrow.ring.rotated(tenant, "services")
    enabled = await escrow.enable(tenant)
    await escrow.lose_keks(tenant)
    with pytest.raises(IntegrityError):
        await escrow.ring.other_process().decrypt(tenant, sealed, object_name=NAME)
    with pytest.raises(MissingKeyError):
        await escrow.ring.other_process().authorities(tenant)
    ended = await escrow.recovered(tenant)
    renewed = await escrow.get(tenant)

    assert (ended.state, ended.session_public_key, len(ended.shares)) == (State.SUCCEEDED, b"", 0)
    await _opens(escrow, tenant, sealed)
    assert await escrow.cell.keys.derive(tenant, b"label") == derived
    assert await escrow.keks(tenant) == [KekRef(tenant_uid=tenant.uid, version=2)]
    assert renewed.escrow_id != enabled.escrow_id
    assert (renewed.threshold, [one.fingerprint for one in renewed.recipients]) == (
        2,
        [one.fingerprint for one in enabled.recipients],
    )
    assert set(renewed.key_versions) == set(enabled.key_versions)
    await _opens(escrow, other, others)


async def test_what_was_renewed_recovers_again_and_keys_are_rotated_as_ever(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    sealed = await escrow.cell.keys.encrypt(tenant, PLAIN, object_name=NAME)
    await escrow.enable(tenant)
    for _ in range(2):
        await escrow.lose_keks(tenant)
        await escrow.recovered(tenant)
    await escrow.ring.rotated(tenant, "kek")
    await escrow.ring.rotated(tenant, "tokens")

    await _opens(escrow, tenant, sealed)


async def test_a_kek_that_is_still_there_is_replaced_and_destroyed_with_a_receipt(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    sealed = await escrow.cell.keys.encrypt(tenant, PLAIN, object_name=NAME)
    await escrow.enable(tenant)
    await escrow.recovered(tenant, afterwards=State.DISABLE)
    receipts = await escrow.execute(
        "SELECT kek_version, payload IS NOT NULL AS signed FROM csm_system.key_destructions"
    )

    assert receipts == [{"kek_version": 1, "signed": True}]
    assert await escrow.keks(tenant) == [KekRef(tenant_uid=tenant.uid, version=2)]
    await _opens(escrow, tenant, sealed)


async def test_a_key_that_was_put_under_the_old_kek_at_the_last_moment_comes_along(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    plan: Any = escrow.ring.plans["keys.rotate.storage"]
    late = await plan._new_version(tenant, Purpose.STORAGE, version=2, now=datetime.now(UTC))
    begun = await escrow.approved(tenant, await escrow.begin(tenant))
    for step in escrow.plan.steps[:2]:
        await step.run(begun)
    await escrow.cell.database.system().run(lambda tx: keys_store.insert_missing(tx, [late]))
    for step in escrow.plan.steps[2:]:
        await step.run(begun)

    assert await escrow.keks(tenant) == [KekRef(tenant_uid=tenant.uid, version=2)]
    assert await escrow.execute("SELECT DISTINCT kek_version FROM csm_system.tenant_keys") == [{"kek_version": 2}]
    assert "tenants/org_1/keys/storage/versions/2" in (await escrow.get(tenant)).key_versions
    sealed = await escrow.ring.other_process().encrypt(tenant, PLAIN, object_name=NAME)
    await _opens(escrow, tenant, sealed)


async def test_a_recovery_can_end_the_escrow(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    await escrow.recovered(tenant, afterwards=State.DISABLE)
    rows = await escrow.rows(tenant)

    assert (rows["tenant_escrows"], rows["escrow_copies"]) == (0, 0)


@pytest.mark.behaviour("S2.13")
async def test_every_step_of_a_recovery_is_in_the_tenants_own_log(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    enabled = await escrow.enable(tenant)
    await escrow.lose_keks(tenant)
    recovery = await escrow.recovered(tenant)
    renewed = await escrow.get(tenant)
    entries = (await escrow.ring.log(tenant))[2:]
    said = [(resource.rpartition("/")[0].rpartition("/")[2], details) for resource, details in entries]

    assert [details.get("state") or min(details) for _, details in said] == [
        "OPEN", "approvals", "approvals", "kek_version", "OFF", "ON", "LOST", "SUCCEEDED",
    ]  # fmt: skip
    assert said[0][1]["session"]
    assert (said[0][1]["reason"], said[0][1]["escrow"]) == ("the device is gone", enabled.escrow_id)
    assert [details["approved_by"] for _, details in said[1:3]] == ["ann", "cyd"]
    assert said[3][1]["recovered"] == len(enabled.key_versions)
    assert said[5][1]["escrow"] == renewed.escrow_id
    assert entries[0][0] == recovery.name


async def test_a_recovery_that_meets_a_seal_is_given_up_and_opens_nothing(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    recovery = await escrow.begin(tenant)
    begun = await escrow.approved(tenant, recovery)
    await escrow.execute("UPDATE csm_system.tenants SET state = 'SEALED'")
    await escrow.runner.run(begun.id)
    ended = await escrow.ring.operation(begun.id)

    assert (ended.state, ended.failure and ended.failure.reason) == (OperationState.FAILED, "TENANT_SEALED")
    assert await escrow.keks(tenant) == [KekRef(tenant_uid=tenant.uid, version=1)]
    assert (await escrow.recovery(tenant, recovery.name)).state == State.FAILED


async def test_one_share_of_two_recovers_nothing(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    await escrow.lose_keks(tenant)
    recovery = await escrow.begin(tenant)
    shown = await escrow.hand_in(tenant, recovery, "ann")

    assert (shown.state, shown.operation, escrow.deferred) == (State.OPEN, "", [])
    assert [one.recipient for one in shown.shares if one.HasField("approve_time")] == ["ann"]
    with pytest.raises(MissingKeyError):
        await escrow.ring.other_process().derive(tenant, b"label")


async def test_a_recipient_counts_once(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    recovery = await escrow.begin(tenant)
    await escrow.hand_in(tenant, recovery, "ann")

    with pytest.raises(PreconditionError) as refused:
        await escrow.hand_in(tenant, recovery, "ann")
    assert refused.value.code == "RECOVERY_APPROVED_BEFORE"
    assert escrow.deferred == []


async def test_an_approval_is_good_for_one_recovery_of_one_tenant_by_one_recipient(escrow: Ceremony) -> None:
    tenant, other = await escrow.cell.tenant(), await escrow.cell.tenant("org_2")
    for one in (tenant, other):
        await escrow.enable(one)
    first = await escrow.begin(tenant)
    replayed = escrow.approval(first, "ann")
    await escrow.cancel(tenant, first.name)
    recovery, foreign = await escrow.begin(tenant), await escrow.begin(other)
    wrong = {
        "of another recovery": ("ann", replayed),
        "of another tenant": ("ann", escrow.approval(foreign, "ann")),
        "of another recipient": ("ann", escrow.approval(recovery, "bob")),
        "altered": ("ann", escrow.approval(recovery, "ann")[:-1] + b"\0"),
        "nothing": ("ann", b""),
    }

    for what, (name, approval) in wrong.items():
        with pytest.raises(InvalidArgumentError, match="does not open"):
            await escrow.hand_in(tenant, recovery, name, approval)
        assert escrow.deferred == [], what
    with pytest.raises(InvalidArgumentError, match="nobody of this name"):
        await escrow.hand_in(tenant, recovery, "eve", replayed)


async def test_what_is_sealed_to_the_session_and_is_not_the_recipients_share_is_refused(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    recovery = await escrow.begin(tenant)
    context = ceremony.approval_context(tenant.uid, _id_of(recovery), "ann")
    bobs = escrow.people["bob"].open(
        recovery.shares[1].sealed_share, ceremony.share_context(tenant.uid, _uid(recovery.escrow_id), "bob")
    )

    for made_up in (b"", b"academic " * 33, bobs):
        forged = hpke.seal(recovery.session_public_key, made_up, context)
        with pytest.raises(InvalidArgumentError, match="is not the share"):
            await escrow.hand_in(tenant, recovery, "ann", forged)
    await escrow.hand_in(tenant, recovery, "bob")
    assert escrow.deferred == []


async def test_a_recipient_seals_to_no_other_session_than_the_one_they_were_told_of(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    recovery = await escrow.begin(tenant)
    eve = PrivateKey.generate()
    told = recovery.session_fingerprint
    recovery.session_public_key = eve.public

    with pytest.raises(ApprovalError, match="another one than you were told"):
        escrow.approval(recovery, "ann")
    recovery.session_fingerprint = hpke.fingerprint(eve.public)
    assert told != recovery.session_fingerprint


async def test_a_stranger_has_no_share(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    recovery = await escrow.begin(tenant)
    escrow.people["ann"] = PrivateKey.generate()

    with pytest.raises(ApprovalError, match="has no share"):
        escrow.approval(recovery, "ann")


async def test_a_session_that_was_swapped_in_the_database_is_not_shown_and_takes_nothing(escrow: Ceremony) -> None:
    tenant, other = await escrow.cell.tenant(), await escrow.cell.tenant("org_2")
    for one in (tenant, other):
        await escrow.enable(one)
    recovery = await escrow.begin(tenant)
    await escrow.begin(other)
    approval = escrow.approval(recovery, "ann")
    await escrow.execute(
        "UPDATE csm_system.key_recoveries SET session = (SELECT session FROM csm_system.key_recoveries AS o"
        f" WHERE o.tenant_uid = '{other.uid}')"
    )

    with pytest.raises(IntegrityError):
        await escrow.recovery(tenant, recovery.name)
    with pytest.raises(IntegrityError):
        await escrow.hand_in(tenant, recovery, "ann", approval)


@pytest.mark.behaviour("S2.13")
async def test_the_provider_begins_no_recovery_unless_the_tenant_has_agreed_to_it(escrow: Ceremony) -> None:
    tenant, agreed, without = [await escrow.cell.tenant(f"org_{index}") for index in range(3)]
    await escrow.enable(tenant)
    await escrow.enable(agreed, platform_may_begin=True)

    for one in (tenant, without):
        with pytest.raises(PermissionDeniedError) as refused:
            await escrow.begin(one, role=Role.PLATFORM_ADMIN)
        assert refused.value.code == "ESCROW_CONSENT_MISSING"
        assert (await escrow.rows(one))["key_recoveries"] == 0
    assert (await escrow.begin(agreed, role=Role.PLATFORM_ADMIN)).beginner == "platform-admin:alice"


async def test_without_an_escrow_there_is_nothing_to_recover_from(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()

    with pytest.raises(PreconditionError) as refused:
        await escrow.begin(tenant)
    assert refused.value.code == "ESCROW_OFF"
    assert await escrow.keks(tenant) == [KekRef(tenant_uid=tenant.uid, version=1)]


async def test_one_recovery_at_a_time_and_no_rotation_beside_it(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    enabled = await escrow.enable(tenant)
    recovery = await escrow.begin(tenant)

    with pytest.raises(PreconditionError) as again:
        await escrow.begin(tenant)
    with pytest.raises(PreconditionError) as rotated:
        await escrow.ring.rotate(tenant, "kek")
    with pytest.raises(PreconditionError) as disabled:
        await escrow.disable(tenant)
    assert {one.value.code for one in (again, rotated, disabled)} == {"RECOVERY_IN_PROGRESS"}
    assert again.value.metadata["recovery"] == recovery.name
    assert (await escrow.get(tenant)).recovery == recovery.name
    assert (await escrow.get(tenant)).escrow_id == enabled.escrow_id


async def test_a_recovery_is_checked_and_not_begun_where_nothing_else_is_asked(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    with pytest.raises(PreconditionError):
        await escrow.begin(tenant, validate_only=True)
    await escrow.enable(tenant)
    await escrow.begin(tenant, validate_only=True)

    assert (await escrow.rows(tenant))["key_recoveries"] == 0
    with pytest.raises(InvalidArgumentError, match="reason"):
        await escrow.begin(tenant, reason="")


async def test_a_cancelled_recovery_leaves_nothing_that_opens_what_recipients_gave(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    recovery = await escrow.begin(tenant)
    await escrow.hand_in(tenant, recovery, "ann")
    cancelled = await escrow.cancel(tenant, recovery.name)

    assert (cancelled.state, cancelled.session_public_key) == (State.CANCELLED, b"")
    assert await escrow.keks(tenant) == [KekRef(tenant_uid=tenant.uid, version=1)]
    assert await escrow.execute("SELECT session FROM csm_system.key_recoveries") == [{"session": None}]
    assert await escrow.execute("SELECT 1 FROM csm_system.recovery_approvals") == []
    for call in (escrow.cancel(tenant, recovery.name), escrow.hand_in(tenant, recovery, "bob")):
        with pytest.raises(PreconditionError) as refused:
            await call
        assert refused.value.code == "RECOVERY_ENDED"
    assert (await escrow.begin(tenant)).state == State.OPEN


async def test_a_recovery_expires_and_is_swept(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    recovery = await escrow.begin(tenant)
    await escrow.hand_in(tenant, recovery, "ann")
    await escrow.execute("UPDATE csm_system.key_recoveries SET expire_time = now()")

    with pytest.raises(PreconditionError) as refused:
        await escrow.hand_in(tenant, recovery, "bob")
    assert refused.value.code == "RECOVERY_EXPIRED"
    await escrow.expire()
    assert (await escrow.recovery(tenant, recovery.name)).state == State.EXPIRED
    assert await escrow.keks(tenant) == [KekRef(tenant_uid=tenant.uid, version=1)]
    assert await escrow.execute("SELECT 1 FROM csm_system.recovery_approvals") == []
    assert (await escrow.ring.log(tenant))[-1] == (recovery.name, {"state": "EXPIRED"})


async def test_a_recovery_that_is_in_time_is_not_swept(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    recovery = await escrow.begin(tenant)
    await escrow.expire(datetime.now(UTC) + timedelta(hours=23))

    assert (await escrow.recovery(tenant, recovery.name)).state == State.OPEN


async def test_another_tenants_recovery_is_as_good_as_none(escrow: Ceremony) -> None:
    tenant, other = await escrow.cell.tenant(), await escrow.cell.tenant("org_2")
    await escrow.enable(tenant)
    recovery = await escrow.begin(tenant)
    named = recovery.name.replace("org_1", "org_2")

    for call in (escrow.recovery(other, named), escrow.cancel(other, named)):
        with pytest.raises(NotFoundError):
            await call
    with pytest.raises(NotFoundError):
        await escrow.recovery(tenant, "tenants/org_1/keyRecoveries/none")


def _uid(text: str) -> Any:
    return UUID(text)


def _id_of(recovery: recoveries_pb2.KeyRecovery) -> Any:
    return _uid(recovery.name.rpartition("/")[2])
