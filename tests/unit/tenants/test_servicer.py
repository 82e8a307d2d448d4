"""Tenants as they are shown, and requests as they are understood."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from google.protobuf.duration_pb2 import Duration

from bulkhead.v1 import tenants_pb2
from control_plane.errors import InvalidArgumentError
from control_plane.ids import TenantId
from control_plane.tenants.model import Settings, State, Tenant
from control_plane.tenants.rates import RateLimit
from control_plane.tenants.servicer import _creation, to_proto

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def settings_of(tenant: tenants_pb2.Tenant) -> Settings:
    request = tenants_pb2.CreateTenantRequest(tenant_id="org_1", tenant=tenant)
    return _creation(request, actor="somebody", call_request_id="").settings


def test_what_the_edge_enforces_is_shown_as_it_is_asked_for() -> None:
    settings = Settings(
        display_name="One",
        requests_per_minute=7,
        domains=("a.example", "b.example"),
        max_policy_age=timedelta(hours=1),
        rate_limits=(RateLimit(window="SECOND", units=2**53), RateLimit(window="MONTH", units=1)),
        billing_day=31,
        time_zone="Asia/Kathmandu",
    )
    tenant = Tenant(
        id=TenantId("org_1"),
        uid=UUID(int=1),
        state=State.ACTIVE,
        settings=settings,
        schema="tenant_org_1",
        dns_label="org-1",
        revision=1,
        create_time=NOW,
        update_time=NOW,
        edge_revision=42,
    )
    shown = to_proto(tenant, hsm_backed=False)

    assert (shown.edge_revision, shown.max_policy_age) == (42, Duration(seconds=3600))
    shown.name = ""
    assert settings_of(shown) == settings


@pytest.mark.parametrize("tenant", [tenants_pb2.Tenant(), tenants_pb2.Tenant(max_policy_age=Duration())])
def test_what_is_not_said_is_taken_from_the_tier_and_the_default(tenant: tenants_pb2.Tenant) -> None:
    settings = settings_of(tenant)

    assert (settings.requests_per_minute, settings.domains) == (0, ())
    assert settings.max_policy_age == timedelta(minutes=15)
    assert (settings.rate_limits, settings.billing_day, settings.time_zone) == ((), 1, "UTC")


@pytest.mark.parametrize("seconds", [-1, -(2**63), 2**63 - 1, 86_401])
def test_a_span_that_python_cannot_hold_is_as_wrong_as_any_other(seconds: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"tenant\.max_policy_age: must be 1 second to 24 hours"):
        settings_of(tenants_pb2.Tenant(max_policy_age=Duration(seconds=seconds)))
