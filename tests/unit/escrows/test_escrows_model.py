"""Escrows, proposals and recoveries, without any of them stored."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest

from control_plane.errors import (
    EtagMismatchError,
    InvalidArgumentError,
    PolicyDeniedError,
    PreconditionError,
    Violations,
)
from control_plane.escrows.model import (
    Afterwards,
    Approval,
    Overview,
    Proposal,
    Recipient,
    Recovery,
    RecoveryState,
    Terms,
    check_reason,
)
from control_plane.keys.model import WrappedKey

NOW: Final = datetime(2026, 11, 27, tzinfo=UTC)
TENANT: Final = UUID(int=1)
RECIPIENTS: Final = (Recipient(name="ann", public=b"a"), Recipient(name="bob", public=b"b"))
TERMS: Final = Terms(recipients=RECIPIENTS, threshold=2, platform_may_begin=False)
PROPOSAL: Final = Proposal(
    id=UUID(int=2),
    tenant_uid=TENANT,
    terms=TERMS,
    proposer="tenant-admin:alice",
    behind=frozenset({"alice", "carol"}),
    create_time=NOW,
    expire_time=NOW + timedelta(days=1),
)
BOB: Final = frozenset({"bob", "dora"})
RECOVERY: Final = Recovery(
    id=UUID(int=3),
    tenant_uid=TENANT,
    escrow_id=UUID(int=4),
    kek_version=2,
    state=RecoveryState.OPEN,
    session=WrappedKey(b"wrapped"),
    beginner="tenant-admin:alice",
    reason="the device is gone",
    afterwards=Afterwards.REKEY,
    create_time=NOW,
    expire_time=NOW + timedelta(days=1),
    approvals=(Approval(recipient="ann", sealed=b"sealed", create_time=NOW),),
)


def _faults(terms: Terms) -> set[str]:
    violations = Violations()
    terms.check(violations)
    return {one.field for one in violations.found}


def _people(count: int) -> tuple[Recipient, ...]:
    return tuple(Recipient(name=f"r{index}", public=bytes([index])) for index in range(count))


@pytest.mark.parametrize(
    ("terms", "faults"),
    [
        (TERMS, set()),
        (replace(TERMS, recipients=_people(16), threshold=16), set()),
        (replace(TERMS, threshold=1), {"threshold"}),
        (replace(TERMS, threshold=3), {"threshold"}),
        (replace(TERMS, recipients=()), {"recipients"}),
        (replace(TERMS, recipients=_people(1)), {"recipients"}),
        (replace(TERMS, recipients=_people(17)), {"recipients"}),
        (replace(TERMS, recipients=(RECIPIENTS[0], replace(RECIPIENTS[1], name="ann"))), {"recipients[1].name"}),
        (replace(TERMS, recipients=(RECIPIENTS[0], replace(RECIPIENTS[1], public=b"a"))), {"recipients[1].public_key"}),
        (replace(TERMS, recipients=(RECIPIENTS[0], replace(RECIPIENTS[1], name="b b"))), {"recipients[1].name"}),
        (replace(TERMS, recipients=(RECIPIENTS[0], replace(RECIPIENTS[1], name="b\n"))), {"recipients[1].name"}),
        (replace(TERMS, recipients=(RECIPIENTS[0], replace(RECIPIENTS[1], name="b" * 65))), {"recipients[1].name"}),
    ],
)
def test_terms_name_2_to_16_people_with_keys_of_their_own_and_a_threshold_between(
    terms: Terms, faults: set[str]
) -> None:
    assert _faults(terms) == faults


def test_a_proposals_digest_is_over_all_that_it_says() -> None:
    others = [
        replace(PROPOSAL, id=UUID(int=9)),
        replace(PROPOSAL, tenant_uid=UUID(int=9)),
        replace(PROPOSAL, proposer="tenant-admin:bob"),
        replace(PROPOSAL, behind=frozenset({"alice"})),
        replace(PROPOSAL, behind=frozenset({"alicecarol"})),
        replace(PROPOSAL, expire_time=NOW),
        replace(PROPOSAL, terms=replace(TERMS, threshold=3)),
        replace(PROPOSAL, terms=replace(TERMS, platform_may_begin=True)),
        replace(PROPOSAL, terms=replace(TERMS, recipients=RECIPIENTS[::-1])),
        replace(PROPOSAL, terms=replace(TERMS, recipients=(RECIPIENTS[0], replace(RECIPIENTS[1], public=b"c")))),
        replace(PROPOSAL, terms=replace(TERMS, recipients=(RECIPIENTS[0], replace(RECIPIENTS[1], name="eve")))),
    ]

    assert len({one.digest for one in [PROPOSAL, *others]}) == len(others) + 1


def test_another_administrator_confirms_what_was_proposed() -> None:
    PROPOSAL.check_confirmable("e", behind=BOB, digest=PROPOSAL.digest, now=NOW)


@pytest.mark.behaviour("S2.13")
@pytest.mark.parametrize(
    "behind",
    [
        # Whoever proposed it.
        {"alice", "carol"},
        # Bob, whose token Alice has issued; or who has issued Alice's.
        {"bob", "alice"},
        {"bob", "carol"},
        # Nobody knows.
        set(),
    ],
)
def test_one_person_does_not_stand_behind_who_proposed_it_and_who_confirms_it(behind: set[str]) -> None:
    with pytest.raises(PolicyDeniedError) as refused:
        PROPOSAL.check_confirmable("e", behind=behind, digest=PROPOSAL.digest, now=NOW)

    assert refused.value.code == "SECOND_PERSON_NEEDED"


def test_what_was_proposed_by_nobody_knows_whom_is_confirmed_by_nobody() -> None:
    unknown = replace(PROPOSAL, behind=frozenset())
    with pytest.raises(PolicyDeniedError):
        unknown.check_confirmable("e", behind=BOB, digest=unknown.digest, now=NOW)


def test_other_words_than_those_that_were_proposed_are_not_confirmed() -> None:
    with pytest.raises(InvalidArgumentError, match="digest"):
        PROPOSAL.check_confirmable("e", behind=BOB, digest="0" * 64, now=NOW)


def test_a_proposal_expires() -> None:
    with pytest.raises(PreconditionError) as refused:
        PROPOSAL.check_confirmable("e", behind=BOB, digest=PROPOSAL.digest, now=NOW + timedelta(days=1))

    assert refused.value.code == "ESCROW_NOT_PROPOSED"


@pytest.mark.parametrize("state", [state for state in RecoveryState if state is not RecoveryState.OPEN])
def test_only_an_open_recovery_is_approved(state: RecoveryState) -> None:
    with pytest.raises(PreconditionError) as refused:
        replace(RECOVERY, state=state).check_open("r", now=NOW)

    assert refused.value.code == "RECOVERY_ENDED"
    RECOVERY.check_open("r", now=NOW)


def test_a_recovery_expires() -> None:
    with pytest.raises(PreconditionError) as refused:
        RECOVERY.check_open("r", now=NOW + timedelta(days=1))

    assert refused.value.code == "RECOVERY_EXPIRED"


def test_a_recipient_counts_once() -> None:
    with pytest.raises(PreconditionError) as refused:
        RECOVERY.check_first("r", "ann")

    assert refused.value.code == "RECOVERY_APPROVED_BEFORE"
    RECOVERY.check_first("r", "bob")


def test_a_session_is_bound_to_its_tenant_escrow_recovery_and_kek() -> None:
    others = [
        replace(RECOVERY, id=UUID(int=9)),
        replace(RECOVERY, tenant_uid=UUID(int=9)),
        replace(RECOVERY, escrow_id=UUID(int=9)),
        replace(RECOVERY, kek_version=9),
    ]

    assert len({one.aad for one in [RECOVERY, *others]}) == len(others) + 1


def test_nothing_that_opens_anything_shows_itself() -> None:
    assert "wrapped" not in repr(RECOVERY)
    assert "sealed" not in repr(RECOVERY)


def test_an_etag_changes_with_what_is_told() -> None:
    off = Overview(name="e", escrow=None)
    others = [
        replace(off, proposal=PROPOSAL),
        replace(off, recovery=UUID(int=9)),
        replace(off, key_versions=["k"]),
        replace(off, name="f"),
    ]

    assert len({one.etag for one in [off, *others]}) == len(others) + 1
    off.check_etag("")
    off.check_etag(off.etag)
    with pytest.raises(EtagMismatchError):
        off.check_etag("0" * 16)


@pytest.mark.parametrize(("reason", "is_fine"), [("why", True), ("", False), ("  ", False), ("x" * 501, False)])
def test_a_recovery_has_a_reason(reason: str, is_fine: bool) -> None:  # noqa: FBT001 a parameter of the test
    violations = Violations()
    check_reason(reason, violations)

    assert (violations.found == []) is is_fine
