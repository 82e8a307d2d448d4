"""What counts as tighter lets nothing pass that did not pass before: whatever the use, and whenever."""

from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from control_plane.key_policies.compare import loosenings
from control_plane.key_policies.decide import decide
from control_plane.key_policies.model import Day, KeyUse, Operation, ReasonCode, Rule, Terms, Window
from tests.unit.key_policies import policies
from tests.unit.key_policies.test_decide import RULE, enforced

FORBIDS = replace(RULE, reason_codes=frozenset())
DUAL = replace(RULE, dual_control=True)


@given(st.data(), policies.terms, st.lists(st.tuples(policies.uses, policies.moments), min_size=8, max_size=8))
@pytest.mark.behaviour("H26", "S2.11")
def test_what_is_tighter_lets_nothing_pass_that_did_not(
    data: st.DataObject, before: Terms, tried: list[tuple[KeyUse, datetime]]
) -> None:
    after = data.draw(st.one_of(policies.likely_tighter(before), policies.terms))
    assume(not loosenings(before, after))

    assert [use for use, now in tried if decide(after, use, now).verdict > decide(before, use, now).verdict] == []


@given(policies.terms)
def test_the_same_is_tighter_and_so_is_nothing_at_all(terms: Terms) -> None:
    assert loosenings(terms, terms) == ()
    assert loosenings(terms, replace(terms, rules=tuple(r for r in terms.rules if r.forbids or r.dual_control))) == ()


@given(policies.terms)
def test_unlocking_is_never_tighter(terms: Terms) -> None:
    assert loosenings(replace(terms, locked=True), replace(terms, locked=False))


@pytest.mark.parametrize(
    "after",
    [
        enforced(),
        enforced(FORBIDS),
        enforced(RULE, FORBIDS),
        enforced(DUAL),
        enforced(RULE, DUAL),
        enforced(replace(RULE, reason_codes=frozenset({ReasonCode.BACKUP}))),
        enforced(replace(RULE, windows=(Window(days=frozenset({Day.MONDAY})),))),
        replace(enforced(RULE), locked=True),
    ],
)
def test_what_is_plainly_tighter_is_known_to_be(after: Terms) -> None:
    assert loosenings(enforced(RULE), after) == ()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (enforced(RULE), Terms()),
        (enforced(RULE), enforced(replace(RULE, keys=frozenset({"*"})))),
        (enforced(RULE), enforced(replace(RULE, operations=RULE.operations | {Operation.SIGN}))),
        (enforced(RULE), enforced(replace(RULE, principals=frozenset({"tenant-member"})))),
        (enforced(RULE), enforced(replace(RULE, reason_codes=frozenset(ReasonCode)))),
        (enforced(DUAL), enforced(RULE)),
        (enforced(DUAL, RULE), enforced(RULE)),
        (enforced(RULE, FORBIDS), enforced(RULE)),
        (enforced(replace(RULE, windows=(Window(end="12:00"),))), enforced(RULE)),
        (
            enforced(replace(RULE, windows=(Window(end="12:00"),))),
            enforced(replace(RULE, windows=(Window(end="12:01"),))),
        ),
        (
            enforced(replace(RULE, windows=(Window(end="12:00"),))),
            enforced(replace(RULE, windows=(Window(end="12:00", zone="Asia/Tokyo"),))),
        ),
        (
            enforced(RULE, replace(FORBIDS, windows=(Window(end="12:00"),))),
            enforced(RULE, replace(FORBIDS, windows=(Window(end="11:00"),))),
        ),
    ],
)
@pytest.mark.behaviour("H26")
def test_what_lets_more_pass_is_looser(before: Terms, after: Terms) -> None:
    assert loosenings(before, after)


def test_two_rules_that_cover_a_third_together_prove_nothing() -> None:
    """It is tighter, and not known to be: such a change is approved by two."""
    halves = [replace(RULE, reason_codes=frozenset({code})) for code in RULE.reason_codes]
    whole: Rule = RULE

    assert loosenings(enforced(*halves), enforced(whole))
