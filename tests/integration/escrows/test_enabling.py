"""How an escrow is proposed, confirmed, kept, and ended."""

import asyncio
import base64
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bulkhead.v1 import escrows_pb2, key_changes_pb2, keys_pb2
from control_plane.errors import ConflictError, InvalidArgumentError, PolicyDeniedError, PreconditionError
from control_plane.escrows import store
from control_plane.escrows.making import make
from control_plane.escrows.model import Recipient, Terms
from control_plane.keys import store as keys_store
from control_plane.keys.model import BUILT_IN, Purpose
from control_plane.postgres.database import SystemTransaction
from control_plane.postgres.placement import Placement
from control_plane.recipients.hpke import PrivateKey
from control_plane.serving.principal import Principal
from tests.fixtures.escrow import PEOPLE, Ceremony

OFF, ON = escrows_pb2.Escrow.OFF, escrows_pb2.Escrow.ON
State = keys_pb2.KeyVersion.State


@pytest.mark.behaviour("S2.13")
async def test_an_escrow_needs_two_administrators_and_then_covers_every_key(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    before = await escrow.get(tenant)
    proposed = await escrow.propose(tenant)
    after_proposal = await escrow.rows(tenant)
    enabled = await escrow.confirm(tenant, proposed.proposal.digest)

    assert (before.state, proposed.state, enabled.state) == (OFF, OFF, ON)
    assert after_proposal == {"tenant_escrows": 0, "escrow_copies": 0, "escrow_proposals": 1, "key_recoveries": 0}
    assert proposed.proposal.proposer == "tenant-admin:alice"
    assert [one.name for one in enabled.recipients] == list(PEOPLE)
    assert (enabled.threshold, enabled.HasField("proposal"), enabled.platform_may_begin) == (2, False, False)
    assert set(enabled.key_versions) == {f"tenants/org_1/keys/{purpose}/versions/1" for purpose in BUILT_IN}
    assert enabled == await escrow.get(tenant)


async def _refusal(escrow: Ceremony, tenant: Placement, digest: str, *, by: Principal | None = None) -> str:
    """Return why a confirmation was refused, after which nothing is in escrow."""
    with pytest.raises(PolicyDeniedError) as refused:
        await escrow.confirm(tenant, digest, by=by)
    assert (await escrow.rows(tenant))["tenant_escrows"] == 0
    return refused.value.code


@pytest.mark.behaviour("S2.13", "H26")
async def test_nobody_makes_up_who_confirms_their_escrow(escrow: Ceremony) -> None:
    """By the token they proposed with, by one that they have issued, by that one's child, by another of their own."""
    tenant = await escrow.cell.tenant()
    token = await escrow.cell.token(tenant, subject="alice", issuer="alice")
    alice = await escrow.cell.verifier.verify(token)
    child = await escrow.made_up(tenant, "zoe", by=token)
    parent = await escrow.cell.token(tenant, subject="zoe", issuer="alice")
    grandchild = await escrow.made_up(tenant, "yan", by=parent)
    again = await escrow.made_up(tenant, "alice")
    digest = (await escrow.propose(tenant, by=alice)).proposal.digest
    refusals = [await _refusal(escrow, tenant, digest, by=who) for who in (alice, child, grandchild, again)]

    assert refusals == ["SECOND_PERSON_NEEDED"] * 4
    assert (await escrow.confirm(tenant, digest)).state == ON


@pytest.mark.behaviour("S2.13", "H26")
async def test_the_platform_does_not_make_up_both_who_enable_an_escrow(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    eve, mallory = [await escrow.made_up(tenant, subject) for subject in ("eve", "mallory")]
    digest = (await escrow.propose(tenant, by=eve)).proposal.digest
    refusal = await _refusal(escrow, tenant, digest, by=mallory)

    assert refusal == "SECOND_PERSON_NEEDED"
    # Whom it has vouched for, and one who has enrolled, are two.
    assert (await escrow.confirm(tenant, digest)).state == ON


async def test_who_stands_behind_a_token_does_not_change_when_theirs_is_revoked(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    token = await escrow.cell.token(tenant, subject="alice", issuer="alice")
    digest = (await escrow.propose(tenant, by=await escrow.cell.verifier.verify(token))).proposal.digest
    child = await escrow.made_up(tenant, "zoe", by=token)
    await escrow.execute("UPDATE tenant_org_1.tokens SET revoke_time = now() WHERE subject = 'alice'")

    assert await _refusal(escrow, tenant, digest, by=child) == "SECOND_PERSON_NEEDED"


@pytest.mark.parametrize("subject", ["alice", "bob"])
async def test_with_a_token_from_before_issuers_were_kept_no_escrow_is_enabled(escrow: Ceremony, subject: str) -> None:
    tenant = await escrow.cell.tenant()
    alice, bob = [await escrow.administrator(tenant, name) for name in ("alice", "bob")]
    await escrow.execute(f"UPDATE tenant_org_1.tokens SET issuers = NULL WHERE subject = '{subject}'")
    digest = (await escrow.propose(tenant, by=alice)).proposal.digest

    assert await _refusal(escrow, tenant, digest, by=bob) == "SECOND_PERSON_NEEDED"


async def test_a_proposal_from_before_it_said_who_stands_behind_it_is_confirmed_by_nobody(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.propose(tenant)
    await escrow.execute("UPDATE csm_system.escrow_proposals SET behind = DEFAULT")
    digest = (await escrow.get(tenant)).proposal.digest

    assert await _refusal(escrow, tenant, digest) == "SECOND_PERSON_NEEDED"


@pytest.mark.parametrize(
    "change",
    ["recipients = jsonb_set(recipients, '{{1,public}}', '\"{eve}\"')", "behind = '{{carol}}'"],
    ids=["a recipient", "the proposer"],
)
async def test_what_was_swapped_in_the_database_after_it_was_proposed_is_not_confirmed(
    escrow: Ceremony, change: str
) -> None:
    tenant = await escrow.cell.tenant()
    proposed = await escrow.propose(tenant)
    eve = base64.b64encode(PrivateKey.generate().public).decode()
    await escrow.execute(f"UPDATE csm_system.escrow_proposals SET {change.format(eve=eve)}")

    with pytest.raises(InvalidArgumentError, match="digest"):
        await escrow.confirm(tenant, proposed.proposal.digest)


async def test_an_expired_proposal_is_as_good_as_none(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    proposed = await escrow.propose(tenant)
    await escrow.execute("UPDATE csm_system.escrow_proposals SET expire_time = now()")

    with pytest.raises(PreconditionError) as refused:
        await escrow.confirm(tenant, proposed.proposal.digest)
    assert refused.value.code == "ESCROW_NOT_PROPOSED"
    assert not (await escrow.get(tenant)).HasField("proposal")


@pytest.mark.behaviour("I19")
async def test_a_recipient_with_a_classical_key_is_refused(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    classical = X25519PrivateKey.generate().public_key().public_bytes_raw()
    recipients = [*escrow.recipients(["ann"]), escrows_pb2.EscrowRecipient(name="eve", public_key=classical)]

    with pytest.raises(InvalidArgumentError) as refused:
        await escrow.propose(tenant, recipients=recipients)
    assert [one.field for one in refused.value.violations] == ["recipients[1].public_key"]


async def test_a_proposal_is_checked_and_not_kept_where_nothing_else_is_asked(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.propose(tenant, validate_only=True)

    assert sum((await escrow.rows(tenant)).values()) == 0
    with pytest.raises(InvalidArgumentError, match="threshold"):
        await escrow.propose(tenant, validate_only=True, threshold=4)


@pytest.mark.behaviour("S2.13")
@pytest.mark.parametrize("key", ["storage", "services", "tokens", "authority", "enrolment"])
async def test_a_key_that_is_made_later_is_stored_with_its_copy(escrow: Ceremony, key: str) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    await escrow.ring.rotated(tenant, key)

    assert f"tenants/org_1/keys/{key}/versions/2" in (await escrow.get(tenant)).key_versions


@pytest.mark.behaviour("S2.5")
async def test_a_key_that_vouches_for_an_escrow_is_kept_as_long_as_that(escrow: Ceremony) -> None:
    tenant, first = await escrow.cell.tenant(), "tenants/org_1/keys/enrolment/versions/1"
    await escrow.enable(tenant)

    async def rotated() -> list[int]:
        await escrow.ring.rotated(tenant, "enrolment")
        await escrow.execute("UPDATE csm_system.tenant_keys SET use_time = now() - interval '1 year'")
        return [version.state for version in await escrow.ring.versions(tenant, "enrolment")]

    await rotated()
    assert set(await rotated()) == {State.ENABLED}
    assert await rotated() == [State.ENABLED, State.ENABLED, State.RETIRED, State.ENABLED]
    context: Any = None
    request = key_changes_pb2.RetireKeyVersionRequest(name=first)
    with pytest.raises(PreconditionError, match="vouches for") as refused:
        await escrow.ring.calling(tenant, "RetireKeyVersion").RetireKeyVersion(request, context)
    assert refused.value.code == "KEY_VERSION_NEEDED"
    await escrow.disable(tenant)
    assert (await rotated())[-1] == State.RETIRED
    # The next one is vouched for by the key that derives now.
    await escrow.enable(tenant)
    (row,) = await escrow.execute(
        "SELECT version FROM csm_system.tenant_keys JOIN csm_system.tenant_escrows ON check_key_id = tenant_keys.id"
    )
    assert row["version"] == 5


async def test_the_first_key_for_services_is_stored_with_its_copy(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.execute("DELETE FROM csm_system.tenant_keys WHERE purpose = 'services'")
    await escrow.enable(tenant)
    await escrow.cell.keys.services_key(tenant)

    assert "tenants/org_1/keys/services/versions/1" in (await escrow.get(tenant)).key_versions


async def test_a_new_kek_leaves_the_escrow_as_it_is(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    enabled = await escrow.enable(tenant)
    await escrow.ring.rotated(tenant, "kek")

    assert await escrow.get(tenant) == enabled
    assert (await escrow.recovered(tenant)).state


async def test_a_key_cannot_be_stored_without_its_copy(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    plan: Any = escrow.ring.plans["keys.rotate.storage"]
    made = await plan._new_version(tenant, Purpose.STORAGE, version=2, now=datetime.now(UTC))
    await escrow.enable(tenant)

    with pytest.raises(ConflictError):
        await escrow.cell.database.system().run(lambda tx: keys_store.insert_missing(tx, [made]))


async def test_a_copy_for_an_escrow_that_is_gone_is_not_stored(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.enable(tenant)
    plan: Any = escrow.ring.plans["keys.rotate.storage"]
    made = await plan._new_version(tenant, Purpose.STORAGE, version=2, now=datetime.now(UTC))
    await escrow.disable(tenant)

    with pytest.raises(ConflictError):
        await escrow.cell.database.system().run(lambda tx: keys_store.insert_missing(tx, [made]))


@pytest.mark.parametrize(
    "statement",
    [
        """
        INSERT INTO csm_system.tenant_keys
               (id, tenant_uid, purpose, key_id, version, algorithm, kek_version, wrapped, state)
        SELECT uuidv7(), tenant_uid, purpose, key_id, 9, algorithm, kek_version, wrapped, state
          FROM csm_system.tenant_keys
         WHERE purpose = 'storage'
        """,
        "DELETE FROM csm_system.escrow_copies",
    ],
)
async def test_the_database_keeps_no_key_of_an_escrow_without_its_copy(escrow: Ceremony, statement: str) -> None:
    await escrow.enable(await escrow.cell.tenant())

    with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="has no copy"):
        await escrow.execute(statement)


async def test_a_key_that_is_made_while_an_escrow_is_has_its_copy_or_is_not_stored(escrow: Ceremony) -> None:
    """The escrow is about to be stored, and the key that its maker has not seen is."""
    tenant = await escrow.cell.tenant()
    system = escrow.cell.database.system()
    plan: Any = escrow.ring.plans["keys.rotate.storage"]
    late = await plan._new_version(tenant, Purpose.STORAGE, version=2, now=datetime.now(UTC))
    stored = await system.run(lambda tx: keys_store.all_of(tx, tenant.uid))
    recipients = tuple(Recipient(name=name, public=escrow.people[name].public) for name in PEOPLE)
    terms = Terms(recipients=recipients, threshold=2, platform_may_begin=False)
    made = await make(escrow.wrapping, tenant.uid, terms=terms, stored=stored, now=datetime.now(UTC))
    storing = asyncio.Event()
    waits: list[asyncio.Task[int]] = []

    async def enable(tx: SystemTransaction) -> None:
        await store.insert(tx, made)
        waits.append(asyncio.create_task(system.run(lambda other: keys_store.insert_missing(other, [late]))))
        await asyncio.wait(waits, timeout=0.3)
        storing.set()

    await system.run(enable)

    assert storing.is_set()
    with pytest.raises(ConflictError):
        await waits[0]
    with pytest.raises(ConflictError):
        await system.run(lambda tx: _replaced(tx, tenant.uid, made, late))


async def _replaced(tx: SystemTransaction, tenant_uid: UUID, made: Any, late: Any) -> None:
    """Store an escrow that was made before the last key was."""
    await store.delete(tx, tenant_uid)
    await keys_store.insert_missing(tx, [late])
    await store.insert(tx, made)


@pytest.mark.behaviour("S2.13")
async def test_disabling_deletes_copies_and_shares_at_once_and_says_what_went(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    enabled = await escrow.enable(tenant)
    disabled = await escrow.disable(tenant, etag=enabled.etag)
    resource, details = (await escrow.ring.log(tenant))[-1]

    assert disabled.state == OFF
    assert sum((await escrow.rows(tenant)).values()) == 0
    assert resource == "tenants/org_1/escrow"
    assert (details["state"], details["escrow"]) == ("OFF", enabled.escrow_id)
    assert (details["shares_deleted"], details["copies_deleted"]) == (3, len(BUILT_IN))
    assert set(details["recipients"]) == set(PEOPLE)


async def test_disabling_what_is_off_changes_nothing_and_takes_a_proposal_back(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.disable(tenant)
    entries = await escrow.ring.log(tenant)
    await escrow.propose(tenant)
    await escrow.disable(tenant)

    assert entries == []
    assert sum((await escrow.rows(tenant)).values()) == 0
    assert (await escrow.ring.log(tenant))[-1][1]["proposal_deleted"] is True


async def test_an_escrow_is_made_anew_only_when_it_is_off(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    first = await escrow.enable(tenant)
    with pytest.raises(PreconditionError) as refused:
        await escrow.propose(tenant)
    await escrow.disable(tenant)
    second = await escrow.enable(tenant)

    assert refused.value.code == "ESCROW_ON"
    assert first.escrow_id != second.escrow_id


async def test_no_escrow_is_made_while_a_key_is_rotated(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    proposed = await escrow.propose(tenant)
    await escrow.ring.rotate(tenant, "kek")

    with pytest.raises(PreconditionError) as refused:
        await escrow.confirm(tenant, proposed.proposal.digest)
    assert refused.value.code == "ROTATION_IN_PROGRESS"


async def test_the_audit_log_says_who_proposed_what_and_who_confirmed_it(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    proposed = await escrow.propose(tenant)
    await escrow.confirm(tenant, proposed.proposal.digest)
    (_, first), (_, second) = await escrow.ring.log(tenant)

    assert first["digest"] == second["digest"] == proposed.proposal.digest
    assert first["recipients"] == {one.name: one.fingerprint for one in proposed.proposal.recipients}
    assert (second["state"], second["proposer"], second["keys"]) == ("ON", "tenant-admin:alice", len(BUILT_IN))


async def test_destroying_all_of_a_tenants_keys_destroys_their_escrow(escrow: Ceremony) -> None:
    tenant, other = await escrow.cell.tenant(), await escrow.cell.tenant("org_2")
    for one in (tenant, other):
        await escrow.enable(one)
        await escrow.begin(one)
    await escrow.cell.keys.destroy(tenant)

    assert sum((await escrow.rows(tenant)).values()) == 0
    assert (await escrow.rows(other))["escrow_copies"] == len(BUILT_IN)


@pytest.mark.behaviour("S2.15")
async def test_a_receipt_says_whether_what_the_kek_wrapped_is_in_escrow(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    await escrow.ring.rotated(tenant, "kek")
    enabled = await escrow.enable(tenant)
    await escrow.ring.rotated(tenant, "kek")
    query = "SELECT convert_from(payload, 'UTF8')::json ->> 'escrow' AS said FROM csm_system.key_destructions"
    receipts = await escrow.execute(f"{query} ORDER BY kek_version")

    assert [row["said"] for row in receipts] == ["none", enabled.escrow_id]
