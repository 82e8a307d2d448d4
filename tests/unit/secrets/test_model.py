"""What a secret may be called, what becomes of its versions, and what tells two requests apart."""

import string
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from control_plane.errors import EtagMismatchError, PreconditionError, Violations
from control_plane.secrets import model
from control_plane.secrets.model import Action, Secret, Settings, State, Version

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UID = UUID("01920000-0000-7000-8000-000000000001")
KEY = bytes(32)
ALPHABET = string.ascii_lowercase + string.digits + "-"
VERSION = Version(secret_uid=UID, number=1, state=State.ENABLED, create_time=NOW)
SECRET = Secret(uid=UID, id="crm", settings=Settings(), revision=1, latest_version=0, create_time=NOW, update_time=NOW)


@given(st.text(ALPHABET, min_size=1, max_size=63))
def test_whatever_is_spelt_in_the_alphabet_is_an_id(text: str) -> None:
    assert model.is_secret_id(text)


@given(st.text(max_size=80))
def test_nothing_else_is_an_id(text: str) -> None:
    assert model.is_secret_id(text) == (1 <= len(text) <= 63 and set(text) <= set(ALPHABET))


@given(st.integers(min_value=1, max_value=10**18 - 1))
def test_a_number_is_read_as_it_is_written(number: int) -> None:
    assert model.version_number(str(number)) == number


@given(st.text(max_size=30))
def test_a_number_has_one_spelling(text: str) -> None:
    number = model.version_number(text)

    assert number is None or (number > 0 and str(number) == text)


class Life(RuleBasedStateMachine):
    """Anything is done to a version, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.version = VERSION
        self.was_destroyed = False
        self.now = NOW

    @rule(action=st.sampled_from(Action))
    def do(self, action: Action) -> None:
        before, self.now = self.version, self.now + timedelta(seconds=1)
        if self.was_destroyed and action is not Action.DESTROY:
            with pytest.raises(PreconditionError) as refused:
                before.after(action, self.now, name="it")
            assert refused.value.code == "SECRET_VERSION_DESTROYED"
            return
        self.version = before.after(action, self.now, name="it")
        self.was_destroyed |= action is Action.DESTROY
        assert self.version.state is action.after
        assert (self.version == before) == (before.state is action.after)
        assert (self.version.etag == before.etag) == (self.version == before)

    @invariant()
    def only_an_enabled_value_is_read(self) -> None:
        if self.version.state is State.ENABLED:
            self.version.check_readable(name="it")
            return
        with pytest.raises(PreconditionError) as refused:
            self.version.check_readable(name="it")
        assert refused.value.code == f"SECRET_VERSION_{self.version.state}"

    @invariant()
    def what_was_destroyed_stays_so(self) -> None:
        assert (self.version.state is State.DESTROYED) == self.was_destroyed
        assert (self.version.destroy_time is None) == (not self.was_destroyed)


TestLife = Life.TestCase


def test_an_etag_is_of_one_state_of_one_version_of_one_secret() -> None:
    others = [
        Version(secret_uid=UUID(int=1), number=1, state=State.ENABLED, create_time=NOW),
        Version(secret_uid=UID, number=2, state=State.ENABLED, create_time=NOW),
        Version(secret_uid=UID, number=1, state=State.DISABLED, create_time=NOW),
    ]

    assert len({version.etag for version in (VERSION, *others)}) == 4


def test_an_etag_is_compared_where_one_is_given() -> None:
    model.check_etag("it", "", current="now")
    model.check_etag("it", "now", current="now")
    with pytest.raises(EtagMismatchError):
        model.check_etag("it", "then", current="now")


def test_a_secret_that_is_described_as_before_is_the_same_secret() -> None:
    changed = SECRET.updated(Settings(description="another"), NOW + timedelta(seconds=1))

    assert SECRET.updated(Settings(), NOW + timedelta(seconds=1)) == SECRET
    assert (changed.revision, changed.update_time) == (2, NOW + timedelta(seconds=1))
    assert changed.etag != SECRET.etag
    assert changed.with_another(NOW).latest_version == 1
    assert changed.with_another(NOW).etag != changed.etag


@given(st.binary(max_size=40), st.binary(max_size=40), st.text(max_size=5), st.text(max_size=5))
def test_two_requests_have_one_fingerprint_only_where_they_are_one(
    payload: bytes, other: bytes, who: str, whom: str
) -> None:
    first = model.fingerprint(KEY, who, "crm", payload=payload)
    second = model.fingerprint(KEY, whom, "crm", payload=other)

    assert (first == second) == ((who, payload) == (whom, other))
    assert model.fingerprint(b"\x01" * 32, who, "crm", payload=payload) != first


def test_a_fingerprint_without_the_key_tells_nothing_of_the_value() -> None:
    """Or whoever has the table could try a list of passwords on it."""
    keys = [bytes([number]) * 32 for number in range(8)]

    assert len({model.fingerprint(key, "alice", payload=b"1234") for key in keys}) == len(keys)


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        (Settings(description="x" * 501), ["secret.description"]),
        (Settings(description="a\u202eb"), ["secret.description"]),
        (Settings(labels={"UPPER": "x"}), ["secret.labels"]),
        (Settings(labels={"a": "\n"}), ["secret.labels"]),
        (Settings(labels={f"k{number}": "" for number in range(65)}), ["secret.labels"]),
        (Settings(description="x" * 500, labels={"a": "b"}), []),
    ],
)
def test_what_is_said_of_a_secret_can_be_shown(settings: Settings, fields: list[str]) -> None:
    violations = Violations()
    model.check_settings(settings, violations)

    assert [violation.field for violation in violations.found] == fields


def test_a_payload_has_at_most_64_kib() -> None:
    violations = Violations()
    model.check_payload(bytes(model.LARGEST_PAYLOAD), violations)
    assert violations.found == []
    model.check_payload(bytes(model.LARGEST_PAYLOAD + 1), violations)

    assert [violation.reason for violation in violations.found] == ["PAYLOAD"]
