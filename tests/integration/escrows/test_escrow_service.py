"""EscrowService, call by call: what each answers."""

import base64
from typing import Any

import pytest

from bulkhead.v1 import escrows_pb2, recoveries_pb2
from control_plane.errors import EtagMismatchError, InvalidArgumentError
from control_plane.recipients import ceremony, hpke
from tests.fixtures.escrow import CONTEXT, PEOPLE, Ceremony

NAME, PARENT = "tenants/org_1/escrow", "tenants/org_1"


async def test_each_call_answers_what_is_so_then(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    # In PEM as well as raw.
    recipients = [
        escrows_pb2.EscrowRecipient(name=name, public_key=ceremony.public_file(escrow.people[name].public).encode())
        for name in PEOPLE
    ]
    wish = escrows_pb2.EnableEscrowRequest(name=NAME, recipients=recipients, threshold=3, platform_may_begin=True)
    alice, bob = [await escrow.administrator(tenant, subject) for subject in ("alice", "bob")]
    proposed = await escrow.calling(tenant, "EnableEscrow", by=alice).EnableEscrow(wish, CONTEXT)
    confirmation = escrows_pb2.ConfirmEscrowRequest(name=NAME, digest=proposed.proposal.digest)
    enabled = await escrow.calling(tenant, "ConfirmEscrow", by=bob).ConfirmEscrow(confirmation, CONTEXT)
    found = await escrow.calling(tenant, "GetEscrow").GetEscrow(escrows_pb2.GetEscrowRequest(name=NAME), CONTEXT)
    asked = recoveries_pb2.BeginRecoveryRequest(parent=PARENT, reason="a drill")
    begun = await escrow.calling(tenant, "BeginRecovery").BeginRecovery(asked, CONTEXT)
    got = await escrow.calling(tenant, "GetRecovery").GetRecovery(
        recoveries_pb2.GetRecoveryRequest(name=begun.name), CONTEXT
    )
    given = recoveries_pb2.ApproveRecoveryRequest(
        name=begun.name, recipient="bob", approval=escrow.approval(begun, "bob")
    )
    approved = await escrow.calling(tenant, "ApproveRecovery").ApproveRecovery(given, CONTEXT)
    cancelled = await escrow.calling(tenant, "CancelRecovery").CancelRecovery(
        recoveries_pb2.CancelRecoveryRequest(name=begun.name), CONTEXT
    )
    disabled = await escrow.calling(tenant, "DisableEscrow").DisableEscrow(
        escrows_pb2.DisableEscrowRequest(name=NAME), CONTEXT
    )

    assert [one.fingerprint for one in found.recipients] == [
        hpke.fingerprint(escrow.people[name].public) for name in PEOPLE
    ]
    assert all(not one.public_key for one in found.recipients)
    assert (found, found.suite, found.threshold, found.platform_may_begin) == (enabled, hpke.SUITE, 3, True)
    assert got == begun
    assert (got.beginner, got.reason, got.threshold) == ("tenant-admin:alice", "a drill", 3)
    assert got.expire_time.seconds - got.create_time.seconds == 86_400
    assert [one.HasField("approve_time") for one in approved.shares] == [False, True, False]
    assert (cancelled.threshold, len(cancelled.shares), bool(cancelled.end_time.seconds)) == (0, 0, True)
    assert (disabled.name, disabled.state, disabled.escrow_id) == (NAME, escrows_pb2.Escrow.OFF, "")


@pytest.mark.parametrize("etag", ["0000000000000000", "x"])
async def test_an_escrow_that_was_changed_since_it_was_read_is_left_as_it_is(escrow: Ceremony, etag: str) -> None:
    tenant = await escrow.cell.tenant()
    with pytest.raises(EtagMismatchError):
        await escrow.propose(tenant, etag=etag)
    await escrow.enable(tenant)

    with pytest.raises(EtagMismatchError):
        await escrow.disable(tenant, etag=etag)
    assert (await escrow.get(tenant)).state == escrows_pb2.Escrow.ON


async def test_all_that_is_wrong_with_a_proposal_is_said_at_once(escrow: Ceremony) -> None:
    tenant = await escrow.cell.tenant()
    wrong: list[Any] = [
        escrows_pb2.EscrowRecipient(name="", public_key=base64.b64encode(b"no key")),
        *escrow.recipients(["ann", "ann"]),
    ]

    with pytest.raises(InvalidArgumentError) as refused:
        await escrow.propose(tenant, recipients=wrong, threshold=1)
    assert {one.field for one in refused.value.violations} == {
        "threshold",
        "recipients[0].name",
        "recipients[0].public_key",
        "recipients[2].name",
        "recipients[2].public_key",
    }
