"""What may be sealed, and that two contexts are never taken for one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.encryption.model import (
    LARGEST_CIPHERTEXT,
    LARGEST_PLAINTEXT,
    Purpose,
    check_ciphertext,
    check_key_bytes,
    check_plaintext,
)
from control_plane.errors import Violations

CONTEXTS = st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=4)


@pytest.mark.behaviour("S2.7")
@given(CONTEXTS, CONTEXTS)
def test_two_contexts_bind_to_the_same_only_if_they_are_the_same(one: dict[str, str], other: dict[str, str]) -> None:
    assert (Purpose(context=one).binding == Purpose(context=other).binding) == (one == other)


@given(CONTEXTS)
def test_the_order_of_a_context_is_nothing(context: dict[str, str]) -> None:
    turned = dict(reversed(context.items()))

    assert Purpose(context=turned).binding == Purpose(context=context).binding
    assert json.loads(Purpose(context=context).binding) == context


@pytest.mark.parametrize(
    ("purpose", "fields"),
    [
        (Purpose(), []),
        (Purpose(context={"a-b.c_9": "ä" * 256}, reason="backup"), []),
        (Purpose(context={f"k{n}": "" for n in range(17)}), ["encryption_context"]),
        (Purpose(context={"": "x", "A": "y"}), ["encryption_context"] * 2),
        (Purpose(context={"k" * 65: "x"}), ["encryption_context"]),
        (Purpose(context={"k": "v" * 257}), ["encryption_context"]),
        (Purpose(reason="a" * 501), ["reason"]),
        (Purpose(reason="one\ntwo", context={"ä": "v" * 257}), ["reason", "encryption_context", "encryption_context"]),
    ],
)
def test_everything_that_is_wrong_is_said_at_once(purpose: Purpose, fields: list[str]) -> None:
    violations = Violations()
    purpose.check(violations)

    assert [one.field for one in violations.found] == fields


@pytest.mark.parametrize(("size", "is_sealed"), [(0, False), (1, True), (LARGEST_PLAINTEXT, True), (65537, False)])
def test_what_is_sealed_has_a_size(size: int, *, is_sealed: bool) -> None:
    violations = Violations()
    check_plaintext(bytes(size), violations)

    assert (not violations.found) == is_sealed


@pytest.mark.parametrize(("size", "is_tried"), [(0, False), (1, True), (LARGEST_CIPHERTEXT + 1, False)])
def test_what_cannot_be_an_envelope_is_not_tried(size: int, *, is_tried: bool) -> None:
    violations = Violations()
    check_ciphertext(bytes(size), violations)

    assert (not violations.found) == is_tried


@pytest.mark.parametrize(("asked", "given_bytes"), [(0, 32), (16, 16), (64, 64)])
def test_a_key_is_as_long_as_it_is_asked_for(asked: int, given_bytes: int) -> None:
    violations = Violations()

    assert check_key_bytes(asked, violations) == given_bytes
    assert violations.found == []


@pytest.mark.parametrize("asked", [-1, 1, 15, 65, 2**31 - 1])
def test_a_key_is_neither_too_short_nor_too_long(asked: int) -> None:
    violations = Violations()
    check_key_bytes(asked, violations)

    assert [one.field for one in violations.found] == ["key_bytes"]
