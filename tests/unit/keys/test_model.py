"""The envelope, and what sealed data is bound to."""

import struct
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from control_plane.keys.model import Binding, IntegrityError, seal, sealed_version, unseal

KEY, NONCE = bytes(range(32)), bytes(range(12))
BINDING = Binding(tenant_uid=UUID(int=7), purpose="storage", version=3, object_name="storage/org_1/a.pem")
ENVELOPE = seal(KEY, b"plain", version=3, nonce=NONCE, aad=BINDING.aad())

# Short and of few letters, so that the parts of two bindings often differ only in where one part ends.
texts = st.text(alphabet="ab\0\x01é", max_size=4) | st.text(max_size=20)
bindings = st.builds(
    Binding,
    tenant_uid=st.sampled_from([UUID(int=0), UUID(int=1)]) | st.uuids(),
    purpose=texts,
    version=st.integers(min_value=0, max_value=3) | st.integers(min_value=0, max_value=2**64 - 1),
    object_name=texts,
    object_version=st.none() | st.integers(min_value=0, max_value=3) | st.integers(min_value=0, max_value=2**64 - 1),
)


def _parts(aad: bytes) -> list[bytes]:
    """Read back what `Binding.aad` has written, from its documentation."""
    label, rest = aad[:14], aad[14:]
    assert label in {b"bulkhead/aad/1", b"bulkhead/aad/2"}
    parts = [label]
    while rest:
        (size,) = struct.unpack(">Q", rest[:8])
        parts.append(rest[8 : 8 + size])
        rest = rest[8 + size :]
    return parts


@pytest.mark.behaviour("S2.7")
@given(one=bindings, other=bindings)
def test_two_different_bindings_never_give_the_same_bytes(one: Binding, other: Binding) -> None:
    assert (one.aad() == other.aad()) == (one == other)


@pytest.mark.behaviour("S2.7")
@given(text=st.text(alphabet="ab", max_size=8), cuts=st.tuples(st.integers(0, 8), st.integers(0, 8)))
def test_a_letter_moved_from_one_part_to_the_next_gives_other_bytes(text: str, cuts: tuple[int, int]) -> None:
    uid = UUID(int=0)
    one, other = (Binding(tenant_uid=uid, purpose=text[:n], version=1, object_name=text[n:]) for n in cuts)

    assert (one.aad() == other.aad()) == (text[: cuts[0]] == text[: cuts[1]])


@given(binding=bindings)
def test_a_binding_can_be_read_back_from_its_bytes(binding: Binding) -> None:
    label, uid, purpose, version, name, *object_version = _parts(binding.aad())
    versions = [] if binding.object_version is None else [binding.object_version]

    assert [int.from_bytes(part, "big") for part in object_version] == versions
    assert label == (b"bulkhead/aad/2" if versions else b"bulkhead/aad/1")
    assert UUID(bytes=uid) == binding.tenant_uid
    assert purpose.decode() == binding.purpose
    assert int.from_bytes(version, "big") == binding.version
    assert name.decode() == binding.object_name


@given(plaintext=st.binary(max_size=200), version=st.integers(1, 2**32 - 1), nonce=st.binary(min_size=12, max_size=12))
def test_an_envelope_has_the_documented_form(plaintext: bytes, version: int, nonce: bytes) -> None:
    header = b"BHE" + bytes([1, 1]) + version.to_bytes(4, "big")
    documented = header + nonce + AESGCM(KEY).encrypt(nonce, plaintext, header + BINDING.aad())

    envelope = seal(KEY, plaintext, version=version, nonce=nonce, aad=BINDING.aad())

    assert envelope == documented
    assert sealed_version(envelope) == version
    assert unseal(KEY, envelope, version=version, aad=BINDING.aad()) == plaintext


def test_an_envelope_of_the_first_release_still_opens() -> None:
    stored = bytes.fromhex("424845010100000003000102030405060708090a0b376eb772abf26c17337a049b4b1696cf00b72de21f")

    assert stored == ENVELOPE
    assert unseal(KEY, stored, version=3, aad=BINDING.aad()) == b"plain"


@pytest.mark.behaviour("S2.7")
@pytest.mark.parametrize(
    "other",
    [
        Binding(tenant_uid=UUID(int=8), purpose="storage", version=3, object_name="storage/org_1/a.pem"),
        Binding(tenant_uid=UUID(int=7), purpose="tokens", version=3, object_name="storage/org_1/a.pem"),
        Binding(tenant_uid=UUID(int=7), purpose="storage", version=4, object_name="storage/org_1/a.pem"),
        Binding(tenant_uid=UUID(int=7), purpose="storage", version=3, object_name="storage/org_1/b.pem"),
    ],
    ids=["tenant", "purpose", "version", "object"],
)
def test_an_envelope_opens_for_what_it_is_bound_to_only(other: Binding) -> None:
    assert unseal(KEY, ENVELOPE, version=3, aad=BINDING.aad()) == b"plain"
    with pytest.raises(IntegrityError):
        unseal(KEY, ENVELOPE, version=3, aad=other.aad())


@pytest.mark.behaviour("T-K1")
def test_an_envelope_opens_with_its_own_key_and_version_only() -> None:
    with pytest.raises(IntegrityError):
        unseal(bytes(32), ENVELOPE, version=3, aad=BINDING.aad())
    with pytest.raises(IntegrityError):
        unseal(KEY, ENVELOPE, version=4, aad=BINDING.aad())


@pytest.mark.behaviour("T-K1")
def test_an_envelope_that_was_changed_anywhere_does_not_open() -> None:
    changed = [
        ENVELOPE[:n] + bytes([ENVELOPE[n] ^ 1 << bit]) + ENVELOPE[n + 1 :]
        for n in range(len(ENVELOPE))
        for bit in range(8)
    ]

    for each in changed:
        with pytest.raises(IntegrityError):
            unseal(KEY, each, version=3, aad=BINDING.aad())


@given(junk=st.binary(max_size=100) | st.integers(0, len(ENVELOPE) - 1).map(lambda n: ENVELOPE[:n]))
def test_what_is_no_envelope_is_refused_like_a_changed_one(junk: bytes) -> None:
    with pytest.raises(IntegrityError):
        unseal(KEY, junk, version=3, aad=BINDING.aad())


@pytest.mark.parametrize("offset", range(5))
def test_a_format_or_an_algorithm_that_is_not_known_is_refused_before_any_key_is_asked_for(offset: int) -> None:
    changed = bytearray(ENVELOPE)
    changed[offset] += 1

    with pytest.raises(IntegrityError):
        sealed_version(bytes(changed))


@pytest.mark.parametrize(
    ("key", "nonce", "version"), [(KEY[:16], NONCE, 1), (KEY, NONCE[:8], 1), (KEY, NONCE, 0), (KEY, NONCE, 2**32)]
)
def test_nothing_is_sealed_with_less_than_the_format_says(key: bytes, nonce: bytes, version: int) -> None:
    with pytest.raises(ValueError, match=r"32 bytes|count from 1"):
        seal(key, b"plain", version=version, nonce=nonce, aad=b"")


def test_the_refusal_tells_neither_key_nor_content() -> None:
    with pytest.raises(IntegrityError) as refused:
        unseal(KEY, ENVELOPE, version=3, aad=b"")

    assert "plain" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
