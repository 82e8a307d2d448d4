"""The envelope of objects of any size: it opens as it was sealed, or not at all."""

import struct
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import example, given
from hypothesis import strategies as st

from control_plane.keys.model import Binding, IntegrityError, seal
from control_plane.keys.sealing import segments
from control_plane.keys.sealing.segments import (
    HEADER_BYTES,
    SEGMENT_BYTES,
    Opener,
    Sealer,
    is_segmented,
    open_whole,
    seal_whole,
    segmented_version,
)

KEY, SALT = bytes(range(32)), bytes(range(32, 64))
BINDING = Binding(
    tenant_uid=UUID(int=7), purpose="storage", version=3, object_name="storage/org_1/a.pem", object_version=5
)
AAD = BINDING.aad()
SEALED_SEGMENT = SEGMENT_BYTES + 16
# Around the sizes at which the number of segments changes.
SIZES = [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES, 3 * SEGMENT_BYTES + 5]
sizes = st.sampled_from(SIZES) | st.integers(0, 4 * SEGMENT_BYTES)


def _content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def _sealed(plaintext: bytes, *, key: bytes = KEY, salt: bytes = SALT, aad: bytes = AAD) -> bytes:
    return seal_whole(key, plaintext, version=3, salt=salt, aad=aad)


def _opened(envelope: bytes, *, aad: bytes = AAD) -> bytes:
    return open_whole(KEY, envelope, version=3, aad=aad)


def _segments(envelope: bytes) -> list[bytes]:
    body = envelope[HEADER_BYTES:]
    return [body[begin : begin + SEALED_SEGMENT] for begin in range(0, len(body), SEALED_SEGMENT)]


@pytest.mark.parametrize("size", SIZES)
def test_an_envelope_has_the_documented_form(size: int) -> None:
    start = b"BHE" + bytes([2, 1]) + (3).to_bytes(4, "big")
    info = b"bulkhead/segments/1" + start + AAD
    derived = HKDF(algorithm=SHA256(), length=64, salt=SALT, info=info).derive(KEY)
    plaintext = _content(size)
    pieces = [plaintext[begin : begin + 65_536] for begin in range(0, size, 65_536)] or [b""]
    documented = start + SALT + derived[32:]
    for number, piece in enumerate(pieces):
        nonce = bytes(7) + number.to_bytes(4, "big") + bytes([number == len(pieces) - 1])
        documented += AESGCM(derived[:32]).encrypt(nonce, piece, None)

    assert _sealed(plaintext) == documented
    assert is_segmented(documented)
    assert segmented_version(documented) == 3
    assert _opened(documented) == plaintext


def test_an_envelope_of_the_first_release_still_opens() -> None:
    stored = bytes.fromhex(
        "424845020100000003202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3fcebcc3764d2d56"
        "71d378c7a6ad48776a98903ed275896d4cfde0f607a9f636d6627d53be97453c616831e863827f00d98e199372ef"
    )

    assert stored == _sealed(b"plain")
    assert _opened(stored) == b"plain"


@given(size=sizes, cuts=st.lists(st.integers(0, 2 * SEGMENT_BYTES), max_size=12))
def test_how_a_stream_comes_in_portions_makes_no_difference(size: int, cuts: list[int]) -> None:
    plaintext = _content(size)
    sealer = Sealer(KEY, version=3, salt=SALT, aad=AAD)
    sealed = sealer.header
    for portion in _portions(plaintext, cuts):
        sealed += sealer.seal(portion)
    sealed += sealer.end()
    opener = Opener(KEY, sealed[:HEADER_BYTES], version=3, aad=AAD)
    opened = b""
    for portion in _portions(sealed[HEADER_BYTES:], cuts):
        opened += opener.open(portion)
        assert len(opened) % SEGMENT_BYTES == 0
        assert plaintext.startswith(opened)

    assert sealed == _sealed(plaintext)
    assert opened + opener.end() == plaintext


@given(size=sizes, data=st.data())
def test_no_more_than_a_segment_is_held_back(size: int, data: st.DataObject) -> None:
    sealer = Sealer(KEY, version=3, salt=SALT, aad=AAD)
    taken = given_out = 0
    for portion in _portions(_content(size), data.draw(st.lists(st.integers(1, SEGMENT_BYTES), max_size=8))):
        taken += len(portion)
        given_out += len(sealer.seal(portion)) // SEALED_SEGMENT * SEGMENT_BYTES

        assert taken - given_out <= SEGMENT_BYTES


def _portions(data: bytes, cuts: list[int]) -> list[bytes]:
    portions = []
    for cut in cuts:
        portions.append(data[:cut])
        data = data[cut:]
    return [*portions, data]


@pytest.mark.behaviour("S1.9")
@pytest.mark.behaviour("S2.7")
@pytest.mark.behaviour("T-K1")
@pytest.mark.parametrize(
    "other",
    [
        Binding(
            tenant_uid=UUID(int=8), purpose="storage", version=3, object_name="storage/org_1/a.pem", object_version=5
        ),
        Binding(
            tenant_uid=UUID(int=7), purpose="tokens", version=3, object_name="storage/org_1/a.pem", object_version=5
        ),
        Binding(
            tenant_uid=UUID(int=7), purpose="storage", version=4, object_name="storage/org_1/a.pem", object_version=5
        ),
        Binding(
            tenant_uid=UUID(int=7), purpose="storage", version=3, object_name="storage/org_1/b.pem", object_version=5
        ),
        Binding(
            tenant_uid=UUID(int=7), purpose="storage", version=3, object_name="storage/org_1/a.pem", object_version=4
        ),
        Binding(tenant_uid=UUID(int=7), purpose="storage", version=3, object_name="storage/org_1/a.pem"),
    ],
    ids=["tenant", "purpose", "key version", "object", "object version", "no object version"],
)
def test_an_envelope_opens_for_what_it_is_bound_to_only(other: Binding) -> None:
    envelope = _sealed(b"plain")

    assert _opened(envelope) == b"plain"
    with pytest.raises(IntegrityError):
        _opened(envelope, aad=other.aad())


@pytest.mark.behaviour("T-K1")
def test_an_envelope_opens_with_its_own_key_and_version_only() -> None:
    envelope = _sealed(b"plain")

    with pytest.raises(IntegrityError):
        open_whole(bytes(32), envelope, version=3, aad=AAD)
    with pytest.raises(IntegrityError):
        open_whole(KEY, envelope, version=4, aad=AAD)


def test_a_wrong_header_is_refused_before_anything_is_opened() -> None:
    """Nothing is waited for, and no reader is made to hold what a stranger has put there."""
    header = _sealed(b"plain")[:HEADER_BYTES]
    Opener(KEY, header, version=3, aad=AAD)

    for number in range(HEADER_BYTES):
        changed = header[:number] + bytes([header[number] ^ 1]) + header[number + 1 :]
        with pytest.raises(IntegrityError):
            Opener(KEY, changed, version=3, aad=AAD)


def test_no_envelope_opens_under_two_keys() -> None:
    """One whose segments do is easily made, where AES-GCM is all there is; the commitment is what forbids it."""
    other = bytes(32)
    header = Sealer(other, version=3, salt=SALT, aad=AAD).header

    Opener(other, header, version=3, aad=AAD)
    with pytest.raises(IntegrityError):
        Opener(KEY, header, version=3, aad=AAD)


@pytest.mark.behaviour("T-K1")
def test_an_envelope_that_was_changed_anywhere_does_not_open() -> None:
    envelope = _sealed(b"plain")
    for number in range(len(envelope)):
        for bit in range(8):
            with pytest.raises(IntegrityError):
                _opened(envelope[:number] + bytes([envelope[number] ^ 1 << bit]) + envelope[number + 1 :])


@given(size=sizes, place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_large_envelope_that_was_changed_anywhere_does_not_open(size: int, place: float, bit: int) -> None:
    envelope = bytearray(_sealed(_content(size)))
    envelope[int(place * len(envelope))] ^= 1 << bit

    with pytest.raises(IntegrityError):
        _opened(bytes(envelope))


@pytest.mark.behaviour("S1.9")
@given(size=sizes, left=st.floats(0, 1, exclude_max=True))
@example(size=3 * SEGMENT_BYTES, left=2 / 3)
def test_an_envelope_that_was_cut_does_not_open(size: int, left: float) -> None:
    envelope = _sealed(_content(size))

    with pytest.raises(IntegrityError):
        _opened(envelope[: int(left * len(envelope))])


@pytest.mark.behaviour("S1.9")
@pytest.mark.parametrize("size", [size for size in SIZES if size > SEGMENT_BYTES])
def test_an_envelope_that_was_cut_between_two_segments_does_not_open(size: int) -> None:
    envelope = _sealed(_content(size))
    for whole in range(len(_segments(envelope))):
        with pytest.raises(IntegrityError):
            _opened(envelope[: HEADER_BYTES + whole * SEALED_SEGMENT])


@pytest.mark.behaviour("S1.9")
@given(size=sizes, more=st.binary(min_size=1, max_size=40) | st.just(bytes(SEALED_SEGMENT)))
def test_an_envelope_that_was_extended_does_not_open(size: int, more: bytes) -> None:
    with pytest.raises(IntegrityError):
        _opened(_sealed(_content(size)) + more)


@pytest.mark.behaviour("S1.9")
@given(number=st.integers(1, 5), order=st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=7))
def test_segments_open_in_their_own_order_and_of_one_object_only(number: int, order: list[tuple[bool, int]]) -> None:
    """Whatever is put together of the segments of two objects opens if it is one of them, whole."""
    plaintext = _content(number * SEGMENT_BYTES)
    own, foreign = _sealed(plaintext), _sealed(plaintext, salt=bytes(32))
    put_together = [(foreign if other else own, place % number) for other, place in order]
    envelope = own[:HEADER_BYTES] + b"".join(_segments(whole)[place] for whole, place in put_together)

    if put_together == [(own, place) for place in range(number)]:
        assert _opened(envelope) == plaintext
    else:
        with pytest.raises(IntegrityError):
            _opened(envelope)


def test_what_comes_before_a_bad_segment_is_right_and_nothing_comes_after_it() -> None:
    plaintext = _content(5 * SEGMENT_BYTES)
    envelope = _sealed(plaintext)
    own = _segments(envelope)
    opener = Opener(KEY, envelope[:HEADER_BYTES], version=3, aad=AAD)
    given_out = opener.open(own[0] + own[1] + own[2][:1])
    with pytest.raises(IntegrityError):
        opener.open(own[1] + own[3])

    assert given_out == plaintext[: 2 * SEGMENT_BYTES]
    with pytest.raises(IntegrityError):
        opener.end()


@given(junk=st.binary(max_size=100) | st.integers(0, HEADER_BYTES - 1).map(lambda n: _sealed(b"plain")[:n]))
def test_what_is_no_envelope_is_refused_like_a_changed_one(junk: bytes) -> None:
    with pytest.raises(IntegrityError):
        _opened(junk)


def test_an_envelope_of_format_1_is_another() -> None:
    one = seal(KEY, bytes(100), version=3, nonce=bytes(12), aad=AAD)

    assert not is_segmented(one)
    with pytest.raises(IntegrityError):
        _opened(one)


@given(number=st.integers(0, 2**32 - 1), last=st.booleans())
def test_no_nonce_comes_twice(number: int, *, last: bool) -> None:
    nonce = segments._nonce(number, last=last)

    assert struct.unpack(">7xIB", nonce) == (number, last)
    assert nonce[:7] == bytes(7)


def test_numbers_do_not_begin_anew() -> None:
    with pytest.raises(ValueError, match="at most"):
        segments._nonce(2**32, last=False)


@pytest.mark.parametrize(
    ("key", "salt", "version"), [(KEY[:16], SALT, 1), (KEY, SALT[:16], 1), (KEY, SALT, 0), (KEY, SALT, 2**32)]
)
def test_nothing_is_sealed_with_less_than_the_format_says(key: bytes, salt: bytes, version: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(key, version=version, salt=salt, aad=b"")


def test_the_refusal_tells_neither_key_nor_content() -> None:
    with pytest.raises(IntegrityError) as refused:
        _opened(_sealed(b"plain"), aad=b"")

    assert "plain" not in str(refused.value)
    assert refused.value.__cause__ is None
