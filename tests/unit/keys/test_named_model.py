"""What a tenant's own key may be called and be, and which state follows which."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import PreconditionError, Violations
from control_plane.keys.algorithms import CertificatePolicy, KeyAlgorithm, PostQuantum
from control_plane.keys.model import BUILT_IN_IDS, Purpose
from control_plane.keys.named.model import (
    AES,
    Kind,
    NamedKey,
    Origin,
    State,
    check_key_id,
    check_kind,
    check_waiting,
    refuse_built_in,
    requires_post_quantum,
)

NOW: Final = datetime(2027, 1, 2, tzinfo=UTC)
NAME: Final = "tenants/org_1/keys/signer"
KEY: Final = NamedKey(
    tenant_uid=UUID(int=1),
    key_id="signer",
    kind=Kind(purpose=Purpose.SIGNING, algorithm="ED25519"),
    origin=Origin.GENERATED,
    state=State.ENABLED,
    create_time=NOW,
)


@pytest.mark.parametrize("key_id", ["a", "0", "kms_key_org_12345", "a" * 63, "a-b"])
def test_a_good_name_is_taken(key_id: str) -> None:
    violations = Violations()
    check_key_id(key_id, violations)

    assert violations.found == []


@pytest.mark.parametrize("key_id", ["", "A", "a b", "-a", "_a", "a" * 64, "a/b", "a.b", "ä", "a\n", *BUILT_IN_IDS])
def test_a_bad_name_is_refused(key_id: str) -> None:
    violations = Violations()
    check_key_id(key_id, violations)

    assert {violation.field for violation in violations.found} == {"key_id"}


@given(st.text())
def test_no_name_can_be_taken_for_an_import_or_a_path(key_id: str) -> None:
    violations = Violations()
    check_key_id(key_id, violations)

    assert violations.found or not set(key_id) & set("/. \n")


@pytest.mark.parametrize(
    ("purpose", "algorithm", "field"),
    [
        ("ENCRYPTION", "", None),
        ("ENCRYPTION", AES, None),
        ("ENCRYPTION", "EC_P256", "key.algorithm"),
        ("SIGNING", "", "key.algorithm"),
        ("SIGNING", "RSA_2048", "key.algorithm"),
        ("SIGNING", "ML_DSA_87", None),
        ("STORAGE", AES, "key.purpose"),
        ("KEK", AES, "key.purpose"),
        ("IMPORT", AES, "key.purpose"),
        ("", "", "key.purpose"),
    ],
)
def test_what_a_key_may_be(purpose: str, algorithm: str, field: str | None) -> None:
    violations = Violations()
    kind = check_kind(purpose, algorithm, violations, path="key")

    assert [violation.field for violation in violations.found] == ([field] if field else [])
    assert (kind is None) == bool(field)


def test_a_key_that_waits_is_used_by_nobody_and_comes_back_as_it_was() -> None:
    waiting = KEY.scheduled(NOW, waiting=timedelta(days=7), name=NAME)

    assert waiting.destroy_time == NOW + timedelta(days=7)
    with pytest.raises(PreconditionError, match="until it is restored") as refused:
        waiting.check_enabled(NAME)
    assert refused.value.code == "KEY_DESTROY_SCHEDULED"
    assert waiting.restored(NAME) == KEY
    KEY.check_enabled(NAME)


def test_it_is_due_when_the_time_has_come_and_not_before() -> None:
    waiting = KEY.scheduled(NOW, waiting=timedelta(days=1), name=NAME)

    assert [waiting.is_due(NOW + timedelta(days=1, microseconds=late)) for late in (-1, 0, 1)] == [False, True, True]
    assert not KEY.is_due(NOW + timedelta(days=99))
    assert not waiting.destroyed(NOW).is_due(NOW + timedelta(days=99))


@pytest.mark.parametrize(
    ("state", "schedule", "restore"),
    [
        (State.ENABLED, None, "KEY_IN_USE"),
        (State.DESTROY_SCHEDULED, "KEY_DESTROY_SCHEDULED", None),
        (State.DESTROYED, "KEY_DESTROYED", "KEY_DESTROYED"),
    ],
)
def test_which_state_follows_which(state: State, schedule: str | None, restore: str | None) -> None:
    key = replace(KEY, state=state, destroy_time=None if state is State.ENABLED else NOW)
    calls: list[tuple[Callable[[], NamedKey], str | None]] = [
        (lambda: key.scheduled(NOW, waiting=timedelta(days=1), name=NAME), schedule),
        (lambda: key.restored(NAME), restore),
    ]
    for call, code in calls:
        if code is None:
            assert call().key_id == KEY.key_id
            continue
        with pytest.raises(PreconditionError) as refused:
            call()
        assert refused.value.code == code


@pytest.mark.parametrize("key_id", BUILT_IN_IDS)
def test_what_every_tenant_has_says_what_it_is_needed_for(key_id: str) -> None:
    with pytest.raises(PreconditionError, match="it goes with its tenant"):
        refuse_built_in(key_id, NAME)
    refuse_built_in("signer", NAME)


def test_a_wait_is_of_one_to_thirty_days_and_of_seven_if_nothing_is_said() -> None:
    violations = Violations()

    assert check_waiting(None, violations) == timedelta(days=7)
    assert check_waiting(timedelta(days=30), violations) == timedelta(days=30)
    assert violations.found == []
    for bad in (timedelta(), timedelta(hours=23), timedelta(days=31)):
        check_waiting(bad, violations)
    assert [violation.field for violation in violations.found] == ["waiting_period"] * 3


@given(
    policy=st.sampled_from(PostQuantum), algorithm=st.sampled_from([one for one in KeyAlgorithm if one != "RSA_2048"])
)
def test_a_policy_rules_out_what_is_not_of_its_kind(policy: PostQuantum, algorithm: KeyAlgorithm) -> None:
    wanted = CertificatePolicy(post_quantum=policy)
    kind = Kind(purpose=Purpose.SIGNING, algorithm=algorithm)
    is_fine = {
        PostQuantum.OFF: not algorithm.is_post_quantum,
        PostQuantum.HYBRID: True,
        PostQuantum.REQUIRED: algorithm.is_post_quantum,
    }[policy]
    Kind(purpose=Purpose.ENCRYPTION, algorithm=AES).check_policy(wanted, name=NAME)
    if is_fine:
        kind.check_policy(wanted, name=NAME)
        return
    with pytest.raises(PreconditionError) as refused:
        kind.check_policy(wanted, name=NAME)

    assert refused.value.code == "KEY_POLICY"
    assert requires_post_quantum(wanted) == (policy is PostQuantum.REQUIRED)
