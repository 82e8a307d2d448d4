"""Sealing to a public key."""

import base64
from itertools import combinations
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from control_plane.recipients import hpke
from control_plane.recipients.hpke import Context, PrivateKey, PublicKeyError, UnopenedError

KEY: Final = PrivateKey(seed=bytes(range(32)))
CONTEXT: Final = Context(purpose="a test/1", parts=(b"a", b"b"))
PLAIN: Final = b"a canary in plain sight"
# The seed of X-Wing's first test vector, which expands seeds in the same way, and how its public key begins and ends.
VECTOR: Final = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
contexts = st.builds(Context, purpose=st.text(max_size=20), parts=st.lists(st.binary(max_size=40)).map(tuple))


def test_a_seed_gives_the_key_that_others_make_of_it() -> None:
    public = PrivateKey(seed=bytes.fromhex(VECTOR)).public

    assert len(public) == 1216
    assert (public[:8].hex(), public[-8:].hex()) == ("e2236b35a8c24b39", "c8cd049040ef6534")


def test_what_was_sealed_once_opens_for_ever() -> None:
    assert KEY.open(base64.b64decode(SEALED), CONTEXT) == PLAIN


@given(plain=st.binary(max_size=200), context=contexts)
def test_what_is_sealed_to_a_key_for_a_context_opens_with_both(plain: bytes, context: Context) -> None:
    assert KEY.open(hpke.seal(KEY.public, plain, context), context) == plain


@given(one=contexts, other=contexts)
def test_two_contexts_never_say_the_same(one: Context, other: Context) -> None:
    assert (one.info() == other.info()) == (one == other)


@given(other=contexts)
def test_nothing_opens_for_another_context(other: Context) -> None:
    sealed = base64.b64decode(SEALED)

    if other != CONTEXT:
        with pytest.raises(UnopenedError):
            KEY.open(sealed, other)


def test_a_part_that_moves_from_one_place_to_the_next_is_another_context() -> None:
    said = [Context(purpose="a", parts=parts) for parts in ((b"b", b"c"), (b"bc",), (b"bc", b""), (b"", b"bc"))]
    said.append(Context(purpose="ab", parts=(b"c",)))

    assert all(one.info() != other.info() for one, other in combinations(said, 2))


@given(seed=st.binary(min_size=32, max_size=32))
def test_nothing_opens_with_another_key(seed: bytes) -> None:
    if seed != KEY.seed:
        with pytest.raises(UnopenedError):
            PrivateKey(seed=seed).open(base64.b64decode(SEALED), CONTEXT)


@given(data=st.data())
def test_an_envelope_with_a_flipped_bit_does_not_open(data: st.DataObject) -> None:
    sealed = bytearray(base64.b64decode(SEALED))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    with pytest.raises(UnopenedError):
        KEY.open(bytes(sealed), CONTEXT)


@given(data=st.data())
def test_an_envelope_that_was_cut_or_grew_does_not_open(data: st.DataObject) -> None:
    sealed = base64.b64decode(SEALED)
    cut = sealed[: data.draw(st.integers(0, len(sealed) - 1))]

    for wrong in (cut, sealed + data.draw(st.binary(min_size=1, max_size=8))):
        with pytest.raises(UnopenedError):
            KEY.open(wrong, CONTEXT)


def test_the_same_is_sealed_differently_each_time() -> None:
    assert hpke.seal(KEY.public, PLAIN, CONTEXT) != hpke.seal(KEY.public, PLAIN, CONTEXT)


def test_a_classical_key_is_refused() -> None:
    classical = X25519PrivateKey.generate().public_key().public_bytes_raw()

    with pytest.raises(PublicKeyError, match="classical keys are not"):
        hpke.check_public(classical)


def test_a_key_whose_halves_are_no_keys_is_refused() -> None:
    mlkem, x25519 = KEY.public[:1184], KEY.public[1184:]

    for wrong in (b"\xff" * 1184 + x25519, mlkem + bytes(32), KEY.public[:-1], b""):
        with pytest.raises(PublicKeyError):
            hpke.check_public(wrong)
    hpke.check_public(KEY.public)


def test_a_seed_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        PrivateKey(seed=bytes(31))


def test_a_private_key_does_not_show_itself() -> None:
    assert repr(KEY.seed) not in repr(KEY)


SEALED: Final = (
    "QkhQAQH7FEdmX6ptIaS5Uq40xjuv+7tooYsT/aTIN4iWzEmmyAVIvO4xkSw8pzPSSSxske8XOv7MgtgLvWhoFrtQkDpkZrOT35aTiZFO9+IblyZH"
    "HesDrxKbw65YgOX7b3wa76CT/P+8nkGo+p/uXUw2ZoBBxx+qMPQ2cSRwA5lMqfTdn6Wgqyrq0kZr/X2zARXJov46/AHEvpeM3Dx3W0nRYRdlS3Qz"
    "1lB9/5nj8cocyboXdM91F9jttnQn3kSaACUVhf8LwapGe4N/6eZc8Lub2WOM4lOpyhlXjpvcXr5ZMzjkB12L73yn73paNLsbNXWjSzTWlZCfzK5n"
    "fWEwfQs8VWr9Qu2RXhD58Puwqc3C5sVM7xd7q9L67ick2tR04xIKur62ttLn1ZM9vPH3y4NyBMN34f2ehypOfN0rFy4NteT5g7QeBAVu/naeFMDp"
    "aB9ze1TKEglmMO0yr2P4L44J3/o4AZq8Vs4p7FQ8jobnpFaAUbOz8HRUC7uLoGpYX+c/L4AC8pseHsKy0kObhgMcxCerSZlheMr38kf2ubDSMlfT"
    "Tt5vDSyDh6tbQMi1x+IquwS6tQ6yCkJkpiwidrvCa1vuSsWgmuAGaCTk8sQYjK3TJv3O66TRvd6Odpm/Nu14JfOazdmYWPnaLqAK5R7MQA4fAYGa"
    "IfQazdVjwaeRENEg/lNRx05gVaeyDKJMbiGKs6j0kzne5P1IVX+00LAHrcOFEA1d+iiaGikBx6NPd4/QrhSSnPPlDV+lKo3SvCaYXbRl9VSjoIpf"
    "p0HgHm0YGlNKoPdgmE5qNS84jYL1MS1Zv95bZt59KpdkNpRW7+d/CE40nMFzQP2hyVDE85rf6hSN9bEa4XGFpbY13wa9qSzLCwt9jRG7jePMrYOw"
    "J+jtCGkGogPETMMeJjA4cmMbnfHpyVXM8QfzUCKGZbRomVJYiObUwCfZlziuKNedbhbp5dV43BbmzqU/+XoRotyFLOPu6EHQZ1ZAuFw94Mrq5/H6"
    "6VnVwjWyWgvosqOcFyQ1r2Ro9OZNFycZAFfc/FgDhGs7ki2dJFl9gk2gdt9yqMBh1cXGbRosf5IIfvRRVLl+Ghp9RdIA70T9QakoPNIhnfq8/ui4"
    "KHpEpHq3WsZ6Fz1rWA3UcmWJJRc7Ggpf9G6dCHw4yHUVDecf3TA0SisrxT/oklDER1J2oLCM9cNbLyA+gE2X226ScqkTpbPlJjhehFADyPkfJu4I"
    "/1BuZZCpWEn6UJu4r73s13Hcr9196EsyESQsdzNvEkPPZ4oK9M4NkS0iX0XribLQSDPh62z72zXk5sUZiilnYV0oDByj/T+7QliD7hQNCdI+DJsu"
    "0v4Ew2df3I85sdlp8LkCK5tbn4NYpOgg9dRo/FkgxzrpungB62TUqoKVZswa5M9WGk5UCH0mbXDipgcChCkL6uzmkNYKJV93Qehov/qf1bfOXp3J"
    "XdZM47xD9vUW3VjaFCIcPK4lOtzbfT7oLY+gXqAdb+pur9FD2hHGwIYLACKqLpgD8wPXH1XCoD1FObwIHnr1/piKg0phw/YY"
)
