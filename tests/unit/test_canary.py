"""A marker is recognised for what it is and whose it is, and a text that looks like one is not."""

import secrets
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.canary import BreachError, Canaries

CANARIES = Canaries(b"k" * 32)
OWN, OTHER = UUID(int=1), UUID(int=2)


def breach(data: bytes | str, own: UUID | None = OWN) -> UUID | None:
    """Return whose marker is found in the data, that is not `own`'s."""
    try:
        CANARIES.check(data, own=own, channel="row")
    except BreachError as error:
        return error.owner_uid
    return None


@pytest.mark.behaviour("S1.17")
@pytest.mark.parametrize("before", ["", "x", "bulkhead_canary_", "\x00", "ä" * 1000])
@pytest.mark.parametrize("after", ["", "x", "0", "\n"])
def test_another_tenants_marker_is_found_wherever_it_stands(before: str, after: str) -> None:
    text = before + CANARIES.marker(OTHER) + after

    assert breach(text) == breach(text.encode()) == breach(text, None) == OTHER


def test_a_tenants_own_marker_is_its_own() -> None:
    text = CANARIES.marker(OWN) * 3

    assert breach(text) is None
    assert breach(text, None) == OWN
    assert breach(text + CANARIES.marker(OTHER)) == OTHER


def test_a_marker_is_the_same_each_time_and_differs_by_tenant_and_by_cell() -> None:
    markers = {CANARIES.marker(OWN), CANARIES.marker(OTHER), Canaries(b"j" * 32).marker(OWN)}

    assert len(markers) == 3
    assert Canaries(b"k" * 32).marker(OWN) in markers


def test_whoever_does_not_know_the_key_cannot_make_another_tenant_look_guilty() -> None:
    forged = f"bulkhead_canary_{OTHER.hex}_{secrets.token_hex(16)}"
    of_another_cell = Canaries(b"j" * 32).marker(OTHER)

    assert breach(forged) is None
    assert breach(of_another_cell) is None


def test_a_breach_names_nobody_where_callers_may_read_it() -> None:
    with pytest.raises(BreachError) as caught:
        CANARIES.check(CANARIES.marker(OTHER), own=OWN, channel="response")

    assert OTHER.hex not in str(caught.value)
    assert str(OTHER) not in repr(caught.value)
    assert "k" * 32 not in repr(CANARIES)


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_nothing_else_is_a_marker(data: bytes | str) -> None:
    assert breach(data) is None


@given(st.binary(max_size=100), st.uuids(), st.binary(max_size=100))
def test_a_marker_is_found_between_any_bytes(before: bytes, owner: UUID, after: bytes) -> None:
    assert breach(before + CANARIES.marker(owner).encode() + after, uuid4()) == owner
