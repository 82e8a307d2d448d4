"""A secret in shares."""

import random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.escrows.shares import SharesError, combine, split

SECRET: Final = bytes(range(32))
sizes = st.integers(2, 16).flatmap(lambda count: st.tuples(st.integers(2, count), st.just(count)))


@pytest.mark.behaviour("S2.13")
@settings(max_examples=30)
@given(secret=st.binary(min_size=32, max_size=32), size=sizes, seed=st.integers())
def test_any_k_shares_of_n_give_the_secret_and_k_less_one_give_nothing(
    secret: bytes, size: tuple[int, int], seed: int
) -> None:
    threshold, count = size
    shares = split(secret, threshold=threshold, count=count)
    chosen = random.Random(seed).sample(shares, threshold)

    assert len(set(shares)) == count
    assert combine(chosen) == secret
    with pytest.raises(SharesError):
        combine(chosen[:-1])


def test_a_share_that_is_there_twice_counts_once() -> None:
    first, second, third = split(SECRET, threshold=2, count=3)

    with pytest.raises(SharesError):
        combine([first, first])
    assert combine([second, third]) == SECRET


def test_shares_of_two_splittings_give_nothing_together() -> None:
    ours, theirs = (split(SECRET, threshold=2, count=2) for _ in range(2))

    with pytest.raises(SharesError):
        combine([ours[0], theirs[1]])


@given(place=st.integers(0, 32), word=st.sampled_from([b"academic", b"zero", b"nonsense"]))
def test_a_share_with_another_word_gives_nothing(place: int, word: bytes) -> None:
    first, second = split(SECRET, threshold=2, count=2)
    words = first.split()
    words[place] = word

    if words != first.split():
        with pytest.raises(SharesError):
            combine([b" ".join(words), second])


@pytest.mark.parametrize("shares", [[], [b""], [b"\xff"], [b"one two three"]])
def test_what_is_no_share_gives_nothing(shares: list[bytes]) -> None:
    with pytest.raises(SharesError):
        combine(shares)


def test_the_refusal_does_not_repeat_a_share() -> None:
    # Shares are made of 1024 words, and these two stand in the sentence, too: by chance, one share in 16 has one.
    anew = iter(lambda: split(SECRET, threshold=2, count=2)[0], None)
    first = next(share for share in anew if not {b"secret", b"together"} & set(share.split()))
    with pytest.raises(SharesError) as refused:
        combine([first])

    assert not set(first.decode().split()) & set(str(refused.value).split())
    assert refused.value.__cause__ is None
