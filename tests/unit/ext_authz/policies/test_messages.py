"""Policies come through a message as they are; what cannot be enforced is left out, and keeps no other back."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.messages import MalformedError, Parts, policy_from, policy_to, revocation_to
from ext_authz.policies.model import State
from tests.fixtures.edge_policies import FEED, NOW, policy, token


def response(**fields: Any) -> policies_pb2.FollowPoliciesResponse:
    filled: dict[str, Any] = {"feed": FEED, "revision": 1} | fields
    message = policies_pb2.FollowPoliciesResponse(**filled)
    message.as_of_time.FromDatetime(NOW)
    return message


@given(number=st.integers(1, 99), state=st.sampled_from(State), kids=st.lists(st.integers(0, 99), unique=True))
def test_a_policy_comes_through_as_it_is(number: int, state: State, kids: list[int]) -> None:
    sent = policy(number, revision=number, state=state, domains=["a.example.net", "xn--b-1ga.net"], kids=kids)
    message = policies_pb2.TenantPolicy.FromString(policy_to(sent).SerializeToString())

    assert policy_from(message) == sent


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", policies_pb2.TenantPolicy.State.STATE_UNSPECIFIED),
        ("state", 99),
        ("tenant_id", ""),
        ("tenant_id", "org_1\nx"),
        ("tenant_id", "Org"),
        ("uid", "none"),
        ("dns_label", ""),
        ("dns_label", "*"),
        ("dns_label", "-a"),
        ("domains", ["A.example.net"]),
        ("domains", ["*.example.net"]),
        ("domains", ["a..net"]),
        ("domains", ["a" * 64 + ".net"]),
        ("domains", [".".join(["a" * 63] * 4)]),
        ("token_keys", [policies_pb2.TokenKey(kid=str(UUID(int=1)), public_key=b"short")]),
        ("token_keys", [policies_pb2.TokenKey(kid="?", public_key=bytes(32))]),
        ("max_policy_age", None),
        ("rate_limits", [policies_pb2.RateLimit(units=1)]),
        ("rate_limits", [policies_pb2.RateLimit(window=policies_pb2.RateLimit.Window.DAY)]),
        ("rate_limits", [policies_pb2.RateLimit(window=policies_pb2.RateLimit.Window.DAY, units=1)] * 2),
        ("billing_day", 32),
        ("time_zone", "Mars/Base"),
    ],
)
def test_what_cannot_be_enforced_is_refused(field: str, value: Any) -> None:
    message = policy_to(policy(1))
    message.ClearField(field)  # type: ignore[arg-type]  # any of them
    if value is not None:
        message.MergeFrom(policies_pb2.TenantPolicy(**{field: value}))

    with pytest.raises(MalformedError):
        policy_from(message)


def test_one_that_cannot_be_read_keeps_no_other_back() -> None:
    good, bad = policy_to(policy(1)), policy_to(policy(2))
    bad.uid = "none"
    revoked = revocation_to(token(7, tenant=2), NOW + timedelta(hours=1))
    unreadable = policies_pb2.TokenRevocation(token_id="?", tenant_uid=str(UUID(int=2)))
    of_nobody = policies_pb2.TokenRevocation(token_id=str(UUID(int=8)))
    change = Parts().add(response(tenants=[bad, good], revocations=[unreadable, of_nobody, revoked]))

    assert change
    assert change.tenants == (policy(1),)
    assert change.revocations == {token(7, tenant=2): NOW + timedelta(hours=1)}


def test_parts_are_one_change_with_its_last_part() -> None:
    parts = Parts()
    early = parts.add(response(snapshot=True, continues=True, tenants=[policy_to(policy(1))]))
    change = parts.add(response(tenants=[policy_to(policy(2))]))
    following = parts.add(response(revision=2))

    assert early is None
    assert change
    assert (change.snapshot, change.tenants) == (True, (policy(1), policy(2)))
    assert following
    assert (following.snapshot, following.tenants, following.revision) == (False, (), 2)


def test_parts_of_two_feeds_are_no_change() -> None:
    parts = Parts()
    parts.add(response(continues=True))

    with pytest.raises(MalformedError):
        parts.add(response(feed="feed-2"))


def test_a_change_says_of_when_it_is() -> None:
    message = response()
    message.ClearField("as_of_time")

    with pytest.raises(MalformedError):
        Parts().add(message)


def test_a_server_that_has_nothing_yet_says_nothing() -> None:
    assert Parts().add(policies_pb2.FollowPoliciesResponse()) is None


def test_times_come_through_to_the_microsecond() -> None:
    until = datetime(2026, 1, 1, 1, 2, 3, 456789, tzinfo=UTC)

    assert revocation_to(token(1), until).expire_time.ToDatetime(tzinfo=UTC) == until
