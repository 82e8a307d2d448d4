"""A locked policy is loosened by two people, and by nothing else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from control_plane.errors import DomainError, EtagMismatchError, PermissionDeniedError, PreconditionError
from control_plane.key_policies.decide import decide
from control_plane.key_policies.model import KeyUse, Terms
from control_plane.key_policies.policy import PROPOSAL_LIFETIME, Administrator, Policy
from control_plane.key_policies.written import read_proposal, read_rules, write_proposal, write_rules
from tests.unit.key_policies import policies
from tests.unit.key_policies.test_decide import RULE, enforced

NAME: Final = "tenants/org_1/keyPolicy"
NOW: Final = datetime(2026, 11, 25, 12, tzinfo=UTC)
ID: Final = UUID(int=1)
ALICE: Final = Administrator(name="tenant-admin:alice", is_tenants=True, behind=frozenset({"alice"}))
BOB: Final = Administrator(name="tenant-admin:bob", is_tenants=True, behind=frozenset({"bob", "carol"}))
PLATFORM: Final = Administrator(name="platform-admin:root", is_tenants=False, behind=frozenset({" platform"}))
LOCKED: Final = Policy(terms=replace(enforced(RULE), locked=True), revision=1)
OPEN: Final = replace(LOCKED.terms, enforced=False)


def reason(error: pytest.ExceptionInfo[DomainError]) -> str:
    return error.value.code


@pytest.mark.behaviour("S2.11")
@pytest.mark.parametrize("terms", [enforced(), OPEN, replace(LOCKED.terms, locked=False)])
def test_the_platform_changes_nothing_of_a_locked_policy(terms: Terms) -> None:
    with pytest.raises(PermissionDeniedError) as refused:
        LOCKED.updated(terms, PLATFORM, name=NAME, now=NOW)

    assert reason(refused) == "KEY_POLICY_LOCKED"
    assert refused.value.metadata == {"tenants": "org_1"}


def test_the_platform_locks_nobody_out_of_what_is_theirs() -> None:
    with pytest.raises(PermissionDeniedError):
        Policy().updated(Terms(locked=True), PLATFORM, name=NAME, now=NOW)

    assert Policy().updated(enforced(RULE), PLATFORM, name=NAME, now=NOW).terms == enforced(RULE)


@pytest.mark.behaviour("H26")
def test_one_administrator_makes_a_locked_policy_tighter_and_not_looser() -> None:
    assert LOCKED.updated(replace(LOCKED.terms, rules=()), ALICE, name=NAME, now=NOW).terms.rules == ()
    with pytest.raises(PreconditionError) as refused:
        LOCKED.updated(OPEN, ALICE, name=NAME, now=NOW)

    assert reason(refused) == "KEY_POLICY_LOOSENED"


@pytest.mark.behaviour("H26")
def test_another_administrator_approves_what_one_has_proposed() -> None:
    proposed = LOCKED.proposed(OPEN, ALICE, name=NAME, proposal_id=ID, now=NOW)
    approved = proposed.approved(ID, BOB, name=NAME, now=NOW)

    assert proposed.terms == LOCKED.terms
    assert (approved.terms, approved.proposal) == (OPEN, None)
    assert len({LOCKED.etag, proposed.etag, approved.etag}) == 3


@pytest.mark.behaviour("H26")
@pytest.mark.parametrize(
    "behind",
    [
        {"alice"},
        # Bob's token, which Alice has issued.
        {"bob", "alice"},
        # Whose token is issued by who has issued Alice's.
        {"bob", "carol"},
        # Nobody knows.
        set(),
    ],
)
def test_one_person_does_not_stand_behind_both(behind: set[str]) -> None:
    alice = replace(ALICE, behind=frozenset({"alice", "carol"}))
    proposed = LOCKED.proposed(OPEN, alice, name=NAME, proposal_id=ID, now=NOW)
    with pytest.raises(PermissionDeniedError) as refused:
        proposed.approved(ID, replace(BOB, behind=frozenset(behind)), name=NAME, now=NOW)

    assert reason(refused) == "SECOND_PERSON_NEEDED"


def test_a_proposal_of_a_credential_that_nobody_knows_is_approved_by_nobody() -> None:
    proposed = LOCKED.proposed(OPEN, replace(ALICE, behind=frozenset()), name=NAME, proposal_id=ID, now=NOW)
    with pytest.raises(PermissionDeniedError):
        proposed.approved(ID, BOB, name=NAME, now=NOW)


@pytest.mark.behaviour("H26")
def test_a_proposal_is_over_after_a_day_and_with_any_change() -> None:
    proposed = LOCKED.proposed(OPEN, ALICE, name=NAME, proposal_id=ID, now=NOW)
    changed = proposed.updated(replace(LOCKED.terms, rules=()), BOB, name=NAME, now=NOW)
    late = NOW + PROPOSAL_LIFETIME
    for policy, proposal_id, now in ((proposed, UUID(int=2), NOW), (changed, ID, NOW), (proposed, ID, late)):
        for decided in (policy.approved, policy.rejected):
            with pytest.raises(PreconditionError) as refused:
                decided(proposal_id, *([BOB] if decided == policy.approved else []), name=NAME, now=now)
            assert reason(refused) == "KEY_POLICY_PROPOSAL_GONE"

    assert proposed.approved(ID, BOB, name=NAME, now=late - timedelta(microseconds=1)).terms == OPEN


def test_one_proposal_waits_at_a_time_and_its_proposer_may_take_it_back() -> None:
    proposed = LOCKED.proposed(OPEN, ALICE, name=NAME, proposal_id=ID, now=NOW)
    with pytest.raises(PreconditionError) as refused:
        proposed.proposed(OPEN, BOB, name=NAME, proposal_id=UUID(int=2), now=NOW)

    assert reason(refused) == "KEY_POLICY_PROPOSAL_WAITS"
    assert proposed.rejected(ID, name=NAME, now=NOW).waiting(NOW) is None


def test_what_is_not_locked_needs_no_proposal() -> None:
    with pytest.raises(PreconditionError) as refused:
        Policy().proposed(OPEN, ALICE, name=NAME, proposal_id=ID, now=NOW)

    assert reason(refused) == "KEY_POLICY_NOT_LOCKED"


def test_an_etag_of_before_matches_nothing() -> None:
    with pytest.raises(EtagMismatchError):
        LOCKED.check_etag(NAME, Policy().etag)
    LOCKED.check_etag(NAME, "")
    LOCKED.check_etag(NAME, LOCKED.etag)


def test_what_is_written_is_read_again() -> None:
    rules = (RULE, replace(RULE, dual_control=True, reason_codes=frozenset()))
    proposed = LOCKED.proposed(replace(OPEN, rules=rules), BOB, name=NAME, proposal_id=ID, now=NOW).proposal

    assert read_rules(write_rules(rules)) == rules
    assert proposed is not None
    assert read_proposal(write_proposal(proposed)) == proposed


class LockedPolicies(RuleBasedStateMachine):
    """Three administrators, of whom one has issued another's token, and the platform, do whatever comes to mind."""

    WHO: Final = (ALICE, BOB, replace(ALICE, name="tenant-admin:dora", behind=frozenset({"dora", "alice"})), PLATFORM)

    @initialize(terms=policies.terms)
    def lock(self, terms: Terms) -> None:
        self.policy = Policy().updated(replace(terms, locked=True), ALICE, name=NAME, now=NOW)
        self.proposed_by: Administrator | None = None
        self.loosest = self.policy.terms

    @rule(data=st.data(), who=st.sampled_from(WHO))
    def update(self, data: st.DataObject, who: Administrator) -> None:
        before = self.policy
        wanted = data.draw(st.one_of(policies.likely_tighter(before.terms), policies.terms))
        try:
            self.policy = self.policy.updated(wanted, who, name=NAME, now=NOW)
        except (PermissionDeniedError, PreconditionError):
            return
        if who is PLATFORM and self.policy != before:
            assert (before.terms.locked, wanted.locked) == (False, False)

    @rule(wanted=policies.terms, who=st.sampled_from(WHO[:3]))
    def propose(self, wanted: Terms, who: Administrator) -> None:
        try:
            self.policy = self.policy.proposed(wanted, who, name=NAME, proposal_id=ID, now=NOW)
        except PreconditionError:
            return
        self.proposed_by = who

    @rule(who=st.sampled_from(WHO[:3]))
    def approve(self, who: Administrator) -> None:
        try:
            self.policy = self.policy.approved(ID, who, name=NAME, now=NOW)
        except (PermissionDeniedError, PreconditionError):
            return
        # Two have said so, and neither has made the other up.
        assert self.proposed_by is not None
        assert not self.proposed_by.behind & who.behind
        self.loosest = self.policy.terms

    @rule(use=policies.uses, now=policies.moments)
    def use(self, use: KeyUse, now: datetime) -> None:
        """Compare with what was there when two had agreed last, or nothing was locked."""
        if self.loosest.locked:
            assert decide(self.policy.terms, use, now).verdict <= decide(self.loosest, use, now).verdict

    @invariant()
    def it_stays_locked_until_two_unlock_it(self) -> None:
        if not self.loosest.locked:
            # Whoever unlocked it may change it alone now: nothing is promised until it is locked again.
            self.loosest = self.policy.terms
        assert self.policy.terms.locked or not self.loosest.locked


TestLockedPolicies = LockedPolicies.TestCase
