"""A mapping in pieces, of which a change copies only those that it touches. Pure.

Whoever holds the mapping of before sees nothing of the change, and shares all other pieces with it. However many
entries there are, a lookup asks one dictionary, a change of one entry costs microseconds, and so does finding out what
it was. Small mappings are one piece, in the order in which their entries came; larger ones have no order.
"""

from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from itertools import chain, compress
from operator import is_not
from typing import Final, Generic, TypeVar, overload

from typing_extensions import override

# Entries a piece, on average: when it has more, all are cut anew into smaller ones. So a mapping that grows is cut as
# often as it doubles, and no other change touches more than a few of its pieces.
_MOST: Final = 256
_AFTER_CUTTING: Final = 128

Key = TypeVar("Key")
Value = TypeVar("Value")
Other = TypeVar("Other")


class Pieces(Mapping[Key, Value]):
    """A mapping that never changes: `draft` begins another one."""

    __slots__ = ("_length", "_pieces")

    def __init__(self, pieces: tuple[dict[Key, Value], ...] | None = None, length: int = 0) -> None:
        """Hold no entries: those with any are made by drafts."""
        self._pieces = pieces or ({},)
        self._length = length

    def draft(self, keep: Callable[[Value], bool] | None = None) -> "Draft[Key, Value]":
        """Begin a mapping with these entries. Where it copies a piece, it leaves behind what is not to be kept."""
        return Draft(self, self._pieces, keep)

    def differing(self, before: "Pieces[Key, Value]") -> Iterator[Key]:
        """Return the keys that lead to another object than they did before, or that are in one of both only."""
        # Entries must not be None.
        if len(self._pieces) == len(before._pieces):  # noqa: SLF001 of the same class
            pairs = zip(self._pieces, before._pieces, strict=True)  # noqa: SLF001 the same
        else:
            pairs = zip((dict(self),), (dict(before),), strict=True)
        for mine, others in pairs:
            if mine is not others:
                yield from compress(mine, map(is_not, mine.values(), map(others.get, mine)))
                yield from others.keys() - mine.keys()

    @override
    def __getitem__(self, key: Key) -> Value:
        return self._pieces[hash(key) % len(self._pieces)][key]

    @overload
    def get(self, key: Key, /) -> Value | None: ...
    @overload
    def get(self, key: Key, /, default: Value | Other) -> Value | Other: ...
    @override
    def get(self, key: Key, /, default: Value | Other | None = None) -> Value | Other | None:
        # Each request comes here: what `Mapping` makes of `__getitem__` would be slower.
        pieces = self._pieces
        return pieces[hash(key) % len(pieces)].get(key, default)

    @override
    def __contains__(self, key: object) -> bool:
        pieces = self._pieces
        return key in pieces[hash(key) % len(pieces)]

    @override
    def __len__(self) -> int:
        return self._length

    @override
    def __iter__(self) -> Iterator[Key]:
        return chain.from_iterable(self._pieces)

    @override
    def items(self) -> ItemsView[Key, Value]:
        return _Items(self, self._pieces)

    @override
    def values(self) -> ValuesView[Value]:
        return _Values(self, self._pieces)


class Draft(Generic[Key, Value]):
    """A mapping that is to be, and reads as such already."""

    def __init__(
        self,
        before: Pieces[Key, Value],
        pieces: tuple[dict[Key, Value], ...],
        keep: Callable[[Value], bool] | None,
    ) -> None:
        """Begin with the mapping before, which has these pieces."""
        self._made = before
        self._pieces = list(pieces)
        self._keep = keep
        self._length = len(before)
        # Where the pieces are that nobody else holds.
        self._own: set[int] = set()

    def get(self, key: Key) -> Value | None:
        """Return the entry's value, if there is one."""
        return self._pieces[hash(key) % len(self._pieces)].get(key)

    def put(self, key: Key, value: Value) -> None:
        """Add or replace an entry."""
        piece = self._owned(key)
        self._length += key not in piece
        piece[key] = value

    def drop(self, key: Key) -> None:
        """Take an entry away that is there."""
        del self._owned(key)[key]
        self._length -= 1

    def done(self) -> Pieces[Key, Value]:
        """Return the mapping as it is by now; it never changes, even if the draft goes on."""
        if self._own:
            if self._length > _MOST * len(self._pieces):
                self._pieces = _cut(self._pieces, self._length)
            self._made = Pieces(tuple(self._pieces), self._length)
            self._own.clear()
        return self._made

    def _owned(self, key: Key) -> dict[Key, Value]:
        number = hash(key) % len(self._pieces)
        if number not in self._own:
            piece = self._pieces[number]
            mine = dict(piece) if self._keep is None else {k: v for k, v in piece.items() if self._keep(v)}
            self._length -= len(piece) - len(mine)
            self._pieces[number] = mine
            self._own.add(number)
        return self._pieces[number]


class _Items(ItemsView[Key, Value]):
    def __init__(self, whole: Pieces[Key, Value], pieces: tuple[dict[Key, Value], ...]) -> None:
        super().__init__(whole)
        self._pieces = pieces

    @override
    def __iter__(self) -> Iterator[tuple[Key, Value]]:
        return chain.from_iterable(piece.items() for piece in self._pieces)


class _Values(ValuesView[Value]):
    def __init__(self, whole: Pieces[Key, Value], pieces: tuple[dict[Key, Value], ...]) -> None:
        super().__init__(whole)
        self._pieces = pieces

    @override
    def __iter__(self) -> Iterator[Value]:
        return chain.from_iterable(piece.values() for piece in self._pieces)


def _cut(pieces: list[dict[Key, Value]], length: int) -> list[dict[Key, Value]]:
    # An odd number: within a piece the keys' hashes still differ in the low bits, by which a dictionary places them.
    count = length // _AFTER_CUTTING | 1
    cut: list[dict[Key, Value]] = [{} for _ in range(count)]
    for key, value in chain.from_iterable(piece.items() for piece in pieces):
        cut[hash(key) % count][key] = value
    return cut
