"""Objects as they pass: what a stream gives out is right, and what was not whole is told at its end."""

import tracemalloc
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from dataclasses import replace
from typing import Final
from uuid import UUID

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from control_plane.keys.model import Binding, IntegrityError, MissingKeyError, seal
from control_plane.keys.sealing.objects import ObjectSeal, StorageKey
from control_plane.keys.sealing.segments import HEADER_BYTES, SEGMENT_BYTES, open_whole

KIB: Final = 1024
MIB: Final = 1024 * KIB
NAME: Final = "storage/org_1/a.pem"
KEYS: Final = {1: bytes(range(32)), 2: bytes(range(32, 64))}
SIZES: Final = [0, 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * MIB, 3 * MIB + 7]


async def key(version: int | None) -> StorageKey:
    if version not in {None, *KEYS}:
        raise MissingKeyError(f"key {version}")
    return StorageKey(version=version or 2, private=KEYS[version or 2])


SEAL: Final = ObjectSeal(tenant_uid=UUID(int=7), object_name=NAME, object_version=1, key=key)


async def old_key(_: int | None) -> StorageKey:
    return await key(1)


def format_1(plaintext: bytes) -> bytes:
    """Seal as the first release did."""
    aad = Binding(tenant_uid=UUID(int=7), purpose="storage", version=1, object_name=NAME).aad()
    return seal(KEYS[1], plaintext, version=1, nonce=bytes(12), aad=aad)


def _content(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


async def _source(*portions: bytes) -> AsyncIterator[bytes]:
    for portion in portions:
        yield portion


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[begin : begin + size] for begin in range(0, len(data), size))


async def _all(parts: AsyncIterable[bytes]) -> bytes:
    return b"".join([part async for part in parts])


async def _until_refused(parts: AsyncIterable[bytes]) -> bytes:
    """Return what a stream gave out before it was refused."""
    got = list[bytes]()

    async def read() -> None:
        async for part in parts:
            got.append(part)

    with pytest.raises(IntegrityError):
        await read()
    return b"".join(got)


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_sealed_whole_or_as_a_stream_opens_whole_and_as_a_stream(size: int) -> None:
    plaintext = _content(size)
    for portion in (size or 1, 100 * KIB, 5 * MIB):
        streamed = await _all(SEAL.seal_stream(_source(*_cut(plaintext, portion))))
        for envelope in (streamed, await SEAL.seal(plaintext)):
            assert await SEAL.open(envelope) == plaintext
            assert await _all(SEAL.open_stream(_source(*_cut(envelope, portion)))) == plaintext


async def test_an_envelope_is_bound_to_all_that_is_documented() -> None:
    binding = Binding(tenant_uid=UUID(int=7), purpose="storage", version=2, object_name=NAME, object_version=1)
    for envelope in (await SEAL.seal(b"plain"), await _all(SEAL.seal_stream(_source(b"plain")))):
        assert open_whole(KEYS[2], envelope, version=2, aad=binding.aad()) == b"plain"


async def test_two_envelopes_of_one_content_have_nothing_in_common() -> None:
    one, other = await SEAL.seal(bytes(100)), await SEAL.seal(bytes(100))

    assert one[9:] != other[9:]
    assert one[HEADER_BYTES:] != other[HEADER_BYTES:]


async def test_empty_and_single_bytes_are_portions_like_any_other() -> None:
    plaintext = _content(200)
    portions = [part for byte in _cut(plaintext, 1) for part in (b"", byte, b"")]
    envelope = await _all(SEAL.seal_stream(_source(*portions)))

    assert await SEAL.open(envelope) == plaintext
    assert await _all(SEAL.open_stream(_source(b"", *_cut(envelope, 1), b""))) == plaintext


async def test_an_object_of_an_older_key_opens() -> None:
    envelope = await replace(SEAL, key=old_key).seal(b"plain")

    assert await SEAL.open(envelope) == b"plain"
    assert await _all(SEAL.open_stream(_source(envelope))) == b"plain"


@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
async def test_what_was_stored_in_format_1_is_read_as_the_first_version(size: int) -> None:
    envelope = format_1(_content(size))

    assert await SEAL.open(envelope) == _content(size)
    assert await _all(SEAL.open_stream(_source(*_cut(envelope, 50 * KIB)))) == _content(size)


@pytest.mark.behaviour("S1.9")
async def test_what_was_stored_in_format_1_is_no_other_version() -> None:
    envelope, later = format_1(b"plain"), replace(SEAL, object_version=2)

    with pytest.raises(IntegrityError):
        await later.open(envelope)
    assert await _until_refused(later.open_stream(_source(envelope))) == b""


async def test_a_stream_in_format_1_does_not_fill_the_memory() -> None:
    given_out = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal given_out
        yield format_1(b"")
        for _ in range(80):
            given_out += 1
            yield bytes(MIB)

    assert await _until_refused(SEAL.open_stream(long())) == b""
    assert given_out == 64


@pytest.mark.behaviour("S1.9")
@pytest.mark.behaviour("T-K1")
@pytest.mark.parametrize(
    "other",
    [
        replace(SEAL, tenant_uid=UUID(int=8)),
        replace(SEAL, object_name="storage/org_1/b.pem"),
        replace(SEAL, object_version=2),
        replace(SEAL, key=old_key),
    ],
    ids=["tenant", "object", "version", "key"],
)
async def test_an_object_opens_for_its_tenant_name_and_version_only_and_a_refusal_is_an_event(
    other: ObjectSeal,
) -> None:
    plaintext = _content(MIB)
    envelope = await SEAL.seal(plaintext)
    assert await _all(SEAL.open_stream(_source(envelope))) == plaintext
    with structlog.testing.capture_logs() as events:
        with pytest.raises(IntegrityError):
            await other.open(envelope)
        assert await _until_refused(other.open_stream(_source(envelope))) == b""

    assert [event["event"] for event in events] == ["sealed_data_refused"] * 2


@pytest.mark.behaviour("S1.9")
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), portion=st.sampled_from([KIB, 90 * KIB, MIB]))
async def test_nothing_that_was_altered_is_given_out(place: float, bit: int, portion: int) -> None:
    plaintext = _content(5 * SEGMENT_BYTES)
    envelope = bytearray(await SEAL.seal(plaintext))
    at = int(place * len(envelope))
    envelope[at] ^= 1 << bit
    got = await _until_refused(SEAL.open_stream(_source(*_cut(bytes(envelope), portion))))

    assert plaintext.startswith(got)
    assert len(got) <= max(0, at - HEADER_BYTES)


@pytest.mark.behaviour("S1.9")
@given(left=st.floats(0, 1, exclude_max=True), portion=st.sampled_from([KIB, 90 * KIB, MIB]))
async def test_a_reader_learns_at_the_end_that_an_object_was_cut(left: float, portion: int) -> None:
    plaintext = _content(5 * SEGMENT_BYTES)
    envelope = await SEAL.seal(plaintext)
    got = await _until_refused(SEAL.open_stream(_source(*_cut(envelope[: int(left * len(envelope))], portion))))

    assert plaintext.startswith(got)


async def test_a_key_that_is_not_there_is_refused_like_an_altered_object() -> None:
    envelope = bytearray(await SEAL.seal(b"plain"))
    envelope[8] = 9
    with pytest.raises(IntegrityError) as altered:
        await SEAL.open(bytes(envelope))
    with pytest.raises(IntegrityError) as cut:
        await SEAL.open(bytes(envelope[:20]))

    assert await _until_refused(SEAL.open_stream(_source(bytes(envelope)))) == b""
    assert str(altered.value) == str(cut.value)


async def test_what_a_source_raises_is_raised_as_it_is() -> None:
    error = KeyError("source")

    async def broken() -> AsyncIterator[bytes]:
        yield b"a"
        raise error

    for stream in (SEAL.seal_stream(broken()), SEAL.open_stream(broken())):
        with pytest.raises(KeyError) as raised:
            await _all(stream)
        assert raised.value is error


@pytest.mark.parametrize("portion", [KIB, 64 * KIB, MIB])
async def test_memory_is_bounded_however_long_a_stream_is(portion: int) -> None:
    async def long() -> AsyncIterator[bytes]:
        for _ in range(64 * MIB // portion):
            yield bytes(portion)

    tracemalloc.start()
    try:
        length = 0
        async for part in SEAL.open_stream(SEAL.seal_stream(long())):
            length += len(part)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert length == 64 * MIB
    assert peak < 16 * MIB


async def test_a_large_portion_is_worked_on_in_parts() -> None:
    sizes = [len(part) async for part in SEAL.seal_stream(_source(bytes(32 * MIB)))]

    assert max(sizes) < 2 * MIB


async def test_a_seal_shows_no_key() -> None:
    assert "private" not in repr(await key(1))
    assert "key" not in repr(SEAL)
