"""Names, digests of names, sealed values, shares of the server, and when one that is away is asked again."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.cache.model import (
    LONGEST_LIFETIME,
    CacheKeys,
    Outage,
    Shares,
    checked_lifetime,
    checked_name,
    digest,
    key_prefix,
    open_value,
    seal_value,
)
from control_plane.ids import TenantId, tenant_id_violation
from control_plane.keys.model import Binding, IntegrityError, seal

KEYS: Final = CacheKeys(values=bytes(range(32)), names=bytes(range(32, 64)))
UID: Final = UUID(int=1)
NOW: Final = datetime(2026, 11, 26, tzinfo=UTC)
NONCE: Final = bytes(12)
NAME: Final = "certificates/01a20aa4-ebea-752e-9d90-511eab4e906f.pem"

names = st.from_regex(r"[a-z0-9]([a-z0-9._/-]{0,126}[a-z0-9])?", fullmatch=True)


def sealed(value: bytes = b"text", *, keys: CacheKeys = KEYS, uid: UUID = UID, name: str = NAME) -> bytes:
    return seal_value(keys, value, tenant_uid=uid, name=name, expires=NOW + timedelta(hours=1), nonce=NONCE)


def opened(value: bytes, *, keys: CacheKeys = KEYS, uid: UUID = UID, name: str = NAME) -> bytes | None:
    return open_value(keys, value, tenant_uid=uid, name=name, now=NOW)


@pytest.mark.behaviour("S1.10")
@pytest.mark.behaviour("T-V3")
@pytest.mark.parametrize(
    "tenant_id",
    ["a*", "org?1", "org_[1]", "org]", "org\\1", "org{1", "org}:x", "org:1", "org_1\n", "org_1\r\n", "*", "", "org 1"],
)
def test_no_prefix_is_made_of_an_id_that_reads_as_more_than_itself(tenant_id: str) -> None:
    with pytest.raises(ValueError, match="must"):
        key_prefix(TenantId(tenant_id))


@given(tenant_id=st.text(max_size=45))
def test_a_prefix_holds_the_id_in_braces_and_nothing_else(tenant_id: str) -> None:
    if tenant_id_violation(tenant_id):
        with pytest.raises(ValueError, match=r"must|reserved"):
            key_prefix(TenantId(tenant_id))
    else:
        assert re.fullmatch(r"tenant:\{[a-z0-9_]+\}:", key_prefix(TenantId(tenant_id)))


@given(one=st.from_regex(r"[a-z]{3,5}", fullmatch=True), more=st.from_regex(r"[a-z0-9_]{0,3}[a-z0-9]", fullmatch=True))
def test_no_tenants_prefix_begins_with_another_ones(one: str, more: str) -> None:
    other = one + more
    if not tenant_id_violation(one) and not tenant_id_violation(other):
        assert not key_prefix(TenantId(other)).startswith(key_prefix(TenantId(one)))


@pytest.mark.behaviour("S1.10")
@pytest.mark.behaviour("T-V3")
@pytest.mark.parametrize(
    "name",
    [
        "",
        "a:b",
        "a*",
        "?",
        "[a]",
        "a\\b",
        "{a}",
        "a\nb",
        "a\n",
        "a b",
        "A",
        "ä",
        "/a",
        "a/",
        ".a",
        "a" * 129,
        "\0",
        "a\0b",
    ],
)
def test_a_name_of_any_other_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not 1 to 128"):
        checked_name(name)
    with pytest.raises(ValueError, match="is not 1 to 128"):
        digest(KEYS, name)


@given(name=names)
def test_a_digest_is_of_one_form_whatever_the_name(name: str) -> None:
    assert re.fullmatch(rb"[A-Za-z0-9_-]{22}", digest(KEYS, name))


@given(one=names, other=names)
def test_two_names_have_two_digests(one: str, other: str) -> None:
    assert (digest(KEYS, one) == digest(KEYS, other)) == (one == other)


def test_a_digest_tells_nothing_without_the_tenants_key() -> None:
    assert digest(KEYS, NAME) != digest(replace(KEYS, names=bytes(32)), NAME)


@pytest.mark.parametrize("lifetime", [timedelta(), timedelta(seconds=-1), LONGEST_LIFETIME + timedelta(milliseconds=1)])
def test_a_lifetime_out_of_range_is_refused(lifetime: timedelta) -> None:
    with pytest.raises(ValueError, match="lifetime"):
        checked_lifetime(lifetime)


@given(value=st.binary(max_size=300))
def test_what_was_sealed_opens(value: bytes) -> None:
    assert opened(sealed(value)) == value


@pytest.mark.behaviour("T-V6")
@given(value=st.binary(min_size=1, max_size=50), bit=st.integers(0))
def test_an_altered_value_does_not_open(value: bytes, bit: int) -> None:
    altered = bytearray(sealed(value))
    bit %= len(altered) * 8
    altered[bit // 8] ^= 1 << bit % 8

    with pytest.raises(IntegrityError):
        opened(bytes(altered))


@pytest.mark.behaviour("T-V6")
@given(junk=st.binary(max_size=100))
def test_what_nobody_sealed_does_not_open(junk: bytes) -> None:
    with pytest.raises(IntegrityError):
        opened(junk)


@pytest.mark.behaviour("T-V6")
def test_another_tenants_value_does_not_open_even_under_the_same_key() -> None:
    with pytest.raises(IntegrityError):
        opened(sealed(uid=UUID(int=2)))


@pytest.mark.behaviour("T-V6")
def test_another_names_value_does_not_open() -> None:
    with pytest.raises(IntegrityError):
        opened(sealed(name="certificates/other.pem"))


@pytest.mark.behaviour("T-V6")
def test_a_value_under_another_key_does_not_open() -> None:
    with pytest.raises(IntegrityError):
        opened(sealed(keys=CacheKeys(values=bytes(32), names=KEYS.names)))


def test_something_else_that_was_rightly_sealed_is_no_value() -> None:
    aad = Binding(tenant_uid=UID, purpose="cache", version=1, object_name=NAME).aad()
    with pytest.raises(IntegrityError):
        opened(seal(KEYS.values, b"short", version=1, nonce=NONCE, aad=aad))


def test_a_value_is_over_when_its_time_is_whatever_valkey_keeps() -> None:
    value = sealed()
    last = open_value(KEYS, value, tenant_uid=UID, name=NAME, now=NOW + timedelta(minutes=59, seconds=59))
    late = open_value(KEYS, value, tenant_uid=UID, name=NAME, now=NOW + timedelta(hours=1))

    assert (last, late) == (b"text", None)


def test_keys_stay_out_of_reprs() -> None:
    assert repr(KEYS) == "CacheKeys()"


def test_a_server_that_is_there_is_asked_by_everybody() -> None:
    outage = Outage(timedelta(seconds=1))

    assert all(outage.is_worth_asking(0) for _ in range(3))


def test_one_that_is_away_is_asked_by_one_after_each_pause() -> None:
    outage = Outage(timedelta(seconds=1))
    outage.begin(0)
    asked = [outage.is_worth_asking(at) for at in (0, 0.5, 0.99, 1.0, 1.0, 1.5, 2.0, 2.1)]

    assert asked == [False, False, False, True, False, False, True, False]


def test_one_that_answered_again_is_asked_by_everybody() -> None:
    outage = Outage(timedelta(seconds=1))
    outage.begin(0)
    outage.is_worth_asking(1)
    outage.end()

    assert outage.is_worth_asking(1)
    assert outage.is_worth_asking(1)


def test_what_is_news_is_told_once() -> None:
    outage = Outage(timedelta(seconds=1))

    assert [outage.end(), outage.begin(0), outage.begin(1), outage.end(), outage.end()] == [
        False,
        True,
        False,
        True,
        False,
    ]


def test_whoever_had_a_seconds_worth_at_once_has_nothing_left_until_time_goes_by() -> None:
    shares = Shares(64)
    sent = 0
    while shares.has_some("a", 5.0):
        shares.note_command("a", 5.0, moved=0)
        sent += 1

    assert sent == 64
    assert not shares.has_some("a", 5.0)
    assert shares.has_some("a", 5.016)
    assert shares.has_some("b", 5.0)


@given(st.lists(st.tuples(st.floats(0, 0.1), st.integers(0, 256 << 10)), max_size=300))
def test_nobody_gets_more_than_its_share_and_one_command(commands: list[tuple[float, int]]) -> None:
    shares, now_s, moved_units = Shares(100), 1000.0, 0
    largest = 1 + (256 << 10) // (16 << 10)
    for pause_s, moved in commands:
        now_s += pause_s
        if shares.has_some("a", now_s):
            shares.note_command("a", now_s, moved=moved)
            moved_units += 1 + moved // (16 << 10)

        assert moved_units <= 100 * (1 + now_s - 1000.0) + largest + 1e-3


def test_what_an_answer_moves_counts_and_the_answer_itself_does_not() -> None:
    shares = Shares(2)
    shares.note_command("a", 0.0, moved=0)
    shares.note_answer("a", 0.0, moved=100)
    assert shares.has_some("a", 0.0)
    shares.note_answer("a", 0.0, moved=16 << 10)

    assert not shares.has_some("a", 0.0)


def test_those_who_have_their_whole_share_are_forgotten() -> None:
    shares = Shares(1000)
    for number in range(10_000):
        shares.note_command(str(number), number / 100, moved=0)

    assert len(shares) <= 1_001
