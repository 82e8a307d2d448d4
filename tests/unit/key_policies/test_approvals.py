"""A second person's consent to uses of a key."""

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
from control_plane.key_policies.approvals import (
    DENIAL_LIFETIME,
    LONGEST_LIFETIME,
    MOST_USES,
    REQUEST_LIFETIME,
    SHORTEST_LIFETIME,
    Approval,
    State,
    Wish,
    asked,
    check_consent,
)
from control_plane.key_policies.policy import Administrator
from control_plane.tokens.model import ANYBODY
from tests.unit.key_policies.test_decide import USE

NAME: Final = "tenants/org_1/keyUseApprovals/1"
NOW: Final = datetime(2026, 11, 25, 12, tzinfo=UTC)
WISH: Final = Wish(uses=2, lifetime=timedelta(hours=1), now=NOW)
CAROL: Final = Administrator(name="tenant-admin:carol", is_tenants=True, behind=frozenset({"carol", " platform"}))
ASKED: Final = asked(USE, approval_id=UUID(int=1), behind=frozenset({" platform"}), now=NOW)


def approved(request: Approval, *, wish: Wish = WISH, by: Administrator = CAROL, is_locked: bool = False) -> Approval:
    return request.approved(wish, by, name=NAME, is_locked=is_locked)


def test_it_is_good_for_its_uses_and_its_time() -> None:
    consent = approved(ASKED)

    assert (consent.state, consent.uses_left, consent.decider) == (State.APPROVED, 2, "tenant-admin:carol")
    assert consent.is_live(NOW + timedelta(minutes=59))
    assert not consent.is_live(NOW + timedelta(hours=1))
    assert not replace(consent, uses_left=0).is_live(NOW)
    assert consent.etag != ASKED.etag


@pytest.mark.behaviour("S2.11")
@pytest.mark.parametrize("principal", ["tenant-member:alice", "tenant-admin:alice", "service:crm/alice"])
@pytest.mark.parametrize("behind", [{"alice"}, {"carol", "alice"}, set()])
def test_nobody_consents_to_a_use_of_their_own_whatever_the_credential(principal: str, behind: set[str]) -> None:
    request = replace(ASKED, principal=principal)
    with pytest.raises(PolicyDeniedError) as refused:
        approved(request, by=replace(CAROL, behind=frozenset(behind)))

    assert refused.value.code == "SECOND_PERSON_NEEDED"
    assert approved(request).state is State.APPROVED


@pytest.mark.behaviour("S2.11")
@pytest.mark.parametrize("issuers", [{"carol"}, {"dora", "carol"}, {ANYBODY}])
def test_nobody_consents_to_a_use_by_a_credential_of_their_making(issuers: set[str]) -> None:
    with pytest.raises(PolicyDeniedError):
        approved(replace(ASKED, behind=frozenset(issuers)))


@pytest.mark.behaviour("S2.11")
def test_one_who_has_made_both_credentials_does_not_do_it_by_them() -> None:
    both = frozenset({"dora"})
    with pytest.raises(PolicyDeniedError):
        approved(replace(ASKED, behind=both), by=replace(CAROL, behind=CAROL.behind | both))


@pytest.mark.behaviour("S2.11")
def test_the_platform_makes_both_only_where_the_policy_is_not_locked() -> None:
    with pytest.raises(PolicyDeniedError):
        approved(ASKED, is_locked=True)

    assert approved(ASKED).state is State.APPROVED
    assert approved(ASKED, by=replace(CAROL, behind=frozenset({"carol"})), is_locked=True).state is State.APPROVED


def test_what_was_decided_or_is_over_is_not_approved() -> None:
    consent = approved(ASKED)
    denied = ASKED.denied("tenant-admin:carol", name=NAME, now=NOW)
    for request, now in ((consent, NOW), (denied, NOW), (ASKED, NOW + REQUEST_LIFETIME)):
        with pytest.raises(PreconditionError) as refused:
            approved(request, wish=replace(WISH, now=now))
        assert refused.value.code == "KEY_USE_APPROVAL_OVER"


def test_a_consent_is_taken_back_and_nobody_is_asked_again_for_a_while() -> None:
    denied = approved(ASKED).denied("tenant-admin:dora", name=NAME, now=NOW)

    assert (denied.state, denied.uses_left, denied.decider) == (State.DENIED, 0, "tenant-admin:dora")
    assert denied.denied("tenant-admin:carol", name=NAME, now=NOW) == denied
    assert [denied.is_live(NOW + DENIAL_LIFETIME * part) for part in (0.9, 1)] == [True, False]
    with pytest.raises(PreconditionError):
        ASKED.denied("tenant-admin:carol", name=NAME, now=NOW + REQUEST_LIFETIME)


def test_an_etag_of_before_matches_nothing() -> None:
    with pytest.raises(EtagMismatchError):
        approved(ASKED).check_etag(NAME, ASKED.etag)


@pytest.mark.parametrize(
    ("uses", "lifetime", "fields"),
    [
        (1, SHORTEST_LIFETIME, []),
        (MOST_USES, LONGEST_LIFETIME, []),
        (0, SHORTEST_LIFETIME - timedelta(seconds=1), ["uses", "ttl"]),
        (MOST_USES + 1, LONGEST_LIFETIME + timedelta(seconds=1), ["uses", "ttl"]),
    ],
)
def test_consent_has_its_bounds(uses: int, lifetime: timedelta, fields: list[str]) -> None:
    violations = Violations()
    check_consent(uses, lifetime, violations)

    assert [violation.field for violation in violations.found] == fields
    if fields:
        with pytest.raises(InvalidArgumentError):
            violations.check()
