"""A mapping in pieces is what a dictionary would be, and never changes."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.policies import pieces
from ext_authz.policies.pieces import Pieces

# Drafts one after the other: each puts a value under a key, or drops the key where there is no value.
KEYS = st.one_of(st.integers(-60, 60), st.integers(0, 9).map(str), st.integers(0, 9).map(lambda number: (number,)))
EDITS = st.lists(st.tuples(KEYS, st.one_of(st.none(), st.integers(0, 5))), max_size=25)
DRAFTS = st.lists(EDITS, min_size=1, max_size=8)
ABSENT = "never a key"


@pytest.fixture(scope="module", autouse=True)
def small_pieces() -> Iterator[None]:
    """Pieces so small that they are often cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_MOST", 6)
        patch.setattr(pieces, "_AFTER_CUTTING", 3)
        yield


def edited(before: Pieces[object, int], model: dict[object, int], edits: list[tuple[object, int | None]]) -> None:
    draft = before.draft()
    for key, value in edits:
        assert draft.get(key) == model.get(key)

        if value is not None:
            draft.put(key, value)
            model[key] = value
        elif key in model:
            draft.drop(key)
            del model[key]
    assert_same(draft.done(), model)


def applied(before: Pieces[object, int], edits: list[tuple[object, int | None]]) -> Pieces[object, int]:
    draft = before.draft()
    for key, value in edits:
        if value is not None:
            draft.put(key, value)
        elif draft.get(key) is not None:
            draft.drop(key)
    return draft.done()


def assert_same(found: Pieces[object, int], model: dict[object, int]) -> None:
    assert found == model
    assert model == found
    assert len(found) == len(model) == len(list(found))
    assert set(found) == set(model)
    assert sorted(map(repr, found.items())) == sorted(map(repr, model.items()))
    assert sorted(found.values()) == sorted(model.values())
    assert list(zip(found, found.values(), strict=True)) == list(found.items())
    assert all(found[key] == found.get(key) == value and key in found for key, value in model.items())
    assert ABSENT not in found
    assert (found.get(ABSENT), found.get(ABSENT, 7)) == (None, 7)
    with pytest.raises(KeyError):
        found[ABSENT]


@given(drafts=DRAFTS)
def test_it_is_what_a_dictionary_would_be(drafts: list[list[tuple[object, int | None]]]) -> None:
    found: Pieces[object, int] = Pieces()
    model: dict[object, int] = {}
    for edits in drafts:
        edited(found, model, edits)
        found = applied(found, edits)

        assert_same(found, model)


@given(drafts=DRAFTS)
def test_what_was_there_before_stays_as_it_was(drafts: list[list[tuple[object, int | None]]]) -> None:
    found: Pieces[object, int] = Pieces()
    before: list[tuple[Pieces[object, int], dict[object, int]]] = []
    for edits in drafts:
        before.append((found, dict(found)))
        found = applied(found, edits)

    for held, was in before:
        assert_same(held, was)


@given(drafts=DRAFTS)
def test_what_differs_is_found_between_any_two(drafts: list[list[tuple[object, int | None]]]) -> None:
    history: list[Pieces[object, int]] = [Pieces()]
    for edits in drafts:
        history.append(applied(history[-1], edits))

    for one in history:
        for other in history:
            found = list(other.differing(one))

            assert len(found) == len(set(found))
            assert set(found) == {key for key in {*one, *other} if one.get(key) is not other.get(key)}


@given(edits=EDITS, more=EDITS)
def test_a_draft_that_goes_on_changes_nothing_that_is_done(
    edits: list[tuple[object, int | None]], more: list[tuple[object, int | None]]
) -> None:
    draft = Pieces[object, int]().draft()
    done: list[tuple[Pieces[object, int], dict[object, int]]] = []
    for key, value in [*edits, *more]:
        draft.put(key, value or 0)
        if value:
            done.append((draft.done(), dict(draft.done())))

    for held, was in done:
        assert_same(held, was)


@given(edits=EDITS, more=EDITS, least=st.integers(0, 5))
def test_what_is_not_to_be_kept_goes_sooner_or_later_and_nothing_else_does(
    edits: list[tuple[object, int | None]], more: list[tuple[object, int | None]], least: int
) -> None:
    before = applied(Pieces(), edits)
    draft = before.draft(keep=lambda value: value >= least)
    for key, value in more:
        draft.put(key, value or 0)
    found = draft.done()
    new = {key: value or 0 for key, value in more}
    kept = {key: value for key, value in before.items() if value >= least}

    assert_same(found, dict(found))
    assert (kept | new).items() <= dict(found).items() <= (dict(before) | new).items()


def test_a_draft_without_edits_is_what_was_there() -> None:
    before: Pieces[object, int] = applied(Pieces(), [(1, 1)])

    assert before.draft().done() is before


def test_a_change_of_one_entry_copies_one_piece() -> None:
    before = applied(Pieces(), [(number, 1) for number in range(100)])
    after = applied(before, [(50, 2)])
    shared = sum(one is other for one, other in zip(before._pieces, after._pieces, strict=True))

    assert shared == len(before._pieces) - 1 > 10


def test_a_few_entries_are_in_the_order_in_which_they_came() -> None:
    assert list(applied(Pieces(), [("b", 1), ("a", 2), ("c", 3), ("a", 4)])) == ["b", "a", "c"]


def test_pieces_are_of_like_size_whether_keys_are_in_a_row_or_not() -> None:
    for keys in (range(1000), range(0, 64_000, 64), map(str, range(1000))):
        sizes = [len(piece) for piece in applied(Pieces(), [(key, 1) for key in keys])._pieces]

        assert len(sizes) > 100
        assert max(sizes) <= 30
