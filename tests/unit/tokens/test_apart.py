"""What takes two people is done with two credentials that no one person could have made."""

from collections.abc import Set as AbstractSet

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import PolicyDeniedError
from control_plane.tokens.model import THE_PLATFORM, check_apart

PEOPLE = st.frozensets(st.sampled_from(["ann", "ben", "cyd", "dora", THE_PLATFORM]))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # The same, one who has issued the other's, a third who has issued both, and the platform.
        ({"ann"}, {"ann"}),
        ({"ann"}, {"ben", "ann"}),
        ({"ann", "cyd"}, {"ben", "cyd"}),
        ({"ann", THE_PLATFORM}, {"ben", THE_PLATFORM}),
        # Nobody knows who.
        (set(), {"ben"}),
        (set(), set()),
    ],
)
@pytest.mark.behaviour("H26", "S2.13")
def test_credentials_that_one_person_could_have_made_are_one(one: AbstractSet[str], other: AbstractSet[str]) -> None:
    for first, second in ((one, other), (other, one)):
        with pytest.raises(PolicyDeniedError) as refused:
            check_apart(first, second, name="tenants/org_1/escrow")
        assert (refused.value.code, refused.value.resource) == ("SECOND_PERSON_NEEDED", "tenants/org_1/escrow")


@given(one=PEOPLE, other=PEOPLE)
def test_two_are_two_when_each_is_known_and_they_have_nobody_in_common(
    one: frozenset[str], other: frozenset[str]
) -> None:
    try:
        check_apart(one, other, name="n")
    except PolicyDeniedError:
        assert not one or not other or one & other
    else:
        assert one
        assert other
        assert one.isdisjoint(other)
