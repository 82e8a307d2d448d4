"""What a request may ask for beside its CSR, and what certificates are called."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.certificates.model import (
    PENDING_IS_STUCK_AFTER,
    Asked,
    Certificate,
    State,
    certificate_id,
    checked_request_id,
    checked_validity,
    object_path,
    reason_violation,
)
from control_plane.errors import Violations
from control_plane.objects.paths import path_violation
from tests.unit.certificates.signing_requests import PROFILE

NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOME_ID: Final = UUID("57dff00d-5e4f-4d0b-9c7d-ce4821748705")
ASKED: Final = Asked(csr_pem="pem", validity=timedelta(days=1), profile="private", request_id=str(uuid4()))

asked = st.builds(
    Asked,
    csr_pem=st.text(max_size=5),
    validity=st.none() | st.timedeltas(),
    profile=st.text(max_size=5),
    request_id=st.just(""),
)


@pytest.mark.parametrize("validity", [timedelta(minutes=1), timedelta(days=1), timedelta(days=365)])
def test_a_validity_within_the_profile_is_allowed(validity: timedelta) -> None:
    violations = Violations()

    assert checked_validity(replace(ASKED, validity=validity), PROFILE, violations) == validity
    assert not violations.found


@pytest.mark.parametrize(
    "validity",
    [
        timedelta(),
        timedelta(seconds=-1),
        timedelta(seconds=59),
        timedelta(days=365, microseconds=1),
        timedelta.min,
        timedelta.max,
    ],
)
def test_a_validity_beyond_the_profile_is_refused_with_its_limits(validity: timedelta) -> None:
    violations = Violations()
    checked_validity(replace(ASKED, validity=validity), PROFILE, violations)

    (violation,) = violations.found
    assert violation.field == "validity"
    assert "365 days at most" in violation.description


def test_the_profile_has_the_validity_for_those_who_ask_for_none() -> None:
    assert checked_validity(replace(ASKED, validity=None), PROFILE, Violations()) == timedelta(days=90)


def test_an_unknown_profile_is_refused() -> None:
    violations = Violations()
    checked_validity(ASKED, None, violations)

    assert [violation.field for violation in violations.found] == ["profile"]


@pytest.mark.parametrize("text", ["1", "0" * 32, str(UUID(int=0)), f"{{{SOME_ID}}}", SOME_ID.hex, f" {SOME_ID}"])
def test_a_request_id_that_is_no_uuid_is_refused(text: str) -> None:
    violations = Violations()
    checked_request_id(replace(ASKED, request_id=text), violations)

    assert [violation.field for violation in violations.found] == ["request_id"]


@given(st.uuids())
def test_a_request_id_is_the_same_in_upper_case(value: UUID) -> None:
    for text in (str(value), str(value).upper()):
        assert checked_request_id(replace(ASKED, request_id=text), Violations()) == value


@given(st.uuids())
def test_a_certificate_has_one_name(value: UUID) -> None:
    assert certificate_id(str(value)) == value
    for other in (value.hex, f"{{{value}}}", f"urn:uuid:{value}", f"{value} ", "", "a"):
        assert certificate_id(other) is None


@given(st.uuids())
def test_an_object_has_a_path_that_the_store_takes(value: UUID) -> None:
    assert path_violation(object_path(value)) is None


@given(asked, asked)
def test_two_requests_have_one_fingerprint_only_if_they_ask_for_the_same(one: Asked, other: Asked) -> None:
    same = (one.csr_pem, one.validity, one.profile_name) == (other.csr_pem, other.validity, other.profile_name)

    assert (one.fingerprint == other.fingerprint) == same


def test_neither_the_request_id_nor_the_spelling_of_the_default_profile_changes_a_request() -> None:
    assert replace(ASKED, request_id="", profile="").fingerprint == ASKED.fingerprint


def test_a_pending_certificate_is_stuck_after_a_while_and_an_active_one_never() -> None:
    certificate = Certificate(
        id=uuid4(),
        state=State.PENDING,
        serial_number="1",
        subject="CN=a",
        dns_names=(),
        profile="private",
        object_path="certificates/a.pem",
        sha256=b"",
        create_time=NOW,
        expire_time=NOW,
        authority_version=1,
    )
    later = NOW + PENDING_IS_STUCK_AFTER

    assert not certificate.is_stuck(later)
    assert certificate.is_stuck(later + timedelta(microseconds=1))
    assert not replace(certificate, state=State.ACTIVE).is_stuck(later + timedelta(days=1))
    assert [replace(certificate, state=state).is_visible for state in State] == [False, True, True]


def test_a_reason_is_one_line_of_at_most_five_hundred_characters() -> None:
    assert reason_violation("") is None
    assert reason_violation("Schlüssel verloren, 鍵" + "x" * 400) is None
    assert reason_violation("x" * 501) is not None
    for control in ("\0", "\n", "\x1b[31m", "\x7f", "\u2028"):
        assert reason_violation(f"a{control}b") is not None
