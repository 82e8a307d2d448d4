"""Whether a use passes, against a twin that is written as the words are, and case by case."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given

from control_plane.key_policies.decide import Decision, Unmatched, Verdict, decide
from control_plane.key_policies.model import Day, KeyUse, Operation, ReasonCode, Rule, Terms, Window
from control_plane.serving.time_zones import time_zone
from tests.unit.key_policies import policies

NOON: Final = datetime(2026, 11, 25, 12, tzinfo=UTC)
USE: Final = KeyUse(
    key="services",
    operation=Operation.DECRYPT,
    principal="tenant-member:alice",
    reason_code=ReasonCode.CUSTOMER_INITIATED,
)
RULE: Final = Rule(
    keys=frozenset({"services"}),
    operations=frozenset({Operation.DECRYPT}),
    principals=frozenset({"tenant-member:alice"}),
    reason_codes=frozenset({ReasonCode.CUSTOMER_INITIATED, ReasonCode.BACKUP}),
)


def enforced(*rules: Rule) -> Terms:
    return Terms(enforced=True, rules=rules)


def naive(terms: Terms, use: KeyUse, now: datetime) -> Verdict:
    """Decide by going through the rules of each kind, the strictest first."""
    if not terms.enforced:
        return Verdict.ALLOWED
    about = [rule for rule in terms.rules if is_about(rule, use) and is_its_time(rule, now)]
    if any(len(rule.reason_codes) == 0 for rule in about):
        return Verdict.DENIED
    allowing = [rule for rule in about if use.reason_code in rule.reason_codes]
    if not allowing:
        return Verdict.DENIED
    return Verdict.NEEDS_APPROVAL if any(rule.dual_control for rule in allowing) else Verdict.ALLOWED


def is_about(rule: Rule, use: KeyUse) -> bool:
    is_who = use.principal in rule.principals or use.principal.split(":")[0] in rule.principals
    return bool({"*", use.key} & rule.keys) and is_who and use.operation in rule.operations


def is_its_time(rule: Rule, now: datetime) -> bool:
    times = []
    for window in rule.windows:
        there = now.astimezone(time_zone(window.zone))
        is_day = not window.days or there.strftime("%A").upper() in {day.value for day in window.days}
        times.append(is_day and window.start <= there.strftime("%H:%M") < window.end)
    return any(times) or not rule.windows


@given(policies.terms, policies.uses, policies.moments)
@pytest.mark.behaviour("S2.11", "S2.12")
def test_a_use_is_decided_as_the_words_say(terms: Terms, use: KeyUse, now: datetime) -> None:
    assert decide(terms, use, now).verdict is naive(terms, use, now)


@given(policies.terms, policies.uses, policies.moments)
def test_why_it_is_denied_is_said_of_each_denied_use_and_of_no_other(terms: Terms, use: KeyUse, now: datetime) -> None:
    decision = decide(terms, use, now)

    assert (decision.unmatched is not None) is (decision.verdict is Verdict.DENIED)


def test_without_a_policy_everything_passes() -> None:
    assert decide(Terms(), USE, NOON).verdict is Verdict.ALLOWED


def test_a_policy_without_rules_denies_everything() -> None:
    assert decide(enforced(), USE, NOON) == Decision(verdict=Verdict.DENIED, unmatched=Unmatched.KEY)


@pytest.mark.parametrize(
    ("change", "unmatched"),
    [
        ({"key": "storage"}, Unmatched.KEY),
        ({"operation": Operation.ENCRYPT}, Unmatched.OPERATION),
        ({"principal": "tenant-member:bob"}, Unmatched.PRINCIPAL),
        ({"principal": "tenant-admin:alice"}, Unmatched.PRINCIPAL),
        ({"principal": "tenant-member:alice2"}, Unmatched.PRINCIPAL),
        ({"reason_code": ReasonCode.LEGAL_DEMAND}, Unmatched.REASON_CODE),
        ({"reason_code": None}, Unmatched.REASON_CODE),
    ],
)
@pytest.mark.behaviour("S2.11", "S2.12")
def test_what_no_rule_is_for_is_said(change: dict[str, Any], unmatched: Unmatched) -> None:
    assert decide(enforced(RULE), USE, NOON).verdict is Verdict.ALLOWED
    assert decide(enforced(RULE), replace(USE, **change), NOON) == Decision(verdict=Verdict.DENIED, unmatched=unmatched)


@pytest.mark.behaviour("S2.11")
def test_a_rule_without_reason_codes_denies_what_others_allow() -> None:
    anyone = replace(RULE, principals=frozenset({"tenant-member"}), reason_codes=frozenset())

    assert decide(enforced(RULE, anyone), USE, NOON) == Decision(verdict=Verdict.DENIED, unmatched=Unmatched.FORBIDDEN)


def test_dual_control_counts_beside_a_rule_that_merely_allows() -> None:
    assert decide(enforced(RULE, replace(RULE, dual_control=True)), USE, NOON).verdict is Verdict.NEEDS_APPROVAL


@pytest.mark.parametrize(
    ("moment", "is_in"),
    [
        ("2026-11-25T07:29:59+00:00", False),
        ("2026-11-25T07:30:00+00:00", True),
        ("2026-11-25T16:59:59+00:00", True),
        ("2026-11-25T17:00:00+00:00", False),
        ("2026-11-28T12:00:00+00:00", False),
        # Summer time: the same clocks, an hour earlier.
        ("2026-07-01T06:30:00+00:00", True),
        ("2026-07-01T16:00:00+00:00", False),
    ],
)
@pytest.mark.behaviour("S2.11")
def test_a_window_goes_by_the_clocks_of_its_place(moment: str, *, is_in: bool) -> None:
    days = frozenset(Day) - {Day.SATURDAY, Day.SUNDAY}
    window = Window(days=days, start="08:30", end="18:00", zone="Europe/Berlin")
    decision = decide(enforced(replace(RULE, windows=(window,))), USE, datetime.fromisoformat(moment))

    assert decision.unmatched is (None if is_in else Unmatched.TIME)


def test_a_zone_that_there_is_not_decides_nothing() -> None:
    lost = replace(RULE, windows=(Window(zone="Europe/Atlantis"),))
    with pytest.raises(ValueError, match="time zone"):
        decide(enforced(RULE, lost), USE, NOON)
